"""By how much one encoder is read better than another, as the store keeps it.

Both are scored on the same resamples of speakers, so that the difference has an interval of its
own; `auscult probe` measures it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from auscult.record import Artifact, Record

from .artifact import check_artifacts
from .curve import CHOSEN, Curve, Subject, corpus_label, own_settings, short_names, subject_names

KIND = "accuracy_difference"

TITLE = "Differences of accuracies, on the same resamples of speakers"

COLUMNS = ("task", "probe", "upstream", "minus", "layers", "difference [95 %]")  # of rows


@dataclass(frozen=True, slots=True)
class Difference:
    """Accuracy of one encoder minus that of another, each at the layer that dev prefers."""

    artifact: Artifact
    subject: str  # task, corpus and split
    label: str  # short name of the encoder, and its settings where there are several
    over: str  # short name of the encoder that is subtracted

    @property
    def value(self) -> float:
        """The difference, a share of -1 to 1."""
        return float(self.artifact.arrays["value"])

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference."""
        low, high = self.artifact.arrays["interval"].tolist()
        return low, high

    @property
    def excludes_zero(self) -> bool:
        """Whether all of the interval is on one side of zero; one without width says nothing."""
        low, high = self.interval
        return low < high and (low > 0 or high < 0)

    @property
    def layers(self) -> str:
        """The layer of each encoder: ``6 and 0``."""
        mine, others = self.artifact.arrays["chosen_layers"].tolist()
        return f"{mine} and {others}"

    @property
    def text(self) -> str:
        """The difference and its interval: ``+0.134 [+0.101, +0.170]``."""
        low, high = self.interval
        return f"{self.value:+.3f} [{low:+.3f}, {high:+.3f}]"


def build_difference(
    ours: Sequence[Record],
    theirs: Sequence[Record],
    layers: tuple[int, int],
    value: float,
    interval: tuple[float, float],
) -> Artifact:
    """Build what the store keeps of a difference.

    Args:
        ours: Scores of the encoder that is to be better, under one probe on the split reported on:
            a record for each layer and seed.
        theirs: Those of the encoder that is subtracted.
        layers: The layer of each that dev prefers.
        value: The difference, a share of -1 to 1.
        interval: Its 95 % interval.
    """
    first = ours[0]
    return Artifact(
        kind=KIND,
        upstream=first.upstream,
        upstream_sha256=first.upstream_sha256,
        corpus=first.corpus,
        corpus_sha256=first.corpus_sha256,
        task=first.task,
        arrays={  # layers among them, as dev may choose others another time
            "value": np.array(value),
            "interval": np.array(interval),
            "chosen_layers": np.array(layers),
        },
        meta={
            "over": theirs[0].upstream,
            "over_sha256": theirs[0].upstream_sha256,
            "task_version": first.task_version,
            "probe": first.probe,
            "metric": first.metric,
            "split": first.split,
            "layers": sorted({r.layer for r in ours if isinstance(r.layer, int)}),
            "seeds": sorted({r.seed for r in ours}),
            "convention": first.convention,
            "config": {name: x for name, x in first.config.items() if name != CHOSEN},
        },
        provenance=first.provenance,
    )


def differences(artifacts: Iterable[Artifact], curves: Sequence[Curve]) -> list[Difference]:
    """Return the differences among artifacts, named as the curves that they are shown beside."""
    found = [artifact for artifact in artifacts if artifact.kind == KIND]
    subjects = subject_names(curves)
    compared = [name for a in found for name in (a.upstream, str(a.meta["over"]))]
    names = short_names([*(curve.first.upstream for curve in curves), *compared])
    groups: dict[tuple[object, ...], list[Artifact]] = defaultdict(list)
    for artifact in found:
        groups[_compared(artifact)].append(artifact)
    return [
        Difference(
            artifact,
            subjects.get(_subject(artifact)) or _name(artifact),
            names[artifact.upstream] + remark,
            names[artifact.meta["over"]] + _other_weights(artifact),
        )
        for key in sorted(groups)
        for remark, artifact in _told_apart(groups[key])
    ]


def difference_rows(found: Iterable[Difference]) -> list[list[object]]:
    """Return one row of :data:`COLUMNS` for each difference."""
    return [[d.subject, d.artifact.meta["probe"], d.label, d.over, d.layers, d.text] for d in found]


def fitting(artifacts: Iterable[Artifact], wanted: Mapping[str, str | None]) -> list[Artifact]:
    """Return the differences that agree with every field of ``wanted`` that is not None.

    Raises:
        UserError: One of them was tampered with.
    """
    found = list(artifacts)
    check_artifacts(found)
    given = {name: value for name, value in wanted.items() if value is not None}
    return [a for a in found if given == {name: _fields(a).get(name) for name in given}]


def flat_difference(artifact: Artifact) -> dict[str, Any]:
    """Return a flat dictionary of JSON values, as a record has it."""
    low, high = artifact.arrays["interval"].tolist()
    layer, over_layer = artifact.arrays["chosen_layers"].tolist()
    numbers = {"value": float(artifact.arrays["value"]), "low": low, "high": high}
    found = {"layer": layer, "over_layer": over_layer, **numbers}
    return {**_fields(artifact), **found, **asdict(artifact.provenance)}


def _fields(artifact: Artifact) -> dict[str, Any]:
    """Return what was compared and how, as fields of the names that a record has."""
    return {
        "upstream": artifact.upstream,
        "upstream_sha256": artifact.upstream_sha256,
        "corpus": artifact.corpus,
        "corpus_sha256": artifact.corpus_sha256,
        "task": artifact.task,
        **artifact.meta,
    }


def _subject(artifact: Artifact) -> Subject:
    """Return what the curves are scores on whose difference it is."""
    meta = artifact.meta
    return (
        *(artifact.corpus, artifact.task, meta["split"], meta["task_version"]),
        artifact.corpus_sha256,
    )


def _name(artifact: Artifact) -> str:
    """Name the subject of a difference that no curve stands beside."""
    return f"{artifact.task} on {corpus_label(artifact.corpus)}, {artifact.meta['split']}"


def _compared(artifact: Artifact) -> tuple[object, ...]:
    """Say what was compared, whatever the settings."""
    meta = artifact.meta
    return (*_subject(artifact), meta["probe"], artifact.upstream, meta["over"])


def _told_apart(alike: Sequence[Artifact]) -> list[tuple[str, Artifact]]:
    """Return differences of the same encoders, each with a remark on what no other of them has."""
    settings = [_settings(artifact) for artifact in alike]
    several = len({artifact.upstream_sha256 for artifact in alike}) > 1
    several |= any("weights" in _other_weights(artifact) for artifact in alike)
    told = []
    for artifact, mine in zip(alike, settings, strict=True):
        remark = own_settings(mine, settings)
        weights = f" (weights {artifact.upstream_sha256[:8]})" if several else ""  # as curves do
        told.append((weights + (f" ({remark})" if remark else ""), artifact))
    return sorted(told, key=lambda pair: pair[0])


def _other_weights(artifact: Artifact) -> str:
    """Return a remark on the encoder that is subtracted, where it goes by the same name."""
    meta = artifact.meta
    if artifact.upstream != meta["over"]:
        return ""
    if artifact.upstream_sha256 == meta["over_sha256"]:
        return " (in the other study)"
    return f" (weights {meta['over_sha256'][:8]})"


def _settings(artifact: Artifact) -> dict[str, set[str]]:
    """Return how a difference was measured, in words."""
    meta = {**artifact.meta, **artifact.meta["config"]}
    meta |= {name: _in_short(meta[name]) for name in ("layers", "seeds")}
    return {name: {str(value)} for name, value in meta.items() if name != "config"}


def _in_short(numbers: Sequence[int]) -> str:
    """Write distinct numbers in order as `--layers` reads them: ``0-12`` or ``0,3``."""
    first, last = numbers[0], numbers[-1]
    if len(numbers) == last - first + 1 > 1:
        return f"{first}-{last}"
    return ",".join(map(str, numbers))
