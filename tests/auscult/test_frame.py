"""Frame arithmetic equals torch's convolutions, for every small length."""

import numpy as np
import pytest
import torch

from auscult.frame import FrameGeometry, conv_geometry, conv_lengths

STACKS = [
    ((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)),  # wav2vec 2.0, HuBERT, WavLM
    ((400, 2), (160, 2)),  # windows, then pairs of them
    ((1,), (1,)),
    ((3, 5), (2, 3)),
    ((2,), (5,)),  # a stride beyond the kernel
]


def convolved(length: int, kernels: tuple[int, ...], strides: tuple[int, ...]) -> int:
    for kernel, stride in zip(kernels, strides, strict=True):
        if length < kernel:
            return 0
        length = torch.empty(1, 1, length, device="meta").unfold(2, kernel, stride).shape[2]
    return length


@pytest.mark.parametrize(("kernels", "strides"), STACKS)
def test_lengths(kernels: tuple[int, ...], strides: tuple[int, ...]) -> None:
    lengths = torch.arange(1500)
    wanted = [convolved(int(length), kernels, strides) for length in lengths]
    assert conv_lengths(lengths, kernels, strides).tolist() == wanted
    geometry = conv_geometry(kernels, strides)
    assert [geometry.unpadded_frames(length) for length in range(1500)] == wanted


@pytest.mark.parametrize(("kernels", "strides"), STACKS)
def test_geometry_is_what_a_frame_depends_on(
    kernels: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    """The gradient of a frame is non-zero from its first to its last sample, and nowhere else."""
    geometry = conv_geometry(kernels, strides)
    samples = torch.zeros(1, 1, 2500, requires_grad=True)
    frames = samples
    for kernel, stride in zip(kernels, strides, strict=True):
        frames = torch.nn.functional.conv1d(frames, torch.ones(1, 1, kernel), stride=stride)
    for index in (0, 1, 3):
        (gradient,) = torch.autograd.grad(frames[0, 0, index], samples, retain_graph=True)
        seen = gradient[0, 0].nonzero().flatten()
        start = geometry.offset + index * geometry.stride
        assert (int(seen[0]), int(seen[-1])) == (start, start + geometry.receptive_field - 1)
        assert geometry.centres(index + 1)[index] == (int(seen[0]) + int(seen[-1])) / 2


def test_known_geometries() -> None:
    assert conv_geometry(*STACKS[0]) == FrameGeometry(stride=320, receptive_field=400)
    assert conv_geometry(*STACKS[1]) == FrameGeometry(stride=320, receptive_field=560)
    assert conv_lengths(torch.tensor([16_000, 80_000]), *STACKS[0]).tolist() == [49, 249]


def test_centres() -> None:
    centres = FrameGeometry(stride=160, receptive_field=1680, offset=-640).centres(3)
    np.testing.assert_array_equal(centres, [199.5, 359.5, 519.5])
    assert FrameGeometry(320, 400).centres(0).shape == (0,)
