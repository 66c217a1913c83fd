"""Corpora of other people: a function that lists utterances, or returns a whole corpus."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from auscult.dataset import Corpus, supervision_of
from auscult.errors import UserError
from auscult.foreign import Found, blamed, build, takes

from .assembly import assemble
from .cuts import list_cuts
from .item import Item, Listing
from .tsv import list_frame


def read(found: Found[Any], spec: str, *, split: str | None, skip_bad: bool) -> Corpus:
    """Read somebody's corpus; what is listed is checked like every other.

    Args:
        found: A function; what follows its name is its first argument, a path. It may take
            ``split``, the split column that was asked for, and ``skip_bad``. It returns what
            :func:`list_object` takes, or a `Corpus`.
        spec: The address, under which records name it.
        split: Split column.
        skip_bad: Leave bad items out.

    Raises:
        UserError: It raises, or returns something else.
    """
    skips = {"skip_bad": skip_bad} if takes(found.value, "skip_bad") else {}
    place = [Path(found.rest).expanduser()] if found.rest else []
    splits = split if takes(found.value, "split") else None
    made = build(found, *place, split=splits, **skips)
    if split != splits and not hasattr(made, "itertuples"):
        raise UserError(f"{found.name} takes no split, and {split!r} was given.")
    if isinstance(made, Corpus):
        with blamed(found.name, "is no whole corpus"):
            _check(made, found.name)
        return replace(made, spec=spec, origin=found.origin)
    with blamed(found.name, "cannot list its utterances"):
        listing = list_object(made, split)
    if listing is None:
        raise UserError(
            f"{found.name} returns a {type(made).__name__}; expected at least one "
            "auscult.corpora.Item, a Listing of them, a pandas data frame, lhotse cuts by split, "
            "or a Corpus."
        )
    with blamed(found.name, "lists items that cannot be read"):
        return replace(assemble(spec, listing, skip_bad=skip_bad), origin=found.origin)


def list_object(content: Any, split: str | None) -> Listing | None:
    """Return what an object lists; None where it lists nothing.

    Args:
        content: A listing, its items alone, a data frame, or lhotse cuts by split.
        split: Split column of a frame that has several.
    """
    if isinstance(content, Listing):
        return content
    if isinstance(content, Mapping):
        return list_cuts(content)
    if hasattr(content, "itertuples"):
        return list_frame(content, split, Path())
    items = list(content) if isinstance(content, Iterable) else []
    return Listing(items) if items and all(isinstance(x, Item) for x in items) else None


def _check(corpus: Corpus, name: str) -> None:
    """Raise unless each split has utterances, each with one supervision, and a fingerprint."""
    for split, cuts in corpus.splits.items():
        if not corpus.sha256.get(split):
            raise UserError(f"{name}: Corpus.sha256 has no fingerprint of the split {split!r}.")
        for cut in cuts:
            supervision_of(cut)
    if not corpus.splits:
        raise UserError(f"{name}: Corpus.splits is empty; expected train, dev and test.")
