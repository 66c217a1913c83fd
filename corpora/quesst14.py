"""``quesst14:DIR``: QUESST 2014, spoken queries and the documents that they are searched in.

Splits ``dev`` and ``test`` hold the queries (the folders dev_queries and eval_queries), and
``documents`` what is searched for either. The label ``keyword`` of a query is its own name, that of
a document the names of all queries that occur in it, by the ground truth in ``scoring``. As in
SUPERB only what ``scoring/language_key_*.lst`` call ``nnenglish`` is used; ``--split all_split``
takes all six languages.

The official scorer knows the queries and documents of all languages, and counts those that a system
says nothing about as missed. The labels ``collection_queries`` and ``collection_documents`` of a
query say how many there are in all, so that a score can be the official one.
"""

from collections import defaultdict
from pathlib import Path

from auscult.text import read_lines
from auscult.tree import find

from .item import Item, Listing

ENGLISH = "nnenglish"
ENGLISH_COLUMN, ALL_COLUMN = "split", "all_split"
KEYS = {"dev": "dev", "test": "eval", "documents": "utterances"}  # split -> name of its list


def read(folder: Path, split: str | None) -> Listing:
    """List queries and documents.

    Raises:
        UserError: A list or the ground truth is missing.
    """
    root = folder if (folder / "scoring").is_dir() else folder / "quesst14Database"
    listing = Listing([], split_column=split or ENGLISH_COLUMN, expected=tuple(KEYS))
    listed = {name: _languages(root, key, listing) for name, key in KEYS.items()}
    occurs = {name: _ground_truth(root, KEYS[name], listing) for name in ("dev", "test")}
    contained: dict[str, set[str]] = defaultdict(set)
    for found in occurs.values():
        for query, documents in found.items():
            for document in documents:
                contained[document].add(query)
    unused = 0
    for name, paths in listed.items():
        for path, language in paths.items():
            if language != ENGLISH and split != ALL_COLUMN:
                unused += 1
                continue
            labels = {"keyword": " ".join(sorted(contained[path.stem]))}
            if name != "documents":
                labels = {
                    "keyword": path.stem,
                    "collection_queries": str(len(occurs[name])),
                    "collection_documents": str(len(listed["documents"])),
                }
            listing.items.append(
                Item(id=path.stem, path=path, split=name, language=language, labels=labels)
            )
    if unused:
        listing.notes.append(
            f"{unused} queries and documents are not {ENGLISH} and not used, but count as missed "
            f"in the official score (--split {ALL_COLUMN} uses them)."
        )
    return listing


def _languages(root: Path, key: str, listing: Listing) -> dict[Path, str]:
    """Return the language of each file: lines are ``quesst14Database/FOLDER/NAME.wav LANGUAGE``."""
    path = root / "scoring" / f"language_key_{key}.lst"
    found = {}
    for number, line in enumerate(map(str.strip, read_lines(path)), start=1):
        place, _, language = line.partition(" ")
        if not line:
            continue
        if not place.count("/") or not language.strip():
            listing.problems.append(f"{path} line {number} reads {line!r}, not a path and language")
            continue
        found[root / place.partition("/")[2]] = language.strip()
    return found


def _ground_truth(root: Path, key: str, listing: Listing) -> dict[str, set[str]]:
    """Return the documents that each query occurs in.

    Lines are ``LEXEME DOCUMENT CHANNEL BEGIN DURATION QUERY ...``, those of documents without any
    query say ``NO_KEYWORD``.
    """
    folder = root / "scoring" / f"groundtruth_quesst14_{key}"
    path = next(iter(find(folder, "*.rttm")), folder / f"quesst14_{key}.rttm")
    found: dict[str, set[str]] = defaultdict(set)
    for number, line in enumerate(read_lines(path), start=1):
        fields = line.split()
        if fields[:1] != ["LEXEME"]:
            continue
        if len(fields) < 6:
            listing.problems.append(f"{path} line {number} reads {line!r}, which names no query")
        elif fields[5] != "NO_KEYWORD":
            found[fields[5]].add(fields[1])
    return found
