"""Transcripts as heads spell them: upper case, words and apostrophes, nothing else."""

import unicodedata

APOSTROPHES = str.maketrans(dict.fromkeys("\u2019\u02bc\u2018\u00b4`", "'"))


def spelled(transcript: str) -> str:
    """Return a transcript in upper case, its words separated by one space.

    Letters, the marks on them, digits and apostrophes stay; all else separates words, and what has
    neither letter nor digit is no word. Transcripts of LibriSpeech are returned as they are.
    """
    text = unicodedata.normalize("NFC", transcript.translate(APOSTROPHES).upper())
    kept = "".join(c if c == "'" or unicodedata.category(c)[0] in "LMN" else " " for c in text)
    return " ".join(word for word in kept.split() if word.strip("'"))
