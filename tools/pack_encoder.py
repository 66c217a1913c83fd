"""Pack a pretrained encoder for shipping: weights in float16, settings as JSON, a model card.

    python tools/pack_encoder.py NAME FOLDER [--probes RECORDS.json ...]

FOLDER is what `auscult pretrain` made; NAME, such as tiny_hubert, is a folder of upstreams/weights.
The command is given again with --probes when the packed encoder was measured.
"""

import argparse
import json
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from auscult.checkpoint import read_checkpoint
from auscult.compact import write_compact

WEIGHTS = Path(__file__).parents[1] / "upstreams" / "weights"
TITLES = {
    "tiny_hubert": "a HuBERT (Hsu et al., 2021, arXiv 2106.07447)",
    "tiny_lighthubert": "a LightHuBERT supernet (Wang et al., 2022, arXiv 2203.15610),\n"
    "whose middle subnet the plain name is",
    "tiny_mockingjay": "a Mockingjay (Liu et al., 2020, arXiv 1910.12638)",
    "tiny_audio_albert": "an Audio ALBERT (Chi et al., 2021, arXiv 2005.08575)",
    "tiny_w2v_bert": "a w2v-BERT (Chung et al., 2021, arXiv 2108.06209)",
}
CREDIT = """\
- Speech Commands v2, test subset: Pete Warden, "Speech Commands: A Dataset for Limited-Vocabulary
  Speech Recognition", 2018; CC BY 4.0.
- LibriSpeech, one or a few utterances of 261 speakers: (c) 2014 Vassil Panayotov; CC BY 4.0.
- Auscult's demo corpus: synthetic speech by espeak-ng, made anew on each machine."""


def main() -> None:
    """Write weights and card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=TITLES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--probes", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    target = WEIGHTS / options.name
    target.mkdir(parents=True, exist_ok=True)
    pack(options.folder, target)
    settings = json.loads((options.folder / "training.json").read_text())
    curve = [json.loads(x) for x in (options.folder / "curve.jsonl").read_text().splitlines()]
    (target / "model.safetensors").chmod(0o644)
    size = sum(path.stat().st_size for path in target.glob("*.safetensors"))
    measured = [json.loads(path.read_text()) for path in options.probes]
    card = write_card(
        options.name,
        settings,
        curve[-1],
        size,
        [record for one in measured for record in one["records"]],
        [compare(one) for one in measured],
    )
    (target / "README.md").write_text(card)
    print(f"{target}: {size / 1e6:.2f} MB")


def pack(folder: Path, target: Path) -> None:
    """Write the encoder's weights in float16, without what pretraining alone needs."""
    from safetensors.torch import load_file, save_file

    if (folder / "config.json").exists():
        tensors = load_file(folder / "model.safetensors")
        half = {name: x.half() if x.is_floating_point() else x for name, x in tensors.items()}
        save_file(half, target / "model.safetensors", metadata={"format": "pt"})
        (target / "config.json").write_text((folder / "config.json").read_text())
        return
    (file,) = [*folder.glob("*.ckpt"), *folder.glob("*.pt")]
    states = read_checkpoint(file)
    if states.get("Upstream_Config", {}).get("transformer", {}).get("share_layer"):
        # one layer stands under every number; once is enough
        states["Transformer"] = {
            name: tensor
            for name, tensor in states["Transformer"].items()
            if not re.match(r"encoder\.layer\.[1-9]", name)
        }
    states.pop("SpecHead", None)
    write_compact(states, target / "model.safetensors")


def write_card(
    name: str,
    settings: Mapping[str, Any],
    last: Mapping[str, float],
    size: int,
    records: list[dict[str, Any]],
    differences: list[str],
) -> str:
    """Return the model card, in Markdown."""
    losses = ", ".join(f"{key} {value:.4g}" for key, value in last.items() if key != "step")
    options = " ".join(
        f"{key}={value}"
        for key, value in settings.items()
        if key not in ("family", "seed", "corpora", "read_sha256", "splits", "teacher", "start")
    )
    lines = [
        f"# {name}",
        "",
        f"{TITLES[name][0].upper()}{TITLES[name][1:]},",
        f"small enough to ship with Auscult: `auscult probe -u {name} ...`.",
        f"{size / 1e6:.2f} MB in float16. It is for demonstrations and tests; it has heard less",
        "than an hour of speech.",
        "",
        "## Data",
        "",
        CREDIT,
        "",
        "## Training",
        "",
        f"`make tiny-encoders`, seed {settings['seed']}:",
        "",
        "```",
        *textwrap.wrap(options, 96),
        "```",
        "",
        *textwrap.wrap(f"At the end: {losses}.", 96),
        "",
        "## Probes",
        "",
        "Test accuracy, with its 95 % interval, of the linear probe on the layer that dev prefers.",
        "",
        "| encoder | corpus | task | layer | accuracy |",
        "|---|---|---|---|---|",
        *(_row(record) for record in best_layers(records)),
        "",
        *differences,
        "",
    ]
    return "\n".join(lines)


def compare(measured: Mapping[str, Any]) -> str:
    """Say by how much the encoder is read better than its random twin."""
    (margin,) = [m for m in measured["margins"] if m["over"] == f"random({m['upstream']})"]
    corpus = _corpus(measured["records"][0])
    return (
        f"Minus its random twin, on the same resamples of speakers, {corpus}: "
        f"{margin['value']:+.3f} [{margin['low']:+.3f}, {margin['high']:+.3f}]."
    )


def best_layers(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the test record of each encoder, corpus and task at the layer that is best on dev."""
    dev: dict[tuple[str, str, str], dict[str, Any]] = {}
    linear = [r for r in records if r["probe"] == "linear" and r["metric"] == "accuracy"]
    for record in linear:
        key = (record["upstream"], _corpus(record), record["task"])
        if record["split"] == "dev" and record["value"] > dev.get(key, {"value": -1})["value"]:
            dev[key] = record
    return [
        record
        for record in linear
        for key in [(record["upstream"], _corpus(record), record["task"])]
        if record["split"] == "test" and key in dev and dev[key]["layer"] == record["layer"]
    ]


def _corpus(record: Mapping[str, Any]) -> str:
    return str(record["corpus"]).rpartition("/")[2]


def _row(record: Mapping[str, Any]) -> str:
    interval = f"[{record['low']:.3f}, {record['high']:.3f}]"
    return (
        f"| {record['upstream']} | {_corpus(record)} | {record['task']} | {record['layer']} "
        f"| {record['value']:.3f} {interval} |"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
