"""Turns of speakers: from probabilities of frames to turns, their error rate, and RTTM.

A turn is when somebody begins and ceases to speak, in seconds, and who it is. The diarization error
rate is NIST's without a collar, overlapping speech counted: missed speech, false alarms and speech
given to the wrong speaker, over all speech of the reference, where hypothesised speakers are given
the names that make the error least.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter
from scipy.optimize import linear_sum_assignment

from auscult.contracts import SAMPLE_RATE
from auscult.frame import FrameGeometry

Turn = tuple[float, float, str]


@dataclass(frozen=True, slots=True)
class DiarizationError:
    """What is wrong with the turns of one recording, in seconds of speech."""

    missed: float
    false_alarm: float
    confused: float  # spoken by one and given to another
    total: float  # in the reference; where two speak at once, twice

    @property
    def wrong(self) -> float:
        """All errors together."""
        return self.missed + self.false_alarm + self.confused


def diarization_error(reference: Sequence[Turn], hypothesis: Sequence[Turn]) -> DiarizationError:
    """Compare the turns of one recording; speakers of the two sides need not share names."""
    edges = np.unique([time for turn in (*reference, *hypothesis) for time in turn[:2]])
    spans = np.diff(edges)
    said, heard = _activity(reference, edges), _activity(hypothesis, edges)  # (span, speaker)
    together = (said * spans[:, None]).T @ heard  # (speaker, speaker), seconds
    right = together[linear_sum_assignment(together, maximize=True)].sum()
    num_said, num_heard = said.sum(axis=1), heard.sum(axis=1)
    both = float(spans @ np.minimum(num_said, num_heard))
    return DiarizationError(
        missed=float(spans @ np.maximum(num_said - num_heard, 0)),
        false_alarm=float(spans @ np.maximum(num_heard - num_said, 0)),
        confused=max(both - float(right), 0.0),
        total=float(spans @ num_said),
    )


def turns_of_frames(
    probabilities: NDArray[np.float64],
    geometry: FrameGeometry,
    seconds: float,
    *,
    threshold: float,
    median_frames: int,
) -> list[Turn]:
    """Return who speaks when; speakers are called 0, 1, ...

    Each frame stands for the stride around its centre, the first and the last reach to the ends of
    the recording.

    Args:
        probabilities: (frame, speaker) that each speaks.
        geometry: Where the frames lie.
        seconds: Duration of the recording.
        threshold: From above which a speaker speaks.
        median_frames: Length of the median filter that takes out what is short; odd.
    """
    active = median_filter(
        (probabilities > threshold).astype(np.int8), size=(median_frames, 1), mode="constant"
    )
    # a centre is the index of a sample, which lasts from there to the next
    edges = geometry.centres(len(active) + 1) + 0.5 - geometry.stride / 2
    edges = np.clip(edges / SAMPLE_RATE, 0, seconds)
    edges[0], edges[-1] = 0, seconds
    turns = []
    for speaker, row in enumerate(active.T):
        changes = np.flatnonzero(np.diff(row, prepend=0, append=0))
        bounds = edges[changes].reshape(-1, 2)
        turns += [(float(a), float(b), str(speaker)) for a, b in bounds]
    return sorted(turns)


def rttm_lines(recording: str, turns: Sequence[Turn]) -> list[str]:
    """Return the turns as lines of an RTTM file."""
    return [
        f"SPEAKER {recording} 1 {start:.3f} {end - start:.3f} <NA> <NA> {speaker} <NA> <NA>"
        for start, end, speaker in turns
    ]


def _activity(turns: Sequence[Turn], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return who speaks between neighbouring ``edges``, (span, speaker), 0 or 1."""
    speakers = sorted({speaker for _, _, speaker in turns})
    active = np.zeros((max(len(edges) - 1, 0), len(speakers)))
    for start, end, speaker in turns:
        first, last = np.searchsorted(edges, [start, end])
        active[first:last, speakers.index(speaker)] = 1
    return active
