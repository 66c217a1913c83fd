"""Where one utterance's attention maps wait for their pairs: memory, or a temporary file."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from auscult.errors import UserError

from .kernel import BLOCK

TILE_BYTES = 16 * 2**20


class MapStack:
    """Maps of one utterance, appended one by one and read back side by side.

    144 maps of 30 s are 1.3 GB. Above ``memory_limit`` bytes they are written to an unnamed file in
    the temporary folder (``TMPDIR`` chooses another) and read back a tile at a time. Plain
    reads rather than a memory map, whose pages would count as the process's own memory.
    """

    def __init__(self, num_maps: int, num_frames: int, memory_limit: int) -> None:
        self.num_maps = num_maps
        self.num_frames = num_frames
        self.num_stored = 0
        self._scope = ExitStack()
        shape = (num_maps, num_frames**2)
        if 4 * num_maps * num_frames**2 <= memory_limit:
            self._memory: NDArray[np.float32] | None = np.empty(shape, np.float32)
        else:
            self._memory = None
            try:
                self._file = self._scope.enter_context(tempfile.TemporaryFile(prefix="auscult-"))
            except OSError as error:
                raise UserError(
                    f"The attention maps of a long utterance have no temporary folder ({error}); "
                    "set TMPDIR to one that may be written."
                ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._memory = None
        self._scope.close()

    def append(self, weights: NDArray[np.float32]) -> None:
        """Store one map, (frame, frame).

        Raises:
            UserError: The temporary folder is full.
        """
        if self._memory is not None:
            self._memory[self.num_stored] = weights.reshape(-1)
        else:
            try:
                self._file.write(np.ascontiguousarray(weights).data)
            except OSError as error:
                raise UserError(
                    f"The temporary folder {tempfile.gettempdir()} cannot take the attention maps "
                    f"of a long utterance ({error.strerror}); set TMPDIR to a larger one."
                ) from error
        self.num_stored += 1

    def tiles(self) -> Iterator[NDArray[np.float32]]:
        """Yield the elements of all maps, side by side, (map, element)."""
        if self._memory is not None:
            yield self._memory
            return
        size = self.num_frames**2
        width = max(1, TILE_BYTES // (4 * self.num_maps * BLOCK)) * BLOCK
        for start in range(0, size, width):
            tile = np.empty((self.num_maps, min(width, size - start)), np.float32)
            for i, row in enumerate(tile):
                self._file.seek(4 * (i * size + start))
                self._file.readinto(row.data)
            yield tile
