"""A layer that says the same of every utterance: by dimension, whatever the size of others."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from auscult.pooled import Pooled
from auscult.probing import PooledExamples
from auscult.probing.target import Targets

ITEMS, FRAMES, DIM = 40, 60, 768


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pooled(frames: Tensor) -> Pooled:
    """Return the statistics of one layer's frames, (item, frame, dim), as features are pooled."""
    mean, std = frames.mean(1), frames.std(1, correction=0)
    return Pooled(mean[:, None], std[:, None], np.full(len(frames), frames.shape[1]))


def normalised(frames: Tensor) -> Tensor:
    """Return frames after mean and variance normalisation over each utterance."""
    return (frames - frames.mean(1, keepdim=True)) / frames.std(1, keepdim=True, correction=0)


def speech(items: int = ITEMS) -> Tensor:
    """Return frames whose mean tells utterances apart, by half of what frames deviate."""
    return noise(items, FRAMES, DIM) + 0.5 * noise(items, 1, DIM, seed=1)


def layer_of_a_constant_dimension(value: float) -> Tensor:
    frames = speech()
    frames[..., 0] = value
    return frames


@pytest.mark.parametrize("value", [0.0, 1e-3, 1.0, 1e3, 6e4])
@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_one_large_constant_does_not_hide_the_others(value: float, precision: torch.dtype) -> None:
    frames = layer_of_a_constant_dimension(value).to(precision).float()
    assert not pooled(frames).constant(0)
    examples = PooledExamples(pooled(frames), Targets((torch.tensor([0]),) * ITEMS, (None,)))
    centre, spread = examples.scale(0)
    vectors = (pooled(frames).mean[:, 0] - centre) / spread
    assert vectors[:, 1:].std(0).min() > 0.9, "the others are standardised all the same"
    assert vectors[:, 0].abs().max() < 0.1


@pytest.mark.parametrize("size", [1e-8, 1e-4, 1.0, 1e4])
def test_a_small_dimension_may_say_all(size: float) -> None:
    frames = layer_of_a_constant_dimension(1.0)
    frames = normalised(frames + 1e-12 * noise(*frames.shape, seed=2))
    frames[..., 5] = size * speech()[..., 5]
    assert not pooled(frames).constant(0)


def test_one_of_many_dimensions_may_say_all() -> None:
    frames = torch.full((ITEMS, FRAMES, DIM), 3.0)
    assert pooled(frames).constant(0)
    frames[..., -1] += 0.05 * noise(ITEMS, 1, seed=3)  # of which the frames do not deviate
    assert not pooled(frames).constant(0)
    assert not pooled(frames).constant(0, "statistics")


@pytest.mark.parametrize("size", [1e-6, 1e-3, 0.1, 1.0, 777.0, 6e4])
@pytest.mark.parametrize("pooling", ["mean", "statistics"])
@pytest.mark.parametrize("within", [0.0, 1e-4, 3e-4])
def test_rounding_to_float16_says_nothing(size: float, pooling: str, within: float) -> None:
    """A constant that every utterance rounds to one of two neighbours, or every frame does."""
    frames = size * (1 + within * noise(ITEMS, FRAMES, DIM))
    if size >= 1e-3:  # below lie numbers that float16 holds with fewer digits
        frames = frames.half().float()
    assert pooled(frames).constant(0, pooling)
    apart = torch.full((ITEMS, 1, DIM), size)
    apart[::2] = torch.nextafter(apart[::2].half(), torch.tensor(torch.inf).half()).float()
    assert pooled(apart.expand(-1, FRAMES, -1)).constant(0, pooling) or size < 1e-3


@pytest.mark.parametrize("precision", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-5, 1.0, 1e3])
def test_what_is_normalised_in_each_utterance_says_nothing(
    precision: torch.dtype, size: float
) -> None:
    frames = normalised(size * speech() + size).to(precision).float()
    assert pooled(frames).constant(0)
    assert not pooled((size * speech()).to(precision).float()).constant(0)


@pytest.mark.parametrize("seconds", [1, 30])
def test_utterances_that_are_only_sampled_differ(seconds: int) -> None:
    """Means of pure noise differ by chance; only normalisation makes them equal."""
    assert not pooled(noise(6, 50 * seconds, 16)).constant(0)


@pytest.mark.parametrize(("items", "constant"), [(1, False), (2, True), (3, True)])
def test_of_one_utterance_nothing_is_known(items: int, constant: bool) -> None:
    assert pooled(normalised(speech(items))).constant(0) is constant
    if items > 1:
        assert not pooled(speech(items)).constant(0)


def test_the_deviation_may_say_what_the_mean_does_not() -> None:
    loud = torch.linspace(0.5, 2, ITEMS)[:, None, None]
    frames = normalised(speech()) * loud
    assert pooled(frames).constant(0, "mean") and not pooled(frames).constant(0, "statistics")
    assert pooled(normalised(speech())).constant(0, "statistics")


def test_layers_are_judged_one_by_one() -> None:
    parts = [pooled(frames) for frames in (normalised(speech()), speech(), normalised(speech()))]
    found = Pooled(
        torch.cat([part.mean for part in parts], 1),
        torch.cat([part.std for part in parts], 1),
        parts[0].num_frames,
    )
    assert found.constant_layers() == [0, 2]
    assert replace(found, mean=found.mean * 0, std=found.std * 0).constant_layers() == [0, 1, 2]
