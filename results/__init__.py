"""The only place where numbers live: store, tables, figures, report."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from .store import Store

__all__ = ["open_store"]


def open_store(where: "str | Path") -> "Store":
    """Return the store at ``where``; nothing is created before the first ``add``.

    Args:
        where: A folder, which keeps its store in ``results.sqlite``; a ``.sqlite`` or ``.db``
            file; or any SQLAlchemy URL.

    Raises:
        UserError: ``where`` is a file of another kind, or the URL cannot be used.
    """
    from .store import open_store

    return open_store(where)
