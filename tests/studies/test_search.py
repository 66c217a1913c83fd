"""The search of subnets from Python, by one process and by several."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from auscult import studies
from auscult.upstreams.lighthubert.checkpoint import write_supernet
from auscult.upstreams.lighthubert.scaled import build_space
from auscult.upstreams.lighthubert.space import Dimensions
from auscult.upstreams.lighthubert.supernet import draw_supernet

STORED = Dimensions(
    width=32,
    ffn=64,
    heads=2,
    head_dim=16,
    layers=2,
    channels=16,
    position_kernel=16,
    target_dim=128,
)
SPACE = build_space("custom", STORED, embed_dims=(16, 32), heads=(1, 2), ratios=(1.0,), depths=(2,))


@pytest.mark.slow
def test_processes_find_the_same_front(tone_corpus: Callable[..., Path], tmp_path: Path) -> None:
    write_supernet(draw_supernet("layer_norm", 3, STORED), SPACE, 2, tmp_path / "net")
    words = (f"lighthubert:{tmp_path / 'net'}", f"tsv:{tone_corpus()}", "probe:keyword")
    options: dict[str, Any] = {"evaluations": 6, "seed": 1, "threads": 1}
    found = [
        studies.search(*words, out=tmp_path / executor[:5], executor=executor, **options)
        for executor in ("serial", "local:2")
    ]
    one, two = ([(r.key, r.value, r.low, r.high) for r in f.records] for f in found)
    assert one == two and one
    fronts = [{k: v for k, v in f.result.items() if k == "best"} for f in found]
    texts = [json.dumps(front["best"]["test"]) for front in fronts]
    assert texts[0] == texts[1]
    assert found[0].records[0].provenance.command.startswith("auscult subnet search lighthubert:")
    assert found[0].files[0].is_file() and len(found[0].to_pandas()) == len(found[0].records)
