"""Pretraining on the device: every objective against the CPU, killed and resumed, by torchrun."""

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import auscult
from auscult.config import override
from auscult.loss_curve import read_curve
from auscult.objective import Objective, Training
from auscult.pretraining import pretrain
from auscult.process import ALONE, Processes
from auscult.snapshot import newest_snapshot
from auscult.speech_pool import SpeechPool
from auscult.training_run import Run
from auscult.upstreams.packaged import WEIGHTS
from auscult.upstreams.pretraining import PRETRAININGS, find_pretraining
from auscult.upstreams.w2v_bert import finetuning

from .child import start
from .part import Check, Setting, attempt
from .speech import write_tones

# Of a loss after a few updates. What is drawn on the device itself, as Gumbel noise and the vectors
# at hidden frames of w2v-BERT are, is other noise on every kind of device.
SAME, DRAWN, ROUNDED = 1e-2, 0.25, 0.1
# Of the norm of all weights. A GPU may add up in another order each time; that changes the last
# digits of gradients, of which Adam makes steps of full length where they are near zero.
UNBROKEN = 1e-3
_FEW = ("batch_seconds=4", "crop_seconds=1", "log_step=1", "warmup=0")
_NEEDS: Mapping[str, tuple[str, ...]] = {
    "hubert": ("fit_seconds=8", "clusters=16"),
    "distilhubert": ("teacher=tiny_hubert",),
    "lighthubert": ("teacher=tiny_hubert",),
}
STEPS, KILLED_AT = 9, 5  # of the loop that is killed, between two checkpoints
_LOOP = ("dropout=0.1", f"total_steps={STEPS}", "save_step=3")  # w2v_bert: draws on the device too
Build = Callable[[], tuple[Objective, Training]]


def objectives(setting: Setting) -> Iterator[Check]:
    """Make a few updates of every objective and of the transducer; hold losses to the CPU's."""
    corpus = write_tones(setting.folder / "tones", 8)
    steps = f"total_steps={2 if setting.dry else 6}"
    work: dict[str, tuple[Build, float]] = {
        family: (
            lambda family=family: build(family, (steps,)),
            DRAWN if family == "w2v_bert" else SAME,
        )
        for family in PRETRAININGS
    }
    first = setting.folder / "reference" / "lighthubert"
    second = (steps, "stage=2", f"start={first}", "sandwich=true")
    work["lighthubert, stage 2"] = lambda: build("lighthubert", second), SAME
    for precision in ("bfloat16",) if setting.device == "cpu" else ("bfloat16", "float16"):
        settings = (steps, f"precision={precision}", "gradient_accumulation=2")
        work[f"hubert, {precision}"] = lambda s=settings: build("hubert", s), ROUNDED
    work["transducer"] = lambda: _build_transducer(corpus, steps), SAME
    for name, (make, bound) in work.items():
        yield from attempt(name, _follow, name, make, bound, corpus, setting)


def build(family: str, settings: Sequence[str]) -> tuple[Objective, Training]:
    """Return a tiny objective of a family, and how it is trained."""
    row = find_pretraining(family)
    config = row.configure("tiny", [*_FEW, *_NEEDS.get(family, ()), *settings])
    return row.build(config, 0), config


def _build_transducer(corpus: Any, steps: str) -> tuple[Objective, Training]:
    """Return a recogniser of what is said in the tones; its encoder learns from step 1 on."""
    settings = ("freeze_steps=1", "dropout=0", "learning_rate=1e-4", steps)
    config = override(
        finetuning.Config(), [*finetuning.PRESETS["tiny"], *_FEW, "save_step=4", *settings]
    )
    train, dev = (
        [(cut, cut.supervisions[0].text) for cut in corpus.split(name)] for name in ("train", "dev")
    )
    texts = {str(cut.id): text for cut, text in train}
    return finetuning.build(WEIGHTS / "tiny_w2v_bert", texts, dev, config, 0), config


def _follow(name: str, make: Build, bound: float, corpus: Any, setting: Setting) -> Iterator[Check]:
    """Train on both devices and compare the first term of the loss at the last step."""
    losses = []
    for place, device in (("reference", setting.reference), ("device", setting.device)):
        objective, config = make()
        if device == "cpu" and config.precision == "float16":
            config = replace(config, precision="float32")  # which the CPU has instead
        folder = setting.folder / place / name
        train(objective, config, corpus, folder, device)
        term, value = list(list(read_curve(folder))[-1].items())[1]
        losses.append(value)
    wanted, found = losses
    room = bound * abs(wanted)
    note = f"{wanted:.5f} on the CPU, after {config.total_steps} updates"
    yield Check(f"{name}: {term}", found, wanted - room, wanted + room, note)
    if name in PRETRAININGS:
        auscult.load(PRETRAININGS[name].loads_as.format(folder))


def train(
    objective: Objective,
    config: Training,
    corpus: Any,
    folder: Path,
    device: str,
    processes: Processes = ALONE,
) -> None:
    """Pretrain on the training split, from the last checkpoint in ``folder`` on."""
    pool = SpeechPool.of(
        corpus.split("train"),
        crop_seconds=config.crop_seconds,
        batch_seconds=config.batch_seconds,
        seed=0,
    )
    run = Run(
        objective=objective,
        config=config,
        pool=pool,
        seed=0,
        folder=folder,
        about={},
        reads={},
        device=device,
        processes=processes,
    )
    pretrain(run)


def train_loop(corpus: Any, folder: Path, device: str, processes: Processes = ALONE) -> None:
    """Pretrain what draws from all generators, as every process of the parts below does."""
    train(*build("w2v_bert", _LOOP), corpus, folder, device, processes)


def resume(setting: Setting) -> Iterator[Check]:
    """Kill a pretraining by SIGKILL, go on, and compare with one that was left alone."""
    corpus = write_tones(setting.folder / "tones", 8)
    for name in ("whole", "again"):
        train_loop(corpus, setting.folder / name, setting.device)
    killed = start(setting, "killed", KILLED_AT)
    yield Check("killed by SIGKILL", killed.returncode, -signal.SIGKILL, -signal.SIGKILL)
    yield Check("steps kept", _weights(setting.folder / "killed")[0], 3, KILLED_AT, killed.stderr)
    train_loop(corpus, setting.folder / "killed", setting.device)
    yield _same_weights("twice the same run", setting, "whole", "again")
    yield _same_weights("killed and resumed", setting, "whole", "killed")


def torchrun(setting: Setting) -> Iterator[Check]:
    """Train by one process of torchrun, over NCCL where there is a GPU, as without it."""
    corpus = write_tones(setting.folder / "tones", 8)
    train_loop(corpus, setting.folder / "alone", setting.device)
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node", "1", "--standalone")
    launcher += ("--local-addr", "127.0.0.1")  # of a machine whose name nobody knows, too
    found = start(setting, "launched", launcher=launcher)
    yield Check("exit status", found.returncode, 0, 0, note=found.stderr[-500:])
    wanted = "cuda:nccl" if setting.device == "cuda" else "cpu:gloo"
    yield Check(f"talks through {wanted}", wanted in found.stdout, 1, 1, note=found.stdout)
    yield _same_weights("by torchrun and without", setting, "alone", "launched")


def _same_weights(name: str, setting: Setting, one: str, other: str) -> Check:
    """Say how far the weights of two runs are apart, over the norm of the first's."""
    (step, wanted), (last, found) = (_weights(setting.folder / run) for run in (one, other))
    if step != last or wanted.keys() != found.keys():
        return Check(name, note=f"step {step} of {one} and {last} of {other}")
    differences = [wanted[key].double() - found[key].double() for key in wanted]
    size = torch.stack([tensor.double().norm() for tensor in wanted.values()]).norm()
    error = float(torch.stack([tensor.norm() for tensor in differences]).norm() / size)
    note = "equal to the last bit" if error == 0 else "not equal to the last bit"
    return Check(name, error, high=UNBROKEN, note=note)


def _weights(folder: Path) -> tuple[int, Mapping[str, Tensor]]:
    """Return step and weights of a run's last checkpoint."""
    found = newest_snapshot(folder / "checkpoints")
    return (0, {}) if found is None else (found[1]["step"], found[1]["objective"])
