"""Speaker verification as SUPERB does it: x-vectors of two utterances, compared by their cosine.

The same as SUPERB's: the learned softmax over all layers, a projection to 512, five TDNN layers
(context 5, 3, 3, 1, 1; dilation 1, 2, 3, 1, 1; 1500 channels at the end), mean and standard
deviation over time, two linear layers (s3prl's own modules); AM-softmax over the training speakers
(scale 30, margin 0.4); torch's AdamW at 1e-4, gradients clipped at a norm of 1000, 10 utterances a
batch, 5 batches a step, 200 000 steps; in training at most 8 s of each utterance, from a random
place; trials scored by the cosine of what comes after the first linear layer and its ReLU.

Not the same: the best of 20 steps is chosen on trials of dev, where SUPERB chooses it on those of
test; dev's speakers are not trained on, so that of VoxCeleb1's 1211, all of which SUPERB trains on,
about 15 % are left out; silence is not cut out, nor are training utterances of less than 2 s left
out; audio is not lowered by 3 dB; the 8 s are cut from the frames of the whole utterance; and of a
padded row the statistics take valid frames only, where s3prl's take one frame of padding. Trials
are the corpus' own; where dev or test has none they are made from its speakers, and where no dev
speaker has two utterances, each is cut into two halves: good enough to choose a step, too easy to
be reported. The least detection cost is reported beside the equal error rate.

The network needs long training: where few speakers are trained on for few steps, it can be worse
than the same network before its first step, which already compares statistics of the spectrum.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from auscult.contracts import SAMPLE_RATE
from auscult.dataset import Corpus, Trial, utterance_label
from auscult.errors import UserError
from auscult.head import build_margin_loss, build_speaker_embedder
from auscult.progress import logger
from auscult.score import Score

from .batch import batches, shuffled
from .crop import take_crop, with_crops
from .schedule import Records, Schedule
from .split import SPLITS, LabelledCorpus, LabelledSplit
from .trial import equal_error_rate, make_trials, trial_scores

CONTEXT = 14  # frames that the TDNN layers need beside the one that they look at


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakerVerificationConfig(Schedule):
    """SUPERB's protocol."""

    embedding_dim: int = 512
    pooled_dim: int = 1500
    scale: float = 30.0
    margin: float = 0.4
    crop_seconds: float = 8.0  # of longer training utterances
    total_steps: int = 200_000
    batch_size: int = 10
    gradient_accumulate_steps: int = 5
    gradient_clipping: float = 1000.0
    learning_rate: float = 1e-4
    optimizer: str = "torch.AdamW"
    eval_step: int = 10_000
    save_step: int = 10_000


@dataclass(frozen=True, slots=True)
class TrialCorpus(LabelledCorpus):
    """Training utterances by speaker, and the trials of dev and test with their utterances."""

    trials: Mapping[str, tuple[Trial, ...]] = field(default_factory=dict)

    def usable_trials(self, split: str) -> list[Trial]:
        """Return the trials of a split whose utterances were not left out.

        Raises:
            UserError: Trials of one kind only are left.
        """
        there = set(self.splits[split].ids)
        found = [t for t in self.trials[split] if t.first in there and t.second in there]
        if len({trial.same for trial in found}) < 2:
            raise UserError(
                f"Too many utterances of the {split} split were left out: {len(found)} of "
                f"{len(self.trials[split])} trials remain, and not of both kinds."
            )
        return found


def prepare(
    corpus: Corpus, config: SpeakerVerificationConfig, *, skip_unlabelled: bool
) -> TrialCorpus:
    """Read the speakers of train and the trials of dev and test.

    Args:
        corpus: Its utterances have speakers; its dev and test splits may have trials.
        config: Not used.
        skip_unlabelled: Leave utterances without a speaker out, counted, instead of stopping.

    Raises:
        UserError: A missing split or speaker, one training speaker only, or a split from which no
            trials can be made.
    """
    skipped: list[str] = []
    splits, trials = {}, {}
    for name in SPLITS:
        cuts, given = tuple(corpus.split(name)), corpus.trials.get(name, ())
        if name != "train" and given:
            wanted = {utterance for trial in given for utterance in (trial.first, trial.second)}
            cuts, trials[name] = tuple(cut for cut in cuts if cut.id in wanted), given
        else:
            cuts = _with_speaker(corpus.spec, name, cuts, skip_unlabelled, skipped)
        if name != "train" and not given:
            cuts, trials[name] = _made_trials(corpus.spec, name, cuts)
        _check_trials(corpus, name, trials.get(name))
        speakers = tuple(utterance_label(cut, "speaker") for cut in cuts)
        splits[name] = LabelledSplit(name, cuts, speakers)
    classes = tuple(sorted(set(splits["train"].labels)))
    if len(classes) < 2:
        raise UserError(
            f"The train split of {corpus.spec} has {len(classes)} speakers; two are the least that "
            "can be told apart."
        )
    return TrialCorpus(splits, classes, tuple(skipped), trials)


def _with_speaker(
    spec: str, split: str, cuts: Sequence[Any], skip: bool, skipped: list[str]
) -> tuple[Any, ...]:
    """Return the cuts that have a speaker; name the others in ``skipped``."""
    without = [cut.id for cut in cuts if utterance_label(cut, "speaker") is None]
    if without and not skip:
        raise UserError(
            f"Utterance {without[0]} of the {split} split of {spec} has no speaker "
            f"({len(without)} of {len(cuts)} have none); add it, or --skip-bad."
        )
    skipped += [f"{split}: {utterance} has no speaker." for utterance in without]
    out = set(without)
    return tuple(cut for cut in cuts if cut.id not in out)


def _made_trials(
    spec: str, split: str, cuts: tuple[Any, ...]
) -> tuple[tuple[Any, ...], tuple[Trial, ...]]:
    """Make the trials of a split, for dev from halves if need be, and return their cuts too."""
    speakers = {cut.id: str(utterance_label(cut, "speaker")) for cut in cuts}
    how = "from pairs of its utterances"
    if split == "dev" and len(set(speakers.values())) == len(cuts):
        cuts = tuple(half for cut in cuts for half in _halves(cut))
        speakers = {cut.id: str(utterance_label(cut, "speaker")) for cut in cuts}
        how = "from halves of its utterances, because none of its speakers has two"
    found = make_trials(speakers) if speakers else ()
    logger.info(
        f"{spec}: the {split} split has no trials; {len(found)} were made {how}, "
        f"{sum(trial.same for trial in found)} of them of one speaker."
    )
    return cuts, found


def _halves(cut: Any) -> tuple[Any, Any]:
    half = round(cut.duration * SAMPLE_RATE) // 2 / SAMPLE_RATE
    return (
        cut.truncate(duration=half).with_id(f"{cut.id}-first"),
        cut.truncate(offset=half, duration=half).with_id(f"{cut.id}-second"),
    )


def _check_trials(corpus: Corpus, split: str, trials: Sequence[Trial] | None) -> None:
    if trials is None or len({trial.same for trial in trials}) == 2:
        return
    one = "two speakers" if any(trial.same for trial in trials) else "one speaker"
    others = [name for name, found in corpus.trials.items() if found and name not in SPLITS]
    hint = f" It has trials of {others[0]}: --test-split {others[0]}." if others else ""
    raise UserError(
        f"The {split} split of {corpus.spec} has no trials of {one}, and an error rate needs both "
        f"kinds; give it trials, or two speakers of whom one has two utterances.{hint}"
    )


class SpeakerVerification(nn.Module):
    """The downstream expert: data, network, loss and score.

    Args:
        upstream_dim: Size of the features.
        corpus: Training speakers and trials.
        config: The protocol.
        seed: Of the order and the crops of the training utterances.

    Raises:
        UserError: So many utterances were left out that dev or test has trials of one kind only.
    """

    def __init__(
        self, upstream_dim: int, corpus: TrialCorpus, config: SpeakerVerificationConfig, seed: int
    ) -> None:
        super().__init__()
        self._corpus = corpus
        self._config = config
        self._seed = seed
        self._embeddings: dict[str, Tensor] = {}  # of the evaluation that is going on
        for split, trials in corpus.trials.items():  # before training, not after it
            if lost := len(trials) - len(corpus.usable_trials(split)):
                logger.warning(
                    f"{split}: {lost} of {len(trials)} trials are of utterances left out."
                )
        dim = config.embedding_dim
        self.connector = nn.Linear(upstream_dim, dim)
        self.model = build_speaker_embedder(dim, config.pooled_dim)
        self.objective = build_margin_loss(dim, len(corpus.classes), config.scale, config.margin)

    def get_dataloader(self, split: str, epoch: int = 0) -> list[Any]:
        """Return the batches of a split; those of train are another draw in each epoch.

        With each training utterance comes the part of it to take; with each other one the trials
        to score when it is known, all of them with the last.
        """
        data, size = self._corpus.splits[split], self._config.batch_size
        if split == "train":
            found = batches(data, shuffled(len(data.cuts), self._seed, epoch), size)
            return with_crops(found, self._config.crop_seconds, self._seed, epoch)
        self._embeddings = {}
        found = batches(data, range(len(data.cuts)), size)
        due: list[list[list[Trial]]] = [[[] for _ in batch[0]] for batch in found]
        due[-1][-1] = self._corpus.usable_trials(split)
        return [(*batch, trials) for batch, trials in zip(found, due, strict=True)]

    def forward(
        self,
        split: str,
        features: Sequence[Tensor],
        ids: Sequence[str],
        speakers: Sequence[str | None],
        plans: Sequence[Any],
        records: Records,
        **_: Any,
    ) -> Tensor:
        """Return the loss, of training; else append what trials are due to ``records``.

        Args:
            split: Whether this is training.
            features: One for each utterance, (frame, dim).
            ids: Of the utterances.
            speakers: Who says them.
            plans: Parts to take in training, else trials; see :meth:`get_dataloader`.
            records: Lists by name: ``id``, a trial's two utterances; ``target``, whether one
                speaker says both; ``prediction``, the cosine.

        Raises:
            UserError: An utterance of too few frames.
        """
        if split == "train":
            features = [take_crop(row, crop) for row, crop in zip(features, plans, strict=True)]
            numbers = [self._corpus.classes.index(str(speaker)) for speaker in speakers]
            targets = torch.tensor(numbers, device=features[0].device)
            loss: Tensor = self.objective(self.model(*self._padded(features, ids)), targets)
            return loss
        found = functional.normalize(self.model.inference(*self._padded(features, ids)), dim=-1)
        self._embeddings |= dict(zip(ids, found.float().cpu(), strict=True))
        for trial in (trial for trials in plans for trial in trials):
            one, other = self._embeddings[trial.first], self._embeddings[trial.second]
            records["id"].append((trial.first, trial.second))
            records["target"].append(trial.same)
            records["prediction"].append(float(one @ other))
        return torch.zeros(())

    def score(self, records: Records) -> float:
        """Return the negative equal error rate of what was recorded."""
        return -equal_error_rate(records["target"], records["prediction"])

    def _padded(self, features: Sequence[Tensor], ids: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return projected features (batch, frame, dim) and the mask that the network wants."""
        lengths = torch.tensor([len(row) - CONTEXT for row in features])
        if int(lengths.min()) < 2:
            short = int(lengths.argmin())
            raise UserError(
                f"Utterance {ids[short]} has {len(features[short])} frames, but x-vectors need "
                f"{CONTEXT + 2}; take it out of the corpus."
            )
        padded = self.connector(pad_sequence(list(features), batch_first=True))
        last = int(lengths.max())
        begin = torch.where(lengths < last, lengths - 1, last)  # one early, see the builder
        mask = torch.zeros(len(features), last) - (torch.arange(last) >= begin[:, None]).float()
        return padded, mask.to(padded.device)


def score(answers: Mapping[str, Sequence[Any]], corpus: TrialCorpus) -> list[Score]:
    """Return equal error rate and least detection cost of the trials of test."""
    test = corpus.splits["test"]
    speaker_of = dict(zip(test.ids, test.speakers, strict=True))
    pairs = [(speaker_of[first], speaker_of[second]) for first, second in answers["id"]]
    return trial_scores(answers["target"], answers["prediction"], pairs)
