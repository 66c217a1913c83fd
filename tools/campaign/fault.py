"""Give every verb a bad disk: full, read-only, or with a flipped bit in what was kept.

python tools/campaign/fault.py                            # every fault, every verb
python tools/campaign/fault.py --fault flip --verb probe --runs 20

full       the disk of --out, or of the cache, fills at a size drawn from what the verb needs
readonly   the folder, or the cache, cannot be written
flip       one bit of one kept file is flipped, or the file is cut or emptied

On a bad disk a verb must end with status 2 (or 1) and a sentence that names the folder. On a good
one again, the same command must end with the records, weights and files of a run that was never
disturbed. A disk is a tmpfs where one can be mounted (as root), else a limit on the size of files.
"""

import argparse
import contextlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import verb as verbs  # noqa: E402

PAGE = 4096
FLIPPED_SUFFIXES = (  # what a later command goes on from; the store itself is a database
    *(".safetensors", ".json", ".jsonl", ".ckpt", ".npz", ".scores"),
)


class Disk:
    """A folder on a disk of its own, whose size and mode can be changed."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir(parents=True)

    def mount(self, size: int) -> None:
        """Mount an empty disk of ``size`` bytes."""
        self._call("mount", "-t", "tmpfs", "-o", f"size={max(size, PAGE)}", "tmpfs", self.place)

    def remount(self, options: str) -> None:
        """Change the disk's options, such as ``ro`` or ``size=1g``."""
        self._call("mount", "-o", f"remount,{options}", self.place)

    def unmount(self) -> None:
        """Take the disk away, with what is on it."""
        self._call("umount", "-l", self.place)

    @staticmethod
    def _call(*words: object) -> None:
        subprocess.run([str(word) for word in words], check=True, capture_output=True)


def can_mount() -> bool:
    """Say whether a disk can be mounted here."""
    with tempfile.TemporaryDirectory() as folder:
        disk = Disk(Path(folder) / "disk")
        try:
            disk.mount(PAGE)
        except (subprocess.CalledProcessError, OSError):
            return False
        disk.unmount()
        return True


@contextlib.contextmanager
def on_disk(place: Path, size: int) -> Iterator[Disk]:
    """Give a disk of ``size`` bytes at ``place``."""
    disk = Disk(place)
    disk.mount(size)
    try:
        yield disk
    finally:
        disk.unmount()
        shutil.rmtree(place, ignore_errors=True)


class Campaign:
    """One verb with its undisturbed run, and the faults that it is given."""

    def __init__(self, name: str, inputs: Path, folder: Path, chance: random.Random) -> None:
        self.verb, self.inputs, self.folder, self.chance = verbs.VERBS[name], inputs, folder, chance
        self.log = folder / "log"
        whole = verbs.run(self.verb.words(inputs, folder / "out"), folder / "cache", self.log)
        if whole.status != 0:
            raise RuntimeError(f"the undisturbed run failed: {whole.said[-600:]}")
        self.wanted = verbs.outcome(folder / "out", self.verb.clocked)
        self.sizes = {name: _size(folder / name) for name in ("out", "cache")}

    def full(self) -> str:
        """Fill the disk of --out or of the cache; return what did not hold."""
        which = self.chance.choice(("out", "cache"))
        size = int(self.chance.uniform(0, 1.1) * self.sizes[which])
        places = {"out": self.folder / "fault-out", "cache": self.folder / "fault-cache"}
        how = f"{which} of {size:,} bytes"
        words = self.verb.words(self.inputs, places["out"])
        if not can_mount():
            ended = verbs.run(words, places["cache"], self.log, limit=max(size // 4, PAGE))
            problem = _wrong(ended) or self._again(words, places)
        else:
            with on_disk(places[which], size) as disk:
                ended = verbs.run(words, places["cache"], self.log)
                if not (problem := _wrong(ended, places[which])):
                    disk.remount("size=1g")
                    problem = self._again(words, places)
        self._clear(places)
        return f"{how}: {problem}" if problem else ""

    def readonly(self) -> str:
        """Let --out or the cache be read-only from the start; return what did not hold."""
        if not can_mount():
            return ""
        which = self.chance.choice(("out", "cache"))
        places = {"out": self.folder / "fault-out", "cache": self.folder / "fault-cache"}
        words = self.verb.words(self.inputs, places["out"])
        with on_disk(places[which], 2**30) as disk:
            disk.remount("ro")
            problem = _wrong(verbs.run(words, places["cache"], self.log), places[which])
            if not problem:
                disk.remount("rw")
                problem = self._again(words, places)
        self._clear(places)
        return f"{which} read-only: {problem}" if problem else ""

    def flip(self) -> str:
        """Damage one kept file of a finished run; return what did not hold."""
        places = {"out": self.folder / "fault-out", "cache": self.folder / "fault-cache"}
        words = self.verb.words(self.inputs, places["out"])
        began = verbs.run(words, places["cache"], self.log)
        if began.status != 0:
            return f"could not begin: {began.said[-300:]}"
        files = [
            path
            for place in places.values()
            for path in sorted(place.rglob("*"))
            if path.suffix in FLIPPED_SUFFIXES and path.is_file()
        ]
        path = self.chance.choice(files)
        how = f"{path.relative_to(self.folder)} {_damage(path, self.chance)}"
        ended = verbs.run(words, places["cache"], self.log)
        problem = ""
        if ended.traceback or ended.status not in (0, 2):
            problem = f"status {ended.status}: {ended.said[-600:]}"
        elif ended.status == 2 and path.name not in ended.said:
            problem = f"the sentence does not name it: {ended.said[-300:]}"
        elif ended.status == 0:
            found = verbs.outcome(places["out"], self.verb.clocked)
            if different := verbs.differing(self.wanted, found):
                problem = f"other results in {', '.join(different)}: {ended.said[-300:]}"
        self._clear(places)
        return f"{how}: {problem}" if problem else ""

    def _again(self, words: verbs.Words, places: dict[str, Path]) -> str:
        """Type the command again on a good disk; return what did not hold."""
        ended = verbs.run(words, places["cache"], self.log)
        if ended.status != 0 or ended.traceback:
            return f"afterwards status {ended.status}: {ended.said[-600:]}"
        found = verbs.outcome(places["out"], self.verb.clocked)
        if different := verbs.differing(self.wanted, found):
            return f"afterwards other results in {', '.join(different)}"
        if left := [name for place in places.values() for name in verbs.left_over(place)]:
            return f"temporary files are left: {', '.join(left)}"
        return ""

    def _clear(self, places: dict[str, Path]) -> None:
        for place in places.values():
            shutil.rmtree(place, ignore_errors=True)


FAULTS: dict[str, Callable[[Campaign], str]] = {
    "full": Campaign.full,
    "readonly": Campaign.readonly,
    "flip": Campaign.flip,
}


def _wrong(ended: verbs.Ended, place: Path | None = None) -> str:
    """Return what is wrong with how a verb ended on a bad disk; it may also have had room.

    `superb run` goes on with other tasks, shows what failed in a table and ends with status 1.
    """
    if ended.status == 0 and not ended.traceback:
        return ""
    if ended.status not in (1, 2) or ended.traceback:
        return f"status {ended.status}: {ended.said[-800:]}"
    said = re.sub(r"[\s│┃]+", "", ended.said)  # a table breaks its lines
    if place is not None and re.sub(r"\s", "", str(place)) not in said:
        return f"the sentence does not name the folder: {ended.said[-300:]}"
    return ""


def _size(folder: Path) -> int:
    """Return the bytes of a folder on a disk of pages."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in files)


def _damage(path: Path, chance: random.Random) -> str:
    """Damage a file; return how."""
    content = bytearray(path.read_bytes())
    kind = chance.choice(("flip", "flip", "flip", "cut", "empty"))
    status = path.stat()
    if kind == "flip" and content:
        place = chance.randrange(len(content))
        content[place] ^= 1 << chance.randrange(8)
        kind = f"flip at {place}"
    elif kind == "cut":
        del content[chance.randrange(len(content) or 1) :]
    else:
        content.clear()
    path.write_bytes(content)
    if kind.startswith("flip"):
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a failing disk does
    return kind


def main() -> int:
    """Run the campaign; return 1 where something did not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--verb", nargs="*", default=list(verbs.VERBS), choices=list(verbs.VERBS))
    parser.add_argument("--fault", nargs="*", default=list(FAULTS), choices=list(FAULTS))
    parser.add_argument("--runs", type=int, default=10, help="of each fault for each verb")
    parser.add_argument("--seed", type=int, default=0)
    options: Any = parser.parse_args()
    verbs.import_all()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs"
        verbs.make_inputs(inputs)
        for name in options.verb:
            place = Path(folder) / name.replace(" ", "-")
            place.mkdir()
            chance = random.Random(f"{options.seed} {name}")
            campaign = Campaign(name, inputs, place, chance)
            for fault in options.fault:
                began = time.monotonic()
                found = [FAULTS[fault](campaign) for _ in range(options.runs)]
                problems = [problem for problem in found if problem]
                failed += len(problems)
                spent = time.monotonic() - began
                held = options.runs - len(problems)
                print(f"{name:14} {fault:9} {held} of {options.runs} held, {spent:.0f} s")
                for problem in problems:
                    print(f"    {problem}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
