"""A GPU that is not there: tensors that say they are on it, and refuse to meet those of the CPU.

What they hold is computed on the CPU. Mixed devices fail as on a GPU, and so does what wants a
tensor's memory without a copy to the CPU; numbers, speed and a GPU's own kernels are not shown.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

GPU = torch.device("cuda", 0)
_STAND_IN = torch.device("meta", 7)  # what torch's own code sees instead; nobody asks for a seventh
_CARD = SimpleNamespace(name="pretended GPU", total_memory=2**40, major=9, minor=0)
aten: Any = torch.ops.aten
_COPIES = (aten._to_copy.default, aten.copy_.default)
_INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
# Lengths are on the CPU always; so many arguments before them are not.
_WITH_LENGTHS = {
    "aten::_ctc_loss": 2,
    "aten::_ctc_loss_backward": 3,
    "aten::_use_cudnn_ctc_loss": 2,
    "aten::_pack_padded_sequence": 1,
    "aten::_pad_packed_sequence": 1,
}
_GIVE_LENGTHS = ("aten::_pack_padded_sequence", "aten::_pad_packed_sequence")
_ANSWERS = (aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default)


class OnGpu(Tensor):
    """A tensor that is on the pretended GPU; what it holds is on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnGpu":
        """Return a tensor without memory, of the shape of ``held``."""
        made: OnGpu = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=_STAND_IN,
            requires_grad=held.requires_grad,
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call ``func`` on what is held."""
        return _call(func, args, kwargs or {})

    def tolist(self) -> Any:
        """Copy to the CPU, as a GPU's tensor does by itself."""
        return self.held.tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.detach().__reduce_ex__(protocol)

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnGpu({self.held!r})"


def _call(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call one of torch's functions on what its tensors hold."""
    flat, shape = tree_flatten((args, dict(kwargs)))
    ours = [x for x in flat if isinstance(x, OnGpu)]
    name = func._schema.name
    if ours and func not in _COPIES:
        _refuse_mixture(name, args, [x for x in flat if isinstance(x, Tensor)])
    if any(x.device == _STAND_IN for x in flat if type(x) is Tensor):
        raise RuntimeError(f"{name} is given what torch made unseen; pretended_gpu must learn it")
    wanted = kwargs.get("device")
    if wanted is not None and torch.device(wanted).type == "meta" and wanted != _STAND_IN:
        return func(*args, **kwargs)  # shapes alone, as of a network that is only outlined
    on_gpu = bool(ours) if wanted is None else wanted in (_STAND_IN, GPU, torch.device("cuda"))
    if func is aten.copy_.default:
        on_gpu = isinstance(args[0], OnGpu)
    plain, options = tree_unflatten([x.held if isinstance(x, OnGpu) else x for x in flat], shape)
    if "device" in options:
        options = {**options, "device": torch.device("cpu")}
    options.pop("pin_memory", None)
    found = func(*plain, **options)
    if torch.Tag.inplace_view in func.tags and isinstance(args[0], OnGpu):
        with no_dispatch():  # the shape that torch sees must follow
            func(*args, **kwargs)
    if func in _ANSWERS:
        return found
    given = {id(x.held): x for x in ours}
    if name in _GIVE_LENGTHS:
        return _wrapped(found[0], given, on_gpu), found[1]
    return tree_map(lambda x: _wrapped(x, given, on_gpu), found)


def _wrapped(found: Any, given: Mapping[int, OnGpu], on_gpu: bool) -> Any:
    """Return a result as ours; what was changed in place is what came in."""
    if not isinstance(found, Tensor):
        return found
    if id(found) in given:
        return given[id(found)]
    return OnGpu(found) if on_gpu else found


def _refuse_mixture(name: str, args: Sequence[Any], tensors: Sequence[Tensor]) -> None:
    """Raise what torch raises where tensors of two devices meet.

    Single numbers of the CPU may meet those of a GPU, and its indices may too.
    """
    if name in _INDEXED:
        others = [] if isinstance(args[0], OnGpu) else list(args[:1])
    elif name in _WITH_LENGTHS:
        others = [x for x in args[: _WITH_LENGTHS[name]] if not isinstance(x, OnGpu)]
    else:
        others = [x for x in tensors if not isinstance(x, OnGpu) and x.ndim]
    if others:
        raise RuntimeError(
            f"{name}: Expected all tensors to be on the same device, but found at least two "
            f"devices, {GPU} and cpu: of {[tuple(x.shape) for x in others]}"
        )


class _Dispatch(TorchDispatchMode):
    """Sees what is made without a tensor that is ours among its arguments."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return _call(func, args, kwargs or {})


class _Names(TorchFunctionMode):
    """Gives torch's own code the stand-in's name wherever a GPU is named."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        options = {k: _renamed(v) if k == "device" else v for k, v in (kwargs or {}).items()}
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], OnGpu):
            args = (args[0], _index(args[1]), *args[2:])
        mean = options.get("reduction") == "mean"
        if func is functional.ctc_loss and mean and isinstance(args[0], OnGpu):
            each = func(*args, **(options | {"reduction": "none"}))
            # torch's own mean mixes devices, but only for subclasses of tensors
            return (each / args[3].clamp(min=1).to(_STAND_IN)).mean()
        if func in (torch.tensor, torch.as_tensor) and options.get("device") == _STAND_IN:
            del options["device"]
            return func(*args, **options).to(_STAND_IN)
        return func(*map(_renamed, args), **options)


def _index(given: Any) -> Any:
    """Return an index whose lists are tensors, which torch would make where we do not see it."""
    if isinstance(given, tuple):
        return tuple(map(_index, given))
    if isinstance(given, list):
        return torch.tensor(given) if given else torch.tensor(given, dtype=torch.long)
    return given


def _renamed(value: Any) -> Any:
    named = str(value) if isinstance(value, str | torch.device) else ""
    return _STAND_IN if named.split(":")[0] == "cuda" else value


def _without_gradients(mode: bool = True) -> Any:
    """Stand in for inference mode, in which no tensor can be wrapped."""
    return torch.no_grad() if mode else nullcontext()


def _limit(fraction: float, *_: Any) -> None:
    """Run out of memory at once: how much there would be is not known."""
    if fraction < 1:
        raise torch.OutOfMemoryError("CUDA out of memory.")


def _moved(apply: Any) -> Any:
    """Let weights stay the same objects when a module moves, as an optimiser expects it."""

    def swapping(module: nn.Module, *args: Any, **options: Any) -> Any:
        before = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            return apply(module, *args, **options)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(before)

    return swapping


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Let there be a GPU inside the block, for this thread."""
    cuda = torch.cuda
    answers: Mapping[str, Any] = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_name": "pretended GPU",
        "memory_allocated": 0,
        "memory_reserved": 0,
        "max_memory_allocated": 0,
        "get_device_capability": (9, 0),
        "is_bf16_supported": True,
        "is_current_stream_capturing": False,
    }
    nothing = ("_lazy_init", "set_device", "synchronize", "empty_cache", "manual_seed_all")
    nothing += ("manual_seed", "set_rng_state", "set_rng_state_all", "reset_peak_memory_stats")
    with ExitStack() as scope:
        for name, answer in answers.items():
            scope.enter_context(mock.patch.object(cuda, name, lambda *_, a=answer, **__: a))
        for name in nothing:
            scope.enter_context(mock.patch.object(cuda, name, lambda *_, **__: None))
        state = mock.patch.object(cuda, "get_rng_state", lambda *_: torch.get_rng_state())
        states = mock.patch.object(cuda, "get_rng_state_all", lambda: [torch.get_rng_state()])
        scope.enter_context(state)
        scope.enter_context(states)
        scope.enter_context(mock.patch.object(cuda, "get_device_properties", lambda *_: _CARD))
        scope.enter_context(mock.patch.object(cuda, "set_per_process_memory_fraction", _limit))
        # cuDNN has nothing to look at
        scope.enter_context(
            mock.patch.object(torch.backends.cudnn, "flags", lambda **_: nullcontext())
        )
        scope.enter_context(mock.patch.object(torch, "inference_mode", _without_gradients))
        scope.enter_context(mock.patch.object(nn.Module, "_apply", _moved(nn.Module._apply)))
        scope.enter_context(torch.autograd.set_multithreading_enabled(False))
        scope.enter_context(_Dispatch())
        scope.enter_context(_Names())
        yield
