"""Somebody's own ``nn.Module`` as an encoder: blocks are hooked, what is not said is measured.

``module(waves)`` takes (batch, time). Whether a row is the same alone and beside a longer one is
tried once; where it is not, rows are encoded in groups of equal length, so that no padding is ever
seen.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from auscult.attribute import attributes
from auscult.config import whole_number
from auscult.contracts import SAMPLE_RATE, AttentionMap, HiddenStates, UpstreamSpec, Waveforms
from auscult.errors import UserError
from auscult.frame import FrameGeometry
from auscult.upstream import AttentionVisitor, Upstream, fingerprint_weights

EXACT = 1e-5  # relative to the states: what a row may change beside a longer one
_LONGEST = 2 * SAMPLE_RATE  # samples in which a module must have given a frame
_TRIED = (4000, 7777)  # samples of the two rows that exactness is tried on


def wrap(
    module: nn.Module,
    *,
    sample_rate: int = SAMPLE_RATE,
    stride: int | None = None,
    blocks: str | Sequence[str] | None = None,
    attention: str | Sequence[str] | None = None,
    name: str | None = None,
) -> "Wrapped":
    """Return a module as an encoder that everything here takes.

    It is put into evaluation mode, and stays on the device that it is on.

    Args:
        module: Called with waveforms (batch, time), float32.
        sample_rate: That it reads, in Hz; audio is resampled to it.
        stride: Samples at ``sample_rate`` between frames; measured where None.
        blocks: Dotted path of a ``ModuleList``, or the paths of the blocks in order. The states
            are the first block's input and every block's output, (batch, frame, dim); where None,
            what the module returns is the one state.
        attention: Dotted path of a module below each block, or one path for each: an
            ``nn.MultiheadAttention``, or one that gives the weights (batch, head, frame, frame).
        name: What records call it; the class's name where None.

    Raises:
        UserError: No such block, no states of frames, or no regular frames; or an argument is of
            another type.
    """
    if not isinstance(module, nn.Module):
        raise UserError(f"wrap() takes a torch.nn.Module, an instance; got {_shown(module)}.")
    if sample_rate is None:
        raise UserError("sample_rate=None: expected the rate that the module reads, in Hz.")
    whole_number("sample_rate", sample_rate)
    whole_number("stride", stride)
    for key, given in (("blocks", blocks), ("attention", attention), ("name", name)):
        if given is not None:
            _expect_names(key, given)
    return Wrapped(module.eval(), sample_rate, stride, blocks, attention, name)


class Wrapped(Upstream):
    """An encoder around a module; see :func:`wrap`."""

    autocast = True

    def __init__(
        self,
        module: nn.Module,
        sample_rate: int,
        stride: int | None,
        blocks: str | Sequence[str] | None,
        attention: str | Sequence[str] | None,
        name: str | None,
    ) -> None:
        super().__init__()
        self.module = module
        before = attributes(module)
        self.rate = sample_rate
        label = name or type(module).__name__
        self._blocks = _paths(module, blocks, label)
        self._attention = _attention_paths(module, self._blocks, attention, label)
        with torch.no_grad():
            silence = self._silence(_LONGEST * sample_rate // SAMPLE_RATE)
            states = self._states(silence, label)
        _check_shapes(states, silence, label)
        geometry = _measured_geometry(partial(self._count, label), stride, sample_rate, label)
        used = attributes(module)  # what a pass leaves behind, as the last attention, is no part
        self._noted = {name for name, text in used.items() if before.get(name) != text}
        weights = sum(parameter.numel() for parameter in module.parameters())
        self.spec = UpstreamSpec(
            name=label,
            family="module",
            num_layers=len(states) - 1,
            dim=states[0].shape[-1],
            heads=self._heads(label),
            geometry=geometry,
            convention="block_input" if self._blocks else "output",
            num_parameters=weights,
            sha256=self.fingerprint(),
        )
        self._least = geometry.receptive_field
        self.try_batches()

    def fingerprint(self) -> str:
        """Return the sha256 of weights, of what is read off, and of plain attributes, as they are.

        Training in place changes it; whoever names this encoder in a study asks anew.
        """
        said = [type(self.module).__qualname__, str(self.rate), *self._blocks, "|"]
        kept = {name: x for name, x in attributes(self.module).items() if name not in self._noted}
        said += [*self._attention, *(f"{name}={text}" for name, text in kept.items())]
        return fingerprint_weights(_named(self.module), said)

    def num_frames(self, lengths: Tensor) -> Tensor:
        """Return the valid frames (batch,) of utterances of ``lengths`` (batch,) samples."""
        geometry = self.spec.geometry
        steps = (lengths - geometry.receptive_field).div(geometry.stride, rounding_mode="floor")
        return (steps + 1).clamp(min=0)

    def groups(self, lengths: Tensor) -> list[list[int]]:
        """Return all rows where none changes another, else those of each length, or each alone."""
        if self.exact:
            return super().groups(lengths)
        if not self.together:
            return [[row] for row in range(len(lengths))]
        found: dict[int, list[int]] = {}
        for row, length in enumerate(lengths.tolist()):
            found.setdefault(length, []).append(row)
        return list(found.values())

    def forward(self, audio: Waveforms) -> HiddenStates:
        """Encode ``audio`` into ``num_layers + 1`` states, each (batch, frame, dim)."""
        frames = self.check_audio(audio)
        rows: list[tuple[Tensor, ...]] = [()] * len(frames)
        for indices in self.groups(audio.lengths):
            waves = audio.take(indices)
            states = self._states(self._resampled(waves.samples), self.spec.name)
            for i, index in enumerate(indices):
                rows[index] = tuple(state[i, : int(frames[index])] for state in states)
        layers = zip(*rows, strict=True)
        return HiddenStates(tuple(pad_sequence(list(x), batch_first=True) for x in layers), frames)

    def visit_attention(self, audio: Waveforms, visit: AttentionVisitor) -> HiddenStates:
        """Encode ``audio`` and hand each block's map to ``visit``, first block first.

        Raises:
            UserError: No attention was named.
        """
        if not self._attention:
            return super().visit_attention(audio, visit)
        frames = self.check_audio(audio)
        maps: list[list[Tensor]] = [[] for _ in self._attention]
        for row in range(len(frames)):
            waves = audio.take([row]).samples[:, : int(audio.lengths[row])]
            for block, weights in enumerate(self._maps(self._resampled(waves))):
                maps[block].append(weights[0])
        longest = int(frames.max())
        for block, found in enumerate(maps, start=1):
            padded = [
                nn.functional.pad(w, (0, longest - w.shape[-1], 0, longest - w.shape[-2]))
                for w in found
            ]
            visit(AttentionMap(block, torch.stack(padded), frames))
        return self.forward(audio)

    def _silence(self, samples: int) -> Tensor:
        """Return zeros (1, samples) where the module is."""
        first = next(self.module.parameters(), None)
        return torch.zeros(1, samples, device=None if first is None else first.device)

    def _resampled(self, samples: Tensor) -> Tensor:
        if self.rate == SAMPLE_RATE:
            return samples
        from torchaudio.functional import resample

        found: Tensor = resample(samples, SAMPLE_RATE, self.rate)
        return found

    def _states(self, waves: Tensor, label: str) -> list[Tensor]:
        """Return the states of waveforms (batch, time) at the module's own rate."""
        with _recorded(self.module, self._blocks) as states:
            output = self.module(waves)
        found = states if self._blocks else [_tensor(output)]
        if len(found) != max(len(self._blocks) + 1, 1) or any(x.ndim != 3 for x in found):
            shapes = ", ".join(str(tuple(state.shape)) for state in found) or "none"
            of = f"of {len(self._blocks)} blocks, each of which runs once" * bool(self._blocks)
            raise UserError(
                f"{label}: expected states (batch, frame, dim) {of or 'as output'}, got {shapes} "
                f"for waveforms {tuple(waves.shape)}; blocks= names what states are taken from."
            )
        return found

    @torch.no_grad()
    def _count(self, label: str, samples: int) -> int:
        """Return the frames of so many samples at the module's rate; 0 where it refuses them."""
        try:
            return int(self._states(self._silence(samples), label)[0].shape[1])
        except UserError:
            raise
        except Exception:  # somebody's module says in its own way that audio is too short
            return 0

    @torch.no_grad()
    def _heads(self, label: str) -> tuple[int, ...]:
        if not self._attention:
            return ()
        maps = list(self._maps(self._silence(_LONGEST * self.rate // SAMPLE_RATE)))
        if len(maps) != len(self._attention):
            raise UserError(
                f"{label}: {len(maps)} of {len(self._attention)} attention modules gave weights "
                "(batch, head, frame, frame); let them return their weights, as "
                "nn.MultiheadAttention does with need_weights=True, average_attn_weights=False."
            )
        return tuple(weights.shape[1] for weights in maps)

    def _maps(self, waves: Tensor) -> Iterator[Tensor]:
        found: dict[str, Tensor] = {}

        def keep(path: str, module: nn.Module, args: Any, output: Any) -> None:
            parts = output if isinstance(output, tuple | list) else [output]
            for part in parts:
                if isinstance(part, Tensor) and part.ndim == 4 and part.shape[2] == part.shape[3]:
                    found[path] = part

        with ExitStack() as scope:
            for path in self._attention:
                module = self.module.get_submodule(path)
                scope.callback(module.register_forward_hook(partial(keep, path)).remove)
                if isinstance(module, nn.MultiheadAttention):  # torch's own layers ask for none
                    hook = module.register_forward_pre_hook(_with_weights, with_kwargs=True)
                    scope.callback(hook.remove)
            self.module(waves)
        return (found[path] for path in self._attention if path in found)

    @torch.no_grad()
    def try_batches(self) -> None:
        """Try what the rows of a batch do to each other: of other lengths, of the same length."""
        short, long = (max(x, self._least + self.spec.geometry.stride) for x in _TRIED)
        generator = torch.Generator().manual_seed(0)
        where = self._silence(0).device
        rows = [
            (torch.randn(x, generator=generator) * level).to(where)
            for x, level in ((short, 0.1), (long, 0.1), (short, 0.5))
        ]
        self.exact = self._keeps(rows[:2])
        self.together = self.exact or self._keeps([rows[0], rows[2]])

    def _keeps(self, rows: Sequence[Tensor]) -> bool:
        """Say whether the first row is the same alone and in a batch of all; an error says no."""
        frames = int(self.num_frames(torch.tensor([len(rows[0])]))[0])
        alone = self._states(self._resampled(rows[0][None]), self.spec.name)
        batch = self._resampled(pad_sequence(list(rows), batch_first=True))
        try:
            beside = self._states(batch, self.spec.name)
        except Exception:  # somebody's module may take one row only
            return False
        return all(
            bool((a[0, :frames] - b[0, :frames]).abs().max() <= EXACT * a.abs().max().clamp(min=1))
            for a, b in zip(alone, beside, strict=True)
        )


def _check_shapes(states: Sequence[Tensor], waves: Tensor, label: str) -> None:
    """Raise unless states of one row are (1, frame, dim), all alike."""
    shapes = list(dict.fromkeys(tuple(state.shape) for state in states))
    if shapes[0][0] != len(waves):
        raise UserError(
            f"{label}: waveforms {tuple(waves.shape)} give states {shapes[0]}; expected (batch, "
            "frame, dim), the batch first."
        )
    if len(shapes) > 1:
        raise UserError(
            f"{label}: states have the shapes {', '.join(map(str, shapes))}; expected as many "
            "frames and dimensions in each; leave out blocks that change them."
        )


def _expect_names(key: str, value: object) -> None:
    """Refuse what is neither a text nor several.

    Raises:
        UserError: It is something else, such as the modules themselves.
    """
    parts: list[object] = [value]
    if isinstance(value, Iterable) and not isinstance(value, str | nn.Module):
        parts = list(value)
    wrong = [part for part in parts if not isinstance(part, str)]
    if wrong:
        what = "a text" if key == "name" else 'a dotted path such as "encoder.layers", or several'
        raise UserError(f"wrap(): {key}= takes {what}; got {_shown(wrong[0])}.")


def _shown(value: object) -> str:
    text = f"the class {value.__name__}" if isinstance(value, type) else repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _paths(module: nn.Module, blocks: str | Sequence[str] | None, label: str) -> list[str]:
    """Return the path of each block."""
    if blocks is None:
        return []
    paths = [blocks] if isinstance(blocks, str) else list(blocks)
    for path in paths:
        _submodule(module, path, label)
    if isinstance(blocks, str):
        found = module.get_submodule(blocks)
        if isinstance(found, nn.ModuleList | nn.Sequential):
            paths = [f"{blocks}.{i}" for i in range(len(found))]
    if not paths:
        raise UserError(f"{label}: blocks={blocks!r} holds no block.")
    return paths


def _attention_paths(
    module: nn.Module, blocks: Sequence[str], attention: str | Sequence[str] | None, label: str
) -> list[str]:
    if attention is None:
        return []
    below = [f"{block}.{attention}" for block in blocks] if isinstance(attention, str) else []
    paths = below or [attention] if isinstance(attention, str) else list(attention)
    for path in paths:
        _submodule(module, path, label)
    if len(paths) != len(blocks):
        raise UserError(
            f"{label}: {len(paths)} attention modules for {len(blocks)} blocks; name one each."
        )
    return paths


def _with_weights(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Let torch's own attention return its weights, each head's."""
    return args, {**kwargs, "need_weights": True, "average_attn_weights": False}


def _submodule(module: nn.Module, path: str, label: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        there = ", ".join(name for name, _ in module.named_children()) or "none"
        raise UserError(
            f"{label} has no module {path!r}; its own are {there}, and dots lead further down."
        ) from error


@contextmanager
def _recorded(module: nn.Module, blocks: Sequence[str]) -> Iterator[list[Tensor]]:
    """Collect the input of the first block and the output of every block."""
    states: list[Tensor] = []

    def keep_input(block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        states.append(_tensor([*args, *kwargs.values()]))

    def keep_output(block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        states.append(_tensor(output))

    with ExitStack() as scope:
        for i, path in enumerate(blocks):
            block = module.get_submodule(path)
            if i == 0:
                hook = block.register_forward_pre_hook(keep_input, with_kwargs=True)
                scope.callback(hook.remove)
            scope.callback(block.register_forward_hook(keep_output).remove)
        yield states


def _tensor(output: Any) -> Tensor:
    """Return the first tensor of what a module takes or returns."""
    if isinstance(output, Tensor):
        return output
    parts = output.values() if isinstance(output, Mapping) else output
    found = next((part for part in parts if isinstance(part, Tensor)), None)
    if found is None:
        raise UserError(f"Expected a tensor among {type(output).__name__}, and there is none.")
    return found


def _named(module: nn.Module) -> dict[str, Tensor]:
    return {name: x for name, x in module.state_dict().items() if isinstance(x, Tensor)}


def _measured_geometry(
    count: Callable[[int], int], stride: int | None, rate: int, label: str
) -> FrameGeometry:
    """Measure stride and receptive field of a module's frames; return them at 16 kHz.

    Raises:
        UserError: Frames do not come at a regular stride.
    """
    longest = _LONGEST * rate // SAMPLE_RATE
    if count(longest) < 2:
        raise UserError(f"{label} gives fewer than two frames for 2 s of audio.")
    least = _first(lambda samples: count(samples) >= 1, longest)
    if count(longest) == count(longest // 2):
        raise UserError(
            f"{label} gives {count(longest)} frames for 2 s of audio and for 1 s; expected states "
            "(batch, frame, dim), with more frames for more audio."
        )
    if count(least) > 1:
        raise UserError(
            f"{label} gives {count(least)} frames for the shortest audio that it takes, {least} "
            "samples; let it take shorter audio, down to one frame."
        )
    step = stride or _first(lambda samples: count(samples) >= 2, longest) - least
    for samples in (least + 7 * step - 1, least + 7 * step, least + 20 * step + step // 2):
        wanted = (samples - least) // step + 1
        if samples <= longest and count(samples) != wanted:
            raise UserError(
                f"{label}: {count(samples)} frames for {samples} samples, where a stride of "
                f"{step} after the first {least} gives {wanted}; its frames are not regular."
            )
    at_16k = [x * SAMPLE_RATE / rate for x in (step, least)]
    if at_16k[0] != int(at_16k[0]):
        raise UserError(
            f"{label}: a stride of {step} samples at {rate} Hz is {at_16k[0]:.2f} at 16 kHz, "
            "which is not whole; choose a rate that 16 kHz is a multiple of."
        )
    return FrameGeometry(int(at_16k[0]), math.ceil(at_16k[1]))


def _first(holds: Callable[[int], bool], longest: int) -> int:
    """Return the least number of samples for which ``holds``, by halving."""
    low, high = 0, longest
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
