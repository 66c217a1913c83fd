"""Speaker verification: its trials, its error rate, its protocol, and that it learns."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from auscult.bridge import repair
from auscult.dataset import Trial
from auscult.downstreams import find_task
from auscult.downstreams.crop import draw_crop, take_crop
from auscult.downstreams.feature import CorpusUpstream
from auscult.downstreams.speaker_verification import (
    SpeakerVerification,
    SpeakerVerificationConfig,
    prepare,
    score,
)
from auscult.downstreams.split import drop_short
from auscult.downstreams.training import train_head
from auscult.downstreams.trial import (
    equal_error_rate,
    least_detection_cost,
    make_trials,
    trial_scores,
)
from auscult.errors import UserError

SHORT = SpeakerVerificationConfig(
    embedding_dim=16,
    pooled_dim=32,
    total_steps=60,
    batch_size=8,
    gradient_accumulate_steps=1,
    learning_rate=3e-3,
    eval_step=20,
    save_step=60,
)
SPLIT_OF = ("train",) * 8 + ("dev",) * 4 + ("test",) * 4


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A corpus of 16 speakers, each noise of its own spectrum, 4 utterances of 16 to 30 frames."""
    import auscult

    folder = tmp_path_factory.mktemp("voices")
    generator = np.random.default_rng(0)
    rows = ["path\tutt\tspeaker\tsplit"]
    for speaker, split in enumerate(SPLIT_OF):
        envelope = np.repeat(10 ** generator.uniform(-2, 0, 8), 20)
        for take in range(4):
            frames = int(generator.integers(17, 30))
            spectrum = np.fft.rfft(generator.standard_normal((frames, 320)))
            spectrum[:, 1:] *= envelope
            wave = np.fft.irfft(spectrum).ravel()
            name = f"s{speaker}-{take}"
            soundfile.write(folder / f"{name}.flac", 0.1 * wave / wave.std(), 16_000)
            rows.append(f"{name}.flac\t{name}\ts{speaker}\t{split}")
    (folder / "MANIFEST.tsv").write_text("\n".join(rows) + "\n")
    return auscult.corpus(f"tsv:{folder}")


def _only(corpus: Any, split: str, wanted: Any) -> Any:
    """Return the corpus with the utterances of a split that ``wanted`` names."""
    cuts = [cut for cut in corpus.split(split) if wanted(cut.id)]
    return replace(corpus, splits={**corpus.splits, split: cuts})


def _nameless(corpus: Any, split: str) -> Any:
    """Return the corpus with the speaker of a split's first utterance taken away."""
    first, *others = corpus.split(split)
    bare = replace(first, supervisions=[replace(first.supervisions[0], speaker=None)])
    return replace(corpus, splits={**corpus.splits, split: [bare, *others]})


def test_the_defaults_are_superb() -> None:
    config = find_task("speaker_verification").config()
    assert (config.embedding_dim, config.pooled_dim, config.crop_seconds) == (512, 1500, 8)
    assert (config.scale, config.margin, config.optimizer) == (30, 0.4, "torch.AdamW")
    assert (config.total_steps, config.batch_size, config.learning_rate) == (200_000, 10, 1e-4)
    assert (config.gradient_accumulate_steps, config.gradient_clipping) == (5, 1000)


def test_it_learns_about_speakers_it_has_not_heard(voices: Any, bands: Any, tmp_path: Path) -> None:
    corpus = drop_short(prepare(voices, SHORT, skip_unlabelled=False), bands, skip_bad=False)
    result = train_head(
        CorpusUpstream(bands, corpus, budget=10**9, device="cpu"),
        lambda dim: SpeakerVerification(dim, corpus, SHORT, 0),
        SHORT,
        task="speaker_verification",
        seed=0,
        device="cpu",
        folder=tmp_path,
    )
    trials = corpus.trials["test"]
    assert result.answers["id"] == [(trial.first, trial.second) for trial in trials]
    assert result.answers["target"] == [trial.same for trial in trials]
    found, cost = score(result.answers, corpus)
    assert (found.metric, cost.metric) == find_task("speaker_verification").spec.metrics
    assert cost.low is not None and cost.high is not None
    assert 0 <= cost.low <= cost.value <= cost.high <= 1
    assert (found.metric, found.num_items, found.num_speakers) == ("eer", len(trials), 4)
    assert found.value < 0.2  # chance is 0.5
    assert found.low is not None and found.high is not None
    assert found.low <= found.value <= found.high
    shuffled = np.random.default_rng(0).permutation(result.answers["prediction"]).tolist()
    assert score({**result.answers, "prediction": shuffled}, corpus)[0].value > 0.3


class TestTrials:
    def test_of_the_corpus_are_taken_with_their_utterances_only(self, voices: Any) -> None:
        given = (Trial("s12-0", "s12-1", True), Trial("s12-0", "s13-2", False))
        corpus = prepare(replace(voices, trials={"test": given}), SHORT, skip_unlabelled=False)
        assert corpus.trials["test"] == given
        assert corpus.splits["test"].ids == ["s12-0", "s12-1", "s13-2"]
        assert len(corpus.splits["dev"].ids) == 16 and len(corpus.trials["dev"]) == 48
        assert corpus.classes == tuple(f"s{i}" for i in range(8))

    def test_are_made_of_all_pairs_of_one_speaker_and_as_many_others(self) -> None:
        speakers = {f"{who}{take}": who for who in "abc" for take in range(5)}
        trials = make_trials(speakers)
        assert make_trials(speakers) == trials and len(set(trials)) == len(trials) == 60
        same = {frozenset((t.first, t.second)) for t in trials if t.same}
        assert same == {
            frozenset(pair)
            for pair in combinations(speakers, 2)
            if speakers[pair[0]] == speakers[pair[1]]
        }
        for trial in trials:
            assert trial.same == (speakers[trial.first] == speakers[trial.second])

    def test_are_limited(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("auscult.downstreams.trial.MOST", 20)
        trials = make_trials({f"{who}{take}": who for who in "ab" for take in range(50)})
        assert sum(trial.same for trial in trials) == 20 and len(trials) == 40

    def test_of_dev_are_made_of_halves_where_nobody_speaks_twice(self, voices: Any) -> None:
        lone = _only(voices, "dev", lambda name: name.endswith("-0"))
        corpus = prepare(lone, SHORT, skip_unlabelled=False)
        dev = corpus.splits["dev"]
        assert dev.ids[:2] == ["s8-0-first", "s8-0-second"]
        first, second = dev.cuts[:2]
        whole = next(iter(lone.split("dev")))
        audio = np.concatenate([first.load_audio()[0], second.load_audio()[0]])
        np.testing.assert_array_equal(audio, whole.load_audio()[0][: len(audio)])
        assert whole.num_samples - len(audio) in (0, 1)
        assert sum(trial.same for trial in corpus.trials["dev"]) == 4

    def test_of_one_kind_are_refused(self, voices: Any) -> None:
        lone = _only(voices, "test", lambda name: name.endswith("-0"))
        with pytest.raises(UserError, match="test split .* has no trials of one speaker"):
            prepare(lone, SHORT, skip_unlabelled=False)
        elsewhere = replace(lone, trials={"verify": (Trial("a", "b", True),)})
        with pytest.raises(UserError, match="trials of verify: --test-split verify"):
            prepare(elsewhere, SHORT, skip_unlabelled=False)
        alone = _only(voices, "dev", lambda name: name.startswith("s8-"))
        with pytest.raises(UserError, match="dev split .* has no trials of two speakers"):
            prepare(alone, SHORT, skip_unlabelled=False)

    def test_go_with_their_utterances(self, voices: Any, bands: Any) -> None:
        first, *others = voices.split("test")
        short = replace(voices, splits={**voices.splits, "test": [first.truncate(duration=0.01)]})
        short.splits["test"].extend(others)
        corpus = drop_short(prepare(short, SHORT, skip_unlabelled=False), bands, skip_bad=True)
        usable = corpus.usable_trials("test")
        assert 0 < len(usable) < len(corpus.trials["test"])
        assert all(first.id not in (trial.first, trial.second) for trial in usable)
        none = replace(corpus, splits={**corpus.splits, "test": corpus.splits["dev"]})
        with pytest.raises(UserError, match="0 of 48 trials remain"):
            SpeakerVerification(8, none, SHORT, 0)  # before anything is trained


def test_an_utterance_without_a_speaker_is_named_or_left_out_and_counted(voices: Any) -> None:
    broken = _nameless(voices, "train")
    with pytest.raises(UserError, match="Utterance s0-0 of the train split .* has no speaker"):
        prepare(broken, SHORT, skip_unlabelled=False)
    corpus = prepare(broken, SHORT, skip_unlabelled=True)
    assert len(corpus.splits["train"].cuts) == 31 and corpus.skipped == (
        "train: s0-0 has no speaker.",
    )
    lone = _only(voices, "train", lambda name: name.startswith("s0-"))
    with pytest.raises(UserError, match="has 1 speakers; two are the least"):
        prepare(lone, SHORT, skip_unlabelled=False)


def test_batches_depend_on_seed_and_epoch_alone(voices: Any) -> None:
    corpus = prepare(voices, replace(SHORT, crop_seconds=0.1), skip_unlabelled=False)
    config = replace(SHORT, crop_seconds=0.1)
    one, two = (SpeakerVerification(8, corpus, config, 3) for _ in range(2))
    assert one.get_dataloader("train", epoch=2) == two.get_dataloader("train", epoch=2)
    assert one.get_dataloader("train", epoch=2) != one.get_dataloader("train", epoch=3)
    other = SpeakerVerification(8, corpus, config, 4)
    assert one.get_dataloader("train", epoch=2) != other.get_dataloader("train", epoch=2)
    for batch in one.get_dataloader("train") + one.get_dataloader("dev"):
        assert len({len(part) for part in batch}) == 1  # an entry for each utterance


def test_crops_are_parts_of_the_wanted_length() -> None:
    generator = torch.Generator().manual_seed(0)
    frames = torch.arange(100).float()[:, None]
    starts = set()
    for _ in range(200):
        part = take_crop(frames, draw_crop(32_000, 0.5, generator))
        assert 24 <= len(part) <= 26 and bool((part.diff(dim=0) == 1).all())
        starts.add(int(part[0, 0]))
    assert min(starts) < 5 and max(starts) > 70
    assert len(take_crop(frames, draw_crop(32_000, 2.0, generator))) == 100
    assert len(take_crop(frames[:1], (0.9, 0.91))) == 1


class TestEmbeddings:
    @pytest.fixture
    def head(self, voices: Any) -> SpeakerVerification:
        torch.manual_seed(0)
        corpus = prepare(voices, SHORT, skip_unlabelled=False)
        return SpeakerVerification(8, corpus, SHORT, 0)

    def test_do_not_depend_on_neighbours(self, head: SpeakerVerification) -> None:
        rows = [torch.randn(length, 8) for length in (16, 40, 23)]
        together = head.model.inference(*head._padded(rows, ["a", "b", "c"]))
        for row, found in zip(rows, together, strict=True):
            (alone,) = head.model.inference(*head._padded([row], ["a"]))
            torch.testing.assert_close(found, alone)
            straight = head.model.inference(
                head.connector(row)[None], torch.zeros(1, len(row) - 14)
            )
            torch.testing.assert_close(found, straight[0])

    def test_need_sixteen_frames(self, head: SpeakerVerification) -> None:
        rows = [torch.randn(40, 8), torch.randn(15, 8)]
        with pytest.raises(UserError, match="Utterance b has 15 frames, but x-vectors need 16"):
            head._padded(rows, ["a", "b"])
        assert find_task("speaker_verification").min_frames == 16
        head._padded([torch.randn(16, 8)], ["a"])


class TestEqualErrorRate:
    def test_by_hand(self) -> None:
        # above 0.6: one of four targets missed, one of four others let in
        same = [1, 1, 1, 0, 1, 0, 0, 0]
        assert equal_error_rate(same, [0.9, 0.8, 0.7, 0.65, 0.3, 0.2, 0.1, 0.0]) == 0.25
        assert equal_error_rate([1, 1, 0, 0], [2, 3, 0, 1]) == 0
        assert equal_error_rate([1, 1, 0, 0], [0, 1, 2, 3]) == 1
        assert equal_error_rate([1, 0, 1, 0], [5, 5, 5, 5]) == 0.5
        assert np.isnan(equal_error_rate([1, 1], [0.1, 0.2]))

    def test_is_s3prls(self) -> None:
        repair()
        from s3prl.downstream.sv_voxceleb1.utils import EER

        generator = np.random.default_rng(0)
        for size in (5, 30, 500):
            for decimals in (1, 6):
                same = generator.random(size) < 0.4
                same[:2] = True, False
                scores = (generator.standard_normal(size) + same).round(decimals)
                theirs, _threshold = EER(same.astype(int), scores)
                assert equal_error_rate(same, scores) == pytest.approx(theirs, abs=1e-9)

    def test_intervals_resample_speakers_where_they_are_known(self) -> None:
        generator = np.random.default_rng(0)
        speakers = {f"u{i}": f"s{i % 6}" for i in range(60)}
        trials = make_trials(speakers)
        shift = {f"s{i}": 0.8 * i for i in range(6)}  # some speakers are easier than others
        pairs = [(speakers[t.first], speakers[t.second]) for t in trials]
        same = [t.same for t in trials]
        scores = [
            float(generator.standard_normal() + shift[a] * is_same)
            for (a, _), is_same in zip(pairs, same, strict=True)
        ]
        by_speaker, _cost = trial_scores(same, scores, pairs)
        by_trial, _cost = trial_scores(same, scores, [(None, None)] * len(same))
        assert by_speaker.value == by_trial.value == equal_error_rate(same, scores)
        widths = []
        for found in (by_speaker, by_trial):
            assert found.low is not None and found.high is not None
            assert found.low < found.value < found.high
            widths.append(found.high - found.low)
        assert widths[0] > 2 * widths[1]
        assert (by_speaker.num_speakers, by_trial.num_speakers) == (6, None)


class TestLeastDetectionCost:
    def test_by_hand(self) -> None:
        # targets 9 8 7 1, others 6 5 0: above 6 one of four is missed and nothing let in
        same = [1, 1, 1, 1, 0, 0, 0]
        assert least_detection_cost(same, [9, 8, 7, 1, 6, 5, 0]) == pytest.approx(0.25)
        # the highest is an alarm: letting one of three in costs 99 / 3, so nothing is let in
        assert least_detection_cost(same, [9, 8, 7, 1, 10, 5, 0]) == pytest.approx(1)
        # one alarm in 1000 with no miss costs 0.099; with one miss of four, none: 0.25
        many = [1] * 4 + [0] * 1000
        assert least_detection_cost(many, [9, 8, 7, 5, 6, *[0] * 999]) == pytest.approx(0.099)
        assert least_detection_cost([1, 1, 0, 0], [2, 3, 0, 1]) == 0
        # trials of the same score cannot be told apart
        assert least_detection_cost([1, 0, 1, 0], [5, 5, 5, 5]) == pytest.approx(1)
        assert np.isnan(least_detection_cost([1, 1], [0.1, 0.2]))

    def test_is_the_least_of_all_thresholds(self) -> None:
        generator = np.random.default_rng(1)
        same = generator.random(400) < 0.3
        scores = (generator.standard_normal(400) + 3 * same).round(1)
        costs = [
            0.01 * np.mean(scores[same] < threshold) + 0.99 * np.mean(scores[~same] >= threshold)
            for threshold in [*np.unique(scores), np.inf]
        ]
        assert least_detection_cost(same, scores) == pytest.approx(min(costs) / 0.01)
        assert 0 < least_detection_cost(same, scores) < 1
