"""One thing to measure, as values: what a plan lists, a worker gets and a ledger remembers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from auscult.errors import UserError
from auscult.foreign import blame
from auscult.memory import lacks_memory
from auscult.progress import logger
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
    kept: bool = True  # its numbers in the ledger; features, heads and files remember themselves

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
        """Name the item for tables: its task, and the split column if one was named."""
        return ", ".join(filter(None, (self.what.get("task", self.kind), self.what.get("split"))))


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
    """Something that was not done, or not to its end; the others went on."""

    name: str  # what was to be done
    upstream: str  # "" for all
    reason: str
    command: str = ""  # what does it alone
    error: Exception | None = field(default=None, repr=False, compare=False)  # that nobody foresaw

    @classmethod
    def of(cls, error: Exception, name: str, upstream: str = "", command: str = "") -> "Failure":
        """Return what is told at the end of an error; one that nobody foresaw is kept."""
        foreseen = isinstance(error, UserError | OSError) or bool(blame(error))
        return cls(name, upstream, _reason(error), command, None if foreseen else error)

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.upstream, f"{self.name}: {self.reason}")))

    def to_dict(self) -> dict[str, str]:
        """Return it as JSON values."""
        about = {"name": self.name, "upstream": self.upstream}
        return {**about, "reason": self.reason, "command": self.command}

    def say(self) -> None:
        """Say it now, and where it was if nobody foresaw it."""
        logger.error(f"{self}{f' ({self.command})' * bool(self.command)}", exc_info=self.error)


def _reason(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        what = error.strerror or type(error).__name__
        return f"{error.filename} cannot be read or written: {what}."
    if lacks_memory(error):
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return f"memory does not suffice; try a smaller encoder or shorter audio: {said}"
    return blame(error) or f"{type(error).__name__}: {error}"
