"""Encoders of other people: a class or a function that makes an ``nn.Module`` or an `Upstream`.

A module that is no `Upstream` is wrapped. The encoder's fingerprint covers its weights, the code
that it comes from and that code's version, so that all that is kept becomes stale with any of them.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from auscult.address import Address
from auscult.contracts import UpstreamSpec
from auscult.errors import UserError
from auscult.foreign import Found, blamed, build, takes
from auscult.seed import seeded
from auscult.upstream import Upstream, fingerprint_weights
from auscult.wrapped import Wrapped, wrap


def load(found: Found[Any], address: Address, seed: int) -> Upstream:
    """Build somebody's encoder; weights that it draws itself are those of the seed.

    Args:
        found: A class or a function without arguments; what follows its name is its first one. It
            may take ``subnet``, what follows @, and ``seed``, which it is given inside
            ``random(...)``; where it takes none, the weights that it comes with are drawn anew.
        address: Whose name the encoder has.
        seed: Of random weights.

    Raises:
        UserError: It cannot be built, or is no encoder.
    """
    label = found.name.rpartition(":")[2]
    draws = address.random and takes(found.value, "seed")
    with seeded(seed):
        made = _made(found, address, seed if draws else None)
        if not isinstance(made, nn.Module):
            raise UserError(
                f"{found.name} makes a {type(made).__name__}; expected an nn.Module, which is "
                "called with waveforms (batch, time), or an auscult.Upstream."
            )
        if draws:
            _check_drawn(made, _made(found, address, seed + 1), address)
        elif address.random:
            _draw_anew(made, address)
        with blamed(found.name, "cannot encode"):
            upstream = made if isinstance(made, Upstream) else wrap(made, name=label)
            if isinstance(upstream, Wrapped) and address.random:
                upstream.try_batches()
    upstream.spec = _spec(upstream.eval(), found, address)
    return upstream


def _made(found: Found[Any], address: Address, seed: int | None) -> Any:
    places = [found.rest] if found.rest else []
    return build(found, *places, subnet=address.subnet or None, seed=seed)


def _check_drawn(made: nn.Module, other: nn.Module, address: Address) -> None:
    """Raise where two seeds give the same weights: they were read, and no seed draws them.

    Raises:
        UserError: They are the same.
    """
    pairs = zip(made.parameters(), other.parameters(), strict=True)
    if not any((a != b).any() for a, b in pairs):
        bare = replace(address, random=False, seed=None)
        raise UserError(
            f"{bare} takes a seed, and has the same weights for two of them; draw its weights with "
            "it where it is given, or rename the argument to have them drawn anew."
        )


def _spec(upstream: Upstream, found: Found[Any], address: Address) -> UpstreamSpec:
    spec = getattr(upstream, "spec", None)
    if not isinstance(spec, UpstreamSpec):
        raise UserError(
            f"{found.name} is an Upstream without a spec; set self.spec to an "
            "auscult.contracts.UpstreamSpec, or make it a plain nn.Module, which is measured."
        )
    tensors = {name: x for name, x in upstream.state_dict().items() if isinstance(x, Tensor)}
    about = [spec.sha256, found.name.rpartition(":")[2], found.rest, address.subnet]
    about += [found.origin, found.code]
    return replace(
        spec,
        name=str(address),
        subnet=spec.subnet or address.subnet,
        num_parameters=sum(parameter.numel() for parameter in upstream.parameters()),
        source=spec.source or found.name,
        sha256=fingerprint_weights(tensors, about),
        origin=found.origin,
    )


@torch.no_grad()
def _draw_anew(module: nn.Module, address: Address) -> None:
    """Draw all weights as each part initialises itself, children first.

    One that no part draws has the mean and deviation that it had.

    Raises:
        UserError: There are none.
    """
    if next(module.parameters(), None) is None:
        bare = replace(address, random=False, seed=None)
        raise UserError(f"{address} has no weights to draw; write {bare}.")
    for part in reversed(list(module.modules())):
        before = [(x, x.clone()) for x in part.parameters(recurse=False)]
        reset = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)
        if callable(reset):
            with blamed(str(address), "cannot be drawn"):
                reset()
        for now, then in before:
            if torch.equal(now, then) and now.is_floating_point():
                deviation, mean = torch.std_mean(then, correction=0)
                now.normal_().mul_(deviation).add_(mean)
