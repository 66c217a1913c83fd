"""DistilHuBERT's distillation: both distances, the teacher's weights, files that load."""

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

import auscult
from auscult.contracts import Waveforms
from auscult.errors import UserError
from auscult.objective import Batch, Term
from auscult.upstreams.distilhubert.distiller import read_prediction_heads
from auscult.upstreams.distilhubert.pretraining import Config, DistilHubertObjective
from auscult.upstreams.hubert.network import NetworkTraining
from auscult.upstreams.huggingface.upstream import HuggingFaceUpstream
from auscult.upstreams.pretraining import PRETRAININGS

TINY = "layers=2 width=32 inner=48 heads=4 channels=16".split()
TEACHER = "layers=4 width=32 inner=48 heads=4 channels=16 projection=16 clusters=8".split()
FAMILY = PRETRAININGS["distilhubert"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("teacher")
    hubert = PRETRAININGS["hubert"]
    hubert.build(hubert.configure("tiny", TEACHER), 5).save(folder)
    return f"hubert:{folder}"


def objective(teacher: str, *assignments: str) -> DistilHubertObjective:
    config = FAMILY.configure("tiny", [*TINY, f"teacher={teacher}", *assignments])
    made = FAMILY.build(config, 0)
    assert isinstance(made, DistilHubertObjective)
    return made


def batch_of(*lengths: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    rows = [0.1 * torch.randn(length, generator=generator) for length in lengths]
    ids = tuple(f"row-{i}" for i in range(len(rows)))
    return Batch(Waveforms.of(rows), ids, tuple(range(len(rows))), 0, 0)


def weights_of(address: str) -> Mapping[str, Tensor]:
    upstream = auscult.load(address)
    assert isinstance(upstream, HuggingFaceUpstream)
    state: Mapping[str, Tensor] = upstream.model.state_dict()
    return state


def mean(term: Term) -> float:
    return float(term.total.detach()) / float(term.count)


def loss_of(made: DistilHubertObjective, batch: Batch) -> Tensor:
    terms = made(batch).values()
    return torch.stack([t.weight * t.total / float(t.count) for t in terms if t.weight]).sum()


def test_loss_falls_on_a_fixed_batch_of_unequal_rows(teacher: str) -> None:
    made = objective(teacher).train()
    batch = batch_of(16_000, 12_345)
    optimizer = torch.optim.AdamW(made.parameters(), lr=3e-3)
    before = made(batch)
    for _ in range(30):
        optimizer.zero_grad()
        loss_of(made, batch).backward()
        optimizer.step()
    after = made(batch)
    assert mean(after["l1"]) < 0.8 * mean(before["l1"])
    for layer in (1, 2, 4):
        name = f"similarity_{layer}"
        assert mean(after[name]) > mean(before[name]) + 0.2


def test_terms_by_their_definition(teacher: str) -> None:
    made = objective(teacher, "cosine_weight=0.5").eval()
    batch = batch_of(8000)
    with torch.no_grad():
        states = auscult.load(teacher)(batch.audio).layers
        wanted = torch.stack([states[layer] for layer in (1, 2, 4)], dim=1)
        found = made.heads(made.network(batch.audio).last)
        terms = made(batch)
    cosines = torch.cosine_similarity(found, wanted, dim=-1)
    assert mean(terms["l1"]) == pytest.approx(float((found - wanted).abs().mean()), rel=1e-5)
    angle = float(-torch.nn.functional.logsigmoid(cosines).mean())
    assert mean(terms["cosine"]) == pytest.approx(angle, rel=1e-5)
    assert terms["cosine"].weight == 0.5 and terms["features"].weight == 0
    assert mean(terms["similarity_4"]) == pytest.approx(float(cosines[:, 2].mean()), rel=1e-4)


def test_padding_changes_no_term(teacher: str) -> None:
    made = objective(teacher).eval()
    whole = batch_of(16_000, 9_000)
    alone = [made(Batch(Waveforms.of([row]), ("x",), (0,), 0, 0)) for row in whole.audio.rows()]
    for name, term in made(whole).items():
        total = sum(float(part[name].total.detach()) for part in alone)
        assert float(term.total.detach()) == pytest.approx(total, rel=1e-4, abs=1e-4), name
        assert float(term.count) == sum(float(part[name].count) for part in alone), name


def test_begins_with_the_teacher(teacher: str) -> None:
    model = weights_of(teacher)
    begun, drawn = objective(teacher), objective(teacher, "initialize=false")
    state, other = begun.network.model.state_dict(), drawn.network.model.state_dict()
    for name in (
        "feature_extractor.conv_layers.3.conv.weight",
        "feature_projection.projection.weight",
        "encoder.pos_conv_embed.conv.parametrizations.weight.original1",
        "encoder.layers.1.feed_forward.output_dense.weight",
    ):
        assert torch.equal(state[name], model[name])
        assert not torch.equal(other[name], model[name])
    assert "feature_projection.layer_norm.weight" not in state


def test_a_part_that_does_not_fit_begins_at_random(
    teacher: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = weights_of(teacher)
    state = objective(teacher, "inner=64").network.model.state_dict()
    same = [name for name in state if name in model and torch.equal(state[name], model[name])]
    assert "feature_projection.projection.weight" in same
    assert "encoder.layers.0.attention.k_proj.weight" not in same
    assert "encoder.layers.0, encoder.layers.1 of the student begin at random" in caplog.text


def test_the_teacher_stays_as_it_was(teacher: str) -> None:
    made = objective(teacher)
    frozen = made._frozen[0]
    before = {name: tensor.clone() for name, tensor in frozen.state_dict().items()}
    made.train()
    loss_of(made, batch_of(8000)).backward()
    assert not frozen.training
    assert all(parameter.grad is None for parameter in frozen.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in frozen.state_dict().items())
    assert all(name.startswith(("network.", "heads.")) for name in made.state_dict())


@pytest.mark.parametrize("targets", ["1-2-4", "4"])
def test_saved_student_loads_as_it_was(teacher: str, targets: str, tmp_path: Path) -> None:
    made = objective(teacher, f"targets={targets}").eval()
    made.save(tmp_path)
    audio = batch_of(12_000, 8_000).audio
    with torch.no_grad():
        wanted = made.network(audio).last
        for address in (
            f"distilhubert:{tmp_path}",
            f"hf:{tmp_path}",
            f"distilhubert:{tmp_path / 'distiller.ckpt'}",
        ):
            found = auscult.load(address)(audio)
            for row, frames in enumerate(found.lengths.tolist()):
                torch.testing.assert_close(
                    found.layers[-1][row, :frames], wanted[row, :frames], atol=1e-5, rtol=0
                )
        heads = read_prediction_heads(tmp_path / "distiller.ckpt")
        assert heads.teacher_layers == made.layers
        torch.testing.assert_close(heads(wanted), made.heads(wanted))


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`")
@pytest.mark.parametrize("targets", ["1-2-4", "4"])
def test_s3prls_distiller_reads_the_file(teacher: str, targets: str, tmp_path: Path) -> None:
    reference = pytest.importorskip("s3prl.upstream.distiller.model")
    made = objective(teacher, f"targets={targets}").eval()
    made.save(tmp_path)
    content = torch.load(tmp_path / "distiller.ckpt", weights_only=True)
    model = reference.DistillerModel(reference.DistillerConfig(content["Config"]["distiller"]))
    model.load_state_dict(content["Distiller"])
    audio = batch_of(8000).audio
    with torch.no_grad():
        _, _, found, _ = model.eval()(audio.samples, torch.ones_like(audio.samples))
        wanted = made.heads(made.network(audio).last)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_presets_have_the_sizes_of_huberts(preset: str) -> None:
    student, hubert = FAMILY.configure(preset, []), PRETRAININGS["hubert"].configure(preset, [])
    assert isinstance(student, NetworkTraining) and isinstance(hubert, NetworkTraining)
    for size in ("width", "inner", "heads", "channels", "position_kernel", "position_groups"):
        assert getattr(student, size) == getattr(hubert, size), size
    assert isinstance(student, Config) and max(student.target_layers) == hubert.layers


def test_the_defaults_are_published() -> None:
    config = FAMILY.configure("published", [])
    assert isinstance(config, Config)
    assert (config.layers, config.target_layers, config.cosine_weight) == (2, (4, 8, 12), 1.0)
    assert (config.learning_rate, config.total_steps, config.weight_decay) == (2e-4, 200_000, 1e-6)
    assert math.isclose(config.batch_seconds, 24 * config.crop_seconds)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("targets=1-9", "hidden states 0 to 4"),
        ("targets=1,2", "such as 4-8-12"),
        ("targets=2-2", "different layers"),
        ("width=48", "no part of it has the names and shapes"),
        ("teacher=", "teacher is not set"),
        ("teacher=fbank", "its frames are"),
    ],
)
def test_what_cannot_be_is_said(teacher: str, assignment: str, message: str) -> None:
    extra = ("channels=24",) if assignment == "width=48" else ()
    with pytest.raises(UserError, match=message):
        objective(teacher, assignment, *extra)
