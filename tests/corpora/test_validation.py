import logging
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from auscult.audio import read_batch, read_samples
from auscult.corpora import load_corpus, read_files, scan
from auscult.corpora.riff import missing_audio
from auscult.errors import UserError
from auscult.kept import read_json

BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: path.unlink(), "does not exist"),
    "garbage": (lambda path: path.write_bytes(b"no audio" * 99), "cannot be read as audio: "),
    "no bytes": (lambda path: path.write_bytes(b""), "cannot be read as audio: "),
    "no samples": (lambda path: soundfile.write(path, np.zeros(0), 16_000), "holds no samples"),
    "zeros": (lambda path: soundfile.write(path, np.zeros(4800), 16_000), "holds only zeros"),
    "nan": (
        lambda path: soundfile.write(path, np.array([0.1, np.nan]), 16_000, "FLOAT"),
        "holds NaN or infinite samples",
    ),
    "infinite": (
        lambda path: soundfile.write(path, np.array([0.1, np.inf]), 16_000, "FLOAT"),
        "holds NaN or infinite samples",
    ),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_named_or_left_out(kind: str, write_corpus) -> None:
    folder = write_corpus()
    spoil, message = BAD_FILES[kind]
    spoil(folder / "a" / "1-1.wav")
    with pytest.raises(UserError) as caught:
        load_corpus(f"tsv:{folder}")
    assert f"{folder}/a/1-1.wav {message}" in str(caught.value)
    assert "--skip-bad" in str(caught.value)
    corpus = load_corpus(f"tsv:{folder}", skip_bad=True)
    assert len(corpus.skipped) == 1 and corpus.skipped[0].startswith(
        f"{folder}/a/1-1.wav {message}"
    )
    assert [cut.id for cut in corpus.split("train")] == [
        *("0-0", "0-1", "0-2", "1-0", "1-2", "2-0", "2-1", "2-2")
    ]


def test_a_truncated_file(write_corpus, write_audio) -> None:
    folder = write_corpus(["path", "split"], [["x.flac", "train"], ["y.flac", "train"]])
    path = write_audio(folder / "x.flac", seconds=2.0)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(UserError, match=r"x\.flac cannot be read as audio: flac decoder lost sync"):
        load_corpus(f"tsv:{folder}")


def _wav(data: bytes, promised: int | None = None, before: bytes = b"", order: str = "<") -> bytes:
    """One second of 16-bit samples at 16 kHz is 32 000 bytes."""
    form = struct.pack(f"{order}HHIIHH", 1, 1, 16_000, 32_000, 2, 16)
    size = len(data) if promised is None else promised
    chunks = b"fmt " + struct.pack(f"{order}I", len(form)) + form + before
    chunks += b"data" + struct.pack(f"{order}I", size) + data
    head = {"<": b"RIFF", ">": b"RIFX"}[order]
    return head + struct.pack(f"{order}I", min(4 + len(chunks), 2**32 - 1)) + b"WAVE" + chunks


NOISE = np.random.default_rng(0).integers(-9000, 9000, 16_000, dtype="<i2").tobytes()
LIST = b"LIST" + struct.pack("<I", 3) + b"abc\0"  # of odd size, padded


@pytest.mark.parametrize(
    ("content", "lacks"),
    [
        (_wav(NOISE, 64_000), "promises 2.00 s of audio, and 1.00 s are there"),
        (_wav(NOISE[:16_000], 32_000, LIST), "promises 1.00 s of audio, and 0.50 s are there"),
        (_wav(NOISE[:8000], 32_000, order=">"), "promises 1.00 s of audio, and 0.25 s are there"),
        (_wav(b"", 32_000), "promises 1.00 s of audio, and 0.00 s are there"),
        (_wav(NOISE), ""),
        (_wav(NOISE, before=LIST), ""),
        (_wav(NOISE, 64_000, before=bytes(16)), ""),  # blocks that were never written: no answer
        (_wav(NOISE) + LIST, ""),  # after the audio
        (_wav(NOISE[:-1], 32_000), ""),  # without its padding
        *((_wav(NOISE, size), "") for size in (0, 2**32 - 1, 2**32 - 37, 0x7FFFF000, 2**31)),
        (b"RF64" + _wav(NOISE, 64_000)[4:], ""),
        (_wav(NOISE)[:30], ""),  # no audio at all, which is for the decoder to say
        (b"RIFF", ""),
    ],
)
def test_what_a_wav_file_lacks(content: bytes, lacks: str, tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(content)
    said = missing_audio(path)
    assert said == (f"is cut short: its header {lacks}" if lacks else "")


def test_a_wav_file_that_was_cut_short(write_corpus) -> None:
    folder = write_corpus()
    path = folder / "a" / "1-1.wav"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    why = r"1-1\.wav is cut short: its header promises 0\.30 s of audio, and 0\.1\d s are there"
    with pytest.raises(UserError, match=why):
        load_corpus(f"tsv:{folder}")
    with pytest.raises(UserError, match=why):
        read_files([path])
    (sentence,) = load_corpus(f"tsv:{folder}", skip_bad=True).skipped
    assert "is cut short" in sentence


def test_a_stream_saved_as_it_came_is_whole(write_corpus) -> None:
    folder = write_corpus(["path", "split"], [["x.wav", "train"]])
    (folder / "x.wav").write_bytes(_wav(NOISE, 2**32 - 1))
    (cut,) = load_corpus(f"tsv:{folder}").split("train")
    assert cut.duration == 1.0


def test_all_bad_items_are_counted(write_corpus, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_corpus()
    for name in ("0-0", "1-1", "4-0"):
        (folder / "a" / f"{name}.wav").write_bytes(b"")
    with pytest.raises(UserError, match=r"0-0.wav .*\(the first of 3 bad items\)"):
        load_corpus(f"tsv:{folder}")
    caplog.set_level(logging.INFO, "auscult")
    assert len(load_corpus(f"tsv:{folder}", skip_bad=True).skipped) == 3
    assert "3 bad items are left out" in caplog.text


def test_the_good_corpus_passes(write_corpus) -> None:
    corpus = load_corpus(f"tsv:{write_corpus()}")
    assert {name: len(cuts) for name, cuts in corpus.splits.items()} == {
        "train": 9,
        "dev": 3,
        "test": 6,
    }
    assert (corpus.notes, corpus.skipped, corpus.speaker_overlap) == ((), (), ())


def test_zeros_are_silence_where_the_label_says_so(write_corpus) -> None:
    rows = [["x.wav", "_silence_", "train"], ["y.wav", "yes", "train"]]
    folder = write_corpus(["path", "label", "split"], rows)
    soundfile.write(folder / "x.wav", np.zeros(4800), 16_000)
    assert load_corpus(f"tsv:{folder}").skipped == ()


def test_duplicate_ids(write_corpus) -> None:
    folder = write_corpus(
        ["path", "utt", "split"], [["x.wav", "u", "train"], ["y.wav", "u", "dev"]]
    )
    with pytest.raises(UserError, match=r"y\.wav has the id 'u', as has .*x\.wav"):
        load_corpus(f"tsv:{folder}")


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_other_rates_and_channels_are_read_at_16_khz_mono(
    rate: int, channels: int, write_corpus
) -> None:
    folder = write_corpus(
        ["path", "utt", "split"], [["x.wav", "u", "train"], ["y.wav", "v", "dev"]]
    )
    tone = np.sin(2 * np.pi * 440 * np.arange(rate // 3 + 1) / rate)
    both = np.stack([tone, 0.5 * tone], axis=1)[:, :channels]
    soundfile.write(folder / "x.wav", both, rate, "FLOAT")
    corpus = load_corpus(f"tsv:{folder}")
    (cut,) = corpus.split("train")
    samples = read_samples(cut).numpy()
    assert samples.ndim == 1 and len(samples) == cut.num_samples and cut.sampling_rate == 16_000
    loudness = 1.0 if channels == 1 else 0.75
    expected = loudness * np.sin(2 * np.pi * 440 * np.arange(len(samples)) / 16_000)
    # torchaudio's resampler is flat to 1 % at 440 Hz; its edges, 20 ms, are left out
    np.testing.assert_allclose(samples[320:-320], expected[320:-320], atol=0.02)
    text = " ".join(corpus.notes)
    assert f"x.wav is not at 16 kHz ({rate} Hz: 1) and resampled on reading." in text
    assert ("x.wav is stereo or wider; channels are averaged" in text) == (channels == 2)


def test_label_times_refer_to_16_khz_whatever_the_rate(write_corpus, write_audio) -> None:
    folder = write_corpus(["path", "utt", "split"], [["x.wav", "u", "train"]])
    write_audio(folder / "x.wav", seconds=0.5, rate=48_000)
    phones = folder / "PHONES.tsv"
    phones.write_text("utt\tstart\tend\tphone\nu\t0\t8000\taa\n")
    assert len(load_corpus(f"tsv:{folder}").split("train")) == 1
    phones.write_text("utt\tstart\tend\tphone\nu\t0\t8001\taa\n")
    with pytest.raises(UserError, match=r"x\.wav has the .* but its audio has samples 0 to 8000"):
        load_corpus(f"tsv:{folder}")


def test_shared_speakers_are_told_not_refused(write_corpus) -> None:
    rows = [[f"{n}.wav", "ann", part] for n, part in enumerate(("train", "dev", "test"))]
    corpus = load_corpus(f"tsv:{write_corpus(['path', 'speaker', 'split'], rows)}")
    assert corpus.speaker_overlap == ("ann",)
    assert "Speakers in more than one split: 1, such as ann in train (" in corpus.notes[-1]
    assert "0.wav) and in dev (" in corpus.notes[-1]


def test_the_same_audio_in_two_splits_is_told(write_corpus) -> None:
    folder = write_corpus()
    audio, rate = soundfile.read(folder / "a" / "0-0.wav")
    (folder / "a" / "4-0.wav").unlink()
    soundfile.write(folder / "a" / "4-0.wav", audio, rate, format="FLAC")  # another container
    (note,) = load_corpus(f"tsv:{folder}").notes
    assert note == (
        f"The same audio stands in train ({folder}/a/0-0.wav) and in test ({folder}/a/4-0.wav)."
    )


def test_a_split_that_is_empty_after_skipping(write_corpus) -> None:
    folder = write_corpus()
    for path in (folder / "a").glob("3-*.wav"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"Split 'dev' of .* once 3 bad items are left out"):
        load_corpus(f"tsv:{folder}", skip_bad=True)


class TestFingerprint:
    def test_it_stays_when_the_folder_moves(self, write_corpus, tmp_path: Path) -> None:
        folder = write_corpus()
        moved = tmp_path / "elsewhere" / "copy"
        shutil.copytree(folder, moved)
        before, after = load_corpus(f"tsv:{folder}"), load_corpus(f"tsv:{moved}")
        assert before.sha256 == after.sha256 and len(set(before.sha256.values())) == 3

    @pytest.mark.parametrize("change", ["audio", "label", "time", "order"])
    def test_it_changes_with_what_it_covers(self, change: str, write_corpus, write_audio) -> None:
        folder = write_corpus()
        phones = folder / "PHONES.tsv"
        phones.write_text("utt\tstart\tend\tphone\n0-0\t0\t100\taa\n")
        before = load_corpus(f"tsv:{folder}").sha256
        manifest = (folder / "MANIFEST.tsv").read_text()
        if change == "audio":
            write_audio(folder / "a" / "0-0.wav", seconds=0.31)
        elif change == "label":
            (folder / "MANIFEST.tsv").write_text(manifest.replace("0-0\ts0\t", "0-0\ts00\t"))
        elif change == "time":
            phones.write_text("utt\tstart\tend\tphone\n0-0\t0\t101\taa\n")
        else:
            lines = manifest.splitlines()
            lines[1], lines[2] = lines[2], lines[1]
            (folder / "MANIFEST.tsv").write_text("\n".join(lines))
        after = load_corpus(f"tsv:{folder}").sha256
        assert after["train"] != before["train"]
        assert (after["dev"], after["test"]) == (before["dev"], before["test"])


class TestScanMemory:
    def test_a_file_is_decoded_once(self, write_corpus, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = write_corpus()
        decoded: list[Path] = []
        original = scan.scan_file
        monkeypatch.setattr(scan, "scan_file", lambda path: decoded.append(path) or original(path))
        first = load_corpus(f"tsv:{folder}")
        assert len(decoded) == 18
        assert load_corpus(f"tsv:{folder}").sha256 == first.sha256 and len(decoded) == 18
        soundfile.write(folder / "a" / "0-0.wav", 0.1 * np.ones(4800), 16_000)
        assert load_corpus(f"tsv:{folder}").sha256 != first.sha256 and len(decoded) == 19

    def test_an_interrupted_scan_keeps_what_it_has_seen(
        self, write_corpus, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = write_corpus()
        original = scan.scan_file

        def stop_at_the_tenth(path: Path) -> scan.Scan:
            if path.name == "3-0.wav":
                raise KeyboardInterrupt
            return original(path)

        monkeypatch.setattr(scan, "scan_file", stop_at_the_tenth)
        with pytest.raises(KeyboardInterrupt):
            load_corpus(f"tsv:{folder}")
        (memory,) = (cache / "scans").iterdir()
        kept = read_json(memory)
        assert kept is not None and len(kept) == 9

    def test_a_damaged_memory_is_made_anew(self, write_corpus, cache: Path) -> None:
        folder = write_corpus()
        first = load_corpus(f"tsv:{folder}")
        (memory,) = (cache / "scans").iterdir()
        memory.write_text('{"half')
        assert load_corpus(f"tsv:{folder}").sha256 == first.sha256


class TestReadSamples:
    def test_a_batch_is_padded(self, write_corpus, write_audio) -> None:
        folder = write_corpus()
        write_audio(folder / "a" / "0-0.wav", seconds=0.5)
        batch = read_batch(list(load_corpus(f"tsv:{folder}").split("train"))[:2])
        assert batch.samples.shape == (2, 8000) and batch.lengths.tolist() == [8000, 4800]
        expected, _ = soundfile.read(folder / "a" / "0-1.wav", dtype="float32")
        np.testing.assert_array_equal(batch.samples[1, :4800].numpy(), expected)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"no audio", "0-0.wav changed while it was in use: "),
            (None, "0-0.wav cannot be read as audio: it does not exist."),
        ],
    )
    def test_a_file_that_went_bad_later(self, content, message: str, write_corpus) -> None:
        folder = write_corpus()
        cut = load_corpus(f"tsv:{folder}").split("train")[0]
        path = folder / "a" / "0-0.wav"
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            read_samples(cut)
        assert message in str(caught.value)

    def test_a_file_that_became_shorter(self, write_corpus, write_audio) -> None:
        folder = write_corpus()
        write_audio(folder / "a" / "0-0.wav", seconds=1.0)
        cut = load_corpus(f"tsv:{folder}").split("train")[0]
        write_audio(folder / "a" / "0-0.wav", seconds=0.1)
        with pytest.raises(UserError, match="0-0.wav changed while it was in use"):
            read_samples(cut)


@pytest.mark.parametrize(
    ("channels", "old", "new", "missing", "lacks"),
    [
        (1, b"", b"", 0, ""),
        (1, b"", b"", 2, ""),
        (1, b"", b"", 4800, "promises 0.30 s of audio, and 0.15 s are there"),
        (2, b"", b"", 4800, "promises 0.30 s of audio, and 0.23 s are there"),
        (1, b"sample_count", b"sample_count_", 4800, ""),
        (1, b"-s3 pcm", b"-s26 pcm,embedded-shorten-v2.00", 4800, ""),
    ],
)
def test_sphere_files_that_were_cut_short(
    channels: int, old: bytes, new: bytes, missing: int, lacks: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.sph"
    soundfile.write(path, np.full((4800, channels), 0.1), 16_000, "PCM_16", format="NIST")
    content = path.read_bytes()
    head = content[:1024].rstrip(b"\0").replace(old, new) if old else content[:1024]
    path.write_bytes((head.ljust(1024, b"\0") + content[1024:])[: len(content) - missing])
    assert missing_audio(path) == (f"is cut short: its header {lacks}" if lacks else "")
