"""Reading strangers' checkpoints: nothing in them runs, and no size in them is believed."""

import argparse
import builtins
import copyreg
import io
import os
import pickle
import struct
import sys
import types
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._utils import _rebuild_tensor_v2

from auscult import unpickler
from auscult.checkpoint import Stub, read_checkpoint
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

    def persistent_id(self, obj: Any) -> Any:
        return obj.id if isinstance(obj, Persistent) else None


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
        _rebuild_tensor_v2, (Call(open, (trap, "w")), 0, (1,), (1,), False, None)
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


_ENDLESS = b"]q\0" + b"".join(b"](%se" % (b"h%c" % i * 10) + b"q%c" % (i + 1) for i in range(40))


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
        # lists of ten times the list before, forty deep, are not written out
        (b"%sI1\nR." % _ENDLESS, "calls [["),
        (b"%sc_codecs\nencode\nX\1\0\0\0ah\x28\x86R." % _ENDLESS, "encoded as [["),
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
        _rebuild_tensor_v2,
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
    for built in (b")R", b"\x8f"):  # stubs and sets weigh far more than their opcodes
        chain = b"cos\nsystem\n" + built * deep + b"."
        assert "builds more than 64 times" in refusal(write_archive(path, b"\x80\x04" + chain))
    chain = b"cos\nsystem\n" + b")R" * 2000 + b"."
    assert repr(read_program(tmp_path, chain)) == "<stub of what a Stub returns>"
    monkeypatch.setattr(unpickler, "MAX_OPCODES", 1000)
    write_archive(path, b"\x80\x02" + b"N0" * 1000 + b"N.")
    assert "more than 1000 opcodes" in refusal(path)


def test_messages_are_short_and_fit_for_a_terminal(tmp_path: Path) -> None:
    name = "\x1b[2J" + "x" * 10_000
    hostile = Persistent(("storage", torch.FloatStorage, name, "cpu", 1))
    message = refusal(write_archive(tmp_path / "x.pt", dump(hostile)))
    assert "lacks archive/data/?[2Jxxx" in message and len(message) < 400


def test_tensors_are_in_proportion_to_their_file(tmp_path: Path) -> None:
    """Whoever copies them, as every loader of weights does, would fill the memory."""
    wide, row = torch.ones(1).expand(1000, 1000), torch.randn(1 << 16)
    hostile: dict[str, Any] = {
        "one": torch.ones(1).expand(1 << 11, 1 << 11),
        "many": {str(i): torch.ones(1).expand(1000, 1000 + i) for i in range(60)},
        "views": {str(i): row[i:] for i in range(60)},
        "lists": [{"x": [row.view(256, 256).t()]} for _ in range(60)],
        "objects": {str(i): torch.nn.Parameter(row[i:]) for i in range(60)},
        "storages": {str(i): row[i:].untyped_storage() for i in range(60)},
    }
    for name, content in hostile.items():
        for new_format in (True, False):
            torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=new_format)
            if name == "storages" and not new_format:
                continue  # torch writes each anew
            reason = refusal(tmp_path / "x.pt")
            assert "repeat what they store" in reason or "does not fit its storage" in reason, name
    shared = {str(layer): row for layer in range(24)}  # as Audio ALBERT's layers are
    torch.save(shared, tmp_path / "x.pt")
    assert len(read_checkpoint(tmp_path / "x.pt")) == 24
    torch.save(wide[:500, :500], tmp_path / "x.pt")
    assert read_checkpoint(tmp_path / "x.pt").shape == (500, 500)


def test_pipes_and_devices_are_no_checkpoints(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    for path in (tmp_path / "pipe.pt", Path("/dev/zero")):
        assert "is a pipe, a socket or a device" in refusal(path)


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


# --- what older programs wrote ----------------------------------------------------------------


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
