"""Fine-tuning from Python: the verb's numbers bit for bit, and what gives each of them again."""

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import auscult
from auscult.errors import UserError
from auscult.process import Processes
from auscult.studies.bench import Bench
from auscult.upstreams.w2v_bert import Dimensions, build_w2v_bert, save_w2v_bert

Command = Callable[..., tuple[int, str, str]]
TINY = Dimensions(
    contrastive_blocks=1,
    masked_prediction_blocks=1,
    dim=16,
    heads=2,
    feed_forward=32,
    filters=20,
    channels=6,
    codebook=12,
    code_dim=10,
)
SHORT = (
    *("projection_dim=12", "predictor_dim=10", "predictor_layers=1", "joint_dim=12"),
    *("total_steps=2", "save_step=2", "batch_seconds=2", "crop_seconds=1"),
)


@pytest.fixture
def corpus(tone_corpus: Callable[..., Path]) -> str:
    folder = tone_corpus()
    manifest = folder / "MANIFEST.tsv"
    head, *rows = manifest.read_text().splitlines()
    texts = [f"{row}\t{'abc'[i % 3]}" for i, row in enumerate(rows)]
    manifest.write_text("\n".join([f"{head}\ttranscript", *texts]) + "\n")
    return f"tsv:{folder}"


@pytest.fixture
def encoder(tmp_path: Path) -> str:
    torch.manual_seed(1)
    save_w2v_bert(build_w2v_bert(TINY), tmp_path / "encoder")
    return f"w2v_bert:{tmp_path / 'encoder'}"


def told(rows: Any) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in ("command", "created")} for row in rows]


def test_as_the_verb(corpus: str, encoder: str, tmp_path: Path, run: Command) -> None:
    words = ("finetune", encoder, "-c", corpus, *SHORT, "--beam", 2, "--limit", 3)
    status, said, errors = run(*words, "--out", tmp_path / "verb", "--json")
    assert status == 0, errors
    options: dict[str, Any] = {"settings": SHORT, "beam": 2, "limit": 3}
    loaded, speech = auscult.load(encoder), auscult.corpus(corpus)
    found = auscult.finetune(loaded, speech, out=tmp_path / "mine", **options)
    assert told(x.to_dict() for x in found.records) == told(json.loads(said)["records"])
    assert all(x.config["limit"] == 3 for x in found.records) and found.steps == 2
    assert len(found.rows()) == 2 * 2 * 2 and "<td>wer</td>" in found._repr_html_()
    assert len(found.to_pandas()) == 8 and auscult.load(found.upstream).spec.num_layers == 2
    assert (tmp_path / "mine" / "results.sqlite").is_file() and len(found.curve().columns) > 1
    command = shlex.split(found.records[0].provenance.command)
    assert json.loads(said)["records"][0]["command"] == shlex.join(
        [str(tmp_path / "verb") if word == str(tmp_path / "mine") else word for word in command]
    )
    status, said, errors = run(*command[1:], "--json")  # gives them again
    assert status == 0 and json.loads(said)["steps"] == 0, errors
    assert [x["value"] for x in json.loads(said)["records"]] == [x.value for x in found.records]
    with pytest.raises(UserError, match="holds a run with corpus"):
        auscult.finetune(encoder, corpus, out=tmp_path / "mine", settings=SHORT)


def test_an_object_stands_in_the_command(corpus: str, encoder: str, tmp_path: Path) -> None:
    speech = replace(auscult.corpus(corpus), spec="mine")
    found = auscult.finetune(encoder, speech, out=tmp_path / "out", settings=SHORT, limit=2)
    assert found.records[0].provenance.command == (
        f"auscult.finetune({encoder!r}, mine, out={str(tmp_path / 'out')!r}, limit=2, "
        f"settings={list(SHORT)!r})"
    )
    with pytest.raises(UserError, match="fbank cannot be fine-tuned here"):
        auscult.finetune(auscult.load("fbank"), speech, out=tmp_path / "other")


def test_several_processes_stand_in_the_provenance(tmp_path: Path) -> None:
    bench = Bench(out=tmp_path, device="cuda:0", processes=Processes(size=2))
    made = bench.provenance(str(bench.call("finetune", ("a=1",), upstream="w2v_bert:x", out="o")))
    assert made.command == (
        "torchrun --nproc_per_node 2 -m auscult finetune w2v_bert:x --out o a=1"
    )
    assert made.device == "cuda x 2"
