from typing import Any

import numpy as np
import pytest
from lhotse import AudioSource, Recording
from lhotse.supervision import AlignmentItem, SupervisionSegment

from auscult.dataset import frame_labels, utterance_label
from auscult.errors import UserError
from auscult.frame import FrameGeometry, conv_geometry
from auscult.probing import build_targets, check_labels, majority_class, resolve_tasks

WAV2VEC2 = conv_geometry((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2))


def cut(name: str, speaker: str | None = "a", phones: Any = (), **custom: Any) -> Any:
    recording = Recording(name, [AudioSource("file", [0], "none.wav")], 16_000, 16_000, 1.0)
    found = recording.to_cut()
    items = [AlignmentItem(p, a / 16_000, (b - a) / 16_000) for p, a, b in phones]
    found.supervisions = [
        SupervisionSegment(
            id=name,
            recording_id=name,
            start=0.0,
            duration=1.0,
            speaker=speaker,
            alignment={"phone": items} if items else None,
            custom=custom,
        )
    ]
    return found


def targets_of(
    task: str, train: list[Any], test: list[Any], frames: int = 1, *, skip: bool = False
) -> Any:
    splits = {"train": train, "dev": train, "test": test}
    sizes = {name: np.full(len(cuts), frames) for name, cuts in splits.items()}
    (found,) = resolve_tasks(task, train)
    check_labels(found, splits, skip_unlabelled=skip)
    return build_targets(found, splits, sizes, WAV2VEC2)


def test_geometry_of_wav2vec2() -> None:
    assert (WAV2VEC2.stride, WAV2VEC2.receptive_field) == (320, 400)
    np.testing.assert_array_equal(WAV2VEC2.centres(3), [199.5, 519.5, 839.5])


def test_labels_stand_at_receptive_field_centres() -> None:
    """Centres at 199.5, 519.5, 839.5: a border at 520 falls after the second frame's centre."""
    phones = [("sil", 0, 520), ("aa", 520, 839), ("", 839, 900)]
    found = frame_labels(cut("x", phones=phones), "phone", WAV2VEC2.centres(4))
    assert found == ["sil", "sil", None, None]
    found = frame_labels(
        cut("x", phones=[("sil", 0, 519), ("aa", 519, 840)]), "phone", WAV2VEC2.centres(3)
    )
    assert found == ["sil", "aa", "aa"]


def test_a_gap_is_no_label() -> None:
    found = frame_labels(
        cut("x", phones=[("aa", 300, 400), ("b", 500, 600)]), "phone", WAV2VEC2.centres(4)
    )
    assert found == [None, "b", None, None]


def test_without_an_alignment_no_frame_has_a_label() -> None:
    assert frame_labels(cut("x"), "phone", FrameGeometry(320, 400).centres(2)) == [None, None]


def test_utterance_labels_stand_where_lhotse_puts_them() -> None:
    found = cut("x", speaker="bob", keyword="yes", slots={"drink": "tea", "size": ""})
    labels = ["speaker", "keyword", "slots.drink", "slots.size", "slots.milk", "emotion"]
    assert [utterance_label(found, name) for name in labels] == [
        "bob",
        "yes",
        "tea",
        "none",
        "none",
        None,
    ]
    assert utterance_label(cut("y"), "slots.drink") is None


def test_intent_is_a_task_for_each_slot() -> None:
    cuts = [cut("x", slots={"b": "1"}), cut("y", slots={"a": "2"})]
    assert [task.spec.name for task in resolve_tasks("intent", cuts)] == ["slot:a", "slot:b"]


@pytest.mark.parametrize(
    ("name", "label", "output"),
    [
        ("label:age", "age", "utterance"),
        ("alignment:word", "word", "frame"),
        ("slot:roast", "slots.roast", "utterance"),
    ],
)
def test_any_column_is_a_task(name: str, label: str, output: str) -> None:
    (task,) = resolve_tasks(name, [cut("x", slots={"roast": "dark"})])
    assert (task.spec.name, task.label, task.spec.output) == (name, label, output)


def test_an_unknown_task_gets_a_suggestion() -> None:
    with pytest.raises(UserError, match=r"Unknown probing task 'phonee'. Did you mean phone"):
        resolve_tasks("phonee", [])


def test_an_unknown_slot_gets_a_suggestion() -> None:
    with pytest.raises(UserError, match=r"Unknown intent slot 'rost'. Did you mean roast"):
        resolve_tasks("slot:rost", [cut("x", slots={"roast": "dark"})])


def test_intent_without_slots() -> None:
    with pytest.raises(UserError, match="needs intent slots"):
        resolve_tasks("intent", [cut("x")])


def test_classes_come_from_train_and_strangers_count_as_wrong(
    caplog: pytest.LogCaptureFixture,
) -> None:
    train = [cut("1", keyword="b"), cut("2", keyword="a"), cut("3", keyword="b"), cut("4")]
    classes, targets = targets_of("keyword", train, [cut("5", keyword="zoo")], skip=True)
    assert classes == ("a", "b", "zoo")
    assert [int(x[0]) for x in targets["train"].labels] == [1, 0, 1, -1]
    assert targets["train"].items == [0, 1, 2] and targets["train"].num_unlabelled == 1
    assert int(targets["test"].labels[0][0]) == 2
    assert majority_class(targets["train"]) == 1
    assert "test split has 1 classes that train lacks (zoo)" in caplog.text


@pytest.mark.parametrize("task", ["keyword", "phone"])
def test_an_utterance_without_the_label_is_named_or_counted(task: str) -> None:
    phones = [("a", 0, 8000), ("b", 8000, 16000)]
    train = [cut("1", phones=phones, keyword="a"), cut("2", phones=phones, keyword="b")]
    bare = [cut("bare"), *train]
    with pytest.raises(UserError, match=rf"Utterance bare has no label .{task}. .*1 of 3 in test"):
        targets_of(task, train, bare, frames=4)
    _, targets = targets_of(task, train, bare, frames=4, skip=True)
    assert targets["test"].items == [1, 2] and targets["test"].num_unlabelled == 1


def test_frame_speaker_gives_every_frame_the_speaker() -> None:
    train = [cut("1", speaker="a"), cut("2", speaker="b")]
    _, targets = targets_of("frame_speaker", train, train, frames=3)
    assert [x.tolist() for x in targets["train"].labels] == [[0, 0, 0], [1, 1, 1]]


def test_what_could_be_read_instead_is_named() -> None:
    cuts = [cut("1", phones=[("a", 0, 99)], dialect="x"), cut("2", dialect="y")]
    with pytest.raises(UserError, match=r"'accent'.*labels here: speaker, dialect\."):
        targets_of("label:accent", cuts, cuts)
    with pytest.raises(UserError, match=r"'phone39'.*alignments here: phone\."):
        targets_of("phone39", cuts, cuts)
    with pytest.raises(UserError, match=r"the label of this name is label:dialect\."):
        targets_of("dialect", cuts, cuts)


@pytest.mark.parametrize(
    ("task", "train", "test", "message"),
    [
        ("speaker", ["a", "b"], ["c"], "needs the same speakers in every split, but test has 1"),
        ("speaker", ["a", "a"], ["a"], "one class only in train"),
        ("emotion", ["a", "b"], ["a"], "needs the label 'emotion', and no utterance of the train"),
    ],
)
def test_labels_that_cannot_be_probed(
    task: str, train: list[str], test: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        targets_of(task, [cut(s, s) for s in train], [cut(s, s) for s in test])
