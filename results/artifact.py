"""Artifacts as rows of the store: their arrays as .npz bytes, and what each kind must hold.

The bytes may be a stranger's. They are unpacked within a limit, without pickle, and held to what
figures and tables read of them.
"""

import io
import math
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from auscult.record import Artifact, Provenance
from auscult.value import check_mapping, shorten

from .row import explained, from_json

LIMIT = 2**26  # bytes of all arrays of a store, beside UNPACKED times those that they are packed in
UNPACKED = 64
MOST_HEADS = 2048  # of one map; encoders of 2 billion parameters have 768
DIMENSIONS = {  # kind -> array -> number of dimensions
    "attention_divergence": {
        **{"all_pairs": 2, "block_of": 1, "head_of": 1},
        **{"same_head": 3, "mean": 2},
    },
    "layer_weights": {"weights": 1},
    "accuracy_difference": {"value": 0, "interval": 1, "chosen_layers": 1},
}
META: dict[str, dict[str, type]] = {  # kind -> what stands beside the arrays
    "attention_divergence": {"unit": str},
    "layer_weights": {},
    "accuracy_difference": {
        **{"over": str, "over_sha256": str, "task_version": int, "probe": str, "metric": str},
        **{"split": str, "layers": list, "seeds": list, "config": dict},
    },
}


def artifact_row(artifact: Artifact) -> dict[str, Any]:
    """Return an artifact as a row of the table, without its key."""
    flat = {f.name: getattr(artifact, f.name) for f in fields(Artifact) if f.name != "provenance"}
    flat |= {f.name: getattr(artifact.provenance, f.name) for f in fields(Provenance)}
    flat |= {name: dict(flat[name]) for name in ("meta", "libraries")}
    return flat | {"arrays": _pack(artifact.arrays)}


def read_artifacts(rows: Iterable[Mapping[str, Any]], store: str) -> list[Artifact]:
    """Return the artifacts that rows of the table hold.

    Args:
        rows: By column.
        store: What messages call the store.

    Raises:
        UserError: A row is none of ours, or all would take far more memory than the store.
    """
    found, left = [], LIMIT
    for row in rows:
        with explained(f"{store}, table auscult_artifacts, row {shorten(row['key'])}"):
            artifact = _read(row, left)
        packed = UNPACKED * len(row["arrays"])
        left -= max(0, sum(array.nbytes for array in artifact.arrays.values()) - packed)
        found.append(artifact)
    return found


def _read(row: Mapping[str, Any], limit: int) -> Artifact:
    values = {name: value for name, value in row.items() if name != "key"}
    for name in ("libraries", "meta"):
        values[name] = from_json(name, values[name])
        check_mapping(name, values[name], of_text=name == "libraries")
    arrays = _unpack(values.pop("arrays"), limit)
    for name, value in values.items():
        if name not in ("libraries", "meta") and not isinstance(value, str):
            raise ValueError(f"{name}: expected text, got {shorten(value)}")
    run = {f.name: values.pop(f.name) for f in fields(Provenance)}
    return Artifact(**values, arrays=arrays, provenance=Provenance(**run))


def check_artifacts(artifacts: Iterable[Artifact]) -> None:
    """Hold artifacts to what figures and tables read of them; kinds that we do not know pass.

    Raises:
        UserError: Something is missing, or is not what its kind must have.
    """
    for artifact in artifacts:
        with explained(f"{artifact.kind} of {artifact.upstream}, row {artifact.key}"):
            _check(artifact)


def _pack(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    for name, array in arrays.items():
        if np.asarray(array).dtype.hasobject:
            raise ValueError(f"Artifact.arrays[{name!r}]: expected numbers or text, got objects.")
    named: dict[str, Any] = dict(arrays)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **named)
    return buffer.getvalue()


def _unpack(blob: Any, limit: int) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file's bytes.

    Args:
        blob: The bytes.
        limit: How many more the arrays may have than UNPACKED times as many.

    Raises:
        ValueError: Torn, or larger than that.
    """
    if not isinstance(blob, bytes):
        raise ValueError(f"arrays: expected the bytes of an .npz file, got {shorten(blob)}")
    try:
        with zipfile.ZipFile(io.BytesIO(blob)) as archive:
            most = limit + UNPACKED * len(blob)
            if sum(entry.file_size for entry in archive.infolist()) > most:
                raise ValueError(f"more than {most:,} bytes when unpacked")
            return {
                entry.filename.removesuffix(".npy"): _array(archive.read(entry))
                for entry in archive.infolist()
            }
    except Exception as error:  # zipfile and numpy raise anything where bytes are torn
        raise ValueError(f"arrays: expected an .npz file ({shorten(str(error))})") from error


def _array(content: bytes) -> NDArray[Any]:
    """Return the array of an .npy file whose header fits its length."""
    file = io.BytesIO(content)
    read_header = {1: npy.read_array_header_1_0, 2: npy.read_array_header_2_0}
    version = npy.read_magic(file)[0]
    if version not in read_header:
        raise ValueError(f"an array in version {version} of the format")
    shape, fortran, dtype = read_header[version](file)
    body = content[file.tell() :]
    if dtype.hasobject or dtype.names or math.prod(shape) * dtype.itemsize != len(body):
        raise ValueError(
            f"an array of shape {shorten(shape)} and type {dtype} in {len(body)} bytes"
        )
    if dtype.itemsize == 0 and math.prod(shape) > 1:
        raise ValueError("an array of elements without size")
    flat: NDArray[Any] = np.frombuffer(body, dtype).copy()
    found: NDArray[Any] = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
    return found


def _check(artifact: Artifact) -> None:
    """Raise ValueError where an artifact is not as its kind must be."""
    arrays, meta = artifact.arrays, artifact.meta
    for name, dimensions in DIMENSIONS.get(artifact.kind, {}).items():
        array = arrays.get(name)
        if (
            array is None
            or array.ndim != dimensions
            or not array.size
            or array.dtype.kind not in "iuf"
        ):
            raise ValueError(f"arrays: expected numbers in {dimensions} dimensions as {name}")
    for name, kind in {**META.get(artifact.kind, {}), **_given(meta)}.items():
        if type(meta.get(name)) is not kind:
            raise ValueError(
                f"meta: expected {kind.__name__} as {name}, got {shorten(meta.get(name))}"
            )
    if artifact.kind == "attention_divergence":
        _check_maps(arrays)
    if artifact.kind == "accuracy_difference":
        _check_difference(arrays, meta)


def _given(meta: Mapping[str, Any]) -> dict[str, type]:
    return {"num_utterances": int} if "num_utterances" in meta else {}


def _check_maps(arrays: Mapping[str, NDArray[Any]]) -> None:
    num_items, num_blocks = len(arrays["block_of"]), len(np.unique(arrays["block_of"]))
    if max(num_items, len(arrays["same_head"])) > MOST_HEADS:
        raise ValueError(f"arrays: expected at most {MOST_HEADS:,} heads")
    shapes = {"head_of": (num_items,), "all_pairs": (num_items, num_items)}
    shapes["mean"] = (num_blocks, num_blocks)
    shapes["same_head"] = (len(arrays["same_head"]), num_blocks, num_blocks)
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(f"arrays: expected {name} of shape {shape}, got {arrays[name].shape}")
    if any(arrays[name].dtype.kind == "f" for name in ("block_of", "head_of")):
        raise ValueError("arrays: expected whole numbers as block_of and head_of")


def _check_difference(arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> None:
    for name in ("interval", "chosen_layers"):
        if arrays[name].shape != (2,):
            raise ValueError(f"arrays: expected two numbers as {name}, got {arrays[name].shape}")
    if not (np.isfinite(arrays["value"]) and np.isfinite(arrays["interval"]).all()):
        raise ValueError("arrays: expected a finite difference")
    if arrays["chosen_layers"].dtype.kind == "f":
        raise ValueError("arrays: expected whole numbers as chosen_layers")
    for name in ("layers", "seeds"):
        if not meta[name] or not all(type(number) is int for number in meta[name]):
            raise ValueError(f"meta: expected whole numbers as {name}, got {shorten(meta[name])}")
