"""Speaker diarization as SUPERB does it: for each frame, which of a few speakers talk.

The same as SUPERB's: the learned softmax over all layers, one LSTM of 512 units and one linear
layer with an output for each speaker (s3prl's own module); binary cross-entropy under the order of
speakers that makes it least; Adam at 1e-4, gradients clipped at a norm of 1, chunks of 2000 frames,
8 chunks a batch, 4 batches a step, 30 000 steps; probabilities above 0.5 are speech, after a median
filter over 11 frames; the diarization error rate of NIST without a collar, overlaps counted.

Not the same: SUPERB scores test with ten pairs of threshold (0.3 to 0.7) and filter (1 or 11
frames) and reports the best, here one pair is fixed beforehand; dev chooses the step by its error
rate, not by the share of right frames; recordings are encoded whole before they are cut into
chunks, and dev and test are not cut; a frame stands for the stride around the centre of its
receptive field, not for one that begins at its number times the stride. The number of speakers is
that of the fullest training recording, in SUPERB's data always two. Of a recording with more the
least talkative are not trained on, and all that they say in test counts as an error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from auscult.dataset import Corpus, active_speakers, speaker_turns
from auscult.errors import UserError
from auscult.frame import FrameGeometry
from auscult.head import build_diarization_head
from auscult.progress import logger
from auscult.score import Score
from auscult.upstream import Upstream

from .batch import shuffled
from .schedule import Records, Schedule
from .score import ratio_score
from .split import SPLITS, LabelledCorpus, LabelledSplit
from .turn import DiarizationError, Turn, diarization_error, turns_of_frames


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakerDiarizationConfig(Schedule):
    """SUPERB's protocol."""

    num_speakers: int = 0  # that the head tells apart; 0: as many as the fullest training recording
    hidden_dim: int = 512
    chunk_frames: int = 2000
    threshold: float = 0.5
    median_frames: int = 11
    total_steps: int = 30_000
    batch_size: int = 8
    gradient_accumulate_steps: int = 4
    learning_rate: float = 1e-4
    eval_step: int = 500
    save_step: int = 500

    may_be_zero: ClassVar[tuple[str, ...]] = ("num_speakers", "threshold")

    def __post_init__(self) -> None:
        Schedule.__post_init__(self)
        if self.median_frames % 2 == 0:
            raise UserError(f"median_frames={self.median_frames}: expected an odd number.")


@dataclass(frozen=True, slots=True)
class Recording:
    """Who speaks when, as the corpus says and as the frames of an encoder have it."""

    turns: tuple[Turn, ...]
    seconds: float
    geometry: FrameGeometry | None = None
    active: NDArray[np.bool_] | None = None  # (frame, speaker)

    @property
    def speakers(self) -> list[str]:
        """The speakers, the most talkative first."""
        spoken: dict[str, float] = {}
        for start, end, speaker in self.turns:
            spoken[speaker] = spoken.get(speaker, 0.0) + end - start
        return sorted(spoken, key=lambda speaker: (-spoken[speaker], speaker))


def prepare(
    corpus: Corpus, config: SpeakerDiarizationConfig, *, skip_unlabelled: bool
) -> LabelledCorpus:
    """Read the turns of every recording; the classes are the numbers of the head's speakers.

    Raises:
        UserError: A missing split, or a recording without turns and not ``skip_unlabelled``.
    """
    splits, skipped = {}, list[str]()
    for name in SPLITS:
        cuts = list(corpus.split(name))
        turns = [tuple(speaker_turns(cut)) for cut in cuts]
        without = [cut.id for cut, found in zip(cuts, turns, strict=True) if not found]
        if without and not skip_unlabelled:
            raise UserError(
                f"Recording {without[0]} of the {name} split of {corpus.spec} has no turns of "
                f"speakers ({len(without)} of {len(cuts)} have none); add them, or --skip-bad."
            )
        skipped += [f"{name}: {recording} has no turns of speakers." for recording in without]
        kept = [(cut, Recording(t, cut.duration)) for cut, t in zip(cuts, turns, strict=True) if t]
        if not kept:
            raise UserError(f"The {name} split of {corpus.spec} has no turns of speakers.")
        splits[name] = LabelledSplit(name, *map(tuple, zip(*kept, strict=True)))
    numbers = {name: [len(r.speakers) for r in part.labels] for name, part in splits.items()}
    num_speakers = config.num_speakers or max(numbers["train"])
    for name, counts in numbers.items():
        if over := sum(count > num_speakers for count in counts):
            logger.info(
                f"{corpus.spec}: {over} of {len(counts)} recordings of {name} have more than the "
                f"{num_speakers} speakers that the head tells apart; "
                + ("the least talkative are not trained on." if name == "train" else "it errs.")
            )
    return LabelledCorpus(splits, tuple(map(str, range(num_speakers))), tuple(skipped))


def at_frames(
    corpus: LabelledCorpus, config: SpeakerDiarizationConfig, encoder: Upstream
) -> LabelledCorpus:
    """Return the corpus with who speaks at the frames of ``encoder``.

    Args:
        corpus: As :func:`prepare` returns it.
        config: Not used.
        encoder: Whose frames they are.
    """
    geometry, size = encoder.spec.geometry, len(corpus.classes)
    splits = {}
    for name, split in corpus.splits.items():
        samples = torch.tensor([len(utterance) for utterance in split.utterances])
        labels = []
        for cut, recording, frames in zip(
            split.cuts, split.labels, encoder.num_frames(samples).tolist(), strict=True
        ):
            active = np.zeros((frames, size), dtype=bool)
            known = recording.speakers[:size]
            active[:, : len(known)] = active_speakers(cut, known, geometry.centres(frames))
            labels.append(replace(recording, geometry=geometry, active=active))
        splits[name] = replace(split, labels=tuple(labels))
    return replace(corpus, splits=splits)


def permutation_invariant_loss(logits: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
    """Return the binary cross-entropy of a frame under each row's best order of speakers.

    s3prl's ``pit_loss``, but the order is found by assignment, not by trying all of them.

    Args:
        logits: (batch, frame, speaker).
        targets: (batch, frame, speaker), 0 or 1.
        lengths: (batch,) valid frames.
    """
    valid = torch.arange(logits.shape[1], device=logits.device) < lengths[:, None]  # (batch, frame)
    silent = functional.softplus(logits) * valid[:, :, None]  # what a logit costs where target is 0
    spared = torch.einsum("bfo,bfs->bos", logits * valid[:, :, None], targets)
    cost = silent.sum(dim=1)[:, :, None] - spared  # (batch, output, speaker)
    orders = [linear_sum_assignment(row)[1] for row in cost.detach().double().cpu().numpy()]
    chosen = torch.from_numpy(np.stack(orders)).to(cost.device)[:, :, None]
    return cost.gather(2, chosen).sum() / (cost.shape[1] * lengths.sum())


class SpeakerDiarization(nn.Module):
    """The downstream expert: data, network, loss and score.

    Args:
        upstream_dim: Size of the features.
        corpus: As :func:`at_frames` returns it.
        config: The protocol.
        seed: Of the order of the training chunks.
    """

    def __init__(
        self,
        upstream_dim: int,
        corpus: LabelledCorpus,
        config: SpeakerDiarizationConfig,
        seed: int,
    ) -> None:
        super().__init__()
        self._corpus = corpus
        self._config = config
        self._seed = seed
        self.model = build_diarization_head(upstream_dim, len(corpus.classes), config.hidden_dim)

    def get_dataloader(self, split: str, epoch: int = 0) -> list[Any]:
        """Return the batches of a split, those of train chunks in another order in each epoch."""
        data = self._corpus.splits[split]
        utterances, ids, size = data.utterances, data.ids, self._config.batch_size
        chunks = []  # item, first frame, end
        for item, recording in enumerate(data.labels):
            frames = len(recording.active)
            step = self._config.chunk_frames if split == "train" else frames
            chunks += [(item, i, min(i + step, frames)) for i in range(0, frames, step)]
        if split == "train":
            chunks = [chunks[i] for i in shuffled(len(chunks), self._seed, epoch)]
        return [
            (
                [utterances[item] for item, _, _ in batch],
                [ids[item] for item, _, _ in batch],
                [data.labels[item] for item, _, _ in batch],
                [(first, end) for _, first, end in batch],
            )
            for batch in (chunks[i : i + size] for i in range(0, len(chunks), size))
        ]

    def forward(
        self,
        split: str,
        features: Sequence[Tensor],
        ids: Sequence[str],
        recordings: Sequence[Recording],
        chunks: Sequence[tuple[int, int]],
        records: Records,
        **_: Any,
    ) -> Tensor:
        """Return the loss, and append what was found in whole recordings to ``records``.

        Args:
            split: Whether this is training, where nothing is recorded.
            features: One for each recording, (frame, dim).
            ids: Of the recordings.
            recordings: Who speaks in them.
            chunks: First frame and end of the part to look at.
            records: Lists by name: ``target``, turns; ``prediction``, the probability of each
                speaker, (frame, speaker); ``turns``, what it is taken for.
        """
        parts = [row[first:end] for row, (first, end) in zip(features, chunks, strict=True)]
        targets = [
            torch.from_numpy(recording.active[first:end]).float()  # type: ignore[index]
            for recording, (first, end) in zip(recordings, chunks, strict=True)
        ]
        lengths = torch.tensor([len(part) for part in parts], device=features[0].device)
        logits = self.model(pad_sequence(parts, batch_first=True))  # (batch, frame, speaker)
        padded = pad_sequence(targets, batch_first=True).to(logits.device)
        loss = permutation_invariant_loss(logits, padded, lengths)
        if split != "train":
            found = [row[:n] for row, n in zip(logits.sigmoid(), lengths.tolist(), strict=True)]
            probabilities = [row.detach().double().cpu().numpy().round(4) for row in found]
            records["id"] += ids
            records["target"] += [recording.turns for recording in recordings]
            records["prediction"] += probabilities
            records["turns"] += map(self._turns, probabilities, recordings)
        return loss

    def loss_size(
        self, features: Sequence[Tensor], ids: object, recordings: object, chunks: Any
    ) -> float:
        """Return how many frames the loss is the mean of."""
        return float(sum(end - first for first, end in chunks))

    def score(self, records: Records) -> float:
        """Return the negative error rate of what was recorded."""
        errors = _errors(records)
        return -sum(e.wrong for e in errors) / sum(e.total for e in errors)

    def _turns(self, probabilities: NDArray[np.float64], recording: Recording) -> list[Turn]:
        if recording.geometry is None:
            raise ValueError("the recording has no frames yet: at_frames gives it them")
        return turns_of_frames(
            probabilities,
            recording.geometry,
            recording.seconds,
            threshold=self._config.threshold,
            median_frames=self._config.median_frames,
        )


def score(answers: Mapping[str, Sequence[Any]], corpus: LabelledCorpus) -> list[Score]:
    """Return the diarization error rate on test; its interval resamples recordings."""
    errors = _errors(answers)
    wrong, total = [e.wrong for e in errors], [e.total for e in errors]
    return [ratio_score("der", wrong, total, [None] * len(errors))]


def _errors(answers: Mapping[str, Sequence[Any]]) -> list[DiarizationError]:
    pairs = zip(answers["target"], answers["turns"], strict=True)
    return [diarization_error(target, found) for target, found in pairs]
