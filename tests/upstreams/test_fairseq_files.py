"""Files of fairseq, s3prl and torchaudio: contract, random twins, what is refused."""

import argparse
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import auscult
from auscult.errors import UserError
from auscult.testing import run_checks
from auscult.upstreams import outline_upstream
from auscult.upstreams.conversion import parse_convolutions
from auscult.upstreams.huggingface.upstream import HuggingFaceUpstream

pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`")  # s3prl's


def save(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


# --- all of them -----------------------------------------------------------------------------


def hubert_file(foreign: Any, folder: Path) -> Path:
    return save(foreign.converted("hubert", "base"), folder / "hubert.pt")


MAKERS: Mapping[str, Callable[[Any], Any]] = {
    "hubert": lambda foreign: foreign.converted("hubert", "base"),
    "wav2vec2": lambda foreign: foreign.converted("wav2vec2", "large_lv60"),
    "distilhubert": lambda foreign: foreign.distilled(),
    "torchaudio": lambda foreign: foreign.torchaudio("layer", False).state_dict(),
}


@pytest.fixture
def address(foreign: Any, maker: str, tmp_path: Path) -> str:
    family = "hubert" if maker == "torchaudio" else maker
    options = "?heads=2" if maker == "torchaudio" else ""
    return f"{family}:{save(MAKERS[maker](foreign), tmp_path / 'model.pt')}{options}"


@pytest.mark.parametrize("maker", MAKERS)
def test_contract(address: str) -> None:
    upstream = auscult.load(address)
    assert isinstance(upstream, HuggingFaceUpstream)
    for padding in ("group", "mask"):
        upstream.padding = padding
        findings = list(run_checks(upstream))
        assert [f"{f.check}: {f.why}" for f in findings if not f.passed] == []
        assert len(findings) >= 10 and not any(finding.why for finding in findings)


@pytest.mark.parametrize("maker", MAKERS)
def test_random_twin_keeps_the_shape_alone(address: str) -> None:
    loaded, twin = auscult.load(address).spec, auscult.load(f"random({address}, seed=3)").spec
    other = auscult.load(f"random({address}, seed=4)").spec
    assert len({loaded.sha256, twin.sha256, other.sha256}) == 3
    assert twin.num_parameters == loaded.num_parameters and twin.normalize == loaded.normalize
    assert twin.head_parameters == loaded.head_parameters and twin.heads == loaded.heads
    outline = outline_upstream(f"random({address})").spec
    assert outline.num_parameters == loaded.num_parameters and outline.sha256 == ""


@pytest.mark.slow
def test_filterbanks_work_after_an_outline() -> None:
    """torchaudio's constants have values although transformers imports it under an outline."""
    code = (
        "import torch, auscult; from auscult.contracts import Waveforms; "
        "from auscult.upstreams import outline_upstream; outline_upstream('random(hubert_tiny)'); "
        "print(auscult.load('fbank')(Waveforms.of([torch.ones(800)])).lengths.tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[3]"


def test_folders_are_read_as_by_hf(hubert_folder: Path) -> None:
    here, there = auscult.load(f"hubert:{hubert_folder}"), auscult.load(f"hf:{hubert_folder}")
    assert here.spec.sha256 == there.spec.sha256
    assert here.spec.name == f"hubert:{hubert_folder}"
    for family, title in (("wav2vec2", "wav2vec 2.0"), ("distilhubert", "DistilHuBERT")):
        with pytest.raises(UserError, match=f"holds HuBERT, not {title}; write hf:"):
            auscult.load(f"{family}:{hubert_folder}")


def test_exported_to_transformers_it_is_the_same(foreign: Any, tmp_path: Path) -> None:
    """The fingerprint of an encoder that reads samples as they are is one, whatever its file."""
    upstream = auscult.load(f"hubert:{hubert_file(foreign, tmp_path)}")
    model: Any = upstream.get_submodule("model")
    model.save_pretrained(tmp_path / "folder")
    assert auscult.load(f"hf:{tmp_path / 'folder'}").spec.sha256 == upstream.spec.sha256


# --- what is refused -------------------------------------------------------------------------


def without(weights: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if part not in name}


_LAYER = "feature_extractor.conv_layers.1.2.1.weight"
BROKEN: Mapping[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "tensor": (
        lambda c: c | {"model_weight": without(c["model_weight"], "layers.1.fc1")},
        r"in transformers' names, lacks encoder.layers.1.feed_forward.*\(and 1 more\)",
    ),
    "block": (
        lambda c: c | {"model_weight": without(c["model_weight"], "encoder.layers.2.")},
        "num_hidden_layers is 3 by its configuration and 2 by its tensors",
    ),
    "norm in tensors": (
        lambda c: c | {"model_weight": c["model_weight"] | {_LAYER: torch.ones(16)}},
        "feat_extract_norm is 'group' by its configuration and 'layer' by its tensors",
    ),
    "norm in options": (
        lambda c: c | {"model_cfg": c["model_cfg"] | {"extractor_mode": "layer_norm"}},
        "feat_extract_norm is 'layer' by its configuration and 'group' by its tensors",
    ),
    "bias": (
        lambda c: c | {"model_cfg": c["model_cfg"] | {"conv_bias": True}},
        "conv_bias is True by its configuration and False by its tensors",
    ),
    "leftover": (
        lambda c: c | {"model_weight": c["model_weight"] | {"adapter.weight": torch.ones(2)}},
        "holds 1 entries that are neither .* that Auscult knows: adapter.weight",
    ),
    "shape": (
        lambda c: (
            c | {"model_weight": c["model_weight"] | {"encoder.layers.1.fc2.bias": torch.ones(5)}}
        ),
        r"output_dense.bias as float32 \(5,\), expected float32 \(32,\)\.",
    ),
    "heads": (
        lambda c: c | {"model_cfg": c["model_cfg"] | {"encoder_attention_heads": 5}},
        "5 attention heads do not divide a width of 32",
    ),
    "conformer": (
        lambda c: c | {"model_cfg": c["model_cfg"] | {"layer_type": "conformer"}},
        "an encoder with layer_type='conformer' is not read, only transformer",
    ),
    "data2vec": (
        lambda c: c | {"model_cfg": c["model_cfg"] | {"_name": "data2vec_audio"}},
        "holds fairseq's 'data2vec_audio'; hubert or wav2vec2 is read here",
    ),
    "activation": (
        lambda c: c | {"model_cfg": c["model_cfg"] | {"activation_fn": "swish"}},
        "the activation 'swish' is not read, only gelu, ",
    ),
    "activations": (
        lambda c: c | {"model_cfg": c["model_cfg"] | {"activation_fn": ["gelu"]}},
        r"the activation \['gelu'\] is not read",
    ),
    "rate": (
        lambda c: c | {"task_cfg": {"sample_rate": 8000}},
        "reads audio at 8000 Hz; Auscult works at 16000",
    ),
    "options": (
        lambda c: c | {"model_cfg": "hubert"},
        "expected options in model_cfg, got a str",
    ),
    "code": (
        lambda c: (
            c | {"model_cfg": c["model_cfg"] | {"conv_feature_layers": "__import__('os').getcwd()"}}
        ),
        "its convolutions cannot be read",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused(foreign: Any, name: str, tmp_path: Path) -> None:
    change, sentence = BROKEN[name]
    path = save(change(foreign.converted("hubert", "base")), tmp_path / "broken.pt")
    with pytest.raises(UserError, match=sentence) as raised:
        auscult.load(f"hubert:{path}")
    assert str(path) in str(raised.value)


def test_another_family_is_refused(foreign: Any, tmp_path: Path) -> None:
    files = {
        "hubert": hubert_file(foreign, tmp_path),
        "wav2vec2": save(foreign.converted("wav2vec2", "base"), tmp_path / "wav2vec2.pt"),
        "distilhubert": save(foreign.distilled(), tmp_path / "distiller.ckpt"),
    }
    for asked in files:
        for holds, path in files.items():
            if asked == "distilhubert" != holds:
                sentence = "is not a checkpoint of s3prl's Distiller"
            else:
                sentence = f"write {holds}:{path}"
            if asked != holds:
                with pytest.raises(UserError, match=sentence):
                    auscult.load(f"{asked}:{path}")
    content = foreign.converted("wav2vec2", "base")
    del content["model_cfg"]["_name"]  # the tensors alone tell
    with pytest.raises(UserError, match="checkpoint of wav2vec 2.0, not HuBERT .it holds quantize"):
        auscult.load(f"hubert:{save(content, tmp_path / 'nameless.pt')}")


ODD: Mapping[str, Any] = {
    "tensor": torch.ones(2),
    "scalar": torch.tensor(1.0),
    "array": np.ones(3),
    "tuple": (1, 2),
    "set": {1},
    "number": 10**5000,  # which Python does not write in decimals
    "text": "\ud800\x1b[2J" + "x" * 9999,
    "storage": torch.ones(2).untyped_storage(),
    "class": argparse.Namespace,
    "complex": 1j,
    "nothing": None,
}
PLACES = (
    *(
        ("cfg",),
        ("args",),
        ("model",),
        ("cfg", "model"),
        ("cfg", "task"),
        ("cfg", "model", "_name"),
    ),
    *(("cfg", "model", "encoder_layers"), ("cfg", "model", "conv_feature_layers")),
    *(("cfg", "model", "encoder_attention_heads"), ("cfg", "model", "activation_fn")),
    *(("cfg", "task", "normalize"), ("cfg", "task", "sample_rate"), ("cfg", "model", "w2v_args")),
    *(("cfg", "model", "extractor_mode"), ("cfg", "model", "layer_norm_first")),
    ("model", "encoder.layers.0.fc1.bias"),
)


@pytest.mark.parametrize("place", PLACES, ids=".".join)
def test_anything_may_stand_anywhere(foreign: Any, place: tuple[str, ...], tmp_path: Path) -> None:
    """It is an encoder, or a sentence that fits a terminal; a tensor has no truth value."""
    found = foreign.converted("hubert", "base")
    path = tmp_path / "odd.pt"
    for name, value in ODD.items():
        cfg = {"model": dict(found["model_cfg"]), "task": dict(found["task_cfg"])}
        content: Any = {"cfg": cfg, "args": None, "model": dict(found["model_weight"])}
        part = content
        for step in place[:-1]:
            part = part[step]
        part[place[-1]] = value
        save(content, path)
        try:
            auscult.load(f"hubert:{path}")
            assert value is None or place == ("args",), name
        except UserError as error:
            assert len(str(error)) < 1000 and "\ud800" not in str(error), name


def test_unreadable_files_are_refused(foreign: Any, tmp_path: Path) -> None:
    whole = hubert_file(foreign, tmp_path).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    save({"loss": 1.0}, tmp_path / "other.pt")
    save([1], tmp_path / "list.pt")
    save({"weight": torch.ones(2)}, tmp_path / "linear.pt")
    odd = foreign.torchaudio("group", False).state_dict()
    odd["feature_extractor.conv_layers.1.conv.weight"] = torch.ones(16, 16, 4)
    save(odd, tmp_path / "odd.pt")
    far = foreign.torchaudio("group", False).state_dict()
    far["encoder.transformer.layers.999999999.final_layer_norm.bias"] = torch.ones(128)
    save(far, tmp_path / "far.pt")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(eval, protocol=2))
    for name, sentence in {
        "cut.pt": "cut.pt is ",
        "other.pt": "is no checkpoint of fairseq .* it holds loss",
        "list.pt": "expected a checkpoint's dict, got a list",
        "linear.pt": "holds neither HuBERT nor wav2vec 2.0",
        "odd.pt?heads=2": r"one of which has a kernel of 4: write it .*\?strides=5-2",
        "far.pt?heads=2": r"lacks .* \(and 15 more\)",  # of block 3: the number names no size
        "missing.pt": "no file or folder .* models of the hub are read by hf and",
        "evil.pt": "expected a checkpoint's dict",
    }.items():
        with pytest.raises(UserError, match=sentence):
            auscult.load(f"hubert:{tmp_path / name}")
    for spec, sentence in {
        "hubert": "hubert needs a file or folder, such as",
        "hubert:x.pt@a_small": "hubert has no subnets; drop @a_small",
    }.items():
        with pytest.raises(UserError, match=sentence):
            auscult.load(spec)


@pytest.mark.parametrize(
    "text",
    [
        "[(512,10,5)] * 101",
        "[(512,10,5)] * 100 * 100 * 100 * 100",
        "[(1e999,10,5)]",
        "[(512,10.5,5)]",
        "[(512,10)]",
        "[(0,10,5)]",
        "[]",
        "(512,10,5)",
        "[(512,10,5)] * [2]",
        "[x for x in ()]",
        "(" * 5000,
        "[(512,10,5)] + open('/etc/passwd')",
        None,
    ],
)
def test_convolutions_are_not_evaluated(text: Any) -> None:
    with pytest.raises(UserError, match="its convolutions cannot be read"):
        parse_convolutions(Path("x.pt"), text)


def test_convolutions() -> None:
    text = "[(512, 10, 5)] + [(512, 3, 2)] * 2 + [(256,2,2)] + [(256,2,2)]"
    wanted = [(512, 10, 5), (512, 3, 2), (512, 3, 2), (256, 2, 2), (256, 2, 2)]
    assert parse_convolutions(Path("x.pt"), text) == wanted
    assert parse_convolutions(Path("x.pt"), wanted) == wanted
