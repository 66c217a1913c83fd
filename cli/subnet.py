"""`auscult subnet`: what a supernet can be cut to, what a subnet looks like, and cutting it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from auscult.cli.output import MOST_SEED, Json, Output, Quiet
from auscult.errors import UserError

if TYPE_CHECKING:
    from auscult.upstream import Upstream
    from auscult.upstreams.lighthubert import LightHubertUpstream
    from auscult.upstreams.lighthubert.space import Subnet

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
    output = Output(json=json, quiet=quiet)
    space = _supernet(supernet).space
    output.print(f"{space.num_subnets:,}")
    output.finish(space=space.name, num_subnets=space.num_subnets)


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
    from auscult.upstreams.lighthubert.space import kept_layers

    output = Output(json=json, quiet=quiet)
    encoder = _load(upstream)
    space, subnet = encoder.space, encoder.network.subnet
    stored, head_dim = kept_layers(subnet.depth, subnet.stored), subnet.stored.head_dim
    layers = zip(subnet.heads, subnet.ffn_dims, subnet.ratios, strict=True)
    output.table(
        f"{encoder.spec.name}: {subnet.depth} layers of {subnet.embed_dim}, {space.name} space",
        ("layer", "stored as, from 0", "heads", "attention dim", "ffn dim", "ffn ratio"),
        [
            (i, stored[i - 1], heads, head_dim * heads, inner, f"{ratio:g}")
            for i, (heads, inner, ratio) in enumerate(layers, start=1)
        ],
    )
    found = _describe(subnet, encoder)
    output.print(f"parameters   {found['parameters']:,}")
    output.print(f"SUPERB MACs  {found['macs']:,}")
    output.print(f"in full      {found['text']}")
    output.finish(
        upstream=encoder.spec.name,
        space=space.name,
        extractor_mode=encoder.network.mode,
        stored_layers=stored,
        **found,
    )


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
    import random

    output = Output(json=json, quiet=quiet)
    encoder = _supernet(supernet)
    generator = random.Random(seed)
    subnets = [_describe(encoder.space.sample(generator), encoder) for _ in range(number)]
    for found in subnets:
        output.print(
            f"{found['parameters']:>10,} parameters {found['macs']:>17,} MACs  {found['text']}"
        )
    output.finish(space=encoder.space.name, seed=seed, subnets=subnets)


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
    import auscult
    from auscult.upstreams import load_upstream
    from auscult.upstreams.lighthubert.export import export_subnet, export_transformers

    output = Output(json=json, quiet=quiet)
    encoder = _checked(upstream, auscult.load(upstream))
    (export_subnet if format == "auscult" else export_transformers)(encoder, out)
    spec = f"{'lighthubert' if format == 'auscult' else 'hf'}:{out}"
    written = load_upstream(spec).spec
    size = sum(file.stat().st_size for file in out.iterdir())
    output.print(f"{spec}: {written.num_parameters:,} parameters, {size / 1e6:,.1f} MB")
    output.finish(
        upstream=encoder.spec.name,
        spec=spec,
        subnet=encoder.spec.subnet,
        parameters=written.num_parameters,
        bytes=size,
        sha256=written.sha256,
    )


def _supernet(spec: str) -> "LightHubertUpstream":
    """Return an encoder of ``spec`` for its space.

    Raises:
        UserError: ``spec`` is not a supernet, or a single subnet of one.
    """
    from auscult.address import parse_address
    from auscult.upstreams.lighthubert.checkpoint import find_file

    address = parse_address(spec)
    if address.subnet:
        raise UserError(f"{spec} is one subnet; drop @{address.subnet} to ask about all.")
    if address.checkpoint and find_file(Path(address.checkpoint).expanduser()) is None:
        raise UserError(f"{spec} is one subnet, cut out; name the supernet it came from.")
    return _load(spec)


def _load(spec: str) -> "LightHubertUpstream":
    from auscult.upstreams import outline_upstream

    return _checked(spec, outline_upstream(spec))


def _checked(spec: str, encoder: "Upstream") -> "LightHubertUpstream":
    """Return ``encoder`` if it is a subnet.

    Raises:
        UserError: It is of another family.
    """
    from auscult.upstreams.lighthubert import LightHubertUpstream

    if not isinstance(encoder, LightHubertUpstream):
        raise UserError(
            f"{spec} has no subnets; name a supernet: lighthubert_small, lighthubert_base or "
            "lighthubert:FILE."
        )
    return encoder


def _describe(subnet: "Subnet", encoder: "LightHubertUpstream") -> dict[str, Any]:
    """Return the text, the reference implementation's dict and the cost of a subnet."""
    from auscult.upstreams.lighthubert.cost import count_parameters, count_superb_macs

    return {
        "text": str(subnet),
        "subnet": subnet.to_dict(),
        "parameters": count_parameters(subnet, encoder.network.mode),
        "macs": count_superb_macs(subnet),
    }
