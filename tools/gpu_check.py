"""Check on a machine with a GPU that Auscult computes there what it computes on the CPU.

``python tools/gpu_check.py`` takes at most eight minutes, prints a table, and writes all numbers
to ``benchmarks/results/gpu-CARD.json``, anew after each; those of some ``--parts`` to a file that
names them. ``--dry`` runs the same parts, as small as they get, on the CPU alone; ``--pretend``
there too, on tensors that say they are on a GPU. The exit status is 1 if anything failed. SIGTERM
and Ctrl-C end it with a table of what was found by then.
"""

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HERE = (str(ROOT), str(ROOT / "tools"))  # this checkout goes before any that is installed
sys.path[:0] = HERE

from gpu.part import Check, Part  # noqa: E402
from gpu.worker import Failed, Worker  # noqa: E402

SECONDS = 480.0  # for all parts together
PATIENCE = 4  # times the seconds of a part, on a CPU, which others may use
PARTS = (
    Part(
        name="parity",
        work=".encoder:parity",
        seconds=150,
        what="states, attention maps and gradients of every family",
    ),
    Part(
        name="divergence",
        work=".encoder:divergence",
        seconds=30,
        what="attention divergence from maps of the device",
    ),
    Part(name="probe", work=".score:probe", seconds=60, what="probes of every layer"),
    Part(name="heads", work=".score:heads", seconds=180, what="a head of every task"),
    Part(
        name="objectives",
        work=".training:objectives",
        seconds=90,
        what="a few updates of every objective, and of the transducer",
    ),
    Part(
        name="resume",
        work=".training:resume",
        seconds=80,
        what="a pretraining that is killed",
        alone=False,
    ),
    Part(
        name="torchrun",
        work=".training:torchrun",
        seconds=80,
        what="one process of torchrun, over NCCL on a GPU",
        alone=False,
    ),
    Part(name="memory", work=".memory:sentences", seconds=60, what="too little memory"),
    Part(
        name="extraction",
        work=".speed:extraction",
        seconds=60,
        what="seconds of audio that HuBERT Base extracts a second",
    ),
)


@dataclass(slots=True)
class Found:
    """What is known of a part."""

    checks: list[Check] = field(default_factory=list)
    seconds: float = 0.0
    error: str = "it was not reached"

    @property
    def passed(self) -> bool:
        """Whether it ran to its end and nothing in it failed."""
        return not self.error and all(check.passed for check in self.checks)


class Stopped(Exception):
    """Somebody, or a time limit, wants the check to end."""


def main() -> int:
    """Run the parts and return the exit status."""
    started = time.monotonic()
    options = _options()
    _expect_libraries()
    small = options.dry or options.pretend
    device = "cuda" if options.pretend or not small else "cpu"
    os.environ["PYTHONSAFEPATH"] = "1"  # nothing comes from the folder that it is run from
    path = os.environ.get("PYTHONPATH", "")  # where an empty entry is that folder, too
    os.environ["PYTHONPATH"] = os.pathsep.join([*HERE, *filter(None, path.split(os.pathsep))])
    os.environ.update({"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"})
    os.environ.setdefault("OMP_NUM_THREADS", "1" if small else "4")  # the same in all processes
    about = _about(device, options.pretend)
    out = options.out
    if out is None and not small:
        out = _place(about["card"], options.parts or ())
    able = [part for part in PARTS if part.alone or not options.pretend]
    chosen = [part for part in able if part.name in (options.parts or [p.name for p in able])]
    found = {part.name: Found() for part in chosen}
    _write(out, about, found)  # what cannot be written is found out first
    file = _File(out, about, found)
    worker = Worker(device, dry=small, pretend=options.pretend)
    scratch = tempfile.TemporaryDirectory(prefix="auscult-gpu-", ignore_cleanup_errors=True)
    try:
        with _stopping(), scratch as folder, closing(worker):
            os.environ["AUSCULT_CACHE"] = str(Path(folder) / "cache")
            for part in chosen:
                print(f"{part.name}: {part.what}", file=sys.stderr, flush=True)
                place = Path(folder) / part.name
                place.mkdir()
                seconds = min(part.seconds, started + SECONDS - time.monotonic())
                seconds = PATIENCE * part.seconds if small else seconds
                _run(part, found[part.name], worker, place, seconds, file.note)
    except Stopped as reason:
        print(f"gpu_check: {reason}; what was found by then follows.", file=sys.stderr)
        file.note()
    print(_table(found))
    if out is not None:
        print(file.problem or f"All numbers are in {out}.")
    return 0 if all(one.passed for one in found.values()) and not file.problem else 1


@dataclass(slots=True)
class _File:
    """Where all numbers are written, as soon as they are known."""

    out: Path | None
    about: Mapping[str, Any]
    found: Mapping[str, Found]
    problem: str = ""  # why the last writing failed

    def note(self) -> None:
        """Write what is known by now; where that fails, the table at the end has it still."""
        from auscult.errors import UserError

        try:
            _write(self.out, self.about, self.found)
            self.problem = ""
        except (UserError, OSError) as error:
            self.problem = f"The numbers are in no file: {error}"


@contextmanager
def _stopping() -> Iterator[None]:
    """Raise Stopped at the first signal that asks for an end; what follows it is not disturbed."""
    asking = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def stop(number: int, _: object) -> None:
        for one in asking:
            signal.signal(one, signal.SIG_IGN)
        raise Stopped(f"stopped by {signal.Signals(number).name}")

    before = {one: signal.signal(one, stop) for one in asking}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _expect_libraries() -> None:
    """Look what this machine lacks before its time is used.

    Raises:
        SystemExit: Something.
    """
    lacking = []
    with suppress(ImportError):
        from gpu_carry import UNUSED

        table = tomllib.loads((ROOT / "pyproject.toml").read_text())
        for wanted in table["project"]["dependencies"]:
            name = re.split(r"[^\w.-]", wanted)[0]
            if name.lower() not in UNUSED and not _is_there(name):
                lacking.append(name)
    if lacking:
        sys.exit(
            f"gpu_check: this machine lacks {', '.join(lacking)}. tools/gpu_carry.py, run where "
            "Auscult is installed, puts that into a folder to name in PYTHONPATH here."
        )


def _is_there(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return importlib.util.find_spec(name) is not None
    return True


def _place(card: str, parts: Sequence[str]) -> Path:
    """Return where numbers go by themselves; those of some parts are not in the place of all."""
    name = re.sub(r"[^a-z0-9]+", "-", "-".join(["gpu", card, *parts]).lower()).strip("-")
    return ROOT / "benchmarks" / "results" / f"{name}.json"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    names = [part.name for part in PARTS]
    parser.add_argument("--parts", nargs="+", choices=names, metavar="PART", help=", ".join(names))
    parser.add_argument("--out", type=Path, help="JSON file; of a dry run none unless given")
    parser.add_argument("--dry", action="store_true", help="as small as it gets, on the CPU")
    parser.add_argument(
        "--pretend",
        action="store_true",
        help="the same with tensors that say they are on a GPU: mixed devices fail as on one",
    )
    options = parser.parse_args()
    processes = {part.name for part in PARTS if not part.alone}
    if options.pretend and (asked := sorted(processes & set(options.parts or ()))):
        parser.error(f"{asked[0]} starts processes, in which no GPU is pretended")
    return options


def _about(device: str, pretend: bool) -> dict[str, Any]:
    """Return what the numbers were found with.

    Raises:
        SystemExit: There is no GPU.
    """
    import torch

    from auscult.measurement import processor_name
    from auscult.record import library_versions

    there = pretend or device == "cpu" or torch.cuda.is_available()
    if not there:
        sys.exit("gpu_check: torch finds no GPU here; --dry runs all parts on the CPU.")
    return {
        "pretended": pretend,
        "card": "pretended" if pretend else processor_name(torch.device(device)),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": sys.version.split()[0],
        "cuda": torch.version.cuda,
        "libraries": dict(library_versions()),
    }


def _commit() -> str:
    """Return the commit of this checkout; empty where it was copied without its history."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return ""
    command = ["git", "rev-parse", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def _run(
    part: Part, found: Found, worker: Worker, folder: Path, seconds: float, note: Callable[[], None]
) -> None:
    """Run a part for so long at most; whatever ends it, the others go on."""
    started = time.monotonic()
    found.error = "" if seconds > 0 else f"not begun: {SECONDS:.0f} s were over"
    try:
        for check in worker.run(part, folder, seconds) if seconds > 0 else ():
            found.checks.append(check)
            found.seconds = time.monotonic() - started
            note()
    except Failed as error:
        found.error = str(error)
    except Stopped as error:
        found.error = str(error)
        raise
    finally:
        found.seconds = time.monotonic() - started
    note()


def _write(out: Path | None, about: Mapping[str, Any], found: Mapping[str, Found]) -> None:
    """Write all that is known by now, whole or not at all."""
    from auscult.whole_file import whole_file

    if out is None:
        return
    parts = {
        name: {
            "passed": one.passed,
            "seconds": round(one.seconds, 2),
            "error": one.error,
            "checks": [check.to_dict() for check in one.checks],
        }
        for name, one in found.items()
    }
    passed = all(one.passed for one in found.values())
    seconds = round(sum(one.seconds for one in found.values()), 2)
    content = {**about, "passed": passed, "seconds": seconds, "parts": parts}
    with whole_file(out) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _table(found: Mapping[str, Found]) -> str:
    """Return a line for each part, then what was measured and what failed."""
    lines = [f"{'part':12} {'result':8} {'checks':>6} {'seconds':>8}  nearest to its limit"]
    for name, one in found.items():
        result = "passed" if one.passed else "FAILED"
        nearest = max(one.checks, key=_share, default=None)
        shown = "" if nearest is None or not _share(nearest) else _line(nearest)
        lines.append(f"{name:12} {result:8} {len(one.checks):6} {one.seconds:8.1f}  {shown}")
    for name, one in found.items():
        measured = [check for check in one.checks if check.low is None and check.high is None]
        lines += [f"measured in {name}: {_line(check)}" for check in measured if check.passed]
        lines += [f"FAILED in {name}: {_line(check)}" for check in one.checks if not check.passed]
        lines += [f"FAILED in {name}: {one.error}"] if one.error else []
    return "\n".join(lines)


def _share(check: Check) -> float:
    """Return which share of what it may be an error is; zero for what is no error."""
    if check.value is None or check.low is not None or not check.high:
        return 0.0
    return check.value / check.high


def _line(check: Check) -> str:
    """Return a check in words; of its note the end, where an error's message stands."""
    value = "no number" if check.value is None else f"{check.value:.4g}"
    limits = [("from", check.low), ("to", check.high)]
    words = [f"{check.name}: {value}", *(f"{word} {x:.4g}" for word, x in limits if x is not None)]
    note = f" ({check.note.strip()[-300:]})" if check.note else ""
    return ", ".join(words) + note


if __name__ == "__main__":
    from auscult.errors import UserError

    try:
        sys.exit(main())
    except (UserError, OSError) as error:
        sys.exit(f"gpu_check: {error}")
