"""Too little memory on the device ends in a sentence that says what to do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

import auscult
from auscult.config import override
from auscult.downstreams import TASKS
from auscult.downstreams.feature import CorpusUpstream
from auscult.downstreams.training import fit_head
from auscult.errors import UserError
from auscult.extraction import encode

from .part import Check, Setting, attempt
from .speech import write_tones
from .training import build, train


def sentences(setting: Setting) -> Iterator[Check]:
    """Let memory run out in a pretraining, in a head and in an encoder."""
    corpus = write_tones(setting.folder / "tones", 8)
    work: dict[str, tuple[Callable[[], object], str]] = {
        "pretraining": (lambda: _pretrain(corpus, setting), "raise gradient_accumulation"),
        "head": (lambda: _train_head(corpus, setting), "pass batch_size="),
        "extraction": (lambda: _extract(corpus, setting), "cut long utterances"),
    }
    for name, (run, advice) in work.items():
        yield from attempt(name, _said, name, run, advice, setting.device)


def _said(name: str, run: Callable[[], object], advice: str, device: str) -> Iterator[Check]:
    """Say whether what is run ends in a sentence with this advice."""
    try:
        run()
    except UserError as error:
        passed = advice in str(error) and f"memory than {device}" in str(error)
        yield Check(f"{name} says what to do", passed, 1, 1, note=str(error))
    else:
        yield Check(f"{name} says what to do", note="memory did not run out")
    finally:
        _give_back(device)


def _pretrain(corpus: Any, setting: Setting) -> None:
    objective, config = build("hubert", ("total_steps=1", "batch_seconds=30", "channels=128"))
    with _nothing_left(objective, "before_step", setting.device):
        train(objective, config, corpus, setting.folder / "pretraining", setting.device)


def _train_head(corpus: Any, setting: Setting) -> None:
    """Train a head of wide LSTMs, whose gradients and optimiser take more than there is."""
    task, encoder = TASKS["speech_recognition"], auscult.load("tiny_hubert").to(setting.device)
    config = override(task.config(), ["total_steps=1", "eval_step=1", "batch_size=8"])
    labelled = task.prepare(corpus, config, skip_unlabelled=False)
    upstream = CorpusUpstream(encoder, labelled, budget=0, device=setting.device)
    head = task.expert_class()
    with _nothing_left(head, "get_dataloader", setting.device):
        fit_head(
            upstream,
            lambda dim: head(dim, labelled, config, 0),
            config,
            task=task.spec.name,
            seed=0,
            device=setting.device,
            folder=setting.folder / "head",
        )


def _extract(corpus: Any, setting: Setting) -> None:
    encoder = auscult.load("random(hubert_tiny)" if setting.dry else "random(hubert_base)")
    encoder.to(setting.device)
    with _nothing_left(encoder, "forward", setting.device):
        list(encode(encoder, corpus.split("train")))


@contextmanager
def _nothing_left(owner: Any, name: str, device: str) -> Iterator[None]:
    """From the first call of ``owner.name`` on, refuse whatever memory is not taken yet."""
    inner = getattr(owner, name)

    def refusing(*args: Any, **kwargs: Any) -> Any:
        if device == "cpu":  # which cannot be told to have less
            raise torch.OutOfMemoryError("CUDA out of memory.")
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved(device) / total)
        return inner(*args, **kwargs)

    with mock.patch.object(owner, name, refusing):
        yield


def _give_back(device: str) -> None:
    if device != "cpu":
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
