"""Lists and labels are read as text, or what hinders it is said."""

from pathlib import Path

import pytest

from auscult.corpora.textfile import read_lines
from auscult.errors import UserError


def test_a_mark_at_the_beginning_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\n")
    assert read_lines(path) == ["one", "two"]


def test_what_hinders_it_is_said_once(tmp_path: Path) -> None:
    missing = tmp_path / "list.txt"
    with pytest.raises(UserError) as caught:
        read_lines(missing)
    assert str(caught.value) == f"{missing} cannot be read: No such file or directory."
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_lines(tmp_path)
    missing.write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"list\.txt cannot be read as UTF-8 text"):
        read_lines(missing)
