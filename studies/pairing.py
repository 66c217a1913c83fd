"""Comparisons across days: encoders that were probed by several studies, on the same resamples.

The ledger keeps how many answers to each utterance were right, so that what was measured last week
is compared with what was measured today as one study would have compared both.
"""

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from auscult.address import parse_address
from auscult.errors import UserError, unknown
from auscult.progress import logger
from auscult.record import fingerprint

from .comparison import difference, made_of, probes_of
from .finding import Findings
from .item import Failure, Outcome
from .layer import KIND
from .ledger import FOLDER, Ledger

if TYPE_CHECKING:
    from auscult.record import Artifact, Record

CHOSEN = "learning_rate"  # that dev chooses for each layer
Names = str | Iterable[str]


def compare(
    ours: str | Path,
    theirs: str | Path | None = None,
    *,
    upstreams: Names = (),
    over: Names = (),
    tasks: Names = (),
    probes: Names = (),
    store: str | Path | None = None,
) -> Findings:
    """Return by how much encoders of one study are read better than those of another.

    Accuracies, each at the layer that dev prefers, on the same resamples of speakers; nothing is
    measured again. What cannot be paired is in ``failures``.

    Args:
        ours: Folder that a probing study was given as ``out``.
        theirs: Folder of the other study; the same one where None.
        upstreams: Encoders of ``ours``; where none is named all but log-mel and random twins.
        over: Encoders of ``theirs`` that are subtracted; where none is named as above.
        tasks: Some instead of all.
        probes: Some instead of all.
        store: Folder, file or URL of a store where the differences are kept too.

    Raises:
        UserError: There is nothing to compare; the sentence says why.
    """
    folders = [Path(ours), Path(ours if theirs is None else theirs)]
    sides = [
        _wanted(_read(folder, _several(tasks)), folder, _several(names))
        for folder, names in zip(folders, (upstreams, over), strict=True)
    ]
    differences: list[Artifact] = []
    failures: list[Failure] = []
    used: dict[str, Outcome] = {}
    tasks_here = {_about(outcome).task for outcome in sides[0]}
    for other in sides[1]:
        if (first := _about(other)).task not in tasks_here:
            failures.append(_failure(first, f"{folders[0]} holds no counts on this task."))
    for mine, partner in _pairs(sides[0], sides[1], folders[1]):
        if isinstance(partner, str):
            failures.append(_failure(_about(mine), partner))
            continue
        found, failed = _paired(mine, partner, folders, _several(probes))
        differences += found
        failures += failed
        used |= {outcome.key: outcome for outcome in (mine, partner) if found}
    if not differences:
        raise UserError(
            f"Nothing in {folders[0]} and {folders[1]} can be compared: "
            f"{failures[0] if failures else 'they hold one measurement of one encoder alone'}"
        )
    for failure in failures:
        logger.info(str(failure))
    result = Findings(
        outcomes=tuple(used.values()), differences=tuple(differences), failures=tuple(failures)
    )
    if store is not None:
        result.save(store)
    return result


def _several(names: Names) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _read(folder: Path, tasks: Sequence[str]) -> list[Outcome]:
    """Return a folder's probing outcomes; of equal settings the newest.

    Raises:
        UserError: There are none, or none of a task.
    """
    found = [x for x in Ledger(folder).outcomes(KIND) if x.records and x.tallies]
    if not found:
        raise UserError(
            f"{folder} holds no counts of a probing study ({folder / FOLDER}); give a folder that "
            "was --out of `auscult probe` or out= of auscult.probe()."
        )
    known = sorted({_about(outcome).task for outcome in found})
    for task in tasks:
        if task not in known:
            raise unknown(f"task in {folder}", task, known)
    newest: dict[tuple[object, ...], Outcome] = {}
    for outcome in sorted(found, key=lambda x: (_about(x).provenance.created, x.key)):
        first = _about(outcome)
        if not tasks or first.task in tasks:
            newest[(*_measured(first), _encoder(outcome), frozenset(outcome.tallies))] = outcome
    return sorted(newest.values(), key=lambda x: (_about(x).task, _about(x).upstream, x.key))


def _measured(first: "Record") -> tuple[object, ...]:
    """Return what was measured, whatever the encoder."""
    settings = {name: value for name, value in first.config.items() if name != CHOSEN}
    return (first.task, first.task_version, first.corpus_sha256, fingerprint(settings))


def _wanted(found: list[Outcome], folder: Path, names: Sequence[str]) -> list[Outcome]:
    """Return the outcomes of the named encoders, or of all that are nobody's baseline.

    Raises:
        UserError: One of them is not there.
    """
    known = sorted({_about(outcome).upstream for outcome in found})
    for name in names:
        if name not in known:
            raise unknown(f"encoder in {folder}", name, known)
    chosen = names or [name for name in known if not _is_baseline(name)] or known
    return [outcome for outcome in found if _about(outcome).upstream in chosen]


def _is_baseline(name: str) -> bool:
    try:
        return name == "log_mel" or parse_address(name).random
    except UserError:  # the name of an object
        return False


def _pairs(
    ours: Sequence[Outcome], theirs: Sequence[Outcome], folder: Path
) -> Iterator[tuple[Outcome, Outcome | str]]:
    """Yield each outcome with those that it is compared with, or with why there is none."""
    seen = set()
    encoders = dict.fromkeys(_encoder(outcome) for outcome in theirs)
    for mine in ours:
        for encoder in encoders:
            candidates = [x for x in theirs if _encoder(x) == encoder and x.key != mine.key]
            if not candidates and encoder == _encoder(mine):
                continue  # with itself
            other = _best(mine, candidates) or _why(mine, encoder[0], candidates, folder)
            keys = frozenset((mine.key, other if isinstance(other, str) else other.key))
            if keys not in seen:  # nor the other way round
                seen.add(keys)
                yield mine, other


def _encoder(outcome: Outcome) -> tuple[str, str]:
    first = _about(outcome)
    return first.upstream, first.upstream_sha256


def _best(mine: Outcome, candidates: Sequence[Outcome]) -> Outcome | None:
    """Return what heard the same utterances: of equal settings, of most probes, the newest."""
    wanted = _measured(_about(mine))
    fitting = [x for x in candidates if _measured(_about(x))[:3] == wanted[:3]]

    def fits(other: Outcome) -> tuple[bool, int, str]:
        shared = {*probes_of(mine)} & {*probes_of(other)}
        alike = _measured(_about(other)) == wanted
        return alike, len(shared), _about(other).provenance.created

    return max(fitting, key=fits, default=None)


def _why(mine: Outcome, over: str, candidates: Sequence[Outcome], folder: Path) -> str:
    """Say why an outcome has no partner."""
    first = _about(mine)
    same_task = [_about(x) for x in candidates if _about(x).task == first.task]
    if not same_task:
        return f"{folder} holds no counts of {over} on this task."
    if all(other.task_version != first.task_version for other in same_task):
        return (
            f"that of {over} is version {same_task[0].task_version} of the task, not "
            f"{first.task_version}; its scores mean something else."
        )
    return (
        f"{over} was scored on other utterances, of {same_task[0].corpus}, than the {first.split} "
        f"split of {first.corpus} as it was; measure both on the same."
    )


def _paired(
    mine: Outcome, other: Outcome, folders: Sequence[Path], probes: Sequence[str]
) -> "tuple[list[Artifact], list[Failure]]":
    """Return the differences under each probe, and why others have none."""
    first, second = _about(mine), _about(other)
    _say_settings(first, second)
    differences: list[Artifact] = []
    failures = []
    for probe in probes or probes_of(mine):
        try:
            if not all(probe in probes_of(side) for side in (mine, other)):
                raise UserError(f"no counts of the probe {probe} on both sides.")
            found = difference(mine, other, probe)
        except UserError as error:
            failures.append(_failure(first, f"{second.upstream}: {error}"))
            continue
        command = _command(folders, first, second, probe)
        made = made_of(mine, other, command, first.provenance.device)
        differences.append(replace(found, provenance=made))
    return differences, failures


def _failure(first: "Record", reason: str) -> Failure:
    return Failure(first.task, first.upstream, reason)


def _say_settings(first: "Record", second: "Record") -> None:
    """Say where the readers were not trained alike."""
    names = sorted({*first.config, *second.config} - {CHOSEN})
    differ = [name for name in names if first.config.get(name) != second.config.get(name)]
    if differ:
        said = ", ".join(f"{n}: {first.config.get(n)} and {second.config.get(n)}" for n in differ)
        logger.warning(
            f"{first.task}: {first.upstream} and {second.upstream} were not read alike ({said})."
        )


def _command(folders: Sequence[Path], first: "Record", second: "Record", probe: str) -> str:
    """Return what gives this difference alone."""
    words = ["auscult", "results", "compare", *map(str, folders)]
    words += ["-u", first.upstream, "--over", second.upstream, "-t", first.task, "--probe", probe]
    return shlex.join(words)


def _about(outcome: Outcome) -> "Record":
    """Return a record of the split reported on, off which all that is common is read."""
    return next((r for r in outcome.records if r.split != r.selected_on), outcome.records[0])
