"""The command line: the one place, beside ``auscult.load``, where the rooms are joined.

Each verb is a module of this folder with one function. Modules import rooms and torch inside
their functions, so that ``auscult --help`` is instant.
"""

import io
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

from auscult.errors import UserError
from auscult.foreign import blame
from auscult.interrupt import Interrupts
from auscult.shown import on_one_line, shown

INTERRUPTED = 130


def main() -> None:
    """Run the command line; exit 0 on success, 2 for a user's mistake, 130 when interrupted."""
    # Before torch starts its threads: they sleep while they wait for each other. Spinning, which is
    # libgomp's default, makes probes several times slower once anything else uses the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Before torch takes memory: large tensors in huge pages, which spares an encoder's convolutions
    # a tenth of their time, spent in page faults.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    interrupts = Interrupts()
    interrupts.listen()
    try:
        status = _run()
    except KeyboardInterrupt:
        status = INTERRUPTED
    except Exception as error:
        if not interrupts.heard:
            _exit_on(error)
        status = INTERRUPTED
    finally:
        interrupts.end()
        logging.shutdown()
    if status == INTERRUPTED:
        print("auscult: interrupted; the same command goes on from here.", file=sys.stderr)
    sys.exit(status if isinstance(status, int) else 0)


def _run() -> object:
    """Run what was typed; return what typer returns, which turns Ctrl-C into 130."""
    from auscult.cli.app import app

    for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a character shows its number
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    status = app(standalone_mode=False)
    sys.stdout.flush()
    return status


def _exit_on(error: Exception) -> NoReturn:
    """Exit with the status and the sentence of an error; raise it where it is our own."""
    if isinstance(error, UserError):
        sys.exit(_mistake(str(error)))
    if isinstance(error, OSError):
        _exit_on_system_error(error)
    _exit_on_usage_error(error)
    _exit_on_lack_of_memory(error)
    if reason := blame(error):  # somebody's own code, which came in by a plug-in's door
        sys.exit(_mistake(f"your own code raised {reason}."))
    raise error


def _mistake(sentence: str) -> int:
    print(f"auscult: {on_one_line(sentence)}", file=sys.stderr)
    return 2


def _exit_on_system_error(error: OSError) -> NoReturn:
    """Exit with status 2 where a file cannot be read or written, 1 where nobody reads on."""
    if error.filename is not None:
        reason = error.strerror or type(error).__name__
        sys.exit(_mistake(f"{error.filename} cannot be read or written: {reason}."))
    _exit_on_a_library(error)
    from auscult.whole_file import disk_problem

    problem = disk_problem(error, Path())
    if problem is None and not isinstance(error, BrokenPipeError):
        raise error
    try:
        sys.stdout.flush()
    except OSError:  # it would be tried again, and complained of, when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if problem is None:
        sys.exit(1)
    sys.exit(
        _mistake(
            f"the disk {problem} to which output is sent, or where temporary files are (TMPDIR "
            "chooses another folder for them); what was finished before is kept. Mend that, then "
            "type the same command again: it goes on from there."
        )
    )


def _exit_on_a_library(error: OSError) -> None:
    """Exit with status 2 where torchaudio's library was built for another torch."""
    if "torchaudio" not in str(error) or ".so" not in str(error):
        return
    from importlib.metadata import requires, version

    found = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchaudio"))
    wanted = " ".join(f"'{need}'" for need in requires("auscult") or () if need.startswith("torch"))
    sys.exit(
        _mistake(
            f"torchaudio's library does not load beside this torch (found: {found}). Install those "
            f"that Auscult works with: pip install {wanted}"
        )
    )


def _exit_on_lack_of_memory(error: Exception) -> None:
    """Exit with status 2 where an allocation failed that no part of the work has advice for."""
    if "torch" not in sys.modules:
        return
    from auscult.memory import lacks_memory

    if lacks_memory(error):
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        advice = "try a smaller encoder or shorter audio, or another --device"
        sys.exit(_mistake(f"memory does not suffice; {advice}. What failed: {reason}"))


def _exit_on_usage_error(error: Exception) -> None:
    """Exit with status 2 where typer itself found the mistake on the command line."""
    show = getattr(error, "show", None)
    if callable(show):
        said = io.StringIO()
        show(file=said)
        print(shown(said.getvalue(), lines=True), end="", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 2))
