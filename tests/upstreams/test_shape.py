"""Named shapes: published sizes, and weights that are a function of shape and seed alone."""

import random
import subprocess
import sys

import numpy as np
import pytest
import torch

import auscult
from auscult.errors import UserError
from auscult.upstreams import SHAPES, outline_upstream
from auscult.upstreams.huggingface.upstream import build_config

TRANSFORMERS = "auscult.upstreams.huggingface.upstream:"
# Of the released encoders, without pretraining heads and with the mask vector.
PUBLISHED = {
    "hubert_base": 94_371_712,
    "hubert_large": 315_434_112 + 1_024,
    "hubert_xlarge": 962_492_544 + 1_280,
    "distilhubert": 23_491_968,
    "wav2vec2_base": 94_371_712,
    "wav2vec2_large": 315_427_968 + 1_024,
    "wav2vec2_large_lv60": 315_438_720,
    "w2v_bert_2": 580_493_120,
}


@pytest.mark.parametrize("name", list(SHAPES))
def test_parameters(name: str) -> None:
    shape, spec = SHAPES[name], outline_upstream(name).spec
    assert spec.num_parameters == shape.num_parameters
    assert spec.num_parameters == PUBLISHED.get(name, spec.num_parameters)
    assert (spec.head_parameters, spec.normalize) == (shape.head_parameters, shape.normalize)


def test_there_are_shapes_to_count() -> None:
    assert len(SHAPES) >= 14 and set(PUBLISHED) <= set(SHAPES)


def test_normalisation_goes_with_the_extractors_norm() -> None:
    shapes = [shape for shape in SHAPES.values() if shape.target.startswith(TRANSFORMERS)]
    assert len(shapes) >= 14
    for shape in shapes:
        norm = getattr(build_config(shape), "feat_extract_norm", "layer")
        assert shape.normalize == (norm == "layer"), shape.name


@pytest.mark.slow
def test_weights_are_the_same_in_another_process() -> None:
    here = auscult.load("random(hubert_tiny, seed=5)").spec
    torch.manual_seed(99)
    code = (
        "import torch; torch.rand(7); import auscult; "
        "print(auscult.load('random(hubert_tiny)', seed=5).spec.sha256)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == here.sha256


def test_seeds_name_and_differ() -> None:
    specs = [
        auscult.load("random(hubert_tiny)").spec,
        auscult.load("random(hubert_tiny, seed=0)").spec,
        auscult.load("random(hubert_tiny)", seed=3).spec,
        auscult.load("random(hubert_tiny, seed=3)").spec,
        auscult.load("random(hubert_tiny, 3)", seed=4).spec,  # the address wins
    ]
    names = ["random(hubert_tiny)"] * 2 + ["random(hubert_tiny, seed=3)"] * 3
    assert [spec.name for spec in specs] == names
    assert [spec.sha256 == specs[0].sha256 for spec in specs] == [True, True, False, False, False]
    assert len({spec.sha256 for spec in specs}) == 2


def test_loading_leaves_the_global_generators_alone() -> None:
    before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
    upstream = auscult.load("random(hubert_tiny)")
    after = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    assert not upstream.training and all(p.requires_grad for p in upstream.parameters())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("hubert_base", r"write random\(hubert_base\) for weights from a seed, or name a checkp"),
        ("hubert_base:x.pt", r"write random\(hubert_base\)"),
        ("random(hubert_base@a)", "hubert_base has no subnets; drop @a"),
        ("random(hubert_bse)", "Unknown upstream 'hubert_bse'. Did you mean hubert_base"),
        ("random(fbank)", "has no weights to draw; write fbank"),
        ("fbank:x", "write fbank, with nothing after it"),
        ("fbank@x", "write fbank, with nothing after it"),
        ("fbnk", "Unknown upstream 'fbnk'. Did you mean fbank"),
    ],
)
def test_addresses_that_cannot_be_built(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        auscult.load(spec)
