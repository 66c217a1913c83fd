"""Unlabelled speech: random crops of utterances in batches of near-equal length.

Which crops stand in which batch is a function of the seed and the step, so that a killed run goes
on with the very audio it would have seen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from auscult.audio import read_samples
from auscult.contracts import SAMPLE_RATE, Waveforms
from auscult.errors import UserError
from auscult.progress import logger

_BATCHES_SORTED_TOGETHER = 20  # crops of near-equal length are sought among so many batches' worth
SHORTEST_SECONDS = 0.25
# What is drawn: seeds of one do not meet those of another. From 1 on, for numpy takes the seeds
# [draw, 0] and draw for the same.
_CROP, _ORDER, _SAMPLE, _STEP = range(1, 5)


def draw_of(*numbers: int) -> int:
    """Return a seed that is a function of ``numbers`` and, for all purposes, of nothing else's."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of an utterance, and the seed of whatever else is drawn for it."""

    cut: Any
    draw: int
    seconds: float

    def read(self) -> torch.Tensor:
        """Return the samples (time,).

        Raises:
            UserError: The audio cannot be read.
        """
        if self.seconds >= self.cut.duration:
            return read_samples(self.cut)
        room = round((self.cut.duration - self.seconds) * SAMPLE_RATE)
        start = int(np.random.default_rng([self.draw, _CROP]).integers(room + 1)) / SAMPLE_RATE
        part = self.cut.truncate(offset=start, duration=self.seconds, preserve_id=True)
        return read_samples(part)[: round(self.seconds * SAMPLE_RATE)]


@dataclass(frozen=True, slots=True)
class SpeechPool:
    """Utterances to pretrain on."""

    cuts: Sequence[Any]
    crop_seconds: float
    batch_seconds: float
    seed: int

    def __post_init__(self) -> None:
        if not self.cuts:
            raise UserError(
                f"There is no utterance of {SHORTEST_SECONDS} s or more to pretrain on."
            )
        if self.crop_seconds < SHORTEST_SECONDS:
            raise UserError(
                f"crop_seconds={self.crop_seconds:g}: expected {SHORTEST_SECONDS} or more."
            )
        if self.batch_seconds < self.crop_seconds:
            raise UserError(
                f"batch_seconds={self.batch_seconds:g} holds no crop of crop_seconds="
                f"{self.crop_seconds:g}; raise the one or lower the other."
            )

    @classmethod
    def of(
        cls, cuts: Sequence[Any], *, crop_seconds: float, batch_seconds: float, seed: int
    ) -> "SpeechPool":
        """Return a pool of the utterances that are long enough; the others are counted aloud."""
        long = [cut for cut in cuts if cut.duration >= SHORTEST_SECONDS]
        if len(long) < len(cuts):
            logger.warning(
                f"{len(cuts) - len(long)} of {len(cuts)} utterances are shorter than "
                f"{SHORTEST_SECONDS} s and are left out."
            )
        return cls(long, crop_seconds, batch_seconds, seed)

    def batches(self, first_step: int = 0) -> Iterator[list[Crop]]:
        """Yield the crops of each step from ``first_step`` on, epoch after epoch, without end."""
        step, epoch = 0, 0
        while True:
            plan = self._plan(epoch)
            for batch in plan[max(first_step - step, 0) :]:
                yield [self._crop(i, epoch) for i in batch]
            step += len(plan)
            epoch += 1

    def draw(self, step: int) -> int:
        """Return the seed of what is drawn for a whole step."""
        return draw_of(self.seed, _STEP, step)

    def sample(self, seconds: float, seed: int) -> Iterator[Waveforms]:
        """Yield batches of about ``seconds`` of audio in all, the same for the same seed."""
        spent = 0.0
        for i in np.random.default_rng([self.seed, seed, _SAMPLE]).permutation(len(self.cuts)):
            if spent >= seconds:
                return
            crop = self._crop(int(i), 0)
            spent += crop.seconds
            yield Waveforms.of([crop.read()])

    def _crop(self, index: int, epoch: int) -> Crop:
        cut = self.cuts[index]
        seconds = min(cut.duration, self.crop_seconds)
        return Crop(cut, draw_of(self.seed, _CROP, epoch, index), seconds)

    def _plan(self, epoch: int) -> list[list[int]]:
        """Return the utterances of each batch of an epoch, in which each stands once."""
        generator = np.random.default_rng([self.seed, _ORDER, epoch])
        order = generator.permutation(len(self.cuts)).tolist()
        seconds = [min(cut.duration, self.crop_seconds) for cut in self.cuts]
        together = max(int(_BATCHES_SORTED_TOGETHER * self.batch_seconds / np.mean(seconds)), 1)
        batches: list[list[int]] = []
        for start in range(0, len(order), together):
            some = sorted(order[start : start + together], key=lambda i: seconds[i])
            batches.extend(self._cut(some, seconds))
        return [batches[i] for i in generator.permutation(len(batches))]

    def _cut(self, order: Sequence[int], seconds: Sequence[float]) -> Iterator[list[int]]:
        """Yield batches of neighbours in ``order``, shortest first, within the batch's seconds."""
        batch: list[int] = []
        for i in order:
            if batch and seconds[i] * (len(batch) + 1) > self.batch_seconds + 1e-6:
                yield batch
                batch = []
            batch.append(i)
        yield batch
