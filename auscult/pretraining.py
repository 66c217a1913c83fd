"""The one loop that pretrains every objective; killed and resumed, it ends with the same weights.

Whatever is drawn is a function of seed and step, so that a checkpoint needs no state of a random
generator: weights, optimiser and the step are all. Under torchrun each process takes its share of
every batch; sums and counts of the loss are added over processes, and over the parts of an
accumulated step, before they are divided.

A step of N accumulated parts costs N - 1 forward passes more, without gradients: the loss is
divided by what all parts count, which must be known before the first gradients.
"""

import json
import math
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from auscult.contracts import Waveforms
from auscult.errors import UserError
from auscult.memory import within_memory
from auscult.objective import Batch, Objective, Term, Training
from auscult.precision import check_precision
from auscult.process import ALONE, Processes
from auscult.progress import logger, progress
from auscult.seed import seeded
from auscult.snapshot import newest_snapshot, write_snapshot
from auscult.speech_pool import Crop, SpeechPool, draw_of
from auscult.whole_file import whole_file

CHECKPOINTS, SETTINGS, CURVE = "checkpoints", "training.json", "curve.jsonl"
READS = "read_sha256"  # the setting with fingerprints of what a run reads
_MIXED: Mapping[str, str] = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One pretraining: what is trained how, on what, and where it is kept."""

    objective: Objective
    config: Training
    pool: SpeechPool
    seed: int
    folder: Path
    about: Mapping[str, str]  # family and corpora: a resumed run must be of the same
    reads: Mapping[str, str]  # fingerprints of audio, labels and encoders, by what they are
    device: str = "cpu"
    processes: Processes = ALONE


def pretrain(run: Run) -> int:
    """Train to the end, from the newest checkpoint where there is one; return the steps made.

    ``run.folder`` receives the encoder as its family's loader reads it, ``training.json``,
    ``curve.jsonl`` and ``checkpoints``.

    On Ctrl-C a run of one process finishes its step, writes a checkpoint of it and raises
    KeyboardInterrupt; the encoder stays that of the last save. A second Ctrl-C, and one to several
    processes, stops at once: the last checkpoint stays.

    Raises:
        UserError: The folder holds another run, the device lacks the precision or the memory, audio
            cannot be read, or the loss is not finite; the last checkpoint stays.
    """
    check_precision(run.config.precision, run.device)
    if run.device.startswith("cuda:"):
        torch.cuda.set_device(run.device)  # where accelerate puts what it is given
    check_settings(run)
    with seeded(run.seed):
        _, states = newest_snapshot(run.folder / CHECKPOINTS) or (None, None)
        step = 0 if states is None else int(states["step"])
        if step >= run.config.total_steps:
            logger.info(f"{run.folder} is trained to its end, step {step}.")
            return 0
        if states is None and run.processes.leads:
            run.objective.fit(run.pool)
        trainer = _Trainer(run)
        if states is not None:
            trainer.restore(states)
            logger.info(f"Going on from step {step} in {run.folder}.")
        trainer.train(step)
    return run.config.total_steps - step


def check_settings(run: Run) -> None:
    """Write down what the run is, or compare with what the folder says.

    Raises:
        UserError: The folder is that of another run, or its settings cannot be read.
    """
    wanted = {**run.about, "seed": run.seed, **asdict(run.config)}
    reads = {**run.reads, **run.objective.sources()}
    with run.processes.leader_first():
        found = read_training(run.folder)
        if found is not None:
            _check_same(run.folder, found, wanted)
            _check_unchanged(run.folder, found.get(READS, {}), reads)
        elif run.processes.leads:
            settings = {**wanted, READS: reads}
            with whole_file(run.folder / SETTINGS) as temporary:
                temporary.write_text(json.dumps(settings, indent=2) + "\n")


def _check_same(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    differing = [key for key in wanted if found.get(key) != wanted[key]]
    if differing:
        key = differing[0]
        if key not in found:
            raise UserError(
                f"{folder} holds a run without {key}, of another kind or begun by an older "
                "Auscult; choose another --out, or end it with what began it."
            )
        raise UserError(
            f"{folder} holds a run with {key} {found.get(key)}, and this one has "
            f"{wanted[key]}; repeat its command to go on, or choose another --out."
        )


def _check_unchanged(folder: Path, found: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuse to go on with other audio, labels or encoders; older folders do not name them."""
    for name in found:
        if found[name] != now.get(name):
            raise UserError(
                f"The {name} of the run in {folder} has changed since it began; put back what it "
                "was to go on, or choose another --out."
            )


def read_training(folder: Path) -> dict[str, Any] | None:
    """Return the settings that a run wrote into ``folder``; None where there are none.

    Raises:
        UserError: The file is torn or no table of settings.
    """
    path = folder / SETTINGS
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}; put a whole copy in its place.") from error
    if not isinstance(found, dict) or not isinstance(found.get(READS, {}), dict):
        raise UserError(f"{path} holds no settings by name; put a whole copy in its place.")
    return found


class _Trainer:
    """Objective, optimiser and accelerator of one run."""

    def __init__(self, run: Run) -> None:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from accelerate.utils import DistributedDataParallelKwargs

        self.run, self.config = run, run.config
        # it would keep the precision and the processes of an earlier run
        AcceleratorState._reset_state(True)
        # a step may leave weights out: a subnet has fewer layers than its supernet
        unused = DistributedDataParallelKwargs(find_unused_parameters=run.processes.size > 1)
        self.accelerator = Accelerator(
            cpu=run.device == "cpu",
            mixed_precision=_MIXED[run.config.precision],
            kwargs_handlers=[unused],
        )
        optimizer = torch.optim.AdamW(
            _decayed_apart(run.objective, run.config.weight_decay),
            lr=run.config.learning_rate,
            betas=(run.config.beta1, run.config.beta2),
            eps=run.config.eps,
        )
        self.model, self.optimizer = self.accelerator.prepare(run.objective.train(), optimizer)
        self.curve = _Curve(run.folder) if run.processes.leads else None

    def restore(self, states: Mapping[str, Any]) -> None:
        """Put back what :meth:`save` wrote."""
        self.run.objective.load_state_dict(states["objective"])
        self.optimizer.load_state_dict(states["optimizer"])
        if self.accelerator.scaler is not None and states["scaler"]:
            self.accelerator.scaler.load_state_dict(states["scaler"])

    def save(self, step: int) -> None:
        """Write the encoder for others to load, and the states after ``step`` updates."""
        if self.run.processes.leads:
            self.run.objective.save(self.run.folder)
            self.write_states(step)

    def write_states(self, step: int) -> None:
        """Write what a run goes on from after ``step`` updates."""
        scaler = self.accelerator.scaler
        states = {
            "step": step,
            "objective": self.run.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": {} if scaler is None else scaler.state_dict(),
        }
        write_snapshot(states, self.run.folder / CHECKPOINTS, step, self.config.keep)

    def train(self, first: int) -> None:
        """Make the steps from ``first`` on."""
        if self.curve is not None:
            self.curve.cut(first)
        try:
            with _interrupts_held(self.run.processes) as interrupt:
                self._train(first, interrupt)
        finally:
            if self.curve is not None:
                self.curve.close()

    def _train(self, first: int, interrupt: "_Interrupt") -> None:
        """Make the steps; where an interrupt has come, write the states of the last and stop."""
        total = self.config.total_steps
        sums: dict[str, Tensor] = {}
        with (
            progress("Pretraining", total - first, "step") as advance,
            ThreadPoolExecutor(max_workers=1) as reader,
        ):
            batches = self.run.pool.batches(first)
            pending = reader.submit(self._read, next(batches), first)
            for step in range(first, total):
                parts = pending.result()
                if step + 1 < total:
                    pending = reader.submit(self._read, next(batches), step + 1)
                with within_memory(self._out_of_memory(step)):
                    found = self._update(parts, step)
                sums = {name: sums.get(name, torch.zeros(2)) + pair for name, pair in found.items()}
                done = step + 1
                if done % self.config.log_step == 0 or done == total:
                    values = {name: float(pair[0] / pair[1]) for name, pair in sums.items()}
                    if self.curve is not None:
                        self.curve.add(done, {**values, "learning_rate": self._rate(step)})
                    sums = {}
                    advance(0, ", ".join(f"{name} {value:.4g}" for name, value in values.items()))
                advance()
                interrupted = interrupt.asked
                if done % self.config.save_step == 0 or done == total:
                    self.save(done)
                elif interrupted:
                    # no more: fine-tuning would choose among states that an unbroken run never has
                    self.write_states(done)
                if interrupted:
                    raise KeyboardInterrupt

    def _read(self, crops: Sequence[Crop], step: int) -> list[tuple[Batch, bool]]:
        """Return this process's parts of a step, and whether each counts.

        A process whose share is empty computes on the first crop, for the others wait for its
        gradients; it counts for nothing.
        """
        parts = []
        size = self.run.processes.size
        share = crops[self.run.processes.rank :: size]
        # no more than the longest share has rows, and in all processes as many
        number = min(self.config.gradient_accumulation, -(-len(crops) // size))
        for part in range(number):
            own = share[part::number]
            rows = own or crops[:1]
            audio = Waveforms.of([crop.read() for crop in rows])
            ids = tuple(str(crop.cut.id) for crop in rows)
            draws = tuple(crop.draw for crop in rows)
            parts.append((Batch(audio, ids, draws, step, self.run.pool.draw(step)), bool(own)))
        return parts

    def _update(self, parts: Sequence[tuple[Batch, bool]], step: int) -> dict[str, Tensor]:
        """Make one update; return sum and count of each term over all processes, (2,) each."""
        torch.manual_seed(draw_of(self.run.seed, step, self.run.processes.rank))
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(step)
        self.run.objective.before_step(step, self.config.total_steps)
        found: dict[str, Tensor] = {}
        ahead = self._count(parts[1:])
        for i, (batch, counts) in enumerate(parts):
            last = i + 1 == len(parts)
            with self.accelerator.no_sync(self.model) if not last else nullcontext():
                self._backward(batch, counts, found, ahead)
        norm: Any = self.accelerator.clip_grad_norm_(
            self.model.parameters(), self.config.gradient_clipping
        )
        if self.accelerator.scaler is None and not math.isfinite(float(norm)):
            raise self._diverged("gradient", parts, step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {name: pair.float() for name, pair in found.items()}

    def _count(self, parts: Sequence[tuple[Batch, bool]]) -> Tensor | float:
        """Return what each term of ``parts`` counts (term,), leaving no trace of the passes.

        Random generators and buffers, such as the statistics of a batch norm, are put back.
        """
        counted = [batch for batch, counts in parts if counts]
        if not counted:
            return 0.0
        objective = self.run.objective
        buffers = [(buffer, buffer.clone()) for buffer in objective.buffers()]
        with torch.no_grad(), seeded(self.run.seed):
            pairs = torch.stack([_sums(objective(self._placed(batch))) for batch in counted])
            for buffer, before in buffers:
                buffer.copy_(before)
        return pairs[..., 1].sum(0)

    def _backward(
        self, batch: Batch, counts: bool, found: dict[str, Tensor], ahead: Tensor | float
    ) -> None:
        """Add a part's gradients to the others', and its sums to ``found``.

        ``found`` has the counts of the whole step from the first part on, which adds to its own
        those ``ahead``, of this process's other parts.
        """
        terms: Mapping[str, Term] = self.model(self._placed(batch))
        own = _sums(terms) * float(counts)
        own[:, 1] = 0.0 if found else own[:, 1] + ahead
        self.run.processes.sum(own)
        for name, pair in zip(terms, own, strict=True):
            found[name] = found[name] + pair if name in found else pair
        loss = torch.zeros((), device=self.accelerator.device)
        for name, term in terms.items():
            if term.weight:
                # the processes' gradients are averaged, and those of a whole are wanted
                whole = max(float(found[name][1]), 1e-12)
                scale = float(counts) * term.weight * self.run.processes.size / whole
                loss = loss + term.total * scale
        if not math.isfinite(float(loss.detach())):
            raise self._diverged("loss", [(batch, counts)], batch.step)
        self.accelerator.backward(loss)

    def _placed(self, batch: Batch) -> Batch:
        audio = batch.audio.to(self.accelerator.device)
        return Batch(audio, batch.ids, batch.draws, batch.step, batch.draw)

    def _out_of_memory(self, step: int) -> str:
        """Say what to do where memory does not suffice."""
        config = self.config
        return (
            f"Step {step + 1} needs more memory than {self.run.device} has; in a new --out, "
            f"raise gradient_accumulation (of {config.gradient_accumulation}) or lower "
            f"batch_seconds (of {config.batch_seconds:g}). The checkpoints in "
            f"{self.run.folder} stay."
        )

    def _diverged(self, what: str, parts: Sequence[tuple[Batch, bool]], step: int) -> UserError:
        ids = [name for batch, _ in parts for name in batch.ids]
        shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        return UserError(
            f"The {what} of step {step + 1} is not finite, on utterances {shown}; listen to them, "
            f"or lower learning_rate. The checkpoints in {self.run.folder} stay."
        )

    def _rate(self, step: int) -> float:
        return learning_rate(self.config, step)


def _sums(terms: Mapping[str, Term]) -> Tensor:
    """Return total and count of each term, (term, 2) float64."""
    pairs = [[float(term.total.detach()), float(term.count)] for term in terms.values()]
    return torch.tensor(pairs, dtype=torch.float64)


class _Interrupt:
    """Remembers a Ctrl-C until the step is whole; a second one stops at once."""

    asked = False

    def __call__(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def _interrupts_held(processes: Processes) -> Iterator[_Interrupt]:
    """Hold Ctrl-C back where it would raise, but not in several processes.

    They would stop at different steps, waiting for each other.
    """
    held = _Interrupt()
    main = threading.current_thread() is threading.main_thread()
    raises = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if processes.size > 1 or not main or not raises:
        yield held
        return
    before = signal.signal(signal.SIGINT, held)
    try:
        yield held
    finally:
        signal.signal(signal.SIGINT, before)


def learning_rate(config: Training, step: int) -> float:
    """Return the rate of the update after ``step`` others."""
    warmup = config.warmup * config.total_steps
    if step + 1 <= warmup:
        return config.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(config.total_steps - warmup, 1)
    match config.schedule:
        case "linear":
            return config.learning_rate * (1 - max(done, 0.0))
        case "cosine":
            return config.learning_rate * (1 + math.cos(math.pi * max(done, 0.0))) / 2
        case "inverse_root":
            return config.learning_rate * math.sqrt(max(warmup, 1.0) / (step + 1))
    return config.learning_rate


def _decayed_apart(objective: Objective, weight_decay: float) -> list[dict[str, Any]]:
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


class _Curve:
    """Means of the terms by step, as JSON lines and in TensorBoard.

    A run resumed between two points averages, in its first, only the steps since its checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / CURVE
        self.folder = folder
        self.board: Any = None

    def cut(self, step: int) -> None:
        """Forget what was noted after ``step`` by a run that was killed later."""
        from tensorboardX import SummaryWriter

        lines = self.path.read_text().splitlines() if self.path.exists() else []
        kept = [line for line in lines if _step_of(line) <= step]
        with whole_file(self.path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept))
        # what is hidden begins with purge_step itself
        self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step + 1)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Note the values after ``step`` updates."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def close(self) -> None:
        """Write out what TensorBoard still holds."""
        self.board.close()


def _step_of(line: str) -> float:
    """Return the step that a line is about; infinity where a kill has torn it."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def read_curve(folder: Path) -> Iterator[dict[str, float]]:
    """Yield the values that a run noted, by step."""
    for line in (folder / CURVE).read_text().splitlines():
        if math.isfinite(_step_of(line)):
            yield json.loads(line)
