"""A keyword-spotting head on kept features against s3prl's own Runner with the encoder inside.

The peer is s3prl's unmodified loop: at each step and each look at dev it encodes the batch again.
Its head, first weights, batches and steps are those of Auscult's run, and its waveforms stand ready
in memory, which is in its favour. (s3prl's own expert cannot be the peer's: it imports catalyst,
which is not maintained, and reads one folder layout.) Three runs are compared:

* Auscult's, as `auscult run` trains: every utterance encoded once; in full, before and after the
  peer, from an empty folder each time, the two ending in the same bits.
* s3prl's as it is. "Same within noise" means that the 95 % interval of the difference in test
  accuracy, resampled over speakers in pairs, holds zero. The two differ in two ways by design:
  kept features are rounded to float16, and the mean is over the encoder's valid frames, where
  s3prl's is over a rounded quotient, up to which the bridge repeats the last frame.
* s3prl's with these two taken over. All that the loops can differ by is then the encoder's last
  bits in other batches: curves on dev and test answers must be equal, and the heads apart by at
  most TOLERANCE of the way that training moved them.

An encoder as slow as HuBERT Base is computed at every step of the first ``--measured-epochs`` only;
later its answers are remembered, which changes no number, and their time is scaled from the
measured ones: the scaling is printed. All else of the peer is measured in full. Times are CPU
seconds of the process (``--threads``, 1 by default).

    python benchmarks/heads.py
    python benchmarks/heads.py --upstream log_mel --utterances 2149 --measured-epochs 10

The few utterances that such an encoder allows, and random weights, leave the first of these at
chance; the second learns something.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

import auscult
from auscult import bridge
from auscult.audio import read_samples
from auscult.config import override
from auscult.contracts import HiddenStates
from auscult.dataset import spread
from auscult.downstreams import find_task
from auscult.downstreams.checkpoint import seed_everything
from auscult.downstreams.feature import CorpusUpstream
from auscult.downstreams.keyword_spotting import KeywordSpotting
from auscult.downstreams.schedule import Records
from auscult.downstreams.split import LabelledCorpus, drop_short
from auscult.downstreams.training import HeadTraining, fit_head
from auscult.interval import cluster_weights, quantiles
from auscult.upstream import Upstream

CORPUS = Path(__file__).resolve().parents[2] / "shared/data/speech-commands-v2-test-subset"
TASK = "keyword_spotting"
SETTINGS = ("batch_size=8", "learning_rate=1e-3")  # SUPERB's, 32 and 1e-4, are for 51 000 words
TOLERANCE = 1e-3  # of the way from first to last weights
Weights = dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What all runs share."""

    encoder: Upstream
    corpus: LabelledCorpus
    config: Any
    seed: int
    waveforms: Mapping[str, Any]  # by id, (time,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run found, and what it cost."""

    seconds: float  # of the process, the encoder's time scaled where that was not all computed
    encoding: float  # of these
    curve: Sequence[float]  # on dev, after each epoch
    answers: Records  # on test
    weights: Weights  # of featurizer and head, after the last step


class Remembering(bridge.HubUpstream):
    """The encoder as s3prl's upstream, which computes the first waveforms at every call.

    Args:
        encoder: Frozen.
        num_computed: Waveforms to compute even if they were computed before.
        memory: Layers of waveforms, each (layer, frame, dim), by their samples.
        as_kept: Round to float16, as kept features are.
    """

    def __init__(
        self, encoder: Upstream, num_computed: int, memory: dict[bytes, Tensor], *, as_kept: bool
    ) -> None:
        super().__init__(encoder)
        self._num_computed = num_computed
        self._memory = memory
        self.as_kept = as_kept
        self.inside = 0.0  # CPU seconds in here
        self.encoding = 0.0  # CPU seconds of the encoder alone
        self.computed = 0  # waveforms
        self.asked = 0  # waveforms

    def num_frames(self, waveform: Any) -> int:
        """Return how many frames the encoder called valid."""
        return self._memory[waveform.tobytes()].shape[1]

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, Any]:
        """Return what the encoder says of waveforms, each (time,)."""
        entered = time.process_time()
        keys = [wav.numpy().tobytes() for wav in wavs]
        always = self.asked < self._num_computed
        new = [i for i, key in enumerate(keys) if always or key not in self._memory]
        if new:
            found = self._compute([wavs[i] for i in new])
            self._memory.update(zip([keys[i] for i in new], found, strict=True))
        rows = [self._memory[key] for key in keys]
        if self.as_kept:
            rows = [row.half().float() for row in rows]
        lengths = torch.tensor([row.shape[1] for row in rows])
        padded = pad_sequence([row.transpose(0, 1) for row in rows], batch_first=True)
        samples = torch.tensor([len(wav) for wav in wavs])
        answer = self.answer(HiddenStates(padded.unbind(2), lengths), samples)
        self.asked += len(wavs)
        self.inside += time.process_time() - entered
        return answer

    def _compute(self, wavs: Sequence[Tensor]) -> list[Tensor]:
        started = time.process_time()
        answer = super().forward(wavs)
        self.encoding += time.process_time() - started
        self.computed += len(wavs)
        layers = torch.stack(answer["hidden_states"], dim=1)  # (batch, layer, frame, dim)
        lengths = answer["lengths"].tolist()
        return [row[:, :frames].clone() for row, frames in zip(layers, lengths, strict=True)]


class WaveformHead(KeywordSpotting):
    """The same expert as s3prl's loop wants it: waveforms in batches, a log that names the best.

    Args:
        dim: Size of the features.
        plan: Says the rest.
        num_frames: The valid frames of a waveform, (time,); None: as s3prl counts them.
    """

    def __init__(
        self, dim: int, plan: Plan, num_frames: Callable[[Any], int] | None = None
    ) -> None:
        super().__init__(dim, plan.corpus, plan.config, plan.seed)
        self._plan = plan
        self._num_frames = num_frames
        self.curve: list[float] = []
        self.answers: dict[str, Records] = {}

    def get_dataloader(self, split: str, epoch: int = 0) -> list[Any]:
        """Return the batches of Auscult's own expert."""
        found = super().get_dataloader(split, epoch)
        return [([self._plan.waveforms[i] for i in ids], ids, labels) for _, ids, labels in found]

    def forward(
        self, split: str, features: Sequence[Tensor], ids: Sequence[str], *others: Any, **kw: Any
    ) -> Tensor:
        """Return the loss, as Auscult's own expert does."""
        if self._num_frames is not None:
            frames = [self._num_frames(self._plan.waveforms[i]) for i in ids]
            features = [row[:length] for row, length in zip(features, frames, strict=True)]
        return super().forward(split, features, ids, *others, **kw)

    def log_records(self, split: str, records: Records, **_: Any) -> list[str]:
        """Keep what was recorded; ask for a checkpoint of the best on dev."""
        self.answers[split] = records
        if split != "dev":
            return []
        self.curve.append(self.score(records))
        return ["dev-best.ckpt"] if self.curve[-1] > max(self.curve[:-1], default=-1) else []


class Theirs:
    """Goes before s3prl's ``Runner`` in a class: hands it encoder and head, and changes no more."""

    _init_model: Any  # s3prl's

    def __init__(self, upstream: Remembering, plan: Plan, args: Any, config: Any) -> None:
        self._given = upstream, plan
        super().__init__(args, config)  # type: ignore[call-arg]  # Runner's

    def _get_upstream(self) -> Any:
        return self._init_model(self._given[0], "Upstream", False, ["get_downsample_rates"])

    def _get_downstream(self) -> Any:
        upstream, plan = self._given
        dim = self.featurizer.model.output_dim  # type: ignore[attr-defined]
        head = WaveformHead(dim, plan, upstream.num_frames if upstream.as_kept else None)
        return self._init_model(head, "Downstream", True, ["get_dataloader", "log_records"])


def main() -> None:
    """Print times, their ratio, scores, and how far the heads are apart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="changes to the protocol")
    parser.add_argument("--corpus", default=f"tsv:{CORPUS}")
    parser.add_argument("--split", default="kws_split")
    parser.add_argument("--label", default="label")
    parser.add_argument("--upstream", default="random(hubert_base)")
    parser.add_argument("--utterances", type=int, default=120, help="of all splits together")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--measured-epochs", type=int, default=1, help="with the encoder computed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    import_all()
    plan = make_plan(options)
    sizes = {name: len(split.cuts) for name, split in plan.corpus.splits.items()}
    measured = options.measured_epochs * (sizes["train"] + sizes["dev"])
    with tempfile.TemporaryDirectory() as folder:
        before, training = run_ours(plan, Path(folder) / "before")
        memory: dict[bytes, Tensor] = {}
        upstream = Remembering(plan.encoder, measured, memory, as_kept=False)
        peer, _ = run_peer(plan, upstream, training, Path(folder) / "peer")
        after, _ = run_ours(plan, Path(folder) / "after")
        exact = Remembering(plan.encoder, 0, memory, as_kept=True)
        strict, first = run_peer(plan, exact, training, Path(folder) / "strict")
    assert all(torch.equal(before.weights[name], after.weights[name]) for name in before.weights)
    print(f"{TASK} on {options.upstream}, seed {options.seed}")
    print(f"{Path(options.corpus).name}: {sizes}, {len(plan.corpus.classes)} classes")
    config = plan.config
    print(
        f"{options.epochs} epochs, {config.total_steps} steps of {config.batch_size} utterances, "
        f"learning rate {config.learning_rate:g}; dev after each epoch, test once"
    )
    print(f"{os.cpu_count()} cores, {options.threads} threads, torch {torch.__version__}\n")
    print_times(before, after, peer, upstream)
    print_scores(plan, before, peer)
    print_agreement(before, peer, strict, first)


def import_all() -> None:
    """Import what both loops need, so that it is in nobody's time."""
    import tensorboardX  # noqa: F401

    bridge.mix_with_runner(Theirs)


def make_plan(options: argparse.Namespace) -> Plan:
    """Read a share of each split, and all audio."""
    corpus = auscult.corpus(options.corpus, split=options.split)
    total = sum(len(cuts) for cuts in corpus.splits.values())
    share = min(options.utterances / total, 1)
    splits = {
        name: spread(list(cuts), round(share * len(cuts))) for name, cuts in corpus.splits.items()
    }
    task = find_task(TASK)
    config = override(task.config(), [f"label={options.label}", *SETTINGS, *options.settings])
    encoder = auscult.load(options.upstream)
    labelled = task.prepare(replace(corpus, splits=splits), config, skip_unlabelled=False)
    labelled = drop_short(labelled, encoder, skip_bad=False)
    steps = len(labelled.splits["train"].cuts) // config.batch_size  # of an epoch
    last = options.epochs * steps
    config = replace(config, total_steps=last, eval_step=steps, save_step=last, log_step=last + 1)
    cuts = [cut for split in labelled.splits.values() for cut in split.cuts]
    waveforms = {cut.id: read_samples(cut).numpy() for cut in cuts}
    return Plan(
        encoder=encoder, corpus=labelled, config=config, seed=options.seed, waveforms=waveforms
    )


def run_ours(plan: Plan, folder: Path) -> tuple[Run, HeadTraining]:
    """Encode, train and score as `auscult run` does."""
    started = time.process_time()
    upstream = CorpusUpstream(
        plan.encoder, plan.corpus, budget=10**10, device="cpu", folder=folder / "features"
    )
    encoding = time.process_time() - started
    training = fit_head(
        upstream,
        lambda dim: KeywordSpotting(dim, plan.corpus, plan.config, plan.seed),
        plan.config,
        task=TASK,
        seed=plan.seed,
        device="cpu",
        folder=folder / "head",
    )
    weights = _weights(training)
    result = training.result()
    run = Run(
        seconds=time.process_time() - started,
        encoding=encoding,
        curve=[score for _, score in result.curve],
        answers=result.answers,
        weights=weights,
    )
    return run, training


def run_peer(
    plan: Plan, upstream: Remembering, ours: HeadTraining, folder: Path
) -> tuple[Run, Weights]:
    """Train with s3prl's loop, score what dev chose; return the first weights too."""
    folder.mkdir()
    config = dict(ours.config)
    config["runner"] = config["runner"] | {"max_keep": 1, "eval_dataloaders": ["dev"]}
    changes = {"init_ckpt": "", "push_to_hf_hub": False, "expdir": str(folder)}
    args = argparse.Namespace(**vars(ours.args) | changes)
    runner = bridge.mix_with_runner(Theirs)
    started = time.process_time()
    seed_everything(plan.seed)
    with bridge.hushed(stderr=True):
        peer = runner(upstream, plan, args, config)
        first = _weights(peer)
        peer.train()
        last = _weights(peer)
        best = torch.load(folder / "dev-best.ckpt", weights_only=True)
        for entry in (peer.featurizer, peer.downstream):
            entry.model.load_state_dict(best[entry.name])
        peer.evaluate("test", global_step=best["Step"])
    outside = time.process_time() - started - upstream.inside
    encoding = upstream.asked * upstream.encoding / max(upstream.computed, 1)
    head = peer.downstream.model
    run = Run(
        seconds=outside + encoding,
        encoding=encoding,
        curve=head.curve,
        answers=head.answers["test"],
        weights=last,
    )
    return run, first


def _weights(runner: Any) -> Weights:
    return {
        f"{entry.name}.{key}": value.clone()
        for entry in (runner.featurizer, runner.downstream)
        for key, value in entry.model.state_dict().items()
    }


def print_times(before: Run, after: Run, peer: Run, upstream: Remembering) -> None:
    """Print CPU seconds of both ways, and the ratio to the slower of Auscult's two runs."""
    print("CPU seconds                             in all   encoder      rest")
    scaled = upstream.computed < upstream.asked
    rows = {"auscult, before the peer": before, "auscult, after the peer": after}
    rows |= {"s3prl's Runner (scaled)" if scaled else "s3prl's Runner": peer}
    for name, run in rows.items():
        rest = run.seconds - run.encoding
        print(f"{name:34} {run.seconds:11.1f} {run.encoding:9.1f} {rest:9.1f}")
    kind = "scaled" if scaled else "not scaled"
    print(
        f"  {kind}: {upstream.computed} of the {upstream.asked} waveforms that s3prl's loop asked "
        f"the encoder for were computed, in {upstream.encoding:.1f} s"
    )
    slower = max(before.seconds, after.seconds)
    print(f"{'ratio':34} {peer.seconds / slower:11.1f} x\n")


def print_scores(plan: Plan, ours: Run, peer: Run) -> None:
    """Print accuracies on test with their intervals, and that of their difference."""
    task, test = find_task(TASK), plan.corpus.splits["test"]
    for name, run in {"auscult": ours, "s3prl's Runner": peer}.items():
        score = task.score(run.answers, plan.corpus)[0]
        interval = f"{score.low:.3f} - {score.high:.3f}"
        print(f"test accuracy, {name:19} {score.value:11.3f}   ({interval})")
        print(f"  on dev, by epoch: {' '.join(f'{found:.2f}' for found in run.curve)}")
    assert ours.answers["id"] == peer.answers["id"] == test.ids
    gain = _correct(ours) - _correct(peer)  # (item,)
    weights = cluster_weights(test.speakers, len(gain))
    low, high = quantiles((weights @ gain) / weights.sum(axis=1))
    assert low <= 0 <= high, (low, high)
    print(f"{'difference, in pairs':34} {gain.mean():+11.3f}   ({low:+.3f} - {high:+.3f})")
    print("  same within noise: the interval of the difference holds zero\n")


def print_agreement(ours: Run, peer: Run, strict: Run, first: Weights) -> None:
    """Print how alike the heads are, and check those of the same features."""
    print("against auscult's head                s3prl's Runner   with the same features")
    columns = [
        (_moved(run, ours, first), _same(run, ours), _apart(run, ours)) for run in (peer, strict)
    ]
    names = ("apart, share of the way it moved", "same answers on test", "dev curves apart")
    for name, *found in zip(names, *columns, strict=True):
        print(f"{name:36} {found[0]:14.2g} {found[1]:24.2g}")
    moved, same, apart = columns[1]
    assert moved < TOLERANCE and same == 1 and apart == 0


def _correct(run: Run) -> Any:
    return np.equal(run.answers["target"], run.answers["prediction"]).astype(float)


def _moved(run: Run, ours: Run, first: Weights) -> float:
    """Return the distance of two heads as a share of that from the first weights to ours."""
    distance = sum(float((run.weights[n] - ours.weights[n]).square().sum()) for n in first)
    way = sum(float((ours.weights[n] - first[n]).square().sum()) for n in first)
    return float((distance / way) ** 0.5)


def _same(run: Run, ours: Run) -> float:
    return float(np.mean(np.equal(run.answers["prediction"], ours.answers["prediction"])))


def _apart(run: Run, ours: Run) -> float:
    return max(abs(a - b) for a, b in zip(run.curve, ours.curve, strict=True))


if __name__ == "__main__":
    main()
