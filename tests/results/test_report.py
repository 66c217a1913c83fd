"""The report holds every number and command, and nothing that runs but its own scripts."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import auscult.results
from auscult.errors import UserError
from auscult.record import Artifact, Record
from auscult.results import open_store
from auscult.results.curve import gather, looks
from auscult.results.difference import build_difference
from auscult.results.figure.drawing import PALETTE
from auscult.results.report import write_report

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """Text and tags of a page, scripts and styles apart."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[dict[str, str | None]] = []
        self.scripts: list[str] = []
        self._words: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = re.sub(r"\s+", " ", " ".join(self._words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        inside = self.tags[-1] if self.tags else ""
        if inside == "script" and self.get_starttag_text() != "</script>":
            self.scripts.append(data)
        elif inside != "style":
            self._words.append(data)

    @property
    def figures(self) -> dict[str, Any]:
        match = re.search(
            r'<script type="application/json" id="figures">(.*?)</script>', self.source
        )
        assert match
        found: dict[str, Any] = json.loads(match[1])
        return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def page(
    records: list[Record],
    make_divergence: Callable[..., Artifact],
    make_weights: Callable[..., Artifact],
    folder: Path,
) -> Page:
    store = open_store(folder)
    phone = [r for r in records if r.task == "phone39"]
    dev = [replace(r, split="dev", corpus_sha256="d" * 64) for r in phone]
    store.add(records + dev, [make_divergence(heads=3, layers=4), make_weights()])
    write_report(store, folder / "new" / "report.html")
    return Page(folder / "new" / "report.html")


def test_it_says_what_was_run(page: Page, records: list[Record]) -> None:
    for text in (
        *("fbank", "random(hubert_base)", "94,371,712", records[0].upstream_sha256[:12]),
        *("tsv:/data/timit-sample", records[0].corpus_sha256[:12], "51,211", "phone39"),
        *("torch 2.11.0", "s3prl 0.4.18", "0.1.0+0123456789ab", "cpu"),
        "auscult probe -u 'random(hubert_base)' -c tsv:/data/timit-sample -t phone39 --out out",
    ):
        assert text in page.text, text


def test_it_holds_every_reported_number(page: Page, records: list[Record]) -> None:
    from auscult.results.table import layer_tables

    for table in layer_tables(records):
        for text in table.cells.to_numpy().flat:
            assert text in page.text


def test_the_summary_says_where_layers_were_chosen(page: Page) -> None:
    summary = page.text[: page.text.index("What was run")]
    assert "keyword on demo (synthetic speech), test: accuracy" in summary
    assert "at layer 6 (picked on test)" in summary and "optimistic" in summary
    assert "Layers chosen on dev." in summary
    assert "Always answering the commonest class scores 0.080" in summary


def test_synthetic_speech_is_always_called_so(page: Page) -> None:
    assert re.search(r"\bon demo\b(?! \(synthetic speech\))", page.text) is None
    subjects = [panel["subject"] for panel in page.figures["panels"]]
    assert {s for s in subjects if "demo" in s} == {"keyword on demo (synthetic speech), test"}
    assert "demo (synthetic speech)" in page.figures["weights"][0]["label"]


def test_it_needs_nothing_else(page: Page) -> None:
    wanted = {"src", "href", "action", "data", "srcset"}
    links = [v for a in page.attributes for k, v in a.items() if k in wanted and v]
    assert len(links) > 5
    assert all(link.startswith(("#", "data:,")) for link in links)
    style = page.source[page.source.index("<style>") : page.source.index("</style>")]
    assert "url(" not in style and "@import" not in style


def test_figures_are_whole(page: Page, make_divergence: Callable[..., Artifact]) -> None:
    (found,) = page.figures["maps"]
    expected = make_divergence(heads=3, layers=4).arrays
    np.testing.assert_allclose(np.array(found["all_pairs"], float), expected["all_pairs"], 1e-4)
    same_head = np.array(found["same_head"], dtype=float)  # null becomes NaN
    np.testing.assert_allclose(same_head, expected["same_head"], 1e-4)
    panels = page.figures["panels"]
    assert len(panels) == 2 * 2 * 3
    assert {len(curve["values"]) for panel in panels for curve in panel["curves"]} == {1, 13}


def test_colours_are_given_out_as_in_the_figures(page: Page, records: list[Record]) -> None:
    wanted = looks(gather(records))
    assert page.figures["looks"] == {label: asdict(look) for label, look in wanted.items()}
    script = (Path(auscult.results.__file__).parent / "report.js").read_text(encoding="utf-8")
    light = re.search(r"light: \[(.*?)\]", script)
    assert light and re.findall("#[0-9a-f]{6}", light[1]) == [c.lower() for c in PALETTE]


def test_what_the_layers_are_is_said(records: list[Record], tmp_path: Path) -> None:
    open_store(tmp_path).add([replace(records[0], convention="block_input, final_norm")])
    write_report(open_store(tmp_path), tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    sha256 = records[0].upstream_sha256[:12]
    assert f"{sha256} block_input, final_norm" in page.text


def test_the_same_store_gives_the_same_page(page: Page, folder: Path) -> None:
    write_report([open_store(folder), open_store(folder)], folder / "again.html")
    assert (folder / "again.html").read_text(encoding="utf-8") == page.source


def test_names_from_files_are_text(
    records: list[Record], make_divergence: Callable[..., Artifact], tmp_path: Path
) -> None:
    run = replace(records[0].provenance, command=HOSTILE, device=HOSTILE)
    names = {"upstream": HOSTILE, "corpus": HOSTILE, "task": HOSTILE, "probe": HOSTILE}
    hostile = replace(records[0], **names, metric=HOSTILE, provenance=run)
    difference = build_difference([hostile], [hostile], (0, 0), 0.1, (0.1, 0.2))
    store = open_store(tmp_path)
    store.add([hostile], [make_divergence(upstream=HOSTILE, heads=2, layers=2), difference])
    write_report(store, tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert page.tags.count("script") == 3 and "img" not in page.tags
    assert "alert(1)" in page.text and "† +0.100 [+0.100, +0.200]" in page.text
    assert page.figures["panels"][0]["metric"] == HOSTILE


def test_differences_stand_in_the_section_of_their_task(
    records: list[Record],
    make_difference: Callable[..., Artifact],
    make_weights: Callable[..., Artifact],
    tmp_path: Path,
) -> None:
    store = open_store(tmp_path)
    unclear = make_difference("fbank", value=0.04, interval=(-0.01, 0.09))
    store.add(records, [make_difference(), unclear, make_weights()])
    write_report(store, tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    summary = page.text[: page.text.index("What was run")]
    keyword, phone = (summary.index(f"{task} on ") for task in ("keyword", "phone39"))
    place = summary.index("Differences on the same resamples of speakers")
    assert keyword < phone < place and summary.count("Differences on the same") == 1
    assert "hf:hubert-base-ls960 fbank linear 6 and 0 +0.040 [-0.010, +0.090]" in summary
    text = "hf:hubert-base-ls960 random(hubert_base) linear 6 and 0 † +0.200 [+0.100, +0.300]"
    assert text in summary and "<strong>+0.200 [+0.100, +0.300]</strong>" in page.source
    assert page.source.count("<strong>") == 1
    assert "† and bold: the interval excludes zero" in summary
    assert "numbers, 2 differences: keyword on" in page.text
    assert page.figures["maps"] == [] and len(page.figures["weights"]) == 1


def test_the_summary_quotes_a_paired_difference(
    records: list[Record], make_difference: Callable[..., Artifact], tmp_path: Path
) -> None:
    """Two intervals that overlap say less than one of the difference."""
    linear = [r for r in records if (r.task, r.probe) == ("phone39", "linear")]
    dev = [replace(r, split="dev", corpus_sha256="d" * 64) for r in linear]
    store = open_store(tmp_path)
    store.add(linear + dev, [make_difference(), make_difference("fbank")])
    write_report(store, tmp_path / "report.html")
    summary = Page(tmp_path / "report.html").text
    apart = r"next is \S+ with [^;]*; their difference is \+0\.200 \[\+0\.100, \+0\.300\]"
    assert re.search(apart, summary)
    assert "overlap" not in summary


def test_without_differences_there_is_no_table_of_them(page: Page) -> None:
    assert "Differences on" not in page.text and "†" not in page.text


def test_an_empty_store_is_a_mistake(tmp_path: Path) -> None:
    open_store(tmp_path).add([])
    with pytest.raises(UserError, match="results.sqlite holds no results to report"):
        write_report(open_store(tmp_path), tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_maps_alone_make_a_report(make_divergence: Callable[..., Artifact], tmp_path: Path) -> None:
    open_store(tmp_path).add([], [make_divergence(heads=2, layers=2)])
    write_report(open_store(tmp_path), tmp_path / "report.html")
    assert "No scores, only maps" in Page(tmp_path / "report.html").text


def test_superb_stands_beside_published_results(records: list[Record], tmp_path: Path) -> None:
    first = next(r for r in records if r.task == "keyword" and r.metric == "accuracy")
    official = replace(
        first,
        task="keyword_spotting",
        corpus="speech_commands:/data/sc",
        layer="weighted",
        num_items=3081,
        value=0.9412,
        config={"batch_size": 32, "total_steps": 9},
    )
    mine = replace(official, upstream="<mine>", upstream_sha256="1" * 64, corpus="tsv:/data/words")
    store = open_store(tmp_path)
    store.add([official, mine, *records[:4]])
    protocols = {"keyword_spotting": {"batch_size": 32, "total_steps": 9}}
    write_report(store, tmp_path / "report.html", lambda: protocols)
    page = Page(tmp_path / "report.html")
    text = page.text[page.text.index("SUPERB results, %") :]
    for words in (
        f"{first.upstream} own 0.0 94.12 ",
        "<mine> own 0.0 94.12* ",
        "HuBERT Base published 94.7 5.41 96.30",
        "KS 94.12 ",
        "-2.18 3,081",  # from HuBERT Base
        "not on SUPERB's corpus (speech_commands)",
    ):
        assert words in text, words
    assert text.index("<mine> own") < text.index("FBANK published")
    assert "superb_s" not in text  # a single task gives no score
    write_report(store, tmp_path / "plain.html")
    assert 'id="superb"' not in Page(tmp_path / "plain.html").source

    def unasked() -> dict[str, Any]:
        raise AssertionError("nothing here is about SUPERB")

    open_store(tmp_path / "probes").add(records[:4])
    write_report(open_store(tmp_path / "probes"), tmp_path / "plain.html", unasked)
