"""Files that appear whole."""

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import SafetensorError

from auscult import whole_file as module
from auscult.errors import UserError
from auscult.whole_file import make_folder, whole_file, whole_folder, write_text


def test_a_failure_leaves_the_older_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "scores.json"
    with whole_file(path) as temporary:
        assert temporary.parent == path.parent
        temporary.write_text("old")
        assert not path.exists()
    with pytest.raises(ValueError, match="half"), whole_file(path) as temporary:
        temporary.write_text("ne")
        raise ValueError("half written")
    assert path.read_text() == "old"
    assert [file.name for file in path.parent.iterdir()] == ["scores.json"]


def test_a_folder_appears_whole_and_takes_no_others_place(tmp_path: Path) -> None:
    folder = tmp_path / "around" / "corpus"
    with pytest.raises(ValueError), whole_folder(folder) as temporary:
        (temporary / "a").touch()
        raise ValueError
    assert not list(folder.parent.iterdir())
    for content in ("first", "second"):
        with whole_folder(folder) as temporary:
            (temporary / "deep").mkdir()
            (temporary / "deep" / "a").write_text(content)
    assert (folder / "deep" / "a").read_text() == "first"
    assert list(folder.parent.iterdir()) == [folder]


def test_a_folder_that_cannot_be_put_in_its_place_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were it passed over, as where another was faster, nothing would be there."""
    (tmp_path / "empty").mkdir()
    full = failing(OSError(errno.ENOSPC, "No space left on device"))
    with monkeypatch.context() as patch, pytest.raises(UserError, match="is full"):
        patch.setattr(Path, "rename", full)
        with whole_folder(tmp_path / "empty"):
            pass
    assert list(tmp_path.iterdir()) == [tmp_path / "empty"]


def test_a_folder_is_tried_before_any_work(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file is not a folder.*nothing can be written there"):
        make_folder(tmp_path / "file")


def test_the_cache_is_chosen_otherwise(cache: Path) -> None:
    with pytest.raises(UserError, match="set AUSCULT_CACHE to another folder"):
        with whole_file(cache / "features" / "x"):
            raise OSError(errno.ENOSPC, "No space left on device")


def failing(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "quota"),
        (OSError(errno.EROFS, "Read-only file system"), "is read-only"),
        (PermissionError(errno.EACCES, "Permission denied"), "may not be written"),
        (SafetensorError('IoError(Os { code: 28, message: "No space left on device" })'), "full"),
        (SafetensorError("I/O error: Read-only file system (os error 30)"), "is read-only"),
        (RuntimeError("[enforce fail] PytorchStreamWriter failed writing file data/0"), "written"),
    ],
)
def test_a_failing_disk_is_a_sentence(tmp_path: Path, error: Exception, reason: str) -> None:
    path = tmp_path / "kept.bin"
    path.write_text("old")
    with pytest.raises(UserError, match=reason) as caught, whole_file(path):
        raise error
    for part in (str(tmp_path), "kept.bin", "same command again"):
        assert part in str(caught.value)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_disk_that_says_so_only_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(UserError, match="is full"):
        write_text("x", tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_our_own_mistakes_are_no_disk(tmp_path: Path) -> None:
    for error in (RuntimeError("shapes differ"), KeyError("x"), FileNotFoundError(2, "gone")):
        with pytest.raises(type(error)), whole_file(tmp_path / "x"):
            raise error


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is not a folder"):
        write_text("x", tmp_path / "file" / "x.json")


def test_what_dead_processes_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    host = module._HOST
    gone = [f".auscult-{host}-{dead.pid}-0.part", f".auscult-{host}-{os.getpid()}-9999.part"]
    old = ".auscult-elsewhere-1-0.part"
    stay = [
        f".auscult-{host}-{os.getppid()}-0.part",
        ".auscult-other-1-0.part",
        ".mine.1",
        "a.part",
    ]
    for name in (*gone, old, *stay):
        (tmp_path / name).touch()
    left = tmp_path / f".auscult-{host}-{dead.pid}-1.part"  # a folder that was to be whole
    left.mkdir()
    (left / "half").touch()
    os.utime(tmp_path / old, (0, 0))
    monkeypatch.setattr(module, "_swept", set())
    write_text("x", tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} == {*stay, "new"}


def test_a_name_as_long_as_names_may_be(tmp_path: Path) -> None:
    write_text("x", tmp_path / ("n" * 255))
    with pytest.raises(UserError, match="no file name of that length"):
        write_text("x", tmp_path / ("n" * 256))


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "report.html").symlink_to(tmp_path / "far" / "page.html")
    for text in ("first", "second"):  # it leads nowhere at first
        write_text(text, tmp_path / "report.html")
        assert (tmp_path / "report.html").is_symlink()
        assert (tmp_path / "far" / "page.html").read_text() == text
    assert len(list(tmp_path.iterdir())) == 2 and len(list((tmp_path / "far").iterdir())) == 1


def test_a_pipe_is_written_into_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True)
    write_text("through", pipe)
    assert reader.communicate()[0] == "through"
    assert pipe.is_fifo() and len(list(tmp_path.iterdir())) == 1


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder; expected the name of a file"):
        write_text("x", tmp_path)
    assert list(tmp_path.iterdir()) == []
