import hashlib
import importlib.util
import logging
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from auscult.audio import read_samples
from auscult.corpora import demo, load_corpus
from auscult.corpora.espeak import LONGEST_PATH, Synthesizer, Take, short_path
from auscult.dataset import frame_labels, supervision_of, utterance_label
from auscult.errors import UserError

needs_espeak = pytest.mark.skipif(
    importlib.util.find_spec("espeakng_loader") is None, reason="espeakng-loader is not installed"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that holds the demo corpus."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUSCULT_CACHE", str(folder))
        load_corpus("demo")
    return folder


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@needs_espeak
class TestDemo:
    @pytest.fixture(autouse=True)
    def use_what_was_made(self, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AUSCULT_CACHE", str(made))

    def test_two_makings_are_equal_to_the_bit(
        self, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AUSCULT_CACHE", str(tmp_path))
        load_corpus("demo")
        first, second = hashes(made / "demo-1"), hashes(tmp_path / "demo-1")
        assert len(first) == 484 and first == second
        assert sorted(path.name for path in tmp_path.iterdir() if path.name[:4] == "demo") == [
            "demo-1"  # nothing temporary is left
        ]

    def test_what_was_damaged_is_made_anew(
        self, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "demo-1"
        monkeypatch.setenv("AUSCULT_CACHE", str(tmp_path))
        anew: list[Path] = []
        monkeypatch.setattr(demo, "_make", anew.append)
        for name in ("flac/rob-03.flac", "MANIFEST.tsv", "PHONES.tsv", "HASHES.json"):
            for change in ("flip", "cut", "remove"):
                shutil.copytree(made / "demo-1", folder)
                assert demo._is_whole(folder)
                path, content = folder / name, (made / "demo-1" / name).read_bytes()
                middle = len(content) // 2
                flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
                path.write_bytes(flipped if change == "flip" else content[:middle])
                if change == "remove":
                    path.unlink()
                assert not demo._is_whole(folder) and not folder.exists()

    def test_splits(self) -> None:
        corpus = load_corpus("demo")
        assert {name: len(cuts) for name, cuts in corpus.splits.items()} == {
            "train": 280,
            "dev": 80,
            "test": 120,
        }
        cuts = [cut for part in corpus.splits.values() for cut in part]
        assert 10 <= sum(cut.duration for cut in cuts) / 60 <= 12
        assert corpus.speaker_overlap == () and "synthetic speech" in corpus.notes[0]
        assert len({cut.supervisions[0].speaker for cut in cuts}) == 24
        for part in corpus.splits.values():
            assert {cut.supervisions[0].gender for cut in part} == {"f", "m"}

    def test_no_sentence_stands_on_two_sides(self) -> None:
        for column in ("split", "sid_split"):
            corpus = load_corpus("demo", split=column)
            texts = Counter(
                cut.supervisions[0].text for part in corpus.splits.values() for cut in part
            )
            assert len(texts) == 480

    def test_speaker_identification_split(self) -> None:
        corpus = load_corpus("demo", split="sid_split")
        for part, count in (("train", 14), ("dev", 3), ("test", 3)):
            speakers = Counter(cut.supervisions[0].speaker for cut in corpus.split(part))
            assert len(speakers) == 24 and set(speakers.values()) == {count}
        assert len(corpus.speaker_overlap) == 24

    def test_labels(self) -> None:
        for part in load_corpus("demo").splits.values():
            for cut in part:
                words = supervision_of(cut).text.split()
                assert utterance_label(cut, "keyword") == words[0]
                assert utterance_label(cut, "slots.action") == demo.ACTIONS[words[0]]
                assert utterance_label(cut, "slots.object") == words[-1]
                place = words[2] if len(words) == 4 else "none"
                assert utterance_label(cut, "slots.location") == place
        train = load_corpus("demo").split("train")
        assert {utterance_label(cut, "keyword") for cut in train} == set(demo.ACTIONS)

    def test_times(self) -> None:
        symbols: Counter[str] = Counter()
        for part in load_corpus("demo").splits.values():
            for cut in part:
                supervision = supervision_of(cut)
                phones, words = supervision.alignment["phone"], supervision.alignment["word"]
                symbols.update(item.symbol for item in phones)
                edges = [(round(i.start * 16_000), round(i.end * 16_000)) for i in phones]
                assert edges[0][0] == 0 and edges[-1][1] == cut.num_samples  # no gaps
                assert all(one[1] == two[0] for one, two in zip(edges, edges[1:], strict=False))
                assert phones[0].symbol == phones[-1].symbol == "sil"
                assert [item.symbol for item in words] == supervision.text.split()
                starts = {item.start for item in phones}
                assert all(word.start in starts for word in words)
        assert len(symbols) == 41 and min(symbols.values()) >= 30

    def test_silence_is_quiet_and_speech_is_not(self) -> None:
        """Times fit the audio: what is labelled silence has no energy but the noise's."""
        for cut in list(load_corpus("demo").split("test"))[::10]:
            audio = read_samples(cut).numpy()
            labels = np.array(frame_labels(cut, "phone", np.arange(len(audio), dtype=np.float64)))
            # the resampling filter and the voice itself ring on for some milliseconds
            silent = np.convolve(labels == "sil", np.ones(801), "same") == 801
            assert silent.sum() > 500
            assert np.abs(audio[silent]).max() < 0.01 < 0.03 < audio[labels != "sil"].std()

    def test_another_process_may_be_faster(
        self, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "demo-1"

        def lose_the_race(work: Path, plan: object) -> None:
            (work / "mine").touch()
            folder.mkdir()
            (folder / "theirs").touch()

        monkeypatch.setattr(demo, "_write", lose_the_race)
        demo._make(folder)
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["theirs"]

    def test_unknown_voices_and_data_are_refused(self, tmp_path: Path) -> None:
        import espeakng_loader

        data = Path(espeakng_loader.get_data_path())
        for voice in (voice for names in demo.VOICES.values() for voice in names):
            assert voice == "default" or (data / "voices" / "!v" / voice).is_file()
        synthesizer = Synthesizer.__new__(Synthesizer)  # the library itself starts only once
        synthesizer._audio, synthesizer._phones = bytearray(), []
        synthesizer._data = data
        with pytest.raises(RuntimeError, match="no voice variant 'nosuch'"):
            synthesizer.say(Take("x", "nosuch", 175, 50, 50))


def test_failure_of_the_synthesizer_is_told(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(demo, "_plan", lambda: iter([utterance("nosuch")]))
    with pytest.raises(UserError, match="espeak-ng could not make the demo corpus: "):
        load_corpus("demo")
    assert list(cache.iterdir()) == []  # nothing half made is left


def utterance(voice: str) -> demo._Utterance:
    return demo._Utterance("x", "x", {}, "train", "train", "f", Take("x", voice, 175, 50, 50))


def test_without_espeak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'auscult\[demo\]'"):
        load_corpus("demo")


def test_a_long_data_path_gets_a_short_link(tmp_path: Path) -> None:
    data = tmp_path / ("x" * LONGEST_PATH)
    data.mkdir()
    assert short_path(tmp_path, tmp_path) == tmp_path or len(os.fsencode(tmp_path)) > LONGEST_PATH
    link = short_path(data, tmp_path)
    assert link != data and link.resolve() == data.resolve()


def test_making_is_announced(caplog: pytest.LogCaptureFixture, cache: Path, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(demo, "_write", lambda work, plan: None)
    caplog.set_level(logging.INFO, "auscult")
    with pytest.raises(UserError, match="MANIFEST.tsv cannot be read"):
        load_corpus("demo")
    assert "Making the demo corpus in" in caplog.text
