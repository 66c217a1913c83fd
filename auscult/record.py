"""One number and everything needed to find out where it came from."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from auscult.value import check_json, check_mapping, shorten

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST = 1e100  # of a score, so that sums and squares of scores are finite too
_MAPPINGS = ("config", "libraries")
LIBRARIES = ("torch", "torchaudio", "transformers", "s3prl", "lhotse", "numpy", "scikit-learn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """The run that a number came from; shared by all records of one command."""

    command: str  # what to type to get the number again
    created: str  # ISO 8601, UTC
    code_version: str
    libraries: Mapping[str, str]
    device: str


_RUN = tuple(f.name for f in fields(Provenance))


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
            number = float(getattr(self, name))  # numpy scalars become plain floats
            if not abs(number) <= LARGEST:  # nor NaN
                raise ValueError(
                    f"Record.{name} of {self.task}/{self.metric}: expected a finite number, "
                    f"got {number}."
                )
            object.__setattr__(self, name, number)

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
        flat = {name: getattr(self, name) for name in _SCALARS}
        flat |= {"config": _copied(self.config)}
        flat |= {name: _copied(getattr(self.provenance, name)) for name in _RUN}
        return flat | {"config_sha256": self.config_sha256}

    @classmethod
    def from_dict(cls, flat: Mapping[str, Any]) -> "Record":
        """Rebuild a record from :meth:`to_dict`'s output.

        Raises:
            ValueError: A field is missing, unknown or not of its type, or the configuration is not
                the one that was fingerprinted.
        """
        for name in _MAPPINGS:
            check_mapping(f"Record.{name}", flat.get(name, {}), of_text=name == "libraries")
        return cls.from_checked(flat)

    @classmethod
    def from_checked(cls, flat: Mapping[str, Any]) -> "Record":
        """Do as :meth:`from_dict`, where configuration and libraries were checked before.

        Raises:
            ValueError: As there.
        """
        values = dict(flat)
        expected = values.pop("config_sha256", None)
        _check_types(values)
        run = {name: values.pop(name) for name in _RUN if name in values}
        if strange := set(values) - _types().keys() - {*_MAPPINGS}:
            raise ValueError(f"Record: unknown field(s) {', '.join(sorted(strange))}.")
        try:
            record = cls(**values, provenance=Provenance(**run))
        except TypeError as error:
            raise ValueError(f"Record: {error}.") from error
        if expected is not None and expected != record.config_sha256:
            raise ValueError(
                f"Record.config of {record.task}/{record.metric}: its fingerprint is "
                f"{record.config_sha256}, but config_sha256 says {expected}."
            )
        return record


_SCALARS = tuple(f.name for f in fields(Record) if f.name not in ("config", "provenance"))


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
    arrays: "Mapping[str, NDArray[Any]]"
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


def with_origins(provenance: Provenance, *origins: str) -> Provenance:
    """Return a provenance that names whose code was used beside ours, among the libraries.

    Args:
        provenance: Of a run.
        origins: ``package==1.0`` or ``my.py, sha256 0123456789ab``; empty for ours.
    """
    theirs = dict(re.split("==|, ", origin, maxsplit=1) for origin in origins if origin)
    return (
        replace(provenance, libraries={**provenance.libraries, **theirs}) if theirs else provenance
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


@cache
def _types() -> dict[str, tuple[type, ...]]:
    """Return what each field of :meth:`Record.to_dict` may be, as JSON and databases have it."""
    hints = get_type_hints(Record) | get_type_hints(Provenance)
    json_types = {float: (float, int)}
    return {
        name: tuple(t for kind in get_args(hint) or (hint,) for t in json_types.get(kind, (kind,)))
        for name, hint in hints.items()
        if name not in (*_MAPPINGS, "provenance")
    }


def _check_types(values: Mapping[str, Any]) -> None:
    """Refuse values that no record of ours has.

    Raises:
        ValueError: With the name of the field.
    """
    for name, types in _types().items():
        value = values.get(name)
        if type(value) not in types and name in values:  # exactly, as bool is an int
            wanted = " or ".join("nothing" if t is NoneType else t.__name__ for t in types)
            raise ValueError(f"Record.{name}: expected {wanted}, got {shorten(value)}.")
        if type(value) is int:
            check_json(f"Record.{name}", value)


def _copied(value: Any) -> Any:
    """Return a JSON value without anything of the original that can change."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return {name: _copied(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_copied, value))
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not a JSON value.")
