"""Labelled speech as lhotse cuts: one reader for each layout found on disk."""
