"""What a downstream task is to the command line: a row that says where its parts are."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from auscult.contracts import TaskSpec
from auscult.dataset import Corpus
from auscult.errors import UserError
from auscult.foreign import blamed
from auscult.precision import Precision
from auscult.score import Score
from auscult.upstream import Upstream

from .schedule import HeadResult, Records, Schedule
from .split import LabelledCorpus


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadTask:
    """A task whose head is trained on frozen features; its module is imported when asked for.

    The module has, beside the two classes that are named here, the functions ``prepare(corpus,
    config, *, skip_unlabelled) -> LabelledCorpus`` and ``score(answers, corpus) -> list[Score]``;
    a framewise task also ``at_frames(corpus, config, encoder) -> LabelledCorpus``. The module of a
    task without training has no expert but ``evaluate(encoder, corpus, *, budget, device,
    precision) -> HeadResult``, which tries each hidden state on dev.
    """

    spec: TaskSpec
    module: str
    expert: str = ""  # its class, called with dimensions, corpus, config and seed
    configuration: str  # its dataclass, a Schedule; defaults are the published protocol
    head: str  # what is trained, as records name it
    labels: str  # what a corpus must have
    description: str
    about_speakers: bool = False  # its classes are speakers, who then stand in every split
    framewise: bool = False  # its labels depend on the encoder's frames
    min_frames: int = 1  # that its head needs of an utterance
    trains: bool = True  # else the best hidden state is used as it is

    def check(self, name: str) -> None:
        """Look whether all parts are there, which are imported for that.

        Args:
            name: What a person calls the task.

        Raises:
            UserError: The module cannot be imported, or a part is missing or of another kind.
        """
        with blamed(name, f"cannot import its module {self.module}"):
            module = importlib.import_module(self.module)
        wanted = [self.configuration, "prepare", "score"]
        wanted += [self.expert if self.trains else "evaluate"]
        wanted += ["at_frames"] if self.framewise else []
        for part in wanted:
            if not callable(getattr(module, part, None)):
                raise UserError(f"{name}: {self.module} has no {part!r}, which a HeadTask needs.")
        with blamed(name, "has no published protocol"):
            config = self.config()
        if not isinstance(config, Schedule):
            raise UserError(
                f"{name}: {self.configuration} is no auscult.downstreams.training.Schedule; "
                "make it a dataclass below it, with defaults."
            )

    def config(self) -> Any:
        """Return the published protocol."""
        return self._part(self.configuration)()

    def expert_class(self) -> Any:
        """Return the class of the downstream expert."""
        return self._part(self.expert)

    def prepare(self, corpus: Corpus, config: Any, *, skip_unlabelled: bool) -> LabelledCorpus:
        """Read the task's labels off train, dev and test.

        Raises:
            UserError: A missing split or label, and ``skip_unlabelled`` is not set.
        """
        found: LabelledCorpus = self._part("prepare")(
            corpus, config, skip_unlabelled=skip_unlabelled
        )
        return found

    def at_frames(self, corpus: LabelledCorpus, config: Any, encoder: Upstream) -> LabelledCorpus:
        """Return the corpus with labels as the frames of ``encoder`` have them."""
        if not self.framewise:
            return corpus
        found: LabelledCorpus = self._part("at_frames")(corpus, config, encoder)
        return found

    def evaluate(
        self,
        encoder: Upstream,
        corpus: LabelledCorpus,
        *,
        budget: int,
        device: str,
        precision: Precision,
    ) -> HeadResult:
        """Return what a task without training answers on test, from the layer that dev prefers."""
        found: HeadResult = self._part("evaluate")(
            encoder, corpus, budget=budget, device=device, precision=precision
        )
        return found

    def score(self, answers: Records, corpus: LabelledCorpus) -> Sequence[Score]:
        """Return one score for each metric of the spec, in its order."""
        found: Sequence[Score] = self._part("score")(answers, corpus)
        return found

    def _part(self, name: str) -> Any:
        return getattr(importlib.import_module(self.module), name)
