"""What is to be done, before anything is: items, which are there already, what they take."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from .bench import Bench
from .desk import Desk
from .estimate import Estimate
from .item import Failure, Item
from .ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Plan:
    """Items in an order in which they can be carried out."""

    items: tuple[Item, ...]
    desk: Desk  # what was opened to make the plan
    failures: tuple[Failure, ...] = ()  # what cannot even be planned

    @property
    def bench(self) -> Bench:
        """Return where and how the work is done."""
        return self.desk.bench

    def done(self) -> set[str]:
        """Return the keys of the items whose outcome is there already."""
        ledger = Ledger(self.bench.out)
        return {item.key for item in self.items if ledger.has(item)}

    def to_do(self, there: Collection[str]) -> list[Item]:
        """Return the items to carry out: without those that serve only what is there, by key."""
        needed = {key for item in self.items if item.key not in there for key in item.needs}
        serving = {key for item in self.items for key in item.needs}
        return [
            item
            for item in self.items
            if item.key in needed or item.key not in there and item.key not in serving
        ]

    def cost(self) -> dict[Item, Estimate]:
        """Return what the items to do take, roughly: encoders are timed on noise for it."""
        return self._cost(self.to_do(self.done()))

    def _cost(self, items: Iterable[Item]) -> dict[Item, Estimate]:
        found = {item: Estimate.of(item, self.desk) for item in items}
        return {item: estimate for item, estimate in found.items() if estimate is not None}

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return each item as JSON values: what it is, whether it is there, what it takes."""
        wanted = self.to_do(self.done())
        costs = self._cost(wanted)
        return [
            {
                "upstream": item.upstream["address"],
                "what": item.title,
                "state": "to do" if item in wanted else "there",
                "command": item.command,
                "encoding_seconds_guessed": costs[item].seconds if item in costs else None,
                "disk_bytes": costs[item].disk if item in costs else None,
                "memory_bytes": costs[item].memory if item in costs else None,
            }
            for item in self.items
        ]

    def __repr__(self) -> str:
        """Count what there is to do; ``to_dicts()`` names each item and what it takes."""
        to_do = len(self.to_do(self.done()))
        failed = f", {len(self.failures)} cannot be planned" * bool(self.failures)
        return f"<{type(self).__name__}: {len(self.items)} items, {to_do} to do{failed}>"

    def _repr_html_(self) -> str:
        """Show the plan in a notebook."""
        import pandas as pd

        table: str = pd.DataFrame(self.to_dicts()).to_html(index=False, border=0)
        return table
