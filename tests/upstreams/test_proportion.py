"""What a file builds is bounded by its size, in every family: it is refused before it is built."""

import argparse
import copy
import json
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

import auscult
from auscult.errors import UserError
from auscult.upstreams.lighthubert import export
from auscult.upstreams.mockingjay import Dimensions as MockingjayDimensions
from auscult.upstreams.mockingjay import OnlineFrontEnd, SpecHead, draw_mockingjay
from auscult.upstreams.mockingjay.writing import write_mockingjay
from auscult.upstreams.w2v_bert import Dimensions, build_w2v_bert, save_w2v_bert

pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`")  # s3prl's
HUGE = 1_000_000_000


def changed(content: Any, path: tuple[str, ...], value: Any) -> Any:
    """Return a copy with one value replaced."""
    content = copy.deepcopy(content)
    place = content
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return content


def of_fairseq(foreign: Any, folder: Path) -> list[str]:
    """HuBERT and DistilHuBERT, read here and by s3prl."""
    hubert, distiller = foreign.converted("hubert", "base"), foreign.distilled()
    weights = hubert["model_weight"]
    row = torch.randn(1 << 16)
    name = "encoder.layers.0.fc1.weight"
    hostile = {
        "layers": changed(hubert, ("model_cfg", "encoder_layers"), HUGE),
        "width": changed(hubert, ("model_cfg", "encoder_embed_dim"), 1 << 15),
        "inner": changed(hubert, ("model_cfg", "encoder_ffn_embed_dim"), HUGE),
        "stride": changed(hubert, ("model_weight", name), torch.ones(1).expand(1 << 20, 32)),
        "blocks": changed(
            hubert,
            ("model_weight",),
            weights | {f"encoder.layers.{i}.fc1.bias": row[i:] for i in range(9999)},
        ),
    }
    specs = []
    for key, content in hostile.items():
        torch.save(content, folder / f"{key}.pt")
        specs += [f"hubert:{folder}/{key}.pt", f"s3prl:hubert_local:{folder}/{key}.pt"]
    for key, value in (("encoder_layers", HUGE), ("n_tasks", HUGE), ("conv_pos", HUGE)):
        torch.save(changed(distiller, ("Config", "distiller", key), value), folder / f"{key}.ckpt")
        family = "s3prl:distiller_local" if key == "n_tasks" else "distilhubert"
        specs.append(f"{family}:{folder}/{key}.ckpt")
    return specs


def of_mockingjay(folder: Path) -> list[str]:
    front_end = OnlineFrontEnd(num_mels=10)
    size = {"dim": 12, "heads": 2, "inner": 12, "input_dim": front_end.dim, "num_layers": 2}
    dimensions = MockingjayDimensions(**size, share=True)  # type: ignore[arg-type]
    network = draw_mockingjay(dimensions, 0)
    write_mockingjay(
        folder / "encoder.ckpt",
        network,
        SpecHead(10, 12),
        front_end,
        target="input",
        sequence_length=0,
        settings={},
        step=1,
    )
    good = torch.load(folder / "encoder.ckpt", weights_only=False)
    auscult.load(f"audio_albert:{folder}")
    layer = {n: x for n, x in good["Transformer"].items() if "layer.1." not in n}
    specs = []
    for key, value in (("num_hidden_layers", HUGE), ("hidden_size", 999_990), ("eps", 3)):
        name = "layer_norm_eps" if key == "eps" else key
        bad = changed(good, ("Upstream_Config", "transformer", name), value)
        torch.save(bad | {"Transformer": layer}, folder / f"{key}.ckpt")
        specs.append(f"audio_albert:{folder}/{key}.ckpt")
    for key, value in (("n_mels", HUGE), ("target_level", 1e308)):
        torch.save(changed(good, ("Upstream_Config", "audio", key), value), folder / f"{key}.ckpt")
        specs.append(f"audio_albert:{folder}/{key}.ckpt")
    return specs


def of_w2v_bert(folder: Path) -> list[str]:
    sizes = {"contrastive_blocks": 1, "masked_prediction_blocks": 1, "dim": 8, "heads": 2}
    sizes |= {"feed_forward": 8, "channels": 2, "codebook": 4, "code_dim": 4}
    save_w2v_bert(build_w2v_bert(Dimensions(**sizes)), folder / "good")
    auscult.load(f"random(w2v_bert:{folder / 'good'})")
    specs = []
    for name, value in (
        ("contrastive_blocks", HUGE),
        ("contrastive_blocks", 200),
        ("feed_forward", 1 << 16),
        ("channels", 1 << 12),
        ("codebook", HUGE),
        ("filters", 1 << 16),
    ):
        bad = folder / f"{name}{value}"
        save_w2v_bert(build_w2v_bert(Dimensions(**sizes)), bad)
        config = json.loads((bad / "config.json").read_text())
        (bad / "config.json").write_text(json.dumps(config | {name: value}))
        specs += [f"w2v_bert:{bad}", f"random(w2v_bert:{bad})"]
    return specs


def of_lighthubert(folder: Path) -> list[str]:
    upstream: Any = auscult.load("random(lighthubert_small@smallest)")
    specs = []
    small = export.describe_space(upstream.space)
    for name, value in (("layers", HUGE), ("width", HUGE), ("ffn", 1 << 16), ("channels", 1 << 16)):
        space = changed(small, ("stored", name), value)
        content = {
            "model": {"feature_extractor.conv_layers.0.2.weight": torch.ones(4)},
            "cfg": {"model": {"_name": "hubert_pruner", "space": space}},
        }
        torch.save(content, folder / f"{name}.pt")
        specs += [f"lighthubert:{folder}/{name}.pt", f"random(lighthubert:{folder}/{name}.pt)"]
    return specs


@pytest.mark.slow
def test_refusals_take_little_memory_and_time(foreign: Any, tmp_path: Path) -> None:
    specs = []
    for make in (of_mockingjay, of_w2v_bert, of_lighthubert):
        folder = tmp_path / make.__name__
        folder.mkdir()
        specs += make(folder)
    specs += of_fairseq(foreign, tmp_path)
    assert len(specs) >= 35
    code = (
        "import json, resource, sys, time, auscult\nfrom auscult.errors import UserError\n"
        "auscult.load('random(hubert_tiny)')\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"for spec in json.loads({json.dumps(specs)!r}):\n"
        "    before, start = peak(), time.process_time()\n"
        "    try:\n        auscult.load(spec)\n"
        "    except UserError as error: print(spec, error, file=sys.stderr)\n"
        "    else: raise SystemExit(f'{spec} was loaded')\n"
        "    print(json.dumps([spec, peak() - before, time.process_time() - start]))\n"
    )
    done = subprocess.run([sys.executable], input=code, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for line in done.stdout.splitlines():
        spec, kilobytes, seconds = json.loads(line)
        limit = 320_000 if "s3prl" in spec else 50_000  # which may build 256 MB
        assert kilobytes < limit and seconds < 30, line


def test_a_bin_that_holds_no_table(hubert_folder: Path) -> None:
    (hubert_folder / "model.safetensors").unlink()
    for content, kind in (((1, 2), "tuple"), ([torch.ones(1)], "list"), (torch.ones(2), "Tensor")):
        torch.save(content, hubert_folder / "pytorch_model.bin")
        with pytest.raises(UserError, match=f"expected a table of tensors, got a {kind}"):
            auscult.load(f"hf:{hubert_folder}")
    torch.save(
        {"hubert.x": torch.ones(1).expand(1 << 12, 1 << 12)}, hubert_folder / "pytorch_model.bin"
    )
    with pytest.raises(UserError, match="does not fit its storage"):
        auscult.load(f"hf:{hubert_folder}")


def test_shards_stand_beside_their_index(hubert_folder: Path, tmp_path: Path) -> None:
    """transformers' own are read; an index that leads elsewhere is not followed."""
    from safetensors.torch import load_file, save_file

    wanted = auscult.load(f"hf:{hubert_folder}").spec.sha256
    weights = load_file(hubert_folder / "model.safetensors")
    (hubert_folder / "model.safetensors").unlink()
    names = sorted(weights)
    places = {n: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, n in enumerate(names)}
    for file in set(places.values()):
        part = {n: weights[n] for n in names if places[n] == file}
        save_file(part, hubert_folder / file, metadata={"format": "pt"})
    index = hubert_folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert auscult.load(f"hf:{hubert_folder}").spec.sha256 == wanted
    save_file(weights, tmp_path / "outside.safetensors")
    for odd in ("../outside.safetensors", str(tmp_path / "outside.safetensors"), "no.safetensors"):
        index.write_text(json.dumps({"weight_map": {"x": odd}}))
        with pytest.raises(UserError, match="stands beside it|is not there"):
            auscult.load(f"hf:{hubert_folder}")
    for text in ("{}", '{"weight_map": []}', '{"weight_map": {"a": 3}}'):
        index.write_text(text)
        with pytest.raises(UserError, match="in which file each tensor is"):
            auscult.load(f"hf:{hubert_folder}")


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "preprocessor_config.json", "processor_config.json"],
)
def test_pipes_and_broken_links_do_not_hang(hubert_folder: Path, name: str) -> None:
    path = hubert_folder / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    for family in ("hf", "hubert", "lighthubert", "w2v_bert", "mockingjay"):
        for spec in (f"{family}:{hubert_folder}", f"{family}:{path}"):
            with pytest.raises(UserError):
                auscult.load(spec)
    path.unlink()
    path.symlink_to(hubert_folder / "nowhere")  # as in a copied snapshot of the hub's cache
    with pytest.raises(UserError, match="a link that leads nowhere|has no config.json"):
        auscult.load(f"hf:{hubert_folder}")


def test_s3prl_hands_no_choice_of_code_on(hubert_folder: Path) -> None:
    path = hubert_folder / "config.json"
    plain = json.loads(path.read_text())
    for name, value in (("attn_implementation", "someone/kernel"), ("auto_map", {"a": "b.c"})):
        path.write_text(json.dumps(plain | {name: value}))
        with pytest.raises(UserError, match=f"sets {name} to .*hf reads the folder without"):
            auscult.load(f"s3prl:hf_hubert_custom:{hubert_folder}")
        auscult.load(f"hf:{hubert_folder}")


def test_long_lists_are_refused_at_once(hubert_folder: Path) -> None:
    """transformers looks at every entry, for seconds."""
    path = hubert_folder / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"conv_dim": [8] * 1_000_000}))
    with pytest.raises(UserError, match="conv_dim has 1,000,000 entries; expected 32 at most"):
        auscult.load(f"hf:{hubert_folder}")


@pytest.mark.parametrize("kind", ["list", "dict", "ordered", "namespace"])
def test_what_stands_for_billions_is_not_written_out(tmp_path: Path, kind: str) -> None:
    """A message quotes a value; lists of ten times the list before, forty deep, never end."""
    value: Any = [1]
    for _ in range(40):
        value = [value] * 10
    if kind != "list":
        value = {"a": value}
    if kind == "ordered":
        value = OrderedDict(value)
    if kind == "namespace":
        value = argparse.Namespace(**value)
    path = tmp_path / "a.pt"
    path.write_bytes(pickle.dumps({"cfg": {"_name": value}, "model": {}}))
    with pytest.raises(UserError, match=r"holds fairseq's .*\.\.\..*; hubert or wav2vec2 is read"):
        auscult.load(f"hubert:{path}")
