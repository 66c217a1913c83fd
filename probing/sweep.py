"""A layer sweep: one task, one encoder, every layer, with what is done kept on disk."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from auscult import kept
from auscult.progress import progress
from auscult.record import Provenance

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
    made_by: str = "",
    provenance: Provenance | None = None,
) -> Scores:
    """Train and score the probes of all layers.

    Features that are kept are read layer by layer; features that are encoded anew at each epoch
    feed all layers at once. Both give the same scores. A file of scores that was damaged is dropped
    and its layer trained again.

    Args:
        examples: ``train``, ``dev`` and ``test``.
        num_classes: Size of the label set.
        layers: Hidden states to read.
        plan: How probes are trained.
        title: What the progress line calls this sweep.
        identity: What the scores depend on beside the plan; part of the files' names.
        folder: Where finished layers are kept.
        device: Where the probes are; of its index, as in ``cuda:1``, nothing depends.
        made_by: Fingerprint of the code behind the scores; part of the files' names too.
        provenance: Of the run that trains what is missing; scores that are there keep their own.
    """
    groups = [[layer] for layer in layers] if examples["train"].by_layer else [list(layers)]
    kind = device.partition(":")[0]
    paths = [
        kept.place(folder, [*identity, asdict(plan), group, kind], made_by, ".npz")
        for group in groups
    ]
    kept.say_made_otherwise(paths, title, "files of scores")
    scores: Scores = {"dev": [], "test": []}
    with progress(title, len(layers), "layers") as advance:
        for group, path in zip(groups, paths, strict=True):
            found = read_scores(path)
            if found is None:
                where = f"layer {group[0]}" if len(group) == 1 else f"{len(group)} layers"

                def report(alive: int, where: str = where) -> None:
                    advance(0, f"{where}: {alive} probes learning")

                trained = train_bank(
                    examples, num_classes, group, plan, device=device, on_epoch=report
                )
                found = {
                    split: [replace(score, provenance=provenance) for score in rows]
                    for split, rows in trained.items()
                }
                write_scores(found, path)
            for split, rows in found.items():
                scores[split] += rows
            advance(len(group))
    return scores
