"""TensorBoard's curves of one run, written at once.

tensorboardX's own writer hands everything to a thread. Where the disk is full that thread dies, and
whoever writes next waits for it without end.
"""

import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from auscult.whole_file import writing


class Board:
    """Scalars by step, in a new file of ``folder``.

    Args:
        folder: For TensorBoard to read.
        first: The first step that will be noted; what a killed run noted from it on is hidden.

    Raises:
        UserError: The disk is full, or the folder cannot be written; also whenever it is used.
    """

    def __init__(self, folder: Path, first: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        self._messages: Any = import_module("tensorboardX.proto.event_pb2")
        self._path = folder / "events"  # what the names of its files begin with
        start = self._messages.SessionLog(status=self._messages.SessionLog.START)
        with writing(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(self._path), f".{first}")
            self._writer.write_event(self._messages.Event(step=first, session_log=start))
            self._writer.flush()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Note the values after ``step`` updates."""
        from tensorboardX.summary import scalar

        with writing(self._path):
            for name, value in values.items():
                summary = scalar(name, value)
                found = self._messages.Event(wall_time=time.time(), step=step, summary=summary)
                self._writer.write_event(found)
            self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        with writing(self._path):
            self._writer.close()
