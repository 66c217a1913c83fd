"""Masked acoustic models: what is masked, what is learnt from it, and who reads the result."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from auscult import bridge
from auscult.config import override
from auscult.contracts import Waveforms
from auscult.errors import UserError
from auscult.objective import Batch, Term
from auscult.seed import seeded
from auscult.upstreams import load_upstream
from auscult.upstreams.mockingjay import (
    AlbertFrontEnd,
    Dimensions,
    Mockingjay,
    MockingjayUpstream,
    OnlineFrontEnd,
    SpecHead,
    draw_mockingjay,
)
from auscult.upstreams.mockingjay.albert_pretraining import Config as AlbertConfig
from auscult.upstreams.mockingjay.checkpoint import FILE
from auscult.upstreams.mockingjay.masking import Masks, draw_masks
from auscult.upstreams.mockingjay.pretraining import Config, MaskedAcousticModel, build
from auscult.upstreams.pretraining import find_pretraining

FAMILIES = ("mockingjay", "audio_albert")
TINY = ("num_layers=3", "dim=24", "heads=3", "inner=32")
ONLINE = ("front_end=online", "stack=1", "target=input", "span=7", "overlap=yes")
SEEDS = tuple(range(4000))


def speech(size: int, seed: int = 0) -> Tensor:
    """A chain of tones, so that frames tell something about their neighbours."""
    generator = np.random.default_rng(seed)
    pitch = np.repeat(generator.uniform(100, 3000, size // 1600 + 1), 1600)[:size]
    wave = 0.1 * np.sin(2 * np.pi * np.cumsum(pitch) / 16_000) + 0.001 * generator.normal(size=size)
    return torch.from_numpy(wave).float()


def batch_of(sizes: Sequence[int], step: int = 0) -> Batch:
    rows = [speech(size, seed) for seed, size in enumerate(sizes)]
    draws = tuple(100 * step + row for row in range(len(rows)))
    return Batch(Waveforms.of(rows), tuple(map(str, draws)), draws, step, step)


def model(family: str, *changes: str, seed: int = 0) -> MaskedAcousticModel:
    config = find_pretraining(family).configure("published", [*TINY, *changes])
    objective = build(config, seed)
    assert isinstance(objective, MaskedAcousticModel)
    return objective


def mean(term: Term) -> Tensor:
    return term.total / term.count


# --- masks -----------------------------------------------------------------------------------


def check_masks(masks: Masks, lengths: Sequence[int], span: int) -> None:
    """Every row has something to predict, in whole spans, of its own frames and from its own."""
    for row, frames in enumerate(lengths):
        places = masks.chosen[row].nonzero()[:, 0].tolist()
        assert places and max(places) < frames, "padding is chosen, or nothing"
        assert frames <= span or max(places) < frames - 1, "the last frame is chosen"
        runs = "".join("x" if i in places else " " for i in range(max(places) + 1)).split()
        assert min(map(len, runs)) >= min(span, frames), "a span is torn"
        moved = masks.source[row] != torch.arange(masks.source.shape[1])
        assert not (masks.zeroed[row] & ~masks.chosen[row]).any(), "zeroed, and not chosen"
        assert not (moved & ~masks.chosen[row]).any(), "replaced, and not chosen"
        assert masks.source[row][masks.chosen[row]].max() < frames, "replaced by padding"


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("span", [1, 3, 7])
def test_masks_of_rows_of_any_length(span: int, overlap: bool) -> None:
    lengths = [*range(1, 40), 300, 301, 1500]
    masks = draw_masks(lengths, SEEDS[: len(lengths)], share=0.15, span=span, overlap=overlap)
    check_masks(masks, lengths, span)


BREAKS = {
    "padding is chosen": ("chosen", (0, 55), True),
    "zeroed, and not": ("zeroed", (1, 59), True),
    "replaced, and not": ("source", (1, 59), 3),
    "a span is torn": ("chosen", (1, 40), True),
}


@pytest.mark.parametrize("sentence", list(BREAKS))
def test_the_check_sees_broken_masks(sentence: str) -> None:
    lengths = [50, 60]
    masks = draw_masks(lengths, [3, 0], share=0.05, span=7)
    check_masks(masks, lengths, 7)
    name, place, value = BREAKS[sentence]
    getattr(masks, name)[place] = value
    with pytest.raises(AssertionError, match=sentence):
        check_masks(masks, lengths, 7)


def test_one_policy_for_each_utterance() -> None:
    masks = draw_masks([100] * len(SEEDS), SEEDS, share=0.15, span=7)
    moved = masks.source != torch.arange(100)
    assert not (masks.zeroed.any(1) & moved.any(1)).any()
    assert torch.equal(masks.zeroed[masks.zeroed.any(1)], masks.chosen[masks.zeroed.any(1)])
    for found, wanted in ((masks.zeroed, 0.8), (moved, 0.1)):
        share, deviation = float(found.any(1).float().mean()), (wanted * (1 - wanted) / 4000) ** 0.5
        assert abs(share - wanted) < 4 * deviation


@pytest.mark.parametrize(
    ("frames", "share", "wanted"), [(100, 0.15, 15), (97, 0.15, 15), (6, 0.01, 1)]
)
def test_number_of_frames(frames: int, share: float, wanted: int) -> None:
    found = draw_masks([frames] * 100, SEEDS[:100], share=share, span=1).chosen.sum(1)
    assert found.tolist() == [wanted] * 100
    spans = draw_masks([100] * 100, SEEDS[:100], share=0.15, span=5, overlap=False).chosen.sum(1)
    assert spans.tolist() == [15] * 100  # three of five that cannot overlap


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("span", [1, 7])
def test_s3prl_chooses_each_frame_as_often(span: int, overlap: bool) -> None:
    bridge.repair()
    from s3prl.pretrain.mockingjay import task

    config = {
        "position_encoding_size": 2,
        "mask_proportion": 0.15,
        "mask_consecutive_min": span,
        "mask_consecutive_max": span,
        "mask_allow_overlap": overlap,
        "mask_bucket_ratio": 1.2,
        "mask_frequency": 0,
        "noise_proportion": 0,
    }
    draws, frames = len(SEEDS), 40
    features = torch.arange(1.0, frames + 1).expand(draws, frames)[..., None].clone()
    with seeded(0):
        task.random.seed(0)
        altered, _, label, _, _ = task.generate_masked_acoustic_model_data(
            (features.clone(),), config
        )
    masks = draw_masks([frames] * draws, SEEDS, share=0.15, span=span, overlap=overlap)
    for ours, theirs in (
        (masks.chosen, label[..., 0]),
        (masks.zeroed, altered[..., 0] == 0),
        (
            masks.source != torch.arange(frames),
            (altered != features)[..., 0] & (altered[..., 0] > 0),
        ),
    ):
        one, other = ours.float().mean(0), theirs.float().mean(0)
        deviation = ((one * (1 - one) + other * (1 - other)) / draws).sqrt()
        assert ((one - other).abs() <= 4.5 * deviation).all()  # 40 frames, 12 tables


def test_masks_are_a_function_of_each_rows_draw() -> None:
    both = draw_masks([90, 50], [5, 6], share=0.15, span=7)
    alone = draw_masks([50], [6], share=0.15, span=7)
    assert torch.equal(both.chosen[1, :50], alone.chosen[0])
    assert torch.equal(both.source[1, :50], alone.source[0])
    other = draw_masks([50], [7], share=0.15, span=7)
    assert not torch.equal(other.chosen, alone.chosen)


def test_altered_features() -> None:
    features = torch.randn(60, 80, 4)
    masks = draw_masks([80] * 60, SEEDS[:60], share=0.15, span=7)
    altered = masks.alter(features)
    assert (altered[masks.zeroed] == 0).all() and torch.equal(
        altered[~masks.chosen], features[~masks.chosen]
    )
    for row in range(60):
        assert torch.equal(
            altered[row][~masks.zeroed[row]], features[row][masks.source[row]][~masks.zeroed[row]]
        )


# --- the objective ---------------------------------------------------------------------------


def unshared(network: Mockingjay) -> Mockingjay:
    """The same encoder with a copy of the block for each layer."""
    copies = draw_mockingjay(replace(network.dimensions, share=False), seed=1)
    weights = network.state_dict()
    for name in copies.state_dict():
        first = name.replace("layer.1.", "layer.0.").replace("layer.2.", "layer.0.")
        copies.state_dict()[name].copy_(weights[first])
    return copies


def test_the_shared_blocks_gradient_is_the_sum_over_its_layers() -> None:
    shared = model("audio_albert", *ONLINE)
    separate = model("mockingjay", "dropout=0")
    separate.network, separate.head = unshared(shared.network), shared.head
    batch = batch_of([8000, 12_000])
    found = mean(shared(batch)["l1"])
    wanted = mean(separate(batch)["l1"])
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    found.backward()
    wanted.backward()
    layers = [dict(layer.named_parameters()) for layer in separate.network.encoder.layer]
    assert len(layers) == 3 and len(shared.network.encoder.layer) == 1
    for name, parameter in shared.network.encoder.layer[0].named_parameters():
        grads = [grad for layer in layers if (grad := layer[name].grad) is not None]
        assert parameter.grad is not None and len(grads) == 3
        total = torch.stack(grads).sum(0)
        torch.testing.assert_close(parameter.grad, total, rtol=1e-4, atol=1e-7)
        if parameter.ndim > 1:  # so that the sum is not one layer's by chance
            assert not torch.allclose(parameter.grad, grads[0], rtol=1e-2)


def test_the_loss_is_the_mean_error_of_chosen_frames() -> None:
    objective = model("mockingjay", "dropout=0")
    batch = batch_of([8000])
    features = OnlineFrontEnd().features(batch.audio.samples[0])[None]
    masks = draw_masks([51], batch.draws, share=0.15, span=7)
    predicted = objective.head(objective.network(masks.alter(features))[-1])
    chosen = masks.chosen[..., None].expand_as(features)
    wanted = torch.nn.L1Loss()(predicted.masked_select(chosen), features.masked_select(chosen))
    terms = objective(batch)
    torch.testing.assert_close(mean(terms["l1"]), wanted)
    assert masks.zeroed.any() and terms["l1_zeroed"].count == terms["l1"].count
    torch.testing.assert_close(mean(terms["l1_zeroed"]), wanted.detach())
    torch.testing.assert_close(mean(terms["l1_of_mean"]), features[chosen].abs().mean())
    assert float(mean(terms["chosen"])) == float(masks.chosen.float().mean())
    assert [name for name, term in terms.items() if term.weight] == ["l1"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("front_end", ["online", "albert"])
def test_padding_counts_for_nothing(family: str, front_end: str) -> None:
    changes = ("dropout=0", f"front_end={front_end}", "stack=1", "target=linear")
    objective = model(family, *changes)
    both = batch_of([16_000, 7000])
    parts = []
    for row in range(2):
        audio = Waveforms.of([both.audio.rows()[row]])
        parts.append(objective(replace(both, audio=audio, draws=both.draws[row : row + 1])))
    for name, term in objective(both).items():
        torch.testing.assert_close(term.total, sum(part[name].total for part in parts))
        assert float(term.count) == sum(float(part[name].count) for part in parts)


CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "mockingjay": ("mockingjay", ()),
    "mockingjay, linear": ("mockingjay", ("target=linear",)),
    "mockingjay, paper": ("mockingjay", ("front_end=albert",)),
    "audio_albert": ("audio_albert", ()),
    "audio_albert, s3prl": ("audio_albert", ONLINE),
}


@pytest.mark.parametrize("name", list(CASES))
def test_the_loss_falls_on_a_fixed_batch(name: str) -> None:
    family, changes = CASES[name]
    objective = model(family, *changes, "dim=48").train()
    optimizer = torch.optim.AdamW(objective.parameters(), lr=5e-3)
    batch = batch_of([8000, 8000])
    losses = []
    with seeded(0):
        for _ in range(15):
            loss = mean(objective(batch)["l1"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0], losses


def test_dropout_in_training_alone() -> None:
    objective = model("mockingjay", "dropout=0.5")
    batch = batch_of([8000])
    with seeded(0):
        one, other = mean(objective(batch)["l1"]), mean(objective(batch)["l1"])
        assert one != other
        objective.eval()
        assert mean(objective(batch)["l1"]) == mean(objective(batch)["l1"])
    silent = model("mockingjay", "dropout=0")
    assert objective.state_dict().keys() == silent.state_dict().keys()
    assert not any("dropout" in name for name in objective.state_dict())


def test_the_papers_linear_target() -> None:
    """Against the formula, with numpy's transform frame by frame."""
    samples = speech(16_000).double().numpy()
    sharpened = np.append(samples[0], samples[1:] - 0.97 * samples[:-1])
    padded = np.pad(sharpened, 1024, mode="reflect")
    window = np.zeros(2048)
    window[624:1424] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(800) / 800)
    frames = np.stack([padded[start : start + 2048] for start in range(0, 16_001, 200)])
    magnitude = np.abs(np.fft.rfft(frames * window))
    decibels = 20 * np.log10(np.maximum(1e-5, magnitude)) - 20
    scaled = np.clip((decibels + 100) / 100, 0, 1)
    wanted = (scaled - scaled.mean(0)) / (scaled.std(0) + 1e-16)
    found = AlbertFrontEnd(3).linear(torch.from_numpy(samples).float())
    assert found.shape == (27, AlbertFrontEnd(3).linear_dim) == (27, 3075)
    torch.testing.assert_close(
        found, torch.from_numpy(wanted).float().reshape(27, 3075), rtol=0, atol=5e-3
    )  # float32, before a logarithm


# --- the file --------------------------------------------------------------------------------


def trained(family: str, *changes: str) -> MaskedAcousticModel:
    """A model whose every weight, of norms too, is nowhere zero or one."""
    objective = model(family, *changes)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    objective.before_step(41, 100)
    return objective.eval()


@pytest.mark.parametrize("target", ["input", "linear"])
@pytest.mark.parametrize("family", FAMILIES)
def test_s3prl_reads_what_is_written(family: str, target: str, tmp_path: Path) -> None:
    objective = trained(family, *ONLINE, f"target={target}", "crop_seconds=0.8")
    objective.save(tmp_path / "new")
    states = torch.load(tmp_path / "new" / FILE, weights_only=True)
    assert sorted(states) == ["Config", "SpecHead", "Step", "Transformer", "Upstream_Config"]
    assert states["Step"] == 42 and states["Config"]["runner"]["mask_share"] == 0.15
    encoder = load_upstream(f"{family}:{tmp_path / 'new'}")
    assert isinstance(encoder, MockingjayUpstream)
    assert encoder.spec.family == family and encoder.front_end == objective.front_end
    theirs = bridge.build_s3prl_upstream(f"{family}_local", str(tmp_path / "new" / FILE))
    for samples, whole in ((12_000, True), (20_000, False)):  # in chunks, above 80 frames
        row = speech(samples)
        with torch.no_grad():
            found = encoder(Waveforms.of([row])).layers
            wanted = theirs([row])["hidden_states"]
            own = objective.network(objective.front_end.features(row)[None])
        assert len(found) == len(wanted) == 4
        for a, b, c in zip(found, wanted, own, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=2e-5)  # float32, through three blocks
            assert torch.equal(a, c) is whole
    check_head(states, objective)


def check_head(states: dict[str, Any], objective: MaskedAcousticModel) -> None:
    """s3prl's own head predicts what ours does, and is as wide as its target."""
    from s3prl.upstream.baseline.preprocessor import get_preprocessor
    from s3prl.upstream.mockingjay import model as theirs

    config = states["Upstream_Config"]
    dim = get_preprocessor(config["audio"])[2]
    head = theirs.TransformerSpecPredictionHead(
        theirs.TransformerConfig(config["transformer"]), dim
    )
    head.load_state_dict(states["SpecHead"])
    state = torch.randn(2, 5, 24)
    with torch.no_grad():
        torch.testing.assert_close(head(state)[0], objective.head(state), rtol=0, atol=1e-5)


@pytest.mark.parametrize("target", ["input", "linear"])
@pytest.mark.parametrize("stack", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_albert_news_layout(family: str, stack: int, target: str, tmp_path: Path) -> None:
    changes = ("front_end=albert", f"stack={stack}", f"target={target}")
    objective = trained(family, *changes)
    objective.save(tmp_path)
    states = torch.load(tmp_path / FILE, weights_only=True)
    assert sorted(states) == ["Global_step", "Mockingjay", "Settings", "SpecHead"]
    assert states["Settings"]["Config"]["mockingjay"]["downsample_rate"] == stack
    encoder = load_upstream(f"{family}:{tmp_path}")
    assert isinstance(encoder, MockingjayUpstream)
    assert encoder.front_end == AlbertFrontEnd(stack)
    width = (1025 if target == "linear" else 160) * stack
    head = SpecHead(width, dim=24)
    assert encoder.spec.head_parameters == sum(p.numel() for p in head.parameters())
    row = speech(9000)
    with torch.no_grad():
        wanted = objective.network(objective.front_end.features(row)[None])
        found = encoder(Waveforms.of([row])).layers
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a, b)


def test_a_shared_block_is_stored_once(tmp_path: Path) -> None:
    for family in FAMILIES:
        trained(family, *ONLINE, "dim=96", "inner=384").save(tmp_path / family)
    sizes = [(tmp_path / family / FILE).stat().st_size for family in FAMILIES]
    assert sizes[1] < 0.5 * sizes[0]
    assert not list(tmp_path.rglob(f".{FILE}*"))  # nothing temporary is left


@pytest.mark.parametrize("changes", [(), ("begins_nearby=true", "dim=96", "heads=4")])
def test_the_random_twin_is_where_pretraining_began(
    changes: tuple[str, ...], tmp_path: Path
) -> None:
    objective = model("audio_albert", *ONLINE, *changes, seed=7)
    begun = {name: tensor.clone() for name, tensor in objective.network.state_dict().items()}
    trained("audio_albert", *ONLINE, *changes).save(tmp_path)
    twin = load_upstream(f"random(audio_albert:{tmp_path})", seed=7)
    assert isinstance(twin, MockingjayUpstream)
    for name, tensor in twin.network.state_dict().items():
        assert torch.equal(tensor, begun[name])


@pytest.mark.parametrize(("dim", "heads"), [(160, 4), (256, 4), (768, 12), (96, 4)])
def test_heads_begin_with_one_frame_nearby_each(dim: int, heads: int) -> None:
    dimensions = Dimensions(
        input_dim=80, num_layers=2, share=True, dim=dim, heads=heads, inner=dim, begins_nearby=True
    )
    network = draw_mockingjay(dimensions, seed=3).eval()
    seen: list[Tensor] = []
    with torch.no_grad():
        network(torch.randn(2, 60, 80), visit=lambda block, weights: seen.append(weights))
    wanted = [-1, 1, -2, 2, -3, 3, -4, 4, -5, 5, -6, 6][:heads]
    for head, away in enumerate(wanted):
        found = seen[0][:, head].argmax(-1) - torch.arange(60)
        assert (found[:, 10:50] == away).float().mean() > 0.9
    plain = draw_mockingjay(replace(dimensions, begins_nearby=False), seed=3)
    shapes = [{k: v.shape for k, v in x.state_dict().items()} for x in (network, plain)]
    assert shapes[0] == shapes[1]


def test_folders_without_an_encoder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{FILE} does not exist"):
        load_upstream(f"mockingjay:{tmp_path}")
    trained("audio_albert", *ONLINE).save(tmp_path)
    with pytest.raises(UserError, match="load it as audio_albert:"):
        load_upstream(f"mockingjay:{tmp_path}")


# --- configuration ---------------------------------------------------------------------------


def test_the_published_sizes() -> None:
    """Parameter counts of Audio ALBERT's Table 1, and of s3prl's Mockingjay."""
    with torch.device("meta"):
        albert = Mockingjay(Dimensions(input_dim=480, num_layers=6, share=True))
        base = Mockingjay(Dimensions(input_dim=80, num_layers=3, share=False))
    assert sum(p.numel() for p in albert.parameters()) == 7_458_816
    assert sum(p.numel() for p in base.parameters()) == 21_327_360
    config = AlbertConfig()
    assert (config.stack, config.num_layers, config.span, config.target) == (3, 6, 1, "linear")
    assert (Config().num_layers, Config().span, Config().dropout) == (3, 7, 0.1)


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_presets_differ_in_sharing_alone(preset: str) -> None:
    found = [find_pretraining(family).configure(preset, []) for family in FAMILIES]
    assert all(isinstance(config, Config) for config in found)
    assert asdict(found[0]) == asdict(found[1])
    sizes = []
    for family in FAMILIES:
        objective = find_pretraining(family).build(found[FAMILIES.index(family)], seed=0)
        assert isinstance(objective, MaskedAcousticModel)
        sizes.append(sum(p.numel() for p in objective.network.parameters()))
    assert sizes[1] < sizes[0] <= {"tiny": 1_000_000, "small": 5_000_000}[preset]


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("front_end=kaldi", "Unknown front_end 'kaldi'.*albert, online"),
        ("target=mel", "Unknown target 'mel'"),
        ("stack=3", "stack=3: s3prl's features are not stacked"),
        ("heads=5", "dim=768 is no multiple of heads=5"),
        ("dropout=1", "dropout=1: expected a share below 1"),
        ("mask_share=1", "mask_share=1.0: expected less than 1"),
        ("begins_nearby=true heads=48", "heads need 24 columns or more, and dim=768 has 16"),
        ("span=0", "span=0: expected a positive number"),
        ("mask_share=1.5", "mask_share=1.5: expected a share, at most 1"),
        ("learning_rate=0", "learning_rate=0.0: expected a positive number"),
    ],
)
def test_configurations_refused(assignment: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        override(Config(), assignment.split())
