"""What is to be done, before anything is: items, which are there already, what they will cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from .bench import Bench
from .item import Item
from .ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Items in an order in which they can be carried out."""

    items: tuple[Item, ...]
    bench: Bench

    def done(self) -> set[str]:
        """Return the keys of the items whose outcome is there already."""
        ledger = Ledger(self.bench.out)
        return {item.key for item in self.items if item.kept and ledger.has(item)}

    def rows(self) -> list[list[object]]:
        """Return one row of :data:`COLUMNS` for each item."""
        done = self.done()
        return [
            [item.upstream["address"], item.title, "there" if item.key in done else "to do"]
            for item in self.items
        ]

    def to_do(self) -> Sequence[Item]:
        """Return the items whose outcome is not there, and those that these need."""
        done = self.done()
        open_items = [item for item in self.items if item.kept and item.key not in done]
        needed = {key for item in open_items for key in item.needs}
        return [i for i in self.items if i in open_items or i.key in needed]


COLUMNS = ("upstream", "what", "state")
