"""Too little memory for a batch, on any device, is a sentence with what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from auscult.errors import UserError


@contextmanager
def within_memory(advice: str) -> Iterator[None]:
    """Raise ``advice`` where memory does not suffice; other errors pass.

    Raises:
        UserError: An allocation failed, on the CPU or on a GPU.
    """
    try:
        yield
    except RuntimeError as error:
        on_cpu = "DefaultCPUAllocator" in str(error)
        if not on_cpu and not isinstance(error, torch.OutOfMemoryError):
            raise
        raise UserError(advice) from error
