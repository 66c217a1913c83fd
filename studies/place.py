"""Where SUPERB's data are looked for: the folders that its scripts make, by task."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where SUPERB's data for a task are looked for, below the folder that --data names."""

    reader: str
    folders: tuple[str, ...]  # the first that looks right is taken
    columns: tuple[str | None, ...] = (None,)  # split columns, a run each
    files: tuple[tuple[str, tuple[str, ...]], ...] = ()  # setting, the files it names, if all there


_LIBRISPEECH = ("LibriSpeech", "librispeech", "Librispeech")
_VOXCELEB = ("VoxCeleb1", "voxceleb1", "Voxceleb1", "VoxCeleb")
PLACES: Mapping[str, Place] = {
    "phoneme_recognition": Place(
        reader="librispeech",
        folders=_LIBRISPEECH,
        files=(
            (
                "lexicon",
                ("librispeech-lexicon-200k-g2p.txt", "librispeech-lexicon-allothers-g2p.txt"),
            ),
        ),
    ),
    "speech_recognition": Place(
        reader="librispeech", folders=_LIBRISPEECH, files=(("lm", ("4-gram.arpa.gz",)),)
    ),
    "keyword_spotting": Place(
        reader="speech_commands",
        folders=(
            "speech_commands_v0.01",
            "SpeechCommands",
            "speech_commands",
            "speech_commands_v0.02",
        ),
    ),
    "query_by_example": Place(
        reader="quesst14", folders=("quesst14Database", "QUESST14", "QUESST2014", "quesst14")
    ),
    "speaker_identification": Place(reader="voxceleb1", folders=_VOXCELEB),
    "speaker_verification": Place(reader="voxceleb1", folders=_VOXCELEB, columns=("veri_split",)),
    "speaker_diarization": Place(
        reader="librimix",
        folders=("LibriMix", "Libri2Mix", "librimix", "LibriMix/data", "Libri2Mix/data"),
    ),
    "emotion_recognition": Place(
        reader="iemocap",
        folders=("IEMOCAP", "IEMOCAP_full_release", "iemocap"),
        columns=("fold1", "fold2", "fold3", "fold4", "fold5"),
    ),
    "intent_classification": Place(
        reader="fluent_speech_commands",
        folders=(
            "fluent_speech_commands",
            "fluent_speech_commands_dataset",
            "FluentSpeechCommands",
        ),
    ),
    "slot_filling": Place(reader="snips", folders=("SNIPS", "snips", "audio_snips", "AudioSNIPS")),
}
