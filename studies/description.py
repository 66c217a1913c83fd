"""What an encoder is, what it costs, and what it takes on this machine."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from auscult.device import choose_device
from auscult.errors import UserError
from auscult.progress import logger
from auscult.upstream import Upstream
from auscult.wrapped import wrap

from .table import Table, to_html

if TYPE_CHECKING:
    from auscult.contracts import UpstreamSpec
    from auscult.cost import Macs, SuperbMacs
    from auscult.measurement import Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What is said of an encoder."""

    upstream: "UpstreamSpec"
    macs: "SuperbMacs | None"  # of the 32 utterances of SUPERB's challenge
    macs_not_counted: str  # why there are none
    measured: "Measurement | None"

    def parts(self) -> Iterator[Table | str]:
        """Yield the tables and sentences that people read, in order."""
        yield Table(self.upstream.name, ("property", "value"), _identity(self.upstream))
        if self.macs is None:
            yield f"MACs are not counted: {self.macs_not_counted}"
        else:
            columns = ("utterances", "seconds", "as SUPERB counts", "products alone")
            yield Table(
                "Multiply-accumulates (MACs) of the 32 utterances of SUPERB's challenge",
                (*columns, "GMACs per second"),
                _cost(self.macs),
            )
        if self.measured is not None:
            seconds = f"seconds: median of {self.measured.runs} (least to most)"
            yield Table(
                f"One utterance at a time on {_where(self.measured)}",
                ("audio", "real-time factor", seconds),
                _times(self.measured),
            )
            yield _memory(self.measured)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        measured = self.measured
        return {
            "upstream": asdict(self.upstream),
            "macs": None if self.macs is None else _macs_found(self.macs),
            "macs_not_counted": self.macs_not_counted,
            "measured": None
            if measured is None
            else asdict(measured) | {"real_time_factor": measured.real_time_factor},
        }

    def _repr_html_(self) -> str:
        """Show it in a notebook."""
        return to_html(self.parts())


def describe(
    upstream: str | nn.Module, *, measure: bool = False, device: str = "cpu"
) -> Description:
    """Say what an encoder is and what it costs.

    Multiply-accumulates are computed from the dimensions alone, as SUPERB counts them: no audio is
    encoded, and for the address of a shape no weights are drawn.

    Args:
        upstream: Address such as ``hf:models/wavlm-base``, a shape such as ``hubert_base``, or an
            encoder.
        measure: Encode noise and measure time and memory: in a process of its own, but for an
            encoder that is given as an object, whose memory says less.
        device: Where to measure: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UserError: There is no such encoder, or it cannot be measured there.
    """
    from auscult.measurement import measure as measure_here
    from auscult.upstreams import outline_upstream

    if isinstance(upstream, nn.Module) and not isinstance(upstream, Upstream):
        upstream = wrap(upstream)

    if device != "cpu" and not measure:
        raise UserError(
            "device= (--device) says where to measure; add --measure (measure=True), or leave it "
            "out."
        )
    where = choose_device(device)
    encoder = outline_upstream(upstream) if isinstance(upstream, str) else upstream
    macs, reason = _count(encoder)
    measured = None
    if measure and isinstance(upstream, str):
        measured = _measure_apart(encoder.spec.name, where)
    elif measure:
        measured = measure_here(encoder.to(where))
    return Description(upstream=encoder.spec, macs=macs, macs_not_counted=reason, measured=measured)


def _count(encoder: "Upstream") -> "tuple[SuperbMacs | None, str]":
    """Return what SUPERB counts, or else why nothing is counted."""
    from auscult.cost import superb_macs

    try:
        return superb_macs(encoder.count_macs), ""
    except UserError as error:
        return None, str(error)


def _identity(spec: "UpstreamSpec") -> list[tuple[str, str]]:
    """Return what stands in the first table, one row a property."""
    geometry, rate = spec.geometry, spec.sample_rate
    total = spec.num_parameters + spec.head_parameters
    head = f"; {total:,} with the pretraining head" if spec.head_parameters else ""
    rows = [
        ("family", spec.family),
        ("source", spec.source),
        ("code", spec.origin),
        ("fingerprint (weights and structure)", spec.sha256 or "none: only the shape was built"),
        ("subnet", spec.subnet),
        ("blocks", f"{spec.num_layers}{_modules(spec)}"),
        ("hidden states", f"{spec.num_layers + 1} of {spec.dim}; convention: {spec.convention}"),
        ("attention heads", _heads(spec)),
        ("stride", _samples(geometry.stride, rate)),
        ("receptive field", _samples(geometry.receptive_field, rate)),
        ("reads audio", f"at {rate} Hz, {'normalised' if spec.normalize else 'as it is'}"),
        ("parameters", f"{spec.num_parameters:,}{head}"),
        ("license", spec.license),
    ]
    return [row for row in rows if row[1]]


def _modules(spec: "UpstreamSpec") -> str:
    """Return the blocks of each named part, such as ``: contrastive 1-12, masked 13-24``."""
    parts, first = [], 1
    for name, last in spec.modules:
        parts.append(f"{name} {first}-{last}")
        first = last + 1
    return f": {', '.join(parts)}" if parts else ""


def _heads(spec: "UpstreamSpec") -> str:
    if not spec.heads:
        return "none"
    if len(set(spec.heads)) == 1:
        return f"{spec.heads[0]} in each block"
    return f"{' '.join(map(str, spec.heads))}, first block first"


def _samples(samples: int, rate: int) -> str:
    return f"{samples} samples, {1000 * samples / rate:g} ms"


def _cost(macs: "SuperbMacs") -> list[tuple[str, ...]]:
    from auscult.cost import BUCKETS, SUPERB_SECONDS

    names, seconds = [*BUCKETS, "all"], [*SUPERB_SECONDS, sum(SUPERB_SECONDS)]
    rows = zip(names, seconds, [*macs.buckets, macs.sum], strict=True)
    return [
        (name, f"{s:.2f}", f"{m.total:,}", f"{m.products:,}", f"{m.total / s / 1e9:.3f}")
        for name, s, m in rows
    ]


def _macs_found(macs: "SuperbMacs") -> dict[str, Any]:
    from auscult.cost import BUCKETS, SUPERB_SECONDS

    def found(macs: "Macs", seconds: float) -> dict[str, float]:
        return {
            "total": macs.total,
            "products": macs.products,
            "audio_seconds": seconds,
            "total_per_second": macs.total / seconds,
        }

    buckets = zip(BUCKETS, macs.buckets, SUPERB_SECONDS, strict=True)
    return found(macs.sum, sum(SUPERB_SECONDS)) | {
        "buckets": {name: found(part, seconds) for name, part, seconds in buckets}
    }


def _measure_apart(name: str, device: str) -> "Measurement":
    """Measure in a fresh process, where nothing else has taken memory.

    Raises:
        UserError: The process ended before it had measured.
    """
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    from auscult.measurement import LENGTHS, RUNS

    logger.info(f"Encoding noise of {len(LENGTHS)} lengths on {device}, {RUNS} runs each ...")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        try:
            return fresh.submit(_measure, name, device).result()
        except BrokenProcessPool as error:
            raise UserError(
                f"The process that measured {name} on {device} was ended, most likely for want of "
                "memory; its longest utterance is 20 s."
            ) from error


def _measure(name: str, device: str) -> "Measurement":
    import auscult
    from auscult.measurement import measure

    return measure(auscult.load(name).to(device))


def _where(measured: "Measurement") -> str:
    plural = "" if measured.threads == 1 else "s"
    threads = f", {measured.threads} thread{plural}" if measured.device == "cpu" else ""
    return f"{measured.processor}{threads}"


def _times(measured: "Measurement") -> list[tuple[str, ...]]:
    rows = [
        (
            f"{t.audio_seconds:.2f} s",
            f"{t.median / t.audio_seconds:.4f}",
            f"{t.median:.3f} ({t.least:.3f} to {t.most:.3f})",
        )
        for t in measured.timings
    ]
    audio = sum(t.audio_seconds for t in measured.timings)
    median = sum(t.median for t in measured.timings)
    return [*rows, (f"{audio:.2f} s", f"{measured.real_time_factor:.4f}", f"{median:.3f}")]


def _memory(measured: "Measurement") -> str:
    weights = f"{measured.weight_bytes / 1e6:,.1f} MB of weights"
    if measured.peak_bytes is None:
        return f"Peak memory: not measured, which needs Linux or a GPU; {weights}."
    longest = measured.timings[-1].audio_seconds
    return (
        f"Peak memory: {measured.peak_bytes / 1e6:,.1f} MB while encoding {longest:.2f} s, "
        f"{weights} among it."
    )
