"""Ctrl-C where Python alone would lose it: in a weak reference's callback, in compiled code."""

import subprocess
import sys

import pytest

BEGIN = """
import os, signal, sys, time, weakref
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from auscult import cli
from auscult.errors import UserError

class Thing:
    pass

def stop():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)

def work():
    try:
        stop()
    except KeyboardInterrupt:  # what safetensors' compiled code does
        raise {error} from None

def finaliser():
    def collected(reference):
        stop()
    thing = Thing()
    kept = weakref.ref(thing, collected)
    del thing
    for _ in range(200):
        time.sleep(0.05)
    print("went on")

def swallowed():
    from auscult.progress import progress
    with progress("Working", 3) as advance:
        for _ in range(3):
            try:
                stop()
            except KeyboardInterrupt:  # what handles the error that a library made of it
                pass
            advance()
            print("went on")

cli._run = {work}
cli.main()
"""


def _run(work: str, error: str = "None") -> subprocess.CompletedProcess[str]:
    program = BEGIN.format(work=work, error=error)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


@pytest.mark.parametrize("error", ["ValueError('x')", "OSError(5, 'no', 'f')", "UserError('x')"])
def test_error_that_a_library_makes_of_it_is_an_interrupt(error: str) -> None:
    done = _run("work", error)
    assert done.returncode == 130
    assert done.stderr == "auscult: interrupted; the same command goes on from here.\n"


def test_interrupt_of_a_finaliser_is_raised_again() -> None:
    done = _run("finaliser")
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert "went on" not in done.stdout


def test_interrupt_that_is_swallowed_ends_the_work_at_its_next_step() -> None:
    done = _run("swallowed")
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert "went on" not in done.stdout


def test_interrupt_after_the_end_changes_nothing() -> None:
    done = _run("lambda: __import__('atexit').register(stop) and 0")
    assert (done.returncode, done.stderr) == (0, "")


def test_ignored_interrupts_stay_ignored() -> None:
    work = "lambda: signal.getsignal(signal.SIGINT) is signal.SIG_IGN and 7"
    program = BEGIN.format(work=work, error="None").replace(
        "signal.default_int_handler)", "signal.SIG_IGN)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 7


def test_errors_of_our_own_are_raised() -> None:
    done = _run("lambda: 1 / 0")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
