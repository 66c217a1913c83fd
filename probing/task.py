"""What a probe is asked to read: a label of the whole utterance or one of every frame."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from auscult.contracts import TaskSpec
from auscult.dataset import label_names, supervision_of, utterance_label
from auscult.errors import UserError, unknown
from auscult.foreign import blamed, instance
from auscult.registry import Table

METRICS = ("accuracy", "macro_accuracy")


@dataclass(frozen=True, slots=True)
class ProbeTask:
    """A task and the place of its label in a cut."""

    spec: TaskSpec
    label: str  # what auscult.dataset.utterance_label or frame_labels reads
    aligned: bool = False  # a frame task whose label comes from an alignment
    read: Callable[[Any], str | None] | None = None  # gives the label of a cut instead

    @property
    def frames(self) -> bool:
        """Whether every frame has a label of its own."""
        return self.spec.output == "frame"

    def label_of(self, cut: Any) -> str | None:
        """Return the label of a whole utterance; None where it has none."""
        if self.read is None:
            return utterance_label(cut, self.label)
        with blamed(self.spec.name, f"cannot read a label off utterance {cut.id}"):
            found = self.read(cut)
        return None if found is None else str(found)

    @property
    def about_speakers(self) -> bool:
        """Whether the classes are speakers, who then must stand in every split."""
        return self.label == "speaker"


def _utterance(name: str, label: str) -> ProbeTask:
    return ProbeTask(TaskSpec(name=name, version=1, output="utterance", metrics=METRICS), label)


def _frame(name: str, label: str, *, aligned: bool = True) -> ProbeTask:
    spec = TaskSpec(name=name, version=1, output="frame", metrics=METRICS)
    return ProbeTask(spec, label, aligned)


TASKS = {
    "phone": _frame("phone", "phone"),
    "phone39": _frame("phone39", "phone39"),
    "phone61": _frame("phone61", "phone61"),
    "frame_speaker": _frame("frame_speaker", "speaker", aligned=False),
    "speaker": _utterance("speaker", "speaker"),
    "sex": _utterance("sex", "sex"),
    "keyword": _utterance("keyword", "keyword"),
    "emotion": _utterance("emotion", "emotion"),
}
TABLE: Table[ProbeTask] = Table("probing task", TASKS, "auscult.probing_tasks")
PATTERNS = {
    "intent": "every intent slot of the corpus, a task each",
    "slot:NAME": "one intent slot",
    "label:COLUMN": "any label of the utterance",
    "alignment:NAME": "any alignment, frame by frame",
}


def resolve_tasks(name: str, cuts: Sequence[Any]) -> list[ProbeTask]:
    """Return the tasks that ``name`` stands for in a corpus.

    Args:
        name: A key of ``TASKS``, one of ``PATTERNS``, or somebody's own from the user's hand:
            ``python:FILE.py:NAME``.
        cuts: Cuts of the corpus, in which intent slots are looked up.

    Raises:
        UserError: Unknown name or slot, or a corpus without intent slots.
    """
    kind, _, rest = name.partition(":")
    if name in TASKS:
        return [TASKS[name]]
    slots = sorted({slot for cut in cuts for slot in _slots(cut)})
    if name == "intent":
        if not slots:
            raise UserError("Task 'intent' needs intent slots, and no utterance here has any.")
        return [_utterance(f"slot:{slot}", f"slots.{slot}") for slot in slots]
    if kind == "slot" and rest:
        if rest not in slots:
            raise unknown("intent slot", rest, slots)
        return [_utterance(name, f"slots.{rest}")]
    if kind == "label" and rest:
        return [_utterance(name, rest)]
    if kind == "alignment" and rest:
        return [_frame(name, rest)]
    if not TABLE.is_foreign(kind):
        others = (row.name for row in TABLE.listed())
        if name in label_names(cuts):
            raise UserError(
                f"Unknown probing task {name!r}; the label of this name is label:{name}."
            )
        raise unknown("probing task", name, [*TASKS, *PATTERNS, *others])
    found = TABLE.find(name)
    task = instance(found, ProbeTask)
    if task.read is not None and task.aligned:
        raise UserError(f"{name}: a function gives one label an utterance; drop aligned=True.")
    return [replace(task, spec=replace(task.spec, name=name, origin=found.origin))]


def _slots(cut: Any) -> Sequence[str]:
    return list((supervision_of(cut).custom or {}).get("slots") or ())
