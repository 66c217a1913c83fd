"""Speech that is none: tones with every label that a task may want, written as a tsv corpus."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile

import auscult
from auscult.contracts import SAMPLE_RATE

STRIDE = 320  # samples; every part is a multiple long
PHONES = {"a": 400.0, "i": 1200.0, "u": 2000.0, "o": 2800.0}  # Hz
VOICES = {"ann": 3800.0, "bob": 5200.0, "cat": 6600.0}
COLUMNS = "path utt speaker split keyword emotion transcript slot_tags slots_json".split()


def write_tones(folder: Path, takes: int) -> Any:
    """Write utterances of two tones by three speakers, and return the corpus.

    Every speaker stands in every split, half of whose takes are for training. An utterance is a
    phone, a pause and another phone, above them the speaker's own tone; the first is said by one
    party and the second by another, which makes it a recording of two.

    Args:
        folder: A new one.
        takes: Utterances of each speaker.
    """
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    rows, times, turns = ["\t".join(COLUMNS)], ["utt\tstart\tend\tphone"], []
    for take in range(takes):
        split = "train" if 2 * take < takes else "dev" if 4 * take < 3 * takes else "test"
        for speaker, pitch in VOICES.items():
            utt, one, two = f"{speaker}-{take}", "ai"[take % 2], "uo"[take // 2 % 2]
            emotion, level = (("calm", 0.05), ("angry", 0.4))[int(generator.integers(2))]
            ends = np.cumsum([int(generator.integers(9, 16)), 3, int(generator.integers(9, 16))])
            ends *= STRIDE
            time = np.arange(ends[-1]) / SAMPLE_RATE
            wave = np.sin(2 * np.pi * pitch * time) / 3
            parts = ((0, ends[0], one, "x"), (ends[1], ends[2], two, "y"))
            for start, end, phone, party in parts:
                wave[start:end] += np.sin(2 * np.pi * PHONES[phone] * time[start:end])
                times.append(f"{utt}\t{start}\t{end}\t{phone}")
                begin, length = start / SAMPLE_RATE, (end - start) / SAMPLE_RATE
                turns.append(f"SPEAKER {utt} 1 {begin} {length} <NA> <NA> {utt}-{party} <NA> <NA>")
            wave = level * wave + 0.02 * generator.standard_normal(len(wave))
            soundfile.write(folder / f"{utt}.wav", wave.clip(-1, 1), SAMPLE_RATE)
            slots = f'{{"first": "{one}", "second": "{two}"}}'
            labels = (one, emotion, f"{one} {two}", "O B-second", slots)
            rows.append("\t".join((f"{utt}.wav", utt, speaker, split, *labels)))
    (folder / "MANIFEST.tsv").write_text("\n".join(rows) + "\n")
    (folder / "PHONES.tsv").write_text("\n".join(times) + "\n")
    (folder / "all.rttm").write_text("\n".join(turns) + "\n")
    return auscult.corpus(f"tsv:{folder}")
