"""Rows for people: what verbs print and notebooks show."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Table(NamedTuple):
    """Rows for people."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


def to_html(parts: Iterable[Table | str]) -> str:
    """Return tables and sentences as a notebook shows them."""
    import html

    import pandas as pd

    found = []
    for part in parts:
        title = part.title if isinstance(part, Table) else part
        found.append(f"<p>{html.escape(title)}</p>")
        if isinstance(part, Table):
            frame = pd.DataFrame(list(part.rows), columns=list(part.columns))
            found.append(frame.to_html(index=False, border=0))
    return "\n".join(found)
