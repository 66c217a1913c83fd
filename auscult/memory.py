"""Too little memory for a batch, on any device, is a sentence with what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from auscult.errors import UserError

# What torch says where it has no class of error for it: of the CPU, of a library on a GPU that
# takes memory past torch, and of the driver itself.
_SIGNS = (
    "DefaultCPUAllocator",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
)


@contextmanager
def within_memory(advice: str) -> Iterator[None]:
    """Raise ``advice`` where memory does not suffice; other errors pass.

    Raises:
        UserError: An allocation failed, on the CPU or on a GPU.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not lacks_memory(error):
            raise
        raise UserError(advice) from error


def lacks_memory(error: BaseException) -> bool:
    """Say whether an allocation failed, on the CPU or on a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
