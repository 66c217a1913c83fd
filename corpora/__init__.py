"""Labelled speech as lhotse cuts: one reader for each layout found on disk, and a demo."""

from .item import Item, Listing, Span
from .reader import (
    READERS,
    TABLE,
    Reader,
    check_corpus,
    load_corpus,
    read_files,
    read_folder,
    read_object,
)

__all__ = [
    "READERS",
    "TABLE",
    "Item",
    "Listing",
    "Reader",
    "Span",
    "check_corpus",
    "load_corpus",
    "read_files",
    "read_folder",
    "read_object",
]
