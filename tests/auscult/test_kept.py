"""Kept work is checked when it is opened: no flipped bit becomes a number."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from auscult import kept

TENSORS = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.arange(5)}

VALUE = {"rows": [1, 2.5, "é"]}


def write_snapshot(path: Path) -> None:
    torch.save(TENSORS, path)
    kept.seal(path)


def read_snapshot(path: Path) -> bool | None:
    if not kept.is_whole(path):
        return None
    assert torch.equal(torch.load(path, weights_only=True)["a"], TENSORS["a"])
    return True


FORMATS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    "tensors": (lambda path: kept.write_tensors(TENSORS, path, {"x": "y"}), kept.read_tensors),
    "json": (lambda path: kept.write_json(VALUE, path), kept.read_json),
    "object": (lambda path: kept.write_object(VALUE, path), kept.read_object),
    "snapshot": (write_snapshot, read_snapshot),
}


def test_what_is_kept_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    kept.write_tensors(TENSORS, path, {"about": 'a "sha256":"trap'})
    found = kept.read_tensors(path)
    assert found is not None and found[1] == {"about": 'a "sha256":"trap'}
    assert all(torch.equal(found[0][name], TENSORS[name]) for name in TENSORS)
    kept.write_json({"rows": (1, 2)}, path)
    assert kept.read_json(path) == {"rows": [1, 2]}
    for name, (_, read) in FORMATS.items():
        assert read(tmp_path / f"no {name}") is None


def test_equal_tensors_are_equal_bytes(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    about = {f"key {i}": f"é \x00\x1f\x7f\n\t\b\\/\u2028\U0001f600 {i}" for i in range(9)}
    found = set()
    for _ in range(4):
        kept.write_tensors(TENSORS, path, dict(reversed(about.items())))
        found.add(path.read_bytes())
        assert (kept.read_tensors(path) or ({}, {}))[1] == about
    assert len(found) == 1


@pytest.mark.parametrize("name", FORMATS)
def test_any_flipped_bit_or_cut_is_noticed(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write, read = FORMATS[name]
    path = tmp_path / "kept"
    write(path)
    whole = path.read_bytes()
    assert read(path) is not None
    chance = random.Random(0)
    places = chance.sample(range(len(whole)), min(len(whole), 150))
    broken = [
        whole[:i] + bytes([whole[i] ^ 1 << chance.randrange(8)]) + whole[i + 1 :] for i in places
    ]
    broken += [b"", whole[:-1], whole[: len(whole) // 2], whole + b"x", b"\0" * len(whole)]
    unnoticed = 0
    for content in broken:
        path.write_bytes(content)
        if (found := read(path)) is None:
            assert not path.exists()
        else:  # JSON that says the same in other bytes, such as a line break for a blank
            assert name in ("json", "object") and found == VALUE
            unnoticed += 1
    assert unnoticed < 10
    assert caplog.text.count("was damaged since it was written") == len(broken) - unnoticed


def test_rows_that_were_damaged_are_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rows"
    lines = [kept.sealed_line({"value": i / 3}) for i in range(4)]
    path.write_text(lines[0] + lines[1].replace("0.33", "0.34") + lines[2] + lines[3][:-9])
    assert kept.sealed_rows(path) == [{"value": 0.0}, {"value": 2 / 3}]
    assert "2 of 4 rows were torn or damaged" in caplog.text
    caplog.clear()
    assert kept.sealed_rows(path) == [{"value": 0.0}, {"value": 2 / 3}]
    assert not caplog.text
