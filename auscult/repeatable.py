"""Training that gives the same bits each time, also on a GPU."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch

_WARN = 1  # as torch numbers it: where an operation has no fixed order, go on


@contextmanager
def repeatable(device: str | torch.device) -> Iterator[None]:
    """Let a GPU add up in a fixed order, and in float32 where nothing else is asked for.

    By default it adds gradients up as they come, and convolutions and LSTMs round to TF32. What has
    no fixed order at all, as the gradient of CTC, stays without one. On a CPU nothing changes.

    Args:
        device: What is computed on.
    """
    if torch.device(device).type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first product
    memory: Any = import_module("torch.utils.deterministic")
    mode, filled = torch.get_deterministic_debug_mode(), memory.fill_uninitialized_memory
    with (
        torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", ".*deterministic", UserWarning)
        torch.set_deterministic_debug_mode(max(mode, _WARN))
        memory.fill_uninitialized_memory = False  # which would cost time and hide nothing
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(mode)
            memory.fill_uninitialized_memory = filled
