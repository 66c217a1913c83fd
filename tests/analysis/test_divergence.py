import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from torch import Tensor
from torch.overrides import TorchFunctionMode

from auscult.analysis import Divergence, DivergenceMaps, measure
from auscult.contracts import AttentionMap, HiddenStates, UpstreamSpec, Waveforms
from auscult.errors import UserError
from auscult.frame import FrameGeometry
from auscult.upstream import Upstream

KERNEL = 1e-6  # the kernel's promise, tests/analysis/test_kernel.py


def attention(heads: Sequence[int], lengths: Sequence[int], seed: int = 0) -> list[AttentionMap]:
    """Random maps of every block; padded keys get nothing, padded queries anything."""
    generator = torch.Generator().manual_seed(seed)
    size = max(lengths)
    padded = torch.arange(size) >= torch.tensor(lengths)[:, None]  # (batch, key)
    maps = []
    for block, n in enumerate(heads, start=1):
        scores = 3 * torch.randn(len(lengths), n, size, size, generator=generator)
        weights = scores.masked_fill(padded[:, None, None, :], -torch.inf).softmax(-1)
        maps.append(AttentionMap(block, weights, torch.tensor(lengths)))
    return maps


def divergence_of(
    heads: Sequence[int], batches: Sequence[Sequence[AttentionMap]], **options: int | str
) -> DivergenceMaps:
    divergence = Divergence(heads, **options)  # type: ignore[arg-type]
    for number, maps in enumerate(batches):
        with divergence.batch([f"u{number}.{i}" for i in range(len(maps[0].lengths))]) as visit:
            for one in maps:
                visit(one)
    return divergence.result()


def by_scipy(batches: Sequence[Sequence[AttentionMap]]) -> NDArray[np.float64]:
    """All pairs by definition: scipy on valid rows and keys, mean over queries, then utterances."""
    utterances = []
    for maps in batches:
        for row, n in enumerate(maps[0].lengths.tolist()):
            items = torch.cat([one.weights[row, :, :n, :n] for one in maps]).double().numpy()
            # scipy gives the root, and NaN where rounding takes equal rows below 0.
            pairs = [[jensenshannon(p.T, q.T, 2) ** 2 for q in items] for p in items]
            utterances.append(np.nan_to_num(np.array(pairs)).mean(-1))
    return np.mean(utterances, axis=0)


def test_all_pairs_equal_scipy_under_padding() -> None:
    batches = [attention((2, 3, 2), (9, 4, 17)), attention((2, 3, 2), (30, 1), seed=1)]
    found = divergence_of((2, 3, 2), batches)
    assert found.num_utterances == 5
    assert_allclose(found.all_pairs, by_scipy(batches), rtol=0, atol=KERNEL)


def test_padding_changes_no_bit() -> None:
    (alone,) = [attention((2, 2), (11,))]
    padded = []
    for one in alone:
        weights = torch.full((1, 2, 20, 20), torch.nan)
        weights[:, :, :11, :11] = one.weights
        padded.append(AttentionMap(one.block, weights, one.lengths))
    first, second = divergence_of((2, 2), [alone]), divergence_of((2, 2), [padded])
    assert_array_equal(first.all_pairs, second.all_pairs)


def test_maps_are_slices_of_all_pairs() -> None:
    heads = (2, 3, 1)
    found = divergence_of(heads, [attention(heads, (8,))])
    assert_array_equal(found.block_of, [1, 1, 2, 2, 2, 3])
    assert_array_equal(found.head_of, [0, 1, 0, 1, 2, 0])
    item = {key: i for i, key in enumerate(zip(found.block_of, found.head_of, strict=True))}
    expected = np.full((3, 3, 3), np.nan)
    for head in range(3):
        for a in range(3):
            for b in range(3):
                if head < heads[a] and head < heads[b]:
                    pair = item[a + 1, head], item[b + 1, head]
                    expected[head, a, b] = found.all_pairs[pair]
    assert_array_equal(found.same_head, expected)
    assert_allclose(found.mean[0, 1], (expected[0, 0, 1] + expected[1, 0, 1]) / 2)
    assert_allclose(found.mean[0, 2], expected[0, 0, 2])
    assert np.isfinite(found.mean).all()


def test_utterance_values_average_to_the_maps() -> None:
    found = divergence_of((2, 2, 2), [attention((2, 2, 2), (9, 20)), attention((2, 2, 2), (5,), 1)])
    assert found.utterances == ("u0.0", "u0.1", "u1.0")
    above, between = np.triu_indices(6, 1), np.triu_indices(3, 1)
    assert_allclose(found.utterance_all_pairs.mean(), found.all_pairs[above].mean())
    assert_allclose(found.utterance_same_head.mean(), found.mean[between].mean())
    assert_allclose(found.utterance_next_layer.mean(0), np.diagonal(found.mean, 1))
    assert found.utterance_next_layer.shape == (3, 2)


def test_nats_are_bits_times_ln_two() -> None:
    maps = [attention((2, 2), (10,))]
    bits, nats = divergence_of((2, 2), maps), divergence_of((2, 2), maps, base="e")
    assert (bits.unit, nats.unit) == ("bit", "nat")
    assert_allclose(nats.all_pairs, bits.all_pairs * math.log(2))
    assert_allclose(nats.mean, bits.mean * math.log(2))


def test_known_values_in_both_units() -> None:
    rows = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.5, 0.5, 0.0]])  # one for each head
    weights = rows[None, :, None, :].expand(1, 3, 3, 3)
    other = torch.tensor([0.0, 0.0, 1.0]).expand(1, 3, 3, 3)
    maps = [AttentionMap(i + 1, w, torch.tensor([3])) for i, w in enumerate((weights, other))]
    bits, nats = (divergence_of((3, 3), [maps], base=base).all_pairs for base in ("2", "e"))
    assert_allclose([bits[0, 1], bits[0, 2], bits[0, 3]], [0.5, 0.0, 1.0], atol=1e-7)
    assert_allclose([nats[0, 1], nats[0, 2], nats[0, 3]], [0.346574, 0.0, 0.693147], atol=1e-6)


def test_shuffled_heads_permute_all_pairs() -> None:
    maps = attention((4, 4), (12,))
    order = [2, 0, 3, 1]
    shuffled = [maps[0], AttentionMap(2, maps[1].weights[:, order], maps[1].lengths)]
    items = [0, 1, 2, 3, *(4 + i for i in order)]
    before = divergence_of((4, 4), [maps]).all_pairs
    after = divergence_of((4, 4), [shuffled]).all_pairs
    assert_array_equal(after, before[np.ix_(items, items)])
    assert not np.array_equal(after, before)


def test_a_temporary_file_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("auscult.analysis.spill.TILE_BYTES", 1)  # a tile is one block wide
    maps = [attention((3, 3), (70, 40))]
    in_memory, on_disk = (divergence_of((3, 3), maps, memory_limit=n) for n in (2**20, 0))
    assert_array_equal(on_disk.all_pairs, in_memory.all_pairs)


def test_full_temporary_folder_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: open("/dev/full", "r+b", buffering=0))
    with pytest.raises(UserError, match=r"temporary folder .* \(No space left.*set TMPDIR"):
        divergence_of((2, 2), [attention((2, 2), (5,))], memory_limit=0)


def test_mistakes_are_named() -> None:
    good = attention((2, 2), (5, 3))
    leaking = [AttentionMap(1, torch.full((1, 2, 5, 5), 0.2), torch.tensor([3]))]
    nothing = [AttentionMap(1, torch.zeros(1, 2, 5, 5), torch.tensor([0]))]
    broken = [AttentionMap(1, good[0].weights * torch.nan, good[0].lengths)]
    with pytest.raises(UserError, match=r"block 1 does not sum to one .* utterance u0\.0"):
        divergence_of((2, 2), [leaking])
    with pytest.raises(UserError, match=r"block 1 does not sum to one .* utterance u0\.0"):
        divergence_of((2, 2), [broken])
    with pytest.raises(UserError, match=r"u0\.0 is too short for one frame"):
        divergence_of((2, 2), [nothing])
    with pytest.raises(UserError, match=r"Unknown base '10'.*Known: 2, e"):
        Divergence((2, 2), base="10")
    with pytest.raises(UserError, match="no utterance"):
        Divergence((2, 2)).result()


@pytest.mark.parametrize("maps", [[], [0], [1, 0], [0, 0], [0, 1, 1]])
def test_missing_or_repeated_blocks_are_refused(maps: list[int]) -> None:
    good = attention((2, 2), (5,))
    with pytest.raises(ValueError, match="xpected"):
        with Divergence((2, 2)).batch(["u"]) as visit:
            for i in maps:
                visit(good[i])


class PeakedEncoder(Upstream):
    """Two blocks of random attention over 100-sample frames; counts the maps in flight."""

    def __init__(self, heads: tuple[int, ...] = (2, 2)) -> None:
        super().__init__()
        self.spec = UpstreamSpec(
            name="peaked",
            family="toy",
            num_layers=2,
            dim=1,
            heads=heads,
            geometry=FrameGeometry(100, 100),
        )

    def num_frames(self, lengths: Tensor) -> Tensor:
        return lengths // 100

    def forward(self, audio: Waveforms) -> HiddenStates:
        return self.visit_attention(audio, lambda _: None)

    def visit_attention(
        self, audio: Waveforms, visit: Callable[[AttentionMap], None]
    ) -> HiddenStates:
        frames = self.num_frames(audio.lengths)
        for one in attention(self.spec.heads, frames.tolist(), seed=int(audio.lengths.sum())):
            visit(one)
        layer = torch.zeros(len(frames), int(frames.max()), 1)
        return HiddenStates((layer,) * 3, frames)


def utterances(*lengths: int) -> list[tuple[str, Callable[[], Tensor]]]:
    return [(f"{n}-samples", partial(torch.zeros, n)) for n in lengths]


def test_measure_takes_utterances_one_by_one() -> None:
    found = measure(PeakedEncoder(), utterances(500, 1234))
    batches = [attention((2, 2), (5,), 500), attention((2, 2), (12,), 1234)]
    assert found.utterances == ("500-samples", "1234-samples")
    assert_allclose(found.all_pairs, by_scipy(batches), rtol=0, atol=KERNEL)


def test_measure_stops_at_a_short_utterance_or_counts_it() -> None:
    with pytest.raises(UserError, match="99-samples is too short"):
        measure(PeakedEncoder(), utterances(500, 99))
    found = measure(PeakedEncoder(), utterances(99, 500), skip_bad=True)
    assert found.utterances == ("500-samples",)
    assert len(found.skipped) == 1 and "99-samples" in found.skipped[0]
    with pytest.raises(UserError, match="no utterance"):
        measure(PeakedEncoder(), utterances(99), skip_bad=True)


LENGTHS = (500, 1234, 99, 700, 3000, 820)


class InterruptedEncoder(PeakedEncoder):
    """Ends as Ctrl-C ends it, in the middle of an utterance, after some were done."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def visit_attention(
        self, audio: Waveforms, visit: Callable[[AttentionMap], None]
    ) -> HiddenStates:
        def interrupted(one: AttentionMap) -> None:
            visit(one)
            if self.left == 0:
                raise KeyboardInterrupt

        states = super().visit_attention(audio, interrupted)
        self.left -= 1
        return states


@pytest.mark.parametrize("after", [1, 2, 4])
def test_an_interrupted_measurement_ends_with_the_same_bits(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auscult.analysis.divergence.SAVE_SECONDS", 0)
    file = tmp_path / "new" / "sums.npz"
    with pytest.raises(KeyboardInterrupt):
        measure(InterruptedEncoder(after), utterances(*LENGTHS), skip_bad=True, file=file)
    encoder = InterruptedEncoder(100)
    resumed = measure(encoder, utterances(*LENGTHS), skip_bad=True, file=file)
    assert encoder.left == 100 - (5 - after)  # nothing twice
    whole = measure(PeakedEncoder(), utterances(*LENGTHS), skip_bad=True)
    for field in fields(DivergenceMaps):
        assert_array_equal(getattr(resumed, field.name), getattr(whole, field.name), field.name)
    assert [path.name for path in file.parent.iterdir()] == ["sums.npz"]
    again = measure(InterruptedEncoder(0), utterances(*LENGTHS), skip_bad=True, file=file)
    assert_array_equal(again.all_pairs, whole.all_pairs)  # finished work is not done again
    with pytest.raises(UserError, match="99-samples is too short"):
        measure(PeakedEncoder(), utterances(*LENGTHS), file=file)


def test_sums_of_other_heads_are_refused(tmp_path: Path) -> None:
    measure(PeakedEncoder(), utterances(500), file=tmp_path / "sums.npz")
    with pytest.raises(ValueError, match=r"expected sums of shape \(5, 5\), got \(4, 4\)"):
        measure(PeakedEncoder((2, 3)), utterances(500), file=tmp_path / "sums.npz")


class Copies(TorchFunctionMode):
    """Counts what leaves the device; one copy waits for all the work before it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += function in (Tensor.to, Tensor.cpu)
        return function(*args, **(kwargs or {}))


def test_a_block_is_copied_at_once() -> None:
    with Copies() as copies:
        divergence_of((4, 4, 4), [attention((4, 4, 4), (9,))])
    assert copies.count == 3


def test_measure_refuses_an_encoder_without_attention() -> None:
    with pytest.raises(UserError, match="peaked .* attention in 0 blocks"):
        measure(PeakedEncoder(heads=()), utterances(500))


def test_random_hubert_is_nearly_uniform_and_the_same_twice() -> None:
    from auscult.upstreams import load_upstream

    samples = 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(0))
    encoder = load_upstream("random(hubert_tiny)")
    first, second = (measure(encoder, [("noise", lambda: samples)]) for _ in range(2))
    assert_array_equal(first.all_pairs, second.all_pairs)
    assert first.all_pairs.shape == (16, 16)
    # Fresh weights give scores near 0 and so rows near 1/n, where trained heads reach 0.9 bit.
    assert 0 < first.utterance_all_pairs[0] < 0.05
