"""Speaker diarization: its labels, its loss, its error rate, and that it learns."""

import logging
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from auscult.bridge import repair
from auscult.config import override
from auscult.corpora.rttm import read_rttm
from auscult.downstreams import find_task
from auscult.downstreams.feature import CorpusUpstream
from auscult.downstreams.speaker_diarization import (
    SpeakerDiarization,
    SpeakerDiarizationConfig,
    at_frames,
    permutation_invariant_loss,
    prepare,
    score,
)
from auscult.downstreams.training import train_head
from auscult.downstreams.turn import (
    DiarizationError,
    diarization_error,
    rttm_lines,
    turns_of_frames,
)
from auscult.errors import UserError
from auscult.frame import FrameGeometry

SHORT = SpeakerDiarizationConfig(
    hidden_dim=16,
    chunk_frames=40,
    median_frames=3,
    total_steps=80,
    batch_size=8,
    gradient_accumulate_steps=1,
    learning_rate=0.02,
    eval_step=40,
    save_step=80,
)
PITCH = {"low": 300.0, "high": 3000.0}


@pytest.fixture(scope="module")
def meetings(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A corpus of 12 recordings of 2 s, in each two speakers, one low and one high, who overlap."""
    import auscult

    folder = tmp_path_factory.mktemp("meetings")
    generator = np.random.default_rng(0)
    rows, lines = ["path\tutt\tsplit"], []
    for number, split in enumerate(["train"] * 8 + ["dev"] * 2 + ["test"] * 2):
        time = np.arange(32_000) / 16_000
        wave = 0.01 * generator.standard_normal(len(time))
        for kind, pitch in PITCH.items():
            turns = []
            for first in (0.1, 1.1):
                start = first + generator.integers(0, 20) / 50
                end = start + generator.integers(15, 25) / 50
                wave[(start <= time) & (time < end)] += 0.2 * np.sin(
                    2 * np.pi * pitch * time[(start <= time) & (time < end)]
                )
                turns.append((start, end, f"{kind}-{number}"))
            lines += rttm_lines(f"m{number}", turns)
        soundfile.write(folder / f"m{number}.flac", wave, 16_000)
        rows.append(f"m{number}.flac\tm{number}\t{split}")
    (folder / "MANIFEST.tsv").write_text("\n".join(rows) + "\n")
    (folder / "all.rttm").write_text("\n".join(lines) + "\n")
    return auscult.corpus(f"tsv:{folder}")


def test_the_defaults_are_superb() -> None:
    config = find_task("speaker_diarization").config()
    assert (config.hidden_dim, config.chunk_frames, config.num_speakers) == (512, 2000, 0)
    assert (config.total_steps, config.batch_size, config.learning_rate) == (30_000, 8, 1e-4)
    assert (config.gradient_accumulate_steps, config.eval_step, config.median_frames) == (
        4,
        500,
        11,
    )
    with pytest.raises(UserError, match="median_frames=10: expected an odd number"):
        override(config, ["median_frames=10"])


def test_it_learns_and_reports_on_test(meetings: Any, bands: Any, tmp_path: Path) -> None:
    corpus = at_frames(prepare(meetings, SHORT, skip_unlabelled=False), SHORT, bands)
    result = train_head(
        CorpusUpstream(bands, corpus, budget=10**9, device="cpu"),
        lambda dim: SpeakerDiarization(dim, corpus, SHORT, 0),
        SHORT,
        task="speaker_diarization",
        seed=0,
        device="cpu",
        folder=tmp_path,
    )
    answers, test = result.answers, corpus.splits["test"]
    assert answers["id"] == test.ids
    assert [np.shape(found) for found in answers["prediction"]] == [(100, 2)] * 2
    (found,) = score(answers, corpus)
    assert (found.metric, found.num_items, found.num_speakers) == ("der", 2, None)
    assert found.value < 0.3  # silence has 1, one speaker all the time about 1.5
    assert found.low is not None and found.high is not None
    assert found.low <= found.value <= found.high
    late = [[(a + 0.3, b + 0.3, who) for a, b, who in turns] for turns in answers["turns"]]
    assert score({**answers, "turns": late}, corpus)[0].value > 0.8
    assert score({**answers, "turns": [[], []]}, corpus)[0].value == 1


class TestLabels:
    def test_stand_at_the_centres_of_frames(self, meetings: Any, bands: Any) -> None:
        corpus = at_frames(prepare(meetings, SHORT, skip_unlabelled=False), SHORT, bands)
        recording = corpus.splits["train"].labels[0]
        assert corpus.classes == ("0", "1") and recording.active.shape == (100, 2)
        for column, speaker in enumerate(recording.speakers):
            for frame in range(100):
                centre = (320 * frame + 159.5) / 16_000
                speaks = any(a <= centre < b for a, b, who in recording.turns if who == speaker)
                assert recording.active[frame, column] == speaks
        assert 0 < recording.active.all(axis=1).sum()  # both at once

    def test_of_too_many_speakers_leave_the_least_talkative_out(
        self, meetings: Any, bands: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        one = replace(SHORT, num_speakers=1)
        with caplog.at_level(logging.INFO, logger="auscult"):
            corpus = at_frames(prepare(meetings, one, skip_unlabelled=False), one, bands)
        assert "8 of 8 recordings of train have more than the 1 speakers" in caplog.text
        assert "2 of 2 recordings of test have more than the 1 speakers" in caplog.text
        recording = corpus.splits["test"].labels[0]
        spoken = {who: 0.0 for _, _, who in recording.turns}
        for start, end, who in recording.turns:
            spoken[who] += end - start
        most = max(spoken, key=lambda who: spoken[who])
        assert recording.speakers[0] == most
        assert recording.active.sum() == pytest.approx(spoken[most] * 50, abs=1)
        assert len({who for _, _, who in recording.turns}) == 2  # all are scored

    def test_of_fewer_speakers_are_silent(self, meetings: Any, bands: Any) -> None:
        three = replace(SHORT, num_speakers=3)
        corpus = at_frames(prepare(meetings, three, skip_unlabelled=False), three, bands)
        active = corpus.splits["dev"].labels[0].active
        assert active.shape == (100, 3) and active.any(axis=0).tolist() == [True, True, False]

    def test_that_are_missing_are_named_or_counted(self, meetings: Any) -> None:
        first, *others = meetings.split("dev")
        bare = replace(first, supervisions=[replace(first.supervisions[0], alignment=None)])
        broken = replace(meetings, splits={**meetings.splits, "dev": [bare, *others]})
        with pytest.raises(UserError, match="Recording m8 of the dev split .* has no turns"):
            prepare(broken, SHORT, skip_unlabelled=False)
        corpus = prepare(broken, SHORT, skip_unlabelled=True)
        assert corpus.skipped == ("dev: m8 has no turns of speakers.",)
        none = replace(meetings, splits={**meetings.splits, "dev": [bare]})
        with pytest.raises(UserError, match="The dev split of .* has no turns of speakers"):
            prepare(none, SHORT, skip_unlabelled=True)


def test_training_is_in_chunks_and_the_rest_in_one(meetings: Any, bands: Any) -> None:
    corpus = at_frames(prepare(meetings, SHORT, skip_unlabelled=False), SHORT, bands)
    head = SpeakerDiarization(8, corpus, SHORT, 3)
    pieces = [
        (name, *chunk)
        for _, ids, _, chunks in head.get_dataloader("train", epoch=1)
        for name, chunk in zip(ids, chunks, strict=True)
    ]
    assert sorted(pieces) == [
        (f"m{i}", a, b) for i in range(8) for a, b in ((0, 40), (40, 80), (80, 100))
    ]
    (dev,) = head.get_dataloader("dev")
    assert dev[1] == ["m8", "m9"] and dev[3] == [(0, 100), (0, 100)]

    def order(seed: int, epoch: int) -> list[Any]:
        loader = SpeakerDiarization(8, corpus, SHORT, seed).get_dataloader("train", epoch)
        return [(ids, chunks) for _, ids, _, chunks in loader]

    assert order(3, 1) == order(3, 1) and order(3, 1) != order(3, 2) and order(3, 1) != order(4, 1)


class TestLoss:
    @pytest.mark.parametrize("num_speakers", [1, 2, 4])
    def test_is_s3prls(self, num_speakers: int) -> None:
        repair()
        from s3prl.downstream.diarization.utils import pit_loss

        torch.manual_seed(0)
        logits = torch.randn(5, 30, num_speakers, requires_grad=True)
        lengths = torch.tensor([30, 1, 17, 29, 8])
        targets = (torch.rand(5, 30, num_speakers) < 0.3).float()
        targets *= (torch.arange(30) < lengths[:, None])[:, :, None]
        ours = permutation_invariant_loss(logits, targets, lengths)
        theirs, _, _ = pit_loss(logits, targets, lengths)
        torch.testing.assert_close(ours, theirs)
        gradients = [torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)]
        torch.testing.assert_close(*gradients)

    def test_does_not_mind_the_order_and_does_mind_the_rest(self) -> None:
        torch.manual_seed(0)
        targets = (torch.rand(1, 50, 3) < 0.5).float()
        logits, lengths = 20 * (targets - 0.5), torch.tensor([50])
        for order in permutations(range(3)):
            loss = permutation_invariant_loss(logits[:, :, list(order)], targets, lengths)
            assert float(loss) < 1e-4
        assert float(permutation_invariant_loss(-logits, targets, lengths)) > 1


class TestErrorRate:
    def test_by_hand(self) -> None:
        reference = [(0.0, 4.0, "ann"), (3.0, 6.0, "bob"), (8.0, 9.0, "ann")]
        # 1 s of ann not found, 1 s of the overlap missed, 1 s of bob given to ann, 0.5 s of nobody
        found = [(1.0, 5.0, "x"), (5.0, 6.5, "y"), (8.0, 9.0, "x")]
        error = diarization_error(reference, found)
        assert error == DiarizationError(missed=2.0, false_alarm=0.5, confused=1.0, total=8.0)
        assert error.wrong == 3.5

    def test_of_nothing_and_of_everything(self) -> None:
        reference = [(0.0, 2.0, "ann"), (1.0, 3.0, "bob"), (1.5, 2.0, "ann")]
        assert diarization_error(reference, reference).wrong == 0
        assert diarization_error(reference, []) == DiarizationError(4.0, 0.0, 0.0, 4.0)
        assert diarization_error([], reference) == DiarizationError(0.0, 4.0, 0.0, 0.0)
        assert diarization_error([], []).total == 0

    def test_speakers_are_mapped_so_that_the_error_is_least(self) -> None:
        # the longest overlap, a with x, would leave b and y nothing in common
        reference = [(0.0, 10.0, "a"), (10.0, 16.0, "b")]
        found = [(0.0, 5.0, "x"), (5.0, 9.0, "y"), (10.0, 16.0, "x")]
        assert diarization_error(reference, found).confused == 5.0

    def test_of_frames_is_s3prls(self) -> None:
        repair()
        from s3prl.downstream.diarization.utils import calc_diarization_error

        generator = np.random.default_rng(0)
        geometry = FrameGeometry(stride=320, receptive_field=320)
        for _ in range(20):
            said, heard = generator.random((2, 60, 3)) < 0.4
            ours = diarization_error(*(_turns(x, geometry) for x in (said, heard)))
            theirs = []
            for order in permutations(range(3)):
                logits = torch.from_numpy(heard[None] - 0.5)
                labels = torch.from_numpy(said[None, :, list(order)].astype(float))
                *_, scored, missed, alarm, confused = calc_diarization_error(
                    logits, labels, torch.tensor([60])
                )
                theirs.append((confused, missed, alarm, scored))
            found = np.array([ours.confused, ours.missed, ours.false_alarm, ours.total]) * 50
            np.testing.assert_allclose(found, min(theirs), atol=1e-9)


def _turns(active: Any, geometry: FrameGeometry) -> list[Any]:
    seconds = len(active) * geometry.stride / 16_000
    return turns_of_frames(active * 1.0, geometry, seconds, threshold=0.5, median_frames=1)


class TestTurns:
    def test_lie_around_the_centres_of_frames(self) -> None:
        geometry = FrameGeometry(stride=320, receptive_field=400)  # centres 199.5, 519.5, ...
        active = np.array([[1, 0], [1, 0], [0, 1], [1, 1]])
        found = turns_of_frames(active * 0.6, geometry, 0.1, threshold=0.5, median_frames=1)
        first, second = (40 + 2 * 320) / 16_000, (40 + 3 * 320) / 16_000
        assert found == [(0.0, first, "0"), (first, 0.1, "1"), (second, 0.1, "0")]
        assert turns_of_frames(active * 0.5, geometry, 0.1, threshold=0.5, median_frames=1) == []

    def test_are_smoothed_as_s3prl_does(self) -> None:
        from scipy.signal import medfilt  # what s3prl's make_rttm uses

        generator = np.random.default_rng(0)
        probabilities = generator.random((80, 2))
        geometry = FrameGeometry(stride=160, receptive_field=160)
        smooth = medfilt((probabilities > 0.5).astype(float), (11, 1))
        found = turns_of_frames(probabilities, geometry, 0.8, threshold=0.5, median_frames=11)
        assert found == _turns(smooth, geometry) and found

    def test_can_be_read_back(self, tmp_path: Path) -> None:
        turns = [(0.25, 1.5, "0"), (1.0, 2.125, "1")]
        (tmp_path / "x.rttm").write_text("\n".join(rttm_lines("m1", turns)) + "\n")
        found, problems = read_rttm([tmp_path / "x.rttm"])
        assert problems == []
        assert [(s.start / 16_000, s.end / 16_000, s.symbol) for s in found["m1"]] == turns
