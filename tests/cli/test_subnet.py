"""`auscult subnet` says what a supernet can be cut to, in forms that go back in."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from auscult.upstreams.lighthubert.space import BASE, SMALL

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("lighthubert_base", "6,530,347,008\n"),
        ("lighthubert_small", "951,892,141,473\n"),
        ("random(lighthubert_small)", "951,892,141,473\n"),
    ],
)
def test_count(name: str, line: str, run: Run) -> None:
    assert run("subnet", "count", name)[:2] == (0, line)


def test_count_as_json(run: Run) -> None:
    _, stdout, _ = run("subnet", "count", "lighthubert_base", "--json", "--quiet")
    assert json.loads(stdout) == {"records": [], "space": "base", "num_subnets": 6_530_347_008}


def test_show(run: Run) -> None:
    status, stdout, _ = run("subnet", "show", "lighthubert_base@a_base")
    assert status == 0
    for part in ("66,897,664", "1,343,154,671,072", "embed=640,depth=12,heads=10,ffn=4", "2560"):
        assert part in stdout


def test_show_the_layers_that_are_kept(run: Run) -> None:
    status, stdout, _ = run("subnet", "show", "lighthubert_small@smallest")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in stdout.splitlines()]
    rows = [row for row in rows if row]
    assert status == 0 and len(rows) == 10
    assert rows[6:8] == [
        ["7", "6", "4", "256", "768", "3"],
        ["8", "8", "4", "256", "768", "3"],  # the stored layer 7 is dropped
    ]


def test_what_show_prints_as_json_is_a_subnet_file(run: Run, tmp_path: Path) -> None:
    asked = "lighthubert_small@params<=20M"
    status, stdout, stderr = run("subnet", "show", asked, "--json")
    assert status == 0 and "Largest subnet of the small space with params<=20M" in stderr
    shown = json.loads(stdout)
    assert shown["parameters"] == 19_985_408 and shown["macs"] == 760_905_907_888
    assert shown["stored_layers"] == list(range(11)) and shown["extractor_mode"] == "layer_norm"
    (tmp_path / "subnet.json").write_text(stdout)
    again = run("subnet", "show", f"lighthubert_small@{tmp_path}/subnet.json", "--json")[1]
    assert json.loads(again) == shown | {"upstream": json.loads(again)["upstream"]}
    in_full = run("subnet", "show", f"lighthubert_small@{shown['text']}", "--json")[1]
    assert json.loads(in_full)["subnet"] == shown["subnet"]


def test_sample(run: Run) -> None:
    status, stdout, _ = run("subnet", "sample", "lighthubert_small", "--seed", 3, "-n", 4)
    lines = stdout.splitlines()
    assert status == 0 and len(lines) == len(set(lines)) == 4
    assert lines[0].split()[-1] == str(SMALL.sample(3))
    assert "33,894,144 parameters" in lines[0] and "931,677,085,952 MACs" in lines[0]


def test_sample_as_json(run: Run) -> None:
    words = ("subnet", "sample", "lighthubert_base", "--seed", 5, "-n", 2, "--json", "--quiet")
    first, second = json.loads(run(*words)[1])["subnets"]
    assert first["subnet"] == BASE.sample(5).to_dict() != second["subnet"]
    assert set(first) == {"text", "subnet", "parameters", "macs"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("count", "hubert_base"), "hubert_base has no subnets; name a supernet"),
        (("count", "lighthubert_bse"), "Did you mean lighthubert_base"),
        (("count", "lighthubert_base@a_base"), "is one subnet; drop @a_base"),
        (("sample", "lighthubert:."), "is one subnet, cut out"),
        (("count", "lighthubert:nosuch.pt"), "nosuch.pt"),
        (("show", "lighthubert_base@a_small"), "of the small space, not of the base one"),
        (("show", "lighthubert_small@params<=1"), "11,449,088 parameters"),
    ],
)
def test_mistakes(words: tuple[str, ...], message: str, run: Run) -> None:
    status, stdout, stderr = run("subnet", *words)
    assert status == 2 and stdout == ""
    assert message in stderr and "Traceback" not in stderr


@pytest.mark.parametrize("verb", ["count", "show", "sample"])
def test_help_has_a_runnable_example(verb: str, run: Run) -> None:
    status, stdout, _ = run("subnet", verb, "--help")
    assert status == 0 and f"auscult subnet {verb} " in stdout
