import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from auscult.cli import main
from auscult.record import Record

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command line and gives its status, stdout and stderr."""

    def command(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["auscult", *map(str, words)])
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        return status, *capsys.readouterr()

    return command


PROBE = ("--probe", "linear", "--probe", "mlp1", "--learning-rates", "1e-2")


@pytest.fixture
def encoder(toy: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The toy encoder in place of every upstream."""
    monkeypatch.setattr("auscult.load", lambda spec, seed=0: toy)
    return toy


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
        (("--layers", "7"), "--layers '7': toy(0) has hidden states 0 to 2 only."),
        (("--layers", "x"), "--layers 'x': expected all, or such as 0,3,6-12."),
        (("--learning-rates", "fast"), "expected positive numbers with commas between"),
        (("--budget", "lots"), "--budget 'lots': expected a size such as 500MB or 8GB."),
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


def test_extract_writes_every_layer_of_every_file(
    run: Run, encoder: Any, tone_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tone_corpus()
    files = sorted(folder.glob("*.flac"))[:2]
    words = ("extract", "-u", "toy", *files, "--out", tmp_path / "f")
    status, stdout, stderr = run(*words, "--precision", "float16", "--json")
    assert status == 0, stderr
    paths = [Path(p) for p in json.loads(stdout)["files"]]
    assert [p.stem for p in paths] == [f.stem for f in files]
    layers = load_file(paths[0])
    assert sorted(layers) == ["layer_00", "layer_01", "layer_02"]
    assert {tuple(x.shape) for x in layers.values()} == {(14, 8)}
    assert {str(x.dtype) for x in layers.values()} == {"torch.float16"}
    encoder.encoded.clear()
    assert run(*words)[0] == 0 and encoder.encoded == []  # files that are there are kept


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


def test_extract_names_a_missing_file(run: Run, encoder: Any, tmp_path: Path) -> None:
    status, _, stderr = run("extract", "-u", "toy", "nowhere.wav", "--out", tmp_path)
    assert status == 2 and "nowhere.wav does not exist" in stderr


def test_an_unknown_option_is_status_2(run: Run) -> None:
    status, _, stderr = run("probe", "--upstraem", "fbank")
    assert status == 2 and "No such option" in stderr
