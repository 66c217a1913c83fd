"""Make the folder that a machine with a GPU needs beside torch, transformers and numba.

``python tools/gpu_carry.py FOLDER`` puts there, for Python 3.12 on Linux, the versions that are
installed here of all that ``tools/gpu_check.py`` imports and such a machine lacks: what is Python
alone is copied, the rest comes from the index. On the machine, which needs no network:
``PYTHONPATH=FOLDER python tools/gpu_check.py``.
"""

import argparse
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
# With all that these need. Together the three last are 270 MB, and few machines with torch lack
# them; --there says otherwise.
THERE = ("torch", "torchaudio", "transformers", "numba", "scipy", "scikit-learn", "pandas")
UNUSED = {"plotly", "sqlalchemy", "matplotlib"}  # by the check: stores and figures
GLIBC = range(5, 40)  # pip takes no newer and no older wheels than those that are named


def main() -> None:
    """Install what is missing and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="of the machine")
    parser.add_argument("--there", nargs="+", default=list(THERE), help="what the machine has")
    options = parser.parse_args()
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = [
        name
        for name in map(Requirement, table["project"]["dependencies"])
        if canonicalize_name(name.name) not in UNUSED
    ]
    missing = (
        with_needs(needed, options.python).items()
        - with_needs(map(Requirement, options.there), options.python).items()
    )
    built = {name: version for name, version in missing if not copy(name, options.folder)}
    install([f"{name}=={version}" for name, version in sorted(built.items())], options)
    size = sum(path.stat().st_size for path in options.folder.rglob("*") if path.is_file())
    print(f"{len(missing)} packages, {size / 2**20:.1f} MiB, in {options.folder}.")


def with_needs(wanted: Iterable[Requirement], python: str) -> dict[str, str]:
    """Return what is wanted and what that needs, with the versions that are installed here."""
    machine = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
    }
    found: dict[str, str] = {}
    left = list(wanted)
    while left:
        one = left.pop()
        name = canonicalize_name(one.name)
        extras = one.extras or {""}
        if one.marker and not any(one.marker.evaluate(machine | {"extra": x}) for x in extras):
            continue
        if name in found:
            continue
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # of another platform, or of an extra that nobody asked for
        left += map(Requirement, metadata.requires(name) or [])
    return found


def copy(name: str, folder: Path) -> bool:
    """Copy a package that is Python alone; say whether it is."""
    found = metadata.distribution(name)
    wheel = (found.read_text("WHEEL") or "").splitlines()
    if not all(line.endswith("-any") for line in wheel if line.startswith("Tag:")):
        return False
    for file in found.files or []:
        if ".." not in file.parts and "__pycache__" not in file.parts:  # no commands
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.locate(), folder / file)
    return True


def install(packages: list[str], options: argparse.Namespace) -> None:
    """Let pip install wheels for another machine."""
    platforms = [f"manylinux_2_{n}_x86_64" for n in GLIBC]
    platforms += ["manylinux1_x86_64", "manylinux2010_x86_64", "manylinux2014_x86_64"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    command += ["--only-binary=:all:", "--upgrade", "--target", str(options.folder)]
    command += ["--python-version", options.python, "--implementation", "cp"]
    command += [word for platform in platforms for word in ("--platform", platform)]
    if subprocess.run([*command, *packages]).returncode:
        sys.exit(f"gpu_carry: pip cannot install {' '.join(packages)}; what it said is above.")


if __name__ == "__main__":
    main()
