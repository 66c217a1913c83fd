"""What there is to choose from: encoders, corpora, tasks, probes, ours and installed packages'."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from auscult import corpora, downstreams, probing, registry, upstreams
from auscult.foreign import FORM

from .table import Table, to_html


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """What may stand in one place of a command."""

    tables: tuple[Table, ...]
    entries: Mapping[str, Any]  # the same as JSON values

    def _repr_html_(self) -> str:
        """Show it in a notebook."""
        return to_html(self.tables)


def corpus_readers() -> Catalogue:
    """Return the layouts of corpora that can be read."""
    readers = list(corpora.READERS.values())
    rows = [
        (
            reader.name + (":DIR" if reader.signs else ""),
            reader.description,
            ", ".join(reader.labels),
            reader.splits,
            reader.layout,
        )
        for reader in readers
    ]
    columns = ("corpus", "what", "labels", "splits", "the folder holds")
    shown, installed = _installed(corpora.TABLE)
    return Catalogue(
        tables=(Table("Corpus readers", columns, rows), *shown),
        entries={"readers": [asdict(reader) for reader in readers], "installed": installed},
    )


def encoders() -> Catalogue:
    """Return the families of encoders, their options, and the shapes that have names."""
    families, shapes = list(upstreams.FAMILIES.values()), list(upstreams.SHAPES.values())
    takers = " and ".join(family.name for family in families if family.options)
    shown, installed = _installed(upstreams.TABLE)
    return Catalogue(
        tables=(
            Table(
                "Families: write what the example shows; random(...) around hf keeps only the "
                "shape",
                ("family", "needs", "what it is", "example"),
                [(f.name, f.needs, f.description, f.example) for f in families],
            ),
            Table(
                f"Options behind a state dict of {takers}, such as hubert:FILE?heads=8,norm=pre",
                ("option", "what the tensors of the file do not say"),
                list(upstreams.OPTIONS.items()),
            ),
            Table(
                "Shapes: weights from a seed, random(hubert_base) or random(hubert_base, seed=3)",
                ("shape", "architecture", "parameters", "reads audio", "what it is"),
                [
                    (
                        f"random({shape.name})",
                        shape.family,
                        f"{shape.num_parameters:,}",
                        "normalised" if shape.normalize else "as it is",
                        shape.description,
                    )
                    for shape in shapes
                ],
            ),
            *shown,
        ),
        entries={
            "families": [
                {name: getattr(f, name) for name in ("name", "needs", "description", "example")}
                for f in families
            ],
            "options": dict(upstreams.OPTIONS),
            "shapes": [asdict(shape) | {"spec": f"random({shape.name})"} for shape in shapes],
            "installed": installed,
        },
    )


def head_tasks() -> Catalogue:
    """Return the tasks that heads are trained for."""
    tasks = list(downstreams.TASKS.values())
    shown, installed = _installed(downstreams.TABLE)
    return Catalogue(
        tables=(
            Table(
                "Tasks of auscult run; dev selects by the first metric",
                ("task", "what", "metrics", "labels", "what trains"),
                [
                    (
                        task.spec.name,
                        task.description,
                        ", ".join(task.spec.metrics),
                        task.labels,
                        f"layer weights, {task.head}" if task.trains else f"nothing ({task.head})",
                    )
                    for task in tasks
                ],
            ),
            *shown,
        ),
        entries={
            "installed": installed,
            "tasks": [
                {
                    **asdict(task.spec),
                    "description": task.description,
                    "labels": task.labels,
                    "trains": task.trains,
                    "head": task.head,
                    "protocol": asdict(task.config()),
                }
                for task in tasks
            ],
        },
    )


def probes() -> Catalogue:
    """Return the probes, and the tasks that they read."""
    shown, installed = _installed(probing.PROBE_TABLE)
    shown_tasks, installed_tasks = _installed(probing.TASK_TABLE)
    known = [
        (name, "one label a frame" if task.frames else "one label an utterance", task.label)
        for name, task in probing.TASKS.items()
    ]
    patterns = [(name, what, "") for name, what in probing.PATTERNS.items()]
    return Catalogue(
        tables=(
            Table(
                "Probes: --probe of auscult probe",
                ("probe", "what it is"),
                [(name, _shape(layers)) for name, layers in probing.PROBES.items()],
            ),
            *shown,
            Table(
                "Probing tasks: -t, --task of auscult probe",
                ("task", "what is read", "label of the corpus"),
                [*known, *patterns],
            ),
            *shown_tasks,
        ),
        entries={
            "probes": {name: {"hidden_layers": n} for name, n in probing.PROBES.items()},
            "installed": installed,
            "tasks": [*probing.TASKS, *probing.PATTERNS],
            "installed_tasks": installed_tasks,
        },
    )


def _shape(layers: int) -> str:
    """Say what a probe with so many hidden layers is."""
    plural = "s" * (layers > 1)
    hidden = f"{layers} hidden layer{plural} of {probing.HIDDEN}, then " if layers else ""
    return f"{hidden}one linear layer"


def _installed(table: "registry.Table[Any]") -> tuple[list[Table], list[dict[str, str]]]:
    """Return what installed packages bring for a table, for people and as JSON values."""
    found = list(table.listed())
    title = f"From installed packages ({table.group}); a file of your own goes as {FORM}"
    columns = (table.kind, "package", "what is imported when it is asked for", "why not")
    rows = [(row.name, row.origin, row.target, row.problem) for row in found]
    return [Table(title, columns, rows)] if found else [], [asdict(row) for row in found]
