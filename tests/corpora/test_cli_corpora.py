import json

import pytest
from typer.testing import CliRunner

from auscult.cli.app import app
from auscult.errors import UserError


def test_readers_are_listed() -> None:
    result = CliRunner().invoke(app, ["corpora"])
    assert result.exit_code == 0
    for name in ("demo", "tsv:DIR", "timit:DIR", "voxceleb1:DIR"):
        assert name in result.stdout
    listed = json.loads(CliRunner().invoke(app, ["corpora", "--json"]).stdout)
    assert len(listed["readers"]) == 11 and listed["records"] == []


def test_a_corpus_is_shown(write_corpus) -> None:
    folder = write_corpus()
    (folder / "a" / "1-1.wav").write_bytes(b"")
    (folder / "PHONES.tsv").write_text("utt\tstart\tend\tphone\n0-0\t0\t100\taa\n")
    spec = f"tsv:{folder}"
    result = CliRunner().invoke(app, ["corpora", spec, "--skip-bad"])
    assert result.exit_code == 0
    for text in ("train", "speaker", "Alignments", "Left out", "1-1.wav"):
        assert text in result.stdout
    shown = json.loads(CliRunner().invoke(app, ["corpora", spec, "--skip-bad", "--json"]).stdout)
    corpus = shown["corpus"]
    assert [(s["name"], s["utterances"], s["speakers"]) for s in corpus["splits"]] == [
        *(("train", 8, 3), ("dev", 3, 1), ("test", 6, 2))
    ]
    (speaker,) = corpus["labels"]
    assert (speaker["name"], speaker["classes"], speaker["coverage"]) == ("speaker", 6, 1.0)
    (phone,) = corpus["alignments"]
    assert phone["coverage"] == pytest.approx(1 / 17) and len(shown["skipped"]) == 1


def test_a_mistake_is_raised_to_the_command_line(write_corpus) -> None:
    result = CliRunner().invoke(app, ["corpora", f"tsv:{write_corpus()}", "--split", "other"])
    assert isinstance(result.exception, UserError)
    assert "Unknown split column" in str(result.exception)


def test_every_bad_item_is_named(write_corpus) -> None:
    folder = write_corpus()
    (folder / "a" / "0-0.wav").write_bytes(b"")
    (folder / "a" / "1-1.wav").unlink()
    with (folder / "MANIFEST.tsv").open("a") as file:
        file.write("a/0-1.wav\n")
    spec = f"tsv:{folder}"
    result = CliRunner().invoke(app, ["corpora", spec])
    assert result.exit_code == 1 and "speaker" in result.stdout
    for text in ("Bad items", "0-0.wav cannot be read", "1-1.wav does not exist", "has 1 fields"):
        assert text in " ".join(result.stdout.split()), text
    assert "3 items are bad" in result.stderr and "--skip-bad" in result.stderr
    result = CliRunner().invoke(app, ["corpora", spec, "--json", "--quiet"])
    assert result.exit_code == 1 and len(json.loads(result.stdout)["skipped"]) == 3
    for path in (folder / "a").glob("[45]-*.wav"):  # all of test
        path.write_bytes(b"")
    result = CliRunner().invoke(app, ["corpora", spec])
    assert isinstance(result.exception, UserError) and "'test'" in str(result.exception)
    for name in ("0-0", "1-1", "4-0", "5-2"):
        assert f"{name}.wav" in result.stdout
    result = CliRunner().invoke(app, ["corpora", spec, "--json", "--quiet"])
    assert len(json.loads(result.stdout)["skipped"]) == 9
