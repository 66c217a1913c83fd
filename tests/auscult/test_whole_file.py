"""Files that appear whole."""

from pathlib import Path

import pytest

from auscult.whole_file import whole_file


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
