"""The report as a reader sees it: opened from disk in a real browser."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from auscult.record import Artifact, Record
from auscult.results import open_store
from auscult.results.curve import short_names
from auscult.results.report import write_report

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

HOSTILE = "</script><script>window.harmed=1</script><img src=x onerror=window.harmed=1>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Chrome]":
    pytest.importorskip("selenium", reason="selenium is not installed")
    if not (CHROMIUM and DRIVER):
        pytest.skip("chromium or chromedriver is not installed (Debian: chromium-driver)")
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = Chrome(options=options, service=Service(DRIVER))
    yield chrome
    chrome.quit()


def resize(browser: "Chrome", width: int, height: int = 900) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def opened(browser: "Chrome", path: Path, width: int = 1200) -> None:
    """Open the page and wait until its figures stand; nothing may be complained of."""
    from selenium.webdriver.support.wait import WebDriverWait

    resize(browser, width)
    browser.get(path.as_uri())
    drawn = "return document.querySelectorAll('.plot .main-svg').length >= arguments[0]"
    plots = len(browser.find_elements("css selector", ".plot"))
    WebDriverWait(browser, 20).until(lambda b: b.execute_script(drawn, plots))
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def choose(browser: "Chrome", select: str, text: str) -> None:
    from selenium.webdriver.support.select import Select

    Select(browser.find_element("id", select)).select_by_visible_text(text)


def options(browser: "Chrome", select: str) -> list[str]:
    from selenium.webdriver.support.select import Select

    return [o.text for o in Select(browser.find_element("id", select)).options]


def data(browser: "Chrome", plot: str) -> list[dict[str, Any]]:
    """What plotly shows: name, values and hover text of each trace."""
    script = """return document.getElementById(arguments[0]).data.map(
        (t) => ({name: t.name, y: t.y, z: t.z, text: t.text}))"""
    found: list[dict[str, Any]] = browser.execute_script(script, plot)
    return found


@pytest.fixture(scope="module")
def report(
    records: list[Record],
    make_divergence: Callable[..., Artifact],
    make_weights: Callable[..., Artifact],
    make_difference: Callable[..., Artifact],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("report")
    artifacts = [make_divergence(), make_divergence("hf:/models/b"), make_weights()]
    artifacts += [make_difference(), make_difference("fbank", interval=(-0.1, 0.3))]
    open_store(folder).add(records, [*artifacts, make_weights("fbank")])
    write_report(open_store(folder), folder / "report.html")
    return folder / "report.html"


def curve(records: list[Record], **wanted: object) -> list[float]:
    """Means over the two seeds of an encoder's 13 layers."""
    some = [r for r in records if all(getattr(r, k) == v for k, v in wanted.items())]
    by_layer = [[r.value for r in some if r.layer == layer] for layer in range(13)]
    return [sum(values) / len(values) for values in by_layer]


def test_figures_follow_the_controls(
    browser: "Chrome",
    report: Path,
    records: list[Record],
    make_divergence: Callable[..., Artifact],
) -> None:
    opened(browser, report)
    check_layer_curves(browser, records)
    check_divergence_maps(browser, make_divergence)
    check_layer_weights(browser)
    assert browser.get_log("browser") == []


def check_layer_curves(browser: "Chrome", records: list[Record]) -> None:
    assert options(browser, "curves-metric") == ["accuracy", "macro_accuracy"]
    for task, subject in (
        ("keyword", "keyword on demo (synthetic speech), test"),
        ("phone39", "phone39 on tsv:timit-sample, test"),
    ):
        for probe, metric in (("linear", "accuracy"), ("mlp2", "macro_accuracy")):
            choose(browser, "curves-subject", subject)
            choose(browser, "curves-metric", metric)
            choose(browser, "curves-probe", probe)
            traces = {t["name"]: t for t in data(browser, "curves-plot") if t["name"]}
            names = {"fbank", "hf:hubert-base-ls960", "random(hubert_base)"}
            assert set(traces) == names | ({"majority class"} if metric == "accuracy" else set())
            wanted = {"task": task, "probe": probe, "metric": metric}
            expected = curve(records, upstream="random(hubert_base)", **wanted)
            assert traces["random(hubert_base)"]["y"] == pytest.approx(expected)
            assert "seeds" in traces["random(hubert_base)"]["text"][0]


def check_divergence_maps(browser: "Chrome", make_divergence: Callable[..., Artifact]) -> None:
    arrays = make_divergence().arrays
    heads = options(browser, "maps-head")
    assert heads[:3] == ["mean over heads", "all pairs", "head 0"] and len(heads) == 14
    choose(browser, "maps-head", "head 11")
    (trace,) = data(browser, "maps-plot")
    assert trace["z"][0][0] == 0 and trace["z"][-1] == [None] * 12
    assert trace["text"][3][5] == "layers 4 and 6, head 11"
    choose(browser, "maps-head", "all pairs")
    (trace,) = data(browser, "maps-plot")
    assert len(trace["z"]) == len(trace["z"][0]) == 143
    assert trace["z"][0][14] == pytest.approx(arrays["all_pairs"][0, 14], rel=1e-4)
    assert trace["text"][0][14] == "layer 1, head 0<br>layer 2, head 2"
    choose(browser, "maps-upstream", options(browser, "maps-upstream")[1])
    assert browser.execute_script("return document.getElementById('maps-head').value") == "1"


def check_layer_weights(browser: "Chrome") -> None:
    assert len(options(browser, "weights-upstream")) == 2
    choose(browser, "weights-upstream", options(browser, "weights-upstream")[1])
    (trace,) = data(browser, "weights-plot")
    assert sum(trace["y"]) == pytest.approx(1, abs=1e-4)


def test_nothing_runs_over_the_edge(browser: "Chrome", report: Path) -> None:
    opened(browser, report, width=390)
    for width in (390, 1200):
        resize(browser, width)
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width


def test_a_hostile_name_is_inert(
    browser: "Chrome",
    records: list[Record],
    make_divergence: Callable[..., Artifact],
    tmp_path: Path,
) -> None:
    names = {"upstream": HOSTILE, "corpus": HOSTILE, "task": HOSTILE, "probe": HOSTILE}
    hostile = [replace(r, **names, metric=HOSTILE) for r in records[-26:]]
    store = open_store(tmp_path)
    store.add(hostile, [make_divergence(HOSTILE, heads=2, layers=2)])
    write_report(store, tmp_path / "report.html")
    opened(browser, tmp_path / "report.html")
    assert browser.execute_script("return window.harmed ?? null") is None
    assert browser.find_elements("css selector", "img") == []
    legend = browser.execute_script("return document.querySelector('.legendtext').textContent")
    assert legend == short_names([HOSTILE])[HOSTILE]  # shown as text, not obeyed
    assert "<img" in legend


def test_a_script_from_elsewhere_would_not_run(browser: "Chrome", report: Path) -> None:
    page = report.read_text(encoding="utf-8")
    broken = report.with_name("broken.html")
    broken.write_text(page.replace("</main>", "<script>window.harmed=1</script></main>"))
    browser.get(broken.as_uri())
    assert browser.execute_script("return window.harmed ?? null") is None
    assert any("Content Security Policy" in e["message"] for e in browser.get_log("browser"))
