"""The one exception that means: the user can mend this; and how its messages quote."""

import difflib
import reprlib
from argparse import Namespace
from collections.abc import Iterable, Mapping
from typing import Any


class UserError(Exception):
    """A mistake in what was asked for; its message is one sentence that says what to do.

    The command line prints the message without a traceback and exits with status 2.
    """


class _Shown(reprlib.Repr):
    """Writes a few items a few levels deep: lists that hold each other can stand for billions."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 16
        self.maxstring = self.maxlong = self.maxother = 1 << 30  # :func:`quoted` cuts them

    def repr_instance(self, x: Any, level: int) -> str:
        held = isinstance(x, Mapping | Namespace)
        return f"{type(x).__name__}(...)" if held else repr(x)


_shown = _Shown()


def quoted(value: object, letters: int = 80) -> str:
    """Return how a value of a file reads in a message: as Python writes it, cut where long."""
    try:
        text = _shown.repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits; endless nesting
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= letters else f"{text[: letters - 3]}..."


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Return the error for a ``name`` that is not among ``known``, with the nearest ones.

    Nearest are those that begin with it, then those that differ in a few letters.

    Example: ``Unknown upstream 'fbnk'. Did you mean fbank? Known: fbank, hf, log_mel.``
    """
    name = name[:200]  # of a file's, perhaps
    names = sorted(set(known))
    begun = [candidate for candidate in names if name and candidate.startswith(name)]
    near = list(dict.fromkeys([*begun, *difflib.get_close_matches(name, names, n=3)]))[:3]
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return UserError(f"Unknown {kind} {name!r}.{hint} Known: {', '.join(names) or 'none'}.")
