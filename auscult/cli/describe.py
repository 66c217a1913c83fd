"""`auscult describe`: what an encoder is, what it costs, and what it takes on this machine."""

from dataclasses import asdict
from typing import Annotated

import typer

from auscult.cli.output import Device, Json, Output, Quiet
from auscult.device import choose_device
from auscult.errors import UserError


def describe(
    upstream: Annotated[
        str,
        typer.Argument(
            help="Encoder: family[:checkpoint][?options][@subnet], or a shape.", show_default=False
        ),
    ],
    measure: Annotated[
        bool, typer.Option("--measure", help="Encode noise and measure time and memory.")
    ] = False,
    device: Device = "cpu",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what an encoder is and what it costs.

    Multiply-accumulates are computed from the dimensions alone, as SUPERB counts them: no audio is
    encoded, and for a shape no weights are drawn. --measure encodes noise in a process of its own.

    Examples:
      auscult describe hubert_base
      auscult describe hf:facebook/wavlm-large --json
      auscult describe lighthubert_small@a_small --measure
    """
    from auscult.studies import description
    from auscult.upstreams import outline_upstream

    output = Output(json=json, quiet=quiet)
    if device != "cpu" and not measure:
        raise UserError("--device says where to measure; add --measure, or leave it out.")
    where = choose_device(device)
    encoder = outline_upstream(upstream)
    spec = encoder.spec
    macs, reason = description._count(encoder)
    output.table(spec.name, ("property", "value"), description._identity(spec))
    if macs is not None:
        output.table(
            "Multiply-accumulates (MACs) of the 32 utterances of SUPERB's challenge",
            ("utterances", "seconds", "as SUPERB counts", "products alone", "GMACs per second"),
            description._cost(macs),
        )
    else:
        output.print(f"MACs are not counted: {reason}")
    measured = description._measure_apart(spec.name, where) if measure else None
    if measured is not None:
        seconds = f"seconds: median of {measured.runs} (least to most)"
        columns = ("audio", "real-time factor", seconds)
        output.table(
            f"One utterance at a time on {description._where(measured)}",
            columns,
            description._times(measured),
        )
        output.print(description._memory(measured))
    output.finish(
        upstream=asdict(spec),
        macs=None if macs is None else description._macs_found(macs),
        macs_not_counted=reason,
        measured=None
        if measured is None
        else asdict(measured) | {"real_time_factor": measured.real_time_factor},
    )
