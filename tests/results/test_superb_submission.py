"""Submissions to SUPERB: what is written is right, and what is broken is named in one sentence."""

import io
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from auscult.errors import UserError
from auscult.results.superb.check import COUNTS, Expected, check_submission, names_in_list
from auscult.results.superb.submission import FILES, Part, write_submission

PAIR = ["id10270-x6uYqmx31kE-00001", "id10270-8jEAjG6SegY-00008"]
OTHER = ["id10270-x6uYqmx31kE-00001", "id10300-ize_eiCFEg0-00003"]
INTENTS = ("object", "action", "location")  # not the order of the file


def _items(**answers: Any) -> list[dict[str, Any]]:
    return [{"id": name.replace("__", "-"), "prediction": found} for name, found in answers.items()]


def _parts() -> dict[str, Part]:
    probabilities = [[0.1, 0.9]] * 50  # one second at 320 samples
    emotions = _items(Ses01F_impro01_F000="neu", Ses01F_impro01_F001="ang")
    return {
        "pr": Part(_items(utt__1="HH AH0 L OW1", utt__2="")),
        "sid": Part(_items(id10001__a__1="id10001", id10002__a__1="id11251")),
        "ks": Part(
            [
                {"id": "test-yes-0a7c2a8d_nohash_0", "prediction": "yes"},
                {"id": "test-no-0a7c2a8d_nohash_0", "prediction": "_unknown_"},
            ]
        ),
        "ic": Part(_items(a1=["lights", "activate", "kitchen"]), slots=INTENTS),
        **{f"er_fold{fold}": Part(emotions) for fold in range(1, 6)},
        "asr": Part(_items(utt__1="HELLO", utt__2="")),
        "asr_lm": Part(
            [{"id": "utt-1", "prediction": "HALLO", "prediction_lm": "HELLO"}],
            answer="prediction_lm",
        ),
        "qbe": Part(
            [
                {"id": [query, document], "prediction": score}
                for query, scores in {"q1": (0.5, 0.1, 0.0), "q2": (-3.0, -1.0, -2.0)}.items()
                for document, score in zip(("d1", "d2", "d3"), scores, strict=True)
            ]
        ),
        "sf": Part(_items(utt__1="PLAY B-artist ABBA E-artist")),
        "sv": Part([{"id": PAIR, "prediction": 0.75}, {"id": OTHER, "prediction": -0.5}]),
        "sd": Part(_items(mix__1=probabilities, mix__2=probabilities), stride=320),
    }


EXPECTED: dict[str, Expected] = {
    "pr": {"utt-1": 1.0, "utt-2": 1.0},
    "sid": {"id10001-a-1": 1.0, "id10002-a-1": 1.0},
    "ks": {"yes-0a7c2a8d_nohash_0.wav": 1.0, "no-0a7c2a8d_nohash_0.wav": 1.0},
    "ic": {"a1": 1.0},
    **{
        f"er_fold{f}": {"Ses01F_impro01_F000": 1.0, "Ses01F_impro01_F001": 1.0} for f in range(1, 6)
    },
    "asr": {"utt-1": 1.0, "utt-2": 1.0},
    "asr_lm": {"utt-1": None},
    "qbe": {
        f"{query}_{document}": None for query in ("q1", "q2") for document in ("d1", "d2", "d3")
    },
    "sf": {"utt-1": None},
    "sv": {"_".join(PAIR): None, "_".join(OTHER): None},
    "sd": {"mix-1": 1.0, "mix-2": 1.02},
}


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("submission") / "predict.zip"
    write_submission(path, _parts())
    return path


def test_a_good_submission_has_the_layout_and_no_problem(good: Path) -> None:
    reports = check_submission(good, EXPECTED)
    assert [report.code for report in reports] == list(FILES)
    assert {r.code: r.problems for r in reports if r.problems} == {}
    assert all(report.by_name and report.num_items == report.num_expected for report in reports)
    with zipfile.ZipFile(good) as archive:
        text = {name: archive.read(name).decode("latin-1") for name in archive.namelist()}
    assert text["predict/pr_public/predict.ark"] == "utt-1 HH AH0 L OW1\nutt-2\n"
    assert text["predict/ks_public/predict.txt"].splitlines()[1].endswith("_0.wav _unknown_")
    assert text["predict/ic_public/predict.csv"] == "a1,activate,lights,kitchen\n"
    assert text["predict/er_fold3_public/predict.txt"].startswith("Ses01F_impro01_F000 neu\n")
    assert text["predict/asr_lm_public/predict.ark"] == "utt-1 HELLO\n"
    assert text["predict/sf_public/predict.ark"] == "utt-1 PLAY B-artist ABBA E-artist\n"
    assert text["predict/sv_public/predict.txt"].splitlines()[0] == f"{'_'.join(PAIR)} 0.75"
    assert text["predict/sd_public/frame_shift"] == "320\n"
    recording = "predict/sd_public/scoring/predictions/mix-1.h5"
    with h5py.File(io.BytesIO(text[recording].encode("latin-1"))) as file:
        dataset = file["T_hat"]
        assert isinstance(dataset, h5py.Dataset)
        np.testing.assert_allclose(dataset[:], [[0.1, 0.9]] * 50, rtol=1e-6)
    detections = text["predict/qbe_public/benchmark.stdlist.xml"]
    assert detections.count("<detected_termlist ") == 2 and detections.count("<term ") == 6
    # scores of each query have mean 0 and standard deviation 1, as s3prl writes them
    assert 'file="d1" channel="1" tbeg="0.000" dur="0.00" score="1.3887"' in detections
    assert text == _read(good)  # the helper below reads the same


def test_equal_predictions_give_equal_bytes(good: Path, tmp_path: Path) -> None:
    parts = {code: part for code, part in _parts().items() if code != "sd"}
    for name in ("one.zip", "two.zip"):
        write_submission(tmp_path / name, parts)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def _read(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name).decode("latin-1") for name in archive.namelist()}


def _hdf5(values: Any, name: str = "T_hat") -> str:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset(name, data=np.asarray(values, dtype=np.float32))
    return buffer.getvalue().decode("latin-1")


def _without(name: str) -> Callable[[dict[str, str]], object]:
    return lambda files: [files.pop(key) for key in list(files) if key.startswith(name)]


def _with(name: str, content: str) -> Callable[[dict[str, str]], object]:
    return lambda files: files.update({name: content})


def _edit(name: str, old: str, new: str) -> Callable[[dict[str, str]], object]:
    def change(files: dict[str, str]) -> None:
        assert old in files[name]
        files[name] = files[name].replace(old, new)

    return change


KS = "predict/ks_public/predict.txt"
SV = "predict/sv_public/predict.txt"
SD = "predict/sd_public"
QBE = "predict/qbe_public/benchmark.stdlist.xml"
YES, NO = "yes-0a7c2a8d_nohash_0.wav", "no-0a7c2a8d_nohash_0.wav"
H5 = f"{SD}/scoring/predictions/mix-2.h5"

BROKEN: dict[str, tuple[Callable[[dict[str, str]], object], str, str]] = {
    "missing utterance": (
        _edit(KS, f"{NO} _unknown_\n", ""),
        "ks",
        f"1 of 2 are missing, and only the others are scored, the first {NO}.",
    ),
    "file names without their word": (
        lambda files: files.update({KS: files[KS].replace("yes-", "").replace("no-", "")}),
        "ks",
        "1 names stand there more than once, and the last line is scored, the first "
        "0a7c2a8d_nohash_0.wav; words share file names, which is why a name begins with its word.",
    ),
    "duplicate": (
        _edit(SV, "0.75\n", f"0.75\n{'_'.join(PAIR)} 0.1\n"),
        "sv",
        "1 names stand there more than once, and the last line is scored, the first "
        f"{'_'.join(PAIR)}.",
    ),
    "unknown label": (
        _edit(KS, "_unknown_", "maybe"),
        "ks",
        f"1 items have no value that the task knows, the first 'maybe' of {NO}.",
    ),
    "label of another slot": (
        _edit("predict/ic_public/predict.csv", "activate,lights", "lights,activate"),
        "ic",
        "1 items have no value that the task knows, the first 'lights,activate,kitchen' of a1.",
    ),
    "speaker that VoxCeleb1 has not": (
        _edit("predict/sid_public/predict.txt", "id11251", "id11252"),
        "sid",
        "1 items have no value that the task knows, the first 'id11252' of id10002-a-1.",
    ),
    "emotion that is not scored": (
        _edit("predict/er_fold2_public/predict.txt", "ang", "exc"),
        "er_fold2",
        "1 items have no value that the task knows, the first 'exc' of Ses01F_impro01_F001.",
    ),
    "transcript in lower case": (
        _edit("predict/asr_public/predict.ark", "HELLO", "hello"),
        "asr",
        "1 items have no value that the task knows, the first 'hello' of utt-1.",
    ),
    "something that is no phone": (
        _edit("predict/pr_public/predict.ark", "OW1", "ow1"),
        "pr",
        "1 items have no value that the task knows, the first 'HH AH0 L ow1' of utt-1.",
    ),
    "NaN": (
        _edit(SV, "0.75", "nan"),
        "sv",
        f"1 items have no value that the task knows, the first 'nan' of {'_'.join(PAIR)}.",
    ),
    "no value": (
        _edit(SV, " 0.75", ""),
        "sv",
        f"1 items have no value that the task knows, the first '' of {'_'.join(PAIR)}.",
    ),
    "missing fold": (
        _without("predict/er_fold4_public"),
        "er_fold4",
        "predict/er_fold4_public/ is missing, and emotions are scored with all five folds only.",
    ),
    "partial file": (
        lambda files: files.update({KS: files[KS][:-4]}),
        "ks",
        f"the last line has no end ({NO}): the file may have been cut short.",
    ),
    "name that is not in the test set": (
        _edit("predict/sf_public/predict.ark", "utt-1", "utt-9"),
        "sf",
        "1 names are not in the test set, and the server gives no score at all, the first utt-9.",
    ),
    "empty line": (
        _edit("predict/sf_public/predict.ark", "utt-1", "\nutt-1"),
        "sf",
        "1 lines are empty or have no name.",
    ),
    "file of another name": (
        lambda files: files.update({f"{KS}.bak": files.pop(KS)}),
        "ks",
        "predict.txt is missing.",
    ),
    "not text": (
        _with("predict/sf_public/predict.ark", "utt-1 \xff\xfe\n"),
        "sf",
        "predict.ark is not UTF-8 text (invalid start byte).",
    ),
    "missing frame shift": (
        _without(f"{SD}/frame_shift"),
        "sd",
        "frame_shift is missing, and the server takes one that may not be yours.",
    ),
    "frame shift in seconds": (
        _with(f"{SD}/frame_shift", "0.02"),
        "sd",
        "frame_shift is '0.02', not a number of samples such as 320.",
    ),
    "frame shift of another encoder": (
        _with(f"{SD}/frame_shift", "160\n"),
        "sd",
        "2 recordings have other lengths than their audio at a frame shift of 160 samples, the "
        "first mix-1.",
    ),
    "probability NaN": (
        _with(H5, _hdf5([[np.nan, 0.1]] * 50)),
        "sd",
        "1 recordings have a T_hat with NaN or infinity, the first mix-2.",
    ),
    "logits": (
        _with(H5, _hdf5([[-3.0, 4.0]] * 50)),
        "sd",
        "1 recordings have a T_hat that is not made of probabilities, the first mix-2.",
    ),
    "no speakers": (
        _with(H5, _hdf5([0.1] * 50)),
        "sd",
        "1 recordings have a T_hat that is not (frame, speaker), the first mix-2.",
    ),
    "another dataset": (
        _with(H5, _hdf5([[0.1, 0.2]] * 50, name="labels")),
        "sd",
        "1 recordings are not HDF5 files with numbers in T_hat, the first mix-2.",
    ),
    "HDF5 file cut short": (
        _with(H5, _hdf5([[0.1, 0.2]] * 50)[:100]),
        "sd",
        "1 recordings are not HDF5 files with numbers in T_hat, the first mix-2.",
    ),
    "missing recording": (
        _without(H5),
        "sd",
        "1 of 2 are missing, and only the others are scored, the first mix-2.",
    ),
    "no recording": (_without(f"{SD}/scoring"), "sd", "scoring/predictions/ has no .h5 file."),
    "detection NaN": (
        _edit(QBE, '"1.3887"', '"nan"'),
        "qbe",
        "1 scores are not finite numbers, the first d1.",
    ),
    "query with fewer documents": (
        _edit(QBE, 'file="d1" channel="1" tbeg="0.000" dur="0.00" score="1.3887"', 'file="d2"'),
        "qbe",
        "1 queries lack some of the 3 documents, the first q1.",
    ),
    "XML cut short": (
        lambda files: files.update({QBE: files[QBE][:300]}),
        "qbe",
        "benchmark.stdlist.xml is missing or not XML",
    ),
    "file that nobody reads": (
        _with("predict/notes.txt", "hello"),
        "zip",
        "predict/notes.txt belongs to no task that is scored from predictions.",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_broken_is_named(kind: str, good: Path, tmp_path: Path) -> None:
    change, code, sentence = BROKEN[kind]
    files = _read(good)
    change(files)
    path = _zip(tmp_path / "broken.zip", files)
    problems = {report.code: report.problems for report in check_submission(path, EXPECTED)}
    assert any(problem.startswith(sentence) for problem in problems[code]), problems[code]
    assert {name for name, ps in problems.items() if ps} == {code}  # and nothing else is accused


def _zip(path: Path, files: Mapping[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            try:
                archive.writestr(name, content.encode("latin-1"))
            except UnicodeEncodeError:
                archive.writestr(name, content)
    return path


def test_without_lists_the_official_counts_are_held(good: Path) -> None:
    problems = {report.code: report.problems for report in check_submission(good)}
    assert problems["ks"] == ("2 items, but the official test set has 3,081.",)
    assert problems["er_fold5"] == ("2 items, but the official test set has 1,241.",)
    assert problems["sf"] == problems["qbe"] == ()  # whose counts are not known here
    assert sum(COUNTS[f"er_fold{fold}"] for fold in range(1, 6)) == 5531


def test_what_a_list_names_and_the_zip_has_not(good: Path, tmp_path: Path) -> None:
    files = {k: v for k, v in _read(good).items() if "/sv_public/" not in k}
    (report,) = [
        r for r in check_submission(_zip(tmp_path / "a.zip", files), EXPECTED) if r.code == "sv"
    ]
    assert report.problems == ("predict/sv_public/ is missing.",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a zip", "is not a zip file"),
        (None, "is not a zip file"),  # cut short
    ],
)
def test_what_is_no_zip(good: Path, tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "predict.zip"
    path.write_bytes(good.read_bytes()[:500] if content is None else content)
    with pytest.raises(UserError, match=message):
        check_submission(path)


def test_a_damaged_zip_and_one_without_its_folder(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "predict.zip"
    shutil.copy(good, path)
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF  # in the first file
    path.write_bytes(data)
    with pytest.raises(UserError, match="is damaged at|is not a zip"):
        check_submission(path)
    with pytest.raises(UserError, match="no folder predict"):
        check_submission(_zip(tmp_path / "flat.zip", {"ks_public/predict.txt": "a b\n"}))
    twice = tmp_path / "twice.zip"
    with zipfile.ZipFile(twice, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        for _ in range(2):
            archive.writestr(KS, f"{YES} yes\n")
    assert "the zip has two entries predict/ks_public/predict.txt." in {
        problem for report in check_submission(twice) for problem in report.problems
    }


def test_official_lists_are_read_as_they_are() -> None:
    trials = (
        "1 id10270/x6uYqmx31kE/00001.wav id10270/8jEAjG6SegY/00008.wav\n"
        "0 id10270/x6uYqmx31kE/00001.wav id10300/ize_eiCFEg0/00003.wav\n"
    )
    assert list(names_in_list("sv", trials)) == ["_".join(PAIR), "_".join(OTHER)]
    assert list(names_in_list("sv", f"{'_'.join(PAIR)} 1\n")) == ["_".join(PAIR)]
    assert list(names_in_list("ks", f"{YES} yes\n\n{NO} no\n")) == [YES, NO]
    assert list(names_in_list("ic", "a1,change language,none,none\n")) == ["a1"]


@pytest.mark.parametrize(
    ("code", "part", "message"),
    [
        ("asr", Part([{"id": "two words", "prediction": "A"}]), "cannot name 'two words'"),
        ("asr", Part([{"id": "", "prediction": "A"}]), "cannot name ''"),
        ("asr", Part([{"id": "a", "prediction": "A\nB"}]), "has a line break"),
        (
            "ic",
            Part([{"id": "a", "prediction": ["latte"]}], slots=("drink",)),
            "but these have drink",
        ),
        *(
            (code, Part([item], slots=INTENTS), f"The {code} predictions are not such as its task")
            for code, item in (
                ("asr", {"prediction": "A"}),
                ("asr", {"id": "a", "prediction": 7}),
                ("ic", {"id": "a", "prediction": ["lights"]}),
                ("sv", {"id": "a", "prediction": 0.5}),
                ("sv", {"id": ["a", "b", "c"], "prediction": 0.5}),
                ("qbe", {"id": ["a", "b"], "prediction": "x"}),
                ("sd", {"id": "a", "prediction": ["x"]}),
                ("sd", {"id": "a", "prediction": [[1], [1, 2]]}),
            )
        ),
    ],
)
def test_what_cannot_be_written(code: str, part: Part, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        write_submission(tmp_path / "predict.zip", {code: part})
    assert list(tmp_path.iterdir()) == []  # neither a zip nor half of one


def test_h5py_is_asked_for_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(UserError, match=r"pip install 'auscult\[superb\]'"):
        write_submission(tmp_path / "predict.zip", {"sd": _parts()["sd"]})
