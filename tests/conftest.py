"""Speech and encoders small enough for tests: tones whose pitch is their label."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from auscult.contracts import HiddenStates, UpstreamSpec, Waveforms
from auscult.frame import conv_geometry, conv_lengths
from auscult.upstream import Upstream

KERNELS, STRIDES = (400,), (320,)
TONES = {"low": 200.0, "mid": 900.0, "high": 3000.0}
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("AUSCULT_CACHE", str(folder))
    return folder


class ToyEncoder(Upstream):
    """Frames of 400 samples every 320 as a few band energies, then random tanh layers."""

    def __init__(self, num_layers: int = 2, dim: int = 8, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.mix = nn.ParameterList(
            nn.Parameter(torch.randn(dim, dim, generator=generator) / dim**0.5)
            for _ in range(num_layers)
        )
        self.encoded: list[int] = []  # samples of every row that went through
        self.spec = UpstreamSpec(
            name=f"toy({seed})",
            family="toy",
            num_layers=num_layers,
            dim=dim,
            geometry=conv_geometry(KERNELS, STRIDES),
            num_parameters=num_layers * dim * dim,
            sha256=f"toy-{num_layers}-{dim}-{seed}",
        )

    def num_frames(self, lengths: Tensor) -> Tensor:
        return conv_lengths(lengths, KERNELS, STRIDES)

    def forward(self, audio: Waveforms) -> HiddenStates:
        self.encoded += audio.lengths.tolist()
        frames = audio.samples.unfold(1, 400, 320)
        power = torch.fft.rfft(frames).abs()[..., 1:].log1p()
        bands = torch.stack([b.mean(-1) for b in power.chunk(self.spec.dim, dim=-1)], dim=-1)
        layers = [bands]
        for weight in self.mix:
            layers.append(torch.tanh(layers[-1] @ weight))
        return HiddenStates(tuple(layers), self.num_frames(audio.lengths))


@pytest.fixture
def toy() -> ToyEncoder:
    return ToyEncoder()


@pytest.fixture
def tone_corpus(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a tsv corpus of tones and gives its folder."""

    def build(speakers: int = 8, takes: int = 3, seconds: float = 0.3) -> Path:
        folder = tmp_path / "tones"
        folder.mkdir()
        rows = ["path\tutt\tspeaker\tsex\tkeyword\tslots_json\tsplit"]
        phones = ["utt\tstart\tend\tphone"]
        generator = np.random.default_rng(0)
        for s in range(speakers):
            split = "test" if s % 4 == 3 else "dev" if s % 4 == 2 else "train"
            for take in range(takes):
                name = list(TONES)[take % 3]
                size = int(16_000 * (seconds + 0.02 * take))
                first, second = TONES[name], TONES[list(TONES)[(take + s + 1) % 3]]
                pitch = np.where(np.arange(size) < size // 2, first, second)
                wave = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / 16_000)
                wave += 0.01 * generator.standard_normal(size)
                utt = f"s{s}-{take}"
                soundfile.write(folder / f"{utt}.flac", wave, 16_000)
                slots = f'{{"tone": "{name}"}}'
                rows.append(f"{utt}.flac\t{utt}\ts{s}\t{'fm'[s % 2]}\t{name}\t{slots}\t{split}")
                phones.append(f"{utt}\t0\t{size // 2}\t{name}")
                other = list(TONES)[(take + s + 1) % 3]
                phones.append(f"{utt}\t{size // 2}\t{size}\t{other}")
        (folder / "MANIFEST.tsv").write_text("\n".join(rows) + "\n")
        (folder / "PHONES.tsv").write_text("\n".join(phones) + "\n")
        return folder

    return build


@pytest.fixture
def tone_cuts() -> Callable[[int], list[Any]]:
    """Return a function that makes in-memory cuts of tones, shortest last."""

    def build(count: int) -> list[Any]:
        from lhotse import AudioSource, Recording
        from lhotse.supervision import SupervisionSegment

        cuts = []
        for i in range(count):
            size = 8000 - 160 * i
            pitch = list(TONES.values())[i % 3]
            wave = 0.3 * np.sin(2 * np.pi * pitch * np.arange(size) / 16_000)
            import io

            buffer = io.BytesIO()
            soundfile.write(buffer, wave, 16_000, format="WAV", subtype="FLOAT")
            source = AudioSource("memory", [0], buffer.getvalue())
            recording = Recording(f"u{i}", [source], 16_000, size, size / 16_000)
            cut = recording.to_cut()
            cut.supervisions = [
                SupervisionSegment(
                    id=f"u{i}",
                    recording_id=f"u{i}",
                    start=0.0,
                    duration=cut.duration,
                    speaker=f"s{i % 5}",
                    custom={"keyword": list(TONES)[i % 3]},
                )
            ]
            cuts.append(cut)
        return cuts

    return build
