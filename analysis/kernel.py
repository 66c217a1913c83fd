"""The inner loop of the attention divergence: every pair of distributions, one logarithm each.

With F(p, q) = sum of (p + q) log2(p + q) over the elements of two stacks of distributions, the
Jensen-Shannon divergence is (F(p, p) + F(q, q) - 2 F(p, q)) / 4 in bits: the entropy identity
JSD = H((p + q) / 2) - (H(p) + H(q)) / 2 after its constants have cancelled. The sums are linear in
the elements, so they can be taken block by block, and equal distributions give exactly 0.
"""

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import numba
import numpy as np
import torch
from numpy.polynomial import Chebyshev, Polynomial
from numpy.typing import NDArray

RUN = 256  # elements added up in float32; everything above that is float64, in a fixed order
BLOCK = 4 * RUN  # elements of one task, for all pairs: 144 heads' worth fits a core's cache

_Kernel = Callable[[NDArray[np.float32], int, int, np.int32, NDArray[np.float64]], None]
_FLAGS = {"reassoc", "contract", "nsz"}  # what vectorising a float32 sum takes; NaN stays NaN
_LOWEST = math.sqrt(0.5)  # the logarithm's polynomial covers mantissas from here to twice this
_LOWEST_BITS = np.int32(np.float32(_LOWEST).view(np.int32))
_MANTISSA_BITS = np.int32(23)
_MANTISSA_MASK = np.int32(2**23 - 1)
_ONE = np.float32(1)
_DEGREE = 7


def _log_ratio(degree: int) -> tuple[np.float32, ...]:
    """Return the coefficients in t of log2(1 + t) / t over the mantissas, constant first.

    Chebyshev interpolation is within a small factor of the best polynomial; at degree 7 the
    logarithm is right to 1e-7, which is about float32's own rounding.
    """
    domain = [_LOWEST - 1, 2 * _LOWEST - 1]
    fitted = Chebyshev.interpolate(lambda t: np.log1p(t) / (t * math.log(2)), degree, domain)
    return tuple(np.float32(c) for c in fitted.convert(kind=Polynomial, domain=[-1, 1]).coef)


_RATIO = _log_ratio(_DEGREE)


def pairwise_divergence(
    tiles: Iterable[NDArray[np.float32]], num_maps: int, num_frames: int
) -> NDArray[np.float64]:
    """Return the Jensen-Shannon divergence of every pair of maps, mean over their rows, in bits.

    The error against float64 stays below 1e-6. The bits of the result depend neither on the number
    of threads, nor on the tiling where all tiles but the last are multiples of `BLOCK` wide.

    Args:
        tiles: C-contiguous arrays (map, element) that, side by side, hold the elements of square
            maps (frame, frame) whose rows sum to one.
        num_maps: Number of maps.
        num_frames: Rows of each map.

    Returns:
        (map, map), symmetric, zero on the diagonal, between 0 and 1.
    """
    compiled = _compiled()
    # x log x may be replaced by x (log x + c), since c cancels. With the c that brings a uniform
    # row's logarithm near 0, rows that are nearly uniform lose no digits.
    shift = np.int32(round(math.log2(num_frames)) - 1)
    sums = np.zeros(num_maps * (num_maps + 1) // 2)

    def block_sums(tile: NDArray[np.float32], start: int) -> NDArray[np.float64]:
        found = np.empty(len(sums))
        compiled(tile, start, min(start + BLOCK, tile.shape[1]), shift, found)
        return found

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for tile in tiles:
            starts = range(0, tile.shape[1], BLOCK)
            for found in pool.map(partial(block_sums, tile), starts):
                sums += found
    joint = np.zeros((num_maps, num_maps))
    first, second = np.triu_indices(num_maps)
    joint[first, second] = joint[second, first] = sums
    own = joint.diagonal()
    return ((own[:, None] + own[None, :] - 2 * joint) / (4 * num_frames)).clip(0.0, 1.0)


def _pair_sums(
    tile: NDArray[np.float32],
    start: int,
    stop: int,
    shift: np.int32,
    sums: NDArray[np.float64],
) -> None:
    """Write the sum of x (log2 x + shift), x = p + q, of every pair of maps into ``sums``.

    Compiled by numba. The logarithm is exponent plus polynomial of the mantissa; x = 0 gives 0,
    because the logarithm of its bits is finite.
    """
    origin = np.int32(_LOWEST_BITS - np.int32(shift << _MANTISSA_BITS))
    sums[:] = 0.0
    for first in range(start, stop, RUN):
        last = min(first + RUN, stop)
        pair = 0
        for i in range(len(tile)):
            p = tile[i, first:last]
            for j in range(i, len(tile)):
                q = tile[j, first:last]
                run = np.float32(0)
                for k in range(last - first):
                    x = p[k] + q[k]
                    bits = np.int32(np.float32(x).view(np.int32) - origin)
                    exponent = np.float32(np.int32(bits >> _MANTISSA_BITS))
                    mantissa = np.int32(np.int32(bits & _MANTISSA_MASK) + _LOWEST_BITS)
                    t = np.int32(mantissa).view(np.float32) - _ONE
                    ratio = _RATIO[_DEGREE]
                    for power in range(_DEGREE - 1, -1, -1):
                        ratio = ratio * t + _RATIO[power]
                    run += x * (exponent + t * ratio)
                sums[pair] += run
                pair += 1


@cache
def _compiled() -> _Kernel:
    """Have the loop compiled when it is first called; cached on disk where that can be written."""
    options = {"nogil": True, "fastmath": _FLAGS, "error_model": "numpy"}
    try:
        kernel: _Kernel = numba.njit(_pair_sums, cache=True, **options)
    except RuntimeError:  # neither this folder nor the user's cache folder can be written
        kernel = numba.njit(_pair_sums, **options)
    return kernel
