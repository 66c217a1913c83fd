"""Nested checkpoints in safetensors: what comes back, and what a damaged file gives."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from auscult.checkpoint import read_checkpoint
from auscult.compact import KEY, write_compact
from auscult.errors import UserError


def test_nested_tables_come_back(tmp_path: Path) -> None:
    states = {
        "cfg": {"task": {"normalize": True}, "names": ["a", 1]},
        "model": {"layers.0.weight": torch.randn(3, 4), "count": torch.tensor(7)},
    }
    write_compact(states, tmp_path / "x.safetensors")
    found = read_checkpoint(tmp_path / "x.safetensors")
    assert found["cfg"] == states["cfg"]
    assert found["model"]["count"] == 7
    weight = found["model"]["layers.0.weight"]
    assert weight.dtype == torch.float16
    torch.testing.assert_close(
        weight.float(), states["model"]["layers.0.weight"], rtol=1e-3, atol=1e-3
    )


def test_named_tensors_alone_stay_a_table(tmp_path: Path) -> None:
    save_file({"a/b": torch.ones(2)}, tmp_path / "x.safetensors")
    assert list(read_checkpoint(tmp_path / "x.safetensors")) == ["a/b"]


@pytest.mark.parametrize("metadata", ["[1]", "{", '{"a": 3}'])
def test_damaged_metadata_is_said(metadata: str, tmp_path: Path) -> None:
    save_file({"a/b": torch.ones(2)}, tmp_path / "x.safetensors", metadata={KEY: metadata})
    with pytest.raises(UserError, match=r"x\.safetensors"):
        read_checkpoint(tmp_path / "x.safetensors")


def test_numbers_beyond_float16_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="beyond float16"):
        write_compact({"model": {"w": torch.tensor([1e6])}}, tmp_path / "x.safetensors")
