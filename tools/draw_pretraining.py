"""Gather the probes of one comparison of tools/evidence_pretraining.sh into records and a figure.

    python tools/draw_pretraining.py NAME PROBES TINY OUT

PROBES holds phone39, keyword and speaker; TINY and OUT the folders that the encoders are in.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from pack_encoder import best_layers

from auscult.loss_curve import read_curve
from auscult.whole_file import whole_file, write_text

ROOT = Path(__file__).parents[1]
TASKS = ("phone39", "keyword", "speaker")
BASELINES = ("fbank", "log_mel")


@dataclass(frozen=True)
class Row:
    """The best layer by dev of one encoder in one task, on test."""

    upstream: str
    parameters: int
    layer: int
    value: float
    low: float
    high: float


def main() -> None:
    """Write results/records/pretraining/NAME.json and docs/figures/pretraining_NAME.png."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=["sharing", "contrastive", "distillation"])
    for folder in ("probes", "tiny", "out"):
        parser.add_argument(folder, type=Path)
    options = parser.parse_args()
    found = {task: json.loads((options.probes / task / "found.json").read_text()) for task in TASKS}
    records = {
        task: [r for r in part["records"] if r["metric"] == "accuracy"]
        for task, part in found.items()
    }
    kept = {
        "records": [record for task in TASKS for record in records[task]],
        "margins": [margin for task in TASKS for margin in found[task]["margins"]],
    }
    if options.name == "contrastive":
        folders = {
            "with": options.tiny / "w2v_bert",
            "without": options.out / "w2v_bert-alone",
        }
        kept["curves"] = {name: codes(folder) for name, folder in folders.items()}
    path = ROOT / "results" / "records" / "pretraining" / f"{options.name}.json"
    text = json.dumps(kept, separators=(",", ":")).replace('},{"upstream"', '},\n{"upstream"')
    write_text(f"{text}\n", path)
    for task in TASKS:
        for row in best(records[task]):
            print(
                f"{task:8} {row.parameters:9,} {row.upstream:60} layer {row.layer} "
                f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"
            )
    figure = plt.figure(figsize=(10, 3.4), layout="constrained")
    panels = figure.subplots(1, 4 if "curves" in kept else 3)
    for axes, task in zip(panels, TASKS, strict=False):
        if options.name == "distillation":
            draw_sizes(axes, best(records[task]))
        else:
            draw_layers(axes, records[task])
        axes.set_title(task, fontsize=9)
    panels[0].set_ylabel("test accuracy, 95 % interval", fontsize=8)
    if "curves" in kept:
        draw_collapse(panels[3], kept["curves"])
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    with whole_file(ROOT / "docs" / "figures" / f"pretraining_{options.name}.png") as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def codes(folder: Path) -> list[dict[str, float]]:
    """Return what the curve says of codes."""
    names = ("step", "code_perplexity", "masked_prediction_accuracy")
    return [{name: point[name] for name in names} for point in read_curve(folder)]


def best(records: list[dict[str, Any]]) -> list[Row]:
    """Return each encoder's test score at the layer that dev prefers, in the order given."""
    return [
        Row(
            record["upstream"],
            record["num_parameters"] or 0,
            *(record[name] for name in ("layer", "value", "low", "high")),
        )
        for record in best_layers(records)
    ]


def short(upstream: str) -> str:
    """Return an encoder's name without its folders."""
    inner = upstream.removeprefix("random(").removesuffix(")")
    place = inner.partition("@")[0]
    name = place.rpartition("/")[2] if "/" in place else place
    known = {
        "hubert": "teacher (HuBERT)",
        "distilhubert": "DistilHuBERT",
        "lighthubert": "LightHuBERT, stage 2",
        "lighthubert-stage1": "LightHuBERT, stage 1",
        "sandwich": "LightHuBERT, stage 2, sandwich",
        "w2v_bert-alone": "without contrastive loss",
    }
    return f"random: {known.get(name, name)}" if inner != upstream else known.get(name, name)


def draw_layers(axes: Axes, records: Sequence[dict[str, Any]]) -> None:
    """Draw test accuracy by layer, a random twin in the colour of its encoder."""
    colours: dict[str, str] = {}
    for upstream in dict.fromkeys(r["upstream"] for r in records):
        own = [r for r in records if r["upstream"] == upstream and r["split"] == "test"]
        if upstream in BASELINES:
            style = {"color": "grey", "linestyle": ":" if upstream == "fbank" else "--"}
            axes.axhline(own[0]["value"], label=upstream, linewidth=1, **style)
            continue
        twin = upstream.startswith("random(")
        layers = [r["layer"] for r in own]
        (line,) = axes.plot(
            layers,
            [r["value"] for r in own],
            "--" if twin else "-",
            marker="o",
            markersize=3,
            label=short(upstream),
            linewidth=1,
            color=colours.get(upstream),
        )
        colours[f"random({upstream})"] = line.get_color()
        lows, highs = [r["low"] for r in own], [r["high"] for r in own]
        axes.fill_between(layers, lows, highs, color=line.get_color(), alpha=0.1, linewidth=0)
    axes.set_xlabel("layer", fontsize=8)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.tick_params(labelsize=7)


def draw_sizes(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw the best layer's test accuracy against parameters."""
    for row in rows:
        if row.upstream in BASELINES:
            style = {"color": "grey", "linestyle": ":" if row.upstream == "fbank" else "--"}
            axes.axhline(row.value, label=row.upstream, linewidth=1, **style)
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.upstream not in BASELINES:
            groups.setdefault(short(row.upstream), []).append(row)
    encoders = list(dict.fromkeys(name.removeprefix("random: ") for name in groups))
    for name, group in groups.items():
        group.sort(key=lambda row: row.parameters)
        values = [row.value for row in group]
        spread = ([r.value - r.low for r in group], [r.high - r.value for r in group])
        axes.errorbar(
            [row.parameters / 1000 for row in group],
            values,
            yerr=spread,
            marker="x" if name.startswith("random") else "o",
            markersize=4,
            linewidth=1 if len(group) > 1 else 0,
            elinewidth=0.6,
            color=f"C{encoders.index(name.removeprefix('random: '))}",
            label=name,
        )
    axes.set_xlabel("parameters, thousands", fontsize=8)
    axes.tick_params(labelsize=7)


def draw_collapse(axes: Axes, curves: dict[str, list[dict[str, float]]]) -> None:
    """Draw codes in use and how well they are predicted, by step."""
    for name, curve in curves.items():
        steps = [point["step"] for point in curve]
        axes.plot(steps, [p["masked_prediction_accuracy"] for p in curve], label=name)
    axes.set_title("accuracy of predicted codes", fontsize=9)
    axes.set_xlabel("step", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.legend(title="contrastive loss", fontsize=6, title_fontsize=6)


if __name__ == "__main__":
    main()
