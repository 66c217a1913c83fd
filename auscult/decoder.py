"""Audio files as samples: one decoder for the check of a corpus and for all reading after it.

libsndfile does the work, by content and whatever a name ends with. Files are decoded from their
beginning, block after block, unless their codec is known to go on exactly from any sample: many
cannot seek at all, and after a seek MP3, Vorbis and Opus give other samples than in a row.
"""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

LEAST_RATE, GREATEST_RATE = 4_000, 192_000  # Hz; what speech is recorded at, with room
_BLOCK = 2**20  # samples of all channels that are decoded at a time
_SEEKING_FORMATS = ("AIFF", "AU", "CAF", "FLAC", "NIST", "RF64", "W64", "WAV", "WAVEX")
_SEEKING_CODECS = ("PCM_", "ALAC_", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM")
_UNREAD = (  # place and first bytes of what people have and libsndfile does not read
    (4, b"ftyp", "MPEG-4 audio (m4a, AAC)"),
    (0, b"\x1aE\xdf\xa3", "a Matroska or WebM file"),
    (0, b"\x30\x26\xb2\x75", "Windows Media audio"),
    (0, b"\xff\xf1", "AAC audio"),
    (0, b"\xff\xf9", "AAC audio"),
    (0, b"#!AMR", "AMR audio"),
    (0, b"#!SILK", "SILK audio"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"wvpk", "WavPack audio"),
)


class Undecodable(Exception):
    """A file that holds no audio that can be read; says why, to stand after a colon."""


class AudioFile(soundfile.SoundFile):  # type: ignore[misc]  # which has no types
    """An open audio file that is decoded in a row; see :func:`open_audio`."""

    def seekable(self) -> bool:
        """Return False: soundfile seeks after each block it read, if it may, which is no no-op."""
        return False

    def blocks_from(
        self, start: int = 0, count: int | None = None
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the samples (time, channel) in blocks, until ``count`` or the end of the file.

        They end where the file does, whatever its header says. To be called once.

        Args:
            start: The first sample.
            count: How many; all by default.

        Raises:
            Undecodable: What comes next is damaged.
        """
        skipped = 0
        with _decoding(Path(self.name)):
            if start and self._goes_on_anywhere():
                skipped = self.seek(min(start, self.frames))
        end = None if count is None else start + count
        while end is None or skipped < end:
            promised = self.frames - skipped  # libsndfile fills up with zeros what it lacks
            beyond = max(skipped // 8, 64)
            size = min(max(promised, beyond), max(_BLOCK // self.channels, 1))
            size = size if end is None else min(size, end - skipped)
            with _decoding(Path(self.name)):
                found = self.read(size, dtype="float32", always_2d=True)
            block: NDArray[np.float32] = np.asarray(found, dtype=np.float32)
            if len(block) == 0:
                return
            if skipped + len(block) > start:
                yield block[max(start - skipped, 0) :]
            skipped += len(block)

    def samples(self, start: int = 0, count: int | None = None) -> NDArray[np.float32]:
        """Return the samples (time, channel), as :meth:`blocks_from` gives them."""
        blocks = list(self.blocks_from(start, count))
        return np.concatenate(blocks or [np.zeros((0, self.channels), np.float32)])

    def _goes_on_anywhere(self) -> bool:
        return (
            super().seekable()
            and self.format in _SEEKING_FORMATS
            and self.subtype.startswith(_SEEKING_CODECS)
        )


@contextmanager
def open_audio(path: Path) -> Iterator[AudioFile]:
    """Open an audio file to be decoded.

    Raises:
        Undecodable: It is no regular file, or none in a format that is read.
    """
    with _decoding(path):
        if not stat.S_ISREG(path.stat().st_mode):
            raise Undecodable("it is not a regular file")
        file = AudioFile(path)
    with file:
        yield file


def rate_problem(rate: int) -> str:
    """Say what is wrong with a rate in Hz, to stand after a file's name; "" where nothing is."""
    if LEAST_RATE <= rate <= GREATEST_RATE:
        return ""
    return (
        f"has {rate:,} samples a second; rates from {LEAST_RATE:,} to {GREATEST_RATE:,} Hz are read"
    )


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Turn what soundfile and the system raise into one sentence."""
    try:
        yield
    except TypeError as error:  # soundfile, of a name that ends with .raw
        raise Undecodable("it has no header that says its rate and format") from error
    except (soundfile.SoundFileError, RuntimeError, OSError, ValueError) as error:
        raise Undecodable(_unread(path) or _reason(error)) from error


def _reason(error: Exception) -> str:
    said = getattr(error, "error_string", "") or getattr(error, "strerror", "") or str(error)
    return said.removeprefix("Error : ").strip().rstrip(".")


def _unread(path: Path) -> str:
    """Return what a file is and what to do with it, where it is of a known kind."""
    try:
        with path.open("rb") as file:
            head = file.read(2048)
    except (OSError, ValueError):
        return ""
    kind = next((name for at, mark, name in _UNREAD if head[at:].startswith(mark)), "")
    if head.startswith(b"NIST_1A") and b"shorten" in head:
        kind = "a SPHERE file compressed by shorten (`sph2pipe -f wav` unpacks it)"
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer to a file that Git LFS has not fetched (`git lfs pull`)"
    return f"it is {kind}, which is not read; convert it to WAV or FLAC" if kind else ""
