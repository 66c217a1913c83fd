"""The spectral baselines equal s3prl's, and their frames see the samples that they say."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.testing import assert_close

import auscult
from auscult.contracts import Waveforms
from auscult.errors import UserError
from auscult.upstreams.spectral import RECIPES, Recipe


def s3prl_baseline(name: str) -> Any:
    """Return s3prl's own extracter; its file is read alone, for the package needs mending."""
    package = importlib.util.find_spec("s3prl")
    assert package is not None and package.submodule_search_locations
    folder = Path(package.submodule_search_locations[0]) / "upstream" / "baseline"
    found = importlib.util.spec_from_file_location("s3prl_extracter", folder / "extracter.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module.get_extracter(yaml.safe_load((folder / f"{name}.yaml").read_text()))[0]


def noise(length: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(length, generator=torch.Generator().manual_seed(seed)) + 0.01


@pytest.mark.parametrize("name", ["fbank", "mfcc"])
@pytest.mark.parametrize("length", [560, 719, 5123, 8000])
def test_equals_s3prl(name: str, length: int) -> None:
    samples = noise(length)
    found = auscult.load(name)(Waveforms.of([samples]))
    # The same operations in the same order, so to the last bit but for another build of torch.
    assert_close(found.layers[0][0], s3prl_baseline(name)(samples), atol=1e-6, rtol=1e-6)
    assert found.layers[0].shape[-1] == {"fbank": 240, "mfcc": 39}[name]


def test_log_mel_is_the_static_third_of_fbank_before_cmvn() -> None:
    samples = noise(5123)
    static = auscult.load("log_mel")(Waveforms.of([samples])).layers[0][0]
    full = auscult.load("fbank")(Waveforms.of([samples])).layers[0][0]
    assert static.shape == (30, 80)
    normalised = (static - static.mean(0)) / (1e-10 + static.std(0))
    assert_close(full[:, :80], normalised, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "delta_order"), [("log_mel", 0), ("fbank", 2)])
def test_geometry_is_what_a_frame_sees(name: str, delta_order: int) -> None:
    """Disturb one sample: the frames that change are those whose receptive field holds it."""
    recipe = Recipe(name, "fbank", 80, delta_order, cmvn=False)  # CMVN sees the whole utterance
    geometry = auscult.load(name).spec.geometry
    samples = noise(6400)
    before = recipe.features(samples)
    for where in (0, 1300, 2999, 3200):
        disturbed = samples.clone()
        disturbed[where] += 1.0
        changed = (recipe.features(disturbed) - before).abs().amax(1) > 1e-4
        starts = geometry.offset + geometry.stride * torch.arange(len(before))
        sees = (starts <= where) & (where < starts + geometry.receptive_field)
        assert not bool((changed & ~sees).any())
        assert bool(changed[sees].float().mean() > 0.6)  # a window's first samples weigh nothing


def test_centres_do_not_move_with_deltas() -> None:
    centres = [auscult.load(name).spec.geometry.centres(3).tolist() for name in RECIPES]
    assert centres == [[199.5, 359.5, 519.5]] * 3


@pytest.mark.parametrize(("name", "least"), [("fbank", 560), ("mfcc", 560), ("log_mel", 400)])
def test_too_short(name: str, least: int) -> None:
    """One frame has no variance to normalise by: CMVN needs two."""
    upstream = auscult.load(name)
    assert upstream.num_frames(torch.tensor([least - 1, least])).tolist()[0] == 0
    assert upstream(Waveforms.of([noise(least)])).layers[0].isfinite().all()
    with pytest.raises(UserError, match=f"is {least - 1} samples; {name} needs at least {least}"):
        upstream(Waveforms.of([noise(least - 1)]))


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))
def test_autocast_does_not_round_features(recipe: Recipe) -> None:
    wanted = recipe.features(noise(5123))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = recipe.features(noise(5123))
    assert found.dtype == torch.float32 and torch.equal(found, wanted)


@pytest.mark.parametrize("length", [1360, 4567, 8000, 16000])
def test_silence_has_features_of_zero(length: int) -> None:
    """A mean that is off by one bit, over a floor of 1e-10, makes them ten thousand in s3prl."""
    recipe = Recipe("static", "fbank", 80, delta_order=0, cmvn=True)
    assert not recipe.features(torch.zeros(length)).any()
    assert not recipe.features(torch.full((length,), 0.3)).any()
