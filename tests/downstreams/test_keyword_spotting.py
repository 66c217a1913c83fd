"""Keyword spotting: its data, its protocol, and that it learns."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from auscult.config import override
from auscult.downstreams import TASKS, find_task
from auscult.downstreams.feature import CorpusUpstream
from auscult.downstreams.keyword_spotting import KeywordSpotting, KeywordSpottingConfig
from auscult.downstreams.split import drop_short, label_corpus
from auscult.downstreams.training import train_head
from auscult.errors import UserError

SHORT = KeywordSpottingConfig(
    total_steps=60, batch_size=8, learning_rate=0.05, eval_step=20, save_step=20
)


def _without(corpus: Any, split: str, **changes: Any) -> Any:
    """Return the corpus with the first utterance of a split relabelled."""
    first, *others = corpus.split(split)
    supervision = replace(first.supervisions[0], custom=first.supervisions[0].custom | changes)
    cuts = [replace(first, supervisions=[supervision]), *others]
    return replace(corpus, splits={**corpus.splits, split: cuts})


def test_every_task_of_the_table_is_there() -> None:
    assert TASKS
    for name, task in TASKS.items():
        assert find_task(name).spec.name == name
        if not task.trains:
            continue
        if task.trains:
            assert task.config().total_steps > 0
            assert issubclass(task.expert_class(), torch.nn.Module)
    with pytest.raises(UserError, match="Did you mean keyword_spotting?"):
        find_task("keyword_spoting")


def test_the_defaults_are_superb() -> None:
    config = find_task("keyword_spotting").config()
    assert (config.total_steps, config.batch_size, config.learning_rate) == (200_000, 32, 1e-4)
    assert (config.eval_step, config.save_step, config.projector_dim) == (5_000, 1_000, 256)


def test_it_learns_and_reports_on_test(words: Any, bands: Any, tmp_path: Path) -> None:
    labelled = label_corpus(words, "keyword")
    upstream = CorpusUpstream(bands, labelled, budget=10**9, device="cpu")
    encoded = bands.rows
    result = train_head(
        upstream,
        lambda dim: KeywordSpotting(dim, labelled, SHORT, 0),
        SHORT,
        task="keyword_spotting",
        seed=0,
        device="cpu",
        folder=tmp_path,
    )
    assert encoded == 96
    assert bands.rows == encoded + 1  # s3prl's featurizer looks at a second of noise
    test = labelled.splits["test"]
    answers = result.answers
    assert (answers["id"], answers["target"]) == (test.ids, list(test.labels))
    right = [a == b for a, b in zip(answers["target"], answers["prediction"], strict=True)]
    assert sum(right) / len(right) > 0.9  # chance is 0.33
    assert [step for step, _ in result.curve] == [20, 40, 60]
    assert result.layer_weights.shape == (2,)
    assert result.layer_weights.sum() == pytest.approx(1)
    assert result.num_parameters == 2 + (8 * 256 + 256) + (256 * 3 + 3)


def test_features_beyond_the_budget_are_the_same(words: Any, bands: Any) -> None:
    labelled = label_corpus(words, "keyword")
    kept = CorpusUpstream(bands, labelled, budget=10**9, device="cpu")
    live = CorpusUpstream(bands, labelled, budget=0, device="cpu")
    batch = labelled.splits["train"].utterances[3:9]
    before = bands.rows
    ours, theirs = kept(batch), live(batch)
    assert bands.rows == before + 6  # only the live one encodes
    torch.testing.assert_close(ours["lengths"], theirs["lengths"])
    for a, b in zip(ours["hidden_states"], theirs["hidden_states"], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_mean_that_says_nothing_is_noticed(words: Any, bands: Any) -> None:
    from auscult.upstreams import load_upstream

    labelled = label_corpus(words, "keyword")
    for encoder, constant in ((bands, []), (load_upstream("fbank"), [0])):
        upstream = CorpusUpstream(encoder, labelled, budget=10**9, device="cpu")
        assert upstream.constant_layers() == constant


def test_batches_depend_on_seed_and_epoch_alone(words: Any) -> None:
    labelled = label_corpus(words, "keyword")
    first = KeywordSpotting(8, labelled, SHORT, 3)
    torch.rand(5)
    second = KeywordSpotting(8, labelled, SHORT, 3)
    assert first.get_dataloader("train", epoch=2) == second.get_dataloader("train", epoch=2)
    assert first.get_dataloader("train", epoch=2) != first.get_dataloader("train", epoch=3)
    other = KeywordSpotting(8, labelled, SHORT, 4)
    assert first.get_dataloader("train", epoch=2) != other.get_dataloader("train", epoch=2)


def test_training_draws_classes_equally_and_dev_takes_each_utterance_once(words: Any) -> None:
    train = [cut for cut in words.split("train") if not cut.id.startswith(("s0-go", "s1-go"))]
    labelled = label_corpus(replace(words, splits={**words.splits, "train": train}), "keyword")
    for balanced, low, high in ((True, 0.28, 0.39), (False, 0.19, 0.21)):
        head = KeywordSpotting(8, labelled, replace(SHORT, balanced=balanced), 0)
        drawn = Counter(
            label
            for epoch in range(40)
            for _, _, labels in head.get_dataloader("train", epoch=epoch)
            for label in labels
        )
        assert low < drawn["go"] / drawn.total() < high
    ids = [i for _, batch, _ in head.get_dataloader("dev") for i in batch]
    assert ids == labelled.splits["dev"].ids


def test_a_missing_label_is_named_or_left_out_and_counted(words: Any) -> None:
    broken = _without(words, "dev", keyword="")
    name = broken.split("dev")[0].id
    with pytest.raises(UserError, match=f"Utterance {name} of the dev split .* no label 'keyword'"):
        label_corpus(broken, "keyword")
    labelled = label_corpus(broken, "keyword", skip_unlabelled=True)
    assert len(labelled.splits["dev"].cuts) == len(words.split("dev")) - 1
    assert len(labelled.skipped) == 1 and name in labelled.skipped[0]


def test_an_utterance_without_a_frame_is_named_or_left_out_and_counted(
    words: Any, bands: Any
) -> None:
    first, *others = words.split("train")
    short = first.truncate(duration=0.015)
    broken = replace(words, splits={**words.splits, "train": [short, *others]})
    labelled = label_corpus(broken, "keyword")
    with pytest.raises(UserError, match=f"Utterance {short.id} is 240 samples"):
        drop_short(labelled, bands, skip_bad=False)
    kept = drop_short(labelled, bands, skip_bad=True)
    assert kept.splits["train"].labels == labelled.splits["train"].labels[1:]
    assert len(kept.skipped) == 1 and short.id in kept.skipped[0]
    alone = replace(words, splits={**words.splits, "dev": [short]})
    with pytest.raises(
        UserError, match="every utterance of the dev split is too short for 1 frame"
    ):
        drop_short(label_corpus(alone, "keyword"), bands, skip_bad=True)


def test_heads_that_need_several_frames_are_given_no_fewer(words: Any, bands: Any) -> None:
    labelled = label_corpus(words, "keyword")
    frames = [len(utterance) // 320 for utterance in labelled.splits["train"].utterances]
    least = sorted(frames)[3] + 1
    with pytest.raises(UserError, match=rf"has \d+ frames of bands, but the head needs {least};"):
        drop_short(labelled, bands, skip_bad=False, min_frames=least)
    kept = drop_short(labelled, bands, skip_bad=True, min_frames=least)
    wanted = [i for i, count in enumerate(frames) if count >= least]
    assert 0 < len(wanted) < len(frames)
    assert kept.splits["train"].ids == [labelled.splits["train"].ids[i] for i in wanted]
    assert kept.splits["train"].labels == tuple(labelled.splits["train"].labels[i] for i in wanted)
    out = [sentence for sentence in kept.skipped if sentence.startswith("train: ")]
    assert len(out) == len(frames) - len(wanted)
    with pytest.raises(
        UserError, match="every utterance of the .* split is too short for 99 frames"
    ):
        drop_short(labelled, bands, skip_bad=True, min_frames=99)


def test_a_class_that_train_lacks_is_named(words: Any) -> None:
    broken = _without(words, "test", keyword="maybe")
    with pytest.raises(UserError, match="keyword 'maybe', which no utterance of train has"):
        label_corpus(broken, "keyword")


def test_one_class_and_small_splits_are_refused(words: Any) -> None:
    train = [cut for cut in words.split("train") if "-go-" in cut.id]
    with pytest.raises(UserError, match="one class of 'keyword' only"):
        label_corpus(replace(words, splits={**words.splits, "train": train}), "keyword")
    labelled = label_corpus(words, "keyword")
    with pytest.raises(UserError, match="48 utterances, fewer than the batch_size of 64"):
        KeywordSpotting(8, labelled, replace(SHORT, batch_size=64), 0)


def test_a_protocol_without_length_is_refused() -> None:
    with pytest.raises(UserError, match="total_steps=0: expected a positive number"):
        override(KeywordSpottingConfig(), ["total_steps=0"])
