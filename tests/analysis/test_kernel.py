import math

import numba
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon

from auscult.analysis.kernel import BLOCK, _compiled, pairwise_divergence


def random_rows(num_maps: int, num_frames: int, spread: float) -> NDArray[np.float32]:
    """Softmax of normal scores, (item, row, row); nearly uniform for a small ``spread``."""
    scores = spread * np.random.default_rng(0).normal(size=(num_maps, num_frames, num_frames))
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def by_kernel(rows: NDArray[np.float32], width: int | None = None) -> NDArray[np.float64]:
    """Divergence of (item, row, column) stacks, in tiles of ``width`` elements."""
    flat = np.ascontiguousarray(rows.reshape(len(rows), -1), np.float32)
    step = width or flat.shape[1]
    starts = range(0, flat.shape[1], step)
    tiles = [np.ascontiguousarray(flat[:, i : i + step]) for i in starts]
    return pairwise_divergence(tiles, len(rows), rows.shape[1])


def by_scipy(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """The definition, in float64, of (map, row, column) stacks."""
    maps = rows.astype(np.float64)

    def divergence(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
        # scipy gives the root, and NaN where rounding takes equal rows below 0.
        return float(np.nan_to_num(jensenshannon(p.T, q.T, 2) ** 2).mean())

    return np.array([[divergence(p, q) for q in maps] for p in maps])


@pytest.mark.parametrize("spread", [0.01, 1.0, 5.0, 50.0])
@pytest.mark.parametrize("num_frames", [2, 33, 100])
def test_equals_scipy(spread: float, num_frames: int) -> None:
    rows = random_rows(6, num_frames, spread)
    # 1e-6 is what the kernel promises: a polynomial logarithm, sums of 256 in float32.
    np.testing.assert_allclose(by_kernel(rows), by_scipy(rows), rtol=0, atol=1e-6)


def test_near_uniform_rows_keep_their_digits() -> None:
    rows = random_rows(6, 100, 0.01)
    assert by_scipy(rows).max() < 1e-4
    np.testing.assert_allclose(by_kernel(rows), by_scipy(rows), rtol=0, atol=2e-8)


@pytest.mark.parametrize("share", [0.0, 0.125, 0.375, 0.6, 0.75, 1.0])
def test_constant_rows_equal_scipy(share: float) -> None:
    # Every element makes the same rounding error, so that none cancels: the worst case known.
    num_frames, third = 1500, 500
    q = np.where(np.arange(num_frames) < third, share / third, (1 - share) / (2 * third))
    rows = np.stack([np.full(num_frames, 1 / num_frames), q]).astype(np.float32)[:, None]
    found = by_kernel(np.repeat(rows, num_frames, axis=1))
    np.testing.assert_allclose(found, by_scipy(rows), rtol=0, atol=1e-6)


def test_known_values_in_bits() -> None:
    p, q, r = [0.5, 0.5, 0.0, 0.0], [0.0, 0.5, 0.5, 0.0], [0.0, 0.0, 0.5, 0.5]
    found = by_kernel(np.array([[p], [q], [r]], np.float32))
    expected = [[0.0, 0.5, 1.0], [0.5, 0.0, 0.5], [1.0, 0.5, 0.0]]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)
    np.testing.assert_allclose(found[0, 1] * math.log(2), 0.346574, atol=1e-6)


def test_equal_distributions_are_exactly_zero_apart() -> None:
    rows = random_rows(1, 70, 3.0)
    np.testing.assert_array_equal(by_kernel(np.concatenate([rows, rows, rows])), np.zeros((3, 3)))


def test_symmetric_and_within_bounds() -> None:
    found = by_kernel(random_rows(8, 40, 100.0))
    np.testing.assert_array_equal(found, found.T)
    assert found.min() >= 0 and found.max() <= 1


def test_same_bits_for_any_threads_and_tiles() -> None:
    rows = random_rows(9, 90, 2.0)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = by_kernel(rows)
        torch.set_num_threads(3)
        for width in (None, BLOCK, 3 * BLOCK):
            np.testing.assert_array_equal(by_kernel(rows, width), alone)
    finally:
        torch.set_num_threads(threads)


def test_runs_where_nothing_can_be_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numba.core.caching.CompileResultCacheImpl._locator_classes", [])
    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(lambda: 0, cache=True)
    _compiled.cache_clear()
    rows = random_rows(2, 10, 1.0)
    np.testing.assert_allclose(by_kernel(rows), by_scipy(rows), rtol=0, atol=1e-6)
    _compiled.cache_clear()


def test_the_comparison_notices_a_wrong_divergence() -> None:
    rows = random_rows(3, 20, 1.0)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(np.sqrt(by_kernel(rows)), by_scipy(rows), rtol=0, atol=1e-6)
    assert np.isnan(by_kernel(rows * np.float32("nan"))).all()
