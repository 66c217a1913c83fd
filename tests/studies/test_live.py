"""Objects in the place of addresses, and what other processes cannot have."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import auscult
from auscult import studies
from auscult.contracts import HiddenStates, Waveforms
from auscult.errors import UserError
from auscult.studies.bench import Bench
from auscult.studies.desk import Desk
from auscult.studies.executor import Pool
from auscult.studies.item import Failure, Item

OPTIONS: dict[str, Any] = {"probes": ("linear",), "max_epochs": 1, "baselines": False}


class Frames(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Conv1d(1, 6, 400, 320)

    def forward(self, waves: Tensor) -> Tensor:
        return self.layer(waves[:, None]).tanh().mT


@pytest.fixture
def corpus(tone_corpus: Callable[..., Path]) -> str:
    return f"tsv:{tone_corpus()}"


def test_two_objects_of_one_name_are_refused(corpus: str) -> None:
    both = [auscult.wrap(Frames(seed)) for seed in (0, 1)]
    with pytest.raises(UserError, match="under the name 'Frames'.*name="):
        studies.plan_probe(both, corpus, "keyword", **OPTIONS)
    assert len(studies.plan_probe([both[0]] * 2, corpus, "keyword", **OPTIONS).items) == 2
    with pytest.raises(UserError, match="an encoder of ours"):
        studies.plan_probe(auscult.wrap(Frames(), name="fbank"), corpus, "keyword", **OPTIONS)
    with pytest.raises(UserError, match="Two encoders"):
        studies.plan_probe([auscult.load("fbank"), "fbank"], corpus, "keyword", **OPTIONS)


def test_commands_name_objects_in_python(corpus: str) -> None:
    plan = studies.plan_probe([auscult.wrap(Frames()), "fbank"], corpus, "keyword", **OPTIONS)
    said = [item.command for item in plan.items if item.kept]
    assert said[0] == (
        f"auscult.probe(Frames, {corpus!r}, 'keyword', baselines=False, probes=['linear'], "
        "max_epochs=1)"
    )
    assert said[1].startswith("auscult probe -u fbank -c tsv:")
    loaded = studies.plan_probe(auscult.load("fbank"), corpus, "keyword", **OPTIONS)
    assert loaded.items[1].command == said[1]


def test_a_module_that_was_trained_since_is_another(corpus: str) -> None:
    module = Frames()
    encoder = auscult.wrap(module)
    before = studies.plan_probe(encoder, corpus, "keyword", **OPTIONS).items[1].key
    with torch.no_grad():
        module.layer.weight.mul_(2)
    after = studies.plan_probe(encoder, corpus, "keyword", **OPTIONS).items[1].key
    module.power = 3  # type: ignore[assignment]
    other = studies.plan_probe(encoder, corpus, "keyword", **OPTIONS).items[1].key
    assert len({before, after, other}) == 3


def test_an_encoder_that_was_loaded_and_changed_is_another(corpus: str) -> None:
    """Pruned or trained in place, it has neither the kept features nor the address of the file."""
    encoder = auscult.load("tiny_hubert")
    weight = next(encoder.parameters())
    before = weight.detach().clone()

    def item() -> Item:
        return studies.plan_probe(encoder, corpus, "keyword", **OPTIONS).items[1]

    first = item()
    assert first.upstream["address"] == "tiny_hubert"
    weight.data[0] = 0.0
    second = item()
    weight.data[1] = 0.0
    third = item()
    assert len({one.upstream["sha256"] for one in (first, second, third)}) == 3
    for one in (second, third):
        assert one.upstream["address"] == "tiny_hubert (changed)"
        assert one.command.startswith("auscult.probe(")
    weight.data.copy_(before)
    assert item() == first


def test_values_that_change_places_are_other_weights(corpus: str) -> None:
    encoder = auscult.load("tiny_hubert")
    weight = encoder.get_parameter("model.encoder.layers.0.attention.q_proj.weight")
    weight.data[0, 5] = torch.nan  # equal to itself here

    def sha256() -> str:
        item = studies.plan_probe(encoder, corpus, "keyword", **OPTIONS).items[1]
        return str(item.upstream["sha256"])

    first = sha256()
    assert sha256() == first
    weight.data[0, [1, 2]] = weight.data[0, [2, 1]]
    assert sha256() != first


class ByHand(auscult.Upstream):
    def __init__(self) -> None:
        super().__init__()
        inner = auscult.load("random(hubert_tiny)")
        self.inner, self.spec = inner, replace(inner.spec, name="ByHand", sha256="0" * 64)

    def forward(self, audio: Waveforms) -> HiddenStates:
        return self.inner.forward(audio)

    def num_frames(self, lengths: Tensor) -> Tensor:
        return self.inner.num_frames(lengths)


def test_an_encoder_made_by_hand_is_what_its_weights_are(corpus: str) -> None:
    encoders = [ByHand(), ByHand()]
    next(encoders[1].parameters()).data[0] = 0.0  # before it was seen

    def sha256(encoder: auscult.Upstream) -> str:
        item = studies.plan_probe(encoder, corpus, "keyword", **OPTIONS).items[1]
        return str(item.upstream["sha256"])

    found = [sha256(encoder) for encoder in encoders]
    assert found[0] != found[1] and found == [sha256(encoder) for encoder in encoders]
    next(encoders[0].parameters()).data[1] = 0.0
    assert sha256(encoders[0]) not in found


class Dropped(Frames):
    def forward(self, waves: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(waves), 0.5, self.training)


def test_modules_in_training_are_measured_as_they_are_used(corpus: str, tmp_path: Path) -> None:
    encoder = auscult.wrap(Dropped())
    values = []
    for name in ("a", "b"):
        encoder.train()
        found = studies.probe(encoder, corpus, "keyword", out=tmp_path / name, **OPTIONS)
        values.append([record.value for record in found.records])
    assert values[0] == values[1] and not encoder.module.training


def test_a_hook_that_collects_stops_no_study(corpus: str, tmp_path: Path) -> None:
    encoder, kept = auscult.load("tiny_hubert"), {}

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        kept["last"] = output

    encoder.get_submodule("model.encoder.layers.0.final_layer_norm").register_forward_hook(hook)
    found = studies.probe(encoder, corpus, ["keyword", "phone"], out=tmp_path, **OPTIONS)
    assert not found.failures and kept


def test_a_part_of_a_corpus_is_another(corpus: str) -> None:
    whole = auscult.corpus(corpus)
    keys = [
        studies.plan_probe("fbank", found, "phone", **OPTIONS).items[1].key
        for found in (whole, whole.limited(5), whole.limited(4), whole.limited(999))
    ]
    assert len(set(keys)) == 3 and keys[0] == keys[3]
    with pytest.raises(UserError, match="read with the split column 'split', and 'other'"):
        studies.plan_probe("fbank", whole, "keyword", split="other", **OPTIONS)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"seeds": "3"}, "seeds='3': expected a whole number"),
    ({"seeds": 0}, "seeds=0"),
    ({"max_epochs": 2.5}, "max_epochs=2.5"),
    ({"limit": 6.0}, "limit=6.0"),
    ({"learning_rates": [-1]}, "expected positive numbers"),
    ({"executor": 2}, "Executor '2' is not known"),
    ({"probes": ()}, "nothing to probe"),
]


@pytest.mark.parametrize("given, message", WRONG)
def test_wrong_values_are_sentences(given: dict[str, Any], message: str, corpus: str) -> None:
    with pytest.raises(UserError, match=message):
        studies.probe(auscult.wrap(Frames()), corpus, "keyword", **{**OPTIONS, **given})


def test_one_value_may_stand_alone(corpus: str) -> None:
    given: dict[str, Any] = {"probes": "linear", "learning_rates": 1e-2, "layers": [0]}
    plan = studies.plan_probe("fbank", corpus, "keyword", device=torch.device("cpu"), **given)
    assert "--learning-rates 0.01" in plan.items[1].command


@pytest.mark.parametrize("encoder", [None, Frames, lambda waves: waves, Path("x"), 3])
def test_what_is_no_encoder_is_said(encoder: Any, corpus: str) -> None:
    with pytest.raises(UserError, match="is no encoder; expected an address"):
        studies.plan_probe(encoder, corpus, "keyword", **OPTIONS)


def test_a_corpus_and_an_encoder_have_names_of_their_own(corpus: str) -> None:
    speech = auscult.Corpus.of_cuts("Frames", auscult.corpus(corpus).splits)
    with pytest.raises(UserError, match="both go under the name 'Frames'"):
        studies.plan_probe(Frames(), speech, "keyword", **OPTIONS)


def test_a_command_says_what_a_corpus_was_read_with(tone_corpus: Callable[..., Path]) -> None:
    folder = tone_corpus()
    lines = (folder / "MANIFEST.tsv").read_text().splitlines()
    parts = [line.split("\t") for line in lines]
    column = parts[0].index("split")
    rows = [
        "\t".join([*row, "other_split" if i == 0 else row[column]]) for i, row in enumerate(parts)
    ]
    (folder / "MANIFEST.tsv").write_text("\n".join(rows) + "\n")
    speech = auscult.corpus(f"tsv:{folder}", split="other_split").limited(5)
    said = studies.plan_probe("fbank", speech, "phone", **OPTIONS).items[1].command
    assert "--split other_split" in said and "--limit 5" in said
    typed = studies.plan_probe(
        "fbank", f"tsv:{folder}", "phone", split="other_split", limit=5, **OPTIONS
    )
    assert typed.items[1].corpus["sha256"] == dict(speech.sha256)


def test_torchrun_is_refused_where_one_process_works(
    corpus: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    for study in (
        lambda: auscult.probe("fbank", corpus, "keyword", **OPTIONS),
        lambda: auscult.attention("tiny_hubert", corpus),
        lambda: auscult.extract("fbank", corpus, out=tmp_path / "out"),
        lambda: auscult.search("tiny_lighthubert", corpus, "probe:phone"),
        lambda: auscult.superb("fbank", tmp_path),
    ):
        with pytest.raises(UserError, match="done by one process"):
            study()
    plan = auscult.plan_run("fbank", corpus, "keyword_spotting", baselines=False)
    assert len(plan.items) == 1  # nobody is waited for


def test_threads_that_are_not_serials_are_in_the_command(corpus: str) -> None:
    several = torch.get_num_threads() + 1
    plan = studies.plan_probe("fbank", corpus, "keyword", threads=several, **OPTIONS)
    assert f"--threads {several}" in plan.items[1].command


def test_a_frame_is_extracted(tone_corpus: Callable[..., Path], tmp_path: Path) -> None:
    import pandas as pd

    folder = tone_corpus()
    frame = pd.read_csv(folder / "MANIFEST.tsv", sep="\t", dtype=str, keep_default_na=False)
    frame["path"] = [str(folder / path) for path in frame.path]
    found = auscult.extract("fbank", frame, out=tmp_path / "out", limit=2)
    assert len(found.files) == 6


def test_other_processes_have_no_objects(corpus: str) -> None:
    with pytest.raises(UserError, match="local:2: other processes do not have the object Frames"):
        studies.probe(auscult.wrap(Frames()), corpus, "keyword", executor="local:2", **OPTIONS)


def _items() -> Iterator[Item]:
    about = {"address": "fbank", "sha256": "x"}
    yield Item(kind="probe", upstream=about, corpus={}, what={}, how={})


def test_a_worker_that_dies_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("auscult.studies.executor._carry_out_here", _die)
    with Pool(1).open(Desk(Bench(out=tmp_path))) as carry_out:
        ((_, failure),) = list(carry_out(list(_items())))
    assert isinstance(failure, Failure)
    assert "worker was ended from outside, twice" in failure.reason


def _die(item: Item) -> None:
    os._exit(9)


MORTAL = """
import multiprocessing, os
from pathlib import Path
import torch
class Mortal(torch.nn.Module):
    sample_rate, stride = 16_000, 320
    def forward(self, waves):
        if multiprocessing.parent_process() and {condition}:
            os._exit(9)
        return waves[:, : waves.shape[1] // 320 * 320].reshape(len(waves), -1, 320)
"""


@pytest.mark.slow
@pytest.mark.parametrize("always", [True, False])
def test_one_worker_that_dies_does_not_stop_the_others(
    always: bool, corpus: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    died = f"Path({str(tmp_path / 'died')!r})"
    once = f"not {died}.exists() and not {died}.touch()"
    file = tmp_path / "mine.py"
    file.write_text(MORTAL.format(condition=True if always else once))
    mortal = f"python:{file}:Mortal"
    words = ([mortal, "fbank", "mfcc"], corpus, "keyword")
    found = studies.probe(*words, out=tmp_path / "out", executor="local:2", **OPTIONS)
    assert "what was under way is done again" in caplog.text
    assert {record.upstream for record in found.records} == {"fbank", "mfcc"} | (
        set() if always else {mortal}
    )
    failed = [failure for failure in found.failures if failure.upstream == mortal]
    assert bool(failed) == always
    if always:
        assert "worker was ended from outside, twice" in failed[0].reason


@pytest.mark.slow
def test_workers_that_cannot_begin_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auscult.studies.executor._begin", _die)
    with pytest.raises(UserError, match="end before they begin.*__main__"):
        with Pool(2).open(Desk(Bench(out=tmp_path))) as carry_out:
            list(carry_out(list(_items())))


KILLED = """
import multiprocessing, os, signal
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from auscult.studies import executor
from auscult.studies.bench import Bench
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    begun = (Bench(out=Path()), 1, 30, context.Event())
    pool = ProcessPoolExecutor(1, mp_context=context, initializer=executor._begin, initargs=begun)
    print(pool.submit(os.getpid).result(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    words = [sys.executable, script]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=60)  # waits for workers
    assert done.returncode == -9 and done.stdout.strip().isdigit()


NOTEBOOK = """
import torch, auscult
from auscult.origin import code_of
from torch import nn
class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv1d(1, 6, 400, 320)
    def forward(self, waves):
        return {expression}
encoder = auscult.wrap(Mine())
print(code_of(*encoder.modules()), encoder.spec.sha256)
"""


def test_another_cell_of_a_notebook_is_another_code() -> None:
    """Weights and names are the same, so that the fingerprint of the code must tell them apart."""
    found = [
        subprocess.run(
            [sys.executable, "-c", NOTEBOOK.format(expression=expression)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for expression in (
            "self.layer(waves[:, None]).mT",
            "self.layer(waves[:, None]).mT",
            "self.layer(waves[:, None]).mT * 2.0",
            "self.layer(waves[:, None]).mT * 3.0",
        )
    ]
    codes, weights = zip(*found, strict=True)
    assert len(set(weights)) == 1
    assert codes[0] == codes[1] and len(set(codes)) == 3
