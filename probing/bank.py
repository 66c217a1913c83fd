"""Many probes, few passes: every layer, depth, seed and learning rate reads the same features.

Each probe has its own optimiser, order of examples and early stopping, so a probe's scores do not
depend on which others are in the bank. Keys are values, never formatted strings.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from auscult.record import Provenance
from auscult.seed import seeded

from .example import Examples, chunks, labels_of, shuffled
from .probe import PROBES, ProbeKey, build_probe, seed_of


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """How probes are trained. Adam; the epoch that is best on dev is kept."""

    probes: tuple[str, ...] = ("linear", "mlp1", "mlp2")
    seeds: tuple[int, ...] = (0,)
    learning_rates: tuple[float, ...] = (1e-3,)
    batch_size: int = 256
    max_epochs: int = 30
    patience: int = 3  # epochs without a better dev accuracy
    min_steps: int = 0  # no probe stops before; small sets would stop untrained
    chunk_examples: int = 32_768  # shuffled together; all layers of a chunk fit in memory

    def adapted(self, *, frames: bool) -> "TrainingPlan":
        """Adapt the plan to utterance labels: small batches, more epochs, more patience."""
        if frames:
            return self
        return replace(self, batch_size=64, max_epochs=60, patience=8, min_steps=400)


@dataclass(frozen=True, slots=True)
class ProbeScore:
    """The counts of one probe on one split, by utterance and true class."""

    key: ProbeKey  # with the learning rate that dev chose
    correct: NDArray[np.float64]  # (item, label)
    total: NDArray[np.float64]  # (item, label)
    items: tuple[int, ...]  # utterances that the rows stand for
    epochs: int  # the epoch whose weights were kept
    provenance: Provenance | None = None  # of the run that measured it


@dataclass(slots=True)
class _Student:
    """One probe in training."""

    key: ProbeKey
    network: nn.Module
    optimizer: torch.optim.Optimizer
    best: float = -1.0
    best_epoch: int = 0
    best_state: Mapping[str, Tensor] = field(default_factory=dict)
    steps: int = 0

    def learn(self, features: Tensor, labels: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        if self.key.probe in PROBES:
            cross_entropy(self.network(features), labels).backward()
        else:  # it may draw, as dropout does, whatever the others in the bank draw
            with seeded(seed_of(self.key) + self.steps):
                cross_entropy(self.network.train()(features), labels).backward()
        self.optimizer.step()
        self.steps += 1

    def answers(self, features: Tensor) -> Tensor:
        self.network.eval()
        with torch.inference_mode():
            logits: Tensor = self.network(features)
            return logits.argmax(-1)


def train_bank(
    examples: Mapping[str, Examples],
    num_classes: int,
    layers: Sequence[int],
    plan: TrainingPlan,
    *,
    device: str = "cpu",
    on_epoch: Callable[[int], None] = lambda alive: None,
) -> dict[str, list[ProbeScore]]:
    """Train probes of ``layers`` on ``train``, stop and choose on ``dev``, score dev and test.

    Args:
        examples: ``train``, ``dev`` and, where it is to be scored, ``test``.
        num_classes: Size of the label set.
        layers: Hidden states to read; all of them are in memory a chunk at a time.
        plan: Depths, seeds, learning rates and when to stop.
        device: Where the probes are.
        on_epoch: Called after each epoch with the number of probes still learning.

    Returns:
        For ``dev`` and ``test``, where it is there, one score for each layer, depth and seed.
    """
    scale = {layer: examples["train"].scale(layer) for layer in layers}
    scale = {layer: (m.to(device), s.to(device)) for layer, (m, s) in scale.items()}
    students = _students(layers, scale, num_classes, plan, device)
    reader = _Reader(scale, device)
    learning = students
    examples_of_train = sum(examples["train"].size(i) for i in examples["train"].targets.items)
    steps = -(-examples_of_train // plan.batch_size)  # of an epoch
    first_stop = -(-plan.min_steps // steps)
    for epoch in range(max(plan.max_epochs, first_stop)):
        _learn_epoch(reader, examples["train"], learning, plan, epoch)
        _grade(reader, examples["dev"], learning, plan, epoch)
        if epoch + 1 >= first_stop:
            learning = [s for s in learning if epoch - s.best_epoch < plan.patience]
        on_epoch(len(learning))
        if not learning:
            break
    chosen = _choose(students)
    for student in chosen:
        student.network.load_state_dict(student.best_state)
    return {
        split: _score(reader, examples[split], chosen, num_classes, plan)
        for split in ("dev", "test")
        if split in examples
    }


class _Reader:
    """Reads standardised examples; keeps the last reading, which small splits repeat."""

    def __init__(self, scale: Mapping[int, tuple[Tensor, Tensor]], device: str) -> None:
        self._scale = scale
        self._device = device
        self._kept: dict[int, tuple[tuple[int, ...], dict[int, Tensor], Tensor]] = {}

    def read(
        self, examples: Examples, items: Sequence[int], layers: Sequence[int], *, keep: bool
    ) -> tuple[dict[int, Tensor], Tensor]:
        """Return features (example, dim) by layer and labels (example,)."""
        found = self._kept.get(id(examples))
        if found and found[0] == tuple(items) and set(layers) <= found[1].keys():
            return found[1], found[2]
        raw = examples.read(items, layers)
        features = {}
        for layer, values in zip(layers, raw, strict=True):
            mean, std = self._scale[layer]
            features[layer] = (values.to(self._device) - mean) / std
        labels = labels_of(examples.targets, items).to(self._device)
        if keep:
            self._kept[id(examples)] = (tuple(items), features, labels)
        return features, labels


def _students(
    layers: Sequence[int],
    scale: Mapping[int, tuple[Tensor, Tensor]],
    num_classes: int,
    plan: TrainingPlan,
    device: str,
) -> list[_Student]:
    students = []
    for choice in product(layers, plan.probes, plan.seeds, plan.learning_rates):
        key = ProbeKey(*choice)
        network = build_probe(key, len(scale[key.layer][0]), num_classes).to(device)
        optimizer = torch.optim.Adam(network.parameters(), lr=key.learning_rate, fused=True)
        students.append(_Student(key, network, optimizer))
    return students


def _learn_epoch(
    reader: _Reader,
    examples: Examples,
    students: Sequence[_Student],
    plan: TrainingPlan,
    epoch: int,
) -> None:
    """Give every student each training example once."""
    layers = sorted({student.key.layer for student in students})
    items = examples.targets.items
    runs = chunks(examples, items, plan.chunk_examples)
    small = len(runs) == 1  # read once and kept; its examples are shuffled below all the same
    if not small:
        runs = chunks(examples, shuffled(items, epoch), plan.chunk_examples)
    for number, run in enumerate(runs):
        features, labels = reader.read(examples, run, layers, keep=small)
        for seed in sorted({student.key.seed for student in students}):
            order = torch.tensor(shuffled(range(len(labels)), seed, epoch, number))
            order = order.to(labels.device)
            for batch in order.split(plan.batch_size):
                for student in students:
                    if student.key.seed == seed:
                        student.learn(features[student.key.layer][batch], labels[batch])


def _grade(
    reader: _Reader,
    examples: Examples,
    students: Sequence[_Student],
    plan: TrainingPlan,
    epoch: int,
) -> None:
    """Measure dev accuracy and keep the weights of those that are better than ever."""
    layers = sorted({student.key.layer for student in students})
    right = dict.fromkeys((student.key for student in students), 0)
    total = 0
    runs = chunks(examples, examples.targets.items, plan.chunk_examples)
    for run in runs:
        features, labels = reader.read(examples, run, layers, keep=len(runs) == 1)
        total += len(labels)
        for student in students:
            answers = student.answers(features[student.key.layer])
            right[student.key] += int((answers == labels).sum())
    for student in students:
        accuracy = right[student.key] / total
        if accuracy > student.best:
            student.best, student.best_epoch = accuracy, epoch
            state = student.network.state_dict()
            student.best_state = {name: value.clone() for name, value in state.items()}


def _choose(students: Sequence[_Student]) -> list[_Student]:
    """Keep, of each layer, depth and seed, the learning rate that is best on dev."""
    best: dict[tuple[int, str, int], _Student] = {}
    for student in students:
        place = (student.key.layer, student.key.probe, student.key.seed)
        if place not in best or student.best > best[place].best:
            best[place] = student
    return list(best.values())


def _score(
    reader: _Reader,
    examples: Examples,
    students: Sequence[_Student],
    num_classes: int,
    plan: TrainingPlan,
) -> list[ProbeScore]:
    """Count right answers of each student by utterance and class."""
    layers = sorted({student.key.layer for student in students})
    items = examples.targets.items
    row_of = {item: row for row, item in enumerate(items)}
    total = np.zeros((len(items), num_classes))
    correct = {student.key: np.zeros((len(items), num_classes)) for student in students}
    runs = chunks(examples, items, plan.chunk_examples)
    for run in runs:
        features, labels = reader.read(examples, run, layers, keep=len(runs) == 1)
        counts = [len(labels_of(examples.targets, [item])) for item in run]
        rows = np.repeat([row_of[item] for item in run], counts)
        classes = labels.cpu().numpy()
        np.add.at(total, (rows, classes), 1.0)
        for student in students:
            hits = (student.answers(features[student.key.layer]) == labels).cpu().numpy()
            np.add.at(correct[student.key], (rows[hits], classes[hits]), 1.0)
    return [
        ProbeScore(s.key, correct[s.key], total, tuple(items), s.best_epoch + 1) for s in students
    ]
