"""A submission to SUPERB's leaderboard: a zip with the predictions of each task.

The layout is that of s3prl's ``submit.py``, the formats are what its experts write and the server
reads: ``name text`` on a line for what is transcribed or classified, and for intents
``name,action,object,location``; ``name_name score`` for trials of speaker verification; a list of
detections in XML for query by example; for diarisation an HDF5 file a recording with the speakers'
probabilities ``T_hat`` (frame, speaker) and, beside them, the samples between two frames.
"""

import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from auscult.errors import UserError
from auscult.whole_file import whole_file

from .official import BY_CODE, OFFICIAL

FILES = {  # of each part that is scored from predictions, in the order of the layout's own list
    part: row.file for row in BY_CODE.values() for part, _ in row.parts()
}
CODES = {task: row.code for task, row in OFFICIAL.items()}  # task -> what its folder begins with
SLOTS = ("action", "object", "location")
DETECTED = 2.0  # standard deviations above a query's mean score, as s3prl decides


@dataclass(frozen=True, slots=True)
class Part:
    """The predictions of one task."""

    items: Sequence[Mapping[str, Any]]  # each with id and prediction
    stride: int = 0  # samples between two frames, for diarisation
    slots: tuple[str, ...] = ()  # the order of an intent's slots in a prediction
    answer: str = "prediction"  # which answer of an item to take


def has_official_slots(classes: Iterable[str]) -> bool:
    """Say whether what an intent head may answer, ``SLOT=VALUE``, is of the official slots."""
    return {name.partition("=")[0] for name in classes} == set(SLOTS)


def folder_of(code: str) -> str:
    """Return a task's folder in the zip."""
    return f"predict/{code}_public"


def official_name(code: str, utterance: str) -> str:
    """Return what SUPERB calls an utterance that our readers of its corpora call so."""
    if code == "ks":  # the folder is part of it: words share file names
        return f"{utterance.removeprefix('test-')}.wav"
    return utterance


def item_name(code: str, item: Mapping[str, Any]) -> str:
    """Return the name that an item of predictions has in a submission."""
    if code in ("sv", "qbe"):
        return "_".join(official_name(code, name) for name in _pair(item))
    return official_name(code, str(item["id"]))


def write_submission(path: Path, parts: Mapping[str, Part]) -> None:
    """Write a zip; it appears under its name when all of it is on the disk.

    Args:
        path: Of the zip.
        parts: By code, the keys of :data:`FILES`.

    Raises:
        UserError: A prediction that the task's format cannot hold, or h5py is missing.
    """
    with (
        whole_file(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for code, part in parts.items():
            try:
                for name, content in _files(code, part):
                    archive.writestr(_entry(f"{folder_of(code)}/{name}"), content)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise UserError(
                    f"The {code} predictions are not such as its task makes ({error!r}); run the "
                    "task again."
                ) from error


def import_h5py() -> Any:
    """Return h5py.

    Raises:
        UserError: It is not installed.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise UserError(
            "SUPERB wants diarisation in HDF5 files, for which h5py is missing: "
            "pip install 'auscult[superb]'."
        ) from error
    return h5py


def _entry(name: str) -> zipfile.ZipInfo:
    """Return an entry without the time of day, so that equal predictions give equal bytes."""
    entry = zipfile.ZipInfo(name)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry


def _files(code: str, part: Part) -> Iterable[tuple[str, bytes]]:
    """Yield name and content of the files of a task."""
    if code == "sd":
        yield "frame_shift", f"{part.stride}\n".encode()
        for item in part.items:
            yield f"{FILES[code]}/{_name(code, item)}.h5", _hdf5(item)
    elif code == "qbe":
        yield FILES[code], _detections(part.items)
    else:
        yield FILES[code], "".join(_line(code, item, part) for item in part.items).encode()


def _line(code: str, item: Mapping[str, Any], part: Part) -> str:
    found = item[part.answer]
    name = _name(code, item)
    if code == "ic":
        values = dict(zip(part.slots, found, strict=True))
        if set(values) != set(SLOTS):
            raise UserError(
                f"A submission's intents have the slots {', '.join(SLOTS)}, but these have "
                f"{', '.join(values) or 'none'}; run intent_classification on Fluent Speech "
                "Commands."
            )
        return ",".join([name, *(str(values[slot]) for slot in SLOTS)]) + "\n"
    text = found if isinstance(found, str) else str(found) if code == "sv" else " ".join(found)
    if "\n" in text or "\r" in text:
        raise UserError(f"The {code} prediction of {name} has a line break; submissions cannot.")
    return f"{name} {text}".rstrip() + "\n"


def _name(code: str, item: Mapping[str, Any]) -> str:
    """Return an item's name, which must survive the server's cut at the first space or comma."""
    name = item_name(code, item)
    if not name or any(sign.isspace() or sign in ",/\\" for sign in name):
        raise UserError(
            f"A submission cannot name {name!r} ({code}): names are without spaces, commas and "
            "slashes."
        )
    return name


def _pair(item: Mapping[str, Any]) -> tuple[str, str]:
    """Return the two utterances that an item is about."""
    first, second = item["id"] if not isinstance(item["id"], str) else item["id"].split(" ")
    return str(first), str(second)


def _hdf5(item: Mapping[str, Any]) -> bytes:
    """Return the probabilities of the speakers, (frame, speaker), as an HDF5 file."""
    buffer = io.BytesIO()
    with import_h5py().File(buffer, "w", track_order=False) as file:
        file.create_dataset("T_hat", data=np.asarray(item["prediction"], dtype=np.float32))
    return buffer.getvalue()


def _detections(items: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the scores of all documents for each query as NIST's list of detections."""
    names = {"termlist_filename": FILES["qbe"], "indexing_time": "1.00", "language": "english"}
    root = ElementTree.Element("stdlist", names, index_size="1", system_id="benchmark")
    by_query: dict[str, list[tuple[str, float]]] = {}
    for item in items:
        query, document = _pair(item)
        by_query.setdefault(query, []).append((document, float(item["prediction"])))
    for query, found in by_query.items():
        scores = np.array([score for _document, score in found])
        scores = (scores - scores.mean()) / max(float(scores.std()), 1e-9)
        terms = ElementTree.SubElement(
            root, "detected_termlist", termid=query, term_search_time="1.0", oov_term_count="1"
        )
        for (document, _score), score in zip(found, scores.tolist(), strict=True):
            place = {"file": document, "channel": "1", "tbeg": "0.000", "dur": "0.00"}
            decision = "YES" if score > DETECTED else "NO"
            ElementTree.SubElement(terms, "term", place, score=f"{score:.4f}", decision=decision)
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True))
