"""Speech and encoders small enough for tests: tones whose pitch is their label."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from auscult.cli import main
from auscult.contracts import HiddenStates, UpstreamSpec, Waveforms
from auscult.frame import conv_geometry, conv_lengths
from auscult.progress import logger
from auscult.upstream import Upstream

# Two threads on tiny tensors spend their time waiting for each other, minutes on a busy machine.
torch.set_num_threads(1)

KERNELS, STRIDES = (400,), (320,)
TONES = {"low": 200.0, "mid": 900.0, "high": 3000.0}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("AUSCULT_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def fresh_logger() -> Iterator[None]:
    """The command line turns our logger to stderr; each test starts with it as Python made it."""
    yield
    logger.handlers = []
    logger.propagate = True
    logger.setLevel("NOTSET")


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs a command line and gives its status, stdout and stderr."""

    def command(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["auscult", *map(str, words)])
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return command


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
    return partial(_write_tones, tmp_path)


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tsv corpus of tones, which no test changes."""
    return _write_tones(tmp_path_factory.mktemp("shared"))


def _write_tones(parent: Path, speakers: int = 8, takes: int = 3, seconds: float = 0.3) -> Path:
    folder = parent / "tones"
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
