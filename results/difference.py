"""By how much one encoder is read better than another, as the store keeps it.

Both are scored on the same resamples of speakers, so that the difference has an interval of its
own; `auscult probe` measures it.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from auscult.record import Artifact

from .curve import Curve, Subject, corpus_label, own_settings, short_names, subject_names

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
        """Whether all of the interval is on one side of zero."""
        low, high = self.interval
        return low > 0 or high < 0

    @property
    def layers(self) -> str:
        """The layer of each encoder: ``6 and 0``."""
        return f"{self.artifact.meta['layer']} and {self.artifact.meta['over_layer']}"

    @property
    def text(self) -> str:
        """The difference and its interval: ``+0.134 [+0.101, +0.170]``."""
        low, high = self.interval
        return f"{self.value:+.3f} [{low:+.3f}, {high:+.3f}]"


def differences(artifacts: Iterable[Artifact], curves: Sequence[Curve]) -> list[Difference]:
    """Return the differences among artifacts, named as the curves that they are shown beside."""
    found = [artifact for artifact in artifacts if artifact.kind == KIND]
    subjects = subject_names(curves)
    pairs = ((a.upstream, str(a.meta["over"])) for a in found)
    names = short_names([*(curve.first.upstream for curve in curves), *(n for p in pairs for n in p)])
    groups: dict[tuple[object, ...], list[Artifact]] = defaultdict(list)
    for artifact in found:
        groups[_compared(artifact)].append(artifact)
    return [
        Difference(
            artifact,
            subjects.get(_subject(artifact)) or _name(artifact),
            names[artifact.upstream] + remark,
            names[artifact.meta["over"]],
        )
        for key in sorted(groups)
        for remark, artifact in _told_apart(groups[key])
    ]


def difference_rows(found: Iterable[Difference]) -> list[list[object]]:
    """Return one row of :data:`COLUMNS` for each difference."""
    return [[d.subject, d.artifact.meta["probe"], d.label, d.over, d.layers, d.text] for d in found]


def flat_difference(artifact: Artifact) -> dict[str, Any]:
    """Return a flat dictionary of JSON values, as a record has it."""
    low, high = artifact.arrays["interval"].tolist()
    return {
        "upstream": artifact.upstream,
        "upstream_sha256": artifact.upstream_sha256,
        "corpus": artifact.corpus,
        "corpus_sha256": artifact.corpus_sha256,
        "task": artifact.task,
        **artifact.meta,
        "value": float(artifact.arrays["value"]),
        "low": low,
        "high": high,
        **asdict(artifact.provenance),
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
    remarks = [own_settings(mine, settings) for mine in settings]
    told = [f" ({remark})" if remark else "" for remark in remarks]
    return sorted(zip(told, alike, strict=True), key=lambda pair: pair[0])


def _settings(artifact: Artifact) -> dict[str, set[str]]:
    meta = {**artifact.meta, **artifact.meta["config"], "upstream_sha256": artifact.upstream_sha256}
    left_out = ("config", "layer", "over_layer")
    return {name: {str(value)} for name, value in meta.items() if name not in left_out}
