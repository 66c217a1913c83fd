"""Submissions that came from anyone: read within limits, and refused or accused in one sentence."""

import io
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from auscult.errors import UserError
from auscult.results.superb import check as superb_check
from auscult.results.superb.check import check_submission

KS = "predict/ks_public/predict.txt"
QBE = "predict/qbe_public/benchmark.stdlist.xml"
SD = "predict/sd_public/scoring/predictions/mix.h5"
Run = Callable[..., tuple[int, str, str]]


def zipped(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def problems(path: Path) -> list[str]:
    return [problem for report in check_submission(path) for problem in report.problems]


def change(path: Path, field: str, value: bytes) -> None:
    """Overwrite a field of the first entry, in its own header and in the directory."""
    data = bytearray(path.read_bytes())
    places = {"flags": (6, 8), "method": (8, 10), "size": (22, 24)}[field]
    for start, place in ((0, places[0]), (data.rindex(b"PK\x01\x02"), places[1])):
        data[start + place : start + place + len(value)] = value
    path.write_bytes(data)


@pytest.mark.parametrize("name", [KS, QBE, SD, "predict/other.bin"])
def test_a_bomb_is_refused_before_it_is_unpacked(name: str, tmp_path: Path) -> None:
    size = 3 * 2**30
    packer = zlib.compressobj(9, wbits=-15)
    zeros = bytes(2**20)
    content = b"".join(packer.compress(zeros) for _ in range(8)) + packer.flush()
    path = zipped(tmp_path / "bomb.zip", {name: content}, zipfile.ZIP_STORED)
    change(path, "method", struct.pack("<H", 8))
    change(path, "size", struct.pack("<I", size))
    tracemalloc.start()
    with pytest.raises(UserError, match="when unpacked, and no submission has more"):
        check_submission(path)
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()


def test_an_entry_is_unpacked_no_further_than_it_says(tmp_path: Path) -> None:
    path = zipped(tmp_path / "liar.zip", {KS: bytes(2**24)})
    change(path, "size", struct.pack("<I", 1000))
    with pytest.raises(UserError, match="is damaged at"):
        check_submission(path)


@pytest.mark.parametrize(("name", "limit"), [(KS, 2**23), (SD, 2**22)])
def test_a_part_has_a_limit_of_its_own(name: str, limit: int, tmp_path: Path) -> None:
    path = zipped(tmp_path / "large.zip", {name: bytes(limit + 1)})
    with pytest.raises(UserError, match=f"{limit + 1:,} bytes when unpacked"):
        check_submission(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 6, 9, 98])
def test_other_compression_is_named(method: int, tmp_path: Path) -> None:
    made = method if method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA) else zipfile.ZIP_STORED
    path = zipped(tmp_path / "other.zip", {KS: b"yes-a.wav yes\n"}, made)
    change(path, "method", struct.pack("<H", method))
    with pytest.raises(UserError, match=rf"predict.txt is compressed by method {method}; expected"):
        check_submission(path)


def test_a_password_is_named(tmp_path: Path) -> None:
    path = zipped(tmp_path / "secret.zip", {KS: b"yes-a.wav yes\n"})
    change(path, "flags", struct.pack("<H", 1))
    with pytest.raises(UserError, match="is encrypted; write the zip without a password"):
        check_submission(path)


def test_entries_that_share_bytes_are_refused(tmp_path: Path) -> None:
    """So are bombs made, of which a few megabytes hold terabytes."""
    path = zipped(tmp_path / "a.zip", {KS: bytes(1000), "predict/b": bytes(1000)})
    data = bytearray(path.read_bytes())
    second = data.rindex(b"PK\x01\x02")
    data[second + 42 : second + 46] = struct.pack("<I", 0)  # where its header is
    path.write_bytes(data)
    with pytest.raises(UserError, match="share bytes"):
        check_submission(path)


def test_entries_without_number_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auscult.results.superb.archive.MOST_ENTRIES", 3)
    path = zipped(tmp_path / "a.zip", {f"predict/{i}": b"" for i in range(4)})
    with pytest.raises(UserError, match="more than 3 entries"):
        check_submission(path)


@pytest.mark.parametrize("name", ["predict/../../x", "/etc/x", "C:\\x", "..\\x", "predict/.."])
def test_names_that_lead_out_are_accused(name: str, tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {KS: b"yes-a.wav yes\n", name: b""})
    assert f"{name} leads out of the zip." in problems(path)


def test_links_are_accused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    entry = zipfile.ZipInfo("predict/ks_public/link")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    assert "predict/ks_public/link is a link." in problems(path)


def test_a_folder_a_pipe_and_nothing_are_no_zip(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(UserError, match="is no file; expected a zip"):
            check_submission(path)
    for name in ("none.zip", "a\0b"):
        with pytest.raises(UserError, match="cannot be read or written"):
            check_submission(tmp_path / name)


def hdf5(fill: Callable[[Any], object]) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        fill(file)
    return buffer.getvalue()


def external_numbers(file: Any) -> None:
    file.create_dataset("T_hat", (2, 2), "f4", external=[("/etc/passwd", 0, 16)])


def virtual_numbers(file: Any) -> None:
    layout = h5py.VirtualLayout((2, 2), "f4")
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "T_hat", (2, 2))
    file.create_virtual_dataset("T_hat", layout)


HOSTILE: dict[str, Callable[[Any], object]] = {
    "a link to another file": lambda f: f.__setitem__("T_hat", h5py.ExternalLink("/x.h5", "/a")),
    "a link to itself": lambda f: f.__setitem__("T_hat", h5py.SoftLink("/T_hat")),
    "numbers of another file": external_numbers,
    "numbers of other arrays": virtual_numbers,
    "a shape of petabytes": lambda f: f.create_dataset("T_hat", (10**9, 10**6), "f4", chunks=True),
    "a group": lambda f: f.create_group("T_hat"),
    "text": lambda f: f.create_dataset("T_hat", data=["a", "b"]),
    "one number": lambda f: f.create_dataset("T_hat", data=h5py.Empty("f4")),
    "a type": lambda f: f.__setitem__("T_hat", np.dtype("f4")),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hdf5_is_read_of_the_file_alone(kind: str, tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {SD: hdf5(HOSTILE[kind])})
    assert "1 recordings are not HDF5 files with numbers in T_hat, the first mix." in problems(path)


def detections(body: str, start: str = "") -> bytes:
    return f"<?xml version='1.0'?>{start}<stdlist>{body}</stdlist>".encode()


def test_xml_without_entities(tmp_path: Path) -> None:
    laughs = "".join(f"<!ENTITY l{i + 1} '{f'&l{i};' * 10}'>" for i in range(9))
    start = f"<!DOCTYPE stdlist [<!ENTITY l0 'ha'>{laughs}]>"
    path = zipped(tmp_path / "a.zip", {QBE: detections("&l9;", start)})
    assert "benchmark.stdlist.xml is missing or not XML (a document type" in problems(path)[0]


@pytest.mark.parametrize("name", ["zlib_codec", "rot13", "idna", "utf-7", "cp037", "nonsense"])
def test_xml_may_not_name_any_encoding(name: str, tmp_path: Path) -> None:
    content = f"<?xml version='1.0' encoding='{name}'?><stdlist/>".encode()
    path = zipped(tmp_path / "a.zip", {QBE: content})
    assert "benchmark.stdlist.xml is missing or not XML" in problems(path)[0]


def test_tags_in_each_other_are_not_followed(tmp_path: Path) -> None:
    """A thousand times what the zip has in bytes was taken in memory."""
    path = zipped(tmp_path / "a.zip", {QBE: b"<a>" * 1000})
    assert "tags in each other more than 16 deep" in problems(path)[0]


def test_queries_without_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superb_check, "MOST_QUERIES", 9)
    lists = "".join(f"<detected_termlist termid='{i}'/>" for i in range(10))
    path = zipped(tmp_path / "a.zip", {QBE: detections(lists)})
    assert "more than 9 queries" in problems(path)[0]


@pytest.mark.parametrize("line", ["\0" * 99_999, f"{'n' * 99_999} yes\n", f"a {'v' * 99_999}\n"])
def test_sentences_stay_short(line: str, tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"predict/ks_public/predict.txt": line.encode()})
    assert all(len(sentence) < 300 for sentence in problems(path))


def test_a_line_ends_where_files_end_it(tmp_path: Path) -> None:
    line = "yes-a.wav yes\u2028yes-b.wav no\n"
    path = zipped(tmp_path / "a.zip", {"predict/ks_public/predict.txt": line.encode()})
    assert problems(path)[0].startswith("1 items have no value that the task knows")


def test_a_tag_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superb_check, "LONGEST_TAG", 2**17)
    path = zipped(tmp_path / "a.zip", {QBE: detections(f"<term file='{'a' * 2**18}'/>")})
    assert "a tag of more than" in problems(path)[0]


def test_detections_without_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superb_check, "MOST_DETECTIONS", 9)
    terms = "".join(f"<term file='d{i}' score='1'/>" for i in range(10))
    body = f"<detected_termlist termid='q'>{terms}</detected_termlist>"
    path = zipped(tmp_path / "a.zip", {QBE: detections(body)})
    assert "more than 9 detections" in problems(path)[0]


def test_a_detection_twice_and_one_outside_of_a_list(tmp_path: Path) -> None:
    terms = "<term file='d1' score='1'/>" * 3 + "<term file='d2' score='x'/>"
    body = f"<detected_termlist termid='q'>{terms}</detected_termlist><term file='d' score='2'/>"
    found = problems(zipped(tmp_path / "a.zip", {QBE: detections(body)}))
    assert found == [
        "1 scores are not finite numbers, the first d2.",
        "1 names stand there more than once, and the last line is scored, the first q_d1.",
    ]


def test_a_frame_shift_of_ten_thousand_digits(tmp_path: Path) -> None:
    files = {SD: b"", "predict/sd_public/frame_shift": b"9" * 10_000}
    found = [p for p in problems(zipped(tmp_path / "a.zip", files)) if "frame_shift" in p]
    assert len(found) == 1 and len(found[0]) < 200


def test_hostile_names_reach_no_terminal(run: Run, tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {KS: b"a\x1b[31m no\n", "predict/\x1b]0;x\x07\u202e": b""})
    status, out, err = run("superb", "check", path)
    assert status == 1 and "\x1b" not in out + err and "\u202e" not in out + err
    assert r"predict/\x1b]0;x\x07\u202e belongs to no task" in out
