"""HuBERT's pretraining: clusters, hidden frames, a loss that falls, an encoder that loads."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import auscult
from auscult.contracts import HiddenStates, UpstreamSpec, Waveforms
from auscult.errors import UserError
from auscult.frame import FrameGeometry
from auscult.objective import Batch, Objective, Term
from auscult.upstream import Upstream
from auscult.upstreams.hubert.cluster import Clusters, Labelled
from auscult.upstreams.hubert.network import GEOMETRY
from auscult.upstreams.hubert.pretraining import Config, HubertObjective
from auscult.upstreams.pretraining import PRETRAININGS

TINY = "layers=2 width=32 inner=48 heads=4 channels=16 projection=16 clusters=8".split()
FAMILY = PRETRAININGS["hubert"]


class Noises:
    """A pool of rows that change their colour and loudness, so that there is what to predict."""

    def sample(self, seconds: float, seed: int) -> Iterator[Waveforms]:
        yield Waveforms.of([noise(row, 16_000) for row in range(6)])


def noise(seed: int, samples: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(samples, generator=generator)
    loudness = torch.randn(samples // 800 + 1, generator=generator).exp()
    loudness = loudness.repeat_interleave(800)[:samples]
    smooth = torch.nn.functional.avg_pool1d(white[None, None], 9, 1, 4)[0, 0]
    coloured = torch.where(loudness > 1, white, smooth)
    return 0.05 * coloured * loudness


def batch_of(*lengths: int) -> Batch:
    rows = [noise(i, n) for i, n in enumerate(lengths)]
    ids = tuple(f"row-{i}" for i in range(len(rows)))
    return Batch(Waveforms.of(rows), ids, tuple(range(len(rows))), 0, 0)


def objective(*assignments: str, seed: int = 0) -> HubertObjective:
    made = FAMILY.build(FAMILY.configure("tiny", [*TINY, *assignments]), seed)
    assert isinstance(made, HubertObjective)
    return made


def fitted(*assignments: str) -> HubertObjective:
    made = objective(*assignments)
    made.fit(Noises())
    return made


def mean(term: Term) -> float:
    return float(term.total.detach()) / float(term.count)


def loss_of(terms: dict[str, Term]) -> Tensor:
    weighted = [t.weight * t.total / float(t.count) for t in terms.values() if t.weight]
    return torch.stack(weighted).sum()


def train(made: Objective, batch: Batch, steps: int, rate: float) -> list[float]:
    made.train()
    optimizer = torch.optim.AdamW(made.parameters(), lr=rate)
    losses = []
    for _ in range(steps):
        loss = loss_of(dict(made(batch)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


# --- the loss ----------------------------------------------------------------------------------


def test_loss_falls_on_a_fixed_batch_of_unequal_rows() -> None:
    made = fitted()
    losses = train(made, batch_of(16_000, 16_000, 12_345), steps=40, rate=3e-3)
    assert losses[0] > 0.9 * math.log(8) > 0.7 * math.log(8) > losses[-1]


def test_without_gradients_it_does_not_fall() -> None:
    """The guard of the test above: the batch alone does not make a loss smaller."""
    losses = train(fitted(), batch_of(16_000, 12_345), steps=3, rate=0.0)
    assert losses[-1] == pytest.approx(losses[0])


def test_only_hidden_frames_count_unless_alpha_says_otherwise() -> None:
    hidden, both = fitted("alpha=1"), fitted("alpha=0.25")
    batch = batch_of(8000, 8000)
    for made, weights in ((hidden, (1.0, 0.0)), (both, (0.25, 0.75))):
        terms = made(batch)
        assert (terms["masked"].weight, terms["unmasked"].weight) == weights
        assert float(terms["masked"].count) + float(terms["unmasked"].count) == 48
        assert mean(terms["masked_share"]) == float(terms["masked"].count) / 48
        assert 0 <= mean(terms["accuracy_masked"]) <= 1


def test_logits_are_cosines_over_the_temperature() -> None:
    made = objective()
    states = torch.randn(5, 32)
    projected = made.projection(states)
    wanted = torch.stack(
        [torch.cosine_similarity(projected, label[None]) for label in made.labels], dim=1
    )
    torch.testing.assert_close(made.compare(states), wanted / 0.1)


def test_padding_changes_no_term() -> None:
    """Sums over a padded batch are those of its rows alone, also through the group norm."""
    made = fitted("feature_penalty=10").eval()
    lengths = (16_000, 9_000)
    whole = made(batch_of(*lengths))
    rows = [noise(i, n) for i, n in enumerate(lengths)]
    alone = [made(Batch(Waveforms.of([rows[i]]), (f"{i}",), (i,), 0, 0)) for i in range(2)]
    for name, term in whole.items():
        total = sum(float(part[name].total.detach()) for part in alone)
        assert float(term.total.detach()) == pytest.approx(total, rel=1e-4, abs=1e-4), name
        assert float(term.count) == sum(float(part[name].count) for part in alone), name


def test_masks_follow_the_rows_own_draws() -> None:
    made = fitted().eval()
    one, other = batch_of(16_000, 16_000), batch_of(16_000, 16_000)
    torch.manual_seed(1)
    first = mean(made(one)["masked"])
    torch.manual_seed(2)
    assert mean(made(other)["masked"]) == first
    moved = Batch(one.audio, one.ids, (7, 8), 0, 0)
    assert mean(made(moved)["masked"]) != first


def test_extractor_learns_by_a_share_of_its_gradient() -> None:
    gradients = []
    for share in ("1", "0.1"):
        made = fitted(f"feature_gradient={share}")
        loss_of(dict(made(batch_of(8000)))).backward()
        convolution = made.network.model.feature_extractor.conv_layers[0].conv
        gradients.append(convolution.weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0] * 0.1)


# --- clusters ----------------------------------------------------------------------------------


def test_clusters_find_separate_groups() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.randn(4, 1, 3, generator=generator) * 20
    points = (groups + torch.randn(4, 50, 3, generator=generator)).flatten(0, 1)
    clusters = Clusters(4, 3)
    clusters.fit(points, seed=0)
    found = clusters.assign(points).view(4, 50)
    assert (found == found[:, :1]).all() and len(set(found[:, 0].tolist())) == 4
    torch.testing.assert_close(clusters.frequencies, torch.full((4,), 0.25))


def test_clusters_are_kept_in_the_state() -> None:
    made, other = fitted(), objective(seed=1)
    other.load_state_dict(made.state_dict())
    assert torch.equal(other.clusters.centres, made.clusters.centres)
    assert made.clusters.centres.abs().sum() > 0
    assert not any("upstream" in name for name in made.state_dict())


def test_too_few_frames_for_the_clusters() -> None:
    with pytest.raises(UserError, match="only 5 frames to cluster"):
        Clusters(8, 3).fit(torch.randn(5, 3), seed=0)


class Ramp(Upstream):
    """An encoder whose only number is the centre of its frame, in samples."""

    def __init__(self, geometry: FrameGeometry) -> None:
        super().__init__()
        self.spec = UpstreamSpec(name="ramp", family="ramp", num_layers=0, dim=1, geometry=geometry)

    def num_frames(self, lengths: Tensor) -> Tensor:
        geometry = self.spec.geometry
        window = geometry.receptive_field + 2 * geometry.offset  # what reaches past is padded
        return (lengths - window).div(geometry.stride, rounding_mode="floor") + 1

    def forward(self, audio: Waveforms) -> HiddenStates:
        frames = self.num_frames(audio.lengths)
        centres = torch.from_numpy(self.spec.geometry.centres(int(frames.max()))).float()
        return HiddenStates((centres[None, :, None].expand(len(frames), -1, 1),), frames)


@pytest.mark.parametrize(
    "geometry",
    [
        FrameGeometry(160, 400),
        FrameGeometry(160, 1680, -640),
        FrameGeometry(320, 400),
        FrameGeometry(320, 560),
        FrameGeometry(640, 800),
    ],
)
def test_labels_lie_where_the_frames_are(geometry: FrameGeometry) -> None:
    source = Labelled(Ramp(geometry), 0, GEOMETRY)
    frames = torch.tensor([GEOMETRY.unpadded_frames(16_000), GEOMETRY.unpadded_frames(9_999)])
    audio = Waveforms.of([torch.zeros(16_000), torch.zeros(9_999)])
    found = source.features(audio, frames)[..., 0]
    for row, count in enumerate(frames.tolist()):
        wanted = torch.from_numpy(GEOMETRY.centres(count)).float()
        late = (found[row, :count] - wanted).abs()
        assert (late[1:-2] <= geometry.stride / 2 + 1).all()
        assert (late <= geometry.stride + 1).all()


def test_mfcc_of_every_second_frame_are_at_the_centres() -> None:
    source = objective()._frozen[0]
    own = source.upstream.spec.geometry
    assert own.centres(99)[::2][:49].tolist() == GEOMETRY.centres(49).tolist()
    audio = Waveforms.of([noise(0, 16_000)])
    states = source.upstream(audio).layers[0]
    features = source.features(audio, torch.tensor([49]))
    assert features.shape == (1, 49, 39)
    assert torch.equal(features, states[:, :97:2])


def test_labels_of_a_layer(tmp_path: Path) -> None:
    fitted().save(tmp_path / "first")
    second = fitted(f"labels_from=hubert:{tmp_path / 'first'}", "layer=1")
    assert second.clusters.centres.shape == (8, 32)
    assert math.isfinite(train(second, batch_of(8000), steps=1, rate=1e-3)[0])
    with pytest.raises(UserError, match="hidden states 0 to 2"):
        objective(f"labels_from=hubert:{tmp_path / 'first'}", "layer=3")


# --- what is written -----------------------------------------------------------------------------


def test_saved_encoder_loads_as_it_was(tmp_path: Path) -> None:
    made = fitted()
    train(made, batch_of(8000), steps=2, rate=1e-2)
    made.eval()
    made.save(tmp_path)
    made.save(tmp_path)  # again, as the loop does
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    audio = batch_of(12_000, 8_000).audio
    with torch.no_grad():
        wanted = made.network(audio)
        for family in ("hubert", "hf"):
            upstream = auscult.load(f"{family}:{tmp_path}")
            assert upstream.spec.num_layers == 2 and not upstream.spec.normalize
            found = upstream(audio)
            for row, frames in enumerate(found.lengths.tolist()):
                torch.testing.assert_close(
                    found.layers[-1][row, :frames], wanted.last[row, :frames], atol=1e-5, rtol=0
                )


def test_saved_encoder_is_transformers_own(tmp_path: Path) -> None:
    from transformers import HubertModel

    made = objective().eval()
    made.save(tmp_path)
    loaded: Any = HubertModel.from_pretrained(tmp_path, output_loading_info=True)
    model, loading = loaded
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    audio = batch_of(8000).audio
    with torch.no_grad():
        found = model.eval()(audio.samples).last_hidden_state
        torch.testing.assert_close(found, made.network(audio).last, atol=1e-5, rtol=0)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["HubertModel"]


# --- configuration -------------------------------------------------------------------------------


def test_the_defaults_are_published() -> None:
    config = FAMILY.configure("published", [])
    assert isinstance(config, Config)
    assert (config.layers, config.width, config.heads, config.inner) == (12, 768, 12, 3072)
    assert (config.mask_probability, config.mask_span, config.alpha) == (0.8, 10, 1.0)
    assert (config.learning_rate, config.total_steps, config.clusters) == (5e-4, 250_000, 100)


def test_convolutions_may_differ(tmp_path: Path) -> None:
    made = objective("channels=8-8-12-16-16-24-32").eval()
    made.save(tmp_path)
    audio = batch_of(8000).audio
    with torch.no_grad():
        found = auscult.load(f"hubert:{tmp_path}")(audio).layers[-1]
        torch.testing.assert_close(found, made.network(audio).last, atol=1e-5, rtol=0)
    assert made.network(audio).features.shape == (1, 24, 32)


@pytest.mark.parametrize(("preset", "most"), [("tiny", 800_000), ("small", 5_500_000)])
def test_presets_are_small(preset: str, most: int) -> None:
    made = FAMILY.build(FAMILY.configure(preset, []), 0)
    assert isinstance(made, HubertObjective)
    assert sum(parameter.numel() for parameter in made.network.parameters()) <= most


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("heads=5", "expected a divisor of width"),
        ("position_groups=5", "expected a divisor of width"),
        ("alpha=2", "from 0 to 1"),
        ("channels=16-32", "expected one number, or seven"),
        ("channels=0", "expected one number, or seven"),
        ("dropout=-0.1", "expected zero or more"),
        ("labels_from=nothing", "nothing"),
    ],
)
def test_what_cannot_be_is_said(assignment: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        objective(assignment)
