from dataclasses import replace
from pathlib import Path

import pytest

from auscult.corpora import load_corpus
from auscult.corpora.item import Item
from auscult.corpora.splitting import hold_out, make_dev


def items(count: int, split: str = "train", speakers: int = 0) -> list[Item]:
    return [
        Item(
            id=f"{split}{n}",
            path=Path(f"{n}.wav"),
            split=split,
            speaker=f"s{n % speakers}" if speakers else None,
        )
        for n in range(count)
    ]


class TestHoldOut:
    @pytest.mark.parametrize("groups", [2, 3, 10, 100])
    def test_about_the_share_and_never_all(self, groups: int) -> None:
        chosen = hold_out({f"g{n}": 7 for n in range(groups)}, 0.15)
        assert len(chosen) == max(1, round(0.15 * groups))

    def test_a_large_group_is_passed_over(self) -> None:
        for name in ("a", "b", "c", "d"):  # whatever comes first in the order
            sizes = dict.fromkeys("abcd", 10) | {name: 1000}
            assert name not in hold_out(sizes, 0.15)

    def test_one_group_stays(self) -> None:
        assert hold_out({"a": 5}, 0.15) == set() and hold_out({}, 0.15) == set()

    def test_the_order_of_the_groups_does_not_matter(self) -> None:
        sizes = {f"g{n}": n + 1 for n in range(20)}
        assert hold_out(sizes, 0.15) == hold_out(dict(reversed(sizes.items())), 0.15)


class TestMakeDev:
    def test_by_speaker(self) -> None:
        found, note = make_dev([*items(100, speakers=10), *items(10, "test")])
        dev = {item.speaker for item in found if item.split == "dev"}
        train = {item.speaker for item in found if item.split == "train"}
        assert len(dev) in (1, 2) and not dev & train
        assert f"{10 * len(dev)} of 100 training utterances were set aside as dev" in note
        assert f"(speakers {', '.join(sorted(filter(None, dev)))})" in note

    def test_by_utterance_without_speakers(self) -> None:
        found, note = make_dev(items(40))
        assert sum(item.split == "dev" for item in found) == 6
        assert "for want of speakers" in note

    def test_of_every_speaker_where_test_is_about_speakers(self) -> None:
        found, note = make_dev([*items(60, speakers=10), *items(20, "test", speakers=10)])
        for split in ("train", "dev"):
            assert len({item.speaker for item in found if item.split == split}) == 10
        assert "test shares its speakers with train" in note

    def test_utterances_without_a_speaker_are_split_one_by_one(self) -> None:
        mixed = [*items(70, speakers=7), *(replace(i, id=f"x{i.id}") for i in items(70))]
        found, _ = make_dev(mixed)
        dev = [item for item in found if item.split == "dev"]
        assert 14 <= len(dev) <= 28
        assert any(item.speaker is None for item in dev)

    def test_nothing_to_do(self) -> None:
        given = [*items(4), *items(4, "dev")]
        assert make_dev(given) == (given, "")
        assert make_dev(items(4, "test")) == (items(4, "test"), "")
        assert make_dev(items(1)) == (items(1), "")


def test_a_corpus_without_dev_gets_one_and_says_so(write_corpus) -> None:
    rows = [[f"{s}-{u}.wav", f"s{s}", "train"] for s in range(7) for u in range(2)]
    folder = write_corpus(["path", "speaker", "split"], rows)
    first, again = load_corpus(f"tsv:{folder}"), load_corpus(f"tsv:{folder}")
    assert len(first.split("train")) == 12 and len(first.split("dev")) == 2
    assert first.speaker_overlap == ()
    assert "There is no dev split: 2 of 14 training utterances" in first.notes[-1]
    assert first.sha256 == again.sha256
