"""`auscult upstreams` and `auscult check`: which encoders there are, and how they behave."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from auscult.cli.option import show_catalogue
from auscult.cli.output import Device, Json, Output, Quiet
from auscult.device import choose_device

if TYPE_CHECKING:
    from auscult.testing import Finding


def upstreams(json: Json = False, quiet: Quiet = False) -> None:
    """List the families of encoders, the shapes that have names, and installed packages'.

    Examples:
      auscult upstreams
      auscult upstreams --json
    """
    from auscult.studies.catalogue import encoders

    show_catalogue(Output(json=json, quiet=quiet), encoders())


def check(
    upstream: Annotated[
        str,
        typer.Argument(help="Encoder: family[:checkpoint][?options][@subnet].", show_default=False),
    ],
    device: Device = "cpu",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Hold an encoder to the contract that every number rests on.

    Exits with status 1 if a check fails.

    Examples:
      auscult check hf:/models/my-hubert
      auscult check python:my.py:Encoder
      auscult check "random(hubert_tiny)" --json
    """
    import auscult
    from auscult.progress import track
    from auscult.testing import run_checks, upstream_checks

    output = Output(json=json, quiet=quiet)
    where = choose_device(device)
    encoder = auscult.load(upstream).to(where)
    total = len(list(upstream_checks()))
    findings = list(track(run_checks(encoder), f"Checking {upstream}", total, "checks"))
    output.table(
        f"{encoder.spec.name} on {where}: {encoder.spec.num_layers} blocks of {encoder.spec.dim}, "
        f"{encoder.spec.num_parameters:,} parameters, fingerprint {encoder.spec.sha256[:12]}",
        ("check", "result", "promise", "why"),
        [(finding.check, _result(finding), finding.promise, finding.why) for finding in findings],
    )
    output.finish(
        upstream=asdict(encoder.spec),
        device=where,
        checks=[asdict(finding) for finding in findings],
    )
    if not all(finding.passed for finding in findings):
        raise SystemExit(1)


def _result(finding: "Finding") -> str:
    if not finding.passed:
        return "FAIL"
    return "does not apply" if finding.why else "pass"
