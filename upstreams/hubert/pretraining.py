"""HuBERT's pretraining: clusters of the audio are predicted where its frames are hidden.

Reference: Hsu et al., arXiv 2106.07447; what the paper leaves open is as in fairseq,
examples/hubert/config/pretrain/hubert_base_librispeech.yaml and models/hubert.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from auscult.errors import UserError
from auscult.objective import Batch, Objective, Pool, Term
from auscult.seed import seeded
from auscult.upstream import Upstream

from .. import load_upstream
from ..masking import span_mask
from ..spectral import Recipe, SpectralUpstream
from .cluster import Clusters, Labelled
from .network import GEOMETRY, HubertNetwork, NetworkTraining

TEMPERATURE = 0.1
# Kaldi's cepstra and their deltas, not normalised: what fairseq clusters at first.
_CEPSTRA = Recipe("mfcc", "mfcc", 13, delta_order=2, cmvn=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(NetworkTraining):
    """The defaults are HuBERT Base's first iteration: clusters of MFCC, 250,000 updates.

    The second has labels_from=hubert:DIR clusters=500 total_steps=400000.
    """

    total_steps: int = 250_000
    batch_seconds: float = 2800.0  # 32 GPUs of 87.5 s
    crop_seconds: float = 15.625
    learning_rate: float = 5e-4
    warmup: float = 0.08
    gradient_clipping: float = 10.0
    labels_from: str = ""  # an encoder's address; without one, MFCC that are not normalised
    layer: int = 6  # of that encoder
    clusters: int = 100
    fit_seconds: float = 3600.0  # of audio; paper, Table IV: 1 h serves as well as 100 h
    mask_probability: float = 0.80
    mask_span: int = 10  # frames
    projection: int = 256  # width in which frames and labels are compared
    alpha: float = 1.0  # weight of hidden frames; the others have what is left to one

    may_be_zero: ClassVar[tuple[str, ...]] = (*NetworkTraining.may_be_zero, "layer", "alpha")

    def __post_init__(self) -> None:
        NetworkTraining.__post_init__(self)
        if self.alpha > 1:
            raise UserError(f"alpha={self.alpha}: expected a weight from 0 to 1.")


# Open frames count as much as hidden ones, and the rate is high: with neither, an extractor of raw
# audio had learned next to nothing after 200 updates. Channels grow with depth, which costs a
# quarter less than as many everywhere.
_SMALL_SCALE = (
    "warmup=0.07",
    "alpha=0.5",
    "crop_seconds=3",
    "fit_seconds=3600",
    "gradient_clipping=1",
    "dropout=0",
    "attention_dropout=0",
    "input_dropout=0",
    "layerdrop=0",
    "feature_gradient=1",
    "feature_penalty=0",
    "projection=64",
    "heads=4",
    "position_kernel=32",
)
PRESETS: Mapping[str, tuple[str, ...]] = {
    "tiny": (
        *_SMALL_SCALE,
        "total_steps=2000",
        "batch_seconds=24",
        "learning_rate=2e-3",
        "layers=4",
        "width=128",
        "inner=320",
        "channels=32-32-48-64-64-96-128",
    ),
    "small": (
        *_SMALL_SCALE,
        "total_steps=4000",
        "batch_seconds=48",
        "learning_rate=1e-3",
        "layers=6",
        "width=256",
        "inner=768",
        "channels=64-64-96-128-128-192-256",
    ),
}


def build(config: Config, seed: int) -> "HubertObjective":
    """Return the objective with weights from ``seed``.

    Raises:
        UserError: An encoder for the labels that cannot be read, or has no such layer.
    """
    upstream, layer = _label_encoder(config)
    return HubertObjective(config, seed, Labelled(upstream, layer, GEOMETRY))


def _label_encoder(config: Config) -> tuple[Upstream, int]:
    if config.labels_from:
        return load_upstream(config.labels_from), config.layer
    return SpectralUpstream(_CEPSTRA, "mfcc without CMVN"), 0


class HubertObjective(Objective):
    """Cross entropy of the clusters of frames.

    Args:
        config: How it is trained.
        seed: Of weights and clusters.
        source: What the clusters are of.
    """

    def __init__(self, config: Config, seed: int, source: Labelled) -> None:
        super().__init__()
        self.config, self.seed = config, seed
        self._frozen = (source,)  # a tuple: not part of the state dict
        self.network = HubertNetwork(config, seed)
        self.clusters = Clusters(config.clusters, source.upstream.spec.dim)
        with seeded(seed):
            self.projection = nn.Linear(config.width, config.projection)
            self.labels = nn.Parameter(torch.empty(config.clusters, config.projection).uniform_())

    def sources(self) -> Mapping[str, str]:
        """Return the fingerprint of what the clusters are of."""
        return {"labels_from": self._frozen[0].upstream.spec.sha256}

    def encoders(self) -> Sequence[nn.Module]:
        """Return what the clusters are of."""
        return (self._frozen[0].upstream,)

    def fit(self, pool: Pool) -> None:
        """Fit the clusters.

        Raises:
            UserError: Too little audio for so many.
        """
        features = self._frozen[0].collect(pool, self.config.fit_seconds, self.seed)
        self.clusters.fit(features, self.seed)

    def forward(self, batch: Batch) -> Mapping[str, Term]:
        """Return cross entropy and accuracy at hidden and at open frames."""
        frames = self.network.num_frames(batch.audio.lengths)
        mask = span_mask(
            frames,
            batch.draws,
            probability=self.config.mask_probability,
            span=self.config.mask_span,
            least=2,
        )
        encoding = self.network(batch.audio, mask)
        valid = encoding.valid
        labels = self.clusters.assign(self._frozen[0].features(batch.audio, frames)[valid])
        logits = self.compare(encoding.last[valid])
        losses = nn.functional.cross_entropy(logits, labels, reduction="none")
        hits = (logits.argmax(-1) == labels).float()
        surprise = -self.clusters.frequencies[labels].clamp(min=1e-12).log()
        hidden = mask[valid]
        masked, total = hidden.sum(), float(len(hidden))
        alpha = self.config.alpha
        return {
            "masked": Term(losses[hidden].sum(), masked, alpha),
            "unmasked": Term(losses[~hidden].sum(), total - masked, 1 - alpha),
            "features": Term(self.network.penalty(encoding), total, self.config.feature_penalty),
            "accuracy_masked": Term(hits[hidden].sum(), masked, 0),
            "accuracy_unmasked": Term(hits[~hidden].sum(), total - masked, 0),
            "label_entropy": Term(surprise.sum(), total, 0),  # the loss of knowing frequencies only
            "masked_share": Term(masked, total, 0),
        }

    def compare(self, states: Tensor) -> Tensor:
        """Return each label's cosine over the temperature, (frame, label), for (frame, dim)."""
        projected = nn.functional.normalize(self.projection(states).float(), dim=-1)
        labels = nn.functional.normalize(self.labels.float(), dim=-1)
        with torch.autocast(states.device.type, enabled=False):
            return projected @ labels.T / TEMPERATURE

    def save(self, folder: Path) -> Sequence[Path]:
        """Write the encoder for ``hubert:FOLDER``, ``hf:FOLDER`` and transformers."""
        return self.network.save(folder)
