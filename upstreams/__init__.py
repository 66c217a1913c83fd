"""Encoders: one family a file, all behind one contract."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch

from auscult.address import Address, parse_address, place
from auscult.errors import UserError, unknown
from auscult.registry import Table
from auscult.upstream import Upstream

from .shape import SHAPES, Shape

__all__ = [
    "FAMILIES",
    "OPTIONS",
    "SHAPES",
    "TABLE",
    "Family",
    "Shape",
    "load_upstream",
    "outline_upstream",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A kind of encoder that an address can name; imported when asked for."""

    name: str
    target: str  # module:function, called with the address and a seed
    needs: str  # what follows the name
    description: str
    example: str
    subnets: bool = False  # whether @ may follow the checkpoint
    options: tuple[str, ...] = ()  # that may follow a file, behind ?
    ships: bool = False  # whether its weights come with Auscult


OPTIONS: Mapping[str, str] = {  # what a state dict does not say
    "heads": "how many attention heads: 12",
    "norm": "whether blocks normalise before or after what they add: pre or post",
    "normalize": "whether each utterance is normalised: yes or no",
    "strides": "of the convolutions, where their kernels are odd: 5-2-2-2-2-2-2",
}
_BARE = tuple(OPTIONS)
_TINY = "auscult.upstreams.packaged:load"
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
        target="auscult.upstreams.huggingface.upstream:load",
        needs="a folder or hub id",
        description="a transformers speech encoder (HuBERT, wav2vec 2.0, WavLM, w2v-BERT 2.0, ...)",
        example="hf:facebook/hubert-base-ls960",
    ),
    Family(
        name="lighthubert",
        target="auscult.upstreams.lighthubert:load",
        needs="a checkpoint file or an exported folder, then @ and a subnet",
        description="LightHuBERT's once-for-all supernet, any of its subnets",
        example="lighthubert:lighthubert_small.pt@a_small",
        subnets=True,
    ),
    Family(
        name="hubert",
        target="auscult.upstreams.fairseq:load",
        needs="a file of fairseq, s3prl, torchaudio or transformers, or a folder",
        description="HuBERT, any size; options behind a state dict of an odd size: ?heads=8",
        example="hubert:hubert_base_ls960.pt",
        options=_BARE,
    ),
    Family(
        name="wav2vec2",
        target="auscult.upstreams.fairseq:load",
        needs="a file of fairseq, s3prl, torchaudio or transformers, or a folder",
        description="wav2vec 2.0, any size; options as behind hubert: ?heads=8,norm=pre",
        example="wav2vec2:wav2vec_small.pt",
        options=_BARE,
    ),
    Family(
        name="wavlm",
        target="auscult.upstreams.fairseq:load",
        needs="a file as its authors or torchaudio or transformers store it, or a folder",
        description="WavLM, any size; options as behind hubert: ?norm=pre,normalize=yes",
        example="wavlm:WavLM-Base.pt",
        options=_BARE,
    ),
    Family(
        name="distilhubert",
        target="auscult.upstreams.fairseq:load",
        needs="a checkpoint file of s3prl's Distiller, or a folder",
        description="DistilHuBERT",
        example="distilhubert:distilhubert.ckpt",
    ),
    Family(
        name="mockingjay",
        target="auscult.upstreams.mockingjay:load",
        needs="a checkpoint file of s3prl or of its branch AlbertNew",
        description="Mockingjay: BERT blocks on log-mel features",
        example="mockingjay:mockingjay.ckpt",
    ),
    Family(
        name="audio_albert",
        target="auscult.upstreams.mockingjay:load",
        needs="a checkpoint file of s3prl or of its branch AlbertNew",
        description="Audio ALBERT: one BERT block applied at every layer",
        example="audio_albert:audio_albert.ckpt",
    ),
    Family(
        name="w2v_bert",
        target="auscult.upstreams.w2v_bert:load",
        needs="a safetensors file or its folder",
        description="w2v-BERT of 2021: contrastive and masked-prediction conformers",
        example="w2v_bert:models/w2v-bert",
    ),
    Family(
        name="s3prl",
        target="auscult.upstreams.s3prl_upstream:load",
        needs="an s3prl upstream's name, then its checkpoint where it takes one",
        description="any upstream of s3prl's hub",
        example="s3prl:tera_local:/models/tera.ckpt",
        subnets=True,  # it has none: an @ belongs to the path
    ),
    Family(
        name="tiny_hubert",
        target=_TINY,
        needs="nothing",
        description="comes with Auscult: a HuBERT of MFCC clusters, teacher of tiny_lighthubert",
        example="tiny_hubert",
        ships=True,
    ),
    Family(
        name="tiny_lighthubert",
        target=_TINY,
        needs="nothing, then @ and a subnet",
        description="comes with Auscult: a supernet distilled from tiny_hubert in two stages",
        example="tiny_lighthubert@largest",
        subnets=True,
        ships=True,
    ),
    Family(
        name="tiny_mockingjay",
        target=_TINY,
        needs="nothing",
        description="comes with Auscult: a Mockingjay of 3 layers",
        example="tiny_mockingjay",
        ships=True,
    ),
    Family(
        name="tiny_audio_albert",
        target=_TINY,
        needs="nothing",
        description="comes with Auscult: an Audio ALBERT as wide and as deep as tiny_mockingjay",
        example="tiny_audio_albert",
        ships=True,
    ),
    Family(
        name="tiny_w2v_bert",
        target=_TINY,
        needs="nothing",
        description="comes with Auscult: a w2v-BERT of 2021",
        example="tiny_w2v_bert",
        ships=True,
    ),
)
FAMILIES: Mapping[str, Family] = {family.name: family for family in _ROWS}
TABLE: Table[Family | Shape] = Table("upstream", {**SHAPES, **FAMILIES}, "auscult.upstreams")


def load_upstream(spec: str, *, seed: int = 0) -> Upstream:
    """Build the encoder that ``spec`` addresses, in evaluation mode on the CPU.

    Args:
        spec: ``family[:checkpoint][?options][@subnet]``, or ``random(...)`` around it or a shape;
            ``python:FILE.py:NAME`` is somebody's own, and comes from the user's hand alone.
        seed: Seed of the weights inside ``random(...)`` where ``spec`` itself names none.

    Raises:
        UserError: Unknown family or shape, missing checkpoint or unreadable file.
    """
    address = parse_address(spec)
    if address.random:
        seed = seed if address.seed is None else address.seed
        address = replace(address, seed=seed or None)
    loader = _loader(address)
    try:
        return loader(address, seed).eval().note_weights()
    except UserError as error:
        made = _pretrained_as(address.checkpoint) if address.checkpoint else ""
        if made not in FAMILIES or made == address.family:
            raise
        raise UserError(f"{error} It was made by `auscult pretrain {made}`: load it so.") from error


def _pretrained_as(checkpoint: str) -> str:
    """Return the family that a folder was pretrained as; empty where nothing says so."""
    from auscult.training_run import read_training

    try:
        settings = read_training(place(checkpoint)) or {}
    except UserError:
        return ""
    return str(settings.get("family", ""))


def outline_upstream(spec: str) -> Upstream:
    """Build the encoder that ``spec`` addresses for its structure, drawing no random weights.

    Those of a shape, with or without ``random(...)`` around it, stand on the meta device: they have
    shapes, no values and no fingerprint. Other addresses are loaded.

    Raises:
        UserError: As :func:`load_upstream`.
    """
    address = parse_address(spec)
    if _is_shape(address):
        address = replace(address, random=True)
    if not address.random or TABLE.is_foreign(address.family):
        return load_upstream(spec)
    loader = _loader(address)  # not under meta: what it imports may make tensors of its own
    with torch.device("meta"):
        return loader(address, 0).eval()


def _is_shape(address: Address) -> bool:
    """Say whether a shape is named; with a checkpoint, a name of both a shape and a family is not.

    ``distilhubert:FILE`` is a file of that family, ``random(distilhubert)`` the published shape.
    """
    of_family = address.checkpoint and address.family in FAMILIES
    return address.family in SHAPES and not of_family


def _example(shape: str) -> str:
    """Return an address of weights that have this shape's architecture."""
    return FAMILIES.get(SHAPES[shape].family, FAMILIES["hf"]).example


def _loader(address: Address) -> Callable[[Address, int], Upstream]:
    name = address.family
    if _is_shape(address):
        if not address.random:
            bare = replace(address, checkpoint="")
            raise UserError(
                f"{name} is a shape without weights: write random({bare}) for weights from a seed, "
                f"or name a checkpoint, such as {_example(name)}."
            )
        if address.checkpoint:
            raise UserError(f"{address}: a shape has no checkpoint; write random({name}).")
        row: Shape | Family = SHAPES[name]
    elif name in FAMILIES:
        row = FAMILIES[name]
    else:
        return _foreign(address)
    lacks_checkpoint = isinstance(row, Family) and not address.checkpoint  # its loader says so
    if address.subnet and not row.subnets and not lacks_checkpoint:
        raise UserError(f"{address}: {name} has no subnets; drop @{address.subnet}.")
    for option, _ in address.options:
        known = row.options if isinstance(row, Family) else ()
        if not known:
            raise UserError(f"{address}: {name} takes no options; drop ?{option}=...")
        if option not in known:
            raise unknown("option", option, known)
    module, _, function = row.target.partition(":")
    loader: Callable[[Address, int], Upstream] = getattr(importlib.import_module(module), function)
    return loader


def _foreign(address: Address) -> Callable[[Address, int], Upstream]:
    """Return the loader of an encoder that is not ours.

    Raises:
        UserError: There is none of that name, or it cannot be imported.
    """
    from .plugin import load

    if address.options and TABLE.is_foreign(address.family):
        option, _ = address.options[0]
        raise UserError(f"{address}: {address.family} takes no options; drop ?{option}=...")
    found = TABLE.find(":".join(filter(None, (address.family, address.checkpoint))))
    return partial(load, found)
