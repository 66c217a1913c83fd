"""The one loop that pretrains every objective; killed and resumed, it ends with the same weights.

Whatever is drawn is a function of seed and step, so that a checkpoint needs no state of a random
generator: weights, optimiser and the step are all. Under torchrun each process takes its share of
every batch; sums and counts of the loss are added over processes before they are divided.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from auscult.contracts import Waveforms
from auscult.errors import UserError
from auscult.objective import Batch, Objective, Term, Training
from auscult.process import ALONE, Processes
from auscult.progress import logger, progress
from auscult.seed import seeded
from auscult.snapshot import newest_snapshot, write_snapshot
from auscult.speech_pool import Crop, SpeechPool, draw_of

CHECKPOINTS, SETTINGS, CURVE = "checkpoints", "training.json", "curve.jsonl"
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
    device: str = "cpu"
    processes: Processes = ALONE


def pretrain(run: Run) -> int:
    """Train to the end, from the newest checkpoint where there is one; return the steps made.

    ``run.folder`` receives the encoder as its family's loader reads it, ``training.json``,
    ``curve.jsonl`` and ``checkpoints``.

    Raises:
        UserError: The folder holds another run, audio cannot be read, or the loss is not finite;
            the last checkpoint stays.
    """
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
        UserError: The folder is that of another run.
    """
    wanted = {**run.about, "seed": run.seed, **asdict(run.config)}
    path = run.folder / SETTINGS
    if path.exists():
        found = json.loads(path.read_text())
        differing = [key for key in wanted if found.get(key) != wanted[key]]
        if differing:
            key = differing[0]
            raise UserError(
                f"{run.folder} holds a run with {key} {found.get(key)}, and this one has "
                f"{wanted[key]}; repeat its command to go on, or choose another --out."
            )
    elif run.processes.leads:
        run.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(wanted, indent=2) + "\n")


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
        """Write the states after ``step`` updates, and the encoder for others to load."""
        if not self.run.processes.leads:
            return
        scaler = self.accelerator.scaler
        states = {
            "step": step,
            "objective": self.run.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": {} if scaler is None else scaler.state_dict(),
        }
        self.run.objective.save(self.run.folder)
        write_snapshot(states, self.run.folder / CHECKPOINTS, step, self.config.keep)

    def train(self, first: int) -> None:
        """Make the steps from ``first`` on."""
        total, curve = self.config.total_steps, self.curve
        if curve is not None:
            curve.cut(first)
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
                found = self._update(parts, step)
                sums = {name: sums.get(name, torch.zeros(2)) + pair for name, pair in found.items()}
                done = step + 1
                if done % self.config.log_step == 0 or done == total:
                    values = {name: float(pair[0] / pair[1]) for name, pair in sums.items()}
                    if curve is not None:
                        curve.add(done, {**values, "learning_rate": self._rate(step)})
                    sums = {}
                    advance(0, ", ".join(f"{name} {value:.4g}" for name, value in values.items()))
                advance()
                if done % self.config.save_step == 0 or done == total:
                    self.save(done)
        if curve is not None:
            curve.close()

    def _read(self, crops: Sequence[Crop], step: int) -> list[tuple[Batch, bool]]:
        """Return this process's parts of a step, and whether each counts.

        A process whose share is empty computes on the first crop, for the others wait for its
        gradients; it counts for nothing.
        """
        parts = []
        share = crops[self.run.processes.rank :: self.run.processes.size]
        for part in range(self.config.gradient_accumulation):
            own = share[part :: self.config.gradient_accumulation]
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
        for i, (batch, counts) in enumerate(parts):
            last = i + 1 == len(parts)
            with self.accelerator.no_sync(self.model) if not last else nullcontext():
                for name, pair in self._backward(batch, counts, len(parts)).items():
                    found[name] = found.get(name, torch.zeros(2)) + pair
        norm: Any = self.accelerator.clip_grad_norm_(
            self.model.parameters(), self.config.gradient_clipping
        )
        if self.accelerator.scaler is None and not math.isfinite(float(norm)):
            raise self._diverged("gradient", parts, step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return found

    def _backward(self, batch: Batch, counts: bool, parts: int) -> dict[str, Tensor]:
        device = self.accelerator.device
        on_device = Batch(batch.audio.to(device), batch.ids, batch.draws, batch.step, batch.draw)
        terms: Mapping[str, Term] = self.model(on_device)
        own = torch.tensor(
            [[float(term.total.detach()), float(term.count)] for term in terms.values()],
            dtype=torch.float64,
        )
        own *= float(counts)
        whole = own.clone()
        self.run.processes.sum(whole)
        loss = torch.zeros((), device=device)
        for term, (_, count) in zip(terms.values(), whole.tolist(), strict=True):
            if term.weight:
                # the processes' gradients are averaged, and those of a whole are wanted
                scale = float(counts) * term.weight * self.run.processes.size / max(count, 1e-12)
                loss = loss + term.total * scale
        if not math.isfinite(float(loss.detach())):
            raise self._diverged("loss", [(batch, counts)], batch.step)
        self.accelerator.backward(loss / parts)
        pairs = [pair.float() for pair in whole]
        return dict(zip(terms, pairs, strict=True))

    def _diverged(self, what: str, parts: Sequence[tuple[Batch, bool]], step: int) -> UserError:
        ids = [name for batch, _ in parts for name in batch.ids]
        shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        return UserError(
            f"The {what} of step {step + 1} is not finite, on utterances {shown}; listen to them, "
            f"or lower learning_rate. The checkpoints in {self.run.folder} stay."
        )

    def _rate(self, step: int) -> float:
        return learning_rate(self.config, step)


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
    """Means of the terms by step, as JSON lines and in TensorBoard."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / CURVE
        self.folder = folder
        self.board: Any = None

    def cut(self, step: int) -> None:
        """Forget what was noted after ``step`` by a run that was killed later."""
        from tensorboardX import SummaryWriter

        lines = self.path.read_text().splitlines() if self.path.exists() else []
        kept = [line for line in lines if _step_of(line) <= step]
        self.path.write_text("".join(f"{line}\n" for line in kept))
        self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step)

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
