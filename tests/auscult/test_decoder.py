"""Every format that libsndfile writes, checked and read, whole and in pieces."""

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import Recording
from lhotse.audio import AudioSource
from numpy.typing import NDArray

from auscult.audio import read_batch, read_samples
from auscult.corpora import read_files
from auscult.decoder import Undecodable, open_audio
from auscult.errors import UserError
from auscult.speech_pool import Crop

RATE = 16_000
# written with other samples than were given; 1.0 for those that code the difference between samples
LOSSY = {"ULAW": 0.05, "ALAW": 0.05, "ADPCM": 0.2, "G72": 0.3, "GSM": 0.5, "PCM_S8": 0.02}
LOSSY |= {"PCM_U8": 0.02, "DPCM_8": 0.05, "OPUS": 1.0, "VORBIS": 0.2, "MPEG": 0.3}
UNREADABLE = ("RAW", "DWVW")  # without a header; soundfile cannot read what it writes


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUSCULT_CACHE", str(tmp_path / "cache"))


def speech(seconds: float = 1.3, rate: int = RATE) -> NDArray[np.float64]:
    """A sweep with noise: no two parts are alike."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).standard_normal(len(time))
    return 0.3 * np.sin(2 * np.pi * (200 + 150 * time) * time) + 0.02 * noise


def pairs() -> list[tuple[str, str, int]]:
    found = []
    for kind in soundfile.available_formats():
        for codec in soundfile.available_subtypes(kind):
            if kind in UNREADABLE or codec.startswith(UNREADABLE):
                continue
            found += [(kind, codec, rate) for rate in (8_000, 16_000)]
    return found


def write(folder: Path, kind: str, codec: str, rate: int, seconds: float = 1.3) -> Path:
    path = folder / f"x.{kind.lower()}"
    try:
        soundfile.write(path, speech(seconds, rate), rate, format=kind, subtype=codec)
    except (soundfile.SoundFileError, ValueError):
        pytest.skip("libsndfile only reads it")
    return path


def test_there_are_formats() -> None:
    assert len(pairs()) > 150


@pytest.mark.parametrize(("kind", "codec", "rate"), pairs())
def test_check_and_reading_agree(tmp_path: Path, kind: str, codec: str, rate: int) -> None:
    path = write(tmp_path, kind, codec, rate)
    corpus = read_files([path])
    (cut,) = corpus.split("files")
    whole = read_batch([cut])
    assert whole.lengths.tolist() == [cut.num_samples]
    if soundfile.info(path).samplerate != rate:
        return  # a format with a rate of its own
    assert cut.duration >= 1.3 - 1e-4
    if rate == RATE:
        loss = next((loss for name, loss in LOSSY.items() if name in codec), 1e-3)
        if codec != "OPUS":  # shifts phases
            found = whole.samples[0, 100:20_000].numpy()
            np.testing.assert_allclose(found, speech()[100:20_000], atol=loss)
        for start, seconds in ((0.0, 0.5), (0.1, 0.7), (0.9, 0.4 - 1 / RATE), (1.2, 0.05)):
            piece = cut.truncate(offset=start, duration=seconds)
            first = round(start * RATE)
            expected = whole.samples[0, first : first + round(seconds * RATE)]
            np.testing.assert_array_equal(read_samples(piece).numpy(), expected.numpy())
    assert len(Crop(cut, draw=3, seconds=0.5).read()) == 8000


@pytest.mark.parametrize("codec", ["VORBIS", "OPUS", "MPEG_LAYER_III"])
@pytest.mark.parametrize("rate", [16_000, 24_000])
def test_pieces_where_seeking_gives_other_samples(tmp_path: Path, codec: str, rate: int) -> None:
    path = write(tmp_path, "MP3" if "MPEG" in codec else "OGG", codec, rate, seconds=12)
    with open_audio(path) as file:
        whole = file.samples()
    for start in range(1, len(whole) - 2000, len(whole) // 9):
        with open_audio(path) as file:
            np.testing.assert_array_equal(file.samples(start, 1000), whole[start : start + 1000])
    assert abs(len(whole) - 12 * rate) < 2


def test_blocks_are_bounded_whatever_the_header_says(tmp_path: Path) -> None:
    path = tmp_path / "x.flac"
    soundfile.write(path, speech(), RATE)
    whole = path.read_bytes()
    for samples in (0, 2**36 - 1):  # unknown, and 50 days
        content = bytearray(whole)
        content[21] = content[21] & 0xF0 | samples >> 32
        content[22:26] = (samples & 0xFFFFFFFF).to_bytes(4, "big")
        path.write_bytes(content)
        (cut,) = read_files([path]).split("files")
        assert cut.num_samples == len(speech())
        piece = read_samples(cut.truncate(offset=0.5, duration=0.25))
        np.testing.assert_allclose(piece.numpy(), speech()[8000:12000], atol=1e-4)


def test_many_channels_are_decoded_in_small_blocks(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, np.zeros((5000, 1000)) + 0.1, RATE)
    with open_audio(path) as file:
        assert max(len(block) for block in file.blocks_from()) <= 2**20 / 1000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.m4a", b"\0\0\0\x20ftypM4A " + bytes(99), r"it is MPEG-4 audio .*convert it to WAV"),
        ("x.webm", b"\x1aE\xdf\xa3" + bytes(99), "Matroska or WebM file, which is not read"),
        ("x.wav", b"\xff\xf1\x50\x80" * 99, "it is AAC audio"),
        ("x.sph", b"NIST_1A\n   1024\n", "bad header"),
        ("x.raw", b"\1\2" * 999, "no header that says its rate"),
        ("x.wav", b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        ("x.flac", b"", "Format not recognised"),
    ],
)
def test_what_is_not_read_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} cannot be read as audio: .*{message}"):
        read_files([tmp_path / name])
    with pytest.raises(Undecodable), open_audio(tmp_path / name):
        pass


def test_compressed_sphere_says_what_unpacks_it(tmp_path: Path) -> None:
    fields = "sample_count -i 999\nsample_n_bytes -i 2\nchannel_count -i 1\nsample_rate -i 16000\n"
    fields += "sample_byte_format -s2 01\nsample_coding -s26 pcm,embedded-shorten-v2.00\nend_head\n"
    header = f"NIST_1A\n   1024\n{fields}".ljust(1024).encode()
    (tmp_path / "x.sph").write_bytes(header + b"ajkg\x02" + bytes(500))
    with pytest.raises(UserError, match=r"compressed by shorten \(`sph2pipe -f wav` unpacks it\)"):
        read_files([tmp_path / "x.sph"])


def test_a_pipe_is_no_audio(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "x.wav")
    with pytest.raises(Undecodable, match="not a regular file"), open_audio(tmp_path / "x.wav"):
        pass


class TestRates:
    @pytest.mark.parametrize("rate", [1, 7, 3_999, 192_001, 2**31 - 1])
    def test_rates_of_no_speech_are_bad_items(self, tmp_path: Path, rate: int) -> None:
        soundfile.write(tmp_path / "x.wav", speech(), rate)
        soundfile.write(tmp_path / "y.wav", speech(), RATE)
        with pytest.raises(UserError, match=rf"x\.wav has {rate:,} samples a second; rates from"):
            read_files([tmp_path / "x.wav"])
        found = read_files([tmp_path / "x.wav", tmp_path / "y.wav"], skip_bad=True)
        assert len(found.split("files")) == len(found.skipped) == 1
        with pytest.raises(UserError, match="samples a second; rates from"):
            read_samples(Recording.from_file(tmp_path / "x.wav").to_cut())

    @pytest.mark.parametrize("rate", [8_000, 22_050, 24_000, 32_000, 44_100, 48_000])
    def test_usual_rates_are_resampled_as_ever(self, tmp_path: Path, rate: int) -> None:
        """Bit for bit as lhotse does with torchaudio's method."""
        soundfile.write(tmp_path / "x.wav", speech(rate=rate), rate)
        (cut,) = read_files([tmp_path / "x.wav"]).split("files")
        for part in (cut, cut.truncate(offset=0.3, duration=0.61)):
            np.testing.assert_array_equal(read_samples(part).numpy(), part.load_audio()[0])

    @pytest.mark.parametrize("rate", [4_001, 15_991, 44_056, 191_999])
    def test_odd_rates_take_no_more_memory_than_their_audio(
        self, tmp_path: Path, rate: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lhotse.augmentation.Resample.resampler", None)  # makes the kernel
        time = np.arange(2 * rate) / rate
        soundfile.write(tmp_path / "x.wav", 0.5 * np.sin(2 * np.pi * 440 * time), rate)
        (cut,) = read_files([tmp_path / "x.wav"]).split("files")
        samples = read_samples(cut).numpy()
        assert len(samples) == cut.num_samples == 2 * RATE
        expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)
        np.testing.assert_allclose(samples[320:-320], expected[320:-320], atol=1e-4)
        part = read_samples(cut.truncate(offset=1.0, duration=0.9)).numpy()
        np.testing.assert_allclose(part[320:-320], samples[16320:30080], atol=1e-4)


def test_what_is_done_to_a_cut_is_honoured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Speed, volume, channels, mixtures and audio in memory, as lhotse does them."""
    soundfile.write(tmp_path / "x.wav", np.stack([speech(), 0.5 * speech()], 1), RATE)
    cut = Recording.from_file(tmp_path / "x.wav").to_cut()
    mono = cut.with_channels(1)
    cuts = [cut, mono, mono.perturb_speed(1.1), mono.perturb_volume(0.5), mono.pad(duration=2)]
    cuts += [mono.mix(mono, offset_other_by=0.2), mono.move_to_memory(audio_format="wav")]
    for one in cuts:
        expected = one.load_audio().mean(axis=0)
        np.testing.assert_allclose(read_samples(one).numpy(), expected, atol=1e-6)
    with caplog.at_level(logging.WARNING):
        gone = AudioSource(type="file", channels=[0], source=str(tmp_path / "gone.wav"))
        recording = cut.recording
        assert recording is not None
        recording.sources[0] = gone
        with pytest.raises(UserError, match=r"gone\.wav cannot be read as audio: it does not"):
            read_samples(cut)
