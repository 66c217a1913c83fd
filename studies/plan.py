"""What is to be done, before anything is: items, and which are there already."""

from dataclasses import dataclass

from .bench import Bench
from .desk import Desk
from .item import Failure, Item
from .ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
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
        return {item.key for item in self.items if item.kept and ledger.has(item)}

    def rows(self) -> list[list[object]]:
        """Return one row of :data:`COLUMNS` for each item."""
        done = self.done()
        return [
            [item.upstream["address"], item.title, "there" if item.key in done else "to do"]
            for item in self.items
        ]


COLUMNS = ("upstream", "what", "state")
