"""Small supervised readers of every frozen layer, and their statistics."""
