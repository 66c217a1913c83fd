"""The transducer on w2v-BERT: loss and search against torchaudio's and by hand, padding, files."""

import itertools
import json
import math
import re
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from torch import Tensor
from torch.testing import assert_close
from torchaudio.functional import rnnt_loss
from torchaudio.models import RNNTBeamSearch

import auscult
from auscult.audio import read_samples
from auscult.checkpoint import read_checkpoint
from auscult.config import override
from auscult.contracts import Waveforms
from auscult.errors import UserError
from auscult.objective import Batch
from auscult.record import Record
from auscult.results import open_store
from auscult.upstreams.w2v_bert import Dimensions, build_w2v_bert, save_w2v_bert
from auscult.upstreams.w2v_bert.finetuning import DEV, Config, Errors, Finetuning, build
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
        mean = transducer.projection.batch_norm.running_mean
        assert mean is not None
        mean.uniform_(-0.1, 0.1)
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


# --- auscult finetune --------------------------------------------------------------------------

SMALL_STEPS = (
    "projection_dim=12",
    "predictor_dim=10",
    "predictor_layers=1",
    "joint_dim=12",
    "freeze_steps=2",
    "total_steps=6",
    "save_step=2",
    "batch_seconds=3",
    "crop_seconds=2",
    "learning_rate=1e-2",
)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "letters"
    folder.mkdir()
    rows = ["path\tutt\tspeaker\ttranscript\tsplit"]
    splits = {"train": TEXTS, "dev": ("BAD", "A CAB"), "test": ("DEAD", "A BEE")}
    for split, texts in splits.items():
        for i, text in enumerate(texts):
            soundfile.write(folder / f"{split}{i}.flac", spoken(text, i).numpy(), 16_000)
            rows.append(f"{split}{i}.flac\t{split}{i}\t{split}\t{text.lower()}.\t{split}")
    (folder / "MANIFEST.tsv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    save_w2v_bert(build_w2v_bert(TINY), tmp_path / "encoder")
    return tmp_path / "encoder"


def test_finetune_from_the_command_line(
    run: Callable[..., tuple[int, str, str]], corpus: Path, encoder: Path, tmp_path: Path
) -> None:
    words = ("finetune", f"w2v_bert:{encoder}", "-c", f"tsv:{corpus}", *SMALL_STEPS)
    status, printed, said = run(*words, "--out", tmp_path / "asr", "--beam", 2, "--json")
    assert status == 0, said
    found = json.loads(printed)
    records = found.pop("records")
    assert [(x["split"], x["config"]["beam"], x["metric"]) for x in records] == [
        *itertools.product(("dev", "test"), (1, 2), ("wer", "cer"))
    ]
    assert all(x["low"] <= x["value"] <= x["high"] and x["num_items"] == 2 for x in records)
    kept = open_store(tmp_path / "asr").records()
    assert {record.key: record.value for record in kept} == {
        Record.from_dict(x).key: x["value"] for x in records
    }
    assert found["steps"] == 6 and auscult.load(found["upstream"]).spec.num_layers == 2
    lines = [json.loads(line) for line in (tmp_path / "asr" / DEV).read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    best = min((line["wer"], line["cer"]) for line in lines)
    assert best == tuple(x["value"] for x in records[:2])
    status, printed, said = run(*words, "--out", tmp_path / "asr", "--beam", 2, "--json")
    again = json.loads(printed)
    assert status == 0 and [x["value"] for x in again.pop("records")] == [
        x["value"] for x in records
    ]
    assert again == found | {"steps": 0}


def test_a_changed_transcript_or_encoder_is_refused(
    run: Callable[..., tuple[int, str, str]], corpus: Path, encoder: Path, tmp_path: Path
) -> None:
    """Else the records would name what stands there now, not what was trained on."""
    words = ("finetune", f"w2v_bert:{encoder}", "-c", f"tsv:{corpus}", *SMALL_STEPS)
    words = (*words, "total_steps=2", "--out", tmp_path / "asr")
    assert run(*words)[0] == 0
    manifest = corpus / "MANIFEST.tsv"
    text = manifest.read_text()
    manifest.write_text(text.replace("\ta cab.", "\ta cabbage."))
    status, _, said = run(*words)
    assert status == 2 and "The dev of the run in" in said
    manifest.write_text(text)
    save_w2v_bert(build_w2v_bert(TINY), encoder)
    status, _, said = run(*words)
    assert status == 2 and "The upstream of the run in" in said
    words = (*words[:-1], encoder)  # --out: the encoder's own folder is no run of this kind
    (encoder / "training.json").write_text('{"family": "w2v_bert"}')
    status, _, said = run(*words)
    assert status == 2 and "holds a run without upstream" in said
    assert not list(encoder.glob("*.sqlite"))


def test_killed_and_resumed(
    run: Callable[..., tuple[int, str, str]],
    corpus: Path,
    encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the frozen part and after it; the best state on dev, too, is that of an unbroken run."""
    words = ("finetune", f"w2v_bert:{encoder}", "-c", f"tsv:{corpus}", *SMALL_STEPS, "--out")
    assert run(*words, tmp_path / "whole")[0] == 0
    before = Finetuning.before_step
    for stop in (3, 5):

        def killed(self: Finetuning, step: int, total: int, stop: int = stop) -> None:
            if step == stop:
                raise KeyboardInterrupt
            before(self, step, total)

        monkeypatch.setattr(Finetuning, "before_step", killed)
        assert run(*words, tmp_path / "parts")[0] != 0
    monkeypatch.setattr(Finetuning, "before_step", before)
    assert run(*words, tmp_path / "parts")[0] == 0
    for name in FILES:
        one, other = ((tmp_path / where / name).read_bytes() for where in ("whole", "parts"))
        assert one == other, name
    frozen = read_checkpoint(encoder / "model.safetensors")
    learned = read_checkpoint(tmp_path / "whole" / "model.safetensors")
    assert frozen.keys() == learned.keys()


FILES = (
    "model.safetensors",
    "config.json",
    "transducer.safetensors",
    "transducer.json",
    DEV,
    "curve.jsonl",
    "training.json",
)


@pytest.mark.parametrize("stop", [None, 5], ids=["finished", "in mid-run"])
def test_the_best_state_is_put_back_where_it_was_damaged(
    stop: int | None,
    run: Callable[..., tuple[int, str, str]],
    corpus: Path,
    encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though the best of dev be of a step whose checkpoint is gone."""
    found = iter((0.3, 0.5, 0.4))
    monkeypatch.setattr(Finetuning, "decode_dev", lambda self: Errors(next(found), 0.1))
    words = ("finetune", f"w2v_bert:{encoder}", "-c", f"tsv:{corpus}", *SMALL_STEPS, "keep=1")
    assert run(*words, "--out", tmp_path / "whole")[0] == 0
    whole = {name: (tmp_path / "whole" / name).read_bytes() for name in FILES}
    folder, before = tmp_path / ("whole" if stop is None else "out"), Finetuning.before_step
    if stop is not None:

        def killed(self: Finetuning, step: int, total: int) -> None:
            if step == stop:
                raise KeyboardInterrupt
            before(self, step, total)

        found = iter((0.3, 0.5, 0.4))
        monkeypatch.setattr(Finetuning, "before_step", killed)
        assert run(*words, "--out", folder)[0] == 130
        monkeypatch.setattr(Finetuning, "before_step", before)
    for name in FILES[:5]:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
    status, _, said = run(*words, "--out", folder)
    assert status == 0 and "model.safetensors" in said and "is written again" in said
    assert {name: (folder / name).read_bytes() for name in FILES} == whole


def test_nothing_is_recorded_of_audio_that_changed(
    run: Callable[..., tuple[int, str, str]],
    corpus: Path,
    encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ("finetune", f"w2v_bert:{encoder}", "-c", f"tsv:{corpus}", *SMALL_STEPS)
    before = Finetuning.before_step

    def swapped(self: Finetuning, step: int, total: int) -> None:
        if step == 3:
            for name in swaps:
                (corpus / name).write_bytes((corpus / "dev0.flac").read_bytes())
        before(self, step, total)

    monkeypatch.setattr(Finetuning, "before_step", swapped)
    for swaps, said in ((["dev1.flac"], "while it was trained on"), (["test0.flac"], "in use")):
        folder = tmp_path / swaps[0]
        kept = (corpus / swaps[0]).read_bytes()
        status, _, errors = run(*words, "--out", folder)
        assert status == 2 and f"{swaps[0]} changed" in errors and said in errors
        assert not open_store(folder).records()
        (corpus / swaps[0]).write_bytes(kept)


def test_records_say_which_code_trained(
    run: Callable[..., tuple[int, str, str]],
    corpus: Path,
    encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ("finetune", f"w2v_bert:{encoder}", "-c", f"tsv:{corpus}", *SMALL_STEPS, "--json")
    words = (*words, "--out", tmp_path / "asr")
    version = json.loads(run(*words)[1])["records"][0]["code_version"]
    assert "trained by" not in version
    monkeypatch.setattr("auscult.training_run.made_by", lambda *parts: "b" * 64)
    status, printed, said = run(*words)
    assert status == 0 and "at least in part, by other code or libraries" in said
    found = {record["code_version"] for record in json.loads(printed)["records"]}
    assert found == {f"{version}, trained by {version}"}


def test_the_encoder_is_frozen_at_first(encoder: Path) -> None:
    cuts, texts = dataset()
    config = override(Config(), [*SMALL_STEPS])
    made = build(encoder, texts, [(cut, texts[cut.id]) for cut in cuts], config, 0).train()
    batch = Batch(Waveforms.of([read_samples(x) for x in cuts]), tuple(texts), (1, 2, 3, 4), 0, 0)
    before = {name: x.clone() for name, x in made.transducer.encoder.state_dict().items()}
    for step, same in ((0, True), (1, True), (2, False)):
        made.before_step(step, 6)
        made.zero_grad()
        made(batch)["transducer"].total.backward()
        assert all((p.grad is None) == same for p in made.transducer.encoder.parameters())
        assert all(p.grad is not None for p in made.transducer.projection.parameters())
        after = made.transducer.encoder.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before) == same  # statistics


def test_augmentation_is_of_the_row_alone(encoder: Path) -> None:
    cuts, texts = dataset()
    made = build(encoder, texts, [], override(Config(), ["frequency_width=5"]), 0)
    steps = torch.full((200,), 1000)
    hidden = made.augment(steps, 1000, range(200))
    assert hidden.shape == (200, 1000, TINY.filters)
    bands, times = hidden.all(1), hidden.all(2)
    assert 0.1 < float(bands.float().mean()) < 0.3 and 0.1 < float(times.float().mean()) < 0.3
    assert torch.equal(hidden, bands[:, None] | times[..., None])
    assert torch.equal(made.augment(steps[7:9], 1000, [7, 8]), hidden[7:9])
    short = made.augment(torch.tensor([40, 1000]), 1000, [3, 4])
    assert torch.equal(short[1], hidden[4]) and not short[0].all(1).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("fbank",), "fbank cannot be fine-tuned here; expected w2v_bert:FOLDER"),
        (("w2v_bert:nowhere",), "There is no nowhere"),
        (("w2v_bert:{encoder}", "crop_seconds=1"), "utt|train0 lasts 1.1 s and would be cut"),
        (("w2v_bert:{encoder}", "--preset", "tinny"), "Unknown preset 'tinny'. Did you mean tiny"),
        (("w2v_bert:{encoder}", "dropout=1"), "dropout=1: expected a share below 1"),
    ],
)
def test_mistakes_on_the_command_line(
    run: Callable[..., tuple[int, str, str]],
    corpus: Path,
    encoder: Path,
    tmp_path: Path,
    words: tuple[str, ...],
    message: str,
) -> None:
    filled = [word.format(encoder=encoder) for word in words]
    status, _, said = run("finetune", *filled, "-c", f"tsv:{corpus}", "--out", tmp_path / "asr")
    assert status == 2 and re.search(message, said)
