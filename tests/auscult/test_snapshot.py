"""Checkpoints on disk: the newest that is whole, of this version or an older one."""

from pathlib import Path

import pytest
import torch

from auscult.snapshot import newest_snapshot, write_archive, write_snapshot


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for step in (4, 8):
        write_snapshot({"step": step, "w": torch.full((50,), float(step))}, tmp_path, step, keep=2)
    return tmp_path


def step_of(folder: Path) -> int | None:
    found = newest_snapshot(folder)
    return None if found is None else int(found[1]["step"])


def test_any_flipped_bit_is_noticed(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    newest = folder / "states-8.ckpt"
    whole = newest.read_bytes()
    for place in (10, len(whole) // 3, len(whole) // 2, len(whole) - 10):
        newest.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert step_of(folder) == 4 and not newest.exists()
        assert f"{newest} was damaged" in caplog.text
        caplog.clear()
    newest.write_bytes(whole)
    assert step_of(folder) == 8 and not caplog.text


def test_a_cut_file_and_none(folder: Path) -> None:
    newest = folder / "states-8.ckpt"
    newest.write_bytes(newest.read_bytes()[:500])
    assert step_of(folder) == 4
    newest.write_bytes(b"")
    assert step_of(folder) == 4
    (folder / "states-4.ckpt").write_bytes(b"PK")
    assert step_of(folder) is None


def test_what_cannot_be_opened_is_passed_over(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "states-12.ckpt").mkdir()
    (folder / "states-16.ckpt").symlink_to(folder / "nowhere")
    assert step_of(folder) == 8 and caplog.text.count("cannot be read and is passed over") == 2


def test_one_of_an_older_version_is_read(folder: Path) -> None:
    torch.save({"step": 12}, folder / "states-12.ckpt")  # without a hash
    assert step_of(folder) == 12


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_archive({"w": torch.arange(5)}, tmp_path / name / f"{name}.pt")
    assert (tmp_path / "a" / "a.pt").read_bytes() == (tmp_path / "b" / "b.pt").read_bytes()
