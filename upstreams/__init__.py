"""Encoders: one family a file, all behind one contract."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from auscult.address import Address, parse_address
from auscult.errors import UserError, unknown
from auscult.upstream import Upstream

from .shape import SHAPES, Shape

__all__ = ["FAMILIES", "SHAPES", "Family", "Shape", "load_upstream"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A kind of encoder that an address can name; imported when asked for."""

    name: str
    target: str  # module:function, called with the address and a seed
    needs: str  # what follows the name
    description: str
    example: str


_ROWS = (
    Family(
        name="fbank",
        target="auscult.upstreams.spectral:load",
        needs="nothing",
        description="SUPERB's baseline: 80 log-mel filters, two deltas, CMVN of each utterance",
        example="fbank",
    ),
    Family(
        name="mfcc",
        target="auscult.upstreams.spectral:load",
        needs="nothing",
        description="13 Kaldi cepstra, two deltas, CMVN of each utterance",
        example="mfcc",
    ),
    Family(
        name="log_mel",
        target="auscult.upstreams.spectral:load",
        needs="nothing",
        description="80 log-mel filters as they are: no deltas, no CMVN",
        example="log_mel",
    ),
    Family(
        name="hf",
        target="auscult.upstreams.huggingface:load",
        needs="a folder or hub id",
        description="a transformers speech encoder (HuBERT, wav2vec 2.0, WavLM, w2v-BERT 2.0, ...)",
        example="hf:facebook/hubert-base-ls960",
    ),
    Family(
        name="s3prl",
        target="auscult.upstreams.s3prl_upstream:load",
        needs="an s3prl upstream's name, then its checkpoint where it takes one",
        description="any upstream of s3prl's hub",
        example="s3prl:tera_local:/models/tera.ckpt",
    ),
)
FAMILIES: Mapping[str, Family] = {family.name: family for family in _ROWS}


def load_upstream(spec: str, *, seed: int = 0) -> Upstream:
    """Build the encoder that ``spec`` addresses, in evaluation mode on the CPU.

    Args:
        spec: ``family[:checkpoint][@subnet]``, or ``random(...)`` around it or around a shape.
        seed: Seed of the weights inside ``random(...)`` where ``spec`` itself names none.

    Raises:
        UserError: Unknown family or shape, missing checkpoint or unreadable file.
    """
    address = parse_address(spec)
    if address.random:
        seed = seed if address.seed is None else address.seed
        address = replace(address, seed=seed or None)
    return _loader(address)(address, seed).eval()


def _loader(address: Address) -> Callable[[Address, int], Upstream]:
    name = address.family
    if name in SHAPES:
        if not address.random:
            raise UserError(
                f"{name} is a shape without weights: write random({name}) for weights from a seed, "
                f"or name a checkpoint, such as hf:/models/{name}."
            )
        if address.checkpoint or address.subnet:
            raise UserError(f"{address}: a shape has no checkpoint and no subnet; random({name}).")
        target = "auscult.upstreams.huggingface:load_shape"
    elif name in FAMILIES:
        target = FAMILIES[name].target
    else:
        raise unknown("upstream", name, [*FAMILIES, *SHAPES])
    module, _, function = target.partition(":")
    loader: Callable[[Address, int], Upstream] = getattr(importlib.import_module(module), function)
    return loader
