"""What a person meets first in Python: names, keywords, how findings and plans read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import auscult
from auscult.cli.app import app
from auscult.studies.contents import inspect_corpus
from auscult.studies.supernet import draw_subnets

QUICK: dict[str, Any] = {"probes": "linear", "max_epochs": 1, "baselines": False}


def odd(value: Any) -> Any:
    """Return what has another type than it should."""
    return value


class Frames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv1d(1, 6, 400, 320)

    def forward(self, waves: Tensor) -> Tensor:
        return self.layer(waves[:, None]).tanh().mT


@pytest.fixture
def corpus(tone_corpus: Callable[..., Path]) -> str:
    return f"tsv:{tone_corpus()}"


def test_a_notebook_completes_all_names() -> None:
    assert set(auscult.__all__) <= set(dir(auscult))
    assert issubclass(auscult.UserError, Exception)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda c: auscult.probe("fbank", c, "keyword", seed=3), r"of probe\(\) 'seed'.*seeds"),
        (
            lambda c: auscult.plan_probe("fbank", c, "keyword", **odd({"lim": 3})),
            r"plan_probe\(\) 'lim'.*limit",
        ),
        (lambda c: auscult.attention("fbank", c, budget=3), r"attention\(\) 'budget'"),
        (lambda c: auscult.run("fbank", c, "keyword_spotting", setting=()), "settings"),
        (lambda c: auscult.superb("fbank", ".", task="x"), r"superb\(\) 'task'.*tasks"),
        (lambda c: auscult.extract("fbank", c, out="x", dtyp="float16"), "dtype"),
        (lambda c: auscult.probe("fbank", c, odd(3)), "3 is no probing task; expected a name"),
        (lambda c: auscult.superb("fbank", odd({"keyword_spotting": c})), "expected the folder"),
        (lambda c: auscult.superb("fbank", ".", corpora=odd(["x=y"])), "dictionary by task"),
        (lambda c: auscult.run("fbank", c, "keyword_spotting", settings=odd(3)), "got 3"),
        (lambda c: auscult.run("fbank", c, "keyword_spotting", settings=odd([1])), "got 1"),
        (lambda c: auscult.run("fbank", c, odd(None)), "None is no task; expected its name"),
        (lambda c: auscult.superb("fbank", ".", tasks=odd(3)), "Expected a text or several, got 3"),
        (lambda c: auscult.superb("fbank", ".", splits=odd({"asr": 3})), "text or several, got 3"),
        (lambda c: auscult.superb("fbank", ".", corpora=odd({"x": 3})), "an address, got 3"),
        (lambda c: inspect_corpus(odd(None)), "A NoneType has no address to look at"),
        (lambda c: draw_subnets(odd(3)), "3 is no address"),
        (lambda c: auscult.corpus([], name=odd(3)), "name=3: expected the text"),
        (
            lambda c: auscult.extract("fbank", odd(torch.zeros(2, 9)), out="x"),
            "Tensor is no audio file",
        ),
        (lambda c: auscult.extract(odd(["fbank"]), c, out="x"), "takes one encoder"),
    ],
)
def test_a_wrong_argument_is_one_sentence(
    corpus: str,
    call: Callable[[str], object],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(auscult.UserError, match=said):
        call(corpus)


def test_plans_and_findings_read_shortly(corpus: str, tmp_path: Path) -> None:
    options = {**QUICK, "out": tmp_path}
    before = auscult.plan_probe(Frames(), corpus, "keyword", **options)
    assert repr(before) == "<Plan: 2 items, 2 to do>"
    found = auscult.probe(Frames(), corpus, "keyword", **options)
    assert repr(found) == f"<Findings: {len(found.records)} numbers>"
    assert repr(auscult.plan_probe(Frames(), corpus, "keyword", **options)).endswith(", 0 to do>")
    assert "scored on test" in found._repr_html_()


def test_settings_may_be_a_dictionary(corpus: str) -> None:
    plans = [
        auscult.plan_run("fbank", corpus, "keyword_spotting", settings=settings, baselines=False)
        for settings in (["batch_size=2", "balanced=true"], {"batch_size": 2, "balanced": True})
    ]
    assert plans[0].items == plans[1].items


def test_a_plan_with_nothing_to_do_says_so(corpus: str, tmp_path: Path) -> None:
    words = ["probe", "-u", "fbank", "-c", corpus, "-t", "keyword", "--probe", "linear"]
    words += ["--max-epochs", "1", "--no-baselines", "--out", str(tmp_path)]
    before = CliRunner().invoke(app, [*words, "--plan"]).output
    assert "encoding takes very roughly" in before
    assert CliRunner().invoke(app, words).exit_code == 0
    after = CliRunner().invoke(app, [*words, "--plan"]).output
    assert "2 items; all are there, nothing is left to do." in after
    assert "very roughly" not in after
