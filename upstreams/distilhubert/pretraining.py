"""DistilHuBERT: heads on two blocks predict layers of a frozen teacher.

Reference: Chang et al., arXiv 2110.01900; what the paper leaves open is as in s3prl,
pretrain/distiller.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from auscult.contracts import Waveforms
from auscult.errors import UserError
from auscult.objective import Batch, Objective, Term
from auscult.progress import logger
from auscult.seed import seeded
from auscult.upstream import Upstream

from .. import load_upstream
from ..hubert.network import GEOMETRY, HubertNetwork, NetworkTraining
from ..pretraining import need_teacher
from .distiller import PredictionHeads
from .file import write_distiller

CHECKPOINT = "distiller.ckpt"  # as s3prl stores it, with the heads


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(NetworkTraining):
    """The defaults are the paper's, for HuBERT Base as the teacher."""

    total_steps: int = 200_000
    batch_seconds: float = 375.0  # 24 utterances
    crop_seconds: float = 15.625
    learning_rate: float = 2e-4
    weight_decay: float = 1e-6
    gradient_clipping: float = 5.0
    teacher: str = ""  # an encoder's address
    targets: str = "4-8-12"  # the teacher's hidden states
    cosine_weight: float = 1.0  # lambda
    initialize: bool = True  # with the teacher's weights, from the extractor to the first blocks
    layers: int = 2
    activation_dropout: float = 0.1
    input_dropout: float = 0.0
    layerdrop: float = 0.0
    feature_penalty: float = 0.0

    may_be_zero: ClassVar[tuple[str, ...]] = (*NetworkTraining.may_be_zero, "cosine_weight")

    @property
    def target_layers(self) -> tuple[int, ...]:
        """Return the teacher's hidden states that are predicted.

        Raises:
            UserError: ``targets`` is not numbers with dashes between them.
        """
        parts = self.targets.split("-")
        if not all(part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
            raise UserError(
                f"targets={self.targets}: expected different layers of the teacher, such as 4-8-12."
            )
        return tuple(int(part) for part in parts)


_SMALL_SCALE = (
    "crop_seconds=3",
    "learning_rate=1e-3",
    "dropout=0",
    "attention_dropout=0",
    "activation_dropout=0",
    "feature_gradient=1",
    "heads=4",
    "position_kernel=32",
)
PRESETS: Mapping[str, tuple[str, ...]] = {
    # of the same sizes as the teachers that the same presets of hubert make
    "tiny": (
        *_SMALL_SCALE,
        "total_steps=2000",
        "batch_seconds=24",
        "targets=1-2-4",
        "width=128",
        "inner=320",
        "channels=32-32-48-64-64-96-128",
    ),
    "small": (
        *_SMALL_SCALE,
        "total_steps=4000",
        "batch_seconds=48",
        "targets=2-4-6",
        "width=256",
        "inner=768",
        "channels=64-64-96-128-128-192-256",
    ),
}


def build(config: Config, seed: int) -> "DistilHubertObjective":
    """Return the objective with weights from ``seed`` and the teacher.

    Raises:
        UserError: No teacher, or one with other frames, too few layers or no weights to begin with.
    """
    return DistilHubertObjective(config, seed, load_upstream(need_teacher(config.teacher)))


class DistilHubertObjective(Objective):
    """L1 and cosine distance of the predictions from the teacher's layers, at valid frames.

    Args:
        config: How it is trained.
        seed: Of the weights that are not the teacher's.
        teacher: A frozen encoder.
    """

    def __init__(self, config: Config, seed: int, teacher: Upstream) -> None:
        super().__init__()
        spec = teacher.spec
        if spec.geometry != GEOMETRY:
            raise UserError(
                f"teacher={spec.name}: its frames are {spec.geometry}, and DistilHuBERT's are "
                f"{GEOMETRY}; choose a HuBERT, wav2vec 2.0, WavLM or LightHuBERT."
            )
        self.layers = config.target_layers
        if max(self.layers) > spec.num_layers:
            raise UserError(
                f"targets={config.targets}: {spec.name} has hidden states 0 to {spec.num_layers}."
            )
        self.config = config
        self._frozen = (teacher.eval().requires_grad_(False),)  # not part of the state dict
        self.network = HubertNetwork(config, seed, projects_normalized=False)
        with seeded(seed):
            self.heads = PredictionHeads(config.width, config.width, spec.dim, self.layers)
            for name in ("weight", "bias"):  # as a linear map begins
                parameter = self.heads.get_parameter(f"output_layer.2.{name}")
                nn.init.uniform_(parameter, -(config.width**-0.5), config.width**-0.5)
        if config.initialize:
            copy_teacher(self.network, teacher)

    def sources(self) -> Mapping[str, str]:
        """Return the teacher's fingerprint."""
        return {"teacher": self._frozen[0].spec.sha256}

    def encoders(self) -> Sequence[nn.Module]:
        """Return the teacher."""
        return self._frozen

    def forward(self, batch: Batch) -> Mapping[str, Term]:
        """Return both distances, and the cosine of each predicted layer."""
        encoding = self.network(batch.audio)
        valid = encoding.valid
        predicted = self.heads(encoding.last).float().transpose(1, 2)[valid]
        wanted = self._teach(batch.audio)[valid]  # (frame, prediction, dim), as predicted
        cosines = nn.functional.cosine_similarity(predicted, wanted, dim=-1)
        count = float(len(wanted))
        distance = (predicted - wanted).abs().mean((1, 2)).sum()
        angle = -nn.functional.logsigmoid(cosines).mean(1).sum()
        penalty = self.network.penalty(encoding)
        each = zip(self.layers, cosines.detach().unbind(1), strict=True)
        return {
            "l1": Term(distance, count),
            "cosine": Term(angle, count, self.config.cosine_weight),
            "features": Term(penalty, count, self.config.feature_penalty),
            **{f"similarity_{layer}": Term(cosine.sum(), count, 0) for layer, cosine in each},
        }

    def _teach(self, audio: Waveforms) -> Tensor:
        """Return the teacher's layers, (batch, frame, prediction, dim)."""
        teacher = self._frozen[0].to(audio.samples.device)
        with torch.no_grad(), torch.autocast(audio.samples.device.type, enabled=False):
            states = teacher(audio)
        return torch.stack([states.layers[layer] for layer in self.layers], dim=2)

    def save(self, folder: Path) -> Sequence[Path]:
        """Write the encoder for ``distilhubert:FOLDER`` and, with the heads, s3prl's checkpoint."""
        written = self.network.save(folder)
        write_distiller(folder / CHECKPOINT, self.network.model, self.heads)
        return [*written, folder / CHECKPOINT]


def copy_teacher(network: HubertNetwork, teacher: Upstream) -> None:
    """Begin with those parts of the teacher whose shapes agree; the others are named.

    As in s3prl these are the extractor, the projection, the positional convolution and the first
    blocks, but not the layer norm before them.

    Raises:
        UserError: There are none.
    """
    found = getattr(teacher, "model", nn.Identity()).state_dict()
    own = network.model.state_dict()
    apart = []
    parts = ["feature_extractor", "feature_projection", "encoder.pos_conv_embed"]
    parts += [f"encoder.layers.{i}" for i in range(network.model.config.num_hidden_layers)]
    for part in parts:
        wanted = {name: own[name].shape for name in own if name.startswith(f"{part}.")}
        copied = {name: found[name] for name in wanted if name in found}
        if wanted == {name: tensor.shape for name, tensor in copied.items()}:
            network.model.load_state_dict(copied, strict=False)
        else:
            apart.append(part)
    if len(apart) == len(parts):
        raise UserError(
            f"teacher={teacher.spec.name}: no part of it has the names and shapes of the student's "
            "weights; give the student the teacher's sizes, or say initialize=false."
        )
    if apart:
        logger.warning(
            f"{', '.join(apart)} of the student begin at random: {teacher.spec.name} has them in "
            "other shapes or not at all."
        )
