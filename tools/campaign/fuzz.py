"""Mutate small valid files of every format and read them: a value or a ``UserError``, no more.

python tools/campaign/fuzz.py --mutants 100000          # spread over all formats
python tools/campaign/fuzz.py --mutants 5000 --target store --seed 3

Mutations are drawn by hypothesis, which makes a failing one smaller before it is printed. CI runs
2,000 of them (tests/test_fuzz.py). A mutant that takes more than 20 s, or 500 MB, fails too.
"""

import argparse
import contextlib
import json
import logging
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from auscult.errors import UserError

sys.path.insert(0, str(Path(__file__).resolve().parent))
from seed_file import TARGETS, Target  # noqa: E402

SECONDS, MEGABYTES = 20, 500  # that one mutant may take
STRANGE = (
    *("-1", "0", "1e999", "nan", "NaN", "Infinity", "1e9", "99999999999999999999999", "2147483648"),
    *("0.5", "", " ", "\x00", "\ud800", "../../x", "/dev/null", "é", "\u202e", "=1+1", "<b>"),
    *("true", "null", "[]", "{}", '"x"', "a" * 5000),
)
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 2, 0.5, 10**9, 2**63, 10**30, float("nan"), float("inf"), "", "x", "\x00"),
    *([], {}, [[]], [1] * 100, {"a": {}}, ["x"], "../x", "\ud800", "org/kernel", "eval('1')"),
)


@dataclass(frozen=True, slots=True)
class Edit:
    """One change of a file's bytes: what, where (a share of the file), and with what."""

    kind: str
    place: float
    size: int
    choice: int


EDITS = st.builds(
    Edit,
    st.sampled_from(("bit", "byte", "cut", "drop", "twice", "insert", "number", "json", "line")),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 64),
    st.integers(0, 2**16),
)


def mutate(content: bytes, edits: list[Edit]) -> bytes:
    """Return ``content`` after the edits."""
    for edit in edits:
        content = _apply(content, edit)
    return content


def _apply(content: bytes, edit: Edit) -> bytes:
    at = _place(content, edit)
    before, after = content[:at], content[at:]
    strange = STRANGE[edit.choice % len(STRANGE)].encode("utf-8", "surrogatepass")
    if edit.kind == "bit" and after:
        return before + bytes([after[0] ^ 1 << edit.choice % 8]) + after[1:]
    if edit.kind == "byte" and after:
        return before + bytes([edit.choice % 256]) + after[1:]
    if edit.kind == "cut":
        return before
    if edit.kind == "drop":
        return before + after[edit.size :]
    if edit.kind == "twice":
        return before + after[: edit.size] * (2 + edit.choice % 50) + after[edit.size :]
    if edit.kind == "insert":
        return before + strange + after
    if edit.kind == "number":
        return before + re.sub(rb"-?\d+(\.\d+)?", lambda _: strange, after, count=1)
    if edit.kind == "line":
        lines = content.split(b"\n")
        lines[int(edit.place * len(lines))] = strange
        return b"\n".join(lines)
    return _edit_json(content, edit)


def _place(content: bytes, edit: Edit) -> int:
    """Return a place in the content; every other one in what says how the rest is read."""
    regions = _headers(content) if edit.choice % 2 else []
    if not regions:
        return int(edit.place * len(content))
    start, end = regions[edit.choice // 2 % len(regions)]
    return start + int(edit.place * (end - start))


def _headers(content: bytes) -> list[tuple[int, int]]:
    """Return the regions that are no tensors: pickles in archives, headers, beginnings, ends."""
    found = [(0, min(256, len(content)))]
    if content[:2] == b"PK":
        with contextlib.suppress(Exception), tempfile.TemporaryFile() as file:
            file.write(content)
            with zipfile.ZipFile(file) as archive:
                for member in archive.infolist():
                    if "/data/" not in member.filename:
                        start = member.header_offset
                        found.append((start, min(start + 200 + member.compress_size, len(content))))
        found.append((max(0, len(content) - 400), len(content)))
    elif len(content) > 8 and content[8:9] == b"{":
        found.append((0, min(8 + int.from_bytes(content[:8], "little"), len(content))))
    return found


def _edit_json(content: bytes, edit: Edit) -> bytes:
    """Replace, remove or bury one value of a JSON text; other texts stay."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return content
    spots = list(_spots(value)) if isinstance(value, dict | list) else []
    if not spots:
        return content
    parent, key = spots[int(edit.place * len(spots))]
    if edit.size % 4 == 0:
        del parent[key]
    elif edit.size % 4 == 1:
        for _ in range(edit.choice % 300):
            parent[key] = [parent[key]]
    else:
        parent[key] = VALUES[edit.choice % len(VALUES)]
    return json.dumps(value).encode()


def _spots(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        yield value, key
        if isinstance(item, dict | list):
            yield from _spots(item)


class Trial:
    """One format's files in a folder of their own, put back after each mutant."""

    def __init__(self, target: Target, folder: Path) -> None:
        self.target, self.folder = target, folder
        folder.mkdir(parents=True)
        target.build(folder)
        target.read(folder)  # valid, and imports are done
        shutil.rmtree(folder)
        folder.mkdir()
        target.build(folder)
        self.contents = {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        self.mutated = target.files(folder)

    def run(self, which: int, edits: list[Edit]) -> str:
        """Read a mutant; return ``value`` or ``refused``.

        Raises:
            AssertionError: It took too long or too much memory.
            Exception: Whatever else than a UserError came out.
        """
        path = self.mutated[which % len(self.mutated)]
        path.write_bytes(mutate(self.contents[path], edits))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            with _within(SECONDS):
                self.target.read(self.folder)
            return "value"
        except UserError as error:
            assert str(error).strip(), "an empty sentence"
            return "refused"
        finally:
            self._put_back()
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            assert grown < MEGABYTES, f"{grown:.0f} MB for one mutant"

    def _put_back(self) -> None:
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path.is_file() and path not in self.contents:
                path.unlink()
        for path, content in self.contents.items():
            if not path.is_file() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)


@contextlib.contextmanager
def _within(seconds: int) -> Iterator[None]:
    def late(*_: object) -> None:
        raise AssertionError(f"more than {seconds} s for one mutant")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(name: str, mutants: int, folder: Path, chance: int = 0) -> dict[str, int]:
    """Read ``mutants`` mutants of one format; return how many were values and how many refused."""
    trial = Trial(TARGETS[name], folder)
    counts = {"value": 0, "refused": 0}

    @seed(chance)
    @settings(
        max_examples=mutants,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(st.integers(0, 2**16), st.lists(EDITS, min_size=1, max_size=3))
    def read(which: int, edits: list[Edit]) -> None:
        counts[trial.run(which, edits)] += 1

    run: Callable[[], None] = read
    run()
    return counts


def main() -> int:
    """Run the campaign; return 1 where a format failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--mutants", type=int, default=2000, help="in all")
    parser.add_argument("--target", nargs="*", default=sorted(TARGETS), choices=sorted(TARGETS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.getLogger("auscult").setLevel(logging.ERROR)
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["AUSCULT_CACHE"] = f"{folder}/cache"
        for name in options.target:
            began = time.monotonic()
            share = -(-options.mutants // len(options.target))
            try:
                counts: object = fuzz(name, share, Path(folder) / name, options.seed)
            except Exception as error:  # whatever a mutant raised, smaller; the others go on
                failed.append(name)
                import traceback

                traceback.print_exception(error)
                counts = f"FAILED: {type(error).__name__}"
            print(f"{name:24} {counts} in {time.monotonic() - began:.0f} s", flush=True)
    print(f"{len(options.target) - len(failed)} of {len(options.target)} formats held.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
