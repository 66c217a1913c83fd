"""Records refuse what they do not know, and those committed are whole."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from auscult.record import Record

COMMITTED = Path(__file__).resolve().parents[2] / "results" / "records"


def test_an_unknown_field_is_refused(records: list[Record]) -> None:
    flat = records[0].to_dict()
    assert Record.from_dict(flat) == records[0]
    with pytest.raises(ValueError, match="unknown field.* colour, shape"):
        Record.from_dict(flat | {"shape": 1, "colour": 2})


@pytest.mark.parametrize("name", ["value", "command", "seed"])
def test_a_missing_field_is_refused(records: list[Record], name: str) -> None:
    flat = records[0].to_dict()
    del flat[name]
    with pytest.raises(ValueError, match=name):
        Record.from_dict(flat)


@pytest.mark.parametrize("name", ["value", "low", "high", "majority"])
def test_a_number_that_is_none_is_refused(records: list[Record], name: str) -> None:
    with pytest.raises(ValueError, match=f"Record.{name} of phone39/accuracy: expected a finite"):
        Record.from_dict(records[0].to_dict() | {name: float("nan")})


def test_a_changed_configuration_is_noticed(records: list[Record]) -> None:
    flat = records[0].to_dict() | {"config": {"learning_rate": 1.0}}
    with pytest.raises(ValueError, match="its fingerprint is"):
        Record.from_dict(flat)


def test_the_key_is_of_the_measurement(records: list[Record]) -> None:
    first = records[0]
    again = replace(first, value=0.1, low=None, num_items=5, num_skipped=1)
    assert again.key == first.key
    assert replace(first, seed=9).key != first.key
    assert len({record.key for record in records}) == len(records)


EVIDENCE = {"phone39", "keyword", "speaker", "emotion", "intent"}  # tools/evidence.sh
FILES = sorted(COMMITTED.glob("**/*.json"))


@pytest.mark.skipif(not FILES, reason="no records are committed under results/records yet")
def test_committed_records_are_whole() -> None:
    assert {path.stem for path in FILES} >= EVIDENCE
    for path in FILES:
        found = [Record.from_dict(flat) for flat in json.loads(path.read_text())["records"]]
        assert found, f"{path.name} holds no record"
        assert len({record.key for record in found}) == len(found), f"{path.name}: duplicates"
