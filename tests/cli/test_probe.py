import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import soundfile
from safetensors.torch import load_file

from auscult.address import parse_address
from auscult.record import Record
from auscult.results import open_store
from auscult.results.difference import KIND, flat_difference

Run = Callable[..., tuple[int, str, str]]
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


PROBE = ("--probe", "linear", "--probe", "mlp1", "--learning-rates", "1e-2")


@pytest.fixture
def encoder(toy: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The toy encoder in place of every upstream."""
    monkeypatch.setattr("auscult.load", lambda spec, seed=0: toy)
    return toy


@pytest.fixture
def encoders(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A toy encoder of its own weights for every address, named as real encoders are."""

    def load(spec: str, seed: int = 0) -> Any:
        made = type(toy)(seed=sum(map(ord, spec)))
        made.spec = replace(made.spec, name=str(parse_address(spec)))
        return made

    monkeypatch.setattr("auscult.load", load)


def test_probe_json_is_one_object_and_curves_are_drawn(
    run: Run, tone_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ("probe", "-u", "fbank", "-c", f"tsv:{tone_corpus()}", "-t", "keyword", "-t", "phone")
    status, stdout, stderr = run(*words, *PROBE, "--out", out, "--json")
    assert status == 0, stderr
    records = [Record.from_dict(r) for r in json.loads(stdout)["records"]]
    assert {(r.upstream, r.task) for r in records} == {
        (u, t) for u in ("fbank", "log_mel") for t in ("keyword", "phone")
    }
    assert {r.split for r in records} == {"dev", "test"}
    assert all(r.low is not None and r.high is not None for r in records)
    assert all(0 < (r.majority or 0) < 1 for r in records)
    assert {r.num_speakers for r in records} == {2}
    phone = [r for r in records if (r.task, r.upstream, r.split) == ("phone", "fbank", "test")]
    assert max(r.value for r in phone) > 0.8  # tones change within its deltas; chance is 0.36
    assert (out / "layer_curves.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "results.sqlite").exists()


def test_every_utterance_is_encoded_once_for_all_layers_depths_seeds_and_tasks(
    run: Run, encoder: Any, tone_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    words = ("probe", "-u", "toy", "--no-baselines", "-c", f"tsv:{tone_corpus()}", "--seeds", "2")
    tasks = ("-t", "keyword", "-t", "phone", "-t", "sex", "-t", "intent")
    status, stdout, stderr = run(
        *words, *tasks, "--max-epochs", "2", "--out", tmp_path / "o", "--json"
    )
    assert status == 0, stderr
    assert len(encoder.encoded) == 24  # 8 speakers x 3 takes, nothing twice
    records = json.loads(stdout)["records"]
    assert len(records) == 4 * 3 * 3 * 2 * 2 * 2  # tasks layers depths seeds splits metrics


def test_a_second_run_goes_on_from_what_is_there_and_budget_changes_nothing(
    run: Run, encoder: Any, tone_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    words = ("probe", "-u", "toy", "--no-baselines", "-c", f"tsv:{tone_corpus()}", "-t", "phone")
    first = json.loads(run(*words, *PROBE, "--out", tmp_path / "a", "--json")[1])["records"]
    encoder.encoded.clear()
    again = json.loads(run(*words, *PROBE, "--out", tmp_path / "a", "--json")[1])["records"]
    assert encoder.encoded == []
    anew = json.loads(run(*words, *PROBE, "--out", tmp_path / "b", "--budget", "0KB", "--json")[1])[
        "records"
    ]
    assert len(encoder.encoded) >= 24  # the frames of every epoch
    values = [[r["value"] for r in found] for found in (first, again, anew)]
    assert values[0] == values[1] == values[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--probe", "lnear"), "Unknown probe 'lnear'. Did you mean linear?"),
        (("--layers", "7"), "layers (--layers) '7': toy(0) has hidden states 0 to 2 only."),
        (("--layers", "x"), "layers (--layers) 'x': expected all, or such as 0,3,6-12."),
        (("--layers", "2-1"), "layers (--layers) '2-1': expected all, or such as 0,3,6-12."),
        (("--learning-rates", "nan"), "expected positive numbers with commas between"),
        (("--budget", "inf"), "budget (--budget) 'inf': expected a size such as 500MB or 8GB."),
        (("--device", "cuda:99"), "Device 'cuda:99' was asked for, but torch finds"),
        (("--device", "cpu:x"), "Device 'cpu:x' is not known"),
        (("--store", "foo://x"), "foo"),
        (("--split", "splt"), "splt"),
        (("-t", "label:colour"), "needs the label 'colour', and no utterance of the train split"),
        (("--learning-rates", "fast"), "expected positive numbers with commas between"),
        (("--budget", "lots"), "budget (--budget) 'lots': expected a size such as 500MB or 8GB."),
        (("--pooling", "max"), "Unknown pooling 'max'."),
        (("--device", "gpu"), "Device 'gpu' is not known"),
        (("-t", "phonee"), "Unknown probing task 'phonee'. Did you mean phone"),
        (("-t", "emotion"), "needs the label 'emotion', and no utterance of the train split"),
        (("-t", "speaker"), "needs the same speakers in every split"),
    ],
)
def test_mistakes_get_one_sentence_and_status_2(
    words: tuple[str, ...],
    message: str,
    run: Run,
    encoder: Any,
    tone_corpus: Callable[..., Path],
    tmp_path: Path,
) -> None:
    base = ("probe", "-u", "toy", "--no-baselines", "-c", f"tsv:{tone_corpus()}", "-t", "sex")
    status, stdout, stderr = run(*base, *words, "--out", tmp_path / "o")
    assert status == 2
    assert message in stderr
    assert "Traceback" not in stderr and stdout == ""
    assert encoder.encoded == []  # found before any work


def test_shared_speakers_stop_other_tasks(
    run: Run, encoder: Any, tone_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tone_corpus()
    manifest = folder / "MANIFEST.tsv"
    lines = manifest.read_text().splitlines()
    lines[1] = lines[1].replace("\ttrain", "\ttest")
    manifest.write_text("\n".join(lines) + "\n")
    words = ("probe", "-u", "toy", "--no-baselines", "-c", f"tsv:{folder}", "-t", "sex")
    status, _, stderr = run(*words, "--max-epochs", "1", "--out", tmp_path / "o")
    assert status == 2 and "--allow-shared-speakers" in stderr
    allowed = ("--allow-shared-speakers", "--max-epochs", "1")
    assert run(*words, *allowed, "--out", tmp_path / "o")[0] == 0


def test_a_label_that_is_missing_is_named_or_counted(
    run: Run, encoder: Any, tone_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tone_corpus()
    manifest = folder / "MANIFEST.tsv"
    rows = [line.split("\t") for line in manifest.read_text().splitlines()]
    rows[-1][4] = ""  # the keyword of a test utterance
    manifest.write_text("\n".join("\t".join(row) for row in rows) + "\n")
    soundfile.write(folder / "s0-0.flac", np.full(300, 0.1), 16_000)  # shorter than a frame
    (folder / "PHONES.tsv").unlink()
    words = ("probe", "-u", "toy", "--no-baselines", "-c", f"tsv:{folder}", "-t", "keyword")
    words = (*words, "--max-epochs", "1", "--out", tmp_path / "o")
    status, _, stderr = run(*words)
    assert status == 2 and "Utterance s7-2 has no label 'keyword'" in stderr
    status, stdout, _ = run(*words, "--skip-bad", "--json")
    records = json.loads(stdout)["records"]
    assert status == 0
    assert {(r["split"], r["num_items"], r["num_skipped"]) for r in records} == {
        ("dev", 6, 0),
        ("test", 5, 1),
    }


def test_a_sweep_killed_between_layers_ends_with_the_same_numbers(
    run: Run, encoder: Any, tone_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    words = ("probe", "-u", "toy", "--no-baselines", "-c", f"tsv:{tone_corpus()}", "-t", "phone")
    words = (*words, "--max-epochs", "2", "--json", "--out", tmp_path / "o")
    first = json.loads(run(*words)[1])["records"]
    done = sorted((tmp_path / "o" / ".probe").glob("*.npz"))
    assert len(done) == 3
    done[1].unlink()
    again = json.loads(run(*words)[1])["records"]
    assert [r["value"] for r in again] == [r["value"] for r in first]


def test_seeds_rates_and_speakers_through_the_command_line(
    run: Run, encoder: Any, tone_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tone_corpus()
    manifest = folder / "MANIFEST.tsv"
    lines = manifest.read_text().splitlines()
    sides = ("train", "dev", "test")
    lines = [lines[0] + "\tsid_split"] + [f"{x}\t{sides[i % 3]}" for i, x in enumerate(lines[1:])]
    manifest.write_text("\n".join(lines) + "\n")
    words = ("probe", "-u", "toy", "--no-baselines", "-c", f"tsv:{folder}", "--split", "sid_split")
    words = (*words, "-t", "speaker", "--seeds", "2", "--learning-rates", "1e-9,1e-2")
    status, stdout, stderr = run(*words, "--max-epochs", "4", "--json", "--out", tmp_path / "o")
    assert status == 0, stderr
    records = json.loads(stdout)["records"]
    assert {r["seed"] for r in records} == {0, 1}
    assert all(r["config"]["learning_rates"] == [1e-9, 1e-2] for r in records)
    assert {r["config"]["learning_rate"] for r in records} <= {1e-9, 1e-2}
    frame = run(*words[:8], "-t", "frame_speaker", "--max-epochs", "1", "--out", tmp_path / "p")
    assert frame[0] == 0, frame[2]


def test_quiet_says_nothing_on_stderr(
    run: Run, encoder: Any, tone_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    words = ("probe", "-u", "toy", "--no-baselines", "-c", f"tsv:{tone_corpus()}", "-t", "sex")
    _, stdout, stderr = run(*words, "--max-epochs", "1", "--quiet", "--out", tmp_path / "o")
    assert stderr == "" and "sex" in stdout


def test_margins_are_differences_of_records_at_the_layers_that_dev_prefers(
    run: Run, encoders: None, tone_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    specs = ("-u", "toy", "-u", "random(toy)", "-u", "log_mel", "--no-baselines")
    words = ("probe", *specs, "-c", f"tsv:{tone_corpus()}", "-t", "keyword", "-t", "phone")
    words = (*words, "--seeds", "2", *PROBE, "--max-epochs", "3", "--json")
    status, stdout, stderr = run(*words, "--out", tmp_path / "o")
    assert status == 0, stderr
    found = json.loads(stdout)
    scores: dict[tuple[str, ...], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for r in found["records"]:
        if r["metric"] == "accuracy":
            of = (r["task"], r["probe"], r["upstream"], r["split"])
            scores[of][r["layer"]].append(r["value"])
    means = {of: {layer: fmean(s) for layer, s in by.items()} for of, by in scores.items()}
    pairs = {("toy", "random(toy)"), ("toy", "log_mel"), ("random(toy)", "log_mel")}
    probes = {(task, probe) for task in ("keyword", "phone") for probe in ("linear", "mlp1")}
    margins = {(m["task"], m["probe"], m["upstream"], m["over"]): m for m in found["margins"]}
    assert margins.keys() == {(*probe, *pair) for probe in probes for pair in pairs}
    assert len({m["layer"] for m in margins.values()}) > 1
    assert len({m["value"] for m in margins.values()}) > 2
    for (task, probe, *pair), m in margins.items():
        chosen = dict(zip(pair, (m["layer"], m["over_layer"]), strict=True))
        for name, layer in chosen.items():
            dev = means[task, probe, name, "dev"]
            assert dev[layer] == pytest.approx(max(dev.values()))
        one, other = (means[task, probe, name, "test"][chosen[name]] for name in pair)
        assert m["value"] == pytest.approx(one - other)
        assert -1 <= m["low"] <= m["high"] <= 1


def test_margins_are_kept_and_other_settings_beside_them(
    run: Run, encoders: None, tone_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    specs = ("-u", "toy", "-u", "random(toy)", "--no-baselines", "-c", f"tsv:{tone_corpus()}")
    words = ("probe", *specs, "-t", "keyword", "--probe", "linear", "--max-epochs", "2")
    words = (*words, "--out", tmp_path / "o", "--json")
    (margin,) = json.loads(run(*words)[1])["margins"]
    for _ in range(2):  # a second run replaces
        (kept,) = open_store(tmp_path / "o").artifacts(KIND)
        flat = flat_difference(kept)
        assert {name: flat[name] for name in margin} == margin
        assert run(*words)[0] == 0
    (kept,) = open_store(tmp_path / "o").artifacts(KIND)
    twin = open_store(tmp_path / "o").records(split="test", upstream="random(toy)")[0]
    assert kept.corpus_sha256 == twin.corpus_sha256
    assert kept.meta["over_sha256"] == twin.upstream_sha256
    others = (("--pooling", "statistics"), ("--layers", "0"), ("--seeds", "2"))
    for count, other in enumerate(others, start=2):
        assert run(*words, *other)[0] == 0
        assert len(open_store(tmp_path / "o").artifacts(KIND)) == count
    stdout = run("results", "show", tmp_path / "o")[1]
    assert "toy (layers=0-2, pooling=statistics, seeds=0)" in stdout


def test_a_difference_names_the_command_that_has_both(
    run: Run, encoders: None, tone_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    words = ("probe", "--no-baselines", "-c", f"tsv:{tone_corpus()}", "-t", "keyword", "--probe")
    words = (*words, "linear", "--layers", "0", "--max-epochs", "1", "--out", tmp_path, "-u", "toy")
    assert run(*words)[0] == 0
    assert run(*words, "-u", "random(toy)")[0] == 0
    (kept,) = open_store(tmp_path).artifacts(KIND)
    assert "random(toy)" in kept.provenance.command
    commands = {r.upstream: r.provenance.command for r in open_store(tmp_path).records()}
    assert "random(toy)" in commands["random(toy)"] and "random(toy)" not in commands["toy"]


def test_a_twin_is_found_whatever_its_seed_and_however_it_is_written(
    run: Run, encoders: None, tone_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    twins = ("random(toy)", " random( toy,seed = 1 )", "random(toy, 2)")
    no_twins = ("random(toy:x)", "random(toy@x)", "random(joy)")
    specs = [word for spec in ("toy", *twins, *no_twins) for word in ("-u", spec)]
    words = ("probe", *specs, "--no-baselines", "-c", f"tsv:{tone_corpus()}", "-t", "keyword")
    words = (*words, "--probe", "linear", "--layers", "0", "--max-epochs", "1", "--json")
    status, stdout, stderr = run(*words, "--out", tmp_path / "o")
    assert status == 0, stderr
    compared = [(m["upstream"], m["over"]) for m in json.loads(stdout)["margins"]]
    over = ("random(toy)", "random(toy, seed=1)", "random(toy, seed=2)")
    assert compared == [("toy", name) for name in over]


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared real speech")
def test_39_probes_of_hubert_base_encode_timit_once(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """13 layers x 3 depths on real speech: every utterance goes through the encoder once."""
    from auscult.upstreams.huggingface.upstream import HuggingFaceUpstream

    seen: list[int] = []
    forward = HuggingFaceUpstream.forward

    def counting(self: Any, audio: Any) -> Any:
        seen.extend(audio.lengths.tolist())
        return forward(self, audio)

    monkeypatch.setattr(HuggingFaceUpstream, "forward", counting)
    corpus = f"tsv:{SHARED / 'timit-sample'}"
    words = ("probe", "-u", "random(hubert_base)", "--no-baselines", "-c", corpus)
    words = (*words, "--split", "split_nosa", "-t", "phone39", "--max-epochs", "1")
    status, stdout, stderr = run(*words, "--json", "--out", tmp_path / "o")
    assert status == 0, stderr
    records = json.loads(stdout)["records"]
    assert len({(r["layer"], r["probe"]) for r in records}) == 39
    assert len(seen) == 128  # 16 speakers x 8 sentences


def test_extract_writes_every_layer_of_every_file(
    run: Run, encoder: Any, tone_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tone_corpus()
    files = sorted(folder.glob("*.flac"))[:2]
    words = ("extract", "-u", "toy", *files, "--out", tmp_path / "f", "--dtype", "float16")
    status, stdout, stderr = run(*words, "--json")
    assert status == 0, stderr
    assert "2 files of 3 states x 8 dims in float16" in stderr  # the size, before the work
    paths = [Path(p) for p in json.loads(stdout)["files"]]
    assert [p.stem for p in paths] == [f.stem for f in files]
    layers = load_file(paths[0])
    assert sorted(layers) == ["layer_00", "layer_01", "layer_02"]
    assert {tuple(x.shape) for x in layers.values()} == {(14, 8)}
    assert {str(x.dtype) for x in layers.values()} == {"torch.float16"}
    encoder.encoded.clear()
    assert run(*words)[0] == 0 and encoder.encoded == []  # files that are there are kept


def test_extract_refuses_files_made_from_something_else(
    run: Run, encoder: Any, tone_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    file = sorted(tone_corpus().glob("*.flac"))[0]
    words = ("extract", "-u", "toy", file, "--out", tmp_path / "f")
    assert run(*words)[0] == 0
    status, _, stderr = run(*words, "--dtype", "float16")
    assert status == 2 and "with dtype float32 where float16 is wanted" in stderr
    status, _, stderr = run(*words, "--precision", "bfloat16")
    assert status == 2 and "with precision float32 where bfloat16 is wanted" in stderr
    soundfile.write(file, np.full(4000, 0.1), 16_000)
    status, _, stderr = run(*words)
    assert status == 2 and "choose another --out" in stderr


def test_extract_takes_a_corpus(
    run: Run, encoder: Any, tone_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tone_corpus()
    assert run("extract", "-u", "toy", "-c", f"tsv:{folder}", "--out", tmp_path / "f")[0] == 0
    assert len(list((tmp_path / "f").glob("*.safetensors"))) == 24


@pytest.mark.parametrize("words", [(), ("x.wav", "-c", "demo")])
def test_extract_wants_files_or_a_corpus(
    words: tuple[str, ...], run: Run, encoder: Any, tmp_path: Path
) -> None:
    status, _, stderr = run("extract", "-u", "toy", *words, "--out", tmp_path)
    assert status == 2 and "Give either audio files or a corpus" in stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere.wav",), "nowhere.wav does not exist"),
        (("text.wav",), "text.wav cannot be read as audio"),
        (("zeros.wav",), "zeros.wav holds only zeros"),
        (("good.wav", "--dtype", "flaot16"), "Unknown dtype 'flaot16'. Did you mean"),
        (("good.wav", "--precision", "flaot16"), "Unknown precision 'flaot16'. Did you mean"),
        (("good.wav", "--precision", "float16", "--device", "cpu"), "float16 is for GPUs"),
    ],
)
def test_extract_names_what_is_wrong(
    words: tuple[str, ...],
    message: str,
    run: Run,
    encoder: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    noise = 0.1 * np.random.default_rng(0).standard_normal(8000)
    soundfile.write("good.wav", noise, 16_000)
    soundfile.write("zeros.wav", np.zeros(8000), 16_000)
    Path("text.wav").write_text("not audio")
    status, _, stderr = run("extract", "-u", "toy", *words, "--out", "f")
    assert status == 2 and message in stderr and "Traceback" not in stderr


def test_extract_leaves_bad_files_out_where_asked(
    run: Run, encoder: Any, tone_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tone_corpus()
    (folder / "text.wav").write_text("not audio")
    files = [folder / "text.wav", *sorted(folder.glob("*.flac"))[:1]]
    words = ("extract", "-u", "toy", *files, "--skip-bad", "--json", "--out", tmp_path / "f")
    status, stdout, _ = run(*words)
    found = json.loads(stdout)
    assert status == 0 and len(found["files"]) == 1 and "text.wav" in found["skipped"][0]
