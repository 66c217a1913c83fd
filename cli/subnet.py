"""`auscult subnet`: what a supernet can be cut to, what a subnet looks like, and cutting it."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from auscult.cli.output import MOST_SEED, Json, Output, Quiet

Supernet = Annotated[
    str,
    typer.Argument(
        metavar="SUPERNET",
        help="lighthubert_small, lighthubert_base or lighthubert:FILE.",
        show_default=False,
    ),
]
Format = Literal["auscult", "transformers"]


def count(supernet: Supernet, json: Json = False, quiet: Quiet = False) -> None:
    """Print how many subnets a supernet has.

    Examples:
      auscult subnet count lighthubert_base
      auscult subnet count lighthubert:lighthubert_small.pt
    """
    from auscult.studies.supernet import space_of

    output = Output(json=json, quiet=quiet)
    name, number = space_of(supernet)
    output.print(f"{number:,}")
    output.finish(space=name, num_subnets=number)


def show(
    upstream: Annotated[
        str,
        typer.Argument(
            metavar="UPSTREAM",
            help="SUPERNET@subnet, where the subnet is a name, a budget, a file or in full.",
            show_default=False,
        ),
    ],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what a subnet is made of, what it weighs and what it costs.

    A name: a_small, a_base, smallest, largest, random(SEED). A budget: params<=20M, macs<=800G, for
    the largest subnet within it. A file of its description: subnet.json, which --json prints. In
    full: embed=512,depth=11,heads=8,ffn=3.5, where heads and ffn, the ratio of feed-forward width
    to embedding, are one number for all layers or, joined with -, one for each.

    Examples:
      auscult subnet show lighthubert_base@a_base
      auscult subnet show "lighthubert_small@params<=20M" --json > subnet.json
      auscult subnet show lighthubert_small@subnet.json
    """
    from auscult.studies.supernet import look_at_subnet

    output = Output(json=json, quiet=quiet)
    table, found = look_at_subnet(upstream)
    output.table(*table)
    output.print(f"parameters   {found['parameters']:,}")
    output.print(f"SUPERB MACs  {found['macs']:,}")
    output.print(f"in full      {found['text']}")
    output.finish(**found)


def sample(
    supernet: Supernet,
    seed: Annotated[int, typer.Option(help="Seed of the draws.", min=0, max=MOST_SEED)] = 0,
    number: Annotated[int, typer.Option("-n", "--number", help="How many.", min=1, max=10**6)] = 1,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw subnets as the published training does, with parameters and SUPERB MACs.

    The first one is that of @random(SEED).

    Examples:
      auscult subnet sample lighthubert_small --seed 3 -n 5
    """
    from auscult.studies.supernet import draw_subnets

    output = Output(json=json, quiet=quiet)
    found = draw_subnets(supernet, seed=seed, number=number)
    for one in found:
        output.print(f"{one.parameters:>10,} parameters {one.macs:>17,} MACs  {one.subnet}")
    output.finish(space=found[0].space, seed=seed, subnets=[one.to_dict() for one in found])


def export(
    upstream: Annotated[
        str,
        typer.Argument(metavar="UPSTREAM", help="SUPERNET@subnet.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write, new or empty.")],
    format: Annotated[
        Format,
        typer.Option(
            "--format", help="For Auscult, or a HuBERT for transformers where blocks are alike."
        ),
    ] = "auscult",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Cut a subnet out of its supernet: a folder that holds its own weights and no others.

    Examples:
      auscult subnet export lighthubert:lighthubert_small.pt@a_small --out a_small
      auscult extract -u lighthubert:a_small -c tsv:my/speech --out features
      auscult subnet export lighthubert:lighthubert_base.pt --format transformers --out a_base
    """
    from auscult.studies import supernet

    output = Output(json=json, quiet=quiet)
    found = supernet.export(upstream, out, format=format)
    number = found.written.num_parameters
    output.print(f"{found.upstream}: {number:,} parameters, {found.bytes / 1e6:,.1f} MB")
    output.finish(**found.to_dict())
