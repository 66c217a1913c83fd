import subprocess
import sys
from pathlib import Path

import pytest

from auscult.corpora import READERS, load_corpus
from auscult.errors import UserError


def test_the_table_is_complete() -> None:
    import importlib

    assert len(READERS) == 11
    for name, reader in READERS.items():
        module, _, function = reader.target.partition(":")
        assert callable(getattr(importlib.import_module(f"auscult.corpora.{module}"), function))
        assert reader.name == name and reader.labels and reader.description


def test_nothing_heavy_is_imported_for_the_table() -> None:
    heavy = "[m for m in ('numpy', 'torch', 'lhotse') if m in sys.modules]"
    code = f"import sys, auscult.corpora; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tmit:/x", "Unknown corpus reader 'tmit'. Did you mean timit?"),
        ("", "Unknown corpus reader ''"),
        ("tsv", "Corpus 'tsv' needs a folder: expected tsv:FOLDER, where FOLDER holds MANIFEST"),
        ("tsv:/no/such/folder", "Folder /no/such/folder does not exist; expected tsv:FOLDER"),
        ("demo:/x", "Corpus 'demo' takes no folder, but /x was given"),
    ],
)
def test_wrong_specs(spec: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_corpus(spec)
    assert str(caught.value).startswith(message)


def test_a_folder_of_another_layout(write_corpus, tmp_path: Path) -> None:
    folder = write_corpus()
    with pytest.raises(
        UserError, match=rf"is no timit corpus; .* It looks like tsv: try tsv:{folder}"
    ):
        load_corpus(f"timit:{folder}")
    with pytest.raises(UserError, match=rf"without a reader in front; .* such as tsv:{folder}"):
        load_corpus(str(folder))
    (tmp_path / "TRAIN" / "DR1").mkdir(parents=True)
    with pytest.raises(UserError, match="is no tsv corpus; .* It looks like timit"):
        load_corpus(f"tsv:{tmp_path}")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="where FOLDER holds MANIFEST.tsv .*WORDS.tsv.$"):
        load_corpus(f"tsv:{empty}")


def test_unknown_split_column_of_a_fixed_layout(tmp_path: Path) -> None:
    (tmp_path / "TRAIN" / "DR1").mkdir(parents=True)
    with pytest.raises(UserError, match="Unknown split column of timit 'other'"):
        load_corpus(f"timit:{tmp_path}", split="other")
