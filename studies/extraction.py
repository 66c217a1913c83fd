"""The extraction study: every layer of every utterance as files, for people who want features."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lhotse.utils import fastcopy

from auscult.corpora import read_files
from auscult.errors import UserError, unknown
from auscult.extraction import encode, long_enough, plan_batches
from auscult.feature import frame_bytes
from auscult.origin import made_by
from auscult.precision import precision_of
from auscult.progress import logger, track
from auscult.whole_file import expect_folder, make_folder

from .bench import Bench, expect_keywords
from .call import Call, unless_default
from .desk import Desk
from .execution import execute
from .executor import Executor
from .extracted import DTYPES, State, Target, cuts_of, paths_of
from .finding import Findings
from .item import Item, Outcome
from .live import Speech, named
from .plan import Plan

if TYPE_CHECKING:
    from auscult.dataset import Corpus
    from auscult.upstream import Upstream

KIND = "extract"
PARTS = 128  # of a large corpus; at least a batch each


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ExtractionPlan(Plan):
    """Parts of a corpus to encode; their files remember what was done."""

    upstream: str
    files: tuple[Path, ...]  # of all utterances, in order
    skipped: tuple[str, ...]
    precision: str
    dtype: str
    there: frozenset[str]  # keys of the items whose files are all there

    def done(self) -> set[str]:
        """Return the keys of the items whose files are there, whole and made from the same."""
        return set(self.there)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Extracted(Findings):
    """The files of an extraction, one for each utterance."""

    upstream: str
    skipped: tuple[str, ...]  # a sentence for each utterance left out
    precision: str
    dtype: str

    def to_dict(self) -> dict[str, Any]:
        """Return what there is as JSON values."""
        return {
            "files": list(map(str, self.files)),
            "upstream": self.upstream,
            "skipped": list(self.skipped),
            "precision": self.precision,
            "dtype": self.dtype,
        }

    def _repr_html_(self) -> str:
        """Say in a notebook how many files there are."""
        from html import escape

        lines = [f"{len(self.files)} files of {self.upstream} in {self.dtype}", *self.skipped]
        lines += map(str, self.failures)
        return "\n".join(f"<p>{escape(line)}</p>" for line in lines)


def extract(
    upstream: "str | Upstream",
    corpus: Speech | Iterable[str | Path],
    *,
    out: str | Path,
    executor: str | Executor = "serial",
    **options: Any,
) -> Extracted:
    """Write one safetensors file for each utterance: layer_00 ... layer_NN, (frame, dim).

    Files that are there already are kept; those that were damaged since, or that other code made,
    are made anew.

    Args:
        upstream: Address such as ``hf:models/wavlm-base``, or an encoder.
        corpus: Address such as ``tsv:my/speech``, a corpus, or the paths of audio files.
        out: Folder for the files.
        executor: ``serial`` or ``local:N``, N processes on this machine.
        options: As :func:`plan_extract` takes them.

    Raises:
        UserError: Nothing could be extracted as asked; the sentence says why.
    """
    expect_keywords("extract", plan_extract, options, where=False)
    make_folder(Path(out))  # before anything is encoded
    plan = plan_extract(upstream, corpus, out=out, executor=executor, **options)
    todo = replace(plan, items=tuple(i for i in plan.items if i.key not in plan.there))
    outcomes, failures = execute(todo, executor, strict=not plan.there)
    lacking = {file for item in todo.items if item not in outcomes for file in item.what["files"]}
    return Extracted(
        outcomes=tuple(outcomes.values()),
        files=tuple(path for path in plan.files if str(path) not in lacking),
        failures=tuple(failures),
        plan=plan,
        upstream=plan.upstream,
        skipped=plan.skipped,
        precision=plan.precision,
        dtype=plan.dtype,
    )


def plan_extract(
    upstream: "str | Upstream",
    corpus: Speech | Iterable[str | Path],
    *,
    out: str | Path,
    dtype: str = "float32",
    precision: str = "float32",
    split: str | None = None,
    limit: int | None = None,
    skip_bad: bool = False,
    device: str = "auto",
    executor: str | Executor = "serial",
    threads: int | None = None,
) -> ExtractionPlan:
    """Return what :func:`extract` would do, with what is there already.

    Args:
        upstream: See :func:`extract`.
        corpus: See :func:`extract`.
        out: See :func:`extract`.
        dtype: What is stored: ``float32`` or ``float16``.
        precision: What the encoder computes in: ``float32``, ``bfloat16``; on GPUs ``float16``.
        split: Split column, where a corpus has several.
        limit: Only this many utterances of each split, spread evenly over it.
        skip_bad: Leave bad items out, counted, instead of stopping.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        executor: See :func:`extract`; its share of the threads is what an item has.
        threads: Of each item instead of that.

    Raises:
        UserError: Something cannot be extracted as asked, or other files stand in the places.
    """
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    if isinstance(upstream, list | tuple):
        raise UserError(
            "extract() takes one encoder; call it once for each, each with its own out."
        )
    files = _files(corpus)
    bench = Bench.of(
        device=device, executor=executor, threads=threads, precision=precision, skip_bad=skip_bad
    )
    bench = replace(bench, out=Path(out), stored=False)
    expect_folder(bench.out)
    (name,), address, bench = named(bench, upstream, "" if files else corpus, split)
    desk = Desk(bench)
    desk.encoder(name)
    if files:
        data = read_files(files, skip_bad=skip_bad).limited(limit)
    else:
        data = desk.corpus(address, split, limit)
    options = unless_default(dtype=(dtype, "float32"), split=(split, None), limit=(limit, None))
    call = bench.call(KIND, upstream=name, corpus=address, out=str(out), **options)
    call = _with_files(call, files) if files else call
    # items say all of the corpus that they are of
    desk.bench = replace(bench, live={n: x for n, x in bench.live.items() if n == name})
    return _plan(desk, name, data, call, dtype)


def _plan(desk: Desk, name: str, data: "Corpus", call: Call, dtype: str) -> ExtractionPlan:
    """Return one item for each part of a corpus."""
    encoder, bench = desk.encoder(name), desk.bench
    cuts = [cut for part in data.splits.values() for cut in part]
    cuts, short = long_enough(encoder, cuts, skip_bad=bench.skip_bad)
    _say_size(encoder, cuts, dtype, bench.out)
    made = {"precision": precision_of(encoder, bench.precision), "dtype": dtype}
    maker = _maker(encoder)
    paths = paths_of([cut.id for cut in cuts], bench.out)
    targets = [Target.of(*pair, encoder, made, maker) for pair in zip(cuts, paths, strict=True)]
    batches = plan_batches([cut.duration for cut in cuts])
    lacking = {batch[0] for batch in _missing(targets, batches)}
    size = max(-(-len(batches) // PARTS), 1)
    items, there = [], set()
    for first in range(0, len(batches), size):
        part = batches[first : first + size]
        item = Item(
            kind=KIND,
            upstream={"address": name, "sha256": encoder.spec.sha256},
            corpus={"address": data.spec},
            what={**made, **_said(part, cuts, targets)},
            how={**bench.how, "code": maker},
            call=call,
            kept=False,
        )
        items.append(item)
        if not any(batch[0] in lacking for batch in part):
            there.add(item.key)
    return ExtractionPlan(
        items=tuple(items),
        desk=desk,
        upstream=encoder.spec.name,
        files=tuple(paths),
        skipped=(*data.skipped, *(f"{cut} is too short." for cut in short)),
        there=frozenset(there),
        precision=made["precision"],
        dtype=dtype,
    )


def _maker(encoder: "Upstream") -> str:
    """Return the fingerprint of the code that files are made by."""
    return made_by("auscult.feature", *encoder.modules())


def write(item: Item, desk: Desk) -> Outcome:
    """Write the files of a part, but for batches whose files are all there.

    Raises:
        UserError: Audio is another than when this was planned, or a state cannot be written.
    """
    encoder, what = desk.encoder_of(item), item.what
    desk.expect_code(item, _maker(encoder))
    cuts = cuts_of(what)
    made = {name: what[name] for name in ("precision", "dtype")}
    targets = [
        Target.of(cut, Path(file), encoder, made, item.how["code"])
        for cut, file in zip(cuts, what["files"], strict=True)
    ]
    for cut, target, sha256 in zip(cuts, targets, what["audio"], strict=True):
        if target.made_from["audio_sha256"] != sha256:
            raise UserError(
                f"The audio of {cut.id} is another than when this was planned; run the command "
                "again."
            )
    missing = _lacking([target.state() for target in targets], what["batches"])
    for row in encode(encoder, cuts, missing, precision=desk.bench.precision):
        targets[row.index].write(row)
    return Outcome(key=item.key, records=(), files=tuple(what["files"]))


def _said(
    batches: Sequence[Sequence[int]], cuts: Sequence[Any], targets: Sequence[Target]
) -> dict[str, Any]:
    """Return batches of utterances as JSON values, on which a worker needs no corpus."""
    order = [i for batch in batches for i in batch]
    place = iter(range(len(order)))
    bare = [fastcopy(cuts[i], supervisions=[], features=None, custom=None) for i in order]
    return {
        "task": f"{KIND} {len(order)} utterances from {cuts[order[0]].id}",
        "cuts": [cut.to_dict() for cut in bare],
        "audio": [targets[i].made_from["audio_sha256"] for i in order],
        "files": [str(targets[i].path) for i in order],
        "batches": [[next(place) for _ in batch] for batch in batches],
    }


def _missing(targets: Sequence[Target], batches: Sequence[list[int]]) -> list[list[int]]:
    """Return the batches with a file that is to be written, and say what is there."""
    states = [found.state() for found in track(targets, "Checking files", len(targets), "files")]
    missing = _lacking(states, batches)
    if others := states.count(State.OTHER_CODE):
        logger.info(f"{others} files were made by other code or libraries and are made anew.")
    if there := len(targets) - sum(map(len, missing)):
        logger.info(f"{there} of {len(targets)} files were there already and are kept.")
    return missing


def _lacking(states: Sequence[State], batches: Sequence[list[int]]) -> list[list[int]]:
    return [batch for batch in batches if any(states[i] is not State.THERE for i in batch)]


def _say_size(encoder: "Upstream", cuts: Sequence[Any], dtype: str, out: Path) -> None:
    """Say how much will be written."""
    size = frame_bytes(encoder, cuts) * (2 if dtype == "float32" else 1)
    states = encoder.spec.num_layers + 1
    logger.info(
        f"{len(cuts)} files of {states} states x {encoder.spec.dim} dims in {dtype}: "
        f"{size / 1e9:.2f} GB in {out}."
    )


def _files(corpus: Speech | Iterable[str | Path]) -> list[Path]:
    """Return the audio files that were given; none where it is a corpus."""
    if isinstance(corpus, Path):
        return [corpus]
    if isinstance(corpus, str | Mapping) or not isinstance(corpus, Iterable):
        return []
    if hasattr(corpus, "itertuples"):  # a data frame, which is a corpus
        return []
    files = list(corpus)
    for file in files:
        if not isinstance(file, str | Path):
            raise UserError(
                f"An object of type {type(file).__name__} is no audio file; expected paths, or a "
                "corpus such as tsv:data/mine."
            )
    if not files:
        raise UserError("Give either audio files or a corpus, such as tsv:data/mine.")
    return [Path(file) for file in files]


def _with_files(call: Call, files: Sequence[Path]) -> Call:
    """Return the call with audio files in the place of the corpus."""
    given = {name: value for name, value in call.given.items() if name != "corpus"}
    names = [str(file) for file in files]
    if call.given["upstream"] in call.live:
        return replace(call, given={**given, "corpus": names})
    return replace(call, given=given, settings=tuple(names))
