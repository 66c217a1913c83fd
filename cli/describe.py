"""`auscult describe`: what an encoder is, what it costs, and what it takes on this machine."""

from typing import Annotated

import typer

from auscult.cli.output import Device, Json, Output, Quiet


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
    from auscult import studies

    output = Output(json=json, quiet=quiet)
    found = studies.describe(upstream, measure=measure, device=device)
    for part in found.parts():
        if isinstance(part, str):
            output.print(part)
        else:
            output.table(*part)
    output.finish(**found.to_dict())
