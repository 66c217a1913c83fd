"""Labelled speech as lhotse cuts: one reader for each layout found on disk, and a demo."""

from .reader import READERS, Reader, load_corpus, read_files

__all__ = ["READERS", "Reader", "load_corpus", "read_files"]
