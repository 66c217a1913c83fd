"""Type-check the rooms under their import name.

mypy and pyright find modules by folder and cannot see setuptools' ``package-dir`` table, so this
builds a throw-away tree of symlinks in the shape of the installed package (``.links/auscult/``)
and points both at it: mypy --strict at ``auscult`` itself, pyright at everything.
"""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINKS = ROOT / ".links"


def build_links() -> None:
    """Make ``.links/`` anew from the ``package-dir`` table of ``pyproject.toml``."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shutil.rmtree(LINKS, ignore_errors=True)
    for name, folder in sorted(table["tool"]["setuptools"]["package-dir"].items()):
        target = LINKS.joinpath(*name.split("."))
        target.mkdir(parents=True)
        for entry in (ROOT / folder).iterdir():
            if entry.name != "__pycache__" and f"{name}.{entry.name}" not in table:
                (target / entry.name).symlink_to(entry)


if __name__ == "__main__":
    build_links()
    tools = Path(sys.executable).parent
    commands = ([str(tools / "mypy")], [str(tools / "pyright"), "--pythonpath", sys.executable])
    sys.exit(max(subprocess.run(command, cwd=ROOT).returncode for command in commands))
