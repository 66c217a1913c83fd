"""Speech recognition by an RNN transducer on a w2v-BERT: network, search, and files.

The projection block (linear, swish, batch norm) and the prediction network, two LSTMs of 640, are
those of the paper; the joint network is Graves' with a tanh, its width of 640 is not published.

Source: Chung et al., ASRU 2021, arXiv 2108.06209; Graves, 2012, arXiv 1211.3711; the search: Saon
et al., ICASSP 2020, "Alignment-length synchronous decoding for RNN transducer".
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchaudio.functional import rnnt_loss

from auscult.checkpoint import read_checkpoint
from auscult.errors import UserError
from auscult.whole_file import write_text

from ..weight import fill, write_weights
from .checkpoint import load_w2v_bert, save_w2v_bert
from .conformer import MaskedBatchNorm
from .encoder import input_recipe
from .model import Encoder, W2vBert, padded_frames

WEIGHTS, CONFIG = "transducer.safetensors", "transducer.json"
_MOST_LABELS = 2  # for each frame, where a search must end

LstmState = tuple[Tensor, Tensor]  # each (layer, batch, dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransducerSize:
    """Widths of what is put on the encoder."""

    projection_dim: int = 640
    predictor_dim: int = 640
    predictor_layers: int = 2
    joint_dim: int = 640


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What was said, perhaps."""

    labels: tuple[int, ...]
    score: float  # log probability of those of its alignments that the search has followed


class Projection(nn.Module):
    """Linear map, swish, batch norm over valid frames."""

    def __init__(self, dim: int, projection_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, projection_dim)
        self.batch_norm = MaskedBatchNorm(projection_dim)

    def forward(self, hidden: Tensor, padded: Tensor | None) -> Tensor:
        """Map (batch, frame, dim) to (batch, frame, projection)."""
        projected: Tensor = self.batch_norm(functional.silu(self.linear(hidden)), padded)
        return projected


class Predictor(nn.Module):
    """LSTMs over the labels so far; the blank, which is never among them, stands before all."""

    def __init__(self, num_labels: int, dim: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_labels + 1, dim)
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(
            dim, dim, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0
        )

    def forward(self, labels: Tensor, state: LstmState | None = None) -> tuple[Tensor, LstmState]:
        """Map (batch, label) to (batch, label, dim), going on from ``state``."""
        found: tuple[Tensor, LstmState] = self.lstm(self.embedding(labels), state)
        hidden, after = found
        return self.dropout(hidden), after


class Transducer(nn.Module):
    """Encoder, projection, predictor and joint network; the blank comes after all labels."""

    def __init__(
        self,
        encoder: Encoder,
        dim: int,
        labels: Sequence[str],
        size: TransducerSize,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.labels = tuple(labels)
        self.blank = len(self.labels)
        self.size = size
        self.encoder = encoder
        self.projection = Projection(dim, size.projection_dim)
        self.predictor = Predictor(self.blank, size.predictor_dim, size.predictor_layers, dropout)
        self.join_frames = nn.Linear(size.projection_dim, size.joint_dim)
        self.join_labels = nn.Linear(size.predictor_dim, size.joint_dim, bias=False)
        self.output = nn.Linear(size.joint_dim, self.blank + 1)

    def encode(self, filterbanks: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Return frames (batch, frame, joint) and how many are valid, (batch,).

        Args:
            filterbanks: (batch, step, filter).
            steps: (batch,) valid steps.
        """
        lengths = self.encoder.feature_encoder.num_frames(steps)
        hidden = self.encoder(self.encoder.feature_encoder(filterbanks), lengths)[-1]
        padded = padded_frames(lengths.to(hidden.device), hidden.shape[1])
        return self.join_frames(self.projection(hidden, padded)), lengths

    def forward(self, filterbanks: Tensor, steps: Tensor, texts: Sequence[Sequence[int]]) -> Tensor:
        """Return -log p(text | audio), (batch,).

        Args:
            filterbanks: (batch, step, filter).
            steps: (batch,) valid steps.
            texts: Labels of each row.
        """
        frames, lengths = self.encode(filterbanks, steps)
        targets = nn.utils.rnn.pad_sequence(
            [torch.tensor(text, dtype=torch.int32, device=frames.device) for text in texts],
            batch_first=True,
        )
        before = functional.pad(targets, (1, 0), value=self.blank)
        predicted = self.join_labels(self.predictor(before)[0])
        logits = self.join(frames[:, :, None], predicted[:, None])  # (batch, frame, label, output)
        losses: Tensor = rnnt_loss(
            logits.float(),
            targets,
            lengths.int().to(frames.device),
            torch.tensor([len(text) for text in texts], dtype=torch.int32, device=frames.device),
            blank=self.blank,
            reduction="none",
        )
        return losses

    def join(self, frames: Tensor, predicted: Tensor) -> Tensor:
        """Return logits over labels and blank; both arguments are (..., joint)."""
        logits: Tensor = self.output(torch.tanh(frames + predicted))
        return logits

    @torch.no_grad()
    def search(self, frames: Tensor, beam: int) -> list[Hypothesis]:
        """Return what an utterance's frames (frame, joint) may say, the likeliest first.

        Hypotheses of equally many labels and frames in sum compete; those of the same labels become
        one. With a beam of one this is greedy decoding, which torchaudio's RNNTBeamSearch then is
        not; with an endless one the scores are exact.

        Args:
            frames: Valid frames of one utterance, as `encode` gives them.
            beam: How many hypotheses are kept.
        """
        active, finished = [Hypothesis((), 0.0)], []
        start = torch.tensor([[self.blank]], device=frames.device)
        hidden, state = self.predictor(start)
        predicted = self.join_labels(hidden[:, 0])  # (hypothesis, joint)
        step = 0
        while active:
            times = [step - len(hypothesis.labels) for hypothesis in active]
            log_probs = self.join(frames[times], predicted).float().log_softmax(-1)
            found = self._extend(active, log_probs, beam, _MOST_LABELS * len(frames))
            step += 1
            ends = [step - len(hypothesis.labels) == len(frames) for hypothesis, _ in found]
            finished += [x for (x, _), ended in zip(found, ends, strict=True) if ended]
            going = [pair for pair, ended in zip(found, ends, strict=True) if not ended]
            parents = [parent for _, parent in going]
            predicted = predicted[parents]
            state = (state[0][:, parents], state[1][:, parents])
            new = [
                i
                for i, (hypothesis, parent) in enumerate(going)
                if len(hypothesis.labels) > len(active[parent].labels)
            ]
            active = [hypothesis for hypothesis, _ in going]
            if new:
                last = torch.tensor([[active[i].labels[-1]] for i in new], device=frames.device)
                hidden, moved = self.predictor(last, (state[0][:, new], state[1][:, new]))
                predicted[new] = self.join_labels(hidden[:, 0])
                state[0][:, new], state[1][:, new] = moved
        return sorted(finished, key=lambda hypothesis: -hypothesis.score)

    def _extend(
        self, active: Sequence[Hypothesis], log_probs: Tensor, beam: int, most: int
    ) -> list[tuple[Hypothesis, int]]:
        """Return the best ``beam`` continuations by a label or a blank, and what each continues."""
        scores: dict[tuple[int, ...], float] = {}
        parent_of: dict[tuple[int, ...], int] = {}
        best, labels = log_probs[:, : self.blank].topk(min(beam, self.blank))
        for i, hypothesis in enumerate(active):
            found = [(hypothesis.labels, float(log_probs[i, self.blank]))]
            if len(hypothesis.labels) < most:
                pairs = zip(labels[i].tolist(), best[i].tolist(), strict=True)
                found += [((*hypothesis.labels, label), value) for label, value in pairs]
            for text, value in found:
                score = hypothesis.score + value
                if text in scores:
                    score = float(np.logaddexp(scores[text], score))
                scores[text] = score
                parent_of[text] = i
        chosen = sorted(scores, key=lambda text: -scores[text])[:beam]
        return [(Hypothesis(text, scores[text]), parent_of[text]) for text in chosen]

    def spell(self, labels: Sequence[int]) -> str:
        """Return labels as text."""
        return "".join(self.labels[i] for i in labels)


class Recognizer:
    """A w2v-BERT that was fine-tuned, and its transducer: speech to text."""

    def __init__(self, pretrained: W2vBert, transducer: Transducer) -> None:
        self.pretrained = pretrained
        self.transducer = transducer
        self.recipe = input_recipe(pretrained.dimensions)

    @torch.no_grad()
    def __call__(self, samples: Tensor, beam: int = 1) -> str:
        """Return what is said in one utterance's samples (time,)."""
        device = next(self.transducer.parameters()).device
        steps = self.recipe.num_frames(torch.tensor([len(samples)]))
        if not int(self.transducer.encoder.feature_encoder.num_frames(steps)):
            return ""  # too short for a frame
        filterbanks = self.recipe.features(samples.to(device))[None]
        frames, _ = self.transducer.encode(filterbanks, steps)
        return self.transducer.spell(self.transducer.search(frames[0], beam)[0].labels)

    def save(self, folder: Path) -> Sequence[Path]:
        """Write the encoder, which ``w2v_bert:FOLDER`` loads, and the transducer beside it.

        Returns:
            The files.
        """
        written = save_w2v_bert(self.pretrained, folder)
        config = {"labels": self.transducer.labels, **asdict(self.transducer.size)}
        write_text(json.dumps(config, indent=2) + "\n", folder / CONFIG)
        weights = _own_parts(self.transducer).state_dict()
        return *written, folder / CONFIG, write_weights(weights, folder / WEIGHTS)


def load_recognizer(folder: Path) -> Recognizer:
    """Read what `Recognizer.save` wrote, in evaluation mode.

    Raises:
        UserError: Nothing there, or files that do not fit each other.
    """
    folder = folder.expanduser()
    pretrained = load_w2v_bert(folder).eval()
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text())
        labels = config.pop("labels")
        size = TransducerSize(**config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read as a transducer's configuration: {error}; expected what "
            "auscult finetune writes."
        ) from error
    transducer = Transducer(pretrained.encoder, pretrained.dimensions.dim, labels, size)
    fill(folder / WEIGHTS, _own_parts(transducer), read_checkpoint(folder / WEIGHTS))
    return Recognizer(pretrained, transducer.eval())


def _own_parts(transducer: Transducer) -> nn.ModuleDict:
    """Return what stands on the encoder."""
    return nn.ModuleDict(
        {name: part for name, part in transducer.named_children() if name != "encoder"}
    )
