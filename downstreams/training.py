"""Training of a head: s3prl's runner with a loop that can be killed, resumed and believed."""

import argparse
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from auscult import bridge
from auscult.errors import UserError, unknown
from auscult.progress import logger, progress

from .checkpoint import (
    kept_random_state,
    newest_checkpoint,
    random_state,
    seed_everything,
    set_random_state,
    write_checkpoint,
)
from .feature import CorpusUpstream

Records = dict[str, list[Any]]
OPTIMIZERS = {  # as s3prl's runner builds them; its AdamW has no weight decay and an eps of 1e-7
    "Adam": {"name": "TorchOptim", "torch_optim_name": "Adam"},
    "AdamW": {"name": "AdamW"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how fast a head is trained."""

    total_steps: int
    batch_size: int
    learning_rate: float
    optimizer: str = "Adam"  # one of OPTIMIZERS
    gradient_accumulate_steps: int = 1
    gradient_clipping: float = 1.0
    eval_step: int  # steps between evaluations on dev; the last step is always one
    save_step: int  # steps between checkpoints; the last step is always one

    may_be_zero: ClassVar[tuple[str, ...]] = ()  # numbers that need not be positive

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                continue
            if value < 0 or value == 0 and name not in self.may_be_zero:
                expected = "zero or more" if name in self.may_be_zero else "a positive number"
                raise UserError(f"{name}={value}: expected {expected}.")
        if self.optimizer not in OPTIMIZERS:
            raise unknown("optimizer", self.optimizer, OPTIMIZERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadResult:
    """What a trained head answers on test, at the step that dev prefers."""

    answers: Records  # what the expert recorded, a list by name; ``id`` among them
    layer_weights: NDArray[np.float64]  # (layer,), sum to one
    step: int  # whose weights these are
    curve: tuple[tuple[int, float], ...]  # step, score on dev
    num_parameters: int  # trained: layer weights and head


class HeadTraining:
    """Goes before s3prl's ``Runner`` in a class: its parts and optimiser, our loop.

    Where s3prl's own loop would reseed the generators in mid-training at every evaluation, restart
    an epoch when resumed, skip a batch that runs out of memory or a step with a NaN, remove the old
    checkpoint before the new one is written, or return no numbers, this one does not.

    Args:
        upstream: Gives the features.
        build_head: Makes the downstream expert for features of so many dimensions.
        args: What s3prl's runner reads from its command line.
        config: Its configuration: ``runner`` and ``optimizer``.
    """

    # what s3prl's Runner brings
    args: argparse.Namespace
    config: dict[str, Any]
    init_ckpt: dict[str, Any]
    upstream: Any
    featurizer: Any
    downstream: Any
    _init_model: Callable[..., Any]
    _get_optimizer: Callable[[Sequence[nn.Module]], torch.optim.Optimizer]

    def __init__(
        self,
        upstream: CorpusUpstream,
        build_head: Callable[[int], nn.Module],
        args: argparse.Namespace,
        config: dict[str, Any],
    ) -> None:
        self._corpus_upstream = upstream
        self._build_head = build_head
        with bridge.hushed(stderr=True):
            super().__init__(args, config)  # type: ignore[call-arg]  # Runner's
        self.epoch: int = self.init_ckpt.get("Epoch", 0)
        self.batch: int = self.init_ckpt.get("Batch", 0)  # of this epoch, done
        self.best: dict[str, Any] = self.init_ckpt.get("Best", {})
        self.curve: list[tuple[int, float]] = list(self.init_ckpt.get("Curve", []))

    def _get_upstream(self) -> Any:
        return self._init_model(
            self._corpus_upstream, "Upstream", trainable=False, interfaces=["get_downsample_rates"]
        )

    def _get_downstream(self) -> Any:
        head = self._build_head(self.featurizer.model.output_dim).to(self.args.device)
        return self._init_model(
            head, "Downstream", trainable=True, interfaces=["get_dataloader", "score"]
        )

    def train(self) -> None:
        """Train to the last step, from the checkpoint on where there is one."""
        plan = self.config["runner"]
        models = [self.featurizer.model, self.downstream.model]
        parameters = [p for model in models for p in model.parameters()]
        with bridge.hushed():
            optimizer = self._get_optimizer(models)
        if "Random" in self.init_ckpt:
            set_random_state(self.init_ckpt["Random"])
        first, last = self.init_ckpt.get("Step", 0) + 1, plan["total_steps"]
        batches = self._batches()
        self._set_modes(training=True)
        with progress(self.args.title, last - first + 1, "steps") as advance:
            for step in range(first, last + 1):
                loss = self._step(step, batches, optimizer, parameters)
                if step % plan["eval_step"] == 0 or step == last:
                    self._compare(step)
                if step % plan["save_step"] == 0 or step == last:
                    self._save(step, optimizer)
                advance(1, f"loss {loss:.3f}, best dev {self.best.get('Score', math.nan):.3f}")

    def evaluate(self, split: str = "test", *_: object) -> Records:
        """Return what the head records on a split; weights and generators are left alone."""
        records: Records = defaultdict(list)
        self._set_modes(training=False)
        with kept_random_state(), torch.no_grad():
            for wavs, *others in self.downstream.model.get_dataloader(split):
                features = self._features(wavs)
                self.downstream.model(split, features, *others, records=records)
        self._set_modes(training=True)
        return records

    def load_best(self) -> int:
        """Take over the weights that dev preferred and return their step."""
        for entry in (self.featurizer, self.downstream):
            entry.model.load_state_dict(self.best[entry.name])
        return int(self.best["Step"])

    def layer_weights(self) -> NDArray[np.float64]:
        """Return the featurizer's softmax over layers, (layer,); one where there is one layer."""
        weights: Tensor = getattr(self.featurizer.model, "weights", torch.zeros(1))
        return weights.detach().double().softmax(dim=-1).cpu().numpy()

    def _batches(self) -> Iterator[Any]:
        """Yield training batches without end, from the place that was reached on."""
        while True:
            loader = self.downstream.model.get_dataloader("train", epoch=self.epoch)
            while self.batch < len(loader):
                self.batch += 1
                yield loader[self.batch - 1]
            self.epoch, self.batch = self.epoch + 1, 0

    def _step(
        self,
        step: int,
        batches: Iterator[Any],
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[nn.Parameter],
    ) -> float:
        """Take one step of the optimiser and return the loss."""
        plan = self.config["runner"]
        parts = plan["gradient_accumulate_steps"]
        total = 0.0
        for _ in range(parts):
            wavs, *others = next(batches)
            records: Records = defaultdict(list)
            head = self.downstream.model
            loss = head("train", self._features(wavs), *others, records=records) / parts
            loss.backward()
            total += float(loss.detach())
        norm = float(nn.utils.clip_grad_norm_(parameters, plan["gradient_clipping"]))
        if not math.isfinite(norm):
            raise UserError(
                f"{self.args.title}: the gradient of step {step} is not finite; try a lower "
                "learning_rate, or check the encoder with `auscult check`."
            )
        optimizer.step()
        optimizer.zero_grad()
        return total

    def _features(self, wavs: Sequence[Any]) -> list[Tensor]:
        """Return the layers' weighted sum for each utterance, (frame, dim), valid frames only."""
        with torch.no_grad():
            states = self.upstream.model(wavs)
        features = self.featurizer.model(wavs, states)
        lengths = states["lengths"].tolist()  # the featurizer's own are rounded quotients
        return [row[:frames] for row, frames in zip(features, lengths, strict=True)]

    def _compare(self, step: int) -> None:
        """Evaluate on dev and remember the weights if they are the best so far."""
        score = self.downstream.model.score(self.evaluate("dev"))
        self.curve.append((step, score))
        if score > self.best.get("Score", -math.inf):
            self.best = {"Step": step, "Score": score} | self._weights()

    def _weights(self) -> dict[str, Any]:
        return {
            entry.name: {key: value.clone() for key, value in entry.model.state_dict().items()}
            for entry in (self.featurizer, self.downstream)
        }

    def _save(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        states = {
            "Optimizer": optimizer.state_dict(),
            "Step": step,
            "Epoch": self.epoch,
            "Args": self.args,
            "Config": self.config,
            **self._weights(),
            "Batch": self.batch,
            "Random": random_state(),
            "Best": self.best,
            "Curve": self.curve,
        }
        write_checkpoint(states, Path(self.args.expdir), step)

    def _set_modes(self, *, training: bool) -> None:
        self.upstream.model.eval()
        self.featurizer.model.train(training)
        self.downstream.model.train(training)


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
    """Train a head on frozen features, choose its best step on dev, and ask it about test.

    Called again with the same ``folder``, it goes on from the last checkpoint; a run that was
    killed and resumed ends with the same weights as one that was not.

    Args:
        upstream: Gives the features.
        build_head: Makes the downstream expert for features of so many dimensions. Its
            ``get_dataloader(split, epoch=0)`` returns a list of batches that depends on nothing
            else, its ``forward`` a loss, and its ``score`` the number that dev selects by.
        schedule: How long and how fast.
        task: Name of the task, for progress and the checkpoint.
        seed: Of the head's first weights and of everything random in training.
        device: Where the head is trained.
        folder: For checkpoints; of this configuration alone.

    Raises:
        UserError: Several processes, or a gradient that is not finite.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("Heads are trained by one process; run the command without torchrun.")
    folder.mkdir(parents=True, exist_ok=True)
    found = newest_checkpoint(folder)
    if found is not None:
        logger.info(f"{task}: going on from {found}.")
    seed_everything(seed)
    spec = upstream.encoder.spec
    args = argparse.Namespace(
        title=f"Training {task} on {spec.name}",
        init_ckpt=str(found) if found else "",
        expdir=str(folder),
        seed=seed,
        device=device,
        downstream=task,
        upstream=bridge.ENTRY,
        upstream_ckpt=spec.name,
        upstream_model_config=None,
        upstream_refresh=False,
        upstream_trainable=False,
        upstream_feature_selection="hidden_states",
        upstream_layer_selection=None,
        upstream_feature_normalize=False,
    )
    training = bridge.mix_with_runner(HeadTraining)
    runner = training(upstream, build_head, args, runner_config(schedule))
    runner.train()
    step = runner.load_best()
    answers = runner.evaluate("test")
    models = (runner.featurizer.model, runner.downstream.model)
    return HeadResult(
        answers=dict(answers),
        layer_weights=runner.layer_weights(),
        step=step,
        curve=tuple(tuple(point) for point in runner.curve),
        num_parameters=sum(p.numel() for model in models for p in model.parameters()),
    )


def runner_config(schedule: Schedule) -> dict[str, Any]:
    """Return the configuration that s3prl's runner reads."""
    runner = asdict(schedule)
    return {
        "runner": runner,
        "optimizer": {**OPTIMIZERS[schedule.optimizer], "lr": schedule.learning_rate},
    }
