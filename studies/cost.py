"""What the head of a task takes for one encoder, before anything is trained."""

from dataclasses import asdict, dataclass
from typing import Any

from auscult.downstreams import HeadTask
from auscult.downstreams.split import LabelledCorpus
from auscult.feature import frame_bytes
from auscult.upstream import Upstream

from .task import Heads

BOTH_WAYS = 3  # encoding with its gradients, in encodings; a rule of thumb


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A task on one split of its corpus."""

    heads: Heads
    labelled: LabelledCorpus

    @property
    def task(self) -> HeadTask:
        """What is trained."""
        return self.heads.task

    @property
    def config(self) -> Any:
        """The task's configuration."""
        return self.heads.config

    @property
    def name(self) -> str:
        """The task, and the split column where one was chosen."""
        column = self.heads.split
        return f"{self.task.spec.name}, {column}" if column else self.task.spec.name

    def seconds(self, split: str) -> float:
        """Return the length of a split's audio."""
        return float(sum(cut.duration for cut in self.labelled.splits[split].cuts))


@dataclass(frozen=True, slots=True)
class Cost:
    """What a job takes for one encoder."""

    job: Job
    upstream: str
    num_bytes: int  # of all features
    kept: bool  # they fit the budget and stay the same, else every batch is encoded anew
    finetuned: bool  # the encoder is trained too
    seconds: float  # of encoding; a rough guess

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        job = self.job
        return {
            "task": job.task.spec.name,
            "split_column": job.heads.corpus.split_column,
            "corpus": job.heads.address,
            "utterances": {name: len(split.cuts) for name, split in job.labelled.splits.items()},
            "seconds": {name: job.seconds(name) for name in job.labelled.splits},
            "steps": job.config.total_steps if job.task.trains else 0,
            "config": asdict(job.config),
            "upstream": self.upstream,
            "feature_bytes": self.num_bytes,
            "kept": self.kept,
            "finetuned": self.finetuned,
            "encoding_seconds_guessed": self.seconds,
        }


def cost(job: Job, encoder: Upstream, factor: float, budget: int) -> Cost:
    """Return what a job takes for one encoder.

    Args:
        job: What is trained.
        encoder: Whose features it is trained on.
        factor: Seconds of encoding for each of audio.
        budget: Largest size of features that are kept, in bytes.
    """
    splits = job.labelled.splits
    size = sum(frame_bytes(encoder, split.cuts) for split in splits.values())
    finetuned = job.heads.finetune and any(p.requires_grad for p in encoder.parameters())
    kept = size <= budget and not finetuned
    heard = sum(job.seconds(name) for name in splits)
    if job.task.trains and not kept:
        config = job.config
        utterances = config.total_steps * config.batch_size * config.gradient_accumulate_steps
        mean = job.seconds("train") / len(splits["train"].cuts)
        looks = -(-config.total_steps // config.eval_step)
        passes = BOTH_WAYS if finetuned else 1
        trained = passes * utterances * mean + looks * job.seconds("dev")
        heard = max(len(job.heads.learning_rates), 1) * trained + job.seconds("test")
    return Cost(job, encoder.spec.name, size, kept, finetuned, heard * factor)
