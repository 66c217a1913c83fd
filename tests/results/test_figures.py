"""Figures show what they should, and the same input gives the same bytes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from auscult.errors import UserError
from auscult.record import Artifact, Record
from auscult.results.curve import gather, label_order
from auscult.results.figure.drawing import (
    PALETTE,
    _wrapped,
    all_pairs_map,
    divergence_maps,
    layer_curves,
    layer_weights,
)

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were written, to look at what is on them."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *args: Any, **options: Any) -> None:
        figures.append(figure)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_layer_curves(records: list[Record], tmp_path: Path, drawn: list[Figure]) -> None:
    dev = [replace(r, split="dev", corpus_sha256="d" * 64) for r in records]
    layer_curves(records + dev, tmp_path / "new" / "curves.png", title="Probes")
    assert (tmp_path / "new" / "curves.png").read_bytes().startswith(PNG)
    (figure,) = drawn
    assert len(figure.axes) == 2 * 3  # tasks, probes; dev is not a row
    assert [axes.get_title() for axes in figure.axes[:3]] == ["linear", "mlp1", "mlp2"]
    assert [axes.get_ylabel().replace("\n", " ") for axes in figure.axes[::3]] == [
        "phone39 tsv:timit-sample, test accuracy",
        "keyword demo (synthetic speech), test accuracy",
    ]
    assert legend(figure) == [
        "fbank",
        "random(hubert_base)",
        "hf:hubert-base-ls960",
        "95 % interval",
        "majority class",
    ]
    fbank, hubert, trained, majority = figure.axes[0].lines
    assert fbank.get_linestyle() == "--" and majority.get_linestyle() == ":"
    assert len({line.get_color() for line in (fbank, hubert, trained, majority)}) == 4
    np.testing.assert_array_equal(trained.get_xdata(), np.arange(13))
    curve = [r for r in records if r.upstream.startswith("hf") and r.task == "phone39"]
    seeds = [
        [r.value for r in curve if (r.seed, r.probe, r.metric) == (seed, "linear", "accuracy")]
        for seed in (0, 1)
    ]
    np.testing.assert_allclose(np.array(trained.get_ydata()), np.mean(seeds, axis=0), rtol=1e-12)


def test_an_encoder_has_one_colour_whatever_the_order(
    records: list[Record], tmp_path: Path, drawn: list[Figure]
) -> None:
    """The report draws from a store, in another order than the command that filled it."""
    linear = [r for r in records if (r.task, r.probe) == ("phone39", "linear")]
    layer_curves(linear, tmp_path / "a.png")
    layer_curves(reversed(linear), tmp_path / "b.png")
    colours = [{x.get_label(): x.get_color() for x in f.axes[0].lines} for f in drawn]
    assert colours[0] == colours[1] and len(colours[0]) == 4
    labels = label_order(gather(linear))  # the report's order, test_report.py
    assert [colours[0][label] for label in labels] == list(PALETTE[:3])


def test_a_random_twin_has_the_colour_of_its_encoder(
    records: list[Record], tmp_path: Path, drawn: list[Figure]
) -> None:
    one = [r for r in records if r.upstream == "random(hubert_base)" and r.task == "phone39"]
    names = ("hf:hubert", "random(hf:hubert, seed=1)", "random(wavlm)", "random(hf:hubert)")
    layer_curves([replace(r, upstream=name) for name in names for r in one], tmp_path / "a.png")
    lines = {line.get_label(): line for line in drawn[0].axes[0].lines}
    assert [lines[name].get_color() for name in names] == [PALETTE[i] for i in (0, 0, 1, 0)]
    hollow = [lines[name].get_markerfacecolor() == "white" for name in names]
    assert hollow == [False, True, False, True]


def test_an_unmeasured_combination_is_said(
    records: list[Record], tmp_path: Path, drawn: list[Figure]
) -> None:
    some = [r for r in records if (r.task, r.probe) != ("keyword", "mlp2")]
    layer_curves(some, tmp_path / "x.png")
    assert [text.get_text() for text in drawn[0].axes[5].texts] == ["not measured"]


def test_an_unknown_metric_is_named(records: list[Record], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'acuracy'. Did you mean accuracy"):
        layer_curves(records, tmp_path / "x.png", metric="acuracy")
    assert not (tmp_path / "x.png").exists()


def test_divergence_maps(
    make_divergence: Callable[..., Artifact], tmp_path: Path, drawn: list[Figure]
) -> None:
    artifact = make_divergence()
    divergence_maps(artifact, tmp_path / "maps.png")
    *panels, bar = [axes for axes in drawn[0].axes if axes.axison]
    assert [axes.get_title() for axes in panels] == [
        "mean over heads",
        *(f"head {i}" for i in range(12)),
    ]
    assert bar.get_ylabel() == "Jensen-Shannon\ndivergence (bit)"
    images = [axes.images[0] for axes in panels]
    top = float(np.nanmax(artifact.arrays["same_head"]))
    assert {image.get_clim() for image in images} == {(0, top)}
    shown = images[-1].get_array()
    assert shown is not None
    np.testing.assert_array_equal(
        np.ma.getmaskarray(shown), np.isnan(artifact.arrays["same_head"][11])
    )
    assert panels[0].patch.get_hatch() == "////"  # what a missing head shows


def test_all_pairs_map(
    make_divergence: Callable[..., Artifact], tmp_path: Path, drawn: list[Figure]
) -> None:
    all_pairs_map(make_divergence(heads=3, layers=4), tmp_path / "pairs.png")
    axes, _ = drawn[0].axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "3", "4"]
    edges = sorted({float(line.get_ydata()[0]) for line in axes.lines} - {0.0})  # type: ignore[index, arg-type]
    assert edges == [2.5, 5.5, 8.5]


def test_a_map_of_zeros_is_drawn(make_divergence: Callable[..., Artifact], tmp_path: Path) -> None:
    artifact = make_divergence(heads=2, layers=2)
    zeros = {k: v if k.endswith("_of") else v * 0 for k, v in artifact.arrays.items()}
    divergence_maps(replace(artifact, arrays=zeros), tmp_path / "zeros.png")
    assert (tmp_path / "zeros.png").stat().st_size > 1000


def test_layer_weights(
    make_weights: Callable[..., Artifact], tmp_path: Path, drawn: list[Figure]
) -> None:
    artifact = make_weights()
    layer_weights(artifact, tmp_path / "weights.png")
    (axes,) = drawn[0].axes
    heights = [patch.get_height() for patch in axes.patches]  # type: ignore[attr-defined]
    np.testing.assert_allclose(heights, artifact.arrays["weights"])
    assert axes.lines[0].get_ydata()[0] == pytest.approx(1 / 13)  # type: ignore[index]
    assert "demo (synthetic speech)" in axes.get_title()


def test_the_same_input_gives_the_same_bytes(
    records: list[Record],
    make_divergence: Callable[..., Artifact],
    make_weights: Callable[..., Artifact],
    tmp_path: Path,
) -> None:
    few = make_divergence(heads=2, layers=3)
    linear = [r for r in records if (r.task, r.probe) == ("phone39", "linear")]
    for i in range(2):
        layer_curves(linear, tmp_path / f"curves{i}.png")
        divergence_maps(few, tmp_path / f"maps{i}.png")
        all_pairs_map(few, tmp_path / f"pairs{i}.png")
        layer_weights(make_weights(), tmp_path / f"weights{i}.png")
    first = sorted(tmp_path.glob("*0.png"))
    assert len(first) == 4
    for path in first:
        twin = path.with_name(path.name.replace("0.png", "1.png"))
        assert path.read_bytes() == twin.read_bytes()


def test_other_input_gives_other_bytes(records: list[Record], tmp_path: Path) -> None:
    linear = [r for r in records if (r.task, r.probe) == ("phone39", "linear")]
    layer_curves(linear, tmp_path / "a.png")
    layer_curves([replace(r, value=r.value + 1e-3) for r in linear], tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_long_labels_are_broken_to_fit_their_panel() -> None:
    label = "keyword\ntsv:speech-commands-v2-test-subset, test\naccuracy"
    lines = _wrapped(label).splitlines()
    assert max(map(len, lines)) <= 24 and "".join(lines).replace(" ", "") == "".join(label.split())


@pytest.mark.parametrize(
    "name, start", [("a.png", PNG), ("a.pdf", b"%PDF"), ("a.svg", b"<?xml"), ("a", PNG)]
)
def test_the_name_chooses_the_format(
    name: str, start: bytes, records: list[Record], tmp_path: Path
) -> None:
    layer_curves(records, tmp_path / name)
    first = (tmp_path / name).read_bytes()
    layer_curves(records, tmp_path / name)
    assert first.startswith(start) and (tmp_path / name).read_bytes() == first


def test_an_unknown_format_is_refused(records: list[Record], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Unknown format of a figure 'docx'"):
        layer_curves(records, tmp_path / "a.docx")
    assert not list(tmp_path.iterdir())


def test_encoders_of_one_layer_stand_side_by_side(
    records: list[Record], tmp_path: Path, drawn: list[Figure]
) -> None:
    flat = [replace(r, layer=0) for r in records if r.layer == 0 and r.head is None]
    assert len({r.upstream for r in flat}) > 1
    layer_curves(flat, tmp_path / "curves.png")
    for axes in drawn[-1].axes:
        lines = [
            x
            for x in axes.lines
            if x.get_marker() == "o" and not str(x.get_label()).startswith("_")
        ]
        places = [float(np.asarray(line.get_xdata())[0]) for line in lines]
        assert len(set(places)) == len(places)
        assert all(abs(place) < 0.5 for place in places)


def test_the_twin_of_an_encoder_of_one_layer_is_told_apart(
    records: list[Record], tmp_path: Path, drawn: list[Figure]
) -> None:
    mine = next(r for r in records if r.upstream == "fbank" and r.head is None)
    twin = replace(mine, upstream="random(fbank)", upstream_sha256="1" * 64)
    layer_curves([*records, twin], tmp_path / "curves.png")
    shown = {x.get_label(): x for axes in drawn[-1].axes for x in axes.lines}
    assert shown["random(fbank)"].get_linestyle() == "-."
    assert shown["fbank"].get_linestyle() == "--"


def test_heads_have_no_layer_curves(records: list[Record], tmp_path: Path) -> None:
    heads = [replace(r, layer=None, head="s3prl:UtteranceLevel") for r in records]
    with pytest.raises(UserError, match="no score of a single layer"):
        layer_curves(heads, tmp_path / "curves.png")
