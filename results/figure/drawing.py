"""Figures for papers: layer curves, divergence maps and layer weights as PNG.

Drawn on matplotlib's Figure objects without pyplot's global state; the same input gives the same
bytes.
"""

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from auscult.errors import UserError, unknown
from auscult.record import Artifact, Record
from auscult.shown import shown
from auscult.whole_file import whole_file

from ..curve import (
    Curve,
    corpus_label,
    gather,
    held_out,
    looks,
    short_names,
    subject_names,
)

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe-Ito
MARKERS = "osD^vP*"
COLUMN, PAGE = 3.5, 7.2  # inches: one and two columns of a paper
GREY = "#808080"
MAP_COLOURS = "viridis"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 3,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "hatch.linewidth": 0.4,
    "text.parse_math": False,  # a dollar sign in a name is one
    "savefig.dpi": 250,
    "svg.hashsalt": "auscult",  # names of its parts are drawn otherwise
}

FORMATS: Mapping[str, Mapping[str, None]] = {  # without what makes the same figure another file
    "png": {"Software": None},
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
}


def layer_curves(
    records: Iterable[Record], path: Path, *, metric: str = "accuracy", title: str = ""
) -> None:
    """Draw scores over layers: tasks as rows, probes as columns, encoders as colours.

    Lines are means over seeds, bands the means of the seeds' 95 % intervals. An encoder with one
    representation is a dashed line across its panel (its random twin a dash-dotted one), and a
    point beside the others where all have one; the commonest class is a dotted line. Scores on
    the split that chose the epoch are left out.

    Raises:
        UserError: No record of a single layer has this metric.
    """
    every = [r for r in held_out(records) if isinstance(r.layer, int) and r.head is None]
    curves = gather(record for record in every if record.metric == metric)
    if not every:
        raise UserError(
            "There is no score of a single layer to draw a curve of; `auscult probe` measures "
            "some, heads have layer weights instead."
        )
    if not curves:
        raise unknown("metric of a layer curve", metric, {record.metric for record in every})
    rows = list(dict.fromkeys(curve.subject for curve in curves))
    names = subject_names(curves, joint="\n")
    probes = sorted({curve.first.probe for curve in curves})
    styles = _styles(curves)
    with saved_figure(path, _width(len(probes)), 0.9 + 1.75 * len(rows)) as figure:
        grid = figure.subplots(len(rows), len(probes), sharey="row", sharex=True, squeeze=False)
        for panels, key in zip(grid, rows, strict=True):
            for axes, probe in zip(panels, probes, strict=True):
                here = [c for c in curves if c.subject == key and c.first.probe == probe]
                _curve_panel(axes, here, styles)
            panels[0].set_ylabel(_wrapped(f"{names[key]}\n{metric}"), fontsize=7.5)
        for axes, probe in zip(grid[0], probes, strict=True):
            axes.set_title(probe)
        for axes in grid[-1]:
            axes.set_xlabel("layer")
        intervals = any(point.low is not None for curve in curves for point in curve.layers)
        legend_below(figure, grid.flat, intervals)
        if title:
            figure.suptitle(title, fontsize=9)


def divergence_maps(artifact: Artifact, path: Path) -> None:
    """Draw the layer x layer divergence of each head and their mean, on one colour scale.

    The scale runs from 0 to the largest value shown. A pair of layers of which one lacks the head
    is hatched.
    """
    maps = [("mean over heads", artifact.arrays["mean"])]
    maps += [(f"head {i}", values) for i, values in enumerate(artifact.arrays["same_head"])]
    blocks = np.unique(artifact.arrays["block_of"]).tolist()
    columns = min(range(4, 7), key=lambda n: -len(maps) % n) if len(maps) > 4 else len(maps)
    rows = -(-len(maps) // columns)
    top = _largest(values for _, values in maps)
    with saved_figure(path, PAGE, 0.5 + ((PAGE - 1) / max(columns, 3) + 0.35) * rows) as figure:
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        images = []
        for axes, (name, values) in zip(panels.flat, maps, strict=False):
            images.append(_map(axes, values, top))
            axes.set_title(name)
            _ticks(axes, blocks)
        for axes in panels.flat[len(maps) :]:
            axes.set_axis_off()
        for axes in panels.flat[max(0, len(maps) - columns) : len(maps)]:
            axes.set_xlabel("layer")
            axes.tick_params(labelbottom=True)
        for row in panels:
            row[0].set_ylabel("layer")
        _colour_bar(figure, images[0], panels, artifact)
        figure.suptitle(_subject(artifact), fontsize=9)


def all_pairs_map(artifact: Artifact, path: Path) -> None:
    """Draw the divergence of every (layer, head) from every other, layers marked off."""
    values = artifact.arrays["all_pairs"]
    block_of = np.asarray(artifact.arrays["block_of"])
    starts = np.flatnonzero(np.r_[True, block_of[1:] != block_of[:-1]])
    ends = np.r_[starts[1:], len(block_of)]
    with saved_figure(path, 5.2, 4.9) as figure:
        axes = figure.subplots()
        image = _map(axes, values, _largest([values]))
        for edge in starts[1:] - 0.5:
            axes.axhline(edge, color="white", linewidth=0.5)
            axes.axvline(edge, color="white", linewidth=0.5)
        centres = (starts + ends - 1) / 2
        labels = [str(block_of[start]) for start in starts]
        axes.set_xticks(centres, labels)
        axes.set_yticks(centres, labels)
        axes.tick_params(length=0)
        axes.set_xlabel("layer (heads in order within each)")
        axes.set_ylabel("layer (heads in order within each)")
        _colour_bar(figure, image, axes, artifact)
        figure.suptitle(_subject(artifact), fontsize=9)


def layer_weights(artifact: Artifact, path: Path) -> None:
    """Draw the weight that a head's softmax gives to each layer, beside equal weights."""
    weights = np.asarray(artifact.arrays["weights"], np.float64)
    with saved_figure(path, COLUMN, 2.3) as figure:
        axes = figure.subplots()
        axes.bar(np.arange(len(weights)), weights, color=PALETTE[0], width=0.7)
        axes.axhline(
            1 / len(weights), color=GREY, linestyle="--", linewidth=1, label="equal weights"
        )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlabel("layer")
        axes.set_ylabel("weight")
        axes.set_title(f"{_subject(artifact)}\n{artifact.task}", fontsize=8)
        legend_below(figure, [axes])


@contextmanager
def saved_figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Give a figure in our style and write it when the block is done, in the format of its name.

    Raises:
        UserError: A format that is not known.
    """
    form = path.suffix.removeprefix(".").lower() or "png"
    if form not in FORMATS:
        raise unknown("format of a figure", form, FORMATS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        for text in figure.findobj(Text):  # names come from files
            text.set_text(shown(text.get_text(), lines=True))
        with whole_file(path) as temporary:
            figure.savefig(temporary, format=form, metadata=FORMATS[form])


def _width(columns: int) -> float:
    return COLUMN if columns == 1 else PAGE


def _curve_panel(
    axes: Axes, curves: Sequence[Curve], styles: Mapping[str, Mapping[str, Any]]
) -> None:
    """Draw one task under one probe; curves of one point stand side by side about their layer."""
    single = [c.label for c in curves if len(c.layers) == 1 and not styles[c.label]["flat"]]
    for curve in curves:
        style = styles[curve.label]
        values = np.array([point.value for point in curve.layers])
        low, high = np.array([point.interval for point in curve.layers]).T
        if style["flat"]:
            axes.axhspan(low[0], high[0], color=style["color"], alpha=0.12, linewidth=0)
            axes.axhline(
                values[0],
                color=style["color"],
                linestyle=style.get("linestyle", "--"),
                label=style["label"],
            )
            continue
        layers = np.array(curve.layer_numbers, np.float64)
        if curve.label in single:  # a band of no width would not be seen
            layers += ((single.index(curve.label) + 0.5) / len(single) - 0.5) * 0.6
            axes.errorbar(
                layers, values, (values - low, high - values), fmt="none", ecolor=style["color"]
            )
        axes.fill_between(layers, low, high, color=style["color"], alpha=0.18, linewidth=0)
        axes.plot(layers, values, **{name: x for name, x in style.items() if name != "flat"})
    if single:
        axes.margins(x=0.2)
    for majority in sorted({c.first.majority for c in curves if c.first.majority is not None}):
        axes.axhline(majority, color=GREY, linestyle=":", label="majority class")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if not curves:
        axes.text(0.5, 0.5, "not measured", ha="center", color=GREY, transform=axes.transAxes)


def _styles(curves: Sequence[Curve]) -> dict[str, dict[str, Any]]:
    """Give each encoder one colour and marker in all panels; its twin's markers are hollow."""
    layered = any(not curve.is_flat for curve in curves)
    flat = {curve.label for curve in curves if curve.is_flat and layered}
    return {
        label: {
            "color": PALETTE[look.place % len(PALETTE)],
            "marker": MARKERS[look.place // len(PALETTE) % len(MARKERS)],
            "label": label,
            "flat": label in flat,
            **({"linestyle": "-.", "markerfacecolor": "white"} if look.twin else {}),
        }
        for label, look in looks(curves).items()
    }


def legend_below(figure: Figure, panels: Iterable[Axes], intervals: bool = False) -> None:
    """Write one legend under all panels, each entry once, encoders before what they are held to."""
    entries: dict[str, Any] = {}
    if intervals:
        entries["95 % interval"] = Patch(color=GREY, alpha=0.3, linewidth=0)
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    order = sorted(entries, key=lambda label: label in ("majority class", "95 % interval"))
    inches = [0.5 + 0.06 * len(label) for label in order]
    width = figure.get_figwidth()
    columns = len(order) if sum(inches) < width else max(1, int(width / max(inches)))
    handles = [entries[label] for label in order]
    further = math.ceil(len(order) / columns) - 1
    figure.set_figheight(figure.get_figheight() + 0.17 * further)  # panels keep their height
    figure.legend(handles, order, loc="outside lower center", ncols=columns)


def _map(axes: Axes, values: NDArray[Any], top: float) -> AxesImage:
    """Draw a matrix from 0 to ``top``; what is missing shows the hatched ground."""
    axes.set_facecolor("#dddddd")
    axes.patch.set(hatch="////", edgecolor="#aaaaaa")
    for spine in axes.spines.values():
        spine.set_visible(True)
    masked = np.ma.masked_invalid(np.asarray(values, np.float64))
    return axes.imshow(masked, cmap=MAP_COLOURS, vmin=0, vmax=top, interpolation="nearest")


def _ticks(axes: Axes, blocks: Sequence[int]) -> None:
    """Label layers by their number, every second or third where there are many."""
    places = range(0, len(blocks), -(-len(blocks) // 7))
    axes.set_xticks(places, [str(blocks[i]) for i in places])
    axes.set_yticks(places, [str(blocks[i]) for i in places])


def _colour_bar(figure: Figure, image: AxesImage, axes: Any, artifact: Artifact) -> None:
    bar = figure.colorbar(image, ax=axes, shrink=0.9, aspect=25, pad=0.02)
    bar.set_label(f"Jensen-Shannon\ndivergence ({artifact.meta['unit']})")
    bar.outline.set_linewidth(0.4)


def _largest(maps: Iterable[NDArray[Any]]) -> float:
    """Return the largest number in any of the maps; 1 where all are zero or missing."""
    found = [float(np.nanmax(values)) for values in maps if np.isfinite(values).any()]
    return max(found, default=0.0) or 1.0


def _wrapped(label: str, width: int = 24) -> str:
    """Break the lines of a label beside a panel, which is no longer than ``width`` characters."""
    return "\n".join(textwrap.fill(line, width) for line in label.splitlines())


def _subject(artifact: Artifact) -> str:
    upstream = short_names([artifact.upstream])[artifact.upstream]
    corpus = short_names([artifact.corpus])[artifact.corpus]
    text = f"{upstream} on {corpus_label(corpus)}"
    number = artifact.meta.get("num_utterances")
    return text if number is None else f"{text}, {number:,} utterances"
