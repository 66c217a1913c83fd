"""What README shows in Python runs as it stands there."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import auscult
from auscult.record import Record

README = Path(__file__).resolve().parents[1] / "README.md"


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))


class MyModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.front = nn.Conv1d(1, 6, 400, 320)
        self.encoder = Encoder()

    def forward(self, waves: Tensor) -> Tensor:
        frames = self.front(waves[:, None]).mT
        for layer in self.encoder.layers:
            frames = layer(frames).tanh()
        return frames


def speech(folder: Path) -> pd.DataFrame:
    frame = pd.read_csv(folder / "MANIFEST.tsv", sep="\t", dtype=str, keep_default_na=False)
    paths = [str(folder / path) for path in frame.path]
    return frame.assign(path=paths, dialect=frame.keyword)


@pytest.mark.slow
def test_the_python_of_the_readme(
    tone_corpus: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = README.read_text()
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", text, re.S) if "auscult.probe" in b)
    block = block.replace("seeds=3", "seeds=2, max_epochs=2")
    block = block.replace('"speaker", ', "")  # the tones' splits are by speaker
    monkeypatch.chdir(tmp_path)
    given: dict[str, Any] = {"my_module": MyModule(), "frame": speech(tone_corpus())}
    block = block.replace("steps=50", "steps=25")
    exec(block.replace('"label": "dialect"', '"label": "dialect", "batch_size": 4'), given)
    found = given["found"].to_pandas()
    assert {"MyModule", "tiny_hubert", "random(tiny_hubert)", "log_mel"} == set(found.upstream)
    assert set(found.seed) == {0, 1} and (tmp_path / "report.html").stat().st_size > 10_000
    assert (tmp_path / "curves.pdf").read_bytes().startswith(b"%PDF")
    assert given["maps"].matrix.shape[0] == given["maps"].matrix.shape[1] > 1
    assert len(given["head"].records) == 3 * 2  # with log-mel and the twin


@pytest.mark.slow
def test_python_gives_the_numbers_of_the_verb(
    run: Callable[..., tuple[int, str, str]], tone_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    corpus = f"tsv:{tone_corpus()}"
    words = ("probe", "-u", "tiny_audio_albert", "-c", corpus, "-t", "keyword", "--probe", "linear")
    status, stdout, _ = run(*words, "--max-epochs", 2, "--json", "--out", tmp_path / "verb")
    assert status == 0
    typed = [Record.from_dict(flat) for flat in json.loads(stdout)["records"]]
    options: dict[str, Any] = {"probes": ["linear"], "max_epochs": 2, "out": tmp_path / "python"}
    found = auscult.probe("tiny_audio_albert", corpus, "keyword", **options)
    one, two = ([(r.key, r.value, r.low, r.high) for r in x] for x in (typed, found.records))
    assert one == two and len(one) > 10
    assert [r.provenance.command for r in typed] == [r.provenance.command for r in found.records]
