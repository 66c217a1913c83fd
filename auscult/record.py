"""One number and everything needed to find out where it came from."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

LIBRARIES = ("torch", "torchaudio", "transformers", "s3prl", "lhotse", "numpy", "scikit-learn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """The run that a number came from; shared by all records of one command."""

    command: str  # what to type to get the number again
    created: str  # ISO 8601, UTC
    code_version: str
    libraries: Mapping[str, str]
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One score. ``split`` is what it is reported on, ``selected_on`` what chose it."""

    upstream: str
    upstream_sha256: str
    corpus: str
    corpus_sha256: str  # of the split reported on
    task: str
    task_version: int
    layer: int | str | None  # hidden state, "weighted" for a learned sum, None for the model
    head: int | None = None  # attention head
    probe: str  # probe, downstream head or measurement
    metric: str
    unit: str = ""  # "" for a share of 0 to 1
    value: float
    low: float | None = None  # 95 % interval: speakers, then utterances resampled
    high: float | None = None
    majority: float | None = None  # what always answering the commonest class scores
    split: str
    selected_on: str = ""
    num_items: int
    num_speakers: int | None = None
    num_skipped: int = 0
    seed: int
    num_parameters: int | None = None  # of the encoder
    convention: str = ""  # what the encoder's hidden states are, see UpstreamSpec
    subnet: str = ""  # of a supernet, in full, see UpstreamSpec
    config: Mapping[str, Any] = field(default_factory=dict)
    provenance: Provenance

    def __post_init__(self) -> None:
        optional = ("low", "high", "majority")
        for name in ("value", *(n for n in optional if getattr(self, n) is not None)):
            number = getattr(self, name)
            if not math.isfinite(number):
                raise ValueError(
                    f"Record.{name} of {self.task}/{self.metric}: expected a finite number, "
                    f"got {number}."
                )
            object.__setattr__(self, name, float(number))  # numpy scalars become plain floats

    @property
    def config_sha256(self) -> str:
        """Fingerprint of the configuration."""
        return fingerprint(self.config)

    @property
    def key(self) -> str:
        """Fingerprint of what was measured: two runs of one measurement share it."""
        found = {"value", "low", "high", "majority", "num_items", "num_speakers", "num_skipped"}
        varies = found | {"provenance"}
        parts = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in varies}
        return fingerprint(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return a flat dictionary of JSON values; the provenance's fields stand beside ours."""
        flat = asdict(self)
        flat |= flat.pop("provenance")
        return flat | {"config_sha256": self.config_sha256}

    @classmethod
    def from_dict(cls, flat: Mapping[str, Any]) -> "Record":
        """Rebuild a record from :meth:`to_dict`'s output.

        Raises:
            ValueError: A field is missing or unknown, or the configuration is not the one that
                was fingerprinted.
        """
        values = dict(flat)
        expected = values.pop("config_sha256", None)
        run = {f.name: values.pop(f.name) for f in fields(Provenance) if f.name in values}
        known = {f.name for f in fields(cls)} - {"provenance"}
        if strange := set(values) - known:
            raise ValueError(f"Record: unknown field(s) {', '.join(sorted(strange))}.")
        try:
            record = cls(**values, provenance=Provenance(**run))
        except TypeError as error:
            raise ValueError(f"Record: {error}.") from error
        if expected not in (None, record.config_sha256):
            raise ValueError(
                f"Record.config of {record.task}/{record.metric}: its fingerprint is "
                f"{record.config_sha256}, but config_sha256 says {expected}."
            )
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """Arrays that belong to records and that figures are drawn from.

    Kinds: ``attention_divergence`` (arrays ``all_pairs`` (item, item), ``block_of`` and
    ``head_of`` (item,), ``same_head`` (head, layer, layer), ``mean`` (layer, layer)),
    ``layer_weights`` (array ``weights`` (layer,)) and ``accuracy_difference``: the accuracy of
    ``upstream`` minus that of the encoder ``over`` in ``meta``, on the same resamples of speakers
    (arrays ``value`` () and ``interval`` (2,), its 95 % interval, as shares of -1 to 1, and
    ``chosen_layers`` (2,), the layer of each that dev chose).
    """

    kind: str
    upstream: str
    upstream_sha256: str
    corpus: str
    corpus_sha256: str
    task: str
    arrays: Mapping[str, NDArray[Any]]
    meta: Mapping[str, Any] = field(default_factory=dict)  # JSON values: unit, num_utterances
    provenance: Provenance

    @property
    def key(self) -> str:
        """Fingerprint of what was measured: two runs of one measurement share it."""
        return fingerprint(
            [self.kind, self.upstream, self.upstream_sha256, self.corpus, self.corpus_sha256]
            + [self.task, dict(self.meta)]
        )


def fingerprint(value: Any) -> str:
    """Return the sha256 of a JSON value in canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def provenance(command: str, device: str) -> Provenance:
    """Return the provenance of a run that starts now."""
    return Provenance(
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        code_version=code_version(),
        libraries=library_versions(),
        device=device,
    )


@cache
def code_version() -> str:
    """Return the package version, with the git revision and a hash of changes in a checkout."""
    import subprocess

    from auscult import __version__

    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return __version__

    def git(*words: str) -> str:
        try:
            done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)
        except FileNotFoundError:
            return ""
        return done.stdout.strip()

    revision, changes = git("rev-parse", "--short=12", "HEAD"), git("diff", "HEAD", "--", "*.py")
    dirty = f".dirty-{fingerprint(changes)[:8]}" if changes else ""
    return f"{__version__}+{revision}{dirty}" if revision else __version__


@cache
def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that a number may depend on."""
    return {name: metadata.version(name) for name in LIBRARIES}


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not a JSON value.")
