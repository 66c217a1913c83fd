"""SUPERB's tasks, a row for each: its data, what it is scored by, its place in a submission."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

FIVE_FOLDS = "five folds"
LIBRISPEECH = ("LibriSpeech", "librispeech", "Librispeech")
VOXCELEB = ("VoxCeleb1", "voxceleb1", "Voxceleb1", "VoxCeleb")


@dataclass(frozen=True, slots=True)
class Metric:
    """One that counts: 0 points at ``fbank``, 1000 at ``best``; both in percent.

    The points are the leaderboard's own constants, more digits than its table shows.
    """

    column: str  # of the leaderboard
    name: str
    fbank: float
    best: float  # of the SUPERB paper


@dataclass(frozen=True, slots=True, kw_only=True)
class Official:
    """One task as SUPERB has it."""

    code: str  # what its folder in a submission begins with
    file: str  # in that folder; a folder for diarisation
    metrics: tuple[Metric, ...]
    reader: str  # of ours, for its corpus
    folders: tuple[str, ...]  # that SUPERB's scripts make of it; the first that looks right counts
    speech: str  # what the test utterances are from: scores on the same speech move together
    num_items: int | None = None  # utterances or trials of the test set; None without a count
    split_column: str = "split"
    fold_items: tuple[int, ...] = ()  # of the test set of each fold, where there are five
    files: tuple[tuple[str, tuple[str, ...]], ...] = ()  # setting, the files it names, if all there
    with_lm: str = ""  # code of the same task with a language model

    @property
    def columns(self) -> tuple[str | None, ...]:
        """The split columns that it is run on; None is the usual one."""
        if self.fold_items:
            return tuple(f"fold{number}" for number in range(1, len(self.fold_items) + 1))
        return (None,) if self.split_column == "split" else (self.split_column,)

    def parts(self) -> Iterator[tuple[str, int | None]]:
        """Yield the code of each part of a submission, and how many items it must have."""
        if self.fold_items:
            for number, count in enumerate(self.fold_items, start=1):
                yield f"{self.code}_fold{number}", count
        else:
            yield self.code, self.num_items
        if self.with_lm:
            yield self.with_lm, self.num_items


OFFICIAL: Mapping[str, Official] = {  # in the order in which they are run
    "phoneme_recognition": Official(
        code="pr",
        file="predict.ark",
        metrics=(Metric("PR", "per", 82.01, 3.53),),
        reader="librispeech",
        folders=LIBRISPEECH,
        speech="LibriSpeech",
        num_items=2620,
        files=(
            (
                "lexicon",
                ("librispeech-lexicon-200k-g2p.txt", "librispeech-lexicon-allothers-g2p.txt"),
            ),
        ),
    ),
    "speech_recognition": Official(
        code="asr",
        with_lm="asr_lm",
        file="predict.ark",
        metrics=(Metric("ASR", "wer", 23.18, 3.62),),
        reader="librispeech",
        folders=LIBRISPEECH,
        speech="LibriSpeech",
        num_items=2620,
        files=(("lm", ("4-gram.arpa.gz",)),),
    ),
    "keyword_spotting": Official(
        code="ks",
        file="predict.txt",
        metrics=(Metric("KS", "accuracy", 41.3826674, 96.66),),
        reader="speech_commands",
        folders=(
            "speech_commands_v0.01",
            "SpeechCommands",
            "speech_commands",
            "speech_commands_v0.02",
        ),
        speech="Speech Commands",
        num_items=3081,
    ),
    "query_by_example": Official(
        code="qbe",
        file="benchmark.stdlist.xml",
        metrics=(Metric("QbE", "mtwv", 0.58, 7.36),),
        reader="quesst14",
        folders=("quesst14Database", "QUESST14", "QUESST2014", "quesst14"),
        speech="QUESST",
    ),
    "speaker_identification": Official(
        code="sid",
        file="predict.txt",
        metrics=(Metric("SID", "accuracy", 20.058174, 90.3),),
        reader="voxceleb1",
        folders=VOXCELEB,
        speech="VoxCeleb1",
        num_items=8251,
    ),
    "speaker_verification": Official(
        code="sv",
        file="predict.txt",
        metrics=(Metric("ASV", "eer", 9.56, 5.11),),
        reader="voxceleb1",
        folders=VOXCELEB,
        speech="VoxCeleb1",
        num_items=37_720,
        split_column="veri_split",
    ),
    "speaker_diarization": Official(
        code="sd",
        file="scoring/predictions",
        metrics=(Metric("SD", "der", 10.05, 5.62),),
        reader="librimix",
        folders=("LibriMix", "Libri2Mix", "librimix", "LibriMix/data", "Libri2Mix/data"),
        speech="LibriSpeech",  # LibriMix
        num_items=3000,
    ),
    "emotion_recognition": Official(
        code="er",
        file="predict.txt",
        metrics=(Metric("ER", "accuracy", 48.23672168, 67.62),),
        reader="iemocap",
        folders=("IEMOCAP", "IEMOCAP_full_release", "iemocap"),
        speech="IEMOCAP",
        num_items=5531,
        split_column=FIVE_FOLDS,
        fold_items=(1085, 1023, 1151, 1031, 1241),
    ),
    "intent_classification": Official(
        code="ic",
        file="predict.csv",
        metrics=(Metric("IC", "accuracy", 9.649354219, 98.76),),
        reader="fluent_speech_commands",
        folders=(
            "fluent_speech_commands",
            "fluent_speech_commands_dataset",
            "FluentSpeechCommands",
        ),
        speech="Fluent",
        num_items=3793,
    ),
    "slot_filling": Official(
        code="sf",
        file="predict.ark",
        metrics=(
            Metric("SF-F1", "slot_type_f1", 69.64, 89.81),
            Metric("SF-CER", "slot_value_cer", 52.94, 21.76),
        ),
        reader="snips",
        folders=("SNIPS", "snips", "audio_snips", "AudioSNIPS"),
        speech="SNIPS",
    ),
}
BOARD = ("PR", "KS", "IC", "SID", "ER", "ASR", "QbE", "SF-F1", "SF-CER", "ASV", "SD")  # its columns
LAYOUT = ("pr", "sid", "ks", "ic", "er", "asr", "qbe", "sf", "sv", "sd")  # of a submission
BY_CODE: Mapping[str, Official] = {
    code: row for code in LAYOUT for row in OFFICIAL.values() if row.code == code
}
