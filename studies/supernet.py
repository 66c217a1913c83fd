"""Supernets: how many subnets there are, what one is made of, and cutting it out."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from auscult.address import parse_address
from auscult.contracts import UpstreamSpec
from auscult.errors import UserError
from auscult.upstream import Upstream
from auscult.upstreams import load_upstream, outline_upstream
from auscult.upstreams.lighthubert import LightHubertUpstream
from auscult.upstreams.lighthubert.checkpoint import find_file
from auscult.upstreams.lighthubert.cost import count_parameters, count_superb_macs
from auscult.upstreams.lighthubert.export import export_subnet, export_transformers
from auscult.upstreams.lighthubert.space import Subnet, kept_layers

from .table import Table

Format = Literal["auscult", "transformers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubnetFound:
    """One subnet, what it weighs and what it costs."""

    space: str
    subnet: Subnet
    parameters: int
    macs: int  # of the 32 utterances of SUPERB's challenge

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values, the subnet as the reference implementation writes it."""
        return {
            "text": str(self.subnet),
            "subnet": self.subnet.to_dict(),
            "parameters": self.parameters,
            "macs": self.macs,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A subnet that was cut out."""

    origin: UpstreamSpec
    upstream: str  # address of what was written
    written: UpstreamSpec
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "upstream": self.origin.name,
            "spec": self.upstream,
            "subnet": self.origin.subnet,
            "parameters": self.written.num_parameters,
            "bytes": self.bytes,
            "sha256": self.written.sha256,
        }


def space_of(supernet: str) -> tuple[str, int]:
    """Return the name of a supernet's space, and how many subnets it has.

    Raises:
        UserError: That is no supernet, or a single subnet of one.
    """
    space = _supernet(supernet).space
    return space.name, space.num_subnets


def draw_subnets(supernet: str, *, seed: int = 0, number: int = 1) -> list[SubnetFound]:
    """Draw subnets as the published training does; the first is that of ``@random(seed)``.

    Raises:
        UserError: That is no supernet, or a single subnet of one.
    """
    encoder = _supernet(supernet)
    generator = random.Random(seed)
    return [_found(encoder.space.sample(generator), encoder) for _ in range(number)]


def look_at_subnet(upstream: str) -> tuple[Table, dict[str, Any]]:
    """Return the layers of a subnet for people, and all of it as JSON values.

    Args:
        upstream: ``SUPERNET@subnet``.

    Raises:
        UserError: There is no such subnet.
    """
    encoder = _checked(upstream, outline_upstream(upstream))
    space, subnet = encoder.space, encoder.network.subnet
    stored, head_dim = kept_layers(subnet.depth, subnet.stored), subnet.stored.head_dim
    layers = zip(subnet.heads, subnet.ffn_dims, subnet.ratios, strict=True)
    table = Table(
        f"{encoder.spec.name}: {subnet.depth} layers of {subnet.embed_dim}, {space.name} space",
        ("layer", "stored as, from 0", "heads", "attention dim", "ffn dim", "ffn ratio"),
        [
            (i, stored[i - 1], heads, head_dim * heads, inner, f"{ratio:g}")
            for i, (heads, inner, ratio) in enumerate(layers, start=1)
        ],
    )
    return table, {
        "upstream": encoder.spec.name,
        "space": space.name,
        "extractor_mode": encoder.network.mode,
        "stored_layers": stored,
        **_found(subnet, encoder).to_dict(),
    }


def export(upstream: str, out: str | Path, *, format: Format = "auscult") -> Exported:
    """Cut a subnet out of its supernet: a folder that holds its own weights and no others.

    Args:
        upstream: ``SUPERNET@subnet``.
        out: Folder to write, new or empty.
        format: ``auscult``, or ``transformers`` for a HuBERT where blocks are alike.

    Raises:
        UserError: There is no such subnet, it has no such form, or the folder holds something.
    """
    encoder = _checked(upstream, load_upstream(upstream))
    folder = Path(out)
    (export_subnet if format == "auscult" else export_transformers)(encoder, folder)
    spec = f"{'lighthubert' if format == 'auscult' else 'hf'}:{out}"
    return Exported(
        origin=encoder.spec,
        upstream=spec,
        written=load_upstream(spec).spec,
        bytes=sum(file.stat().st_size for file in folder.iterdir()),
    )


def _supernet(spec: str) -> LightHubertUpstream:
    """Return an encoder of ``spec`` for its space.

    Raises:
        UserError: ``spec`` is not a supernet, or a single subnet of one.
    """
    address = parse_address(spec)
    if address.subnet:
        raise UserError(f"{spec} is one subnet; drop @{address.subnet} to ask about all.")
    if address.checkpoint and find_file(Path(address.checkpoint).expanduser()) is None:
        raise UserError(f"{spec} is one subnet, cut out; name the supernet it came from.")
    return _checked(spec, outline_upstream(spec))


def _checked(spec: str, encoder: Upstream) -> LightHubertUpstream:
    """Return ``encoder`` if it is a subnet.

    Raises:
        UserError: It is of another family.
    """
    if not isinstance(encoder, LightHubertUpstream):
        raise UserError(
            f"{spec} has no subnets; name a supernet: lighthubert_small, lighthubert_base or "
            "lighthubert:FILE."
        )
    return encoder


def _found(subnet: Subnet, encoder: LightHubertUpstream) -> SubnetFound:
    return SubnetFound(
        space=encoder.space.name,
        subnet=subnet,
        parameters=count_parameters(subnet, encoder.network.mode),
        macs=count_superb_macs(subnet),
    )
