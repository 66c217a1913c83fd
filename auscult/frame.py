"""Where a frame lies in the audio: computed from the encoder's layers, never reconciled."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class FrameGeometry:
    """Stride and receptive field of an encoder's frames, in samples of its input.

    Frame ``i`` sees samples ``[offset + i * stride, offset + i * stride + receptive_field)``; what
    lies before sample 0 is the encoder's own padding.
    """

    stride: int
    receptive_field: int
    offset: int = 0

    def centres(self, num_frames: int) -> NDArray[np.float64]:
        """Return the centre of each frame's receptive field, (frame,), in samples."""
        first = self.offset + (self.receptive_field - 1) / 2
        return first + self.stride * np.arange(num_frames, dtype=np.float64)

    def unpadded_frames(self, samples: int) -> int:
        """Return the frames of ``samples`` that an encoder without padding gives."""
        return max((samples - self.receptive_field) // self.stride + 1, 0)


def conv_geometry(kernels: Sequence[int], strides: Sequence[int]) -> FrameGeometry:
    """Return the geometry of a stack of unpadded convolutions, first layer first."""
    stride, field = 1, 1
    for kernel, step in zip(kernels, strides, strict=True):
        field += (kernel - 1) * stride
        stride *= step
    return FrameGeometry(stride, field)


def conv_lengths(lengths: Tensor, kernels: Sequence[int], strides: Sequence[int]) -> Tensor:
    """Return the valid frames (batch,) after unpadded convolutions over ``lengths`` samples."""
    for kernel, step in zip(kernels, strides, strict=True):
        lengths = ((lengths - kernel).div(step, rounding_mode="floor") + 1).clamp(min=0)
    return lengths
