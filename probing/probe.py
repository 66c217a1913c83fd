"""The probes: linear, and one and two hidden layers of 768 units, as in Audio ALBERT."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

HIDDEN = 768
PROBES = {"linear": 0, "mlp1": 1, "mlp2": 2}  # name -> hidden layers


@dataclass(frozen=True, slots=True, order=True)
class ProbeKey:
    """Which probe of a bank."""

    layer: int
    probe: str
    seed: int
    learning_rate: float


def build_probe(key: ProbeKey, dim: int, num_classes: int) -> nn.Sequential:
    """Build (example, dim) -> (example, label), its weights a function of ``key`` alone."""
    sizes = [dim, *[HIDDEN] * PROBES[key.probe]]
    generator = torch.Generator().manual_seed(_seed_of(key))
    blocks: list[nn.Module] = []
    for before, after in zip(sizes, [*sizes[1:], num_classes], strict=True):
        layer = nn.utils.skip_init(nn.Linear, before, after)
        for parameter in layer.parameters():  # as nn.Linear does, from our own generator
            nn.init.uniform_(parameter, -(before**-0.5), before**-0.5, generator=generator)
        blocks += [layer, nn.ReLU()]
    return nn.Sequential(*blocks[:-1])


def _seed_of(key: ProbeKey) -> int:
    entropy = np.random.SeedSequence([key.layer, PROBES[key.probe], key.seed])
    return int(entropy.generate_state(1)[0])
