"""Corpora of other people: a function that lists utterances, or returns a whole corpus."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from auscult.dataset import Corpus, supervision_of
from auscult.errors import UserError
from auscult.foreign import Found, blamed, build, takes

from .assembly import assemble
from .item import Item, Listing

_OTHERS = (str, bytes, Mapping)  # what can be walked, and is no list of utterances


def read(found: Found[Any], spec: str, *, split: str | None, skip_bad: bool) -> Corpus:
    """Read somebody's corpus; what is listed is checked like every other.

    Args:
        found: A function; what follows its name is its first argument, a path. It may take
            ``split``, the split column that was asked for, and ``skip_bad``. It yields or returns
            items, or returns a `Listing` or a `Corpus`.
        spec: The address, under which records name it.
        split: Split column.
        skip_bad: Leave bad items out.

    Raises:
        UserError: It raises, or returns something else.
    """
    skips = {"skip_bad": skip_bad} if takes(found.value, "skip_bad") else {}
    place = [Path(found.rest).expanduser()] if found.rest else []
    made = build(found, *place, split=split, **skips)
    with blamed(found.name, "cannot list its utterances"):
        items = list(made) if isinstance(made, Iterable) and not isinstance(made, _OTHERS) else []
    if items and all(isinstance(item, Item) for item in items):
        made = Listing(items)
    if isinstance(made, Listing):
        with blamed(found.name, "lists items that cannot be read"):
            return replace(assemble(spec, made, skip_bad=skip_bad), origin=found.origin)
    if not isinstance(made, Corpus):
        raise UserError(
            f"{found.name} returns a {type(made).__name__}; expected at least "
            "one auscult.corpora.Item, a Listing of them, or a Corpus."
        )
    with blamed(found.name, "is no whole corpus"):
        _check(made, found.name)
    return replace(made, spec=spec, origin=found.origin)


def _check(corpus: Corpus, name: str) -> None:
    """Raise unless each split has utterances, each with one supervision, and a fingerprint."""
    for split, cuts in corpus.splits.items():
        if not corpus.sha256.get(split):
            raise UserError(f"{name}: Corpus.sha256 has no fingerprint of the split {split!r}.")
        for cut in cuts:
            supervision_of(cut)
    if not corpus.splits:
        raise UserError(f"{name}: Corpus.splits is empty; expected train, dev and test.")
