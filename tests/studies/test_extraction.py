"""Extraction from Python: the verb's files bit for bit, in processes, after kills, with objects."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import auscult
from auscult import studies
from auscult.contracts import HiddenStates
from auscult.errors import UserError
from auscult.extraction import plan_batches
from auscult.studies import extraction
from auscult.studies.extracted import Target

Command = Callable[..., tuple[int, str, str]]


class Frames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv1d(1, 6, 400, 320)

    def forward(self, waves: Tensor) -> Tensor:
        return self.layer(waves[:, None]).tanh().mT


@pytest.fixture
def corpus(tone_corpus: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> str:
    """24 tones, in batches of three."""
    monkeypatch.setattr(extraction, "plan_batches", partial(plan_batches, batch_seconds=1.1))
    return f"tsv:{tone_corpus()}"


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_as_the_verb(corpus: str, tmp_path: Path, run: Command) -> None:
    words = ("extract", "-u", "fbank", "-c", corpus, "--dtype", "float16", "--limit", 2)
    status, _, errors = run(*words, "--out", tmp_path / "verb")
    assert status == 0, errors
    found = auscult.extract("fbank", corpus, out=tmp_path / "out", dtype="float16", limit=2)
    assert contents(tmp_path / "verb") == contents(tmp_path / "out")
    assert len(found.files) == 3 * 2 and all(path.is_file() for path in found.files)
    assert "6 files of fbank in float16" in found._repr_html_()
    assert found.to_dict()["precision"] == "float32" and found.skipped == ()
    with pytest.raises(UserError, match="limit=0: expected 1 utterance of each split"):
        auscult.extract("fbank", corpus, out=tmp_path / "out", limit=0)


@pytest.mark.slow
def test_processes_write_the_same_bits(corpus: str, tmp_path: Path) -> None:
    one = auscult.extract("fbank", corpus, out=tmp_path / "one")
    two = auscult.extract("fbank", corpus, out=tmp_path / "two", executor="local:2")
    assert one.plan is not None and len(one.plan.items) == 8
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert [p.name for p in one.files] == [p.name for p in two.files] and len(one.files) == 24


@pytest.mark.parametrize("executor", ["serial", "local:2"])
def test_a_killed_run_goes_on(
    executor: str, corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auscult.extract("fbank", corpus, out=tmp_path / "whole")
    out, write, written = tmp_path / "killed", Target.write, []

    def killed(self: Target, row: Any) -> None:
        if len(written) == 5:
            raise KeyboardInterrupt
        write(self, row)
        written.append(self.path)

    with monkeypatch.context() as context:
        context.setattr(Target, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            auscult.extract("fbank", corpus, out=out)
    plan = studies.plan_extract("fbank", corpus, out=out)
    states = [row["state"] for row in plan.to_dicts()]
    assert states == ["there", *["to do"] * 7] and len(plan.cost()) == 7
    size = sum(path.stat().st_size for path in (tmp_path / "whole").iterdir())
    assert 0.3 < sum(x.disk for x in plan.cost().values()) / (size * 7 / 8) < 1.2
    times = {path: path.stat().st_mtime_ns for path in written}
    auscult.extract("fbank", corpus, out=out, executor=executor)
    assert contents(tmp_path / "whole") == contents(out)
    kept = [path.stat().st_mtime_ns == times[path] for path in written]
    assert kept == [True] * 3 + [False] * 2
    assert len(studies.plan_extract("fbank", corpus, out=out).done()) == 8


def test_objects(corpus: str, tmp_path: Path) -> None:
    encoder, speech = auscult.wrap(Frames()), auscult.corpus(corpus)
    found = auscult.extract(encoder, speech, out=tmp_path / "mine")
    assert found.upstream == "Frames" and len(found.files) == 24
    assert load_file(found.files[0])["layer_00"].shape[1] == 6
    assert found.plan is not None
    command = found.plan.items[0].command
    assert command == f"auscult.extract(Frames, {corpus!r}, out={str(tmp_path / 'mine')!r})"
    two = auscult.extract("fbank", speech, out=tmp_path / "two", executor="local:2")
    auscult.extract("fbank", corpus, out=tmp_path / "one")
    assert contents(tmp_path / "one") == contents(tmp_path / "two") and len(two.files) == 24
    with pytest.raises(UserError, match="do not have the object Frames"):
        auscult.extract(encoder, corpus, out=tmp_path / "none", executor="local:2")


def test_files(corpus: str, tmp_path: Path, run: Command) -> None:
    tones = sorted(Path(corpus.removeprefix("tsv:")).glob("s0-*.flac"))
    found = auscult.extract("fbank", iter(tones), out=tmp_path / "out")
    assert [path.stem for path in found.files] == ["s0-0", "s0-1", "s0-2"]
    one = auscult.extract("fbank", tones[0], out=tmp_path / "one")
    assert [path.stem for path in one.files] == ["s0-0"]
    assert found.plan is not None
    words = found.plan.items[0].command.split()
    assert words == [
        "auscult",
        "extract",
        "-u",
        "fbank",
        "--out",
        str(tmp_path / "out"),
        *words[6:],
    ]
    assert words[6:] == list(map(str, tones))
    mine = studies.plan_extract(auscult.wrap(Frames()), tones[:1], out=tmp_path / "one_more")
    assert f"auscult.extract(Frames, [{str(tones[0])!r}], out=" in mine.items[0].command
    status, _, errors = run(*words[1:])
    assert status == 0 and "3 of 3 files were there already" in errors
    with pytest.raises(UserError, match="either audio files or a corpus"):
        auscult.extract("fbank", tmp_path.glob("*.wav"), out=tmp_path / "out")


def test_a_bad_part_does_not_stop_the_others(
    corpus: str, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Command
) -> None:
    forward = type(toy).forward

    def failing(self: Any, audio: Any) -> HiddenStates:
        states: HiddenStates = forward(self, audio)
        if audio.lengths.max() > 5400:  # of the longest takes
            states.layers[1].fill_(float("nan"))
        return states

    monkeypatch.setattr(type(toy), "forward", failing)
    found = auscult.extract(toy, corpus, out=tmp_path / "out")
    assert 0 < len(found.failures) < 8 and all(path.is_file() for path in found.files)
    assert (
        len(found.files) == len(list((tmp_path / "out").iterdir())) == 24 - 3 * len(found.failures)
    )
    assert "is not finite" in found._repr_html_()
    monkeypatch.setattr("auscult.load", lambda spec, seed=0: toy)
    words = ("extract", "-u", "toy", "-c", corpus, "--out", tmp_path / "out")
    status, said, errors = run(*words)
    assert status == 1 and f"{len(found.files)} files in" in said and "is not finite" in errors
    assert run(*words, "--plan")[1].count("to do") == len(found.failures)


def test_audio_that_changed_since_it_was_planned_is_refused(corpus: str, tmp_path: Path) -> None:
    plan = studies.plan_extract("fbank", corpus, out=tmp_path / "out")
    path = Path(corpus.removeprefix("tsv:")) / "s0-0.flac"
    samples, rate = soundfile.read(path)
    soundfile.write(path, samples[::-1], rate)
    with studies.Serial().open(plan.desk) as carry_out:
        outcomes = dict(carry_out(plan.items))
    (bad,) = [found for found in outcomes.values() if isinstance(found, studies.Failure)]
    assert "changed" in bad.reason and len(list((tmp_path / "out").iterdir())) == 21
    with studies.Pool(1).open(plan.desk) as carry_out:
        outcomes = dict(carry_out(plan.items))
    (bad,) = [found for found in outcomes.values() if isinstance(found, studies.Failure)]
    assert "is another than when this was planned" in bad.reason
