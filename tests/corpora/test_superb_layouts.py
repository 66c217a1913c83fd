"""The layouts that SUPERB's tasks come in, tiny, as their publishers lay them out."""

from pathlib import Path

import pytest

from auscult.corpora import load_corpus
from auscult.dataset import Corpus, Trial, speaker_turns, supervision_of, utterance_label
from auscult.errors import UserError


def ids(corpus: Corpus) -> dict[str, list[str]]:
    return {name: [cut.id for cut in cuts] for name, cuts in corpus.splits.items()}


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


class TestIemocap:
    CATEGORIES = ("neu", "hap", "exc", "sad", "ang", "fru", "xxx")

    @pytest.fixture
    def root(self, tmp_path: Path, write_audio) -> Path:
        root = tmp_path / "IEMOCAP_full_release"
        for session in range(1, 6):
            folder = root / f"Session{session}"
            for dialogue in (f"Ses0{session}F_impro01", f"Ses0{session}M_script01_1b"):
                lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
                words = []
                for number, category in enumerate(self.CATEGORIES):
                    name = f"{dialogue}_{'FM'[number % 2]}00{number}"
                    write_audio(folder / "sentences/wav" / dialogue / f"{name}.wav", 0.1)
                    lines += [f"[6.2901 - 8.2357]\t{name}\t{category}\t[2.5000, 2.5000, 2.5000]"]
                    lines += ["C-E2:\tNeutral;\t()", ""]
                    words.append(f"{name} [006.2901-008.2357]: Excuse me.")
                for place, text in (("EmoEvaluation", lines), ("transcriptions", words)):
                    path = folder / "dialog" / place / f"{dialogue}.txt"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text("\n".join(text) + "\n")
                junk = folder / "dialog/EmoEvaluation" / f"._{dialogue}.txt"
                junk.write_bytes(b"\x00\x05\x16[\xff")  # as a Mac leaves in archives
        return root

    def test_the_test_of_each_fold_is_one_session(self, root: Path) -> None:
        tested: list[str] = []
        for fold in range(1, 6):
            corpus = load_corpus(f"iemocap:{root}", split=f"fold{fold}")
            assert {name: len(cuts) for name, cuts in corpus.splits.items()} == {
                "train": 32, "dev": 8, "test": 10
            }  # fmt: skip
            assert corpus.split_column == f"fold{fold}" and corpus.speaker_overlap == ()
            assert {cut.id[:5] for cut in corpus.split("test")} == {f"Ses0{fold}"}
            tested += ids(corpus)["test"]
            assert "(fru: 10, xxx: 10)" in corpus.notes[1]
        assert len(tested) == len(set(tested)) == 50

    def test_labels(self, root: Path) -> None:
        corpus = load_corpus(f"iemocap:{root.parent}")  # the folder above
        assert corpus.split_column == "fold1"
        found = [utterance_label(cut, "emotion") for cut in corpus.split("test")]
        assert found == ["neu", "hap", "hap", "sad", "ang"] * 2
        cut = corpus.split("test")[1]  # the woman is filmed, the man speaks
        assert cut.id == "Ses01F_impro01_M001"
        assert (supervision_of(cut).speaker, supervision_of(cut).gender) == ("Ses01M", "m")
        assert supervision_of(cut).text == "Excuse me."
        assert supervision_of(cut).custom["act"] == "improvised"
        assert utterance_label(corpus.split("test")[5], "act") == "scripted"

    def test_what_is_wrong_is_named(self, root: Path) -> None:
        labels = root / "Session2/dialog/EmoEvaluation/Ses02F_impro01.txt"
        rewrite(labels, "Ses02F_impro01_F000\tneu", "Ses02F_impro01_F000")
        with pytest.raises(UserError, match=r"Ses02F_impro01\.txt line 3 reads"):
            load_corpus(f"iemocap:{root}")
        (root / "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav").unlink()
        corpus = load_corpus(f"iemocap:{root}", skip_bad=True)
        assert len(corpus.skipped) == 2 and "Ses01F_impro01_F000.wav does not" in corpus.skipped[1]
        with pytest.raises(UserError, match="Unknown split column"):
            load_corpus(f"iemocap:{root}", split="fold6")

    def test_a_session_that_is_missing_is_named(self, root: Path) -> None:
        (root / "Session4").rename(root / "elsewhere")
        with pytest.raises(UserError, match=r"Session4/dialog/EmoEvaluation holds no Ses\*\.txt"):
            load_corpus(f"iemocap:{root}", split="fold1")
        corpus = load_corpus(f"iemocap:{root}", split="fold1", skip_bad=True)
        assert len(corpus.skipped) == 1 and len(corpus.split("train")) == 24

    def test_linked_folders(self, root: Path, link_folders) -> None:
        link_folders(f"iemocap:{root}", root)

    def test_text(self, root: Path, break_text) -> None:
        break_text(f"iemocap:{root}", root, "Session1/dialog/*/Ses01F*.txt")


class TestSnips:
    @pytest.fixture
    def root(self, tmp_path: Path, write_audio) -> Path:
        root = tmp_path / "SNIPS"
        lines = []
        for part, voices in (("train", ["Ivy", "Salli", "Brian"]), ("valid", ["Aditi"])):
            lines += [self._utterance(root, write_audio, voice, part) for voice in voices]
        lines.append(self._utterance(root, write_audio, "Russell", "test"))
        (root / "all.iob.snips.txt").write_text("\n".join(lines) + "\n")
        return root

    def _utterance(self, root: Path, write_audio, voice: str, part: str) -> str:
        name = f"{voice}-snips-{part}-7"
        write_audio(root / part / f"{name}.wav")
        return f"{name} BOS PLAY WESTBAM ALLERGIC EOS\tO O artist album PlayMusic"

    def test_it_is_read(self, root: Path) -> None:
        for folder in (root, root.parent):
            corpus = load_corpus(f"snips:{folder}")
            assert ids(corpus) == {
                "train": ["Ivy-snips-train-7", "Salli-snips-train-7"],
                "dev": ["Aditi-snips-valid-7"],
                "test": ["Russell-snips-test-7"],
            }
        cut = corpus.split("dev")[0]
        assert (supervision_of(cut).speaker, supervision_of(cut).text) == (
            "Aditi", "PLAY WESTBAM ALLERGIC"
        )  # fmt: skip
        assert supervision_of(cut).custom == {"slot_tags": "O artist album", "intent": "PlayMusic"}
        assert corpus.speaker_overlap == ()
        assert corpus.notes[0].startswith("1 files are of voices that SUPERB does not take")

    def test_slot_filling_reads_it(self, root: Path) -> None:
        from auscult.downstreams import find_task

        task = find_task("slot_filling")
        corpus = load_corpus(f"snips:{root}")
        labelled = task.prepare(corpus, task.config(), skip_unlabelled=False)
        assert len(labelled.splits["train"].labels) == 2

    def test_what_is_wrong_is_named(self, root: Path, write_audio) -> None:
        labels = root / "all.iob.snips.txt"
        rewrite(labels, "Ivy-snips-train-7 BOS PLAY ", "Ivy-snips-train-7 BOS ")
        with pytest.raises(UserError, match=r"line 1 has not one tag for each word"):
            load_corpus(f"snips:{root}")
        write_audio(root / "test" / "Emma-snips-test-8.wav")
        (root / "train" / "Salli-snips-train-7.wav").unlink()
        with pytest.raises(UserError, match="Split 'train' of .* is empty"):
            load_corpus(f"snips:{root}", skip_bad=True)
        rewrite(labels, "Ivy-snips-train-7 BOS ", "Ivy-snips-train-7 BOS PLAY ")
        corpus = load_corpus(f"snips:{root}", skip_bad=True)
        assert "Emma-snips-test-8.wav has no line in" in corpus.skipped[0]
        assert "1 labelled utterances have no audio (Salli-snips-train-7" in corpus.notes[1]
        labels.write_bytes(b"\xff")
        with pytest.raises(UserError, match="are no UTF-8 text"):
            load_corpus(f"snips:{root}")

    def test_linked_folders(self, root: Path, link_folders) -> None:
        link_folders(f"snips:{root}", root)

    def test_text(self, root: Path, break_text) -> None:
        break_text(f"snips:{root}", root, "all.iob.snips.txt")


class TestLibriMix:
    @pytest.fixture
    def root(self, tmp_path: Path, write_audio) -> Path:
        root = tmp_path / "data"
        for part, one, two in (("train", "103", "19"), ("dev", "84", "174"), ("test", "61", "121")):
            name = f"{one}-1240-0000_{two}-198-0001"
            audio = write_audio(tmp_path / "mix both" / part / f"{name}.wav", seconds=1.0)
            kaldi = root / part
            kaldi.mkdir(parents=True)
            (kaldi / "wav.scp").write_text(f"{name} {audio}\n")
            (kaldi / "segments").write_text(
                f"{one}-a {name} 0.00 0.625\n{two}-b {name} 0.5 1.0049\n"
            )
            (kaldi / "utt2spk").write_text(f"{one}-a {one}\n{two}-b {two}\n")
            (kaldi / "spk2utt").write_text(f"{one} {one}-a\n{two} {two}-b\n")
            (kaldi / "reco2dur").write_text(f"{name} 1.0\n")
            (kaldi / "rttm").write_text(
                f"SPEAKER {name} 1 0.00 0.625 <NA> <NA> {one} <NA> <NA>\n"
                f"SPEAKER {name} 1 0.5 0.5049 <NA> <NA> {two} <NA> <NA>\n"
            )
        return root

    def test_who_speaks_when(self, root: Path) -> None:
        corpus = load_corpus(f"librimix:{root}")
        assert list(corpus.splits) == ["train", "dev", "test"]
        (cut,) = corpus.split("test")
        assert cut.id == "61-1240-0000_121-198-0001" and supervision_of(cut).speaker is None
        expected = [(0.0, 0.625, "61"), (0.5, 1.0, "121")]  # the rounded end is cut
        assert speaker_turns(cut) == expected
        (root / "test" / "segments").unlink()
        (cut,) = load_corpus(f"librimix:{root}").split("test")
        assert speaker_turns(cut) == expected
        assert corpus.speaker_overlap == ()

    def test_relative_paths(self, root: Path) -> None:
        (root.parent / "mix both" / "dev").rename(root / "dev" / "audio")
        rewrite(root / "dev/wav.scp", f"{root.parent}/mix both/dev/", "audio/")
        assert len(load_corpus(f"librimix:{root}").split("dev")) == 1

    def test_what_is_wrong_is_named(self, root: Path) -> None:
        cases = {
            "segments": ("103-a 103-1240-0000_19-198-0001 0.00 0.625", "103-a x", "not 4 new"),
            "utt2spk": ("19-b 19", "", "has '19-b', which"),
            "wav.scp": (".wav", ".wav |", "has a command for"),
        }
        for name, (old, new, message) in cases.items():
            kept = (root / "train" / name).read_text()
            rewrite(root / "train" / name, old, new)
            with pytest.raises(UserError, match=message):
                load_corpus(f"librimix:{root}")
            (root / "train" / name).write_text(kept)
        rewrite(root / "train/segments", "0.00", "now")
        with pytest.raises(UserError, match="the times 'now' to '0.625'"):
            load_corpus(f"librimix:{root}")
        for name in ("segments", "rttm"):
            (root / "train" / name).unlink()
        with pytest.raises(UserError, match="holds neither segments nor rttm"):
            load_corpus(f"librimix:{root}")
        (root / "train" / "rttm").write_text("SPEAKER strange 1 0 1 <NA> <NA> 9 <NA> <NA>\n")
        with pytest.raises(UserError, match="says who speaks in 'strange', which wav.scp lacks"):
            load_corpus(f"librimix:{root}")
        (root / "train" / "rttm").write_text("\n")
        with pytest.raises(UserError, match="train says nothing of who speaks when"):
            load_corpus(f"librimix:{root}")

    def test_linked_folders(self, root: Path, link_folders) -> None:
        link_folders(f"librimix:{root}", root)

    def test_text(self, root: Path, break_text) -> None:
        break_text(f"librimix:{root}", root, "dev/wav.scp", "dev/segments", "dev/utt2spk")
        (root / "dev/segments").unlink()
        break_text(f"librimix:{root}", root, "dev/rttm")


class TestQuesst14:
    @pytest.fixture
    def root(self, tmp_path: Path, write_audio) -> Path:
        root = tmp_path / "quesst14Database"
        keys = {
            "utterances": [("Audio", f"quesst14_0000{n}") for n in range(1, 5)],
            "dev": [("dev_queries", f"quesst14_dev_000{n}") for n in range(1, 4)],
            "eval": [("eval_queries", f"quesst14_eval_000{n}") for n in range(1, 3)],
        }
        for key, files in keys.items():
            lines = []
            for number, (folder, name) in enumerate(files):
                write_audio(root / folder / f"{name}.wav", rate=8000)
                language = "nnenglish" if number < len(files) - 1 else "czech"
                lines.append(f"quesst14Database/{folder}/{name}.wav {language}")
            path = root / "scoring" / f"language_key_{key}.lst"
            path.parent.mkdir(exist_ok=True)
            path.write_text("\n".join(lines) + "\n")
        truth = {
            "dev": [("00001", "dev_0001"), ("00003", "dev_0001"), ("00004", "dev_0003")],
            "eval": [("00001", "eval_0001"), ("00004", "eval_0002")],
        }
        for key, pairs in truth.items():
            folder = root / "scoring" / f"groundtruth_quesst14_{key}"
            folder.mkdir()
            lines = [f"LEXEME quesst14_{d} 1 0.00 3.2 quesst14_{q} lex <NA> <NA>" for d, q in pairs]
            lines += ["SPKR-INFO quesst14_00001 1 <NA>", "LEXEME quesst14_00002 1 0 1 NO_KEYWORD"]
            (folder / f"quesst14_{key}.rttm").write_text("\n".join(lines) + "\n")
        return root

    def test_the_english_part(self, root: Path) -> None:
        for folder in (root, root.parent):
            corpus = load_corpus(f"quesst14:{folder}")
            assert ids(corpus) == {
                "dev": ["quesst14_dev_0001", "quesst14_dev_0002"],
                "test": ["quesst14_eval_0001"],
                "documents": ["quesst14_00001", "quesst14_00002", "quesst14_00003"],
            }
        keywords = [utterance_label(cut, "keyword") for cut in corpus.split("documents")]
        assert keywords == ["quesst14_dev_0001 quesst14_eval_0001", None, "quesst14_dev_0001"]
        query = corpus.split("dev")[0]
        assert supervision_of(query).custom == {
            "keyword": "quesst14_dev_0001",
            "collection_queries": "2",  # that occur anywhere, as the official scorer counts
            "collection_documents": "4",
        }
        assert corpus.notes[0].startswith("3 queries and documents are not nnenglish")

    def test_all_languages(self, root: Path) -> None:
        corpus = load_corpus(f"quesst14:{root}", split="all_split")
        assert {name: len(cuts) for name, cuts in corpus.splits.items()} == {
            "dev": 3, "test": 2, "documents": 4
        }  # fmt: skip
        assert supervision_of(corpus.split("dev")[2]).language == "czech"

    def test_what_is_wrong_is_named(self, root: Path) -> None:
        truth = root / "scoring/groundtruth_quesst14_dev/quesst14_dev.rttm"
        rewrite(truth, "LEXEME quesst14_00003 1 0.00 3.2 quesst14_dev_0001 lex", "LEXEME x y")
        with pytest.raises(UserError, match=r"quesst14_dev\.rttm line 2 reads .* names no query"):
            load_corpus(f"quesst14:{root}")
        truth.unlink()
        with pytest.raises(UserError, match=r"quesst14_dev\.rttm cannot be read"):
            load_corpus(f"quesst14:{root}", skip_bad=True)
        rewrite(root / "scoring/language_key_dev.lst", "_0001.wav nnenglish", "_0001.wav")
        truth.touch()
        with pytest.raises(UserError, match=r"language_key_dev\.lst line 1 reads"):
            load_corpus(f"quesst14:{root}")

    def test_linked_folders(self, root: Path, link_folders) -> None:
        link_folders(f"quesst14:{root}", root)

    def test_text(self, root: Path, break_text) -> None:
        break_text(f"quesst14:{root}", root, "scoring/*.lst", "scoring/*/*.rttm")


class TestVoxCeleb1Verification:
    @pytest.fixture
    def root(self, tmp_path: Path, write_audio) -> Path:
        root = tmp_path / "VoxCeleb1"
        for number in range(8):
            for file in (1, 2):
                write_audio(root / f"dev/wav/id1000{number}/aXy-0/0000{file}.wav", 0.1)
        for speaker in ("id10270", "id10300"):
            for file in (1, 2, 3):
                write_audio(root / f"test/wav/{speaker}/bXy-0/0000{file}.wav", 0.1)
        (root / "veri_test.txt").write_text(
            "1 id10270/bXy-0/00001.wav id10270/bXy-0/00002.wav\n"
            "0 id10270/bXy-0/00001.wav id10300/bXy-0/00001.wav\n"
        )
        return root

    def test_trials_are_of_test(self, root: Path) -> None:
        corpus = load_corpus(f"voxceleb1:{root}", split="veri_split")
        first, second, other = ids(corpus)["test"]
        assert (first, other) == ("id10270-bXy-0-00001", "id10300-bXy-0-00001")
        assert corpus.trials == {
            "test": (Trial(first, second, same=True), Trial(first, other, same=False))
        }
        sizes = {name: len(cuts) for name, cuts in corpus.splits.items()}
        assert sizes["train"] + sizes["dev"] == 16 and sizes["dev"] >= 2
        assert corpus.speaker_overlap == () and corpus.split_column == "veri_split"
        assert "3 utterances of its 2 speakers stand in none" in corpus.notes[0]

    @pytest.mark.parametrize(
        ("name", "taken"),
        [("voxceleb1_test_v2.txt", True), ("veri_test2.txt", False)],  # SUPERB's, the cleaned one
    )
    def test_superbs_list_comes_first_and_the_cleaned_one_last(
        self, root: Path, name: str, taken: bool
    ) -> None:
        lines = (root / "veri_test.txt").read_text().splitlines()
        (root / name).write_text(lines[0] + "\n")
        corpus = load_corpus(f"voxceleb1:{root}", split="veri_split")
        used, trials = (name, 1) if taken else ("veri_test.txt", 2)
        assert len(corpus.trials["test"]) == trials
        assert corpus.notes[0].startswith(f"Trials are those of {used};")

    def test_what_is_wrong_is_named(self, root: Path) -> None:
        rewrite(root / "veri_test.txt", "1 id10270", "yes id10270")
        with pytest.raises(UserError, match=r"veri_test\.txt line 1 reads"):
            load_corpus(f"voxceleb1:{root}", split="veri_split")
        (root / "veri_test.txt").unlink()
        with pytest.raises(UserError, match="holds no list of trials"):
            load_corpus(f"voxceleb1:{root}", split="veri_split")

    def test_text(self, root: Path, break_text) -> None:
        break_text(f"voxceleb1:{root}", root, "veri_test.txt", split="veri_split")
