"""The pretraining study: encoders are made, from nothing or from a teacher."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auscult.config import assignments
from auscult.device import choose_device
from auscult.errors import UserError
from auscult.process import Processes
from auscult.record import fingerprint
from auscult.whole_file import expect_folder

if TYPE_CHECKING:
    import pandas as pd

    from auscult.dataset import Corpus
    from auscult.objective import Objective, Training
    from auscult.training_run import Run
    from auscult.upstreams.pretraining import Pretraining

    Unlabelled = str | Path | Corpus | pd.DataFrame | Mapping[str, Iterable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretrained:
    """An encoder that was made, or of a dry run what would be."""

    family: str
    folder: Path
    configuration: Mapping[str, Any]  # with the sizes of network and audio
    upstream: str = ""  # the address that it loads as; empty of a dry run
    steps: int = 0  # made by this call

    def curve(self) -> "pd.DataFrame":
        """Return the means of the loss's terms, one row for each step that was noted."""
        return curve_of(self.folder)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"upstream": self.upstream, "steps": self.steps, **self.configuration}

    def _repr_html_(self) -> str:
        """Show it in a notebook."""
        import pandas as pd

        rows = pd.DataFrame(list(self.to_dict().items()), columns=["key", "value"])
        table: str = rows.to_html(index=False, border=0)
        return table


def curve_of(folder: Path) -> "pd.DataFrame":
    """Return what a run noted of its loss, one row for each step; none where it has not begun."""
    import pandas as pd

    from auscult.loss_curve import CURVE, read_curve

    return pd.DataFrame(list(read_curve(folder)) if (folder / CURVE).exists() else [])


def pretrain(
    family: str,
    corpora: "Unlabelled | Iterable[Unlabelled]",
    *,
    out: str | Path,
    settings: str | Sequence[str] | Mapping[str, object] = (),
    config: str | Path | None = None,
    preset: str = "published",
    splits: str = "train",
    limit: int | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    dry_run: bool = False,
    device: str = "auto",
) -> Pretrained:
    """Pretrain or distil an encoder on unlabelled speech.

    The same call goes on after a kill: the weights end as if nothing had happened. Under torchrun
    each process takes its share.

    Args:
        family: ``mockingjay``, ``hubert``, ...
        corpora: Addresses such as ``tsv:my/speech`` or ``tsv:my/speech#split_column``, folders of
            audio, corpora, data frames, or cuts by split; one or several.
        out: Folder for the encoder, ``training.json``, the curve and checkpoints.
        settings: ``KEY=VALUE``, changes to the preset; or values by key.
        config: TOML file of KEY = VALUE, before the others.
        preset: ``published``, or ``tiny`` and ``small``, which are made for a CPU.
        splits: Splits of the corpora to train on, such as ``train,dev``; or ``all``.
        limit: Only this many utterances of each split, spread evenly over it.
        seed: Of weights, masks and order.
        skip_bad: Leave bad items out, counted, instead of stopping.
        dry_run: Return the configuration and size, and stop.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UserError: Something cannot be as asked; the sentence says why.
    """
    from auscult.pretraining import pretrain as train
    from auscult.upstreams.pretraining import find_pretraining

    folder = Path(out)
    expect_folder(folder)
    row = find_pretraining(family)
    training = row.configure(preset, [*_assignments(config), *assignments(settings)])
    speech = _Speech(corpora, splits, limit, skip_bad)
    processes = Processes.of_environment()
    where = processes.device(choose_device(device))
    with processes.joined(where):
        run, sizes = _prepare(row, training, speech, seed, folder, where, processes)
        found = Pretrained(family=family, folder=folder, configuration=asdict(training) | sizes)
        if dry_run:
            return found
        _announce(training, sizes, preset, where)
        return replace(found, upstream=row.loads_as.format(out), steps=train(run))


def _prepare(
    row: "Pretraining",
    training: "Training",
    speech: "_Speech",
    seed: int,
    folder: Path,
    device: str,
    processes: Processes,
) -> "tuple[Run, dict[str, Any]]":
    """Read the speech and draw the weights; return the sizes of both, too."""
    from auscult.memory import within_memory
    from auscult.speech_pool import SpeechPool
    from auscult.training_run import Run

    with processes.leader_first():
        cuts, audio = speech.read()
        with within_memory("These sizes need more memory than there is; lower them."):
            objective = row.build(training, seed)
    pool = SpeechPool.of(
        cuts,
        crop_seconds=training.crop_seconds,
        batch_seconds=training.batch_seconds,
        seed=seed,
    )
    run = Run(
        objective=objective,
        config=training,
        pool=pool,
        seed=seed,
        folder=folder,
        about={"family": row.name, **speech.about},
        reads={"audio": audio},
        device=device,
        processes=processes,
    )
    return run, _sizes(training, objective, cuts)


class _Speech:
    """What is learned from."""

    def __init__(
        self,
        corpora: "Unlabelled | Iterable[Unlabelled]",
        splits: str,
        limit: int | None,
        skip_bad: bool,
    ) -> None:
        one = isinstance(corpora, str | Mapping) or hasattr(corpora, "columns")  # a frame has them
        several: list[Any] = (
            list(corpora) if isinstance(corpora, Iterable) and not one else [corpora]
        )
        self.corpora = [_opened(corpus, skip_bad) for corpus in several]
        self.splits, self.limit, self.skip_bad = splits, limit, skip_bad

    @property
    def about(self) -> dict[str, str]:
        """Return what a resumed run must be of, too."""
        names = [str(getattr(corpus, "spec", corpus)) for corpus in self.corpora]
        names += [] if self.limit is None else [f"(limit {self.limit})"]
        return {"corpora": " ".join(names), "splits": self.splits}

    def read(self) -> tuple[list[Any], str]:
        """Return the utterances, and the fingerprint of their audio."""
        read = [self._read(corpus) for corpus in self.corpora]
        audio = fingerprint([hashes for _, hashes in read])
        return [cut for cuts, _ in read for cut in cuts], audio

    def _read(self, corpus: "str | Path | Corpus") -> tuple[list[Any], list[str]]:
        """Return the utterances of the splits, or of all audio in a folder; their hashes."""
        import auscult
        from auscult.corpora import READERS, read_folder
        from auscult.dataset import Corpus

        if isinstance(corpus, Corpus):
            return self._of_splits(corpus)
        spec = str(corpus)
        folder = Path(os.path.expanduser(spec))
        if ":" not in spec and "/" in spec and not os.path.isdir(folder):
            raise UserError(f"{spec} is no folder; expected one with audio, or READER[:FOLDER].")
        if spec.partition(":")[0] not in READERS and os.path.isdir(folder):
            found = read_folder(folder, skip_bad=self.skip_bad)
            return self._of(found, list(found.splits))
        address, _, column = spec.partition("#")
        return self._of_splits(
            auscult.corpus(address, split=column or None, skip_bad=self.skip_bad)
        )

    def _of_splits(self, corpus: "Corpus") -> tuple[list[Any], list[str]]:
        names = list(corpus.splits) if self.splits == "all" else self.splits.split(",")
        return self._of(corpus, names)

    def _of(self, corpus: "Corpus", names: Sequence[str]) -> tuple[list[Any], list[str]]:
        limited = corpus.limited(self.limit)
        cuts = [cut for name in names for cut in limited.split(name)]
        return cuts, [corpus.audio_sha256[name] for name in names]


def _opened(corpus: "Unlabelled", skip_bad: bool) -> "str | Path | Corpus":
    """Return a corpus of a frame or of cuts; what has a place is read later."""
    import auscult
    from auscult.dataset import Corpus

    if isinstance(corpus, str | Path | Corpus):
        return corpus
    return auscult.corpus(corpus, skip_bad=skip_bad)


def _assignments(path: str | Path | None) -> list[str]:
    """Read KEY = VALUE lines; values become text again, which the configuration checks."""
    import tomllib

    from auscult.foreign import refuse_code
    from auscult.text import read_text

    if path is None:
        return []
    try:
        found = tomllib.loads(read_text(Path(path)))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{path} is no TOML: {error}; expected lines such as dim = 192.") from error
    for key, value in found.items():
        if isinstance(value, dict | list):
            raise UserError(f"{path}: {key} is a table or a list; expected one value.")
    return [f"{key}={refuse_code(str(value), path)}" for key, value in found.items()]


def _sizes(training: "Training", objective: "Objective", cuts: list[Any]) -> dict[str, Any]:
    """Return how large network and audio are."""
    trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    hours = sum(cut.duration for cut in cuts) / 3600
    epochs = training.total_steps * training.batch_seconds / 3600 / hours
    return {
        "trained_parameters": trained,
        "utterances": len(cuts),
        "hours": round(hours, 3),
        "epochs_at_most": round(epochs, 2),
    }


def _announce(training: "Training", sizes: dict[str, Any], preset: str, device: str) -> None:
    """Say how much is about to be done."""
    from auscult.progress import logger

    logger.info(
        f"{training.total_steps:,} steps of {training.batch_seconds:g} s of audio, of which there "
        f"are {sizes['hours']:g} h; {sizes['trained_parameters']:,} parameters."
    )
    if preset == "published" and device == "cpu":
        logger.info("That is the published protocol; --preset tiny or small is made for a CPU.")
