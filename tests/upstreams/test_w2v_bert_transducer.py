"""The transducer on w2v-BERT: loss and search against torchaudio's and by hand, padding, files."""

import itertools
import json
import math
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchaudio.functional import rnnt_loss
from torchaudio.models import RNNTBeamSearch

import auscult
from auscult.audio import read_samples
from auscult.config import override
from auscult.contracts import Waveforms
from auscult.errors import UserError
from auscult.objective import Batch
from auscult.upstreams.w2v_bert import Dimensions, build_w2v_bert, save_w2v_bert
from auscult.upstreams.w2v_bert.finetuning import DEV, Config, Finetuning, build
from auscult.upstreams.w2v_bert.transducer import (
    Hypothesis,
    Recognizer,
    Transducer,
    TransducerSize,
    load_recognizer,
)

TINY = Dimensions(
    contrastive_blocks=1,
    masked_prediction_blocks=1,
    dim=16,
    heads=2,
    feed_forward=32,
    filters=20,
    channels=6,
    codebook=12,
    code_dim=10,
)
SIZE = TransducerSize(projection_dim=12, predictor_dim=10, predictor_layers=2, joint_dim=14)
LABELS = ("A", "B", " ")


def recognizer(
    seed: int = 0, spread: float = 1.0, blank: float = 0.0, labels: Sequence[str] = LABELS
) -> Recognizer:
    """With outputs that differ enough for a search to have something to find.

    Args:
        seed: Of the weights.
        spread: Factor of the weights that logits come of.
        blank: Added to the logit of the blank, so that texts are short.
        labels: Of the transducer.
    """
    torch.manual_seed(seed)
    pretrained = build_w2v_bert(TINY)
    transducer = Transducer(pretrained.encoder, TINY.dim, labels, SIZE)
    with torch.no_grad():
        transducer.output.bias[-1] += blank
        transducer.output.weight.mul_(spread)
        transducer.projection.batch_norm.running_mean.uniform_(-0.1, 0.1)
    pretrained.eval()
    transducer.eval()
    return Recognizer(pretrained, transducer)


def frames_of(seed: int, frames: int) -> Tensor:
    return torch.randn(frames, SIZE.joint_dim, generator=torch.Generator().manual_seed(seed))


# --- loss --------------------------------------------------------------------------------------


def test_loss_of_a_lattice_by_hand() -> None:
    """Two frames, one label: it is said at the first or at the second, then a blank ends each."""
    model = recognizer(spread=4.0).transducer
    filterbanks, steps = torch.randn(1, 11, TINY.filters), torch.tensor([11])
    with torch.no_grad():
        found = model(filterbanks, steps, [[1]])
        frames, lengths = model.encode(filterbanks, steps)
        assert lengths.tolist() == [2]
        before, _ = model.predictor(torch.tensor([[3, 1]]))
        logits = model.join(frames[0][:, None], model.join_labels(before[0])[None])
        p = logits.softmax(-1)  # (frame, labels so far, output)
    first = p[0, 0, 1] * p[0, 1, 3] * p[1, 1, 3]
    second = p[0, 0, 3] * p[1, 0, 1] * p[1, 1, 3]
    assert_close(found, -(first + second).log()[None], atol=1e-5, rtol=1e-5)


def test_loss_equals_all_alignments_of_a_larger_lattice() -> None:
    """torchaudio's loss, which the model calls, against a sum over every path."""
    logits = torch.randn(1, 4, 3, 5, generator=torch.Generator().manual_seed(2))
    log_p, target = logits[0].log_softmax(-1), [2, 0]
    total = torch.tensor(-math.inf)
    for said_at in itertools.combinations_with_replacement(range(4), 2):
        score, u = torch.tensor(0.0), 0
        for t in range(4):
            while u < 2 and said_at[u] == t:
                score, u = score + log_p[t, u, target[u]], u + 1
            score = score + log_p[t, u, 4]
        total = torch.logaddexp(total, score)
    found = rnnt_loss(
        logits,
        torch.tensor([target], dtype=torch.int32),
        torch.tensor([4], dtype=torch.int32),
        torch.tensor([2], dtype=torch.int32),
        blank=4,
    )
    assert_close(found, -total)


@pytest.mark.parametrize("training", [False, True])
def test_padding_does_not_change_loss_or_gradients(training: bool) -> None:
    model = recognizer().transducer.train(training)
    steps, texts = torch.tensor([60, 37]), [[0, 2, 1, 0], [1]]

    def losses(fill: float, more: int) -> tuple[Tensor, dict[str, Tensor]]:
        filterbanks = torch.randn(2, 60, TINY.filters, generator=torch.Generator().manual_seed(1))
        filterbanks[1, 37:] = fill
        filterbanks = torch.cat([filterbanks, torch.full((2, more, TINY.filters), fill)], dim=1)
        model.zero_grad()
        found = model(filterbanks[:, : 60 + more], steps, texts)
        found.sum().backward()
        return found.detach(), {
            name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
        }

    one, other = losses(0.0, 0), losses(9.0, 0)
    assert_close(one[0], other[0], atol=1e-5, rtol=1e-6)
    for name, gradient in one[1].items():
        assert_close(gradient, other[1][name], atol=1e-4, rtol=1e-4, msg=name)
    if not training:  # batch norm has each row alone with itself otherwise
        filterbanks = torch.randn(2, 60, TINY.filters, generator=torch.Generator().manual_seed(1))
        alone = model(filterbanks[1:, :37], steps[1:], texts[1:])
        assert_close(alone, one[0][1:], atol=1e-4, rtol=1e-5)


def test_a_wrong_blank_is_noticed() -> None:
    model = recognizer().transducer
    filterbanks, steps = torch.randn(1, 40, TINY.filters), torch.tensor([40])
    wanted = model(filterbanks, steps, [[0, 1]])
    model.blank = 2
    assert abs(float((model(filterbanks, steps, [[0, 1]]) - wanted).detach())) > 1e-3


# --- search ------------------------------------------------------------------------------------


def greedy(model: Transducer, frames: Tensor, most: int) -> Hypothesis:
    """The likeliest output at each point of the lattice, written again."""
    said: list[int] = []
    score, t = 0.0, 0
    with torch.no_grad():
        while t < len(frames):
            hidden, _ = model.predictor(torch.tensor([[model.blank, *said]]))
            logits = model.join(frames[t], model.join_labels(hidden[0, -1]))
            log_p = logits.log_softmax(-1)
            if len(said) == most:
                log_p[: model.blank] = -math.inf
            best = int(log_p.argmax())
            score += float(log_p[best])
            if best == model.blank:
                t += 1
            else:
                said.append(best)
    return Hypothesis(tuple(said), score)


@pytest.mark.parametrize("seed", range(5))
def test_a_beam_of_one_is_greedy(seed: int) -> None:
    model, frames = recognizer(seed, spread=6.0).transducer, frames_of(seed, 9)
    (found,) = model.search(frames, 1)
    wanted = greedy(model, frames, 18)
    assert found.labels == wanted.labels and found.score == pytest.approx(wanted.score, abs=1e-4)


def exact(model: Transducer, frames: Tensor, text: tuple[int, ...]) -> float:
    """log p(text | frames) by the loss."""
    with torch.no_grad():
        hidden, _ = model.predictor(torch.tensor([[model.blank, *text]]))
        logits = model.join(frames[:, None], model.join_labels(hidden[0])[None])[None]
        if not text:  # torchaudio's loss wants a label at least
            return float(logits.log_softmax(-1)[0, :, 0, model.blank].sum())
        return -float(
            rnnt_loss(
                logits.contiguous(),
                torch.tensor([text], dtype=torch.int32).reshape(1, -1),
                torch.tensor([len(frames)], dtype=torch.int32),
                torch.tensor([len(text)], dtype=torch.int32),
                blank=model.blank,
            )
        )


@pytest.mark.parametrize("seed", range(3))
def test_an_endless_beam_gives_the_loss(seed: int) -> None:
    """Every text of up to four labels over two frames, with the exact probability of each."""
    model, frames = recognizer(seed, spread=6.0).transducer, frames_of(seed, 2)
    found = {hypothesis.labels: hypothesis.score for hypothesis in model.search(frames, 10_000)}
    assert len(found) == sum(3**length for length in range(5))
    for text, score in found.items():
        if len(text) < 4:  # after four labels the search says blank, whatever it costs
            assert score == pytest.approx(exact(model, frames, text), abs=1e-4)
    best = max(found, key=lambda text: found[text])
    assert model.search(frames, 10_000)[0].labels == best


# --- learning ----------------------------------------------------------------------------------


class OfTorchaudio(torch.nn.Module):
    """Our parts under the names that torchaudio's search calls."""

    def __init__(self, model: Transducer) -> None:
        super().__init__()
        self.model = model

    def transcribe(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return frames, lengths

    def predict(self, labels: Tensor, lengths: Tensor, state: Any) -> tuple[Tensor, Tensor, Any]:
        if state is not None:  # (batch, layer, dim), as torchaudio stacks them
            state = tuple(part.transpose(0, 1).contiguous() for part in state[0])
        hidden, new = self.model.predictor(labels, state)
        return hidden, lengths, [[part.transpose(0, 1) for part in new]]

    def join(self, frames: Tensor, _: Tensor, predicted: Tensor, __: Tensor) -> tuple[Any, ...]:
        joined = self.model.join(frames[:, :, None], self.model.join_labels(predicted)[:, None])
        return joined, None, None


TEXTS = ("A BAD CAB", "DAB", "BEAD A DEED", "ACE")


def spoken(text: str, seed: int, noise: float = 0.005) -> Tensor:
    """A tone for each letter, 120 ms long, and noise for a space."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(1920) / 16_000
    tones = [
        torch.sin(2 * math.pi * 300 * (1 + " ABCDE".index(c)) * time) * (c != " ") for c in text
    ]
    return 0.1 * torch.cat(tones) + noise * torch.randn(1920 * len(text), generator=generator)


def dataset() -> tuple[list[Any], dict[str, str]]:
    cuts: list[Any] = []
    for i, text in enumerate(TEXTS):
        samples = spoken(text, i)
        cut = types.SimpleNamespace(
            id=f"utt{i}",
            sampling_rate=16_000,
            duration=len(samples) / 16_000,
            load_audio=samples.numpy,
        )
        cuts.append(cut)
    return cuts, {f"utt{i}": text for i, text in enumerate(TEXTS)}


@dataclass(frozen=True)
class Learned:
    objective: Finetuning
    losses: list[float]
    folder: Path


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """Four utterances by heart."""
    folder = tmp_path_factory.mktemp("learned")
    torch.manual_seed(1)
    save_w2v_bert(build_w2v_bert(TINY), folder / "pretrained")
    cuts, texts = dataset()
    changes = [
        "projection_dim=32",
        "predictor_dim=32",
        "joint_dim=32",
        "dropout=0",
        "frequency_masks=0",
        "time_masks=0",
        "freeze_steps=5",
    ]
    config = override(Config(), changes)
    dev = [(cut, texts[cut.id]) for cut in cuts]
    made = build(folder / "pretrained", texts, dev, config, seed=0).train()
    audio = Waveforms.of([read_samples(cut) for cut in cuts])
    optimizer = torch.optim.AdamW(made.parameters(), lr=5e-3)
    losses = []
    for step in range(150):
        made.before_step(step, 150)
        terms = made(Batch(audio, tuple(texts), tuple(range(4)), step, step))
        losses.append(float(terms["transducer"].total.detach()) / terms["transducer"].count)
        optimizer.zero_grad()
        terms["transducer"].total.backward()
        torch.nn.utils.clip_grad_norm_(made.parameters(), 1.0)
        optimizer.step()
    made.save(folder / "made")
    return Learned(made, losses, folder / "made")


def test_four_utterances_are_learned_by_heart(learned: Learned) -> None:
    assert learned.losses[-1] < 0.05 * learned.losses[0]
    again = load_recognizer(learned.folder)
    for text, cut in zip(TEXTS, dataset()[0], strict=True):
        for beam in (1, 4):
            assert again(read_samples(cut), beam) == text
    assert json.loads((learned.folder / DEV).read_text()) == {"step": 150, "wer": 0.0, "cer": 0.0}


def test_torchaudios_search_finds_the_same(learned: Learned) -> None:
    model = load_recognizer(learned.folder).transducer
    theirs = RNNTBeamSearch(
        OfTorchaudio(model),  # type: ignore[arg-type]
        model.blank,
        hypo_sort_key=lambda hypothesis: hypothesis[3],
        step_max_tokens=8,
    )
    texts = set()
    for i in range(8):
        samples = spoken(TEXTS[i % 4], i, noise=0.02 * i)  # ever less like what was learned
        filterbanks = learned.objective.recognizer.recipe.features(samples)[None]
        with torch.no_grad():
            frames, _ = model.encode(filterbanks, torch.tensor([filterbanks.shape[1]]))
            wanted = theirs(frames, torch.tensor(frames.shape[1]), 5)[0]
        found = model.search(frames[0], 5)[0]
        assert list(found.labels) == wanted[0][1:]
        assert found.score <= exact(model, frames[0], found.labels) + 1e-3
        texts.add(found.labels)
    assert len(texts) >= 5


# --- speech to text, files ---------------------------------------------------------------------


def test_frames_alone_and_speech_too_short_for_one() -> None:
    made = recognizer(spread=6.0)
    assert made(torch.zeros(1000)) == ""
    samples = torch.randn(16_000, generator=torch.Generator().manual_seed(3)) * 0.1
    text = made(samples, beam=2)
    assert set(text) <= set("AB ") and made(samples, beam=2) == text


def test_saved_and_loaded(tmp_path: Path) -> None:
    made = recognizer(spread=6.0)
    for _ in range(2):
        made.save(tmp_path / "made")
    again = load_recognizer(tmp_path / "made")
    for name, tensor in made.transducer.state_dict().items():
        assert torch.equal(again.transducer.state_dict()[name], tensor), name
    assert (
        again.transducer.labels == LABELS and again.transducer.encoder is again.pretrained.encoder
    )
    samples = torch.randn(12_000, generator=torch.Generator().manual_seed(3)) * 0.1
    assert again(samples, beam=3) == made(samples, beam=3)
    upstream = auscult.load(f"w2v_bert:{tmp_path}/made")  # to be probed like any other
    with torch.no_grad():
        states = upstream(Waveforms.of([samples])).layers
        features = made.transducer.encoder.feature_encoder(made.recipe.features(samples)[None])
        wanted = made.transducer.encoder(features, upstream.num_frames(torch.tensor([12_000])))
    assert torch.equal(states[-1], wanted[-1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "transducer.json").unlink(), "transducer.json cannot be read as a transd"),
        (lambda f: (f / "transducer.json").write_text("[]"), "cannot be read as a transducer's"),
        (lambda f: (f / "transducer.json").write_text('{"labels": [], "wide": 1}'), "'wide'"),
        (
            lambda f: (f / "transducer.json").write_text('{"labels": ["A"], "joint_dim": 3}'),
            "transducer.safetensors holds .*, expected",
        ),
        (lambda f: (f / "transducer.safetensors").unlink(), "transducer.safetensors does not ex"),
    ],
)
def test_broken_files(tmp_path: Path, damage: Callable[[Path], Any], message: str) -> None:
    recognizer().save(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        load_recognizer(tmp_path)
