"""Which rows of a batch go through an encoder together, and that each goes through once."""

from typing import Any

import pytest
import torch
from torch.testing import assert_close

import auscult
from auscult.contracts import Waveforms

LENGTHS = [5123, 3200, 5123, 400, 3200, 6400]


@pytest.fixture
def audio() -> Waveforms:
    generator = torch.Generator().manual_seed(2)
    return Waveforms.of([0.1 * torch.randn(n, generator=generator) for n in LENGTHS])


def test_groups_have_equal_lengths_or_are_one(audio: Waveforms) -> None:
    upstream: Any = auscult.load("random(hubert_tiny)")
    assert upstream.groups(audio.lengths) == [[0, 2], [1, 4], [3], [5]]
    upstream.padding = "mask"
    assert upstream.groups(audio.lengths) == [[0, 1, 2, 3, 4, 5]]
    assert auscult.load("fbank").groups(audio.lengths) == [[0, 1, 2, 3, 4, 5]]


def test_rows_are_taken_with_their_own_padding(audio: Waveforms) -> None:
    taken = audio.take([3, 1])
    assert taken.samples.shape == (2, 3200) and taken.lengths.tolist() == [400, 3200]
    assert torch.equal(taken.rows()[0], audio.rows()[3])
    assert not taken.samples[0, 400:].any()


def test_forward_gives_the_states_of_each_group(audio: Waveforms) -> None:
    upstream = auscult.load("random(hubert_tiny)")
    with torch.inference_mode():
        whole = upstream(audio)
        for rows in upstream.groups(audio.lengths):
            part = upstream(audio.take(rows))
            for one, other in zip(part.layers, whole.layers, strict=True):
                frames = one.shape[1]
                assert_close(other[rows, :frames], one, rtol=0, atol=0)
