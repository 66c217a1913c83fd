"""Names of strangers act nowhere: every verb that shows or writes a store, on hostile strings."""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from auscult.cli.output import Output
from auscult.progress import logger, progress
from auscult.record import Artifact, Provenance, Record
from auscult.results import open_store
from auscult.results.difference import build_difference
from auscult.results.figure.drawing import divergence_maps, layer_curves, layer_weights

Run = Callable[..., tuple[int, str, str]]
Make = Callable[..., Artifact]

HOSTILE = {
    "colour": "\x1b[31mred\x1b[0m",
    "title": "\x1b]0;owned\x07",
    "one byte escape": "\x9b2J\x90q\x9c",
    "bell, backspace, delete": "a\x07b\x08c\x7f",
    "carriage return": "good\rbad",
    "lines": "a\n\nb | c\n# d",
    "direction": "\u202egnp.exe\u202c \u2066x\u2069",
    "invisible": "a\u200bb\ufeffc\u00add\U000e0041",
    "separators": "a\u2028b\u2029c\u0085d",
    "no character": "caf\udce9",
    "NUL": "a\0b",
    "formula": "=HYPERLINK(1)",
    "plus": "+cmd|' /C calc'!A0",
    "minus": "-2+3",
    "at": "@SUM(1)",
    "full width": "＝1",
    "tab and formula": "\t=1",
    "space and formula": "  =1",
    "formula after a semicolon": "x;=1",
    "formula on a second line": "x\n=1",
    "quotes": 'a"b\'c""',
    "script": "</script><script>alert(1)</script><img src=x onerror=alert(2)>",
    "comment": "<!-- <![CDATA[ -->",
    "attribute": '" onmouseover="alert(1)',
    "markdown": "[x](javascript:alert(1)) ![y](z) `a` **b** ~~c~~ # d",
    "pipes": "|a||b|\\|",
    "rich": "[bold red]x[/] [link=file:///etc/passwd]y[/link] :fire:",
    "mathematics": "$\\frac{$ $$x^",
    "latex": "\\input{/etc/passwd} % & # _ ~ ^^4d",
    "length": "[5pt]",
    "star": "*x",
    "braces": "}{ {{7*7}} {% raw %} {#",
    "template": "%{x} %{meta[0]} ${1} %s %(a)s {0}",
    "entity": "&lt;b&gt; &#60;i>",
    "underscore": "_x_",
    "nothing": "",
    "long": "long-" * 100,
}
CHARACTERS = {"\n", "\t"}  # of those that act, what output has for itself


def acts(text: str) -> list[str]:
    """The characters that a terminal would obey."""
    bad = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return [c for c in text if c not in CHARACTERS and unicodedata.category(c) in bad]


def hostile_records(text: str, records: list[Record]) -> list[Record]:
    """A curve over layers, a score of a task of SUPERB and a measurement, named by ``text``."""
    run = Provenance(
        command=text,
        created=text,
        code_version=text,
        libraries={text: text},
        device=text,
    )
    names = {n: text for n in ("upstream", "upstream_sha256", "corpus", "corpus_sha256", "task")}
    names |= {n: text for n in ("probe", "metric", "split", "convention", "subnet")}
    config = {"split_column": text, text: [text, {text: text}]}
    linear = [r for r in records if (r.task, r.probe, r.seed) == ("phone39", "linear", 0)]
    curve = [replace(r, **names, config=config, provenance=run) for r in linear[1:4]]
    first = curve[0]
    return [
        *curve,
        replace(first, layer=text),
        replace(first, layer=text, unit=text or "x", selected_on=text),
        replace(first, upstream="fbank", metric="accuracy", layer=1),
        replace(first, task="keyword_spotting", metric="accuracy", layer="weighted"),
        replace(first, task="emotion_recognition", metric="accuracy", corpus="iemocap:" + text),
    ]


def hostile_artifacts(
    text: str, some: list[Record], maps: Artifact, weights: Artifact
) -> list[Artifact]:
    named = {"upstream": text, "corpus": text, "task": text}
    return [
        replace(maps, **named, meta={"unit": text, "num_utterances": 3}),  # type: ignore[arg-type]
        replace(weights, **named),  # type: ignore[arg-type]
        build_difference(some[:1], some[5:6], (0, 0), 0.1, (0.0, 0.2)),
    ]


@pytest.fixture(scope="module")
def made(
    records: list[Record], make_divergence: Make, make_weights: Make
) -> tuple[list[Record], list[Artifact]]:
    maps, weights = make_divergence(heads=2, layers=2), make_weights()
    every: tuple[list[Record], list[Artifact]] = ([], [])
    for text in HOSTILE.values():
        some = hostile_records(text, records)
        every[0].extend(some)
        every[1].extend(hostile_artifacts(text, some, maps, weights))
    return every


@pytest.fixture(scope="module")
def store(
    made: tuple[list[Record], list[Artifact]], tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A store that holds them all; what is printed of it must be harmless throughout."""
    folder = tmp_path_factory.mktemp("hostile")
    open_store(folder).add(*made)
    return str(folder)


def test_the_terminal(run: Run, store: str, tmp_path: Path) -> None:
    for words in (
        ("results", "ls", store),
        ("results", "show", store),
        ("results", "export", store),
        ("results", "export", store, "--format", "markdown"),
        ("results", "export", store, "--format", "latex"),
        ("superb", "table", store),
        ("superb", "table", store, "--format", "markdown"),
        ("report", store, "--out", tmp_path / "report.html"),
    ):
        status, out, err = run(*words)
        assert (status, err) == (0, "")
        assert acts(out) == [], words
        if "--format" not in words and words[0] == "results" and words[1] != "export":
            assert all(len(line) <= 160 for line in out.splitlines() if "│" in line)


def test_json_is_exact(run: Run, store: str, made: tuple[list[Record], list[Artifact]]) -> None:
    kept = {record.key: record for record in open_store(store).records()}
    for words in (("results", "show", store, "--json"), ("results", "export", store, "--json")):
        status, out, err = run(*words, "--quiet")
        assert (status, err) == (0, "") and out.isascii()
        found = [Record.from_dict(flat) for flat in json.loads(out)["records"]]
        assert found and all(kept[record.key] == record for record in found)
    plain = {r.key for r in made[0] if not re.search("[\0\udce9]", r.provenance.command)}
    assert plain <= set(kept) and len(kept) == len(made[0])  # those are kept as escapes


def test_csv(run: Run, store: str, tmp_path: Path) -> None:
    for number, words in enumerate((("results", "export"), ("superb", "table"))):
        path = tmp_path / f"{number}.csv"
        status, _, err = run(*words, store, "--format", "csv", "--out", path)
        assert status == 0, err
        written = path.read_bytes().decode("utf-8")
        rows = list(csv.reader(io.StringIO(written)))
        assert len({len(row) for row in rows}) == 1 and len(rows) > 2
        for cell in (cell for row in rows[1:] for cell in row):
            assert re.fullmatch(r"-?[0-9.e-]+", cell) or not calculates(cell), cell
        assert acts(written) == [] and "\t" not in written


def calculates(cell: str) -> bool:
    """Whether a spreadsheet would, also one that takes semicolons for separators."""
    return any(
        part.strip().startswith(tuple("=+-@＝＋－＠")) for part in re.split(r"[;\t\r\n]", cell)
    )


def test_markdown(run: Run, store: str, tmp_path: Path) -> None:
    for number, words in enumerate((("results", "export"), ("superb", "table"))):
        path = tmp_path / f"{number}.md"
        assert run(*words, store, "--format", "markdown", "--out", path)[0] == 0
        blocks = path.read_text(encoding="utf-8").split("\n\n")
        tables = [block.strip("\n").split("\n") for block in blocks if block.startswith("|")]
        assert len(tables) >= 2
        for table in tables:
            assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in table}) == 1
        for line in "\n".join(blocks).splitlines():
            assert line == "" or line.startswith(("|", "**")) or ";" in line or "items" in line
            assert re.search(r"(?<!\\)[<`]|(?<!\\)\$|&(?!amp;)", line) is None, line


def test_latex(run: Run, store: str, tmp_path: Path) -> None:
    for number, words in enumerate((("results", "export"), ("superb", "table"))):
        path = tmp_path / f"{number}.tex"
        assert run(*words, store, "--format", "latex", "--out", path)[0] == 0
        written = path.read_text(encoding="utf-8")
        assert "\\input" not in written and "^^" not in written and "\n\n\n" not in written
        bare = re.sub(
            r"\\[&%$#_{}\\]|\\text(backslash|asciitilde|asciicircum|less|greater){}", "", written
        )
        bare = re.sub(r"\$\\(up|down)arrow\$", "", bare)
        assert not re.search(r"[%#$~^_]", bare), bare
        assert bare.count("{") == bare.count("}")
        assert not re.search(r"(\\\\|rule)\s*[\[*]", written)


class Page(HTMLParser):
    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def test_the_report(run: Run, store: str, tmp_path: Path) -> None:
    assert run("report", store, "--out", tmp_path / "report.html")[0] == 0
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(source)
    assert page.tags.count("script") == 3 and "img" not in page.tags and page.handlers == []
    ours = source[: source.index("<script>")]
    assert [c for c in acts(ours) if c != "\t"] == []
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', source)
    assert found and found[1].isascii() and "<" not in found[1]
    figures = json.loads(found[1])
    labels = {curve["label"] for panel in figures["panels"] for curve in panel["curves"]}
    assert labels and labels <= set(figures["looks"])


@pytest.mark.parametrize(
    "kind", ["colour", "mathematics", "latex", "no character", "underscore", "nothing"]
)
def test_figures(
    kind: str, records: list[Record], make_divergence: Make, make_weights: Make, tmp_path: Path
) -> None:
    text = HOSTILE[kind]
    some = hostile_records(text, records)
    maps, weights = make_divergence(heads=2, layers=2), make_weights()
    maps, weights, _ = hostile_artifacts(text, some, maps, weights)
    layer_curves(some[:3], tmp_path / "a.png", metric=text, title=text)
    divergence_maps(maps, tmp_path / "b.png")
    layer_weights(weights, tmp_path / "c.png")


@pytest.mark.parametrize("kind", ["title", "lines", "direction", "no character", "rich", "braces"])
def test_what_was_typed(kind: str, run: Run, store: str) -> None:
    text = HOSTILE[kind]
    for words in (
        ("results", "show", store, "--task", "x" + text),
        ("results", "export", store, "--format", "x" + text),
        ("results", "ls", "x" + text),
        ("results", "x" + text),
        ("x" + text,),
        ("report", store, "--x" + text),
        ("superb", "table", store, "--against", "x" + text),
        ("superb", "check", "x" + text),
        ("superb", "check", store, "--against", "x" + text),
        ("probe", "-u", "x" + text, "-c", "x" + text, "-t", "x" + text),
        ("check", "x" + text),
    ):
        status, out, err = run(*words)
        assert status in (1, 2) and acts(out + err) == [], words
        assert "Traceback" not in err
        if status == 2 and err.startswith("auscult:"):
            assert len(err.splitlines()) == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("live", [True, False])
def test_progress(live: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal() if live else io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    Output()
    with progress("\x1b]0;x\x07 [red]a[/red]\n", 2) as advance:
        advance(2, "\x1b]0;y\x07 [b]")
    logger.info("\x1b]0;z\x07")
    said = stream.getvalue()
    assert "\x1b]" not in said and "\x07" not in said and r"\x1b]0;z\x07" in said
    assert not live or ("[red]a[/red]" in said and r"\x1b]0;y\x07 [b]" in said)
