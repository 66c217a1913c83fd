"""LightHuBERT: a supernet, its search spaces and every subnet of them."""

import torch

from auscult.address import Address, place
from auscult.errors import UserError
from auscult.upstream import Upstream

from ..shape import SHAPES
from ..weight import check_size
from .checkpoint import find_file, read_published
from .export import read_exported
from .space import SPACES, ExtractorMode, SearchSpace, Subnet
from .subnet import parse_subnet
from .supernet import Supernet, draw_supernet
from .upstream import LightHubertUpstream

__all__ = ["LightHubertUpstream", "load", "load_shape"]

_WHOLE = 16  # a supernet may be so much larger than a subnet of it


def load(address: Address, seed: int) -> Upstream:
    """Read a subnet of a checkpoint, published or pretrained, or one that was exported.

    Inside ``random(...)`` the file only says which space, extractor and subnet there are.

    Raises:
        UserError: Nothing there, not a LightHuBERT, or no such subnet.
    """
    if not address.checkpoint:
        raise UserError(
            "lighthubert needs a checkpoint file or an exported folder, such as "
            "lighthubert:lighthubert_small.pt@a_small."
        )
    path = place(address.checkpoint)
    file = find_file(path)
    if file is None:
        if address.subnet:
            raise UserError(f"{address}: {path} is one subnet already; drop @{address.subnet}.")
        exported = read_exported(path)
        network, space = exported.network, exported.space
        if address.random:  # the supernet is drawn whole, which is larger than what is stored
            with torch.device("meta"):
                outline = Supernet(network.mode, space.stored)
            check_size(
                path, outline, sum(tensor.nbytes for tensor in network.parameters()) * _WHOLE
            )
            network = draw_supernet(network.mode, seed, space.stored).cut(network.subnet)
    else:
        published = read_published(file)
        supernet, space = published.supernet, published.space
        subnet = _choose(address, space, supernet.mode, published.default)
        if address.random:
            supernet = draw_supernet(supernet.mode, seed, space.stored)
        network = supernet.cut(subnet)
    return LightHubertUpstream(network, space, name=str(address), source=str(path))


def load_shape(address: Address, seed: int) -> Upstream:
    """Build a subnet of a named shape, its supernet's weights drawn from ``seed``.

    Raises:
        UserError: No such subnet.
    """
    shape = SHAPES[address.family]
    space: SearchSpace = SPACES[shape.settings["space"]]
    mode: ExtractorMode = shape.settings["extractor_mode"]
    default = parse_subnet(shape.settings["subnet"], space, mode)
    subnet = _choose(address, space, mode, default)
    network = draw_supernet(mode, seed).cut(subnet)
    return LightHubertUpstream(network, space, name=str(address), source=shape.name)


def _choose(address: Address, space: SearchSpace, mode: ExtractorMode, default: Subnet) -> Subnet:
    return parse_subnet(address.subnet, space, mode) if address.subnet else default
