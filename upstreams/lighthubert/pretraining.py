"""LightHuBERT's two stages: a supernet predicts a teacher's layers at hidden frames.

The first trains the largest network from nothing; the second goes on from its weights with a random
subnet at each step, so that all of them share what they learn.

Source: arXiv 2203.15610; what it leaves open is said at `Config`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar, TypeVar

import torch
from torch import nn

from auscult.errors import UserError, unknown
from auscult.objective import Batch, Objective, Term, Training
from auscult.upstream import fingerprint_weights

from .. import load_upstream
from ..huggingface.upstream import HuggingFaceUpstream
from ..masking import span_mask
from ..pretraining import need_teacher
from .checkpoint import find_file, read_published, write_supernet
from .network import DROPOUT, num_frames
from .scaled import build_space
from .space import BASE, PUBLISHED, SPACES, Dimensions, SearchSpace, Subnet, ffn_dim, whole
from .supernet import Supernet, draw_supernet
from .target import Norm, as_teacher, teacher_target
from .upstream import prepare

NUMBERS = "numbers"
_CHOICES = ("embed_dims", "heads", "ratios", "depths")
_NORMS: Mapping[str, Norm] = {"instance": "instance", "layer": "layer"}

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Training):
    """Teacher, stage and space.

    Steps, batch and rate are not public: these are data2vec audio Base's, whose code the authors'
    builds on, but for its rate that is held for nine tenths before it falls. Not public either is
    which norm the target has; and the loss is a mean over the target's dimensions, not their sum.
    The authors' scripts also drop whole layers, one in twenty, which is left out here. Attention
    has no dropout: in their code, whatever is set, it is not applied.
    """

    teacher: str = ""  # a HuBERT or the like; the authors' is HuBERT Base in both stages
    stage: int = 1
    start: str = ""  # what the first stage wrote, for the second
    space: str = "small"  # or base; or numbers, given by the eight that follow
    embed_dims: str = ""  # joined with -, such as 96-128-192
    heads: str = ""
    ratios: str = ""
    depths: str = ""
    head_dim: int = PUBLISHED.head_dim
    conv_channels: int = PUBLISHED.channels
    conv_pos: int = PUBLISHED.position_kernel
    conv_pos_groups: int = PUBLISHED.position_groups
    top_layers: int = 8  # blocks of the teacher that are averaged
    target_norm: str = "instance"  # or layer
    sandwich: bool = False  # largest, smallest and one random subnet at each step
    mask_probability: float = 0.65
    mask_span: int = 10  # frames
    mask_spans: int = 2  # at least so many in a crop
    unmasked_weight: float = 0.0  # of frames that are not hidden, in the loss
    dropout: float = DROPOUT

    total_steps: int = 400_000
    batch_seconds: float = 3_800.0
    crop_seconds: float = 20.0
    learning_rate: float = 5e-4
    warmup: float = 0.03
    eps: float = 1e-8  # not data2vec's 1e-6: of a mean over dimensions gradients are smaller

    may_be_zero: ClassVar[tuple[str, ...]] = (*Training.may_be_zero, "dropout", "unmasked_weight")


_CPU = (
    *("space=numbers", "head_dim=32", "dropout=0"),
    *("crop_seconds=3", "learning_rate=2e-3", "warmup=0.07"),
    "unmasked_weight=1",  # without it 200 updates gain 1 % on predicting zero
)
PRESETS: Mapping[str, tuple[str, ...]] = {
    "tiny": (
        *_CPU,
        *("embed_dims=64-96-128", "heads=2-3-4", "ratios=2-2.5-3", "depths=2-3-4"),
        *("conv_channels=64", "conv_pos=32", "top_layers=3"),
        *("total_steps=2000", "batch_seconds=12"),
    ),
    "small": (
        *_CPU,
        *("embed_dims=128-192-256", "heads=4-6-8", "ratios=2-2.5-3", "depths=4-5-6"),
        *("conv_channels=128", "conv_pos=64", "top_layers=4"),
        *("total_steps=2500", "batch_seconds=24"),
    ),
}


class Distillation(Objective):
    """A supernet that predicts, where its input is hidden, what a teacher makes of all of it."""

    def __init__(
        self, supernet: Supernet, space: SearchSpace, teacher: HuggingFaceUpstream, config: Config
    ) -> None:
        super().__init__()
        self.supernet = supernet
        self.space = space
        self.config = config
        self._teacher = (teacher,)  # in a tuple: not of the state dict, and never in train mode
        self._sources = {"teacher": teacher.spec.sha256}
        if config.start:
            self._sources["start"] = fingerprint_weights(supernet.state_dict())

    def sources(self) -> Mapping[str, str]:
        """Return the fingerprints of the teacher and, in the second stage, of the start."""
        return self._sources

    def encoders(self) -> Sequence[nn.Module]:
        """Return the teacher."""
        return self._teacher

    def forward(self, batch: Batch) -> Mapping[str, Term]:
        """Return the L1 loss over hidden and other frames, and what predicting zero would have."""
        config, audio = self.config, batch.audio
        teacher = self._teacher[0].to(audio.samples.device)
        target = teacher_target(teacher, audio, config.top_layers, _NORMS[config.target_norm])
        frames = num_frames(audio.lengths)
        masked = span_mask(
            frames,
            batch.draws,
            probability=config.mask_probability,
            span=config.mask_span,
            least=config.mask_spans,
        )
        valid = torch.arange(masked.shape[1], device=masked.device) < frames[:, None]
        samples = prepare(audio, self.supernet.mode)
        losses = {}  # of each subnet over hidden frames and over the others
        for name, subnet in self.subnets(batch.draw).items():
            last = self.supernet(samples, audio.lengths, subnet, masked)[-1]
            apart = (self.supernet.predict(last).float() - target).abs().mean(-1)
            losses[name] = torch.stack([apart[masked].sum(), apart[valid & ~masked].sum()])
        hidden, seen = masked.sum(), frames.sum() - masked.sum()
        each = {name: Term(loss[0].detach(), hidden, 0.0) for name, loss in losses.items()}
        mean = torch.stack(list(losses.values())).mean(0)
        return {
            "masked": Term(mean[0], hidden),
            "unmasked": Term(mean[1], seen, config.unmasked_weight),
            **(each if len(each) > 1 else {}),
            "masked_by_zero": Term(target[masked].abs().mean(-1).sum(), hidden, 0.0),
            "masked_share": Term(hidden, frames.sum(), 0.0),
        }

    def subnets(self, draw: int) -> dict[str, Subnet]:
        """Return what a step trains, by name: one subnet, or the three of a sandwich."""
        if self.config.stage == 1:
            return {"largest": whole(self.space.stored)}
        drawn = {"random": self.space.sample(draw)}
        if not self.config.sandwich:
            return drawn
        return {"largest": self.space.largest, "smallest": self.space.smallest, **drawn}

    def save(self, folder: Path) -> Sequence[Path]:
        """Write the supernet into ``folder``, for ``lighthubert:FOLDER@SUBNET``."""
        return (write_supernet(self.supernet, self.space, self.config.stage, folder),)


def build(config: Config, seed: int) -> Objective:
    """Return the objective, its weights from ``seed`` or from the first stage.

    Raises:
        UserError: Values that do not go together, or a teacher or start that cannot serve.
    """
    if config.stage not in (1, 2):
        raise UserError(f"stage={config.stage}: expected 1 or 2.")
    if config.target_norm not in _NORMS:
        raise unknown("target_norm", config.target_norm, _NORMS)
    if config.sandwich and config.stage == 1:
        raise UserError("sandwich=true is for stage=2; the first stage trains the largest alone.")
    if bool(config.start) != (config.stage == 2):
        raise UserError(
            "stage=2 needs start=FOLDER, which stage=1 wrote."
            if config.stage == 2
            else f"start={config.start} is for stage=2; the first stage starts from nothing."
        )
    teacher = as_teacher(load_upstream(need_teacher(config.teacher)), config.top_layers)
    space = _find_space(config, teacher.spec.dim)
    if config.stage == 1:
        supernet = draw_supernet("layer_norm", seed, space.stored)
    else:
        supernet = _read_start(config.start, space)
    supernet.dropout = config.dropout
    return Distillation(supernet.train(), space, teacher, config)


def _find_space(config: Config, target_dim: int) -> SearchSpace:
    if config.space == NUMBERS:
        return _space_by_numbers(config, target_dim)
    if config.space not in SPACES:
        raise unknown("space", config.space, (*SPACES, NUMBERS))
    for name in _CHOICES:
        if getattr(config, name):
            raise UserError(f"{name} is for space=numbers; here space={config.space}.")
    # The first stage trains all that is stored, which is the base space's largest.
    space = SPACES[config.space] if config.stage == 2 else BASE
    if target_dim == PUBLISHED.target_dim:
        return space
    return build_space(
        space.name,
        replace(PUBLISHED, target_dim=target_dim),
        embed_dims=space.embed_dims,
        heads=space.heads,
        ratios=space.ratios,
        depths=space.depths,
    )


def _space_by_numbers(config: Config, target_dim: int) -> SearchSpace:
    embed_dims = _choices("embed_dims", config.embed_dims, int)
    heads = _choices("heads", config.heads, int)
    ratios = _choices("ratios", config.ratios, float)
    depths = _choices("depths", config.depths, int)
    stored = Dimensions(
        width=embed_dims[-1],
        ffn=ffn_dim(embed_dims[-1], ratios[-1]),
        heads=heads[-1],
        head_dim=config.head_dim,
        layers=depths[-1],
        channels=config.conv_channels,
        position_kernel=config.conv_pos,
        position_groups=config.conv_pos_groups,
        target_dim=target_dim,
    )
    return build_space(
        "custom", stored, embed_dims=embed_dims, heads=heads, ratios=ratios, depths=depths
    )


def _choices(name: str, text: str, read: Callable[[str], Number]) -> tuple[Number, ...]:
    """Read numbers joined with -, and return them in order."""
    try:
        values = sorted({read(word) for word in text.split("-")})
    except ValueError:
        values = []
    if not values or not 0 < values[0] <= values[-1] < 1e6:
        raise UserError(
            f"{name}={text}: space=numbers needs positive numbers joined with -, such as 2-3-4."
        )
    return tuple(values)


def _read_start(start: str, space: SearchSpace) -> Supernet:
    file = find_file(Path(start).expanduser())
    if file is None:
        raise UserError(f"start={start} holds no supernet: name the folder that stage=1 wrote.")
    supernet = read_published(file).supernet
    wanted = asdict(space.stored)
    for name, value in asdict(supernet.stored).items():
        if value != wanted[name]:
            raise UserError(
                f"start={start} stores a {name} of {value}, and this run has {wanted[name]}; "
                "give both stages the same space and teacher."
            )
    return supernet
