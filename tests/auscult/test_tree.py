"""One walk over a person's folders."""

import logging
import os
from pathlib import Path

import pytest

from auscult.errors import UserError
from auscult.tree import find, walk


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder of which half is linked from elsewhere."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for name in ("a/one.wav", "a/._one.wav", ".hidden/two.wav", "B/three.wav"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (elsewhere / "deep").mkdir(parents=True)
    (elsewhere / "deep" / "four.wav").touch()
    (root / "linked").symlink_to(elsewhere)
    (root / "five.wav").symlink_to(elsewhere / "deep" / "four.wav")
    return root


def names(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in walk(root)]


def test_links_are_entered_and_hidden_names_are_not(tree: Path) -> None:
    assert names(tree) == ["five.wav", "B/three.wav", "a/one.wav", "linked/deep/four.wav"]


def test_a_loop_is_not_entered_and_said(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tree / "a" / "up").symlink_to(tree)
    (tree / "a" / "self").symlink_to(tree / "a")
    before = len(names(tree))
    assert before == 4
    assert "a/up links back" in caplog.text and "a/self links back" in caplog.text


def test_a_link_that_leads_nowhere_is_said(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tree / "gone").symlink_to(tree / "not there")
    (tree / "circle").symlink_to(tree / "circle")
    with caplog.at_level(logging.WARNING):
        assert "gone" in names(tree) and "circle" in names(tree)
    assert "gone is a link that leads nowhere" in caplog.text


def test_a_folder_that_cannot_be_read_is_an_error(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listdir = os.listdir

    def refuse(folder: Path) -> list[str]:
        if Path(folder).name == "B":
            raise PermissionError(13, "Permission denied")
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(UserError, match="B cannot be read: Permission denied"):
        names(tree)
    with pytest.raises(UserError, match="B cannot be read"):
        find(tree, "*/*.wav")


def test_patterns(tree: Path) -> None:
    assert [p.name for p in find(tree, "*/*.wav")] == ["three.wav", "one.wav"]
    assert [p.name for p in find(tree, "linked/*/*.wav")] == ["four.wav"]
    assert [p.name for p in find(tree, "[Bb]")] == ["B"]
    assert [p.name for p in find(tree, ".hidden/*.wav")] == ["two.wav"]
    assert find(tree, "A/*.wav") == [] and find(tree / "no", "*") == []
    assert find(tree, "five.wav/*") == []
