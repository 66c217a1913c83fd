"""What a GPU is told while something is trained, and that it is told no longer afterwards."""

from importlib import import_module
from typing import Any

import pytest
import torch

from auscult.repeatable import repeatable

deterministic: Any = import_module("torch.utils.deterministic")


def _settings() -> tuple[Any, ...]:
    cudnn = torch.backends.cudnn
    return (
        *(torch.get_deterministic_debug_mode(), deterministic.fill_uninitialized_memory),
        *(cudnn.deterministic, cudnn.allow_tf32, cudnn.enabled, cudnn.benchmark),
    )


def test_a_cpu_is_left_as_it_is() -> None:
    before = _settings()
    with repeatable("cpu"):
        assert _settings() == before


@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda")])
def test_a_gpu_adds_up_in_order_and_in_float32(device: Any) -> None:
    before = _settings()
    with repeatable(device):
        assert _settings() == (1, False, True, False, True, False)
        with repeatable(device):
            pass
        assert _settings() == (1, False, True, False, True, False)
        torch.put(torch.zeros(3), torch.tensor([0]), torch.ones(1))  # has no such way: no error
    assert _settings() == before


def test_it_ends_with_an_error_too_and_keeps_what_is_stricter() -> None:
    before = _settings()
    torch.set_deterministic_debug_mode("error")
    try:
        with pytest.raises(ZeroDivisionError), repeatable("cuda"):
            assert torch.get_deterministic_debug_mode() == 2
            raise ZeroDivisionError
        assert torch.get_deterministic_debug_mode() == 2
    finally:
        torch.set_deterministic_debug_mode(before[0])
    assert _settings() == before
