"""What can be pretrained: each family's objective, configuration and presets, by name."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from auscult.config import override
from auscult.errors import UserError, unknown
from auscult.objective import Objective, Training

__all__ = ["PRETRAININGS", "Pretraining", "find_pretraining"]

PUBLISHED = "published"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretraining:
    """A family that ``auscult pretrain`` can make; imported when asked for.

    The module has ``Config``, a `Training` whose defaults are the published protocol; ``PRESETS``,
    assignments by preset name (``tiny`` and ``small`` are for a CPU); and ``build(config, seed)``.
    """

    name: str
    module: str
    description: str
    loads_as: str  # the address of the result, {} standing for its folder

    def configure(self, preset: str, assignments: Sequence[str]) -> Training:
        """Return the preset with changes.

        Raises:
            UserError: An unknown preset or key, or a value of another type.
        """
        module = self._import()
        presets: Mapping[str, tuple[str, ...]] = {PUBLISHED: (), **module.PRESETS}
        if preset not in presets:
            raise unknown("preset", preset, presets)
        config: Training = override(module.Config(), [*presets[preset], *assignments])
        return config

    def build(self, config: Training, seed: int) -> Objective:
        """Return the objective with weights from ``seed``."""
        objective: Objective = self._import().build(config, seed)
        return objective

    def _import(self) -> Any:
        return importlib.import_module(self.module)


_ROWS = (
    Pretraining(
        name="mockingjay",
        module="auscult.upstreams.mockingjay.pretraining",
        description="masked acoustic model: hidden frames are predicted with an L1 loss",
        loads_as="mockingjay:{}",
    ),
    Pretraining(
        name="audio_albert",
        module="auscult.upstreams.mockingjay.albert_pretraining",
        description="the same, with one block shared by all layers",
        loads_as="audio_albert:{}",
    ),
    Pretraining(
        name="hubert",
        module="auscult.upstreams.hubert.pretraining",
        description="clusters of MFCC, or of a layer of an encoder, are predicted at hidden frames",
        loads_as="hubert:{}",
    ),
    Pretraining(
        name="distilhubert",
        module="auscult.upstreams.distilhubert.pretraining",
        description="layers of a teacher are predicted by heads on two blocks",
        loads_as="distilhubert:{}",
    ),
    Pretraining(
        name="lighthubert",
        module="auscult.upstreams.lighthubert.pretraining",
        description="a supernet predicts a teacher's layers at hidden frames, in two stages",
        loads_as="lighthubert:{}",
    ),
    Pretraining(
        name="w2v_bert",
        module="auscult.upstreams.w2v_bert.pretraining",
        description="contrastive learning and prediction of its own codes at hidden frames",
        loads_as="w2v_bert:{}",
    ),
)
PRETRAININGS: Mapping[str, Pretraining] = {row.name: row for row in _ROWS}


def find_pretraining(name: str) -> Pretraining:
    """Return the family called ``name``.

    Raises:
        UserError: There is none.
    """
    if name not in PRETRAININGS:
        raise unknown("family", name, PRETRAININGS)
    return PRETRAININGS[name]


def need_teacher(teacher: str) -> str:
    """Return the teacher's address.

    Raises:
        UserError: None was named.
    """
    if not teacher:
        raise UserError(
            "teacher is not set: name the encoder to learn from, such as "
            "teacher=hubert:models/teacher or teacher=hf:facebook/hubert-base-ls960."
        )
    return teacher
