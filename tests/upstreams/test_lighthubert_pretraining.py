"""LightHuBERT's objective: the target by hand, losses that fall, stages that follow each other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import auscult
from auscult import bridge
from auscult.contracts import Waveforms
from auscult.errors import UserError
from auscult.objective import Batch
from auscult.upstreams import load_upstream
from auscult.upstreams.huggingface.upstream import HuggingFaceUpstream
from auscult.upstreams.lighthubert import LightHubertUpstream, target
from auscult.upstreams.lighthubert.checkpoint import write_supernet
from auscult.upstreams.lighthubert.network import num_frames
from auscult.upstreams.lighthubert.pretraining import PRESETS, Config, Distillation, build
from auscult.upstreams.lighthubert.space import BASE, SMALL, SearchSpace, uniform, whole
from auscult.upstreams.lighthubert.supernet import draw_supernet
from auscult.upstreams.lighthubert.target import as_teacher, teacher_target
from auscult.upstreams.lighthubert.upstream import prepare
from auscult.upstreams.masking import span_mask
from auscult.upstreams.pretraining import find_pretraining

TEACHER = "random(hubert_tiny, seed=1)"
SIZES = {
    "space": "numbers",
    "embed_dims": "32-48-64",
    "heads": "2-4",
    "ratios": "2-2.5-3",
    "depths": "2-3",
    "head_dim": 16,
    "conv_channels": 16,
    "conv_pos": 16,
}
LENGTHS = (8000, 6500, 8000, 5000)


def objective(**changes: Any) -> Distillation:
    found = build(Config(**{"teacher": TEACHER, "top_layers": 3, **SIZES, **changes}), seed=0)
    assert isinstance(found, Distillation)
    return found


def batch(step: int = 0, draw: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(9)
    rows = []
    for i, length in enumerate(LENGTHS):
        pitch = torch.sin(torch.arange(length) * (0.05 + 0.02 * i))
        loudness = torch.rand(length // 500 + 1, generator=generator)
        row = pitch * loudness.repeat_interleave(500)[:length]
        rows.append(row + 0.1 * torch.randn(length, generator=generator))
    return Batch(Waveforms.of(rows), tuple("abcd"), (11, 12, 13, 14), step, draw)


def losses(trained: Distillation, steps: int, draw: Callable[[int], int] = int) -> list[float]:
    """Train on one batch whose crops and masks stay; return the loss of each step."""
    optimizer = torch.optim.AdamW(trained.parameters(), lr=3e-3)
    found = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for step in range(steps):
            term = trained(batch(step, draw(step)))["masked"]
            loss = term.total / term.count
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(float(loss.detach()))
    return found


@pytest.fixture
def teacher() -> HuggingFaceUpstream:
    return as_teacher(load_upstream(TEACHER), 3)


@pytest.fixture(scope="module")
def stage_1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stage_1")
    trained = objective()
    losses(trained, 2)
    trained.save(folder)
    return folder


@torch.no_grad()
def by_hand(teacher: HuggingFaceUpstream, row: Tensor, norm: str) -> Tensor:
    """Return the target (frame, dim) of one utterance, its blocks computed anew from the states."""
    states = teacher(Waveforms.of([row])).layers
    total = torch.zeros_like(states[0][0])
    for number in (2, 3, 4):
        block = teacher.model.encoder.layers[number - 1]
        x = states[number - 1]
        x = block.layer_norm(x + block.attention(x)[0])
        output = block.feed_forward(x)[0]
        over = 0 if norm == "instance" else 1
        centred = output - output.mean(over, keepdim=True)
        total += centred / (centred.square().mean(over, keepdim=True) + 1e-5).sqrt()
    return total / 3


@pytest.mark.parametrize("padding", ["group", "mask"])
@pytest.mark.parametrize("norm", ["instance", "layer"])
def test_target(norm: Any, padding: Any, teacher: HuggingFaceUpstream) -> None:
    audio = batch().audio
    teacher.padding = padding
    found = teacher_target(teacher, audio, 3, norm)
    assert found.shape == (4, 24, 128) and not found.requires_grad
    for row, samples, frames in zip(
        found, audio.rows(), num_frames(audio.lengths).tolist(), strict=True
    ):
        # a tone's channels hardly vary, and the norm magnifies what rounding leaves
        torch.testing.assert_close(row[:frames], by_hand(teacher, samples, norm), rtol=0, atol=1e-4)
        assert not row[frames:].any()


def test_statistics_over_padding_would_be_seen(
    teacher: HuggingFaceUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def padded(row: Tensor, norm: str) -> Tensor:
        long = torch.nn.functional.pad(row, (0, 0, 0, 5))
        return torch.nn.functional.layer_norm(long.T, (len(long),)).T[: len(row)]

    monkeypatch.setattr(target, "_normalize", padded)
    audio = batch().audio
    found = teacher_target(teacher, audio, 3, "instance")
    assert float((found[0] - by_hand(teacher, audio.rows()[0], "instance")).abs().max()) > 0.1


def test_loss_by_hand(teacher: HuggingFaceUpstream) -> None:
    trained = objective().eval()
    with torch.no_grad():
        terms = trained(batch())
        audio = batch().audio
        aim = teacher_target(teacher, audio, 3, "instance")
        frames = num_frames(audio.lengths)
        masked = span_mask(frames, batch().draws, probability=0.65, span=10, least=2)
        last = trained.supernet(
            prepare(audio, "layer_norm"), audio.lengths, whole(trained.space.stored), masked
        )[-1]
        apart = (trained.supernet.predict(last) - aim).abs().mean(-1)
    seen = (torch.arange(24) < frames[:, None]) & ~masked
    assert set(terms) == {"masked", "unmasked", "masked_by_zero", "masked_share"}
    torch.testing.assert_close(terms["masked"].total, apart[masked].sum())
    torch.testing.assert_close(terms["unmasked"].total, apart[seen].sum())
    torch.testing.assert_close(terms["masked_by_zero"].total, aim[masked].abs().mean(-1).sum())
    assert float(terms["masked"].count) == float(masked.sum())
    assert float(terms["unmasked"].count) == float(seen.sum()) > 0
    assert float(terms["masked_share"].count) == float(frames.sum())
    assert {name: term.weight for name, term in terms.items() if term.weight} == {"masked": 1}
    assert objective(unmasked_weight=0.5)(batch())["unmasked"].weight == 0.5
    assert not masked[1, 20:].any() and not masked[3, 15:].any()  # padding


def test_padding_changes_nothing() -> None:
    trained = objective().eval()
    whole_batch = batch()
    with torch.no_grad():
        together = trained(whole_batch)["masked"]
        alone = [
            trained(Batch(whole_batch.audio.take([i]), ("x",), (whole_batch.draws[i],), 0, 0))
            for i in range(4)
        ]
    torch.testing.assert_close(together.total, sum(terms["masked"].total for terms in alone))
    assert float(together.count) == sum(float(terms["masked"].count) for terms in alone)


@pytest.mark.slow
def test_the_loss_falls_in_both_stages(tmp_path: Path) -> None:
    first = objective()
    found = losses(first, 30)
    assert found[-1] < 0.8 * found[0]
    first.save(tmp_path)
    second = objective(stage=2, start=str(tmp_path))
    going_on = losses(second, 60)
    assert sum(going_on[-10:]) < 0.93 * sum(going_on[:10])


def test_stage_2_begins_with_the_weights_of_stage_1(stage_1: Path) -> None:
    saved = torch.load(stage_1 / "lighthubert.pt", weights_only=True)["model"]
    second = objective(stage=2, start=str(stage_1))
    state = second.supernet.state_dict()
    assert set(state) == set(saved) and len(saved) > 60
    for name, tensor in saved.items():
        assert torch.equal(state[name], tensor)
    assert all(parameter.requires_grad for parameter in second.parameters())


def test_random_subnets_follow_the_draw_alone(stage_1: Path) -> None:
    trained = objective(stage=2, start=str(stage_1))
    drawn = {draw: trained.subnets(draw)["random"] for draw in range(20)}
    assert len(set(drawn.values())) > 15
    assert drawn == {draw: trained.subnets(draw)["random"] for draw in range(20)}
    trained.eval()
    with torch.no_grad():
        totals = [
            float(trained(batch(step, draw))["masked"].total)
            for step, draw in ((0, 3), (7, 3), (0, 4))
        ]
    assert totals[0] == totals[1] != totals[2]
    for draw in (3, 4):
        trained.zero_grad(set_to_none=True)
        trained(batch(0, draw))["masked"].total.backward()
        layers = trained.supernet.encoder.layers
        used = [any(p.grad is not None for p in layer.parameters()) for layer in layers]
        assert sum(used) == drawn[draw].depth


def test_sandwich(stage_1: Path) -> None:
    trained = objective(stage=2, start=str(stage_1), sandwich=True).eval()
    named = trained.subnets(5)
    assert list(named) == ["largest", "smallest", "random"]
    assert named["random"] == trained.space.sample(5)
    with torch.no_grad():
        terms = trained(batch(0, 5))
        alone = objective(stage=2, start=str(stage_1)).eval()(batch(0, 5))["masked"]
    mean = sum(terms[name].total for name in named) / 3
    torch.testing.assert_close(terms["masked"].total, mean)
    torch.testing.assert_close(terms["random"].total, alone.total)
    assert all(terms[name].weight == 0 for name in named)


@pytest.mark.parametrize("stage", [1, 2])
def test_what_is_saved_is_what_was_trained(stage: int, stage_1: Path, tmp_path: Path) -> None:
    trained = objective(stage=stage, start=str(stage_1) if stage == 2 else "")
    losses(trained, 2)
    trained.save(tmp_path / "model")
    trained.save(tmp_path / "model")  # over the older
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["lighthubert.pt"]
    trained.eval()
    default = trained.space.largest if stage == 1 else trained.space.default
    for text, subnet in (("", default), ("@random(3)", trained.space.sample(3))):
        upstream = auscult.load(f"lighthubert:{tmp_path / 'model'}{text}")
        assert isinstance(upstream, LightHubertUpstream)
        assert upstream.network.subnet == subnet
        upstream.padding = "mask"
        audio = batch().audio
        with torch.no_grad():
            wanted = trained.supernet(prepare(audio, "layer_norm"), audio.lengths, subnet)
            for a, b in zip(upstream(audio).layers, wanted, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_the_teacher_is_no_part_of_what_is_trained() -> None:
    trained = objective().train()
    assert not any("teacher" in name or "model" in name for name in trained.state_dict())
    (teacher,) = trained._teacher
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())


def test_presets() -> None:
    row = find_pretraining("lighthubert")
    sizes = {}
    for preset in PRESETS:
        built = row.build(row.configure(preset, [f"teacher={TEACHER}"]), 0)
        assert isinstance(built, Distillation)
        head = built.supernet.head.weight.numel()
        sizes[preset] = sum(p.numel() for p in built.parameters()) - head
    assert 0.7e6 < sizes["tiny"] < 0.8e6 and 4e6 < sizes["small"] < 5e6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small", "base"])
def test_published_spaces(name: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"teacher": TEACHER, "top_layers": 3, "space": name}
    first = build(Config(**settings), 0)
    assert isinstance(first, Distillation)
    assert first.subnets(0)["largest"] == whole(first.space.stored)
    assert uniform(768, 12, 12, 4.0, first.space.stored) == first.space.largest
    first.save(tmp_path)
    second = build(Config(**settings, stage=2, start=str(tmp_path)), 0)
    assert isinstance(second, Distillation)
    space = {"small": SMALL, "base": BASE}[name]
    assert second.space.num_subnets == space.num_subnets
    second.save(tmp_path)
    upstream = auscult.load(f"lighthubert:{tmp_path}@a_{name}")
    assert upstream.spec.subnet == str(space.default)
    assert upstream.spec.head_parameters == space.default.embed_dim * 128  # the teacher's width


@pytest.mark.slow
@pytest.mark.parametrize(("space", "stage"), [(BASE, 1), (SMALL, 2)])
def test_s3prl_reads_what_has_the_published_sizes(
    space: SearchSpace, stage: int, tmp_path: Path
) -> None:
    bridge.repair()
    from s3prl.upstream.lighthubert.expert import UpstreamExpert

    write_supernet(draw_supernet("layer_norm", 0), space, stage, tmp_path)
    ours = auscult.load(f"lighthubert:{tmp_path}")
    theirs = UpstreamExpert(str(tmp_path / "lighthubert.pt")).eval()
    row = torch.randn(8000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for a, b in zip(
            theirs([row])["hidden_states"], ours(Waveforms.of([row])).layers, strict=True
        ):
            torch.testing.assert_close(a, b, rtol=0, atol=5e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": ""}, "teacher is not set"),
        ({"teacher": "fbank"}, "teacher=fbank is no encoder in HuBERT's shape.*family fbank"),
        ({"teacher": "random(w2v_bert_tiny)"}, "no encoder in HuBERT's shape"),
        ({"top_layers": 8}, r"top_layers=8, and teacher=random\(hubert_tiny.* has 4 blocks"),
        ({"stage": 3}, "stage=3: expected 1 or 2"),
        ({"stage": 2}, "stage=2 needs start=FOLDER"),
        ({"start": "x"}, "start=x is for stage=2"),
        ({"stage": 2, "start": "/nowhere.pt"}, "nowhere.pt does not exist"),
        ({"sandwich": True}, "sandwich=true is for stage=2"),
        ({"target_norm": "batch"}, "Unknown target_norm 'batch'"),
        ({"space": "tiny"}, "Unknown space 'tiny'"),
        ({"space": "small"}, "embed_dims is for space=numbers; here space=small"),
        ({"heads": "2-x"}, "heads=2-x: space=numbers needs positive numbers"),
        ({"depths": ""}, "depths=: space=numbers needs"),
        ({"ratios": "2--1"}, "ratios=2--1: space=numbers needs"),
        ({"embed_dims": "32-50"}, "embed_dim is 50; expected a multiple of 16"),
    ],
)
def test_mistakes(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        objective(**changes)


def test_a_folder_without_a_supernet(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no supernet: name the folder that stage=1 wrote"):
        objective(stage=2, start=str(tmp_path))


def test_stages_of_different_spaces(stage_1: Path) -> None:
    with pytest.raises(UserError, match="stores a width of 64, and this run has 48"):
        objective(stage=2, start=str(stage_1), embed_dims="32-48")


def test_a_teacher_with_other_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    def every_160(self: HuggingFaceUpstream, lengths: Tensor) -> Tensor:
        return lengths // 160

    monkeypatch.setattr(HuggingFaceUpstream, "num_frames", every_160)
    with pytest.raises(UserError, match="has 2 frames in 400 samples and LightHuBERT 1"):
        objective()
