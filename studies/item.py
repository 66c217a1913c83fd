"""One thing to measure, as values: what a plan lists, a worker gets and a ledger remembers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from auscult.record import Artifact, Record, fingerprint

from .call import Call

if TYPE_CHECKING:
    from auscult.score import Tally


@dataclass(frozen=True, kw_only=True, eq=False)
class Item:
    """One thing to measure: all that its outcome depends on, as JSON values, nothing live.

    Two items are equal where their keys are.
    """

    kind: str  # the row of ``studies.work`` that carries it out
    upstream: Mapping[str, Any]  # address, sha256
    corpus: Mapping[str, Any]  # address, split column, limit, sha256 by split
    what: Mapping[str, Any]  # task and version, layers, probes, seeds, learning rates, ...
    how: Mapping[str, str]  # what last bits may depend on: precision, device type; and the code
    call: Call | None = None  # what gives this number alone; None for what is no number
    needs: tuple[str, ...] = ()  # keys of items that come first
    kept: bool = True  # whether there is an outcome to remember; features remember themselves

    @cached_property
    def key(self) -> str:
        """Fingerprint of what the outcome depends on."""
        parts = (self.kind, self.upstream, self.corpus, self.what, self.how)
        return fingerprint([self.kind, *(dict(part) for part in parts[1:])])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Item) and other.key == self.key

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def command(self) -> str:
        """What a person types to get this number alone: the provenance of its records."""
        return "" if self.call is None else str(self.call)

    def command_with(self, other: str) -> str:
        """Return what gives this number and the same of another encoder."""
        both = [other, self.upstream["address"]]
        return "" if self.call is None else str(self.call.also(upstream=both))

    @property
    def title(self) -> str:
        """Name the item for a table of the plan."""
        task = self.what.get("task", "")
        return f"{self.kind} {task}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an item came to."""

    key: str
    records: tuple[Record, ...]
    artifacts: tuple[Artifact, ...] = ()
    tallies: "Mapping[TallyKey, Tally]" = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)  # what tables say beside, JSON values
    files: tuple[str, ...] = ()  # below the bench's folder; without them it is no outcome


@dataclass(frozen=True, slots=True, order=True)
class TallyKey:
    """Which reader of which layer a tally is of, and on what split."""

    task: str
    probe: str
    layer: int
    seed: int
    split: str


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that did not come to its end; the others went on."""

    item: Item
    reason: str

    def __str__(self) -> str:
        return f"{self.item.upstream['address']}, {self.item.title}: {self.reason}"
