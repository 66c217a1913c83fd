"""Slot filling: its targets and its metrics."""

import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import jiwer
import numpy as np
import pytest
import torch

from auscult.bridge import repair
from auscult.downstreams.slot_filling import (
    SlotFilling,
    SlotFillingConfig,
    prepare,
    score,
    slots_of,
    type_f1,
    value_errors,
)
from auscult.downstreams.split import LabelledCorpus
from auscult.errors import UserError

SMALL = SlotFillingConfig(projector_dim=16, hidden_dim=8, batch_size=4)
SPOKEN = {
    "go": ("from New York to Rome.", "O B-city I-city O B-city"),
    "stop": ("play - ice-cream & jam", "O O song song song"),
    "yes": ("ok", "O"),
}


@pytest.fixture
def trips(words: Any) -> Any:
    """The corpus of keywords with other transcripts, and slots in them."""
    splits = {}
    for name in words.splits:
        cuts = []
        for cut in words.split(name):
            text, tags = SPOKEN[cut.supervisions[0].custom["keyword"]]
            said = replace(cut.supervisions[0], text=text, custom={"slot_tags": tags})
            cuts.append(replace(cut, supervisions=[said]))
        splits[name] = cuts
    return replace(words, splits=splits)


def _labelled(corpus: Any) -> LabelledCorpus:
    return prepare(corpus, SMALL, skip_unlabelled=False)


def test_targets_are_characters_between_tags(trips: Any) -> None:
    labelled = _labelled(trips)
    texts = {
        cut.supervisions[0].text: SlotFilling(8, labelled, SMALL, 0).text(label)
        for cut, label in zip(
            labelled.splits["train"].cuts[:3], labelled.splits["train"].labels, strict=False
        )
    }
    assert texts == {
        "from New York to Rome.": "FROM B-city NEW YORK E-city TO B-city ROME E-city",
        "play - ice-cream & jam": "PLAY B-song ICE CREAM JAM E-song",
        "ok": "OK",
    }
    assert {"B-city", "E-city", "B-song", "E-song", " ", "A"} <= set(labelled.classes)


def test_tags_that_begin_slots_part_equal_neighbours(trips: Any) -> None:
    first, *others = trips.split("train")
    found = {}
    for tags in ("B-a B-a I-a O O", "a a a O O", "B-a I-b I-b O O", "O O O O I-a"):
        said = replace(first.supervisions[0], text="a b c d e", custom={"slot_tags": tags})
        cuts = [replace(first, supervisions=[said]), *others]
        labelled = _labelled(replace(trips, splits={**trips.splits, "train": cuts}))
        found[tags] = "".join(
            f"<{t}>" if len(t) > 1 else t for t in labelled.splits["train"].labels[0]
        )
    assert found == {
        "B-a B-a I-a O O": "<B-a>A<E-a> <B-a>B C<E-a> D E",
        "a a a O O": "<B-a>A B C<E-a> D E",
        "B-a I-b I-b O O": "<B-a>A<E-a> <B-b>B C<E-b> D E",
        "O O O O I-a": "A B C D <B-a>E<E-a>",
    }


def test_metrics_by_hand() -> None:
    reference = "FROM B-city NEW YORK E-city ON B-day MONDAY E-day"
    assert slots_of(reference) == {"city": ["NEW YORK"], "day": ["MONDAY"]}
    answers = {
        "FROM B-city NEW YORK E-city ON B-day MONDAY E-day": (1.0, 0),
        "B-city NEW YOK E-city B-city YORK E-city": (2 / 3, 1 + 6),  # nothing for day
        "B-city NEW YORK ON MONDAY": (0.0, 8 + 6),  # no slot is closed
        "B-song NEW YORK E-song B-day SUNDAY E-day": (0.5, 8 + 2),
    }
    for answer, (f1, edits) in answers.items():
        assert type_f1([reference], [answer]) == [pytest.approx(f1)]
        assert value_errors([reference], [answer]) == ([edits], [14])
    assert type_f1(["OK"], ["OK"]) == [1.0] and type_f1(["OK"], [reference]) == [0.0]
    assert value_errors(["OK"], [reference]) == ([0], [0])


def test_metrics_are_s3prls_on_random_answers(monkeypatch: pytest.MonkeyPatch, trips: Any) -> None:
    stand_in = ModuleType("editdistance")  # s3prl's metrics want it
    stand_in.eval = _distance  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "editdistance", stand_in)
    for name in ("s3prl.metric", "s3prl.metric.common", "s3prl.metric.slot_filling"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    repair()
    from s3prl.metric.slot_filling import slot_type_f1, slot_value_cer

    labelled = _labelled(trips)
    head = SlotFilling(8, labelled, SMALL, 0)
    generator = np.random.default_rng(0)
    tokens = [t for t in labelled.classes if len(t) > 1] * 3 + list("ABC ")
    targets = [head.text(label) for label in labelled.splits["train"].labels] * 4
    answers = [
        head.text(list(generator.choice(tokens, size=generator.integers(1, 30)))) for _ in targets
    ]
    f1, (edits, characters) = type_f1(targets, answers), value_errors(targets, answers)
    assert {0.0, 1.0} < set(f1) and sum(edits) > 0
    assert np.mean(f1) == pytest.approx(slot_type_f1(answers, targets))
    assert sum(edits) / sum(characters) == pytest.approx(slot_value_cer(answers, targets))


def _distance(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        before, row = row, [i]
        for j, y in enumerate(b, start=1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (x != y)))
    return row[-1]


def test_scores_have_intervals_and_the_head_runs(trips: Any) -> None:
    labelled = _labelled(trips)
    head = SlotFilling(64, labelled, SMALL, 0)
    utterances, ids, labels = head.get_dataloader("train")[0]
    features = [torch.randn(60, 64) for _ in utterances]
    head("train", features, ids, labels, records={}).backward()
    assert all(p.grad is not None for p in head.parameters())
    test = labelled.splits["test"]
    targets = [head.text(label) for label in test.labels]
    answers: dict[str, list[Any]] = {"target": targets, "prediction": [*targets[:-3], "", "", ""]}
    assert head.score(answers) == pytest.approx(1 - 2 / 24)  # OK has no slot
    f1, cer = score(answers, labelled)
    assert (f1.metric, cer.metric) == ("slot_type_f1", "slot_value_cer")
    assert f1.value == pytest.approx(1 - 2 / 24) and f1.low is not None and f1.low < f1.value
    assert cer.value == pytest.approx(1 / 8)  # of eight takes of two sentences with slots
    assert (f1.num_items, cer.num_speakers) == (24, 2)


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ("slot_tags", "columns with labels are transcript, mood; give the column of IOB tags the"),
        ("transcript", "columns with labels are slot_tags; add a column transcript"),
    ],
)
def test_a_label_that_the_whole_corpus_lacks(trips: Any, label: str, says: str) -> None:
    said: dict[str, Any] = {"text": "a", "custom": {"mood": "x"}, "speaker": None, "gender": None}
    if label == "transcript":
        said |= {"text": None, "custom": {"slot_tags": "O"}}
    plain = {
        name: [replace(cut, supervisions=[replace(cut.supervisions[0], **said)]) for cut in cuts]
        for name, cuts in trips.splits.items()
    }
    with pytest.raises(UserError, match=f"has no label '{label}': .*{says}"):
        _labelled(replace(trips, splits=plain))


def test_what_cannot_be_a_target_is_named(trips: Any) -> None:
    first, *others = trips.split("dev")
    for text, tags, message in (
        ("a b", "O", "has 2 words but 1 slot_tags"),
        (None, "O", "has no transcript"),
        ("-", "O", "has an empty target"),
    ):
        said = replace(first.supervisions[0], text=text, custom={"slot_tags": tags})
        cuts = [replace(first, supervisions=[said]), *others]
        with pytest.raises(UserError, match=f"dev split: utterance {first.id} {message}"):
            _labelled(replace(trips, splits={**trips.splits, "dev": cuts}))
    plain = {
        name: [
            replace(
                cut,
                supervisions=[replace(cut.supervisions[0], text="a", custom={"slot_tags": "O"})],
            )
            for cut in cuts
        ]
        for name, cuts in trips.splits.items()
    }
    for split in ("train", "dev", "test"):
        some = {**trips.splits, split: plain[split]}
        with pytest.raises(UserError, match=f"{split} split .* has no slot: all of slot_tags is O"):
            _labelled(replace(trips, splits=some))
    assert jiwer.process_characters("A", "").deletions == 1  # what value_errors relies on
