"""Each layout as its publisher lays it out, tiny."""

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from auscult.audio import read_samples
from auscult.corpora import load_corpus
from auscult.dataset import Corpus, supervision_of, utterance_label
from auscult.errors import UserError


def ids(corpus: Corpus) -> dict[str, list[str]]:
    return {name: [cut.id for cut in cuts] for name, cuts in corpus.splits.items()}


def edges(cut, name: str) -> list[tuple[int, int, str]]:
    items = supervision_of(cut).alignment[name]
    return [(round(i.start * 16_000), round(i.end * 16_000), i.symbol) for i in items]


class TestTimit:
    @pytest.fixture
    def tree(self, tmp_path: Path, write_audio):
        def build(upper: bool = True, sphere: bool = True, wanted: tuple[str, ...] = ()) -> Path:
            speakers = wanted or ("TRAIN/DR1/FCJF0", "TRAIN/DR2/MARC0", "TEST/DR1/FAKS0")
            speakers = wanted or (*speakers, "TEST/DR1/MDAB0", "TEST/DR4/MXXX9")
            root = tmp_path / "TIMIT"
            for speaker in speakers:
                for sentence in ("SA1", "SI1027", "SX37"):
                    stem = f"{speaker}/{sentence}" if upper else f"{speaker}/{sentence}".lower()
                    case = str.upper if upper else str.lower
                    kind = {"format": "NIST"} if sphere else {"format": "WAV"}
                    audio = write_audio(root / f"{stem}{case('.wav')}", subtype="PCM_16", **kind)
                    phones = "0 800 h#\n800 1600 sh\n1600 2400 q\n2400 3200 ix\n3200 4800 h#\n"
                    audio.with_suffix(case(".phn")).write_text(phones)
                    audio.with_suffix(case(".wrd")).write_text("800 2000 she\n1900 3200 is\n")
                    audio.with_suffix(case(".txt")).write_text("0 4800 She is, isn't she?\n")
            return root

        return build

    @pytest.mark.parametrize(("upper", "sphere"), [(True, True), (False, False)])
    def test_it_is_read(self, upper: bool, sphere: bool, tree) -> None:
        root = tree(upper, sphere)
        corpus = load_corpus(f"timit:{root}")
        assert ids(corpus) == {
            "train": ["dr1-fcjf0-si1027", "dr1-fcjf0-sx37", "dr2-marc0-si1027", "dr2-marc0-sx37"],
            "dev": ["dr1-faks0-si1027", "dr1-faks0-sx37"],
            "test": ["dr1-mdab0-si1027", "dr1-mdab0-sx37"],
        }
        cut = corpus.split("train")[0]
        assert edges(cut, "phone61") == [
            *((0, 800, "h#"), (800, 1600, "sh"), (1600, 2400, "q"), (2400, 3200, "ix")),
            (3200, 4800, "h#"),
        ]
        assert edges(cut, "phone") == edges(cut, "phone61")
        folded = [symbol for _, _, symbol in edges(cut, "phone39")]
        assert folded == ["sil", "sh", "", "ih", "sil"]
        assert edges(cut, "word") == [(800, 2000, "she"), (1900, 3200, "is")]
        supervision = supervision_of(cut)
        assert (supervision.speaker, supervision.gender) == ("fcjf0", "f")
        assert supervision.text == "She is, isn't she?"
        assert supervision.custom == {"dialect_region": "1", "sentence_type": "si"}
        assert read_samples(cut).shape == (4800,)
        assert "The sa sentences, which every speaker reads, are left out." in corpus.notes
        assert any(note.endswith("nor the dev set are not used: 1.") for note in corpus.notes)

    def test_copies_that_were_converted_are_read_once(self, tree) -> None:
        root = tree()
        for path in sorted(root.rglob("*.WAV")):
            audio, rate = soundfile.read(path)
            soundfile.write(path.with_name(f"{path.name}.wav"), audio, rate)
        corpus = load_corpus(f"timit:{root}")
        assert len(corpus.split("train")) == 4

    def test_without_the_usual_speakers(self, tree) -> None:
        root = tree(wanted=("train/dr1/fcjf0", "train/dr1/maaa0", "test/dr1/fzzz0"), upper=False)
        corpus = load_corpus(f"timit:{root}")
        assert {cut.supervisions[0].speaker for cut in corpus.split("test")} == {"fzzz0"}
        assert len(corpus.split("dev")) == 2 and corpus.speaker_overlap == ()
        assert any(note.startswith("There is no dev split") for note in corpus.notes)

    def test_missing_and_unreadable_labels_are_named(self, tree) -> None:
        root = tree()
        (root / "TRAIN/DR1/FCJF0/SX37.PHN").unlink()
        with pytest.raises(UserError, match=r"FCJF0/SX37\.WAV has no \.PHN file beside it"):
            load_corpus(f"timit:{root}")
        (root / "TRAIN/DR1/FCJF0/SX37.PHN").write_text("0 4800 xyz\n")
        with pytest.raises(UserError, match=r"FCJF0/SX37\.WAV has labels that cannot be read"):
            load_corpus(f"timit:{root}")
        assert len(load_corpus(f"timit:{root}", skip_bad=True).split("train")) == 3

    @pytest.mark.parametrize(
        ("suffix", "text"), [("PHN", ""), ("WRD", "\n"), ("TXT", "0 4800 She is.\n\x1a")]
    )
    def test_labels_that_hold_nothing_or_too_much_are_named(
        self, suffix: str, text: str, tree
    ) -> None:
        root = tree()
        (root / f"TRAIN/DR1/FCJF0/SX37.{suffix}").write_text(text)
        with pytest.raises(UserError, match=rf"cannot be read: .*SX37\.{suffix} "):
            load_corpus(f"timit:{root}")

    def test_linked_folders(self, tree, link_folders) -> None:
        root = tree()
        link_folders(f"timit:{root}", root)

    def test_text(self, tree, break_text) -> None:
        root = tree()
        break_text(
            f"timit:{root}", root, *(f"TRAIN/DR1/FCJF0/SX37.{x}" for x in ("PHN", "WRD", "TXT"))
        )
        (root / "TRAIN/DR1/FCJF0/SX37.WRD").write_bytes(b"0 800 caf\xe9")
        corpus = load_corpus(f"timit:{root}", skip_bad=True)
        assert len(corpus.split("train")) == 3
        assert "SX37.WRD, line 1: the bytes e9 are no UTF-8 text" in corpus.skipped[0]


GRID = """"ooTextFile" "TextGrid" 0 0.3 <exists> 2
"IntervalTier" "words" 0 0.3 2 0 0.1 "" 0.1 0.3 "say ""it"" 9"
"IntervalTier" "phones" 0 0.3 3 0 0.1 "sp" 0.1 0.25 "IH1" 0.25 0.31 ""
"""


class TestLibriSpeech:
    @pytest.fixture
    def root(self, tmp_path: Path, write_audio) -> Path:
        root = tmp_path / "LibriSpeech"
        parts = {
            "train-clean-100": "103-1240",
            "train-clean-360": "14-208",
            "dev-clean": "84-121123",
            "test-clean": "61-70968",
            "test-other": "1688-142285",
        }
        for part, name in parts.items():
            speaker, chapter = name.split("-")
            folder = root / part / speaker / chapter
            for number in range(2):
                write_audio(folder / f"{name}-{number:04}.flac")
            lines = [f"{name}-{number:04} CHAPTER {number}\n" for number in range(2)]
            (folder / f"{name}.trans.txt").write_text("".join(lines))
        (root / "SPEAKERS.TXT").write_text(
            ";ID  |SEX| SUBSET           |MINUTES| NAME\n"
            "84   | F | dev-clean        | 8.02  | Christie Nowak\n"
            "103  | M | train-clean-100  | 8.02  | Some | One\n"
        )
        return root

    def test_it_is_read(self, root: Path) -> None:
        for folder in (root, root.parent):
            corpus = load_corpus(f"librispeech:{folder}")
            assert ids(corpus) == {
                "train": ["103-1240-0000", "103-1240-0001"],
                "dev": ["84-121123-0000", "84-121123-0001"],
                "test": ["61-70968-0000", "61-70968-0001"],
                "test-other": ["1688-142285-0000", "1688-142285-0001"],
            }
        cut = corpus.split("dev")[1]
        supervision = supervision_of(cut)
        assert (supervision.speaker, supervision.gender) == ("84", "f")
        assert supervision.text == "CHAPTER 1" and utterance_label(cut, "part") == "dev-clean"
        assert not supervision.alignment
        assert "train-clean-360 not used (--split all_train_split does)" in corpus.notes[0]
        assert "found for 0 of 8 utterances." in corpus.notes[1]

    def test_all_of_train(self, root: Path) -> None:
        corpus = load_corpus(f"librispeech:{root}", split="all_train_split")
        assert {cut.supervisions[0].speaker for cut in corpus.split("train")} == {"103", "14"}
        assert corpus.split_column == "all_train_split"

    def test_speakers_in_every_split(self, root: Path, write_audio) -> None:
        for speaker, size in (("200", 20), ("201", 5), ("202", 2), ("203", 1)):
            name = f"{speaker}-1"
            for number in range(size):
                write_audio(root / f"train-clean-100/{speaker}/1/{name}-{number:04}.flac")
            lines = [f"{name}-{number:04} WORDS\n" for number in range(size)]
            (root / f"train-clean-100/{speaker}/1/{name}.trans.txt").write_text("".join(lines))
        corpus = load_corpus(f"librispeech:{root}", split="sid_split")
        assert list(corpus.splits) == ["train", "dev", "test"]
        counts = {
            name: Counter(cut.supervisions[0].speaker for cut in cuts)
            for name, cuts in corpus.splits.items()
        }
        # of 103 and 202, with two utterances each, one stands in test and none in dev
        assert counts["train"] == {"200": 16, "201": 3, "103": 1, "202": 1, "203": 1}
        assert counts["dev"] == {"200": 2, "201": 1}
        assert counts["test"] == {"200": 2, "201": 1, "103": 1, "202": 1}
        found = ids(corpus)
        assert len({name for names in found.values() for name in names}) == 30
        assert ids(load_corpus(f"librispeech:{root}", split="sid_split")) == found

    def test_s3prls_lists_divide_the_speakers_utterances(self, root: Path, write_audio) -> None:
        folder = root / "train-clean-100/200/1"
        names = [f"200-1-{number:04}" for number in range(24)]
        for name in names:
            write_audio(folder / f"{name}.flac")
        (folder / "200-1.trans.txt").write_text("".join(f"{name} WORDS\n" for name in names))
        (root / "train_split.txt").write_text("\n".join(names[:20]) + "\n")
        (root / "test_split.txt").write_text("\n".join(names[20:23]) + "\n")
        found = ids(load_corpus(f"librispeech:{root}", split="sid_split"))
        lines = (root / "train_split.txt").open().readlines()  # as s3prl's dataset does
        random.seed(1337)
        random.shuffle(lines)
        assert set(found["train"]) == {line.strip("\n") for line in lines[:18]}
        assert set(found["dev"]) == {line.strip("\n") for line in lines[18:]}
        assert found["test"] == names[20:23]
        assert len(found["train"]) == 18  # the two utterances of 103 and the last of 200 are unused

    @pytest.mark.parametrize("place", ["alignments", "../alignments", "."])
    def test_textgrids(self, place: str, root: Path) -> None:
        grid = root / place / "dev-clean/84/121123/84-121123-0000.TextGrid"
        grid.parent.mkdir(parents=True, exist_ok=True)
        grid.write_text(GRID)
        corpus = load_corpus(f"librispeech:{root}")
        aligned, bare = corpus.split("dev")
        # silence is one class; the last time passes the end by rounding and is cut
        assert edges(aligned, "phone") == [
            *((0, 1600, "sil"), (1600, 4000, "IH"), (4000, 4800, "sil"))
        ]
        assert edges(aligned, "word") == [(0, 1600, ""), (1600, 4800, 'say "it" 9')]
        assert not supervision_of(bare).alignment
        assert "found for 1 of 8 utterances." in corpus.notes[1]

    def test_a_bad_textgrid_is_named(self, root: Path) -> None:
        grid = root / "alignments/dev-clean/84/121123/84-121123-0000.TextGrid"
        grid.parent.mkdir(parents=True)
        grid.write_text("no grid")
        with pytest.raises(UserError, match=r"84-121123-0000\.TextGrid is no TextGrid"):
            load_corpus(f"librispeech:{root}")
        assert len(load_corpus(f"librispeech:{root}", skip_bad=True).skipped) == 1

    def test_labels_of_ten_millisecond_frames(self, root: Path) -> None:
        (root / "converted_aligned_phones.txt").write_text("84-121123-0000 0 0 7 7 7 12\n")
        corpus = load_corpus(f"librispeech:{root}")
        assert edges(corpus.split("dev")[0], "phone") == [
            *((0, 320, "0"), (320, 800, "7"), (800, 960, "12"))
        ]
        assert "converted_aligned_phones.txt" in corpus.notes[1]

    def test_a_missing_recording_is_named(self, root: Path) -> None:
        (root / "dev-clean/84/121123/84-121123-0001.flac").unlink()
        with pytest.raises(UserError, match=r"84-121123-0001\.flac does not exist"):
            load_corpus(f"librispeech:{root}")

    def test_a_recording_without_its_line_is_named(self, root: Path) -> None:
        transcripts = root / "dev-clean/84/121123/84-121123.trans.txt"
        transcripts.write_text("".join(transcripts.read_text().splitlines(keepends=True)[:1]))
        with pytest.raises(UserError, match=r"84-121123-0001\.flac has no line in .*trans\.txt"):
            load_corpus(f"librispeech:{root}")

    def test_no_phones_far_beyond_the_end(self, root: Path) -> None:
        labels = "84-121123-0000" + " 5" * 40
        (root / "converted_aligned_phones.txt").write_text(labels)
        with pytest.raises(UserError, match="at samples 0 to 6400, but its audio has"):
            load_corpus(f"librispeech:{root}")

    def test_linked_folders(self, root: Path, link_folders) -> None:
        link_folders(f"librispeech:{root}", root)

    def test_text(self, root: Path, break_text) -> None:
        grid = root / "alignments/dev-clean/84/121123/84-121123-0000.TextGrid"
        grid.parent.mkdir(parents=True)
        grid.write_text(GRID)
        names = [f"{part}-0000" for part in ("103-1240", "14-208")]
        (root / "converted_aligned_phones.txt").write_text("103-1240-0001 5 5 6\n")
        files = ("dev-clean/*/*/*.trans.txt", "SPEAKERS.TXT", "converted_*", "alignments/*/*/*/*")
        break_text(f"librispeech:{root}", root, *files)
        for name in ("train", "test"):
            (root / f"{name}_split.txt").write_text("\n".join(names) + "\n")
        break_text(f"librispeech:{root}", root, "train_*", "test_*.txt", split="sid_split")


class TestSpeechCommands:
    @pytest.fixture
    def root(self, tmp_path: Path, write_audio) -> Path:
        root = tmp_path / "speech_commands_v0.02"
        for word in ("yes", "stop", "bed"):
            for speaker in ("0a7c2a8d", "1b4c9b89", "2c6d3924", "3d53244b"):
                write_audio(root / word / f"{speaker}_nohash_0.wav")
        write_audio(root / "_background_noise_" / "pink_noise.wav", seconds=10.4)
        for name, speaker in (("validation", "1b4c9b89"), ("testing", "2c6d3924")):
            words = [f"{word}/{speaker}_nohash_0.wav\n" for word in ("yes", "stop", "bed")]
            (root / f"{name}_list.txt").write_text("".join(words))
        return root

    def test_it_is_read(self, root: Path) -> None:
        corpus = load_corpus(f"speech_commands:{root}")
        assert ids(corpus)["dev"] == [
            *("bed-1b4c9b89_nohash_0", "stop-1b4c9b89_nohash_0", "yes-1b4c9b89_nohash_0"),
            "_silence_-pink_noise-008",
        ]
        sizes = {name: len(cuts) for name, cuts in corpus.splits.items()}
        assert sizes == {"train": 6 + 8, "dev": 3 + 1, "test": 3 + 1}
        bed, stop, _, silence = corpus.split("dev")
        assert utterance_label(bed, "keyword") == "_unknown_"
        assert utterance_label(bed, "word") == utterance_label(bed, "transcript") == "bed"
        assert utterance_label(bed, "speaker") == "1b4c9b89"
        assert utterance_label(stop, "keyword") == "stop"
        assert utterance_label(silence, "keyword") == "_silence_"
        assert utterance_label(silence, "speaker") is None
        noise, _ = soundfile.read(root / "_background_noise_" / "pink_noise.wav", dtype="float32")
        np.testing.assert_array_equal(read_samples(silence).numpy(), noise[128_000:144_000])
        assert corpus.speaker_overlap == ()
        assert "test is what testing_list.txt names" in corpus.notes[0]

    @pytest.mark.parametrize("place", ["test", "../speech_commands_test_set_v0.02"])
    def test_the_official_test_set(self, place: str, root: Path, write_audio) -> None:
        test = root / place
        write_audio(test / "yes" / "2c6d3924_nohash_0.wav")
        write_audio(test / "_unknown_" / "bed_2c6d3924_nohash_1.wav")
        (test / "_silence_").mkdir()
        soundfile.write(test / "_silence_" / "1037.wav", np.zeros(4800), 16_000)
        corpus = load_corpus(f"speech_commands:{root}")
        silence, unknown, yes = corpus.split("test")
        assert [cut.id for cut in (silence, unknown, yes)] == [
            "test-_silence_-1037",
            "test-_unknown_-bed_2c6d3924_nohash_1",
            "test-yes-2c6d3924_nohash_0",
        ]
        assert utterance_label(unknown, "word") == "bed"
        assert utterance_label(unknown, "speaker") == "2c6d3924"
        assert utterance_label(unknown, "keyword") == "_unknown_"
        assert utterance_label(silence, "keyword") == "_silence_"
        assert len(corpus.split("train")) == 6 + 8 and len(corpus.split("dev")) == 3 + 2
        assert "the 3 files of testing_list.txt are not used" in corpus.notes[0]

    def test_the_folder_above(self, root: Path, write_audio) -> None:
        assert len(load_corpus(f"speech_commands:{root.parent}").split("train")) == 14
        other = root.parent / "speech_commands_v0.01"
        other.mkdir()
        (other / "validation_list.txt").touch()
        with pytest.raises(UserError, match=r"holds speech_commands_v0.01 and speech_commands_v0"):
            load_corpus(f"speech_commands:{root.parent}")

    def test_a_listed_file_that_is_missing(self, root: Path) -> None:
        (root / "yes" / "1b4c9b89_nohash_0.wav").unlink()
        with pytest.raises(UserError, match=r"yes/1b4c9b89_nohash_0\.wav does not exist, but is"):
            load_corpus(f"speech_commands:{root}")

    def test_unreadable_background_noise(self, root: Path) -> None:
        (root / "_background_noise_" / "pink_noise.wav").write_bytes(b"?")
        with pytest.raises(UserError, match=r"pink_noise\.wav cannot be read as audio"):
            load_corpus(f"speech_commands:{root}")

    def test_linked_folders(self, root: Path, link_folders) -> None:
        link_folders(f"speech_commands:{root}", root)

    def test_text(self, root: Path, break_text) -> None:
        break_text(f"speech_commands:{root}", root, "*_list.txt")

    def test_without_background_noise(self, root: Path) -> None:
        noise = root / "_background_noise_" / "pink_noise.wav"
        noise.rename(root / "pink_noise.wav")
        (note, _) = load_corpus(f"speech_commands:{root}").notes
        assert "nothing is silence: the corpus has 11 classes where SUPERB's has 12" in note


class TestFluentSpeechCommands:
    @pytest.fixture
    def root(self, tmp_path: Path, write_audio) -> Path:
        root = tmp_path / "fluent_speech_commands_dataset"
        (root / "data").mkdir(parents=True)
        for table, speaker in (("train", "2BqVo8kV"), ("valid", "4BrX8aDq"), ("test", "52XVOeXM")):
            lines = [",path,speakerId,transcription,action,object,location"]
            for number in range(2):
                path = f"wavs/speakers/{speaker}/{table}-{number}.wav"
                write_audio(root / path)
                lines.append(
                    f'{number},{path},{speaker},"Bring me, please",bring,juice,none'  # quoted
                )
            (root / "data" / f"{table}_data.csv").write_text("\n".join(lines) + "\n")
        (root / "data" / "speaker_demographics.csv").write_text(
            "speakerId,Self-reported fluency level ,First Language spoken,"
            "Current language used for work/school,gender,ageRange\n"
            "2BqVo8kV,native,English (United States),English (United States),female,22-40\n"
        )
        return root

    def test_it_is_read(self, root: Path) -> None:
        for folder in (root, root.parent):
            corpus = load_corpus(f"fluent_speech_commands:{folder}")
            assert ids(corpus) == {
                "train": ["train-0", "train-1"],
                "dev": ["valid-0", "valid-1"],
                "test": ["test-0", "test-1"],
            }
        cut = corpus.split("train")[0]
        slots = {"action": "bring", "object": "juice", "location": "none"}
        assert supervision_of(cut).custom == {"slots": slots}
        assert supervision_of(cut).text == "Bring me, please"
        assert (supervision_of(cut).speaker, supervision_of(cut).gender) == ("2BqVo8kV", "f")
        assert supervision_of(corpus.split("dev")[0]).gender is None

    def test_missing_tables_columns_and_rows_are_named(self, root: Path) -> None:
        table = root / "data" / "valid_data.csv"
        table.write_text(",path,speakerId,transcription,action,object,location\n")
        with pytest.raises(UserError, match="Split 'dev' of .* is empty"):
            load_corpus(f"fluent_speech_commands:{root}")
        table.write_text(",path,speakerId\n0,x,y\n")
        with pytest.raises(UserError, match=r"valid_data\.csv has no column 'transcription'"):
            load_corpus(f"fluent_speech_commands:{root}")
        table.unlink()
        with pytest.raises(UserError, match=r"valid_data\.csv does not exist"):
            load_corpus(f"fluent_speech_commands:{root}")

    def test_linked_folders(self, root: Path, link_folders) -> None:
        link_folders(f"fluent_speech_commands:{root}", root)

    def test_text(self, root: Path, break_text) -> None:
        break_text(f"fluent_speech_commands:{root}", root, "data/*.csv")

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ('9,x.wav,s,"no end', "line 4, is no CSV: unexpected end"),
            ('9,x.wav,s,"a" b,c,d,e', "line 4, is no CSV: "),
            (f"9,x.wav,s,{'x' * 200_000},c,d,e", "line 4, is no CSV: field larger than"),
            ("9,x.wav,s", "line 4 has 3 fields where the header has 7"),
            ("9,x.wav,s,t,a,b,c,d", "line 4 has 8 fields where the header has 7"),
        ],
    )
    def test_lines_that_are_no_csv(self, line: str, message: str, root: Path) -> None:
        table = root / "data" / "train_data.csv"
        table.write_text(f"{table.read_text()}{line}\n")
        with pytest.raises(UserError, match=rf"train_data\.csv,? {message}"):
            load_corpus(f"fluent_speech_commands:{root}")


class TestVoxCeleb1:
    @pytest.fixture
    def root(self, tmp_path: Path, write_audio) -> Path:
        root = tmp_path / "VoxCeleb1"
        for speaker, place in (("id10001", "dev/wav"), ("id10270", "test/wav")):
            for video in "abcdefgh":
                for number in (1, 2):
                    write_audio(root / place / speaker / f"{video}Xy-0" / f"{number:05}.wav")
        (root / "vox1_meta.csv").write_text(
            "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n"
            "id10001\tA.J._Buckley\tm\tIreland\tdev\n"
        )
        return root

    def test_a_split_is_made_by_video(self, root: Path) -> None:
        corpus = load_corpus(f"voxceleb1:{root}")
        sizes = {name: len(cuts) for name, cuts in corpus.splits.items()}
        assert sizes == {"train": 2 * 12, "dev": 2 * 2, "test": 2 * 2}
        assert corpus.speaker_overlap == ("id10001", "id10270")
        videos = [
            {(cut.supervisions[0].speaker, utterance_label(cut, "video")) for cut in cuts}
            for cuts in corpus.splits.values()
        ]
        assert not videos[0] & videos[1] and not videos[0] & videos[2] and not videos[1] & videos[2]
        cut = corpus.split("train")[0]
        assert (supervision_of(cut).speaker, supervision_of(cut).gender) == ("id10001", "m")
        assert utterance_label(cut, "nationality") == "Ireland"
        assert "were made by video" in corpus.notes[0]

    @pytest.mark.parametrize("name", ["iden_split.txt", "veri_test_class.txt"])
    def test_the_official_split(self, name: str, root: Path) -> None:
        (root / name).write_text(
            "1 id10001/aXy-0/00001.wav\n2 id10001/bXy-0/00001.wav\n3 id10270/aXy-0/00002.wav\n"
        )
        corpus = load_corpus(f"voxceleb1:{root}")
        assert ids(corpus) == {
            "train": ["id10001-aXy-0-00001"],
            "dev": ["id10001-bXy-0-00001"],
            "test": ["id10270-aXy-0-00002"],
        }
        assert "29 files are not in" in corpus.notes[0]

    def test_bad_lists_are_named(self, root: Path) -> None:
        listed = root / "iden_split.txt"
        listed.write_text("1 id10001/aXy-0/00009.wav\n2 id10001/bXy-0/00001.wav\n")
        with pytest.raises(UserError, match=r"aXy-0/00009\.wav does not exist"):
            load_corpus(f"voxceleb1:{root}")
        listed.write_text("train id10001/aXy-0/00001.wav\n")
        with pytest.raises(UserError, match=r"iden_split\.txt line 1 reads 'train id10001"):
            load_corpus(f"voxceleb1:{root}")

    def test_linked_folders(self, root: Path, link_folders) -> None:
        link_folders(f"voxceleb1:{root}", root)

    def test_text(self, root: Path, break_text) -> None:
        lines = [
            f"{part} id10001/{video}Xy-0/00001.wav"
            for part, video in zip("123", "abc", strict=True)
        ]
        (root / "iden_split.txt").write_text("\n".join(lines) + "\n")
        break_text(f"voxceleb1:{root}", root, "iden_split.txt", "vox1_meta.csv")
