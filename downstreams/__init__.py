"""SUPERB tasks and their heads, trained by s3prl's runner."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from auscult.contracts import TaskSpec
from auscult.errors import UserError, unknown
from auscult.foreign import instance
from auscult.registry import Table

from .task import HeadTask

__all__ = ["TABLE", "TASKS", "HeadTask", "find_task", "protocols"]

_ROWS = (
    HeadTask(
        spec=TaskSpec(
            name="keyword_spotting",
            version=1,
            output="utterance",
            metrics=("accuracy", "macro_accuracy"),
        ),
        module="auscult.downstreams.keyword_spotting",
        expert="KeywordSpotting",
        configuration="KeywordSpottingConfig",
        head="s3prl:UtteranceLevel",
        labels="one word for each utterance (label=keyword)",
        description="SUPERB KS: one of a few words",
    ),
    HeadTask(
        spec=TaskSpec(
            name="speaker_identification",
            version=1,
            output="utterance",
            metrics=("accuracy", "macro_accuracy"),
        ),
        module="auscult.downstreams.speaker_identification",
        expert="SpeakerIdentification",
        configuration="SpeakerIdentificationConfig",
        head="s3prl:UtteranceLevel",
        labels="the speaker of each utterance, the same speakers in every split",
        description="SUPERB SID: which of the training speakers talks",
        about_speakers=True,
    ),
    HeadTask(
        spec=TaskSpec(
            name="intent_classification",
            version=1,
            output="utterance",
            metrics=("accuracy", "slot_accuracy"),
        ),
        module="auscult.downstreams.intent_classification",
        expert="IntentClassification",
        configuration="IntentClassificationConfig",
        head="s3prl:UtteranceLevel",
        labels="intent slots of each utterance (slots=NAME,NAME)",
        description="SUPERB IC: all slots of an intent at once",
    ),
    HeadTask(
        spec=TaskSpec(
            name="emotion_recognition",
            version=1,
            output="utterance",
            metrics=("accuracy", "macro_accuracy"),
        ),
        module="auscult.downstreams.emotion_recognition",
        expert="UtteranceExpert",
        configuration="EmotionRecognitionConfig",
        head="s3prl:UtteranceLevel",
        labels="one emotion for each utterance (label=emotion)",
        description="SUPERB ER: one of a few emotions",
    ),
    HeadTask(
        spec=TaskSpec(
            name="phoneme_classification",
            version=1,
            output="frame",
            metrics=("accuracy", "macro_accuracy"),
        ),
        module="auscult.downstreams.phoneme_classification",
        expert="PhonemeClassification",
        configuration="PhonemeClassificationConfig",
        head="s3prl:FrameLevel",
        labels="times of phones in each utterance (alignment=phone)",
        description="the phone at each frame, by 0, 1 or 2 hidden layers",
        framewise=True,
    ),
    HeadTask(
        spec=TaskSpec(
            name="speaker_utterance",
            version=1,
            output="utterance",
            metrics=("accuracy", "macro_accuracy"),
        ),
        module="auscult.downstreams.speaker_utterance",
        expert="UtteranceExpert",
        configuration="SpeakerUtteranceConfig",
        head="s3prl:UtteranceLevel",
        labels="the speaker of each utterance, the same speakers in every split",
        description="Audio ALBERT: the speaker, from the mean over time",
        about_speakers=True,
    ),
    HeadTask(
        spec=TaskSpec(
            name="speaker_frame",
            version=1,
            output="frame",
            metrics=("accuracy", "macro_accuracy"),
        ),
        module="auscult.downstreams.speaker_frame",
        expert="FrameExpert",
        configuration="SpeakerFrameConfig",
        head="s3prl:FrameLevel",
        labels="the speaker of each utterance, the same speakers in every split",
        description="Audio ALBERT: the speaker, from each frame alone",
        about_speakers=True,
        framewise=True,
    ),
    HeadTask(
        spec=TaskSpec(
            name="speaker_verification",
            version=1,
            output="pair",
            metrics=("eer", "min_dcf"),
        ),
        module="auscult.downstreams.speaker_verification",
        expert="SpeakerVerification",
        configuration="SpeakerVerificationConfig",
        head="s3prl:XVector",
        labels="the speaker of each utterance, others in every split; trials (made if not given)",
        description="SUPERB ASV: whether one speaker says two utterances",
        min_frames=16,
    ),
    HeadTask(
        spec=TaskSpec(
            name="speaker_diarization",
            version=1,
            output="segments",
            metrics=("der",),
        ),
        module="auscult.downstreams.speaker_diarization",
        expert="SpeakerDiarization",
        configuration="SpeakerDiarizationConfig",
        head="s3prl:diarization.Model",
        labels="who speaks when in each recording (turns of speakers, such as RTTM)",
        description="SUPERB SD: which of a few speakers talk at each frame",
        framewise=True,
    ),
    HeadTask(
        spec=TaskSpec(
            name="phoneme_recognition",
            version=1,
            output="sequence",
            metrics=("per",),
        ),
        module="auscult.downstreams.phoneme_recognition",
        expert="PhonemeRecognition",
        configuration="PhonemeRecognitionConfig",
        head="s3prl:FrameLevel",
        labels="the phones of each utterance (label=phone), or transcripts and lexicon=FILE",
        description="SUPERB PR: phones by CTC",
        framewise=True,
    ),
    HeadTask(
        spec=TaskSpec(
            name="speech_recognition",
            version=1,
            output="sequence",
            metrics=("wer", "cer"),
        ),
        module="auscult.downstreams.speech_recognition",
        expert="SpeechRecognition",
        configuration="SpeechRecognitionConfig",
        head="s3prl:RNNs",
        labels="transcripts",
        description="SUPERB ASR: characters by CTC, with a language model if given (lm=FILE)",
        framewise=True,
    ),
    HeadTask(
        spec=TaskSpec(
            name="slot_filling",
            version=1,
            output="sequence",
            metrics=("slot_type_f1", "slot_value_cer"),
        ),
        module="auscult.downstreams.slot_filling",
        expert="SlotFilling",
        configuration="SlotFillingConfig",
        head="s3prl:RNNs",
        labels="transcripts, and slot_tags: an IOB tag for each word",
        description="SUPERB SF: characters and slot tags by CTC",
        framewise=True,
    ),
    HeadTask(
        spec=TaskSpec(
            name="query_by_example",
            version=1,
            output="pair",
            metrics=("mtwv", "map"),
        ),
        module="auscult.downstreams.query_by_example",
        configuration="QueryByExampleConfig",
        head="subsequence DTW",
        labels="the word of each query and document (label=keyword); a split 'documents', or "
        "queries are chosen",
        description="SUPERB QbE: is a spoken query in a document, without any training",
        trains=False,
    ),
)
TASKS: Mapping[str, HeadTask] = {row.spec.name: row for row in _ROWS}


TABLE: Table[HeadTask] = Table("task", TASKS, "auscult.tasks")


def find_task(name: str) -> HeadTask:
    """Return the task called ``name``, which may be somebody's own: ``python:FILE.py:NAME``.

    Args:
        name: From the user's hand.

    Raises:
        UserError: There is none.
    """
    if not isinstance(name, str):
        raise UserError(f"{name!r} is no task; expected its name, such as keyword_spotting.")
    if name in TASKS:
        return TASKS[name]
    if not TABLE.is_foreign(name.partition(":")[0]):
        raise unknown("task", name, [*TASKS, *(row.name for row in TABLE.listed())])
    found = TABLE.find(name)
    task = instance(found, HeadTask)
    task.check(found.name)
    return replace(task, spec=replace(task.spec, name=name, origin=found.origin))


def protocols() -> dict[str, Mapping[str, Any]]:
    """Return the published configuration of every task of SUPERB."""
    return {name: asdict(task.config()) for name, task in TASKS.items()}
