"""Weights by name: every fault is one sentence, and what fits is a copy."""

from typing import Any

import pytest
import torch
from torch import nn

from auscult.errors import UserError
from auscult.upstreams.weight import fill


def network() -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def tensors() -> dict[str, Any]:
    found = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).state_dict()
    return {name: tensor + 1 for name, tensor in found.items()}


def test_weights_are_copies_in_the_types_of_the_module() -> None:
    module, found = network(), tensors()
    found["0.weight"] = torch.ones(3, 2).half().T  # neither contiguous nor float32
    found["0.bias"] = torch.zeros(1).expand(2)
    fill("x.pt", module, found | {"head": 3}, frozenset({"head"}))
    filled = module.state_dict()
    for name, tensor in filled.items():
        torch.testing.assert_close(tensor, found[name], check_dtype=False, rtol=0, atol=0)
        assert tensor.is_contiguous() and tensor.data_ptr() != found[name].data_ptr()
    assert {tensor.dtype for tensor in filled.values()} == {torch.float32, torch.int64}
    assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"0.bias": None}, "x.pt lacks 0.bias."),
        ({"0.bias": None, "0.weight": None}, "x.pt lacks 0.weight (and 1 more)."),
        ({"2.bias": torch.ones(1), 7: 3}, "x.pt holds, unexpectedly, 2.bias (and 1 more)."),
        ({"0.bias": torch.ones(7)}, "x.pt holds 0.bias as float32 (7,), expected float32 (2,)."),
        ({"0.bias": [1.0, 2.0]}, "x.pt holds 0.bias as list, expected float32 (2,)."),
        (
            {"0.weight": torch.ones(2, 3, dtype=torch.complex64), "0.bias": torch.ones(2).int()},
            "x.pt holds 0.weight as complex64 (2, 3), expected float32 (2, 3) (and 1 more).",
        ),
        (
            {"1.num_batches_tracked": torch.tensor(1.0)},
            "x.pt holds 1.num_batches_tracked as float32 (), expected int64 ().",
        ),
    ],
)
def test_every_fault_is_one_sentence(changes: dict[Any, Any], message: str) -> None:
    found = {name: value for name, value in (tensors() | changes).items() if value is not None}
    with pytest.raises(UserError) as caught:
        fill("x.pt", network(), found)
    assert str(caught.value) == message
