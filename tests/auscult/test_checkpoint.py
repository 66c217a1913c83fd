"""Reading strangers' checkpoints: nothing in them runs, and what they hold comes out right."""

import argparse
import builtins
import collections
import copy
import copyreg
import enum
import io
import os
import pathlib
import pickle
import random
import struct
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from auscult import unpickler
from auscult.checkpoint import Reference, Stub, read_checkpoint
from auscult.errors import UserError


@dataclass(frozen=True)
class Call:
    """Pickled as the call of a function, which may itself be the result of one."""

    function: Any
    args: tuple[Any, ...] = ()

    def __call__(self) -> None:
        """Look callable, as pickle asks of the function in a call."""

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.args


@dataclass(frozen=True)
class Persistent:
    """Pickled as a persistent id."""

    id: Any


class Pickler(pickle._Pickler):  # in Python: it checks less
    """Writes :class:`Persistent`."""

    def persistent_id(self, value: Any) -> Any:
        return value.id if isinstance(value, Persistent) else None


def dump(value: Any, protocol: int = 2) -> bytes:
    file = io.BytesIO()
    Pickler(file, protocol).dump(value)
    return file.getvalue()


def saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def write_archive(path: Path, program: bytes, members: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        for name, content in (members or {}).items():
            archive.writestr(f"archive/{name}", content)
    return path


def read_program(folder: Path, program: bytes, members: dict[str, bytes] | None = None) -> Any:
    return read_checkpoint(write_archive(folder / "x.pt", program, members))


def refusal(path: Path) -> str:
    """Return why ``path`` is not read, one sentence that begins with its name."""
    with pytest.raises(UserError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path} ") and message.endswith(".") and message.isprintable()
    return message.removeprefix(f"{path} ")


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A file that appears when something of a checkpoint runs."""
    return tmp_path / "something-ran"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """An importable module for classes that pickles name."""
    made = types.ModuleType("hostile.module")
    monkeypatch.setitem(sys.modules, "hostile", types.ModuleType("hostile"))
    monkeypatch.setitem(sys.modules, "hostile.module", made)
    return made


def arm(module: types.ModuleType, name: str, base: Any, **methods: Any) -> Any:
    """Put a class into ``module``, and return it."""
    kind = type(name, (base,), {"__module__": module.__name__, "__qualname__": name, **methods})
    setattr(module, name, kind)
    return kind


# --- what must not run -----------------------------------------------------------------------

CALLS: dict[str, Callable[[str], Any]] = {
    "system": lambda trap: Call(os.system, (f"touch {trap}",)),
    "eval": lambda trap: Call(eval, (f"open({trap!r}, 'w').close()",)),
    "exec": lambda trap: Call(exec, (f"open({trap!r}, 'w').close()",)),
    "open": lambda trap: Call(open, (trap, "w")),
    "getattr": lambda trap: Call(
        Call(getattr, (Call(builtins.__import__, ("os",)), "system")), (f"touch {trap}",)
    ),
    "deep in state": lambda trap: {"model": [argparse.Namespace(x=Call(open, (trap, "w")))]},
    "in the args of a tensor": lambda trap: Call(
        torch._utils._rebuild_tensor_v2, (Call(open, (trap, "w")), 0, (1,), (1,), False, None)
    ),
    "through torch": lambda trap: Call(
        torch.storage._load_from_bytes, (saved(Call(open, (trap, "w"))),)
    ),
    "by copyreg": lambda trap: Call(
        copyreg._reconstructor,  # type: ignore[attr-defined]
        (Call(open, (trap, "w")), object, None),
    ),
}

PROGRAMS: dict[str, Callable[[str], bytes]] = {
    "INST": lambda trap: f"(S'touch {trap}'\nios\nsystem\n.".encode(),
    "OBJ": lambda trap: f"(cos\nsystem\nS'touch {trap}'\no.".encode(),
    "STACK_GLOBAL": lambda trap: (
        b"\x80\x04\x8c\x02os\x8c\x06system" + b"\x93\x8c" + _short(f"touch {trap}") + b"\x85R."
    ),
    "dotted": lambda trap: (
        b"\x80\x04\x8c\x08builtins\x8c\x0deval.__call__"
        + b"\x93\x8c"
        + _short(f"open({trap!r}, 'w')")
        + b"\x85R."
    ),
}


def _short(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", CALLS)
def test_calls_do_not_run(name: str, protocol: int, tmp_path: Path, trap: Path) -> None:
    program = dump(CALLS[name](str(trap)), protocol)
    if name == "in the args of a tensor":
        write_archive(tmp_path / "x.pt", program)
        assert "a tensor that torch.save did not write" in refusal(tmp_path / "x.pt")
    else:
        read_program(tmp_path, program)
        if protocol >= 2:
            (tmp_path / "plain.pkl").write_bytes(program)
            read_checkpoint(tmp_path / "plain.pkl")
    assert not trap.exists()
    with (
        pytest.raises(Exception) if name in ("in the args of a tensor", "by copyreg") else _quiet()
    ):
        pickle.loads(program)
    assert trap.exists()  # so that the test would see it run


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_way_to_name_a_function_leads_to_it(name: str, tmp_path: Path, trap: Path) -> None:
    program = PROGRAMS[name](str(trap))
    found = read_program(tmp_path, program)
    assert isinstance(found, Stub) and len(found.stub_args) == 1
    assert not trap.exists()
    pickle.loads(program)
    assert trap.exists()


class _quiet:
    def __enter__(self) -> None:
        """Expect no exception."""

    def __exit__(self, *_: object) -> None:
        """Let exceptions through."""


@pytest.mark.parametrize("protocol", range(6))
def test_methods_of_named_classes_do_not_run(
    protocol: int, tmp_path: Path, trap: Path, module: types.ModuleType
) -> None:
    def spring(*_: Any, **__: Any) -> Any:
        trap.touch()
        return 1

    def new(kind: type, *_: Any, **__: Any) -> Any:
        spring()
        return object.__new__(kind)

    setstate = arm(module, "State", object, __setstate__=spring, __getstate__=lambda _: {"a": 1})
    items = arm(module, "Items", list, append=spring, extend=spring)
    entries = arm(module, "Entries", dict, __setitem__=spring)
    hashed = arm(module, "Hashed", object, __hash__=lambda _: spring())
    values: list[Any] = [setstate(), {hashed(): 1}, {hashed()}]
    if protocol >= 2:
        values += [items([1, 2]), entries({"a": 1}), arm(module, "New", object, __new__=new)()]
    if protocol >= 4:
        arguments: Any = {"__new__": new, "__getnewargs_ex__": lambda _: ((), {"a": 1})}
        values += [arm(module, "Keywords", object, **arguments)()]
    for value in values:
        program = dump(value, protocol)
        trap.unlink(missing_ok=True)
        read_program(tmp_path, program)
        assert not trap.exists()
        pickle.loads(program)
        assert trap.exists(), value


def test_the_whole_of_torch_save_is_guarded(
    tmp_path: Path, trap: Path, module: types.ModuleType
) -> None:
    value = {"model": {"w": torch.ones(2)}, "x": Call(open, (str(trap), "w"))}
    for new_format in (True, False):
        torch.save(value, tmp_path / "x.pt", _use_new_zipfile_serialization=new_format)
        found = read_checkpoint(tmp_path / "x.pt")
        assert not trap.exists()
        assert found["x"].stub_name in ("io.open", "_io.open")
        assert found["x"].stub_args == (str(trap), "w")
        torch.testing.assert_close(found["model"]["w"], torch.ones(2))


def test_names_cannot_be_altered_and_registered_codes_are_not_followed(
    tmp_path: Path, trap: Path
) -> None:
    for program, reason in (
        (b"cargparse\nNamespace\n}S'x'\nI1\nsb.", "sets attributes of a Reference"),
        (b"ctorch\nfloat32\n}S'x'\nI1\nsb.", "sets attributes of a dtype"),
        (b"\x80\x02\x82\x01.", "opcode EXT1"),
        (b"\x80\x02\x83\x01\x00.", "opcode EXT2"),
        (b"\x80\x02\x84\x01\x00\x00\x00.", "opcode EXT4"),
        (b"Phostile\n.", "opcode PERSID"),
        (b"\x80\x05\x97.", "opcode NEXT_BUFFER"),
        (b"\x80\x04I1\nI2\n\x93.", "by something else than text"),
        (b"cos\nsystem\nI1\nR.", "calls os.system with a int"),
    ):
        assert reason in refusal(write_archive(tmp_path / "x.pt", program)), program
    copyreg.add_extension(os.system.__module__, "system", 240)
    try:
        write_archive(tmp_path / "x.pt", dump(os.system))
        assert "opcode EXT1" in refusal(tmp_path / "x.pt")
    finally:
        copyreg.remove_extension(os.system.__module__, "system", 240)


def test_persistent_ids_are_those_of_torch_save(tmp_path: Path, trap: Path) -> None:
    call = Call(open, (str(trap), "w"))
    for hostile in (
        call,
        "storage",
        ("storage",),
        ("storage", call, "0", "cpu", 1),
        ("storage", torch.FloatStorage, call, "cpu", 1),
        ("storage", torch.FloatStorage, "0", "cpu", -1),
        ("storage", torch.FloatStorage, "../../data.pkl", "cpu", 1),
        ("storage", torch.FloatStorage, "0", "cpu", 1, ("view", 0, 1)),
        ("storage", os.system, "0", "cpu", 1),
        ("storage", torch.QInt8Storage, "0", "cpu", 4),
    ):
        write_archive(tmp_path / "x.pt", dump(Persistent(hostile)), {"data/0": bytes(4)})
        assert refusal(tmp_path / "x.pt")
        assert not trap.exists()
    fine = Persistent(("storage", torch.FloatStorage, "0", "cpu", 1))
    assert read_program(tmp_path, dump(fine), {"data/0": bytes(4)}).tolist() == [0]
    module = Persistent(("module", os.system, "file.py", "source"))
    assert str(read_program(tmp_path, dump(module))).endswith(".system")


def test_programs_are_refused(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(1, 1)).save(str(tmp_path / "x.pt"))
    assert "is a TorchScript archive" in refusal(tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("archive/inner.zip", b"PK")
    assert "no data.pkl of its own" in refusal(tmp_path / "x.pt")
    inner = write_archive(tmp_path / "inner.zip", dump(1)).read_bytes()
    assert refusal(write_archive(tmp_path / "x.pt", inner))
    assert read_program(tmp_path, dump(inner)) == inner  # bytes are bytes


# --- what must not be allocated or take for ever ---------------------------------------------


def tensor(size: Any, stride: Any, *, numel: int = 4, offset: int = 0, **more: Any) -> Call:
    storage = Persistent(("storage", torch.FloatStorage, "0", "cpu", numel))
    return Call(
        torch._utils._rebuild_tensor_v2,
        (storage, offset, size, stride, False, None, *more.values()),
    )


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (tensor((10**12,), (1,)), "size (1000000000000,) does not fit its storage of 4"),
        (tensor((10**12,), (0,)), "does not fit its storage"),
        (tensor((10**30, 10**30), (0, 0)), "does not fit its storage"),
        (tensor((2, 2), (2, 2)), "does not fit its storage of 4 elements"),
        (tensor((4,), (1,), offset=1), "does not fit its storage of 4 elements"),
        (tensor((4,), (1,), offset=-1), "not whole numbers"),
        (tensor((4,), (-1,)), "not whole numbers"),
        (tensor((4.0,), (1,)), "not whole numbers"),
        (tensor((2, 2), (2,)), "2 sizes and 1 strides"),
        (tensor((1,) * 65, (1,) * 65), "65 sizes"),
        (tensor(os.system, (1,)), "Reference where a sequence was expected"),
        (tensor((1,), (1,), metadata={"hook": 1}), "has the property 'hook'"),
        (tensor((5,), (1,), numel=5), "data/0 has 16 bytes, but 5 of torch.float32 declared"),
        (tensor((1,), (1,), numel=10**12), "has 16 bytes"),
        (Call(bytearray, (10**12,)), "bytes made of a int"),
        (Call(bytes, (10**12,)), "bytes made of a int"),
        (Call(torch.Size, (10**12,)), "a int where a sequence was expected"),
        (Call(np.dtype, ("O",)), "a numpy array of 'O'"),
        (Call(np.dtype, ("U99999999999",)), "a numpy array of"),
        (np.array([{}]), "a numpy array of 'O8'"),
        (np.zeros(2, dtype=[("a", "f4")]), "a numpy array of"),
    ],
)
def test_sizes_are_held_against_what_is_there(value: Any, reason: str, tmp_path: Path) -> None:
    write_archive(tmp_path / "x.pt", dump(value), {"data/0": bytes(16)})
    assert reason in refusal(tmp_path / "x.pt")


def test_legacy_sizes_are_held_against_the_file(tmp_path: Path) -> None:
    head = dump(0x1950A86A20F9469CFC6C) + dump(1001) + dump({"little_endian": True})
    path = tmp_path / "x.pt"
    whole = head + dump(tensor((4,), (1,))) + dump(["0"]) + struct.pack("<q", 4) + bytes(16)
    path.write_bytes(whole)
    assert read_checkpoint(path).tolist() == [0] * 4
    huge = tensor((10**12,), (1,), numel=10**12)
    for program, tail, reason in (
        (huge, dump(["0"]), "declared larger than the file"),
        (tensor((4,), (1,)), dump([]), "lacks 1 of its storages"),
        (tensor((4,), (1,)), dump(["1"]), "KeyError"),
        (tensor((4,), (1,)), dump(["0"]) + struct.pack("<q", 5) + bytes(16), "not as long"),
        (tensor((4,), (1,)), dump(["0"]) + struct.pack("<q", 4) + bytes(15), "ends before"),
        ([tensor((4,), (1,)), tensor((2,), (1,), numel=2)], b"", "declared in two ways"),
    ):
        path.write_bytes(head + dump(program) + tail)
        assert reason in refusal(path)
    path.write_bytes(dump(0x1950A86A20F9469CFC6C) + dump(1002))
    assert "its protocol" in refusal(path)
    path.write_bytes(head.replace(b"\x88", b"\x89"))  # little_endian: False
    assert "big-endian" in refusal(path)
    path.write_bytes(dump(1) + dump(2))
    assert "more follows its pickle" in refusal(path)


def test_archives_hold_no_more_than_they_weigh(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", dump(tensor((4,), (1,))) + bytes(100_000))
    assert "archive/data.pkl is compressed" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", dump(1))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("archive/data.pkl", dump(2))
    assert "two members of the name archive/data.pkl" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", dump(1))
        archive.writestr("archive/data/0", bytes(10_000))
        first = archive.infolist()[1]
        for i in range(1, 9):  # nine names for the same bytes
            again = zipfile.ZipInfo(f"archive/data/{i}")
            again.header_offset, again.CRC = first.header_offset, first.CRC
            again.file_size = again.compress_size = first.file_size
            archive.filelist.append(again)
    assert "members of its archive overlap" in refusal(path)
    write_archive(path, dump(1), {"byteorder": b"big"})
    assert "big-endian" in refusal(path)


def test_the_work_of_a_pickle_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.pt"
    deep = 20_000
    for program, reason in (
        (b"]" * deep + b"a" * (deep - 1) + b".", "nested too deeply"),
        (b")" + b"\x85" * deep + b".", "nested too deeply"),
        (b"})" + b"\x85" * deep + b"I1\ns.", "a key or member of a set is a tuple"),
        (b"}]I1\ns.", "a key or member of a set is a list"),
        (
            b"\x8f(K\x01](K\x02e" + b"\x90.",
            "a key or member of a set is a list",
        ),
        (
            b"X" + struct.pack("<I", 10**5) + b"x" * 10**5 + b"q\x000"
            b"c_codecs\nencode\nq\x010" + b"h\x01h\x00\x85R0" * 100 + b"N.",
            "copies what it holds over and over",
        ),
        (
            b"(" + b"N" * 10**5 + b"lq\x000" + b"ccollections\ndeque\nh\x00\x85R0" * 100 + b"N.",
            "copies what it holds over and over",
        ),
    ):
        assert reason in refusal(write_archive(path, b"\x80\x04" + program))
    write_archive(path, b"\x80\x02}r\xff\xff\xff\xff.")  # a memo with a place for each of 2**32
    assert read_checkpoint(path) == {}
    chain = b"cos\nsystem\n" + b")R" * deep + b"."
    assert repr(read_program(tmp_path, chain)) == "<stub of what a Stub returns>"
    monkeypatch.setattr(unpickler, "MAX_OPCODES", 1000)
    write_archive(path, b"\x80\x02" + b"N0" * 1000 + b"N.")
    assert "more than 1000 opcodes" in refusal(path)


def test_messages_are_short_and_fit_for_a_terminal(tmp_path: Path) -> None:
    name = "\x1b[2J" + "x" * 10_000
    hostile = Persistent(("storage", torch.FloatStorage, name, "cpu", 1))
    message = refusal(write_archive(tmp_path / "x.pt", dump(hostile)))
    assert "lacks archive/data/?[2Jxxx" in message and len(message) < 400


# --- what is no checkpoint -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git-lfs pointer"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "is a web page"),
        (b"\n<html>", "is a web page"),
        (b'<?xml version="1.0"?><Error>', "is a web page"),
        (b"\x1f\x8b\x08rest", "is compressed: unpack it first"),
        (bytes(257) + b"ustar" + bytes(300), "is a tar archive"),
        (b'{"error": "not found"}', "is not a checkpoint of torch.save or safetensors"),
        (b"no checkpoint", "it begins with b'no checkpoint'"),
        (b"PK\x03\x04 and then nothing", "is damaged or not a checkpoint ("),
        (b"\x80\x02", "is damaged or not a checkpoint (ValueError: pickle exhausted"),
        (b"\x80\x02.", "is damaged or not a checkpoint (IndexError"),
        (b"\x10" + bytes(7) + b"{}", "cannot be read as safetensors"),
    ],
)
def test_what_is_no_checkpoint_is_named(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    assert reason in refusal(path)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "x.pt") == "does not exist."
    assert refusal(tmp_path).startswith("is a folder")


def write(value: Any, path: Path, kind: str) -> Path:
    if kind == "safetensors":
        safetensors.torch.save_file(value, path)
    else:
        torch.save(value, path, _use_new_zipfile_serialization=kind == "archive")
    return path


@pytest.mark.parametrize("kind", ["archive", "legacy", "safetensors"])
def test_a_file_cut_off_anywhere_is_refused(kind: str, tmp_path: Path) -> None:
    path = write({"a": torch.randn(20), "b": torch.arange(9)}, tmp_path / "x.pt", kind)
    content = path.read_bytes()
    cuts = range(0, len(content), 7)
    for cut in cuts:
        path.write_bytes(content[:cut])
        assert refusal(path)
    assert len(cuts) >= 30


@pytest.mark.parametrize("kind", ["archive", "legacy", "safetensors"])
def test_a_damaged_file_is_read_or_refused_but_nothing_else(kind: str, tmp_path: Path) -> None:
    path = write({"a": torch.randn(3), "b": torch.arange(2)}, tmp_path / "x.pt", kind)
    content = path.read_bytes()
    draw = random.Random(0)
    refused = 0
    for _ in range(400):
        changed = bytearray(content)
        for _ in range(draw.randint(1, 4)):
            changed[draw.randrange(min(len(content), 800))] = draw.randrange(256)
        path.write_bytes(changed)
        try:
            read_checkpoint(path)
        except UserError:
            refused += 1
    assert refused > 50


# --- what is in real ones --------------------------------------------------------------------


class Twice(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 3)
        self.other = nn.Linear(3, 3)
        self.other.weight = self.one.weight


def states() -> dict[str, Any]:
    grid = torch.randn(4, 6)
    tensors = {
        "grid": grid,
        "transposed": grid.t()[1:3],
        "strided": grid[::2, 1::2],
        "expanded": torch.randn(3, 1).expand(3, 5),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(3.5),
        "bool": torch.tensor([True, False]),
        "half": grid.half(),
        "bfloat16": grid.bfloat16(),
        "float8": grid.to(torch.float8_e4m3fn),
        "double": grid.double(),
        "uint16": torch.tensor([1, 65535]).to(torch.uint16),
        "complex": torch.randn(3, dtype=torch.complex64),
        "conjugate": torch.randn(3, dtype=torch.complex64).conj(),
        "imaginary": torch.randn(3, dtype=torch.complex64).conj().imag,  # a negative view
    }
    return {"tensors": tensors, "model": Twice().state_dict(), "int8": torch.tensor([-1]).char()}


def assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    else:
        assert (
            found.stride() == expected.stride()
            and found.storage_offset() == expected.storage_offset()
        )
        assert found.is_conj() == expected.is_conj() and found.is_neg() == expected.is_neg()
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "options", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 5}]
)
def test_plain_states_are_read_as_torch_reads_them(options: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    content = states()
    if "_use_new_zipfile_serialization" in options:  # torch does not read its own here
        del content["tensors"]["float8"], content["tensors"]["uint16"]
    torch.save(content, path, **options)
    found = read_checkpoint(path)
    # nor does it take protocol 5 for safe
    expected = torch.load(path, weights_only="pickle_protocol" not in options)
    assert_same(found, expected)
    assert found["model"]._metadata == expected["model"]._metadata
    one, other = found["tensors"]["grid"], found["tensors"]["transposed"]
    assert one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    one[0, 1] = 7  # a file that others read is not written to, and shared memory stays shared
    assert other[0, 0] == 7 and read_checkpoint(path)["tensors"]["grid"][0, 1] != 7
    model = Twice()
    model.load_state_dict(found["model"])


def test_the_comparison_sees_a_difference() -> None:
    one = torch.randn(4, 6)
    for other in (one + 1e-7, one.t().contiguous().t(), one.double()):
        with pytest.raises(AssertionError):
            assert_same(other, one)


def test_tensors_outlive_their_file(tmp_path: Path) -> None:
    torch.save(torch.arange(10_000), tmp_path / "x.pt")
    found = read_checkpoint(tmp_path / "x.pt")
    (tmp_path / "x.pt").write_bytes(b"")
    assert found.sum() == 49_995_000


def test_safetensors(tmp_path: Path) -> None:
    weights = {"a": torch.randn(2, 3), "b": torch.ones(2).bfloat16()}
    for name in ("x.safetensors", "x.bin"):
        safetensors.torch.save_file(weights, tmp_path / name, metadata={"format": "pt"})
        found = read_checkpoint(tmp_path / name)
        for key, value in weights.items():
            torch.testing.assert_close(found[key], value, rtol=0, atol=0)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("new_format", [True, False])
def test_training_states(protocol: int, new_format: bool, tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    kept = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)  # a whole object
    kept.step()
    content: dict[str, Any] = {
        "Transformer": model.state_dict(),
        "Parameter": model.weight,
        "Optimizer": optimizer.state_dict(),
        "Pickled": kept,
        "Args": argparse.Namespace(lr=1e-3, name="a", path=pathlib.PosixPath("/a/b"), nested=[1]),
        "Config": {"deep": collections.defaultdict(list, {"a": [1, (2, None, True)]})},
        "Numbers": [np.float64(1.5), np.int64(-2), np.bool_(True), 10**30, 2.5, 1 + 2j],
        "Array": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "BigEndian": np.arange(3, dtype=">i4"),
        "Texts": np.array(["ab", "c"]),
        "Seeds": [np.arange(4, dtype=np.uint32), torch.get_rng_state(), np.dtype("f4")],
        "Sets": [{1, 2}, frozenset({"a"}), b"\x00\xff", bytearray(b"x"), b""],
        "Counts": [collections.Counter("aab"), collections.deque([1, 2], maxlen=2)],
        "Torch": [torch.float16, torch.Size([2, 3]), torch.device("cpu")],
        "Function": os.path.join,
    }
    path = tmp_path / "x.ckpt"
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=new_format)
    found = read_checkpoint(path)
    assert list(found) == list(content)
    torch.testing.assert_close(found["Transformer"], model.state_dict())
    assert type(found["Parameter"]) is torch.Tensor and not found["Parameter"].requires_grad
    torch.testing.assert_close(found["Optimizer"], optimizer.state_dict())
    torch.testing.assert_close(found["Pickled"].param_groups[0]["params"][0], model.weight.detach())
    assert (
        found["Pickled"].stub_name == "torch.optim.sgd.SGD"
        and found["Pickled"].defaults["lr"] == 0.5
    )
    expected = argparse.Namespace(lr=1e-3, name="a", path="/a/b", nested=[1])
    assert found["Args"] == expected and type(found["Args"]) is argparse.Namespace
    assert found["Config"] == {"deep": {"a": [1, (2, None, True)]}}
    assert type(found["Config"]["deep"]) is dict
    assert found["Numbers"] == content["Numbers"]
    assert [type(n) for n in found["Numbers"]] == [type(n) for n in content["Numbers"]]
    for name in ("Array", "BigEndian", "Texts"):
        np.testing.assert_array_equal(found[name], content[name])
        assert found[name].dtype == content[name].dtype
    assert found["Array"].flags.f_contiguous
    np.testing.assert_array_equal(found["Seeds"][0], content["Seeds"][0])
    torch.testing.assert_close(found["Seeds"][1], content["Seeds"][1])
    assert found["Seeds"][2] == np.dtype("f4")
    assert found["Sets"] == content["Sets"] and found["Torch"] == content["Torch"]
    assert found["Counts"] == [{"a": 2, "b": 1}, [1, 2]]
    assert found["Function"] == Reference("posixpath", "join")


class Fairseq:
    """What fairseq's classes look like, importable while they are written only."""

    def __enter__(self) -> types.SimpleNamespace:
        self.module = types.ModuleType("fairseq.data.dictionary")
        for name in ("fairseq", "fairseq.data"):
            sys.modules[name] = types.ModuleType(name)
        sys.modules["fairseq.data.dictionary"] = self.module

        def new(name: str, *bases: type) -> Any:
            return arm(self.module, name, bases[0] if bases else object)

        modes = enum.Enum("Modes", {"default": "default"}, module=self.module.__name__)  # type: ignore[misc]
        vars(self.module)["Modes"] = modes
        return types.SimpleNamespace(
            Dictionary=new("Dictionary"), Meters=new("Meters", collections.OrderedDict), Modes=modes
        )

    def __exit__(self, *_: object) -> None:
        for name in ("fairseq", "fairseq.data", "fairseq.data.dictionary"):
            del sys.modules[name]


def test_objects_of_classes_that_are_not_there(tmp_path: Path) -> None:
    with Fairseq() as fairseq:
        dictionary = fairseq.Dictionary()
        dictionary.symbols, dictionary.indices = ["<s>", "0"], {"<s>": 0, "0": 1}
        dictionary.parent = dictionary  # a cycle
        meters = fairseq.Meters({"loss": 0.5})
        content = {
            "task_state": {"dictionaries": [dictionary]},
            "meters": meters,
            "args": argparse.Namespace(extractor_mode=fairseq.Modes.default),
            "class": fairseq.Dictionary,
        }
        torch.save(content, tmp_path / "x.pt")
    found = read_checkpoint(tmp_path / "x.pt")
    (read,) = copy.deepcopy(found)["task_state"]["dictionaries"]
    assert read.stub_name == "fairseq.data.dictionary.Dictionary"
    assert read.symbols == ["<s>", "0"] and read.indices == {"<s>": 0, "0": 1}
    assert read.parent is read
    with pytest.raises(AttributeError, match=r"<stub of fairseq.*> has no attribute 'count'"):
        _ = read.count
    assert found["meters"].stub_entries == {"loss": 0.5}
    assert found["args"].extractor_mode == "default"
    assert found["class"] == Reference("fairseq.data.dictionary", "Dictionary")


@pytest.fixture
def omegaconf(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Return a function that wraps values as omegaconf 2 does: nodes that know their parents."""
    modules = {
        "omegaconf": (),
        "omegaconf.dictconfig": ("DictConfig",),
        "omegaconf.listconfig": ("ListConfig",),
        "omegaconf.nodes": ("AnyNode", "EnumNode"),
        "omegaconf.base": ("ContainerMetadata",),
    }
    classes: dict[str, Any] = {}
    for module, names in modules.items():
        made = types.ModuleType(module)
        monkeypatch.setitem(sys.modules, module, made)
        classes |= {name: arm(made, name, object) for name in names}
    shades = enum.Enum("Shades", {"dark": "dark-value"}, module="omegaconf.base")  # type: ignore[misc]
    vars(sys.modules["omegaconf.base"])["Shades"] = shades

    def wrap(value: Any, parent: Any = None) -> Any:
        kinds: dict[type, str] = {dict: "DictConfig", list: "ListConfig"}
        kind = kinds.get(type(value), "AnyNode")
        node = classes[kind]()
        node._metadata, node._parent = classes["ContainerMetadata"](), parent
        if kind == "DictConfig":
            node._content = {key: wrap(item, node) for key, item in value.items()}
        elif kind == "ListConfig":
            node._content = [wrap(item, node) for item in value]
        else:
            node._val = shades.dark if value == "SHADE" else value
        return node

    yield wrap


def test_configurations_of_omegaconf_are_plain(
    omegaconf: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = omegaconf({"model": {"layers": [1, {"a": None}], "shade": "SHADE"}, "task": {}})
    config._content["nothing"] = omegaconf({}, config)
    config._content["nothing"]._content = None
    torch.save({"cfg": config, "model": config._content["model"]}, tmp_path / "x.pt")
    torch.save(config._content["model"], tmp_path / "part.pt")  # its parent comes with it
    for name in [name for name in sys.modules if name.split(".")[0] == "omegaconf"]:
        monkeypatch.delitem(sys.modules, name)
    found = read_checkpoint(tmp_path / "x.pt")
    model = {"layers": [1, {"a": None}], "shade": "dark-value"}
    assert found == {"cfg": {"model": model, "task": {}, "nothing": None}, "model": model}
    assert found["cfg"]["model"] is found["model"]
    assert read_checkpoint(tmp_path / "part.pt") == model


def test_old_ways_of_writing(tmp_path: Path, module: types.ModuleType) -> None:
    dtype = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01>NNNK\x00K\x00K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    content = np.array([1.5, -2], dtype=">f4").tobytes()
    python_2 = b"\x80\x02" + array + b"(K\x01K\x02\x85" + dtype + b"\x89U\x08" + content + b"tb."
    assert read_program(tmp_path, python_2).tolist() == [1.5, -2]
    scalar = (
        b"\x80\x02cnumpy.core.multiarray\nscalar\n" + dtype + b"U\x04" + content[:4] + b"\x86R."
    )
    assert read_program(tmp_path, scalar) == 1.5
    names = b"(dp0\nS'lr'\np1\nF0.5\nsS'on'\nI01\nsV\xfcber\nL7L\ns."
    assert read_program(tmp_path, names) == {"lr": 0.5, "on": True, "über": 7}
    assert read_program(tmp_path, b"c__builtin__\nset\n((lI1\naI2\natR.") == {1, 2}
    items = arm(module, "Items", list)([1, 2])
    entries = arm(module, "Entries", dict)({"a": 1})
    items.note = "kept"
    for protocol in range(6):
        read = read_program(tmp_path, dump([argparse.Namespace(a=1), items, entries], protocol))
        assert read[0] == argparse.Namespace(a=1)
        assert (read[1].stub_items, read[1].note) == ([1, 2], "kept")
        assert read[2].stub_entries == {"a": 1}


def test_what_is_left_out_of_numpy_is_refused(tmp_path: Path) -> None:
    array = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
    for program, reason in (
        (array + b".", "an array without content"),
        (array + b"(K\x01K\x02\x85NK\x00U\x08" + bytes(8) + b"tb.", "an array without a dtype"),
        (array + b"(K\x01K\x03\x85" + dtype + b"K\x00U\x08" + bytes(8) + b"tb.", "cannot reshape"),
        (
            array + (b"(K\x01K\x02\x85" + dtype + b"K\x00U\x08" + bytes(8) + b"tb") * 2 + b".",
            "twice",
        ),
    ):
        assert reason in refusal(write_archive(tmp_path / "x.pt", program))
