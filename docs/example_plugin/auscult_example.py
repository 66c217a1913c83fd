"""What other people can add to Auscult, as small as it can be."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from torch import Tensor, nn

import auscult
from auscult.contracts import TaskSpec
from auscult.corpora import Item
from auscult.downstreams import HeadTask
from auscult.downstreams.score import classification_scores as score
from auscult.downstreams.utterance import UtteranceConfig, UtteranceExpert, prepare
from auscult.probing import ProbeTask

__all__ = ["LENGTH", "PITCH", "Config", "Narrow", "UtteranceExpert", "encoder", "prepare", "score"]


# An encoder: whatever takes waveforms (batch, time). Nothing of it knows Auscult.


class Block(nn.Module):
    """Self-attention of two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, states: Tensor) -> Tensor:
        """Return states (batch, frame, dim)."""
        return states + self.attend(states, states, states, average_attn_weights=False)[0]


class Network(nn.Module):
    """A convolution and two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Conv1d(1, 16, 400, 320)
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def forward(self, waves: Tensor) -> Tensor:
        """Return states (batch, frame, dim) of waveforms (batch, time)."""
        states = self.front(waves[:, None]).relu().transpose(1, 2)
        for block in self.blocks:
            states = block(states)
        return states


def encoder() -> auscult.Upstream:
    """Return the encoder; weights of your own would be read here."""
    return auscult.wrap(Network(), blocks="blocks", attention="attend")


# A corpus: a function of the path that follows its name, which yields utterances.


def tones(folder: Path) -> Iterator[Item]:
    """Yield tones, which are made where they are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(24):
        split = ("train", "train", "dev", "test")[number // 6]
        pitch, seconds = ("low", "high")[number % 2], (0.25, 0.4, 0.6)[number % 3]
        path = folder / f"{split}-{number}.wav"
        time = np.arange(round(seconds * 16_000)) / 16_000
        wave = 0.3 * np.sin(2 * np.pi * {"low": 200, "high": 1500}[pitch] * time)
        if not path.exists():
            soundfile.write(path, wave + 0.01 * rng.standard_normal(len(time)), 16_000)
        speaker = f"{split}-{number % 3}"
        yield Item(id=path.stem, path=path, split=split, speaker=speaker, labels={"pitch": pitch})


# A task for heads: SUPERB's head for one answer an utterance, on another label.


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(UtteranceConfig):
    """How the head is trained."""

    label: str = "pitch"
    total_steps: int = 100
    batch_size: int = 4
    learning_rate: float = 1e-2
    eval_step: int = 25
    save_step: int = 25


METRICS = ("accuracy", "macro_accuracy")
PITCH = HeadTask(
    spec=TaskSpec(name="pitch", version=1, output="utterance", metrics=METRICS),
    module=__name__,  # has Config, UtteranceExpert, prepare and score
    expert="UtteranceExpert",
    configuration="Config",
    head="s3prl:UtteranceLevel",
    labels="the pitch of each utterance (label=pitch)",
    description="whether a tone is low or high",
)


# A probing task: a label of the corpus, or a function of the cut.

LENGTH = ProbeTask(
    spec=TaskSpec(name="length", version=1, output="utterance", metrics=METRICS),
    label="length",
    read=lambda cut: "long" if cut.duration > 0.3 else "short",
)


# A probe: features (example, dim) to logits (example, label).


class Narrow(nn.Sequential):
    """A probe with four hidden units."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__(nn.Linear(dim, 4), nn.ReLU(), nn.Linear(4, num_classes))
