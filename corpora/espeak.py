"""espeak-ng as a library, run once in a process of its own.

``python -m auscult.corpora.espeak AUDIO`` reads a JSON list of ``Take`` on standard input, speaks
them in order, writes all samples (int16, one after the other) to the file AUDIO and one JSON
object for each take to standard output: ``rate``, ``samples`` and ``phones``, a list of (start
sample, position of the word in the text, mnemonic).

A process of its own, because espeak-ng keeps state from one sentence to the next and draws its
noise from the C library: only a fresh process with a fixed seed and a fixed order of sentences
gives the same samples every time.
"""

import ctypes
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LANGUAGE = "en-us"
SYNCHRONOUS, PHONEME_EVENTS, DONT_EXIT = 2, 1, 0x8000
RATE, VOLUME, PITCH = 1, 2, 3  # parameters
PHONEME = 7  # event type
CHARACTERS, UTF8 = 1, 1
LONGEST_PATH = 140  # bytes; the library gives up, without a code, a little above


@dataclass(frozen=True, slots=True)
class Take:
    """One sentence as one voice says it."""

    text: str
    voice: str  # a variant of espeak-ng, or "default"
    speed: int  # words a minute
    pitch: int  # 0 to 99
    volume: int  # 0 to 200


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("text", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique", ctypes.c_uint),
        ("position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("milliseconds", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class Synthesizer:
    """The library, initialised. One in a process."""

    def __init__(self, library: str, data: Path) -> None:
        self._library = ctypes.CDLL(library)
        self._data = data
        self.rate: int = self._library.espeak_Initialize(
            SYNCHRONOUS, 0, os.fsencode(data), PHONEME_EVENTS | DONT_EXIT
        )
        if self.rate <= 0:
            raise RuntimeError(f"espeak-ng does not start with the data in {data}.")
        ctypes.CDLL("ucrtbase" if os.name == "nt" else None).srand(1)
        self._audio = bytearray()
        self._phones: list[tuple[int, int, str]] = []
        self._callback = _CALLBACK(self._receive)  # kept: the library holds only its address
        self._library.espeak_SetSynthCallback(self._callback)

    def say(self, take: Take) -> tuple[bytes, list[tuple[int, int, str]]]:
        """Return int16 samples and phones: start sample, position in the text, mnemonic."""
        self._audio.clear()
        self._phones.clear()
        name = LANGUAGE if take.voice == "default" else f"{LANGUAGE}+{take.voice}"
        # the library takes an unknown variant without a word
        if take.voice != "default" and not (self._data / "voices" / "!v" / take.voice).is_file():
            raise RuntimeError(f"espeak-ng has no voice variant {take.voice!r}.")
        self._check("SetVoiceByName", self._library.espeak_SetVoiceByName(name.encode()))
        for parameter, value in ((RATE, take.speed), (VOLUME, take.volume), (PITCH, take.pitch)):
            self._check("SetParameter", self._library.espeak_SetParameter(parameter, value, 0))
        text = take.text.encode()
        size = ctypes.c_size_t(len(text) + 1)
        code = self._library.espeak_Synth(text, size, 0, CHARACTERS, 0, UTF8, None, None)
        self._check("Synth", code)
        self._check("Synchronize", self._library.espeak_Synchronize())
        return bytes(self._audio), list(self._phones)

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        if samples and count:
            self._audio += ctypes.string_at(samples, 2 * count)
        position = 0
        while events[position].type != 0:
            event = events[position]
            if event.type == PHONEME:
                mnemonic = event.id.text.decode("ascii").lstrip("',")
                self._phones.append((event.sample, event.position, mnemonic))
            position += 1
        return 0

    @staticmethod
    def _check(call: str, code: int) -> None:
        if code != 0:
            raise RuntimeError(f"espeak_{call} failed with code {code}.")


def short_path(data: Path, folder: Path) -> Path:
    """Return ``data``, or a link to it in ``folder`` where its name is too long."""
    if len(os.fsencode(data)) <= LONGEST_PATH:
        return data
    link = folder / "data"
    link.symlink_to(data, target_is_directory=True)
    return link


def main() -> None:
    """Speak the takes on standard input; see the module's docstring."""
    import espeakng_loader

    takes = [Take(**values) for values in json.load(sys.stdin)]
    with tempfile.TemporaryDirectory() as folder, open(sys.argv[1], "wb") as audio:
        data = short_path(Path(espeakng_loader.get_data_path()), Path(folder))
        synthesizer = Synthesizer(espeakng_loader.get_library_path(), data)
        for take in takes:
            samples, phones = synthesizer.say(take)
            audio.write(samples)
            spoken = {"rate": synthesizer.rate, "samples": len(samples) // 2, "phones": phones}
            print(json.dumps(spoken))


if __name__ == "__main__":
    main()
