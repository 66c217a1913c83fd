"""Labelled speech as lhotse cuts: one reader for each layout found on disk, and a demo."""

from .reader import READERS, Reader, check_corpus, load_corpus, read_files, read_folder

__all__ = ["READERS", "Reader", "check_corpus", "load_corpus", "read_files", "read_folder"]
