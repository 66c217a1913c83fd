"""Training of a head: s3prl's runner with a loop that can be killed, resumed and believed.

Under torchrun every process takes its share of each batch, and the sum of their gradients is that
of the whole batch, so that the number of processes changes the result by no more than rounding
does. Two things are a process's own: its random numbers, as for dropout, and the statistics of
batch normalisation.
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from auscult import bridge
from auscult.board import Board
from auscult.errors import UserError
from auscult.memory import within_memory
from auscult.precision import computing_in
from auscult.process import ALONE, Processes
from auscult.progress import logger, progress
from auscult.repeatable import repeatable
from auscult.whole_file import make_folder

from .checkpoint import (
    kept_random_state,
    newest_checkpoint,
    random_state,
    seed_everything,
    set_random_state,
    write_checkpoint,
)
from .feature import CorpusUpstream
from .schedule import HeadResult, Records, Schedule, runner_config


class Diverged(UserError):
    """Training ended in a gradient that is not finite."""


class Entry(NamedTuple):
    """A part as s3prl's runner keeps it."""

    model: Any
    name: str
    trainable: bool


class HeadTraining:
    """Goes before s3prl's ``Runner`` in a class: its parts and optimiser, our loop.

    Where s3prl's own loop would reseed the generators in mid-training at every evaluation, restart
    an epoch when resumed, skip a batch that runs out of memory or a step with a NaN, remove the old
    checkpoint before the new one is written, or return no numbers, this one does not. Under
    torchrun s3prl's would never end: there the processes that do not lead count no steps.

    Args:
        upstream: Gives the features.
        build_head: Makes the downstream expert for features of so many dimensions.
        args: What s3prl's runner reads from its command line.
        config: Its configuration: ``runner`` and ``optimizer``.
        processes: Those that train this head together.
        metric: Name of what dev selects by.
    """

    was_finished: bool  # an earlier run had trained it to the last step

    # what s3prl's Runner brings
    args: argparse.Namespace
    config: dict[str, Any]
    init_ckpt: dict[str, Any]
    upstream: Any
    featurizer: Any
    downstream: Any
    _load_weight: Callable[[nn.Module, str], None]
    _get_optimizer: Callable[[Sequence[nn.Module]], torch.optim.Optimizer]

    def __init__(
        self,
        upstream: CorpusUpstream,
        build_head: Callable[[int], nn.Module],
        args: argparse.Namespace,
        config: dict[str, Any],
        processes: Processes = ALONE,
        metric: str = "score",
    ) -> None:
        self._metric = metric
        self._corpus_upstream = upstream
        self._build_head = build_head
        self._processes = processes
        with bridge.hushed(stderr=True):
            super().__init__(args, config)  # type: ignore[call-arg]  # Runner's
            parts = (self.upstream, self.featurizer, self.downstream)
            self._trained: list[Entry] = [entry for entry in parts if entry.trainable]
            self._optimizer = self._get_optimizer([entry.model for entry in self._trained])
        self._parameters = [p for entry in self._trained for p in entry.model.parameters()]
        self._device = torch.device(args.device)
        self._precision = config["runner"]["training_precision"]
        self._scaler = torch.amp.grad_scaler.GradScaler(
            self._device.type, enabled=self._precision == "float16"
        )
        state = self.init_ckpt
        if "Scaler" in state:
            self._scaler.load_state_dict(state["Scaler"])
        self.epoch: int = state.get("Epoch", 0)
        self.batch: int = state.get("Batch", 0)  # of this epoch, done
        self.best: dict[str, Any] = state.get("Best", {})
        self.curve: list[tuple[int, float]] = list(state.get("Curve", []))
        self._losses: list[float] = list(state.get("Losses", []))  # since the last point
        self.was_finished = state.get("Step", 0) >= config["runner"]["total_steps"]

    def _init_model(
        self, model: nn.Module, name: str, trainable: bool, interfaces: Sequence[str] = ()
    ) -> Entry:
        """Load weights where there is a checkpoint; s3prl's would wrap the model for GPUs too."""
        self._load_weight(model, name)
        return Entry(model, name, trainable)

    def _get_upstream(self) -> Entry:
        trainable = self._corpus_upstream.finetuned
        return self._init_model(self._corpus_upstream, "Upstream", trainable)

    def _get_downstream(self) -> Entry:
        head = self._build_head(self.featurizer.model.output_dim).to(self.args.device)
        return self._init_model(head, "Downstream", True)

    def train(self) -> None:
        """Train to the last step, from the checkpoint on where there is one.

        Raises:
            Diverged: A gradient that is not finite.
            UserError: Memory or the disk does not suffice, or another process stopped.
        """
        plan = self.config["runner"]
        first, last = self.init_ckpt.get("Step", 0) + 1, plan["total_steps"]
        if self.was_finished:
            return
        self._start()
        batches = self._batches()
        self._set_modes(training=True)
        board = Board(Path(self.args.expdir), first) if self._processes.leads else None
        with (
            nullcontext() if board is None else closing(board),
            within_memory(self._out_of_memory()),
            repeatable(self._device),
            progress(self.args.title, last - first + 1, "steps") as advance,
        ):
            for step in range(first, last + 1):
                loss = self._step(step, batches)
                self._losses.append(loss)
                if step % plan["log_step"] == 0 or step == last:
                    if board is not None:
                        board.add(step, {"train/loss": float(np.mean(self._losses))})
                    self._losses = []
                if board is not None and (step % plan["eval_step"] == 0 or step == last):
                    board.add(step, {"dev/score": self._compare(step)})
                if step % plan["save_step"] == 0 or step == last:
                    self._save(step)
                advance(1, self._note(loss))

    def _note(self, loss: float) -> str:
        """Return what the progress line says; errors, which dev sees negated, as they are."""
        looked = f", best dev {self._metric} {abs(self.best['Score']):.3f}" if self.best else ""
        return f"loss {loss:.3f}{looked}"

    def evaluate(self, split: str = "test", *_: object) -> Records:
        """Return what the head records on a split; weights and generators are left alone."""
        records: Records = defaultdict(list)
        self._set_modes(training=False)
        with (
            kept_random_state(),
            torch.no_grad(),
            within_memory(self._out_of_memory()),
            repeatable(self._device),
        ):
            for wavs, *others in self.downstream.model.get_dataloader(split):
                features = self._features(wavs)
                self.downstream.model(split, features, *others, records=records)
        self._set_modes(training=True)
        return records

    def result(self) -> HeadResult:
        """Take over the weights that dev preferred and ask them about test."""
        for entry in self._trained:
            entry.model.load_state_dict(self.best[entry.name])
        own = (self.featurizer.model, self.downstream.model)
        return HeadResult(
            answers=dict(self.evaluate("test")),
            layer_weights=self.layer_weights(),
            step=self.best["Step"],
            curve=tuple((step, score) for step, score in self.curve),
            num_parameters=sum(p.numel() for model in own for p in model.parameters()),
        )

    def layer_weights(self) -> NDArray[np.float64]:
        """Return the featurizer's softmax over layers, (layer,); one where there is one layer."""
        weights: Tensor = getattr(self.featurizer.model, "weights", torch.zeros(1))
        return weights.detach().double().softmax(dim=-1).cpu().numpy()

    def _start(self) -> None:
        """Give all processes the same weights, and each its own random numbers."""
        for entry in self._trained:
            self._processes.copy_leaders(entry.model.state_dict().values())
        rank, size = self._processes.rank, self._processes.size
        if rank > 0:
            seed_everything(self.args.seed, rank)
        states = self.init_ckpt.get("Random", [])
        if rank < len(states):
            set_random_state(states[rank])
        if states and len(states) != size:
            logger.warning(
                f"{self.args.title}: going on with {size} processes where there were "
                f"{len(states)}, so random numbers differ from here on."
            )

    def _batches(self) -> Iterator[Any]:
        """Yield training batches without end, from the place that was reached on."""
        while True:
            loader = self.downstream.model.get_dataloader("train", epoch=self.epoch)
            while self.batch < len(loader):
                self.batch += 1
                yield loader[self.batch - 1]
            self.epoch, self.batch = self.epoch + 1, 0

    def _step(self, step: int, batches: Iterator[Any]) -> float:
        """Take one step of the optimiser and return the loss."""
        plan = self.config["runner"]
        parts = plan["gradient_accumulate_steps"]
        total = sum(self._backward(next(batches), parts) for _ in range(parts))
        self._processes.sum_gradients(self._parameters)
        self._scaler.unscale_(self._optimizer)
        norm = nn.utils.clip_grad_norm_(self._parameters, plan["gradient_clipping"])
        if not math.isfinite(float(norm)):
            self._overflowed(step)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        return total

    def _overflowed(self, step: int) -> None:
        """Stop, or say that loss scaling, which begins too high, leaves out this step."""
        scale = self._scaler.get_scale()
        if scale <= 1:
            raise Diverged(
                f"{self.args.title}: the gradient of step {step} is not finite; try a lower "
                "learning_rate, or check the encoder with `auscult check`."
            )
        logger.info(
            f"{self.args.title}: a gradient of step {step} does not fit float16; the step is "
            f"left out, and the loss multiplied by {scale / 2:g} from here on."
        )

    def _backward(self, batch: Sequence[Sequence[Any]], parts: int) -> float:
        """Add the gradients of this process's share of a batch; return the whole batch's loss."""
        wavs, *others = (self._processes.share(column) for column in batch)
        size, loss = 0.0, torch.zeros(())  # of a share without utterances
        if len(wavs):
            head = self.downstream.model
            with computing_in(self._precision, self._device):
                features = self._features(wavs)
                loss = head("train", features, *others, records=defaultdict(list)) / parts
            size = float(loss_size(head, features, others))
        sums = torch.tensor([size, size * float(loss.detach())], dtype=torch.float64)
        self._processes.sum(sums)
        whole = float(sums[0]) or 1.0  # nothing to learn from in this batch
        if len(wavs):
            self._scaler.scale(loss * (size / whole)).backward()
        return float(sums[1]) / whole

    def _features(self, wavs: Sequence[Any]) -> list[Tensor]:
        """Return the layers' weighted sum for each utterance, (frame, dim), valid frames only."""
        if self.upstream.trainable:
            states = self.upstream.model(wavs)
        else:
            with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
                states = self.upstream.model(wavs)
        features = self.featurizer.model(wavs, states)
        lengths = states["lengths"].tolist()  # the featurizer's own are rounded quotients
        return [row[:frames] for row, frames in zip(features, lengths, strict=True)]

    def _compare(self, step: int) -> float:
        """Evaluate on dev and remember the weights if they are the best so far."""
        score = float(self.downstream.model.score(self.evaluate("dev")))
        self.curve.append((step, score))
        if score > self.best.get("Score", -math.inf):
            self.best = {"Step": step, "Score": score} | self._weights()
        return score

    def _weights(self) -> dict[str, Any]:
        return {
            entry.name: {key: value.clone() for key, value in entry.model.state_dict().items()}
            for entry in self._trained
        }

    def _save(self, step: int) -> None:
        states = {
            "Optimizer": self._optimizer.state_dict(),
            "Scaler": self._scaler.state_dict(),
            "Step": step,
            "Epoch": self.epoch,
            "Args": self.args,
            "Config": self.config,
            "WorldSize": self._processes.size,
            "Batch": self.batch,
            "Random": self._processes.gather(random_state()),
            "Best": self.best,
            "Curve": self.curve,
            "Losses": self._losses,
        }
        if self._processes.leads:
            write_checkpoint(states | self._weights(), Path(self.args.expdir), step)

    def _set_modes(self, *, training: bool) -> None:
        self.upstream.model.train(training and self.upstream.trainable)
        self.featurizer.model.train(training)
        self.downstream.model.train(training)

    def _out_of_memory(self) -> str:
        """Say what to do where memory does not suffice."""
        size = self.config["runner"]["batch_size"]
        return (
            f"{self.args.title}: a batch needs more memory than {self.args.device} has; pass "
            f"batch_size={max(size // 2, 1)} (of {size}) with twice the "
            "gradient_accumulate_steps, or, if features are encoded anew for every batch, a "
            "--budget that they all fit."
        )


def loss_size(head: Any, features: Sequence[Tensor], others: Sequence[Any]) -> float:
    """Return how many things the loss of a batch is the mean of: utterances, or what it says."""
    if hasattr(head, "loss_size"):
        return float(head.loss_size(features, *others))
    return float(len(features))


def train_head(
    upstream: CorpusUpstream,
    build_head: Callable[[int], nn.Module],
    schedule: Schedule,
    *,
    task: str,
    seed: int,
    device: str,
    folder: Path,
) -> HeadResult:
    """Train a head, choose its best step on dev, and ask it about test; see :func:`fit_head`."""
    training = fit_head(
        upstream, build_head, schedule, task=task, seed=seed, device=device, folder=folder
    )
    return training.result()


def fit_head(
    upstream: CorpusUpstream,
    build_head: Callable[[int], nn.Module],
    schedule: Schedule,
    *,
    task: str,
    seed: int,
    device: str,
    folder: Path,
    processes: Processes = ALONE,
    metric: str = "score",
) -> HeadTraining:
    """Train a head, and the encoder with it where ``upstream`` says so.

    Called again with the same ``folder``, it goes on from the last checkpoint; a run that was
    killed and resumed ends with the same weights as one that was not.

    Args:
        upstream: Gives the features.
        build_head: Makes the downstream expert for features of so many dimensions. Its
            ``get_dataloader(split, epoch=0)`` returns a list of batches that depends on nothing
            else, each a tuple of lists with an entry for each utterance; its ``forward`` a loss,
            and its ``score`` the number that dev selects by. Where the loss is not a mean over
            utterances, its ``loss_size(features, *others)`` returns over how many things it is.
        schedule: How long and how fast.
        task: Name of the task, for progress and the checkpoint.
        seed: Of the head's first weights and of everything random in training.
        device: Where the head is trained.
        folder: For checkpoints and TensorBoard; of this configuration alone.
        processes: Those that train this head together; the leader has the answers.
        metric: Name of what dev selects by, for progress.

    Raises:
        Diverged: A gradient that is not finite.
        UserError: float16 without a GPU, memory does not suffice, or another process stopped.
    """
    if schedule.training_precision == "float16" and not device.startswith("cuda"):
        raise UserError(
            f"training_precision=float16 is for GPUs, and this runs on {device}; choose bfloat16 "
            "or float32."
        )
    found = None
    if processes.leads:
        make_folder(folder)
        found = newest_checkpoint(folder)
    found = processes.leaders(found)
    if found is not None:
        logger.info(f"{task}: going on from {found}.")
    bridge.repair()  # lets torch.load accept the argparse.Namespace in Args
    seed_everything(seed)
    args = _runner_args(upstream, found, task=task, seed=seed, device=device, folder=folder)
    runner = bridge.mix_with_runner(HeadTraining)
    training: HeadTraining = runner(
        upstream.for_training(), build_head, args, runner_config(schedule), processes, metric
    )
    training.train()
    return training


def _runner_args(
    upstream: CorpusUpstream,
    checkpoint: Path | None,
    *,
    task: str,
    seed: int,
    device: str,
    folder: Path,
) -> argparse.Namespace:
    """Return what s3prl's runner reads from its command line."""
    name = upstream.encoder.spec.name
    return argparse.Namespace(
        title=f"Training {task} on {name}",
        init_ckpt=str(checkpoint) if checkpoint else "",
        expdir=str(folder),
        seed=seed,
        device=device,
        downstream=task,
        upstream=bridge.ENTRY,
        upstream_ckpt=name,
        upstream_model_config=None,
        upstream_refresh=False,
        upstream_trainable=upstream.finetuned,
        upstream_feature_selection="hidden_states",
        upstream_layer_selection=None,
        upstream_feature_normalize=False,
    )
