"""How a w2v-BERT learns: to tell hidden frames' codes from others', and to name these codes.

The loss is ``contrastive_weight * (contrastive + diversity_weight * diversity) +
masked_prediction_weight * masked_prediction``. Without the contrastive part, which alone trains the
quantiser, features drift until all of them have one code, which is then predicted perfectly.

The same as published: the filterbanks' masking in spans of 10 frames that start at 6.5 % of them,
random vectors there, one codebook of 1024, weights 1, 0.1 and 1, Adam with a peak of 2e-3 after
25 000 of 400 000 updates of 2048 utterances (XL), then falling with the inverse root of the step.

Not published, so decided here: 100 distractors, cosine over 0.1 and the Gumbel temperatures are
those of wav2vec 2.0, as in fairseq's re-implementation; dropout is the conformer's 0.1; crops have
20 s at most, as wav2vec 2.0 Large has them; the code to name is the quantiser's likeliest, without
Gumbel noise; diversity is that of hidden frames, as in wav2vec 2.0. Batch norm's statistics,
diversity and noise are those of each part of a batch that is accumulated or shared. Not the same:
XXL's optimiser was Adafactor. Each crop's filterbanks are normalised by the crop's own statistics.

Source: Chung et al., ASRU 2021, arXiv 2108.06209; Baevski et al., NeurIPS 2020, arXiv 2006.11477.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from auscult.errors import UserError
from auscult.objective import Batch, Objective, Term, Training
from auscult.seed import seeded

from ..masking import span_mask
from .checkpoint import save_w2v_bert
from .dimension import Dimensions
from .encoder import compute_filterbanks, input_recipe
from .model import Pretraining, W2vBert, build_w2v_bert

CONTRASTIVE_TEMPERATURE = 0.1
_DISTRACTORS = 1  # a stream of the row's seed that the mask does not draw from

# Spans of 5 frames, 200 ms as in wav2vec 2.0: most of the published 400 ms cannot be told from its
# context by a few blocks, which then stay at chance.
PRESETS: Mapping[str, tuple[str, ...]] = {
    "tiny": (
        "contrastive_blocks=2",
        "masked_prediction_blocks=2",
        "dim=96",
        "heads=4",
        "feed_forward=320",
        "channels=16",
        "codebook=64",
        "code_dim=96",
        "dropout=0",
        "mask_start=0.13",
        "mask_span=5",
        "temperature_decay=0.999",
        "diversity_weight=0.3",
        "total_steps=1500",
        "batch_seconds=48",
        "crop_seconds=3",
        "learning_rate=1e-3",
        "weight_decay=0.01",
        "schedule=linear",
    ),
    "small": (
        "contrastive_blocks=3",
        "masked_prediction_blocks=3",
        "dim=192",
        "heads=4",
        "feed_forward=640",
        "channels=32",
        "codebook=128",
        "code_dim=192",
        "mask_start=0.13",
        "mask_span=5",
        "temperature_decay=0.9995",
        "total_steps=6000",
        "batch_seconds=48",
        "crop_seconds=4",
        "learning_rate=1e-3",
        "schedule=linear",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Training):
    """Sizes, as `Dimensions` explains them, losses and training; the defaults are those of XL."""

    contrastive_blocks: int = 12
    masked_prediction_blocks: int = 12
    dim: int = 1024
    heads: int = 8
    feed_forward: int = 4096
    conv_kernel: int = 5
    filters: int = 80
    channels: int = 128
    codebook: int = 1024
    code_dim: int = 1024

    dropout: float = 0.1
    mask_start: float = 0.065  # share of frames at which a hidden span starts
    mask_span: int = 10  # frames
    distractors: int = 100
    temperature: float = 2.0  # of the quantiser, at first
    temperature_end: float = 0.1
    temperature_decay: float = 0.999995  # its factor each update
    contrastive_weight: float = 1.0  # beta
    masked_prediction_weight: float = 1.0  # gamma
    diversity_weight: float = 0.1  # alpha

    total_steps: int = 400_000
    batch_seconds: float = 2048 * 20.0
    crop_seconds: float = 20.0
    learning_rate: float = 2e-3
    warmup: float = 25_000 / 400_000
    schedule: str = "inverse_root"
    weight_decay: float = 0.0

    may_be_zero: ClassVar[tuple[str, ...]] = (
        *Training.may_be_zero,
        "contrastive_blocks",
        "masked_prediction_blocks",
        "dropout",
        "contrastive_weight",
        "masked_prediction_weight",
        "diversity_weight",
    )

    def __post_init__(self) -> None:
        Training.__post_init__(self)  # super() does not know a class with slots
        if self.temperature_end > self.temperature or self.temperature_decay > 1:
            raise UserError(
                f"temperature={self.temperature:g} cannot fall to temperature_end="
                f"{self.temperature_end:g} by temperature_decay={self.temperature_decay:g}."
            )

    @property
    def dimensions(self) -> Dimensions:
        """The sizes alone."""
        return Dimensions(**{field.name: getattr(self, field.name) for field in fields(Dimensions)})


class W2vBertObjective(Objective):
    """A w2v-BERT with its three losses."""

    def __init__(self, model: W2vBert, config: Config) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.recipe = input_recipe(model.dimensions)
        self.temperature = config.temperature

    def before_step(self, step: int, total_steps: int) -> None:
        """Set the temperature of the quantiser."""
        fallen = self.config.temperature * self.config.temperature_decay**step
        self.temperature = max(fallen, self.config.temperature_end)

    def forward(self, batch: Batch) -> Mapping[str, Term]:
        """Return the losses at hidden frames, accuracies, and how many codes are in use.

        Perplexities are those of one process's part of a batch, averaged over parts.
        """
        steps = self.recipe.num_frames(batch.audio.lengths)
        lengths = self.model.encoder.feature_encoder.num_frames(steps)
        mask = self.mask(lengths, batch.draws)
        filterbanks = compute_filterbanks(batch.audio, self.recipe)
        found = self.model(filterbanks, steps, mask, self.temperature)
        hidden = float(mask.sum())
        return {
            **self._contrastive(found, mask, batch.draws),
            **self._masked_prediction(found, mask),
            "temperature": Term(torch.tensor(self.temperature), 1.0, weight=0.0),
            "masked_share": Term(torch.tensor(hidden), float(lengths.sum()), weight=0.0),
        }

    def mask(self, lengths: Tensor, draws: Sequence[int]) -> Tensor:
        """Return the frames to hide, (batch, frame), in rows of ``lengths`` (batch,) frames."""
        share = self.config.mask_start * self.config.mask_span
        return span_mask(lengths, draws, probability=share, span=self.config.mask_span, least=2)

    def save(self, folder: Path) -> Sequence[Path]:
        """Write the whole model, quantiser and heads included."""
        return save_w2v_bert(self.model, folder)

    def _contrastive(
        self, found: Pretraining, mask: Tensor, draws: Sequence[int]
    ) -> dict[str, Term]:
        config = self.config
        hidden = float(mask.sum())
        chosen = draw_distractors(mask, draws, config.distractors)
        codes = found.targets.codes[mask]
        logits = contrast(found.context[mask], found.targets.vectors[mask], codes, chosen)
        right = torch.zeros_like(codes)
        loss = functional.cross_entropy(logits, right, reduction="sum")
        # without a distractor of another code there is nothing to get right
        correct = (logits.argmax(-1) == 0) & logits[:, 1:].isfinite().any(-1)
        diversity = 1 - perplexity(found.targets.probabilities[mask].mean(0)) / config.codebook
        weight = config.contrastive_weight
        return {
            "contrastive": Term(loss, hidden, weight),
            "diversity": Term(diversity * hidden, hidden, weight * config.diversity_weight),
            "contrastive_accuracy": Term(correct.sum(), hidden, weight=0.0),
        }

    def _masked_prediction(self, found: Pretraining, mask: Tensor) -> dict[str, Term]:
        hidden = float(mask.sum())
        logits = found.logits[mask].float()
        codes = found.targets.probabilities[mask].argmax(-1)  # no gradient passes argmax
        loss = functional.cross_entropy(logits, codes, reduction="sum")
        used = functional.one_hot(codes, self.config.codebook).float().mean(0)
        return {
            "masked_prediction": Term(loss, hidden, self.config.masked_prediction_weight),
            "masked_prediction_accuracy": Term(
                (logits.argmax(-1) == codes).sum(), hidden, weight=0.0
            ),
            "code_perplexity": Term(perplexity(used) * hidden, hidden, weight=0.0),
        }


def draw_distractors(mask: Tensor, draws: Sequence[int], number: int) -> Tensor:
    """Draw other hidden frames of the same row for each hidden frame, with replacement.

    Args:
        mask: (batch, frame), true at hidden frames.
        draws: A seed for each row.
        number: Of distractors.

    Returns:
        (hidden, distractor) int64: indices into ``something[mask]``. A row's only hidden frame has
        none but itself.
    """
    rows, first = [], 0
    for count, seed in zip(mask.sum(1).tolist(), draws, strict=True):
        others = max(count - 1, 1)
        drawn = np.random.default_rng([seed, _DISTRACTORS]).integers(others, size=(count, number))
        if count > 1:
            drawn += drawn >= np.arange(count)[:, None]  # passes the frame itself over
        rows.append(torch.from_numpy(drawn + first))
        first += count
    return torch.cat(rows).to(mask.device)


def contrast(context: Tensor, vectors: Tensor, codes: Tensor, chosen: Tensor) -> Tensor:
    """Return how well contexts fit codes, the true one first.

    A distractor with the code of the frame itself is no distractor: its logit is minus infinity, as
    in wav2vec 2.0.

    Args:
        context: (hidden, code) of each hidden frame.
        vectors: (hidden, code): the codebook's vector of each.
        codes: (hidden,): which it is.
        chosen: (hidden, distractor), indices of distractors.

    Returns:
        (hidden, 1 + distractor): cosines over their temperature.
    """
    towards = functional.normalize(vectors.float(), dim=-1)
    cosines = functional.normalize(context.float(), dim=-1) @ towards.mT  # (hidden, hidden)
    distracting = cosines.gather(1, chosen).masked_fill(codes[chosen] == codes[:, None], -torch.inf)
    return torch.cat([cosines.diagonal()[:, None], distracting], dim=1) / CONTRASTIVE_TEMPERATURE


def perplexity(probabilities: Tensor) -> Tensor:
    """Return how many codes a distribution (codebook,) is worth: all, if it is uniform."""
    return torch.exp(-torch.xlogy(probabilities, probabilities).sum())


def build(config: Config, seed: int) -> W2vBertObjective:
    """Return the objective with weights from ``seed``.

    Raises:
        UserError: Sizes that do not fit each other.
    """
    size = config.dimensions
    with seeded(seed):
        return W2vBertObjective(build_w2v_bert(size, config.dropout), config)
