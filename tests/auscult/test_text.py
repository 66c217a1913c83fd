"""One reader of people's text files."""

import os
from pathlib import Path

import pytest

from auscult.errors import UserError
from auscult.text import read_lines, read_text

TEXT = "Käse\tα\r\nzweite\u2028Zeile\rdritte\n"
LINES = ["Käse\tα", "zweite\u2028Zeile", "dritte"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_what_is_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "list.txt"
    mark = "\ufeff" if encoding.startswith("utf-16-") else ""
    path.write_bytes((mark + TEXT).encode(encoding))
    assert read_lines(path) == LINES
    assert read_text(path) == "\n".join(LINES) + "\n"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("eins\nzwei\nK\xe4se".encode("latin-1"), "line 3: the bytes e4 73 65 are no UTF-8 text"),
        ("eins\nzwei".encode("utf-16-le"), "line 1: there is a NUL character"),
        ("eins".encode("utf-32"), "UTF-32"),
        ("eins\n\ufeffzwei".encode(), "line 2: there is a byte order mark amid"),
        ("\ufeff\ufeffeins".encode("utf-16-le"), "line 1: there is a byte order mark amid"),
        ("eins\nzwei\ufeff\n".encode("utf-8-sig"), "line 2: there is a byte order mark amid"),
        (b"\xff\xfea\x00\n\x00\x00\xdcb\x00", "line 2: the bytes 00 dc 62 00 are no UTF-16 text"),
        (b"one\n\x00\x01\x02", "line 2: there is a NUL character"),
    ],
)
def test_what_is_not_read(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=sentence) as caught:
        read_text(path)
    assert str(path) in str(caught.value) and "save it so" in str(caught.value)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing", ".", "pipe", "a\0b"):
        with pytest.raises(UserError, match="cannot be read"):
            read_text(tmp_path / name)


def test_empty_lines_stay_and_the_end_is_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    assert read_lines(tmp_path / "a") == []
    (tmp_path / "a").write_text("x\n\ny")
    assert read_lines(tmp_path / "a") == ["x", "", "y"]
