"""The contract of an encoder, executed: what `auscult check` runs and the test suite asserts.

Each check takes an encoder and raises `Broken` with a sentence where the contract is broken.
It returns None where the contract holds, or a sentence where there is nothing to hold it to.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from auscult.contracts import AttentionMap, HiddenStates, Waveforms
from auscult.errors import UserError
from auscult.foreign import blame
from auscult.upstream import Upstream

TOLERANCE = 1e-5  # float32, on values of unit size
Check = Callable[[Upstream], str | None]


class Broken(AssertionError):
    """The contract is broken; the sentence says where."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    promise: str  # what the check holds the encoder to
    passed: bool
    why: str = ""  # why it failed, or why it does not apply


def upstream_checks() -> Iterator[Check]:
    """Yield every check, cheapest first; where the first fails there is nothing to try."""
    yield check_encoding
    yield check_spec
    yield check_frame_arithmetic
    yield check_short_audio
    yield check_determinism
    yield check_row_independence
    yield check_inputs_untouched
    yield check_state_untouched
    yield check_attention
    yield check_attention_scope
    yield check_gradients


def run_checks(upstream: Upstream) -> Iterator[Finding]:
    """Run every check and yield what it found; an error inside the encoder is a failed check.

    Where it cannot encode at all, that alone is said.
    """
    for check in upstream_checks():
        finding = _found(check, upstream)
        yield finding
        if check is check_encoding and not finding.passed:
            return


def _found(check: Check, upstream: Upstream) -> Finding:
    name = check.__name__.removeprefix("check_")
    promise = (check.__doc__ or "").strip().splitlines()[0]
    try:
        return Finding(name, promise, True, check(upstream) or "")
    except Broken as error:
        return Finding(name, promise, False, str(error))
    except Exception as error:  # a stranger's encoder may raise anything
        return Finding(name, promise, False, blame(error) or f"{type(error).__name__}: {error}")


def noise(upstream: Upstream, lengths: list[int], seed: int = 0) -> Waveforms:
    """Return seeded noise of ``lengths`` samples, each row with an offset and level of its own."""
    generator = torch.Generator().manual_seed(seed)
    rows = [
        0.1 * (i + 1) * torch.randn(length, generator=generator) + 0.02 * i
        for i, length in enumerate(lengths)
    ]
    return Waveforms.of(rows, upstream.spec.sample_rate).to(upstream.device)


def ragged_lengths(upstream: Upstream) -> list[int]:
    """Return lengths of 0.2 to 0.4 s: equal ones, and some just before and at a frame's end."""
    geometry = upstream.spec.geometry
    edge = upstream.least_samples() + 10 * geometry.stride
    return [6400, edge, 5123, edge - 1, 6400, edge + 1]


def check_encoding(upstream: Upstream) -> str | None:
    """Utterances become hidden states (batch, frame, dim) in float32, all of one shape, finite."""
    audio = noise(upstream, ragged_lengths(upstream))
    frames, states = upstream.num_frames(audio.lengths), _encode(upstream, audio)
    _expect(
        frames.shape == audio.lengths.shape and not frames.is_floating_point(),
        f"num_frames gives {frames.dtype} of shape {tuple(frames.shape)} for {len(audio.lengths)} "
        "lengths; expected one whole number each, as // gives.",
    )
    _expect(
        isinstance(states, HiddenStates),
        f"forward returns a {type(states).__name__}; expected auscult.contracts.HiddenStates.",
    )
    for index, layer in enumerate(states.layers):
        wanted = f"hidden state {index} is {layer.dtype}; expected torch.float32."
        _expect(layer.dtype == torch.float32, wanted)
        for row, valid in _rows(layer, states.lengths):
            _expect(
                valid.isfinite().all(), f"hidden state {index} of utterance {row} is not finite."
            )
    return None


def check_spec(upstream: Upstream) -> str | None:
    """Layers, width and parameters are those that the spec names."""
    audio, spec = noise(upstream, ragged_lengths(upstream)), upstream.spec
    states = _encode(upstream, audio)
    _expect(
        len(states.layers) == spec.num_layers + 1,
        f"expected {spec.num_layers + 1} hidden states for {spec.num_layers} blocks, "
        f"got {len(states.layers)}.",
    )
    for index, layer in enumerate(states.layers):
        _expect(
            layer.shape[-1] == spec.dim,
            f"hidden state {index} is {layer.shape[-1]} wide, the spec says {spec.dim}.",
        )
    counted = sum(parameter.numel() for parameter in upstream.parameters())
    _expect(
        counted == spec.num_parameters,
        f"the encoder has {counted} parameters, the spec says {spec.num_parameters}.",
    )
    _expect(bool(spec.sha256), "the spec has no fingerprint (sha256) of weights and configuration.")
    return None


def check_frame_arithmetic(upstream: Upstream) -> str | None:
    """As many frames come out as num_frames says, and their centres lie in the audio."""
    geometry = upstream.spec.geometry
    least = upstream.least_samples()
    around = [least, least + 1, least + geometry.stride - 1, least + geometry.stride]
    for length in [*around, least + 7 * geometry.stride - 1, 3200, 5123]:
        says = int(upstream.num_frames(torch.tensor([length]))[0])
        states = _encode(upstream, noise(upstream, [length]))
        gives, lengths = states.layers[0].shape[1], states.lengths.tolist()
        _expect(
            gives == says and lengths == [says],
            f"for {length} samples num_frames says {says}, the states have {gives} frames of "
            f"which {lengths[0]} are called valid.",
        )
        centres = geometry.centres(says)
        # a centred transform of a multiple of its hop ends with a frame around the audio's end
        _expect(
            bool(centres[0] >= 0 and centres[-1] <= length),
            f"the geometry puts frame centres at {centres[0]} ... {centres[-1]} in an utterance of "
            f"{length} samples.",
        )
        missed = length - 1 - (centres[-1] + geometry.stride)
        _expect(
            bool(missed < geometry.receptive_field / 2 + geometry.stride),
            f"of {length} samples the last {missed:.0f} lie behind the last frame.",
        )
    return None


def check_short_audio(upstream: Upstream) -> str | None:
    """An utterance too short for a frame has none, and encoding it is refused by a sentence."""
    least = upstream.least_samples()
    if least <= 1:
        return "every utterance has a frame"
    frames = upstream.num_frames(torch.tensor([0, 1, least - 1])).tolist()
    _expect(frames == [0, 0, 0], f"fewer than {least} samples give {frames} frames, not none.")
    try:
        _encode(upstream, noise(upstream, [8000, least - 1]))
    except UserError:
        return None
    except Exception as error:
        raise Broken(
            f"{least - 1} samples raise {type(error).__name__} ({error}), not UserError."
        ) from error
    raise Broken(f"{least - 1} samples are encoded, though num_frames says 0.")


def check_determinism(upstream: Upstream) -> str | None:
    """The same audio gives the same states, bit for bit."""
    audio = noise(upstream, ragged_lengths(upstream))
    first, second = _encode(upstream, audio), _encode(upstream, audio)
    for index, (one, other) in enumerate(zip(first.layers, second.layers, strict=True)):
        for row, (a, b) in _pairs(one, other, first.lengths):
            _expect(
                torch.equal(a, b),
                f"hidden state {index} of utterance {row} differs between two runs by "
                f"{_distance(a, b):.1e}.",
            )
    return None


def check_row_independence(upstream: Upstream) -> str | None:
    """An utterance has the same states alone and among shorter and longer ones."""
    lengths = ragged_lengths(upstream)
    audio = noise(upstream, lengths)
    together = _encode(upstream, audio)
    for row, samples in enumerate(audio.rows()):
        alone = _encode(upstream, Waveforms.of([samples], audio.sample_rate))
        frames, among = int(alone.lengths[0]), int(together.lengths[row])
        _expect(
            frames == among, f"utterance {row} has {frames} frames alone and {among} in a batch."
        )
        for index, (a, b) in enumerate(zip(alone.layers, together.layers, strict=True)):
            _expect_close(
                b[row, :frames],
                a[0, :frames],
                f"hidden state {index} of utterance {row} ({lengths[row]} samples), in a batch "
                f"padded to {max(lengths)} instead of alone",
            )
    return None


def check_inputs_untouched(upstream: Upstream) -> str | None:
    """Encoding changes neither the samples nor the lengths it was given."""
    audio = noise(upstream, ragged_lengths(upstream))
    samples, lengths = audio.samples.clone(), audio.lengths.clone()
    _encode(upstream, audio)
    _expect(torch.equal(audio.samples, samples), "forward changes the samples it is given.")
    _expect(torch.equal(audio.lengths, lengths), "forward changes the lengths it is given.")
    return None


def check_state_untouched(upstream: Upstream) -> str | None:
    """Encoding leaves weights, hooks, modes and the global random generators as they were."""
    audio = noise(upstream, ragged_lengths(upstream))
    with _watched(upstream, "forward"):
        _encode(upstream, audio)
    return None


def check_attention(upstream: Upstream) -> str | None:
    """Each block's map comes once, in order; valid rows of each head sum to one over valid keys."""
    spec = upstream.spec
    audio = noise(upstream, ragged_lengths(upstream))
    if not spec.heads:
        return _refuses_attention(upstream, audio)
    maps: list[AttentionMap] = []
    try:
        states = _visit(upstream, audio, maps.append)
    except UserError as error:
        raise Broken(
            f"the spec names heads, and visit_attention refuses ({error}); define visit_attention, "
            "or name no heads."
        ) from error
    blocks = [found.block for found in maps]
    _expect(
        blocks == list(range(1, spec.num_layers + 1)),
        f"expected maps of blocks 1 to {spec.num_layers} in order, got {blocks}.",
    )
    for found in maps:
        _check_map(found, spec.heads[found.block - 1], states.lengths)
    for index, (a, b) in enumerate(
        zip(states.layers, _encode(upstream, audio).layers, strict=True)
    ):
        for row, (visited, forward) in _pairs(a, b, states.lengths):
            what = f"hidden state {index} of utterance {row}, by visit_attention instead of forward"
            _expect_close(visited, forward, what)
    _check_maps_alone(upstream, audio, maps, states.lengths)
    return None


def check_attention_scope(upstream: Upstream) -> str | None:
    """Visiting attention leaves no trace, even where the visitor raises."""
    if not upstream.spec.heads:
        return "no attention"
    if type(upstream).visit_attention is Upstream.visit_attention:
        raise Broken("the spec names heads, and visit_attention is not defined.")
    audio = noise(upstream, ragged_lengths(upstream))

    class _VisitorError(Exception):
        pass

    def fail(found: AttentionMap) -> None:
        raise _VisitorError

    before = _encode(upstream, audio)
    with _watched(upstream, "visit_attention with a visitor that raises"):
        try:
            _visit(upstream, audio, fail)
        except _VisitorError:
            pass
        else:
            raise Broken("visit_attention swallows what its visitor raises.")
    with _watched(upstream, "visit_attention"):
        _visit(upstream, audio, lambda found: None)
    after = _encode(upstream, audio)
    for index, (a, b) in enumerate(zip(before.layers, after.layers, strict=True)):
        for row, (one, other) in _pairs(a, b, before.lengths):
            what = f"hidden state {index} of utterance {row}, after visit_attention"
            _expect(torch.equal(one, other), f"{what}, differs by {_distance(one, other):.1e}.")
    return None


def check_gradients(upstream: Upstream) -> str | None:
    """A loss on all states gives finite gradients, not all of them zero."""
    weights = [parameter for parameter in upstream.parameters() if parameter.requires_grad]
    if not weights:
        return "no trainable weights"
    audio = noise(upstream, [3200, 5123])
    with torch.enable_grad():
        states = upstream(audio)
        rows = [valid for layer in states.layers for _, valid in _rows(layer, states.lengths)]
        loss = torch.stack([(valid * valid.detach().cos()).sum() for valid in rows]).sum()
        _expect(loss.requires_grad, "the states do not depend on the weights: no gradient flows.")
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    found = [gradient for gradient in gradients if gradient is not None]
    finite = all(bool(torch.isfinite(gradient).all()) for gradient in found)
    _expect(finite, "some gradients are not finite.")
    _expect(any(bool(g.any()) for g in found), "all gradients are zero.")
    return None


def _encode(upstream: Upstream, audio: Waveforms) -> HiddenStates:
    with torch.no_grad():
        states: HiddenStates = upstream(audio)
    return states


def _visit(
    upstream: Upstream, audio: Waveforms, visit: Callable[[AttentionMap], None]
) -> HiddenStates:
    with torch.no_grad():
        return upstream.visit_attention(audio, visit)


def _refuses_attention(upstream: Upstream, audio: Waveforms) -> str:
    try:
        _visit(upstream, audio, lambda found: None)
    except UserError:
        return "no attention"
    raise Broken("the spec names no heads, but visit_attention does not refuse.")


def _check_map(found: AttentionMap, heads: int, lengths: Tensor) -> None:
    where = f"the map of block {found.block}"
    _expect(
        found.weights.shape[1] == heads,
        f"{where} has {found.weights.shape[1]} heads, the spec says {heads}.",
    )
    _expect(
        found.lengths.tolist() == lengths.tolist(), f"{where} has other lengths than the states."
    )
    _expect(bool(torch.isfinite(found.weights).all()), f"{where} is not finite.")
    _expect(bool((found.weights >= 0).all()), f"{where} has negative weights.")
    for row, frames in enumerate(lengths.tolist()):
        valid = found.weights[row, :, :frames]
        off = float((valid[..., :frames].sum(-1) - 1).abs().max())
        _expect(off <= TOLERANCE, f"{where}, utterance {row}: rows sum to one only to {off:.1e}.")
        _expect(
            not bool(valid[..., frames:].any()),
            f"{where}, utterance {row}: padded keys have weight.",
        )


def _check_maps_alone(
    upstream: Upstream, audio: Waveforms, together: list[AttentionMap], lengths: Tensor
) -> None:
    row = int(lengths.argmin())
    frames = int(lengths[row])
    alone: list[AttentionMap] = []
    _visit(upstream, Waveforms.of([audio.rows()[row]], audio.sample_rate), alone.append)
    for a, b in zip(alone, together, strict=True):
        _expect_close(
            b.weights[row, :, :frames, :frames],
            a.weights[0],
            f"the map of block {a.block} of utterance {row}, in a batch instead of alone",
        )


@contextmanager
def _watched(upstream: Upstream, what: str) -> Iterator[None]:
    """Assert that the block leaves the encoder and the process as they were."""
    before = _state(upstream)
    yield
    for name, (then, now) in _zip_states(before, _state(upstream)):
        _expect(_same(then, now), f"{what} changes {name}.")


def _state(upstream: Upstream) -> dict[str, Any]:
    modules = list(upstream.named_modules())
    tensors = {name: tensor.detach().clone() for name, tensor in upstream.state_dict().items()}
    return {
        **{f"the weight {name}": tensor for name, tensor in tensors.items()},
        "the number of hooks": {name: _count_hooks(module) for name, module in modules},
        "the training mode": {name: module.training for name, module in modules},
        "which weights are trainable": [p.requires_grad for p in upstream.parameters()],
        "torch's global random state": torch.get_rng_state(),
        "numpy's global random state": str(np.random.get_state()),
        "Python's global random state": random.getstate(),
        "the gradient mode": torch.is_grad_enabled(),
        "the spec": upstream.spec,
    }


def _zip_states(
    before: dict[str, Any], after: dict[str, Any]
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    for name in dict.fromkeys([*before, *after]):
        yield name, (before.get(name), after.get(name))


def _same(then: Any, now: Any) -> bool:
    if isinstance(then, Tensor) and isinstance(now, Tensor):
        return torch.equal(then, now)
    return bool(then == now)


def _count_hooks(module: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for kind in kinds)


def _rows(layer: Tensor, lengths: Tensor) -> Iterator[tuple[int, Tensor]]:
    for row, frames in enumerate(lengths.tolist()):
        yield row, layer[row, :frames]


def _pairs(
    one: Tensor, other: Tensor, lengths: Tensor
) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
    for row, frames in enumerate(lengths.tolist()):
        yield row, (one[row, :frames], other[row, :frames])


def _distance(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max()) if found.numel() else 0.0


def _expect_close(found: Tensor, wanted: Tensor, what: str) -> None:
    """Assert equality to 1e-5 of the size of the values, at least 1e-5."""
    size = max(1.0, float(wanted.square().mean().sqrt()))
    close = torch.allclose(found, wanted, rtol=TOLERANCE, atol=TOLERANCE * size)
    _expect(
        close, f"{what}, differs by {_distance(found, wanted):.1e} (values of size {size:.1f})."
    )


def _expect(holds: bool | Tensor, otherwise: str) -> None:
    if not holds:
        raise Broken(otherwise)
