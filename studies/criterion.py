"""What subnets are searched for: probe accuracy, or the loss of distillation, on held-out speech.

Both look at every subnet on the supernet's own weights and compute once what all of them share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from auscult.contracts import TaskSpec
from auscult.dataset import SPLITS
from auscult.origin import made_by
from auscult.score import Score, Tally, record_of, score_of

if TYPE_CHECKING:
    from torch import Tensor

    from auscult.contracts import UpstreamSpec
    from auscult.dataset import Corpus
    from auscult.probing import Examples, ProbeTask
    from auscult.record import Provenance, Record
    from auscult.upstreams.lighthubert.sharing import Sharing
    from auscult.upstreams.lighthubert.space import Subnet

DISTILLATION = TaskSpec(name="distillation", version=1, output="utterance", metrics=("loss",))


class Criterion(Protocol):
    """A measure of subnets."""

    speech: "Speech"
    label: str  # of the axis of a figure
    lower_is_better: bool

    @property
    def identity(self) -> list[object]:
        """What its scores depend on beside the subnet and the code, as JSON values."""
        ...

    @property
    def code(self) -> str:
        """The fingerprint of the code and libraries that its scores are made by."""
        ...

    def score(self, subnet: "Subnet", split: str) -> Score:
        """Return the score of a subnet on ``dev`` or ``test``."""
        ...

    def record(
        self, score: Score, encoder: "UpstreamSpec", layers: int, split: str, made: "Provenance"
    ) -> "Record":
        """Return what is kept of the score of a subnet, which has so many ``layers``."""
        ...


@dataclass(frozen=True, slots=True)
class Speech:
    """The utterances that subnets are measured on."""

    corpus: "Corpus"
    cuts: Mapping[str, list[Any]]  # by split
    skipped: Mapping[str, int]
    limit: int | None
    how: Mapping[str, str]  # what last bits may depend on

    @property
    def all_cuts(self) -> list[Any]:
        """Those of all splits."""
        return [cut for found in self.cuts.values() for cut in found]

    @property
    def identity(self) -> list[object]:
        """What stands for them."""
        named = {split: [cut.id for cut in cuts] for split, cuts in self.cuts.items()}
        return [dict(self.corpus.sha256), self.corpus.split_column, named, dict(self.how)]

    def speakers(self, split: str) -> list[str | None]:
        """Return the speaker of each utterance."""
        from auscult.dataset import supervision_of

        return [supervision_of(cut).speaker or None for cut in self.cuts[split]]


class ProbeCriterion:
    """Accuracy of a linear probe on one layer, as `auscult probe` trains it."""

    lower_is_better = False

    def __init__(
        self, sharing: "Sharing", speech: Speech, task: "ProbeTask", layer: int | None
    ) -> None:
        """Read the labels of all splits.

        Args:
            sharing: The supernet.
            speech: What probes are trained, chosen and tested on.
            task: What they read.
            layer: The hidden state; None for the last of each subnet.
        """
        import torch

        from auscult.contracts import SAMPLE_RATE
        from auscult.probing import TrainingPlan, build_targets
        from auscult.upstreams.lighthubert.network import num_frames

        self._sharing, self.speech, self._task, self._layer = sharing, speech, task, layer
        self._plan = TrainingPlan(probes=("linear",)).adapted(frames=task.frames)
        self._num_frames = {
            split: num_frames(
                torch.tensor([round(cut.duration * SAMPLE_RATE) for cut in cuts])
            ).numpy()
            for split, cuts in speech.cuts.items()
        }
        geometry = sharing.encoder(sharing.space.smallest).spec.geometry
        self._classes, self._targets = build_targets(task, speech.cuts, self._num_frames, geometry)
        self.label = f"dev accuracy, {task.spec.name}"

    @property
    def identity(self) -> list[object]:
        """See :class:`Criterion`."""
        sharing = self._sharing.fingerprint()
        about = [self._task.spec.name, self._layer, asdict(self._plan)]
        return [sharing, *about, *self.speech.identity]

    @property
    def code(self) -> str:
        """See :class:`Criterion`."""
        return made_by(__name__)

    def score(self, subnet: "Subnet", split: str) -> Score:
        """See :class:`Criterion`."""
        from auscult.probing import majority_class, train_bank

        splits = ("train", "dev") if split == "dev" else SPLITS
        layer = subnet.depth if self._layer is None else self._layer
        encoder = self._sharing.encoder(subnet)
        examples = {name: self._examples(encoder, name, layer) for name in splits}
        found = train_bank(
            examples, len(self._classes), [layer], self._plan, device=str(encoder.device)
        )
        (score,) = found[split]
        cuts, speakers = self.speech.cuts[split], self._targets[split].speakers
        tally = Tally(
            right=score.correct,
            total=score.total,
            items=tuple(str(cuts[i].id) for i in score.items),
            speakers=tuple(speakers[i] for i in score.items),
        )
        return score_of("accuracy", tally, majority_class(self._targets["train"]))

    def record(
        self, score: Score, encoder: "UpstreamSpec", layers: int, split: str, made: "Provenance"
    ) -> "Record":
        """See :class:`Criterion`."""
        return record_of(
            score,
            encoder=encoder,
            corpus=self.speech.corpus,
            split=split,
            task=self._task.spec,
            layer=layers if self._layer is None else self._layer,
            probe="linear",
            seed=self._plan.seeds[0],
            config={**_plain(self._plan), "limit": self.speech.limit},
            provenance=made,
            num_skipped=self.speech.skipped[split] + self._targets[split].num_unlabelled,
        )

    def _examples(self, encoder: Any, split: str, layer: int) -> "Examples":
        """Encode a split and return one layer's examples, as `auscult probe` would have them."""
        import torch

        from auscult.extraction import encode
        from auscult.pooled import Pooled
        from auscult.probing import FrameExamples, PooledExamples

        cuts = self.speech.cuts[split]
        rows: list[Tensor] = [torch.empty(0)] * len(cuts)
        shape = (len(cuts), layer + 1, encoder.spec.dim)
        mean, std = torch.zeros(shape), torch.zeros(shape)  # of one layer only
        for row in encode(encoder, cuts, show=False):
            frames = row.layers[layer]
            rows[row.index] = frames.half()
            mean[row.index, layer] = frames.mean(0)
            std[row.index, layer] = frames.std(0, correction=0)
        pooled = Pooled(mean, std, self._num_frames[split])
        if self._task.frames:
            return FrameExamples(_Frames(rows), pooled, self._targets[split])
        return PooledExamples(pooled, self._targets[split])


class _Frames:
    """Frames of one layer in memory, float16 numbers as kept features are."""

    kept = True

    def __init__(self, rows: "Sequence[Tensor]") -> None:
        self._rows = rows

    def read(self, items: Sequence[int], layers: Sequence[int]) -> "list[Tensor]":
        """See :class:`auscult.feature.FrameSource`."""
        import torch

        return [torch.cat([self._rows[i] for i in items]).float() for _ in layers]


class DistillationCriterion:
    """The distillation loss over frames that are hidden, the same for every subnet."""

    label = "dev distillation loss (L1, lower is better)"
    lower_is_better = True

    def __init__(
        self, sharing: "Sharing", speech: Speech, teacher: str, top_layers: int | None
    ) -> None:
        """Load the teacher; its targets are computed where a split is first scored."""
        from auscult.upstreams.lighthubert.validation import HeldOutLoss, read_settings

        self._sharing, self.speech = sharing, speech
        self._config = read_settings(sharing, teacher, top_layers)
        self._losses = {"dev": HeldOutLoss(sharing, self._config, speech.cuts["dev"])}

    @property
    def identity(self) -> list[object]:
        """See :class:`Criterion`."""
        teacher = self._losses["dev"].teacher.spec.sha256
        about = [self._sharing.fingerprint(), teacher, asdict(self._config)]
        return [*about, *self.speech.identity]

    @property
    def code(self) -> str:
        """See :class:`Criterion`."""
        return made_by(__name__, *self._losses["dev"].teacher.modules())

    def score(self, subnet: "Subnet", split: str) -> Score:
        """See :class:`Criterion`."""
        from auscult.upstreams.lighthubert.validation import HeldOutLoss

        cuts = self.speech.cuts[split]
        if split not in self._losses:
            self._losses[split] = HeldOutLoss(self._sharing, self._config, cuts)
        losses, counts = (found.double().numpy() for found in self._losses[split](subnet))
        items, speakers = [str(cut.id) for cut in cuts], self.speech.speakers(split)
        score = score_of("loss", Tally.of_ratio(losses, counts, items, speakers))
        return replace(score, num_items=len(cuts))

    def record(
        self, score: Score, encoder: "UpstreamSpec", layers: int, split: str, made: "Provenance"
    ) -> "Record":
        """See :class:`Criterion`."""
        names = ("teacher", "top_layers", "target_norm", "mask_probability", "mask_span")
        config = {name: getattr(self._config, name) for name in names}
        return record_of(
            score,
            encoder=encoder,
            corpus=self.speech.corpus,
            split=split,
            task=DISTILLATION,
            layer=layers,
            probe="pretraining head",
            seed=0,
            config={**config, "limit": self.speech.limit},
            provenance=made,
            num_skipped=self.speech.skipped[split],
        )


def _plain(plan: Any) -> dict[str, Any]:
    names = ("learning_rates", "batch_size", "max_epochs", "patience", "min_steps")
    found = {name: getattr(plan, name) for name in names}
    return found | {"learning_rates": list(plan.learning_rates)}
