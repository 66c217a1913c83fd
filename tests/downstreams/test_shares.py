"""That the loss of a batch is the mean of those of its shares, each counted by its size.

Several processes rely on it, for every task that trains a head.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

import auscult
from auscult.downstreams import TASKS, find_task
from auscult.downstreams.split import drop_short
from auscult.downstreams.training import loss_size
from auscult.process import Processes
from auscult.upstreams import load_upstream

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
# task -> corpus, its split column, the split that is tested on
WHERE = {
    "keyword_spotting": ("speech-commands-v2-test-subset", "kws_split", "test"),
    "speaker_identification": ("speech-commands-v2-test-subset", "sid_split", "test"),
    "intent_classification": ("coffee-intents-subset", None, "test"),
    "emotion_recognition": ("ravdess-subset", None, "test"),
    "phoneme_classification": ("timit-sample", None, "test"),
    "speaker_utterance": ("speech-commands-v2-test-subset", "sid_split", "test"),
    "speaker_frame": ("speech-commands-v2-test-subset", "sid_split", "test"),
    "speaker_verification": ("librispeech-speakers", None, "verify"),
    "speaker_diarization": ("ami-diarization-excerpts", None, "test"),
    "phoneme_recognition": ("timit-sample", None, "test"),
}
ALIKE = {"speech_recognition", "slot_filling"}  # their loss is that of phoneme_recognition


def test_every_task_that_trains_is_looked_at() -> None:
    trained = {name for name, task in TASKS.items() if task.trains}
    assert trained == WHERE.keys() | ALIKE


def _loss(expert: Any, batch: Any, features: list[torch.Tensor]) -> tuple[float, Any]:
    """Return size and loss of some of the utterances of a batch."""
    _, *others = batch
    loss = expert("train", features, *others, records=defaultdict(list))
    return loss_size(expert, features, others), loss


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared speech")
@pytest.mark.parametrize("name", list(WHERE))
def test_shares_add_up_to_the_batch(name: str) -> None:
    folder, column, test = WHERE[name]
    task = find_task(name)
    config = task.config()
    corpus = auscult.corpus(f"tsv:{DATA / folder}", split=column, skip_bad=True).tested_on(test)
    encoder = load_upstream("log_mel")
    labelled = task.prepare(corpus, config, skip_unlabelled=True)
    labelled = task.at_frames(drop_short(labelled, encoder, skip_bad=True), config, encoder)
    torch.manual_seed(0)
    expert = task.expert_class()(12, labelled, config, 0).eval()
    batch = expert.get_dataloader("train", epoch=0)[0]
    lengths = torch.tensor([len(utterance) for utterance in batch[0]])
    frames = encoder.num_frames(lengths).tolist()
    features = [torch.randn(count, 12) for count in frames]
    _, whole = _loss(expert, batch, features)
    wanted = torch.autograd.grad(whole, [*expert.parameters()], allow_unused=True)
    parts = []
    for rank in range(3):
        processes = Processes(rank=rank, size=3)
        share = [processes.share(column) for column in batch]
        if share[0]:
            parts.append(_loss(expert, share, [*processes.share(features)]))
    total = sum(size for size, _ in parts)
    loss = torch.stack([loss * (size / total) for size, loss in parts]).sum()
    torch.testing.assert_close(loss, whole, rtol=1e-4, atol=1e-6)
    found = torch.autograd.grad(loss, [*expert.parameters()], allow_unused=True)
    for ours, theirs in zip(found, wanted, strict=True):
        if theirs is not None:
            # sums in another order, of terms as large as the largest gradient
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * float(theirs.abs().max()))
