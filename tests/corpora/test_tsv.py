import json
from pathlib import Path

import numpy as np
import pytest

from auscult.corpora import load_corpus
from auscult.dataset import frame_labels, supervision_of, utterance_label
from auscult.errors import UserError


def test_labels_stand_in_their_places(write_corpus) -> None:
    slots = json.dumps({"action": "bring", "object": "tea"})
    header = ["path", "utt", "speaker", "sex", "transcript", "language", "emotion", "label"]
    header += ["slots_json", "split"]
    row = ["a/x.wav", "u1", "ann", "f", 'bring the "tea"', "en", "calm", "bring", slots, "test"]
    folder = write_corpus(header, [row, ["b/y.wav", "u2", *[""] * 7, "test"]])
    cut, bare = load_corpus(f"tsv:{folder}").split("test")
    supervision = supervision_of(cut)
    assert (cut.id, supervision.id, cut.recording.id) == ("u1", "u1", "u1")
    assert (supervision.speaker, supervision.gender, supervision.language) == ("ann", "f", "en")
    assert supervision.text == 'bring the "tea"'
    assert supervision.custom == {
        "emotion": "calm",
        "label": "bring",
        "keyword": "bring",
        "slots": {"action": "bring", "object": "tea"},
    }
    assert utterance_label(cut, "slots.object") == "tea"
    assert utterance_label(cut, "slots.location") == "none"
    assert supervision_of(bare).custom == {} and supervision_of(bare).speaker is None
    assert utterance_label(bare, "slots.object") is None


def test_a_keyword_column_is_not_replaced_by_label(write_corpus) -> None:
    folder = write_corpus(
        ["path", "label", "keyword", "split"],
        [["x.wav", "no", "yes", "test"], ["y.wav", "no", "", "test"]],
    )
    first, second = load_corpus(f"tsv:{folder}").split("test")
    assert utterance_label(first, "keyword") == "yes" and utterance_label(second, "keyword") is None


def test_times_are_exact_to_the_sample(write_corpus) -> None:
    folder = write_corpus(["path", "utt", "split"], [["x.wav", "u1", "train"], ["y.wav", "u2", ""]])
    (folder / "PHONES.tsv").write_text(
        "utt\tstart\tend\tfine\tcoarse\nu1\t7\t1601\taa\tV\nu1\t1601\t4799\tt\t\n"
    )
    (folder / "WORDS.tsv").write_text("utt\tstart\tend\tspoken\nu1\t7\t4799\tat\n")
    corpus = load_corpus(f"tsv:{folder}")
    (cut,) = corpus.split("train")
    alignment = supervision_of(cut).alignment
    assert set(alignment) == {"fine", "coarse", "phone", "spoken", "word"}
    assert alignment["phone"] == alignment["fine"] and alignment["word"] == alignment["spoken"]
    edges = [(round(i.start * 16000), round(i.end * 16000)) for i in alignment["fine"]]
    assert edges == [(7, 1601), (1601, 4799)]
    samples = np.array([6.0, 7.0, 1600.0, 1601.0, 4798.0, 4799.0])
    assert frame_labels(cut, "fine", samples) == [None, "aa", "aa", "t", "t", None]
    assert frame_labels(cut, "coarse", samples) == [None, "V", "V", None, None, None]


def test_an_id_is_the_path_without_suffix_where_none_is_given(write_corpus) -> None:
    folder = write_corpus(["path", "split"], [["a/x.one.wav", "train"]])
    assert [cut.id for cut in load_corpus(f"tsv:{folder}").split("train")] == ["a/x.one"]


def test_windows_line_ends_a_byte_order_mark_and_blank_lines(write_corpus) -> None:
    folder = write_corpus(["path", "utt", "split"], [["x.wav", "u1", "train"]])
    manifest = folder / "MANIFEST.tsv"
    manifest.write_bytes(b"\xef\xbb\xbf" + manifest.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert len(load_corpus(f"tsv:{folder}").split("train")) == 1


class TestSplitColumns:
    HEADER = ("path", "utt", "kws_split", "split_two")
    ROWS = (["x.wav", "u1", "train", "test"], ["y.wav", "u2", "dev", ""])

    def test_several_and_none_chosen(self, write_corpus) -> None:
        folder = write_corpus(self.HEADER, self.ROWS)
        with pytest.raises(UserError, match=r"--split: kws_split, split_two"):
            load_corpus(f"tsv:{folder}")

    def test_one_is_chosen(self, write_corpus) -> None:
        folder = write_corpus(self.HEADER, self.ROWS)
        corpus = load_corpus(f"tsv:{folder}", split="split_two")
        assert corpus.split_column == "split_two" and list(corpus.splits) == ["test"]
        assert "1 of 2 utterances have no 'split_two'; not used." in corpus.notes
        assert supervision_of(corpus.split("test")[0]).custom == {}  # splits are no labels

    def test_split_is_taken_before_others(self, write_corpus) -> None:
        folder = write_corpus(["path", "kws_split", "split"], [["x.wav", "test", "train"]])
        assert list(load_corpus(f"tsv:{folder}").splits) == ["train"]

    def test_unknown(self, write_corpus) -> None:
        folder = write_corpus(self.HEADER, self.ROWS)
        with pytest.raises(UserError, match="Did you mean kws_split"):
            load_corpus(f"tsv:{folder}", split="kw_split")

    def test_none_in_the_table(self, write_corpus) -> None:
        folder = write_corpus(["path", "utt"], [["x.wav", "u1"]])
        with pytest.raises(
            UserError, match=r"MANIFEST.tsv has no column whose name begins or ends"
        ):
            load_corpus(f"tsv:{folder}")

    def test_other_names_of_dev(self, write_corpus) -> None:
        rows = [["x.wav", "train"], ["y.wav", "valid"], ["z.wav", "eval"]]
        corpus = load_corpus(f"tsv:{write_corpus(['path', 'split'], rows)}")
        assert list(corpus.splits) == ["train", "dev", "eval"]
        assert "Split 'valid' is read as 'dev'." in corpus.notes


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("utt\tsplit\nu1\ttrain\n", "has no column 'path'"),
        ("path,split\nx.wav,train\n", r"separated by tabs \(found: path,split\)"),
        ("path\tpath\tsplit\n", "has the column 'path' more than once"),
        ("path\tslots\tsplit\n", "intent slots go into 'slots_json'"),
        ("path\tsplit\nx.wav\ttrain\textra\n", "line 2 has 3 fields where the header has 2; mend"),
        ("path\tsplit\n\ttrain\n", "line 2 has no path"),
        ("path\tslots_json\tsplit\nx.wav\t[1]\ttrain\n", r"line 2 has slots_json '\[1\]', which"),
        ("path\tslots_json\tsplit\nx.wav\t{\ttrain\n", "which is no JSON object"),
        ("path\tsplit\n", "holds no utterances"),
        ("path\tsplit\nx.wav\t\n", "holds no utterances"),
    ],
)
def test_a_bad_manifest_is_named(tmp_path: Path, manifest: str, message: str) -> None:
    (tmp_path / "MANIFEST.tsv").write_text(manifest)
    with pytest.raises(UserError, match=message) as caught:
        load_corpus(f"tsv:{tmp_path}")
    assert str(tmp_path) in str(caught.value)


def test_a_manifest_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "MANIFEST.tsv").write_bytes(b"path\tsplit\n\xff\xfe\n")
    with pytest.raises(UserError, match="MANIFEST.tsv, line 2: .* are no UTF-8 text"):
        load_corpus(f"tsv:{tmp_path}")


@pytest.mark.parametrize(
    ("phones", "message"),
    [
        ("utt\tstart\tphone\n", "PHONES.tsv has no column 'end'"),
        ("utt\tstart\tend\n", "PHONES.tsv has no column of symbols"),
        ("utt\tstart\tend\tphone\nu1\t0\n", "PHONES.tsv line 2 has 2 fields"),
        ("utt\tstart\tend\tphone\nu1\t0.0\t0.1\taa\n", "whole samples"),
        ("utt\tstart\tend\tphone\nu1\t0\t4801\taa\n", "audio has samples 0 to 4800"),
        ("utt\tstart\tend\tphone\nu1\t9\t8\taa\n", "'aa' at samples 9 to 8"),
        ("utt\tstart\tend\tphone\nu1\t-1\t8\taa\n", "'aa' at samples -1 to 8"),
    ],
)
def test_bad_times_are_named(write_corpus, phones: str, message: str) -> None:
    folder = write_corpus(["path", "utt", "split"], [["x.wav", "u1", "train"]])
    (folder / "PHONES.tsv").write_text(phones)
    with pytest.raises(UserError, match=message):
        load_corpus(f"tsv:{folder}")


def test_times_of_unknown_utterances_are_noted(write_corpus) -> None:
    folder = write_corpus(["path", "utt", "split"], [["x.wav", "u1", "train"]])
    (folder / "WORDS.tsv").write_text("utt\tstart\tend\tword\nother\t0\t9\tit\n")
    assert "utterances that MANIFEST.tsv does not have: 1 (first: other)" in "".join(
        load_corpus(f"tsv:{folder}").notes
    )


class TestFiles:
    @pytest.fixture
    def root(self, write_corpus) -> Path:
        root = write_corpus()
        (root / "PHONES.tsv").write_text("utt\tstart\tend\tphone\n0-0\t0\t100\taa\n")
        (root / "WORDS.tsv").write_text("utt\tstart\tend\tword\n0-0\t0\t100\tah\n")
        (root / "a.rttm").write_text("SPEAKER 0-0 1 0 0.1 <NA> <NA> ann <NA> <NA>\n")
        (root / "TRIALS.tsv").write_text("target\tenrol\ttest\n1\t4-0\t4-1\n")
        return root

    def test_linked_folders(self, root: Path, link_folders) -> None:
        link_folders(f"tsv:{root}", root)

    def test_text(self, root: Path, break_text) -> None:
        break_text(f"tsv:{root}", root, "*.tsv", "*.rttm")

    @pytest.mark.parametrize("place", ["absolute", "above"])
    def test_paths_outside_the_folder(self, place: str, root: Path, write_audio) -> None:
        audio = write_audio(root.parent / "other" / "x.wav")
        path = str(audio) if place == "absolute" else "../other/x.wav"
        name = path.removesuffix(".wav")
        (root / "MANIFEST.tsv").write_text(f"path\tsplit\n{path}\ttrain\n")
        (root / "PHONES.tsv").write_text(f"utt\tstart\tend\tphone\n{name}\t0\t9\taa\n")
        (root / "TRIALS.tsv").write_text(f"target\tenrol\ttest\n1\t{name}\t{path}\n")
        corpus = load_corpus(f"tsv:{root}")
        (cut,) = corpus.split("train")
        assert cut.id == name.removeprefix("/").replace("..", "up")
        assert "phone" in cut.supervisions[0].alignment and len(corpus.trials["train"]) == 1

    @pytest.mark.parametrize("path", ["./a/0-0.wav", "a//0-0.wav", "a/./0-0.wav"])
    def test_paths_written_otherwise_are_the_same_utterance(self, path: str, root: Path) -> None:
        (root / "MANIFEST.tsv").write_text(f"path\tsplit\n{path}\ttrain\n")
        (root / "PHONES.tsv").write_text("utt\tstart\tend\tphone\na/0-0\t0\t9\taa\n")
        (root / "TRIALS.tsv").unlink()
        (cut,) = load_corpus(f"tsv:{root}").split("train")
        assert cut.id == "a/0-0" and "phone" in cut.supervisions[0].alignment

    @pytest.mark.parametrize("spec", ["tsv:a\0b", "~\0", "tsv:~nobody", "tsv:" + "x" * 5000, "\0"])
    def test_addresses_that_are_no_folders(self, spec: str) -> None:
        with pytest.raises(UserError):
            load_corpus(spec)

    @pytest.mark.parametrize(
        "slots",
        [
            "[" * 100_000,
            '{"a":' * 5000 + "1" + "}" * 5000,
            r'{"a": "\ud800"}',
            r'{"\u0000": "a"}',
            '{"a": ' + "9" * 5000 + "}",
            "[1]",
            "{",
        ],
    )
    def test_slots_that_are_no_texts(self, slots: str, root: Path) -> None:
        rows = f"path\tslots_json\tsplit\na/0-0.wav\t{slots}\ttrain\na/0-1.wav\t{{}}\ttrain\n"
        (root / "MANIFEST.tsv").write_text(rows)
        (root / "TRIALS.tsv").unlink()
        with pytest.raises(UserError, match=r"MANIFEST\.tsv line 2 has slots_json .*no JSON"):
            load_corpus(f"tsv:{root}")
        assert len(load_corpus(f"tsv:{root}", skip_bad=True).split("train")) == 1

    @pytest.mark.parametrize(
        "path", ["/", ".", "..", "a", "x" * 300 + ".wav", "y" * 5000, "a/.wav"]
    )
    def test_paths_that_are_no_files(self, path: str, root: Path) -> None:
        (root / "MANIFEST.tsv").write_text(f"path\tsplit\n{path}\ttrain\n")
        (root / "TRIALS.tsv").unlink()
        with pytest.raises(UserError):
            load_corpus(f"tsv:{root}")
