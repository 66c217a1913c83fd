"""What the subnets of one supernet share while many are looked at: weights and convolutions.

The convolutional extractor is never sliced and is most of what a small subnet costs, so its output
is kept and only the blocks are run again.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from auscult.address import Address, parse_address
from auscult.errors import UserError, unknown
from auscult.upstream import fingerprint_weights

from ..packaged import place_of
from ..shape import SHAPES
from .checkpoint import find_file, read_published
from .network import Extractor, LightHubert
from .space import SPACES, SearchSpace, Subnet
from .subnet import parse_subnet
from .supernet import Supernet, draw_supernet
from .upstream import LightHubertUpstream

KEPT_BYTES = 4 * 2**30  # 11 hours of audio at 512 channels would not fit; 5 do


@dataclass(frozen=True, slots=True)
class Sharing:
    """A supernet under its address, and how its subnets are made encoders."""

    address: Address
    supernet: Supernet
    space: SearchSpace
    default: Subnet  # what the address stands for where no subnet is named
    extractor: "KeptExtractor"

    def network(self, subnet: Subnet) -> LightHubert:
        """Return ``subnet`` with the extractor that all share, and what that has kept."""
        network = self.supernet.cut(subnet).eval()
        network.add_module("feature_extractor", self.extractor)
        return network

    def encoder(self, subnet: Subnet) -> LightHubertUpstream:
        """Return ``subnet`` behind the contract of an encoder, its extractor shared."""
        encoder = self.cut(subnet)
        encoder.network.add_module("feature_extractor", self.extractor)
        return encoder

    def cut(self, subnet: Subnet) -> LightHubertUpstream:
        """Return ``subnet`` as an encoder of its own, as an address loads it."""
        network, name = self.supernet.cut(subnet), self.address_of(subnet)
        source = self.address.checkpoint or self.address.family
        return LightHubertUpstream(network, self.space, name=name, source=source).eval()

    def address_of(self, subnet: Subnet) -> str:
        """Return what loads ``subnet``, and what `auscult subnet export` cuts."""
        return str(replace(self.address, subnet=str(subnet)))

    def fingerprint(self) -> str:
        """Return the sha256 of all that is stored."""
        return fingerprint_weights(self.supernet.state_dict(), [self.supernet.mode])


def share(spec: str, *, device: str = "cpu") -> Sharing:
    """Read the supernet that ``spec`` addresses, or draw one inside ``random(...)``.

    Raises:
        UserError: ``spec`` is no supernet, or one subnet of it.
    """
    address = parse_address(spec)
    if address.subnet:
        raise UserError(f"{spec} is one subnet; drop @{address.subnet} to search among all.")
    shape = None if address.checkpoint else SHAPES.get(address.family)
    if place_of(address).family != "lighthubert" and (
        shape is None or shape.family != "lighthubert"
    ):
        known = [
            *(name for name in SHAPES if name.startswith("lighthubert")),
            "lighthubert:FILE",
            "tiny_lighthubert",
        ]
        raise unknown("supernet", spec, known)
    if shape is None:
        supernet, space, default = _read(address)
    elif not address.random:
        raise UserError(
            f"{spec} is a shape without weights: write random({spec}), or name a checkpoint, such "
            "as lighthubert:lighthubert_small.pt."
        )
    else:
        space = SPACES[shape.settings["space"]]
        mode = shape.settings["extractor_mode"]
        default = parse_subnet(shape.settings["subnet"], space, mode)
        supernet = draw_supernet(mode, address.seed or 0, space.stored)
    supernet = supernet.eval().requires_grad_(False).to(device)
    extractor = supernet.feature_extractor
    assert isinstance(extractor, Extractor)
    return Sharing(address, supernet, space, default, KeptExtractor(extractor))


def _read(address: Address) -> tuple[Supernet, SearchSpace, Subnet]:
    address = place_of(address)
    path = Path(address.checkpoint).expanduser()
    file = find_file(path) if address.checkpoint else None
    if file is None:
        raise UserError(
            f"{address} is no supernet but one subnet of it; name the checkpoint file."
            if address.checkpoint
            else "lighthubert needs the checkpoint of a supernet, such as "
            "lighthubert:lighthubert_small.pt."
        )
    found = read_published(file)
    supernet = found.supernet
    if address.random:
        supernet = draw_supernet(supernet.mode, address.seed or 0, found.space.stored)
    return supernet, found.space, found.default


class KeptExtractor(nn.Module):
    """The convolutions, computed once for each batch of audio that comes again."""

    def __init__(self, extractor: Extractor, most: int = KEPT_BYTES) -> None:
        super().__init__()
        self._extractor = extractor
        self._room = most
        self._kept: dict[str, Tensor] = {}

    def forward(self, samples: Tensor, lengths: Tensor) -> Tensor:
        """Return features (batch, frame, channel) of ``samples`` (batch, time)."""
        key = _key(samples, lengths.tolist())
        if key in self._kept:
            return self._kept[key].to(samples.device)
        features: Tensor = self._extractor(samples, lengths)
        size = features.numel() * features.element_size()
        if size <= self._room:  # beyond that it is computed anew each time
            self._kept[key] = features.detach().cpu()
            self._room -= size
        return features


def _key(samples: Tensor, lengths: Sequence[int]) -> str:
    """Return a fingerprint of a batch and of what it is computed in."""
    autocast = torch.is_autocast_enabled(samples.device.type)
    precision = torch.get_autocast_dtype(samples.device.type) if autocast else samples.dtype
    digest = hashlib.sha256(f"{tuple(samples.shape)} {lengths} {precision}".encode())
    digest.update(samples.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()
