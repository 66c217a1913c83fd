"""The probes: linear, and one and two hidden layers of 768 units, as in Audio ALBERT.

A probe of other people is a class or a function of ``(dim, num_classes)`` that makes an
``nn.Module`` from features (example, dim) to logits (example, label).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from auscult.errors import UserError
from auscult.foreign import Found, blamed, build
from auscult.registry import Table
from auscult.seed import seeded

HIDDEN = 768
PROBES = {"linear": 0, "mlp1": 1, "mlp2": 2}  # name -> hidden layers
TABLE: Table[Any] = Table("probe", PROBES, "auscult.probes")


@dataclass(frozen=True, slots=True, order=True)
class ProbeKey:
    """Which probe of a bank."""

    layer: int
    probe: str
    seed: int
    learning_rate: float


def build_probe(key: ProbeKey, dim: int, num_classes: int) -> nn.Module:
    """Build (example, dim) -> (example, label), its weights a function of ``key`` alone.

    Raises:
        UserError: Somebody's own probe cannot be built, or is none.
    """
    if key.probe not in PROBES:
        return _build_foreign(TABLE.find(key.probe), seed_of(key), dim, num_classes)
    sizes = [dim, *[HIDDEN] * PROBES[key.probe]]
    generator = torch.Generator().manual_seed(seed_of(key))
    blocks: list[nn.Module] = []
    for before, after in zip(sizes, [*sizes[1:], num_classes], strict=True):
        layer = nn.utils.skip_init(nn.Linear, before, after)
        for parameter in layer.parameters():  # as nn.Linear does, from our own generator
            nn.init.uniform_(parameter, -(before**-0.5), before**-0.5, generator=generator)
        blocks += [layer, nn.ReLU()]
    return nn.Sequential(*blocks[:-1])


def seed_of(key: ProbeKey) -> int:
    """Return the seed that the weights of a probe follow from."""
    number = PROBES.get(key.probe, len(PROBES))  # the same under whatever name it is reached
    entropy = np.random.SeedSequence([key.layer, number, key.seed])
    return int(entropy.generate_state(1)[0])


def _build_foreign(found: Found[Any], seed: int, dim: int, num_classes: int) -> nn.Module:
    with seeded(seed):
        network = build(found, dim, num_classes)
    if not isinstance(network, nn.Module) or next(network.parameters(), None) is None:
        raise UserError(
            f"{found.name} makes a {type(network).__name__} without weights; expected an nn.Module "
            "that takes features (example, dim) and returns logits (example, label)."
        )
    with blamed(found.name, "cannot read features"), torch.no_grad(), seeded(seed):
        logits = network.eval()(torch.zeros(3, dim))
        shape = tuple(logits.shape)
    if shape != (3, num_classes):
        raise UserError(
            f"{found.name} returns logits {shape} for features (3, {dim}) and {num_classes} "
            f"classes; expected (3, {num_classes})."
        )
    return network.train()
