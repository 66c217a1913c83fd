"""The only place where numbers live: store, tables, figures, report."""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

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


class _Room(ModuleType):
    """This room, which is a function too: what a store holds, by the name that people expect."""

    def __call__(self, *stores: "str | Path", **wanted: Any) -> Any:
        """Return what ``auscult.findings`` returns."""
        import auscult

        return auscult.findings(*stores, **wanted)


sys.modules[__name__].__class__ = _Room
