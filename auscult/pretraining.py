"""The one loop that pretrains every objective; killed and resumed, it ends with the same weights.

Whatever is drawn is a function of seed and step, so that a checkpoint needs no state of a random
generator: weights, optimiser and the step are all. Under torchrun each process takes its share of
every batch; sums and counts of the loss are added over processes, and over the parts of an
accumulated step, before they are divided.

A step of N accumulated parts costs N - 1 forward passes more, without gradients: the loss is
divided by what all parts count, which must be known before the first gradients.
"""

import math
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from auscult import interrupt
from auscult.contracts import Waveforms
from auscult.errors import UserError
from auscult.loss_curve import CURVE, LossCurve
from auscult.memory import within_memory
from auscult.objective import Batch, Objective, Term, Training
from auscult.precision import check_precision
from auscult.process import Processes
from auscult.progress import logger, progress
from auscult.repeatable import repeatable
from auscult.seed import seeded
from auscult.snapshot import newest_snapshot, write_snapshot
from auscult.speech_pool import Crop, draw_of
from auscult.training_run import (
    CHECKPOINTS,
    Run,
    audio_changed,
    check_settings,
    note_code,
    warn_of_other_code,
)
from auscult.watch import AudioChanged, check_content, file_sha256
from auscult.whole_file import write_text

_MIXED: Mapping[str, str] = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


def pretrain(run: Run) -> int:
    """Train to the end, from the newest checkpoint where there is one; return the steps made.

    ``run.folder`` receives the encoder as its family's loader reads it, ``training.json``,
    ``curve.jsonl`` and ``checkpoints``. Where it was trained to its end already, its files are
    compared with what was saved, and written again where they were damaged.

    On Ctrl-C a run of one process finishes its step, writes a checkpoint of it and raises
    KeyboardInterrupt; the encoder stays that of the last save. A second Ctrl-C, and one to several
    processes, stops at once: the last checkpoint stays.

    Raises:
        UserError: The folder holds another run or cannot be written, the device lacks the precision
            or the memory, audio cannot be read or changed, or the loss is not finite; the last
            checkpoint stays.
    """
    check_precision(run.config.precision, run.device)
    if run.device.startswith("cuda:"):
        torch.cuda.set_device(run.device)  # where accelerate puts what it is given
    check_settings(run)
    with seeded(run.seed), repeatable(run.device):
        _, states = newest_snapshot(run.folder / CHECKPOINTS) or (None, None)
        step = 0 if states is None else int(states["step"])
        if states is not None and step >= run.config.total_steps:
            if run.processes.leads:
                _check_finished(run, states)
            logger.info(f"{run.folder} is trained to its end, step {step}.")
            return 0
        size = sum(parameter.numel() for parameter in run.objective.parameters())
        try:
            _check_audio(run)
            if states is None and run.processes.leads:
                run.objective.fit(run.pool)
            with within_memory(
                f"The network alone, of {size:,} parameters, needs more memory than {run.device} "
                "has; make it smaller, or choose another --device."
            ):
                trainer = _Trainer(run, states)
            trainer.train(step)
        except AudioChanged as error:
            raise audio_changed(run, error) from error
    return run.config.total_steps - step


def _check_audio(run: Run) -> None:
    """Compare the audio that is read with what it was when the run began to read it."""
    with run.processes.leader_first():
        if run.processes.leads:
            check_content([*run.pool.cuts, *run.also_read])


def _check_finished(run: Run, states: Mapping[str, Any]) -> None:
    """Write again what was damaged of a run that is at its end; say it if other code made it."""
    warn_of_other_code(run)
    _restore_objective(run.objective, states)
    _mend(run, states)
    curve = run.folder / CURVE
    if "curve" in states and not _holds(curve, states["curve"]):
        logger.warning(f"{curve} was damaged since it was written; it is written again.")
        write_text(states["curve"], curve)


def _holds(path: Path, text: str) -> bool:
    """Say whether a file holds a text, and nothing else."""
    try:
        return path.read_bytes() == text.encode()
    except OSError:
        return False


def _restore_objective(objective: Objective, states: Mapping[str, Any]) -> None:
    objective.load_state_dict(states["objective"])
    if "progress" in states:  # not of an older version
        objective.set_progress(states["progress"])


def _mend(run: Run, states: Mapping[str, Any]) -> dict[str, str]:
    """Write the encoder again where it is not what was saved; return the hashes of its files."""
    saved: dict[str, str] = dict(states.get("saved", {}))
    differing = [name for name in saved if _sha256(run.folder / name) != saved[name]]
    if differing:
        step = int(states["step"])
        logger.warning(
            f"{', '.join(differing)} in {run.folder} is not what was saved by step {step}; it is "
            "written again."
        )
        run.objective.before_step(step - 1, run.config.total_steps)
        saved |= _hashes(run.objective.save_again(run.folder))
    return saved


def _hashes(files: Iterable[Path]) -> dict[str, str]:
    return {path.name: _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    return file_sha256(path) if path.is_file() else ""


class _Trainer:
    """Objective, optimiser and accelerator of one run."""

    def __init__(self, run: Run, states: Mapping[str, Any] | None) -> None:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from accelerate.utils import DistributedDataParallelKwargs

        self.run, self.config = run, run.config
        # it would keep the precision and the processes of an earlier run
        AcceleratorState._reset_state(True)
        # a step may leave weights out: a subnet has fewer layers than its supernet
        unused = DistributedDataParallelKwargs(find_unused_parameters=run.processes.connected)
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
        self.sums: dict[str, Tensor] = {}  # of the terms since the curve's last point, (2,) each
        self.saved: dict[str, str] = {}  # the encoder's files, with their hashes
        self.settings: Mapping[str, Any] = {}
        self.curve: LossCurve | None = None
        if states is not None:
            self._restore(states)
        if run.processes.leads:
            self._begin(states or {"step": 0, "curve": ""})

    def _restore(self, states: Mapping[str, Any]) -> None:
        """Put back what :meth:`write_states` wrote."""
        _restore_objective(self.run.objective, states)
        self.optimizer.load_state_dict(states["optimizer"])
        if self.accelerator.scaler is not None and states["scaler"]:
            self.accelerator.scaler.load_state_dict(states["scaler"])
        self.sums = dict(states.get("sums", {}))

    def _begin(self, states: Mapping[str, Any]) -> None:
        """Bring the folder to where the checkpoint was written."""
        step = int(states["step"])
        self.settings = note_code(self.run, step)
        if step:
            logger.info(f"Going on from step {step} in {self.run.folder}.")
            self.saved = _mend(self.run, states)
            if "sums" not in states and step % self.config.log_step:
                logger.warning(
                    f"The checkpoint of step {step} is of an older Auscult: the next point of "
                    f"{CURVE} is of the steps after it alone."
                )
        self.curve = LossCurve(self.run.folder, step, states.get("curve"))

    def save(self, step: int) -> None:
        """Write the encoder for others to load, and the states after ``step`` updates."""
        if self.run.processes.leads:
            self.saved |= _hashes(self.run.objective.save(self.run.folder))
            self.write_states(step)

    def write_states(self, step: int) -> None:
        """Write what a run goes on from after ``step`` updates."""
        scaler = self.accelerator.scaler
        assert self.curve is not None
        states = {
            "step": step,
            "objective": self.run.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": {} if scaler is None else scaler.state_dict(),
            "sums": self.sums,
            "curve": self.curve.text,
            "saved": self.saved,
            "progress": dict(self.run.objective.progress()),
            "settings": dict(self.settings),
        }
        write_snapshot(states, self.run.folder / CHECKPOINTS, step, self.config.keep)

    def train(self, first: int) -> None:
        """Make the steps from ``first`` on."""
        try:
            with _interrupts_held(self.run.processes) as interrupt:
                self._train(first, interrupt)
        finally:
            if self.curve is not None:
                self.curve.close()

    def _train(self, first: int, interrupt: "_Interrupt") -> None:
        """Make the steps; where an interrupt has come, write the states of the last and stop."""
        total = self.config.total_steps
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
                done = step + 1
                advance(1, self._note(found, done))
                interrupted = interrupt.asked
                if done == total:
                    _check_audio(self.run)
                if done % self.config.save_step == 0 or done == total:
                    self.save(done)
                elif interrupted:
                    # no more: fine-tuning would choose among states that an unbroken run never has
                    self.write_states(done)
                if interrupted:
                    raise KeyboardInterrupt

    def _note(self, found: Mapping[str, Tensor], done: int) -> str:
        """Add up the terms of a step; return their means where they make a point of the curve."""
        for name, pair in found.items():
            self.sums[name] = self.sums.get(name, torch.zeros(2)) + pair
        if done % self.config.log_step and done < self.config.total_steps:
            return ""
        values = {name: float(pair[0] / pair[1]) for name, pair in self.sums.items()}
        if self.curve is not None:
            self.curve.add(done, {**values, "learning_rate": self._rate(done - 1)})
        self.sums = {}
        return ", ".join(f"{name} {value:.4g}" for name, value in values.items())

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
    if processes.size > 1 or not main or not interrupt.raises():
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
