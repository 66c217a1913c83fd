"""Pretraining of Audio ALBERT: Mockingjay's, with one block shared by all layers.

Source: Chi et al., SLT 2021, arXiv 2005.08575.
Reference: s3prl, branch AlbertNew.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from . import pretraining
from .pretraining import build

__all__ = ["PRESETS", "Config", "build"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(pretraining.Config):
    """Audio ALBERT of six layers as its paper pretrains it on 360 hours, but with AdamW.

    The paper's optimiser is LAMB; its authors' later code takes AdamW at the same rate, and crops
    of ten seconds. s3prl's Audio ALBERT is Mockingjay's configuration.
    """

    batch_seconds: float = 480.0  # 48 crops
    crop_seconds: float = 10.0
    learning_rate: float = 5e-5
    warmup: float = 0.1
    gradient_clipping: float = 10.0
    front_end: str = "albert"
    stack: int = 3
    num_layers: int = 6
    dropout: float = 0.0
    span: int = 1
    overlap: bool = False
    target: str = "linear"

    share: ClassVar[bool] = True


# at the width, depth and task of Mockingjay's presets, so that sharing is the only difference
_AS_MOCKINGJAY = tuple(
    f"{name}={getattr(pretraining.Config(), name)}"
    for name in ("front_end", "stack", "num_layers", "span", "overlap", "target", "warmup", "eps")
)
PRESETS: Mapping[str, tuple[str, ...]] = {
    name: (*_AS_MOCKINGJAY, *assignments) for name, assignments in pretraining.PRESETS.items()
}
