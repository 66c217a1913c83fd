"""What an encoder is, what it costs, and what it takes on this machine."""

from typing import TYPE_CHECKING, Any

from auscult.errors import UserError
from auscult.progress import logger

if TYPE_CHECKING:
    from auscult.contracts import UpstreamSpec
    from auscult.cost import Macs, SuperbMacs
    from auscult.measurement import Measurement
    from auscult.upstream import Upstream


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
