"""What checkpoints hold comes out right, whole or not at all, from every format."""

import argparse
import collections
import copy
import enum
import os
import pathlib
import random
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from auscult.checkpoint import Reference, read_checkpoint
from auscult.errors import UserError


def arm(module: types.ModuleType, name: str, base: Any, **methods: Any) -> Any:
    """Put a class into ``module``, and return it."""
    kind = type(name, (base,), {"__module__": module.__name__, "__qualname__": name, **methods})
    setattr(module, name, kind)
    return kind


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
        with pytest.raises(UserError, match="x.pt "):
            read_checkpoint(path)
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
