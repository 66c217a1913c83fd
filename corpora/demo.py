"""``demo``: ten minutes of synthetic commands with exact labels, made by espeak-ng on demand.

24 voices say 20 sentences each, such as "raise the kitchen heating"; no sentence occurs twice in
the corpus. Phone and word times are those of the synthesizer, in samples. It is synthetic speech:
its numbers show that the tools work and say nothing about speech.

The corpus is written once as a ``tsv`` corpus into the cache folder and read from there, with the
hashes of its files: where one was damaged since, all of it is made anew, equal to the bit.
"""

import importlib.util
import io
import itertools
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from auscult import kept
from auscult.cache import cache_folder
from auscult.contracts import SAMPLE_RATE
from auscult.errors import UserError
from auscult.progress import logger, track
from auscult.tree import walk
from auscult.watch import file_sha256
from auscult.whole_file import disk_problem, whole_folder, writing

from . import tsv
from .espeak import Take
from .item import Listing, Span

VERSION = 1  # bumped whenever the corpus changes; part of the folder's name
SEED = 1
HASHES = "HASHES.json"
NOTE = (
    "This is synthetic speech by espeak-ng: its numbers show that the tools work and say nothing "
    "about speech."
)

# Voices far apart in long-term spectrum and pitch; the sex is that of the voice's name or file.
# Not f5 and victor: their breath noise differs from one process to the next, whatever the seed.
VOICES = {
    "train": {
        "default": "m", "anika": "f", "shelby": "f", "linda": "f", "Nguyen": "m", "grandma": "f",
        "ed": "m", "Jacky": "m", "klatt2": "m", "travis": "m", "norbert": "m", "Annie": "f",
        "antonio": "m", "kaukovalta": "m",
    },
    "dev": {"aunty": "f", "iven2": "m", "rob": "m", "RicishayMax3": "m"},
    "test": {"steph2": "f", "Andrea": "f", "david": "m", "mike2": "m", "Lee": "m", "pablo": "m"},
}  # fmt: skip
ACTIONS = {
    "start": "activate", "open": "activate", "stop": "deactivate", "close": "deactivate",
    "raise": "increase", "boost": "increase", "lower": "decrease", "reduce": "decrease",
    "fetch": "bring", "carry": "bring",
}  # fmt: skip
OBJECTS = (
    "music", "washing", "lights", "radio", "heating", "oven",
    "toys", "towels", "thermometer", "juice", "cookbooks", "television",
)  # fmt: skip
LOCATIONS = ("none", "kitchen", "bathroom", "bedroom", "garage", "hall")
SENTENCES_EACH = 20
SENTENCE_SPLITS = ("train",) * 14 + ("dev",) * 3 + ("test",) * 3  # of each voice's sentences

# espeak-ng's mnemonics for American English, as far as the sentences need them, and ARPAbet's.
PHONES = {
    "A:": "aa", "A@": "aa", "0": "aa", "a": "ae", "aa": "ae", "@": "ah", "@2": "ah", "V": "ah",
    "O:": "ao", "O@": "ao", "aU": "aw", "aI": "ay", "b": "b", "tS": "ch", "d": "d", "D": "dh",
    "t#": "dx", "E": "eh", "3": "er", "3:": "er", "eI": "ey", "f": "f", "g": "g", "h": "hh",
    "I": "ih", "I2": "ih", "I#": "ih", "i": "iy", "i:": "iy", "dZ": "jh", "k": "k", "l": "l",
    "@L": "l", "m": "m", "n": "n", "N": "ng", "oU": "ow", "OI": "oy", "p": "p", "r": "r",
    "s": "s", "S": "sh", "t": "t", "t2": "t", "T": "th", "U": "uh", "u:": "uw", "v": "v",
    "w": "w", "j": "y", ";": "y", "z": "z", "Z": "zh", "_": "sil", "_:": "sil",
}  # fmt: skip
SILENCE = "sil"

LEVEL = 0.05  # root mean square of every utterance
NOISE = 0.0003  # standard deviation of the noise under it, so that pauses are not digital zeros
EDGE_SECONDS = (0.05, 0.15)  # of silence before and after


@dataclass(frozen=True, slots=True)
class _Utterance:
    """One line of the manifest, and how it is spoken."""

    id: str
    keyword: str
    slots: dict[str, str]
    split: str
    sentence_split: str
    sex: str
    take: Take


def read(_folder: Path, split: str | None) -> Listing:
    """List the demo corpus; make it first where it has not been made yet.

    Raises:
        UserError: espeak-ng is not installed.
    """
    folder = cache_folder() / f"demo-{VERSION}"
    if not _is_whole(folder):
        _make(folder)
    listing = tsv.read(folder, split)
    listing.notes.insert(0, NOTE)
    return listing


def _is_whole(folder: Path) -> bool:
    """Say whether the corpus is there as it was made; one that was damaged is removed."""
    if not folder.is_dir():
        return False
    hashes = kept.read_json(folder / HASHES) or {HASHES: ""}  # the list itself is gone
    for name, sha256 in hashes.items():
        path = folder / name
        if not path.is_file() or file_sha256(path) != sha256:
            logger.warning(f"{path} is not as it was made; the demo corpus is made anew.")
            with writing(folder):
                shutil.rmtree(folder)
            return False
    return True


def _make(folder: Path) -> None:
    """Generate the corpus beside ``folder``, whose place it takes when it is complete."""
    if importlib.util.find_spec("espeakng_loader") is None:
        raise UserError(
            "The demo corpus is spoken by espeak-ng, which is not installed: "
            "pip install 'auscult[demo]'."
        )
    logger.info(f"Making the demo corpus in {folder} (once).")
    with whole_folder(folder) as work:
        _write(work, list(_plan()))
        hashes = {path.relative_to(work).as_posix(): file_sha256(path) for path in walk(work)}
        kept.write_json(hashes, work / HASHES)


def _plan() -> Iterator[_Utterance]:
    """Draw who says what and how."""
    draw = random.Random(SEED)
    voices = [(split, name) for split, names in VOICES.items() for name in names]
    everything = list(itertools.product(ACTIONS, OBJECTS, LOCATIONS))
    sentences = iter(draw.sample(everything, len(voices) * SENTENCES_EACH))
    for split, voice in voices:
        parts = draw.sample(SENTENCE_SPLITS, len(SENTENCE_SPLITS))
        for number, part in enumerate(parts):
            keyword, thing, location = next(sentences)
            words = [keyword, "the", location, thing]
            text = " ".join(word for word in words if word != "none")
            take = Take(text, voice, draw.randint(165, 205), draw.randint(40, 60), volume=50)
            slots = {"action": ACTIONS[keyword], "object": thing, "location": location}
            name = f"{voice.lower()}-{number:02}"
            sex = VOICES[split][voice]
            yield _Utterance(name, keyword, slots, split, part, sex, take)


def _write(folder: Path, plan: Sequence[_Utterance]) -> None:
    """Speak ``plan`` and write it as a tsv corpus."""
    manifest: list[list[object]] = []
    phone_rows: list[list[object]] = []
    word_rows: list[list[object]] = []
    noise = np.random.default_rng(SEED)
    (folder / "flac").mkdir()
    speech = _speak(folder, [utterance.take for utterance in plan])
    for utterance, (samples, spoken) in track(
        zip(plan, speech, strict=True), "Making the demo corpus", len(plan), "utterances"
    ):
        path = f"flac/{utterance.id}.flac"
        audio, before = _finish(samples, spoken["rate"], noise)
        file = io.BytesIO()  # soundfile would wait for the disk after each file
        soundfile.write(file, audio, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        (folder / path).write_bytes(file.getvalue())
        phones, words = _times(spoken, utterance.take.text, before, len(audio))
        phone_rows += [[utterance.id, *span] for span in phones]
        word_rows += [[utterance.id, *span] for span in words]
        take = utterance.take
        labels = [take.voice.lower(), utterance.sex, take.text, "en", utterance.keyword]
        spoken_as = [json.dumps(utterance.slots), take.speed, take.pitch]
        splits = [utterance.split, utterance.sentence_split]
        manifest.append([path, utterance.id, *labels, *spoken_as, *splits])
    columns = ["path", "utt", "speaker", "sex", "transcript", "language", "keyword", "slots_json"]
    columns += ["speed", "pitch", "split", "sid_split"]
    tsv.write_table(folder / "MANIFEST.tsv", columns, manifest)
    tsv.write_table(folder / "PHONES.tsv", ["utt", "start", "end", "phone"], phone_rows)
    tsv.write_table(folder / "WORDS.tsv", ["utt", "start", "end", "word"], word_rows)


def _speak(
    folder: Path, takes: Sequence[Take]
) -> Iterator[tuple[NDArray[np.int16], dict[str, Any]]]:
    """Yield the samples of each take, and its rate and phones."""
    raw = folder / "speech.raw"
    command = [sys.executable, "-m", "auscult.corpora.espeak", str(raw)]
    asked = json.dumps([asdict(take) for take in takes])
    done = subprocess.run(command, input=asked, capture_output=True, text=True)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        if disk_problem(OSError(reason), folder):
            raise OSError(reason)  # which whole_folder says
        raise UserError(f"espeak-ng could not make the demo corpus: {reason}")
    samples = np.fromfile(raw, dtype=np.int16)
    raw.unlink()
    at = 0
    for line in done.stdout.splitlines():
        spoken = json.loads(line)
        yield samples[at : at + spoken["samples"]], spoken
        at += spoken["samples"]


def _finish(
    samples: NDArray[np.int16], rate: int, noise: np.random.Generator
) -> tuple[NDArray[np.float32], int]:
    """Bring speech to 16 kHz, one level, silence around and noise under it.

    Returns:
        Samples (time,), and how many of them stand before the speech.
    """
    speech = soxr.resample(samples.astype(np.float64), rate, SAMPLE_RATE, quality="VHQ")
    speech *= LEVEL / np.sqrt(np.mean(speech**2))
    before, after = (round(seconds * SAMPLE_RATE) for seconds in noise.uniform(*EDGE_SECONDS, 2))
    audio = np.pad(speech, (before, after))
    audio += NOISE * noise.standard_normal(len(audio))
    return np.clip(audio, -1.0, 1.0).astype(np.float32), before


def _times(
    spoken: dict[str, Any], text: str, before: int, length: int
) -> tuple[list[Span], list[Span]]:
    """Return phones and words in samples of the finished audio.

    The synthesizer's word events are rough, and one stands for both words of pairs such as "in
    the"; its phones say which word they belong to, and words begin and end with their phones.
    """
    scale = SAMPLE_RATE / spoken["rate"]
    starts = [before + round(start * scale) for start, _, _ in spoken["phones"]]
    ends = [*starts[1:], length]
    phones: list[Span] = []
    words: dict[int, Span] = {}
    if starts[0] > 0:
        phones.append(Span(0, starts[0], SILENCE))
    for start, end, (_, position, mnemonic) in zip(starts, ends, spoken["phones"], strict=True):
        if mnemonic not in PHONES:
            raise UserError(
                f"The installed espeak-ng says {mnemonic!r} in {text!r}, a phone that the demo "
                "corpus does not know; install espeakng-loader 0.2.4."
            )
        symbol = PHONES[mnemonic]
        if end > start and phones and phones[-1].symbol == symbol == SILENCE:
            phones[-1] = Span(phones[-1].start, end, symbol)
        elif end > start:
            phones.append(Span(start, end, symbol))
        if symbol != SILENCE:
            word = text[position - 1 :].partition(" ")[0]
            first = words.get(position)
            words[position] = Span(first.start if first else start, end, word)
    found = [words[position] for position in sorted(words)]
    if [span.symbol for span in found] != text.split():
        raise RuntimeError(f"espeak-ng's words of {text!r} are {[s.symbol for s in found]}.")
    return phones, found
