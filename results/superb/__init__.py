"""What SUPERB is: its tasks and scores, results beside published ones, submissions."""
