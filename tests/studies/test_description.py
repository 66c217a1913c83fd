"""Descriptions from Python: what the verb says, of objects too."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import auscult
from auscult.errors import UserError

Command = Callable[..., tuple[int, str, str]]


class Frames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv1d(1, 6, 400, 320)

    def forward(self, waves: Tensor) -> Tensor:
        return self.layer(waves[:, None]).tanh().mT


@pytest.mark.parametrize("spec", ["hubert_tiny", "fbank"])
def test_as_the_verb(spec: str, run: Command) -> None:
    said = json.loads(run("describe", spec, "--json", "--quiet")[1])
    found = auscult.describe(spec)
    assert json.loads(json.dumps({"records": [], **found.to_dict()})) == said
    assert found.upstream.name == said["upstream"]["name"] and found.measured is None


def test_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    found = auscult.describe(auscult.wrap(Frames(), name="<b>mine</b>"))
    assert found.upstream.num_parameters == 6 * 401 and found.macs is None
    page = found._repr_html_()
    assert "&lt;b&gt;mine" in page and "<b>" not in page and "MACs are not counted" in page
    measured: list[Any] = []
    monkeypatch.setattr("auscult.measurement.measure", lambda encoder: measured.append(encoder))
    loaded = auscult.load("random(hubert_tiny)")
    assert auscult.describe(loaded, measure=True).macs == auscult.describe("hubert_tiny").macs
    assert measured == [loaded]
    with pytest.raises(UserError, match="add --measure"):
        auscult.describe(loaded, device="cuda")
