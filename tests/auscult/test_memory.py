"""Too little memory, however a library says it, becomes advice; other errors stay what they are."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from auscult.errors import UserError
from auscult.memory import lacks_memory, within_memory

Run = Callable[..., tuple[int, str, str]]
LACKS = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    torch.AcceleratorError("CUDA error: out of memory"),
    MemoryError("Unable to allocate 6.5 GiB for an array"),
)
OTHERS = (
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    ValueError("DefaultCPUAllocator"),
)


@pytest.mark.parametrize("error", LACKS, ids=str)
def test_lack_of_memory_is_advice(error: Exception) -> None:
    with pytest.raises(UserError, match="^take less$"), within_memory("take less"):
        raise error


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_other_errors_pass(error: Exception) -> None:
    assert not lacks_memory(error)
    with pytest.raises(type(error)) as raised, within_memory("take less"):
        raise error
    assert raised.value is error


@pytest.mark.parametrize("error", LACKS, ids=str)
def test_the_command_line_says_it_wherever_it_comes_from(
    error: Exception, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("auscult.upstreams.load_upstream", fail)
    status, _, stderr = run("extract", "-u", "fbank", tmp_path / "x.wav", "--out", tmp_path / "o")
    assert status == 2 and "Traceback" not in stderr
    assert "auscult: memory does not suffice; try a smaller encoder" in stderr
    assert str(error)[:20] in stderr
