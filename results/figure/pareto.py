"""What subnets score for what they cost, and which of them are worth it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .drawing import GREY, MARKERS, PALETTE, legend_below, saved_figure

_WIDTH, _HEIGHT = 5.2, 3.4  # inches
_SCALES = {
    "params": (1e-6, "parameters (M)"),
    "macs": (1e-9, "SUPERB MACs (G)"),
    "rtf": (1.0, "real-time factor"),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a subnet stands in the figure."""

    cost: float
    value: float
    low: float
    high: float


def pareto_front(
    every: Sequence[Place],
    front: Sequence[Place],
    named: Mapping[str, Place],
    path: Path,
    *,
    cost: str,
    score: str,
    limit: float | None = None,
    title: str = "",
) -> None:
    """Draw all subnets that were looked at, the front as steps with intervals, some by name.

    Args:
        every: All subnets.
        front: Those that no other one beats, cheapest first.
        named: Those that are marked and named in the legend.
        path: PNG to write.
        cost: ``params``, ``macs`` or ``rtf``.
        score: Label of the axis of scores.
        limit: The budget, drawn as a line.
        title: Above the figure.
    """
    scale, label = _SCALES[cost]
    with saved_figure(path, _WIDTH, _HEIGHT) as figure:
        axes = figure.subplots()
        axes.scatter(
            [scale * place.cost for place in every],
            [place.value for place in every],
            s=7,
            color=GREY,
            alpha=0.6,
            linewidth=0,
            label="evaluated",
        )
        if front:
            _draw_front(axes, front, scale)
        for i, (name, place) in enumerate(named.items(), start=1):
            axes.plot(
                scale * place.cost,
                place.value,
                MARKERS[i % len(MARKERS)],
                markersize=6.5,
                markerfacecolor="none",
                markeredgecolor=PALETTE[i % len(PALETTE)],
                markeredgewidth=1.2,
                label=name,
            )
        if limit is not None:
            axes.axvline(scale * limit, color=GREY, linestyle=":", label="budget")
        axes.set_xlabel(label)
        axes.set_ylabel(score)
        if title:
            figure.suptitle(title, fontsize=9)
        legend_below(figure, [axes])


def _draw_front(axes: Any, front: Sequence[Place], scale: float) -> None:
    x = np.array([scale * place.cost for place in front])
    y = np.array([place.value for place in front])
    ends = np.array([[place.low, place.high] for place in front]).T
    axes.step(x, y, where="post", color=PALETTE[0], linewidth=1)
    axes.errorbar(
        x,
        y,
        np.abs(ends - y),
        fmt="o",
        color=PALETTE[0],
        elinewidth=0.6,
        label="front, 95 % interval",
    )
