"""Where and how work is done; none of it changes a number beyond its last bits."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from auscult.cache import cache_folder
from auscult.config import parse_bytes
from auscult.device import choose_device
from auscult.errors import UserError, unknown
from auscult.precision import Precision, check_precision
from auscult.process import ALONE, Processes
from auscult.progress import logger
from auscult.whole_file import expect_folder, make_folder

from .call import Call, unless_default

if TYPE_CHECKING:
    from auscult.dataset import Corpus
    from auscult.record import Artifact, Provenance, Record
    from auscult.upstream import Upstream

    from .executor import Executor


class Where(TypedDict, total=False):
    """Where and how work is done: keywords that studies take beside their own.

    Attributes:
        out: Folder; where None, work is kept in the cache and numbers only in the findings, unless
            a ``store`` is named.
        store: SQLAlchemy URL or file of the store instead of OUT's.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        executor: Who carries items out, ``serial`` or ``local:N``, whose share of the threads an
            item has.
        threads: Of each item instead of that; the last bits of numbers depend on it.
        precision: What encoders compute in: ``float32``, ``bfloat16``; on GPUs ``float16``.
        budget: Features up to this size are kept on disk, beyond it encoded anew; a number of bytes
            or such as ``8GB``.
        skip_bad: Leave bad items out, counted, instead of stopping.
        allow_shared_speakers: Go on although splits share speakers.
    """

    out: str | Path | None
    store: str | None
    device: str
    executor: "str | Executor"
    threads: int | None
    precision: str
    budget: str | int
    skip_bad: bool
    allow_shared_speakers: bool


def expect_keywords(
    verb: str, plan: Callable[..., object], given: Iterable[str], *, where: bool = True
) -> None:
    """Refuse keywords that a verb hands on and its plan does not take.

    Args:
        verb: Name of the function that was called.
        plan: What takes them.
        given: Their names.
        where: Whether it takes those of :class:`Where`, too.

    Raises:
        UserError: One of them is not known.
    """
    kinds = signature(plan).parameters.items()
    known = [name for name, one in kinds if one.kind is Parameter.KEYWORD_ONLY]
    known += Where.__annotations__ if where else ()
    for name in given:
        if name not in known:
            raise unknown(f"keyword of {verb}()", name, known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What all items of one study share."""

    out: Path  # for kept work, figures and the store
    store: str | None = None  # SQLAlchemy URL or file of the store; OUT's where None
    stored: bool = True  # whether numbers go to a store at all
    device: str = "cpu"
    threads: int = 0  # of torch for each item; as many as there are where 0
    precision: Precision = "float32"
    budget: int = 8_000_000_000  # bytes of features that are kept
    skip_bad: bool = False
    allow_shared_speakers: bool = False
    processes: Processes = ALONE  # that torchrun started
    live: Mapping[str, Any] = field(default_factory=dict)  # objects by the name they go under

    @classmethod
    def of(
        cls,
        *,
        together: bool = False,
        out: str | Path | None = None,
        store: str | None = None,
        device: str = "auto",
        executor: "str | Executor" = "serial",
        threads: int | None = None,
        precision: str = "float32",
        budget: str | int = "8GB",
        skip_bad: bool = False,
        allow_shared_speakers: bool = False,
    ) -> "Bench":
        """Return a bench from what a user writes; see :class:`Where`.

        Args:
            together: Whether processes that torchrun started do this work together.
            out: Where None, work is kept in the cache.
            store: As in :class:`Where`, as all that follow.
            device: One there is.
            executor: Whose share of the threads an item has.
            threads: Instead of that.
            precision: One that the device has.
            budget: A size.
            skip_bad: Leave bad items out.
            allow_shared_speakers: Go on.

        Raises:
            UserError: One of them cannot be, or torchrun started several processes for work that
                one does.
        """
        from .executor import executor_of

        processes = Processes.of_environment()
        if processes.size > 1 and not together:
            raise UserError(
                "This is done by one process, so that a failure stops nothing else. torchrun is "
                "for `auscult run`, pretrain and finetune; the executor local:N for several "
                "processes on one machine."
            )
        where = processes.device(choose_device(device))
        bench = cls(
            out=cache_folder() / "work" if out is None else Path(out),
            store=store,
            stored=out is not None or store is not None,
            device=where,
            threads=threads or executor_of(executor).threads,
            processes=processes,
            precision=check_precision(precision, where),
            budget=budget if isinstance(budget, int) else parse_bytes(budget),
            skip_bad=skip_bad,
            allow_shared_speakers=allow_shared_speakers,
        )
        expect_folder(bench.out)
        return bench

    @property
    def how(self) -> dict[str, str]:
        """What last bits may depend on: precision, type of device, threads where that is a CPU."""
        kind = self.device.partition(":")[0]
        threads = {"threads": str(self.threads)} if kind == "cpu" else {}
        return {"precision": self.precision, "device": kind, **threads}

    @property
    def given(self) -> Mapping[str, Any]:
        """The options without which the same call may not run, or not give the same bits."""
        import torch

        threads = torch.get_num_threads()  # those of serial
        return unless_default(
            threads=(self.how.get("threads", str(threads)), str(threads)),
            precision=(self.precision, "float32"),
            allow_shared_speakers=(self.allow_shared_speakers, False),
            skip_bad=(self.skip_bad, False),
        )

    def call(self, verb: str, settings: Sequence[str] = (), **given: Any) -> Call:
        """Return what a person types to have a verb done on this bench."""
        live = frozenset(filter(_has_no_address, self.live))
        corpus = self.live.get(given.get("corpus", ""))
        if corpus is not None and corpus.spec not in live:  # what it was read with
            column = None if corpus.split_column == "split" else corpus.split_column
            read = {"split": column, "limit": corpus.limit, "skip_bad": bool(corpus.skipped)}
            given |= {name: value for name, value in read.items() if value}
        return Call(verb=verb, given={**given, **self.given}, settings=tuple(settings), live=live)

    def prepare(self) -> None:
        """Make the folder and open the store before any work, so that neither fails after it.

        Raises:
            UserError: It is a file or cannot be written, or the store cannot be opened.
        """
        expect_folder(self.out)
        make_folder(self.out)
        self.save((), ())

    def save(self, records: "Sequence[Record]", artifacts: "Sequence[Artifact]") -> None:
        """Write records and artifacts to the store, where there is one."""
        from auscult.results import open_store

        if self.stored:
            open_store(self.store or self.out).add(records, artifacts)

    def summarise(self) -> None:
        """Write results.json beside the store, where there is one that is a file."""
        from auscult.results import open_store
        from auscult.results.summary import write_summary

        if self.stored:
            try:
                write_summary(open_store(self.store or self.out))
            except UserError as error:  # the numbers are safe
                logger.warning(f"The summary beside the store was not written: {error}")

    def provenance(self, command: str) -> "Provenance":
        """Return what a record says of the run that measured it."""
        from auscult.record import provenance

        size, device = self.processes.size, self.device
        if size > 1:
            command = f"torchrun --nproc_per_node {size} -m {command}"
            device = f"{device.partition(':')[0]} x {size}"
        return provenance(command, device)

    def encoder(self, address: str) -> "Upstream":
        """Return the encoder that goes under ``address``, on this bench's device, to be measured.

        An object is put into evaluation mode: with dropout no two encodings are the same.
        """
        import auscult

        live = self.live.get(address)
        encoder: Upstream = auscult.load(address) if live is None else live
        return encoder.to(self.device).eval()

    def corpus(self, address: str, split: str | None = None) -> "Corpus":
        """Return the corpus that goes under ``address``."""
        import auscult

        live: Corpus | None = self.live.get(address)
        if live is not None and split not in (None, live.split_column):
            raise UserError(
                f"{address} was read with the split column {live.split_column!r}, and {split!r} is "
                "asked for; read it with that one: auscult.corpus(..., split=)."
            )
        if live is not None:
            return live
        return auscult.corpus(address, split=split, skip_bad=self.skip_bad)


def _has_no_address(name: str) -> bool:
    """Say whether an object goes under a name that leads to it in no other process."""
    from auscult.corpora import TABLE as READERS
    from auscult.upstream import CHANGED
    from auscult.upstreams import TABLE as FAMILIES

    if name.endswith(CHANGED):
        return True
    word = re.split("[:?,]", name.removeprefix("random(").rstrip(")"))[0]
    return not (FAMILIES.knows(word) or READERS.knows(word))
