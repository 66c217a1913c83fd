"""What `auscult superb run` is going to do: tasks, their corpora, and what they take."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auscult.cli.output import Output
from auscult.cli.run import configure
from auscult.errors import UserError
from auscult.progress import logger

if TYPE_CHECKING:
    from auscult.dataset import Corpus
    from auscult.downstreams import HeadTask
    from auscult.downstreams.split import LabelledCorpus
    from auscult.upstream import Upstream

NOISE_SECONDS = 10  # that the speed of encoding is guessed from
BOTH_WAYS = 3  # encoding with its gradients, in encodings; a rule of thumb


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What the command line says of tasks and their data."""

    root: Path
    tasks: tuple[str, ...]  # empty: all of SUPERB and those that have a corpus
    corpora: Mapping[str, str]  # by task, instead of what is below the folder
    columns: Mapping[str, tuple[str, ...]]  # split columns by task
    tests: Mapping[str, str]  # split that is scored on, by task, instead of test
    settings: Mapping[str, Sequence[str]]  # KEY=VALUE by task
    steps: int | None
    limit: int | None
    skip_bad: bool
    allow_shared_speakers: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A task on one split of its corpus."""

    task: "HeadTask"
    config: Any  # the task's
    spec: str  # of the corpus
    column: str | None
    corpus: "Corpus"
    labelled: "LabelledCorpus"

    @property
    def name(self) -> str:
        """The task, and the split column where one was chosen."""
        return f"{self.task.spec.name}, {self.column}" if self.column else self.task.spec.name

    def seconds(self, split: str) -> float:
        """Return the length of a split's audio."""
        return float(sum(cut.duration for cut in self.labelled.splits[split].cuts))


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that was not run, or not to its end."""

    name: str  # task and split column
    upstream: str  # "" for all
    reason: str


@dataclass(frozen=True, slots=True)
class Missing:
    """A task without data that nobody asked for by name."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Cost:
    """What a job takes for one encoder."""

    job: Job
    upstream: str
    num_bytes: int  # of all features
    kept: bool  # they fit the budget and stay the same, else every batch is encoded anew
    finetuned: bool  # the encoder is trained too
    seconds: float  # of encoding; a rough guess


def read_jobs(choice: Choice) -> Iterator[Job | Missing | Failure]:
    """Find, read and check the corpus of every task.

    Raises:
        UserError: An unknown task or setting, or the folder does not exist.
    """
    from auscult.dataset import check_speakers
    from auscult.downstreams import find_task

    if not choice.root.is_dir():
        raise UserError(f"--data {choice.root} is no folder; expected one that holds the corpora.")
    tasks = [find_task(name) for name in choice.tasks or {**PLACES, **choice.corpora}]
    _refuse_unused(choice, [task.spec.name for task in tasks])
    # mistakes in settings come before hours of reading
    configs = [_configured(task, find_corpus(task.spec.name, choice), choice) for task in tasks]
    read: dict[tuple[str, str | None], Corpus] = {}
    for task, config in zip(tasks, configs, strict=True):
        name = task.spec.name
        spec = find_corpus(name, choice)
        if spec is None:
            reason = _not_found(name)
            yield Failure(name, "", reason) if choice.tasks else Missing(name, reason)
            continue
        for column in _columns(name, spec, choice):
            try:
                if (spec, column) not in read:
                    read[spec, column] = _read(spec, column, choice)
                corpus = read[spec, column].tested_on(choice.tests.get(name, "test"))
                corpus = corpus.limited(choice.limit)
                check_speakers(corpus, choice.allow_shared_speakers or task.about_speakers)
                labelled = task.prepare(corpus, config, skip_unlabelled=choice.skip_bad)
            except Exception as error:  # the other tasks go on; Ctrl-C is no Exception
                yield failed(f"{name}, {column}" if column else name, "", error)
                continue
            yield Job(
                task=task, config=config, spec=spec, column=column, corpus=corpus, labelled=labelled
            )


def find_corpus(task: str, choice: Choice) -> str | None:
    """Return the address of a task's corpus, None where there is none."""
    from auscult.corpora import READERS

    if task in choice.corpora:
        return choice.corpora[task]
    if task not in PLACES:
        return None
    place = PLACES[task]
    for name in place.folders:
        if READERS[place.reader].matches(choice.root / name):
            return f"{place.reader}:{choice.root / name}"
    return None


def by_task(assignments: Sequence[str], option: str) -> dict[str, str]:
    """Read ``TASK=VALUE``.

    Raises:
        UserError: No ``=``, an unknown task, or a task given twice.
    """
    from auscult.downstreams import find_task

    found: dict[str, str] = {}
    for assignment in assignments:
        task, equals, value = assignment.partition("=")
        if not equals or not value:
            raise UserError(f"{option} {assignment!r}: expected {option} TASK=VALUE.")
        find_task(task)
        if task in found:
            raise UserError(f"{option} was given twice for {task}; choose one.")
        found[task] = value
    return found


def settings_by_task(settings: Sequence[str]) -> dict[str, list[str]]:
    """Read ``TASK.KEY=VALUE``; every task has an entry.

    Raises:
        UserError: No dot, or an unknown task.
    """
    from auscult.downstreams import TASKS, find_task

    found: dict[str, list[str]] = {name: [] for name in TASKS}
    for setting in settings:
        task, dot, rest = setting.partition("=")[0].partition(".")
        if not dot or not rest:
            raise UserError(f"Setting {setting!r}: expected TASK.KEY=VALUE.")
        found[find_task(task).spec.name].append(setting.removeprefix(f"{task}."))
    return found


def failed(name: str, upstream: str, error: Exception) -> Failure:
    """Return what is told at the end; say it now too, and where it was if nobody foresaw it."""
    if isinstance(error, UserError):
        reason = str(error)
    elif isinstance(error, OSError) and error.filename is not None:
        what = error.strerror or type(error).__name__
        reason = f"{error.filename} cannot be read or written: {what}."
    else:
        reason = f"{type(error).__name__}: {error}"
    foreseen = isinstance(error, UserError | OSError)
    where = f"{name}, {upstream}" if upstream else name
    logger.error(f"{where}: {reason}", exc_info=None if foreseen else error)
    return Failure(name, upstream, reason)


def real_time_factor(encoder: "Upstream", device: str) -> float:
    """Return the seconds that encoding takes for each of noise, once: a rough guess."""
    import torch

    from auscult.contracts import SAMPLE_RATE, Waveforms

    generator = torch.Generator().manual_seed(0)
    samples = 0.1 * torch.randn(NOISE_SECONDS * SAMPLE_RATE, generator=generator)
    audio = Waveforms.of([samples]).to(device)
    encoder.to(device)
    try:
        with torch.inference_mode():
            encoder(Waveforms.of([samples[:SAMPLE_RATE]]).to(device))  # makes what is made once
            started = time.perf_counter()
            states = encoder(audio)
            float(states.layers[-1].sum())  # waits for a GPU
            return (time.perf_counter() - started) / NOISE_SECONDS
    finally:
        encoder.cpu()


def cost(
    job: Job,
    encoder: "Upstream",
    factor: float,
    *,
    budget: int,
    num_rates: int,
    finetune: bool = False,
) -> Cost:
    """Return what a job takes for one encoder.

    Args:
        job: What is trained.
        encoder: Whose features it is trained on.
        factor: Seconds of encoding for each of audio.
        budget: Largest size of features that are kept, in bytes.
        num_rates: Heads that are trained, one for each learning rate.
        finetune: Whether encoders are to be trained too.
    """
    from auscult.feature import frame_bytes

    splits = job.labelled.splits
    size = sum(frame_bytes(encoder, split.cuts) for split in splits.values())
    trains = job.task.trains
    finetuned = finetune and trains and any(p.requires_grad for p in encoder.parameters())
    kept = size <= budget and not finetuned
    heard = sum(job.seconds(name) for name in splits)
    if trains and not kept:
        config = job.config
        utterances = config.total_steps * config.batch_size * config.gradient_accumulate_steps
        mean = job.seconds("train") / len(splits["train"].cuts)
        looks = -(-config.total_steps // config.eval_step)
        passes = BOTH_WAYS if finetuned else 1
        trained = passes * utterances * mean + looks * job.seconds("dev")
        heard = num_rates * trained + job.seconds("test")
    return Cost(job, encoder.spec.name, size, kept, finetuned, heard * factor)


def show(
    output: Output,
    jobs: Sequence[Job],
    others: Sequence[Missing | Failure],
    costs: Sequence[Cost],
) -> None:
    """Print what is going to be done and what it takes."""
    rows: list[list[object]] = [
        [job.name, job.spec, _amounts(job), f"{job.config.total_steps:,}" if job.task.trains else 0]
        for job in jobs
    ]
    rows.extend(
        [other.name, "missing" if isinstance(other, Missing) else "FAIL", other.reason]
        for other in others
    )
    output.table("Plan", ("task", "corpus", "utterances (hours)", "steps"), rows)
    if any(isinstance(other, Missing) for other in others):
        output.print("Where a corpus is missing: --corpus TASK=READER:FOLDER names one elsewhere.")
    if not costs:
        return
    output.table(
        "Features and time; the time is a rough guess from noise, for encoding alone",
        ("task", "upstream", "features", "they are", "encoding"),
        [
            [
                line.job.name,
                line.upstream,
                f"{line.num_bytes / 1e9:.3f} GB",
                _handling(line),
                duration(line.seconds),
            ]
            for line in costs
        ],
    )
    kept = sum(line.num_bytes for line in costs if line.kept)
    whole = duration(sum(line.seconds for line in costs))
    folder, free = _free_bytes()
    output.print(
        f"{len(costs)} heads; features of {kept / 1e9:.2f} GB in {folder} ({free / 1e9:.0f} GB "
        f"free); encoding takes very roughly {whole}, and the training of heads comes on top."
    )
    if kept > free:
        logger.warning(
            f"The features may take {kept / 1e9:.2f} GB where {free / 1e9:.2f} GB are free; "
            "choose a smaller --budget, or another folder by AUSCULT_CACHE."
        )


def _handling(line: Cost) -> str:
    if line.finetuned:
        return "encoded for every batch (the encoder is trained)"
    return "kept" if line.kept else "encoded for every batch (over --budget)"


def duration(seconds: float) -> str:
    """Return a length of time in the unit that suits it."""
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _refuse_unused(choice: Choice, tasks: Sequence[str]) -> None:
    """Raise where something was said of a task that is not run."""
    settings = [name for name, found in choice.settings.items() if found]
    for name in (*choice.corpora, *choice.columns, *choice.tests, *settings):
        if name not in tasks:
            raise UserError(
                f"{name} was given a corpus, split or setting, but is not run; add it to --tasks."
            )


def _configured(task: "HeadTask", spec: str | None, choice: Choice) -> Any:
    """Return the published protocol of a task with the command line's changes."""
    name = task.spec.name
    files = list(_files(name, spec, choice)) if spec else []
    for file in files:
        logger.info(f"{name}: {file}")
    steps = choice.steps if task.trains else None
    return configure(task, steps, [*files, *choice.settings[name]])


def _read(spec: str, column: str | None, choice: Choice) -> "Corpus":
    import auscult

    logger.info(f"Reading {spec}{f', {column}' if column else ''} ...")
    return auscult.corpus(spec, split=column, skip_bad=choice.skip_bad)


def _files(task: str, spec: str, choice: Choice) -> Iterator[str]:
    """Yield settings that name SUPERB's own files, where these are found and none were named."""
    place = PLACES.get(task)
    reader, _, folder = spec.partition(":")
    if place is None or reader != place.reader:
        return
    named = {setting.partition("=")[0] for setting in choice.settings[task]}
    for setting, names in place.files:
        for parent in (choice.root, Path(folder)):
            if setting not in named and all((parent / name).is_file() for name in names):
                yield f"{setting}={','.join(str(parent / name) for name in names)}"
                break


def _columns(task: str, spec: str, choice: Choice) -> Sequence[str | None]:
    """Return the split columns that a task is run on."""
    if task in choice.columns:
        return choice.columns[task]
    place = PLACES.get(task)
    official = place is not None and spec.partition(":")[0] == place.reader
    return place.columns if place is not None and official else (None,)


def _not_found(task: str) -> str:
    if task not in PLACES:
        return "SUPERB has no corpus for it; name one with --corpus"
    place = PLACES[task]
    return f"no {place.reader} corpus; looked for {', '.join(place.folders)}"


def _amounts(job: Job) -> str:
    return ", ".join(
        f"{name} {len(split.cuts):,} ({job.seconds(name) / 3600:.2f} h)"
        for name, split in job.labelled.splits.items()
    )


def _free_bytes() -> tuple[Path, int]:
    """Return where features go, and how much room is there."""
    import shutil

    from auscult.cache import cache_folder

    folder = cache_folder() / "features"
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return folder, shutil.disk_usage(there).free
