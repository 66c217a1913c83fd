"""Scoped hooks on encoders that we do not own: what is read off them, and what padding must not do.

Every function is a context manager whose hooks are gone on exit, also after an exception.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from auscult.frame import conv_lengths


@contextmanager
def recorded_states(encoder: Any) -> Iterator[list[Tensor]]:
    """Collect the input of the first block and the output of every block, (batch, frame, dim).

    The last one is the output of the whole encoder: it differs from the last block's where a final
    layer norm follows, and it is what fairseq, s3prl and SUPERB call the last layer.
    """
    states: list[Tensor] = []

    def keep_input(module: nn.Module, args: tuple[Any, ...]) -> None:
        states.append(args[0])

    def keep_output(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    def keep_last(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        states[-1] = output[0]

    with ExitStack() as scope:
        scope.callback(encoder.layers[0].register_forward_pre_hook(keep_input).remove)
        for block in encoder.layers:
            scope.callback(block.register_forward_hook(keep_output).remove)
        scope.callback(encoder.register_forward_hook(keep_last).remove)
        scope.callback(_forget_positions, encoder)
        yield states


@contextmanager
def exact_padding(
    model: Any, lengths: Tensor, frames: Tensor, *, kernels: Sequence[int], strides: Sequence[int]
) -> Iterator[None]:
    """Keep padding out of every layer that looks along time, attention aside.

    An attention mask alone does not: group norm takes its statistics over padded frames, and a
    convolution that pads its own input with zeros sees whatever stands in the padded frames.

    Args:
        model: A transformers speech encoder.
        lengths: (batch,) valid samples.
        frames: (batch,) valid frames.
        kernels: Kernel sizes of the convolutional extractor, empty without one.
        strides: Its strides.
    """
    with ExitStack() as scope:
        if model.config.model_type == "wavlm":
            scope.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask")
        for depth in range(len(kernels)):
            norm = getattr(model.feature_extractor.conv_layers[depth], "layer_norm", None)
            if isinstance(norm, nn.GroupNorm):
                valid = conv_lengths(lengths, kernels[: depth + 1], strides[: depth + 1])
                scope.callback(norm.register_forward_hook(_normalize_alone(valid)).remove)
        for module in model.encoder.modules():
            if isinstance(module, nn.Conv1d) and module.padding != (0,):
                scope.callback(module.register_forward_pre_hook(_zero_padding(frames)).remove)
        yield


def single_precision() -> AbstractContextManager[None]:
    """Keep cuDNN from rounding convolutions to TF32 and from choosing among algorithms by chance.

    It may do both by default. TF32 keeps ten bits after the point, so that a row's third digit
    could change with the shape of its batch.
    """
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, deterministic=True, allow_tf32=False
    )
    return flags


@contextmanager
def visited_attention(model: Any, visit: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Compute attention eagerly and hand each block's weights to ``visit`` as it is computed.

    Args:
        model: A transformers speech encoder.
        visit: Called with the block, 1 for the first, and its weights (batch, head, frame, frame).
    """

    def hook(block: int) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hand_over(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            weights = output[1]
            visit(block, weights[:, 0] if weights.ndim == 5 else weights)

        return hand_over

    before = model.config._attn_implementation
    with ExitStack() as scope:
        if before != "eager":
            model.set_attn_implementation("eager")
            scope.callback(model.set_attn_implementation, before)
        if model.config.model_type == "wavlm":
            scope.enter_context(_HeadsApart())
        for block, layer in enumerate(model.encoder.layers, start=1):
            attention = layer.attention if hasattr(layer, "attention") else layer.self_attn
            scope.callback(attention.register_forward_hook(hook(block)).remove)
        yield


def _normalize_alone(
    lengths: Tensor,
) -> Callable[[nn.GroupNorm, tuple[Tensor, ...], Tensor], Tensor]:
    """Return a hook that normalises each row's valid steps by themselves and zeroes the rest."""

    def hook(norm: nn.GroupNorm, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        rows = []  # each (1, dim, frame); cut apart at once, so that gradients are not padded each
        for row, valid in zip(args[0].split(1), lengths.tolist(), strict=True):
            alone = nn.functional.group_norm(
                row[:, :, :valid], norm.num_groups, norm.weight, norm.bias, norm.eps
            )
            rows.append(nn.functional.pad(alone, (0, row.shape[-1] - valid)))
        return torch.cat(rows)

    return hook


def _zero_padding(
    lengths: Tensor,
) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """Return a hook that zeroes a layer's input (batch, dim, frame) after each row's length."""

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        steps = torch.arange(args[0].shape[-1], device=args[0].device)
        padded = steps >= lengths.to(args[0].device)[:, None, None]
        return (args[0].masked_fill(padded, 0.0), *args[1:])

    return hook


def _forget_positions(encoder: Any) -> None:
    """Drop cached rotary positions: made in inference mode, they would break the next backward."""
    positions = getattr(encoder, "embed_positions", None)
    if positions is not None and hasattr(positions, "cached_sequence_length"):
        positions.cached_sequence_length = None


class _HeadsApart(TorchFunctionMode):
    """Asks torch's fused attention for a map of each head instead of their mean.

    transformers' WavLM takes the mean and repeats it once for each head; inside this mode it
    repeats the maps themselves, (batch, copy, head, frame, frame).
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is nn.functional.multi_head_attention_forward:
            kwargs["average_attn_weights"] = False
        return func(*args, **kwargs)
