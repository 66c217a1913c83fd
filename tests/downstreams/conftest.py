"""Words that are tones, and an encoder whose frames leave no samples between them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from auscult.contracts import HiddenStates, UpstreamSpec, Waveforms
from auscult.frame import FrameGeometry
from auscult.upstream import Upstream

STRIDE = 320
PITCH = {"go": 300.0, "stop": 1500.0, "yes": 4000.0}
SPLIT_OF = {0: "train", 1: "train", 2: "dev", 3: "test"}


class BandEncoder(Upstream):
    """Log energies in eight bands of whole frames, and a second layer made of them."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = 0  # encoded so far
        self.spec = UpstreamSpec(
            name="bands",
            family="toy",
            num_layers=1,
            dim=8,
            geometry=FrameGeometry(STRIDE, STRIDE),
            sha256="bands",
        )

    def num_frames(self, lengths: Tensor) -> Tensor:
        return lengths // STRIDE

    def forward(self, audio: Waveforms) -> HiddenStates:
        self.rows += len(audio.lengths)
        frames = audio.samples.unfold(1, STRIDE, STRIDE)
        power = torch.fft.rfft(frames).abs()[..., 1:].log1p()
        bands = torch.stack([b.mean(-1) for b in power.chunk(8, dim=-1)], dim=-1)
        bands = bands.half().float()  # as kept features are, so that both ways agree
        return HiddenStates((bands, bands.flip(-1)), self.num_frames(audio.lengths))


@pytest.fixture
def bands() -> BandEncoder:
    return BandEncoder()


@pytest.fixture(scope="session")
def word_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tsv corpus of 8 speakers, 4 takes of 3 words each, whole frames long."""
    folder = tmp_path_factory.mktemp("words")
    generator = np.random.default_rng(0)
    rows = ["path\tutt\tspeaker\tkeyword\tsplit"]
    for speaker in range(8):
        for take in range(4):
            for word, pitch in PITCH.items():
                utt = f"s{speaker}-{word}-{take}"
                time = np.arange(STRIDE * int(generator.integers(8, 16))) / 16_000
                wave = 0.3 * np.sin(2 * np.pi * pitch * (1 + 0.02 * speaker) * time)
                wave += 0.02 * generator.standard_normal(len(time))
                soundfile.write(folder / f"{utt}.flac", wave, 16_000)
                rows.append(f"{utt}.flac\t{utt}\ts{speaker}\t{word}\t{SPLIT_OF[speaker % 4]}")
    (folder / "MANIFEST.tsv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="session")
def words(word_folder: Path) -> Any:
    """The corpus in ``word_folder``."""
    import auscult

    return auscult.corpus(f"tsv:{word_folder}")


PHONES = {"a": 500.0, "i": 1500.0, "u": 2500.0, "o": 3500.0}
VOICES = {"s0": 5500.0, "s1": 6500.0, "s2": 7500.0}
VERBS, NOUNS = {"a": "take", "i": "bring"}, {"u": "lamp", "o": "shoes"}


@pytest.fixture(scope="session")
def talk_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tsv corpus of 3 speakers in every split: two tones, a gap between them, and a voice."""
    folder = tmp_path_factory.mktemp("talk")
    generator = np.random.default_rng(1)
    rows = ["path\tutt\tspeaker\temotion\tslots_json\tsplit"]
    times = ["utt\tstart\tend\tphone"]
    for take in range(16):
        split = "train" if take < 8 else "dev" if take < 12 else "test"
        for speaker, voice in VOICES.items():
            utt, one, two = f"{speaker}-{take}", "ai"[take % 2], "uo"[take // 2 % 2]
            emotion, gain = [("calm", 0.02), ("angry", 0.4)][int(generator.integers(2))]
            frames = [int(generator.integers(3, 7)), 2, int(generator.integers(3, 7))]
            ends = np.cumsum(frames) * STRIDE
            time = np.arange(ends[-1]) / 16_000
            pitch = np.where(time * 16_000 < ends[0], PHONES[one], PHONES[two])
            wave = np.sin(2 * np.pi * pitch * time)
            wave[ends[0] : ends[1]] = 0
            wave += 0.3 * np.sin(2 * np.pi * voice * time)
            wave = gain * wave + 0.002 * generator.standard_normal(len(time))
            soundfile.write(folder / f"{utt}.flac", wave, 16_000)
            slots = f'{{"action": "{VERBS[one]}", "object": "{NOUNS[two]}"}}'
            rows.append(f"{utt}.flac\t{utt}\t{speaker}\t{emotion}\t{slots}\t{split}")
            spans = zip((0, *ends[:-1]), ends, (one, "", two), strict=True)
            times += [f"{utt}\t{start}\t{end}\t{symbol}" for start, end, symbol in spans]
    (folder / "MANIFEST.tsv").write_text("\n".join(rows) + "\n")
    (folder / "PHONES.tsv").write_text("\n".join(times) + "\n")
    return folder


@pytest.fixture(scope="session")
def talk(talk_folder: Path) -> Any:
    """The corpus in ``talk_folder``."""
    import auscult

    return auscult.corpus(f"tsv:{talk_folder}")
