"""Ctrl-C that is never lost: Python's own is, where a library is at work when it comes.

Python raises KeyboardInterrupt in whatever runs. Where that is a finaliser or the callback of a
weak reference, the interpreter prints it and goes on; where it is a call from compiled code, some
libraries turn it into an error of their own, as safetensors does. Whoever handles that error goes
on; long work therefore asks now and then, by :func:`check`, whether an interrupt came.
"""

import signal
import sys
import threading
from types import FrameType

PAUSE = 0.01  # seconds until a lost interrupt is raised again: the finaliser is over by then


class Interrupts:
    """A handler of SIGINT that raises KeyboardInterrupt, remembers it, and raises lost ones again.

    Attributes:
        heard: Whether Ctrl-C came; an error that ends the work afterwards is a consequence.
    """

    def __init__(self) -> None:
        self.heard = False
        self._unraisable = sys.unraisablehook

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGINT."""
        self.heard = True
        raise KeyboardInterrupt

    def listen(self) -> None:
        """Begin, where Ctrl-C raises KeyboardInterrupt; one that is ignored stays so."""
        if threading.current_thread() is threading.main_thread() and raises():
            signal.signal(signal.SIGINT, self)
            sys.unraisablehook = self._again

    def end(self) -> None:
        """Ignore Ctrl-C from now on: the work is over and its status is known."""
        if signal.getsignal(signal.SIGINT) is self:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _again(self, problem: "sys.UnraisableHookArgs") -> None:
        if not issubclass(problem.exc_type, KeyboardInterrupt):
            self._unraisable(problem)
            return
        main = threading.main_thread().ident
        if main is not None:
            later = threading.Timer(PAUSE, signal.pthread_kill, (main, signal.SIGINT))
            later.daemon = True
            later.start()


def check() -> None:
    """Raise an interrupt that came and was lost; called wherever a progress line moves on.

    Raises:
        KeyboardInterrupt: One came, and work goes on all the same.
    """
    handler = signal.getsignal(signal.SIGINT)
    if isinstance(handler, Interrupts) and handler.heard:
        raise KeyboardInterrupt


def raises() -> bool:
    """Say whether Ctrl-C raises KeyboardInterrupt in this process."""
    handler = signal.getsignal(signal.SIGINT)
    return handler is signal.default_int_handler or isinstance(handler, Interrupts)
