"""A layer sweep: one task, one encoder, every layer, with what is done kept on disk."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from auscult.progress import progress
from auscult.record import fingerprint

from .bank import TrainingPlan, train_bank
from .example import Examples
from .score_file import Scores, read_scores, write_scores


def sweep_layers(
    examples: Mapping[str, Examples],
    num_classes: int,
    layers: Sequence[int],
    plan: TrainingPlan,
    *,
    title: str,
    identity: Sequence[str],
    folder: Path,
    device: str = "cpu",
) -> Scores:
    """Train and score the probes of all layers.

    Features that are kept are read layer by layer; features that are encoded anew at each epoch
    feed all layers at once. Both give the same scores.

    Args:
        examples: ``train``, ``dev`` and ``test``.
        num_classes: Size of the label set.
        layers: Hidden states to read.
        plan: How probes are trained.
        title: What the progress line calls this sweep.
        identity: What the scores depend on beside the plan; part of the files' names.
        folder: Where finished layers are kept.
        device: Where the probes are.
    """
    groups = [[layer] for layer in layers] if examples["train"].by_layer else [list(layers)]
    scores: Scores = {"dev": [], "test": []}
    with progress(title, len(layers), "layers") as advance:
        for group in groups:
            path = folder / f"{fingerprint([*identity, asdict(plan), group, device])[:32]}.npz"
            found = read_scores(path)
            if found is None:
                where = f"layer {group[0]}" if len(group) == 1 else f"{len(group)} layers"

                def report(alive: int, where: str = where) -> None:
                    advance(0, f"{where}: {alive} probes learning")

                found = train_bank(
                    examples, num_classes, group, plan, device=device, on_epoch=report
                )
                write_scores(found, path)
            for split, rows in found.items():
                scores[split] += rows
            advance(len(group))
    return scores
