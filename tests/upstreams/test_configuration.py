"""A stranger's config.json chooses sizes and what changes numbers; neither code nor memory."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import auscult
from auscult.contracts import Waveforms
from auscult.errors import UserError

OURS: Mapping[str, Any] = {  # what a file may say without effect
    "attn_implementation": "someone/kernel",
    "_attn_implementation": "flex_attention",
    "_attn_implementation_internal": "someone/kernel:attend",
    "experts_implementation": "someone/experts",
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "torch_dtype": "float16",
    "dtype": "nonsense",
    "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "someone/other--evil.Model"},
    "trust_remote_code": True,
    "_name_or_path": "someone/other",
    "name_or_path": "someone/other",
    "base_model_name_or_path": "someone/other",
    "configuration_files": ["config.5.0.0.json"],
    "transformers_weights": "../../other.safetensors",
    "transformers_version": "99.0",
    "use_kernels": True,
    "kernel_config": {"RMSNorm": "someone/kernel"},
    "fusion_config": {"patch_embeddings": True},
    "gradient_checkpointing": True,
    "torchscript": True,
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "pruned_heads": {"0": [1]},
    "chunk_size_feed_forward": 7,
    "is_encoder_decoder": True,
    "add_adapter": True,
    "num_adapter_layers": 1_000_000_000,
    "output_hidden_size": 1_000_000_000,
    "target_lang": "eng",
    "num_labels": 1_000_000_000,
    "id2label": {"x": "not a number"},
    "vocab_size": 1_000_000_000,
    "classifier_proj_size": -1,
    "tdnn_dim": [1_000_000_000],
    "max_source_positions": 1_000_000_000,
    "layerdrop": 0.9,
    "apply_spec_augment": True,
    "mask_time_length": -3,
    "problem_type": "nonsense",
    "num_feat_extract_layers": 3,
    "device_map": "auto",
    "tie_word_embeddings": "yes",
    "attribute_map": {"hidden_size": "vocab_size"},
    "model_input_names": 5,
    "distributed_config": {"tp_size": 4},
    "__class__": "str",
    "to_dict": 3,
}
FAKE_KERNELS = """
import pathlib
print("kernels imported")
def get_kernel(*args, **kwargs):
    pathlib.Path(__file__).with_name("fetched").write_text(str(args))
    raise RuntimeError("fetched")
def use_kernel_forward_from_hub(name):
    return lambda kind: kind
def use_kernelized_func(*functions):
    return lambda kind: kind
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {"__init__": lambda self, *args, **kwargs: None})
"""


def change(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_what_is_ours_to_set_has_no_effect(hubert_folder: Path) -> None:
    wanted = auscult.load(f"hf:{hubert_folder}").spec
    path = hubert_folder / "config.json"
    plain = path.read_text()
    for name, value in OURS.items():
        path.write_text(json.dumps(json.loads(plain) | {name: value}))
        upstream: Any = auscult.load(f"hf:{hubert_folder}")
        assert upstream.spec.sha256 == wanted.sha256, name
        assert upstream.model.config._attn_implementation in ("sdpa", "eager"), name
        assert {x.dtype for x in upstream.parameters()} == {torch.float32}, name


def test_all_of_it_at_once_on_every_architecture(tiny: Any, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "changed"
    shutil.copytree(tiny.folder, folder)
    change(folder, **{name: x for name, x in OURS.items() if not name.startswith("__")})
    (folder / "evil.py").write_text("raise SystemExit('run')")
    (folder / "generation_config.json").write_text("{")
    assert auscult.load(f"hf:{folder}").spec.sha256 == auscult.load(f"hf:{tiny.folder}").spec.sha256
    upstream = auscult.load(f"random(hf:{folder})")
    audio = Waveforms.of([torch.randn(5000, generator=torch.Generator().manual_seed(0))])
    with torch.no_grad():
        assert bool(torch.isfinite(upstream(audio).layers[-1]).all())


@pytest.mark.slow
def test_no_kernel_is_fetched(hubert_folder: Path, tmp_path: Path) -> None:
    """Where the package is installed, transformers would: also the names in upper case do."""
    package = tmp_path / "site" / "kernels"
    (package / "layer").mkdir(parents=True)
    (package / "__init__.py").write_text(FAKE_KERNELS)
    (package / "layer" / "__init__.py").touch()
    (package / "layer" / "mode.py").write_text("class Mode: pass")
    from transformers.utils.import_utils import KERNELS_MIN_VERSION

    about = tmp_path / "site" / f"kernels-{KERNELS_MIN_VERSION}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: kernels\nVersion: {KERNELS_MIN_VERSION}\n"
    )
    change(hubert_folder, **OURS)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); import auscult\n"
        "from auscult.errors import UserError\n"
        "from transformers.utils import is_kernels_available\n"
        "assert is_kernels_available()\n"
        f"for address in ('hf:{hubert_folder}', 'random(hf:{hubert_folder})'):\n"
        "    auscult.load(address)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (package / "fetched").exists()


def test_an_adapter_beside_the_weights_is_refused(hubert_folder: Path) -> None:
    """PEFT's would be put on top of another model, which transformers fetches."""
    (hubert_folder / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "someone/other", "peft_type": "LORA"}'
    )
    for address in (f"hf:{hubert_folder}", f"random(hf:{hubert_folder})"):
        with pytest.raises(UserError, match="holds an adapter of PEFT .* merge it"):
            auscult.load(address)


def test_adapters_inside_blocks_are_weights(tmp_path: Path) -> None:
    """Those of massively multilingual wav2vec 2.0 change what each block gives."""
    from transformers import AutoModel, Wav2Vec2Config

    config = Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        adapter_attn_dim=6,
    )
    torch.manual_seed(0)
    model = AutoModel.from_config(config).eval()
    model.save_pretrained(tmp_path)
    samples = torch.randn(4000)
    with torch.no_grad():
        found = auscult.load(f"hf:{tmp_path}")(Waveforms.of([samples])).layers[-1]
        variance, mean = torch.var_mean(samples, correction=0)
        wanted = model((samples - mean)[None] / torch.sqrt(variance + 1e-7)).last_hidden_state
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    change(tmp_path, adapter_attn_dim=None)
    with_adapters = auscult.load(f"hf:{tmp_path}").spec
    assert with_adapters.num_parameters == model.num_parameters() - 2 * (2 * 32 * 6 + 32 * 3 + 6)


HUGE = 1_000_000_000
SENTENCES: Mapping[str, tuple[dict[str, Any], str]] = {
    "layers": ({"num_hidden_layers": HUGE}, "num_hidden_layers is 1000000000; expected from 1"),
    "many layers": ({"num_hidden_layers": 200}, "lacks|describes an encoder of"),
    "no layers": ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
    "width": ({"hidden_size": HUGE}, "hidden_size is 1000000000"),
    "wide": ({"hidden_size": 1 << 16}, "other shapes|describes an encoder of"),
    "inner": ({"intermediate_size": 1 << 16}, "other shapes|describes an encoder of"),
    "heads": ({"num_attention_heads": HUGE}, "num_attention_heads is"),
    "convolutions": ({"conv_dim": [16] * 9999}, "conv_dim has 9,999 entries; expected 32 at most"),
    "all convolutions": (
        {name: [1] * 9999 for name in ("conv_dim", "conv_kernel", "conv_stride")},
        "conv_dim has 9,999 entries; expected 32 at most",
    ),
    "no convolutions": (
        {name: [] for name in ("conv_dim", "conv_kernel", "conv_stride")},
        "it has no convolutions",
    ),
    "channels": ({"conv_dim": [HUGE] * 7}, "conv_dim is"),
    "kernel": ({"conv_kernel": [HUGE] * 7}, "conv_kernel is"),
    "stride": ({"conv_stride": [0] * 7}, "conv_stride is"),
    "strides": ({"conv_stride": [1] * 7}, "a frame reads .* samples every 1; expected"),
    "positions": ({"num_conv_pos_embeddings": HUGE}, "num_conv_pos_embeddings is"),
    "groups": ({"num_conv_pos_embedding_groups": 5}, "does not divide a width of 32"),
    "infinite": ({"layer_norm_eps": float("inf")}, "layer_norm_eps is inf"),
    "no number": ({"layer_norm_eps": float("nan")}, "layer_norm_eps is nan"),
    "text": ({"hidden_size": "32"}, "Field 'hidden_size' expected int, got str"),
    "fraction": ({"hidden_size": 32.5}, "Field 'hidden_size' expected int, got float"),
    "list": ({"hidden_size": [32]}, "Field 'hidden_size' expected int, got list"),
    "nothing": ({"num_attention_heads": None}, "expected int, got NoneType"),
    "table": ({"conv_dim": {"a": 1}}, "is wrong: "),
    "nested": ({"conv_dim": [[[16]]] * 7}, "is wrong: "),
    "flag": ({"do_stable_layer_norm": "yes"}, "expected true or false"),
    "norm": ({"feat_extract_norm": "batch"}, "expected group or layer"),
    "code": ({"hidden_act": "xielu"}, "hidden_act is 'xielu'; expected gelu or"),
    "blocks apart": ({"per_layer_config": {"0": {"layer_norm_eps": 1}}}, "per_layer_config"),
    "surrogate": ({"model_type": "\ud800"}, r"is a '\\ud800' model"),
    "kind": ({"model_type": ["hubert"]}, r"is a \['hubert'\] model"),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_values_that_cannot_be(hubert_folder: Path, name: str) -> None:
    settings, sentence = SENTENCES[name]
    change(hubert_folder, **settings)
    for address in (f"hf:{hubert_folder}", f"random(hf:{hubert_folder})"):
        with pytest.raises(UserError, match=sentence):
            auscult.load(address)


@pytest.mark.parametrize("text", ["[]", "null", "{", "", "\ufeff{", '{"a":' * 99999, "\0"])
def test_files_that_are_no_object(hubert_folder: Path, text: str) -> None:
    (hubert_folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config.json"):
        auscult.load(f"hf:{hubert_folder}")


def test_very_large_files_are_not_read(hubert_folder: Path) -> None:
    (hubert_folder / "config.json").write_text('{"a": [' + "[]," * (6 << 20) + "[]]}")
    with pytest.raises(UserError, match=r"has [\d,]+ bytes; expected 16,777,216 at most"):
        auscult.load(f"hf:{hubert_folder}")


def test_what_is_built_is_no_larger_than_a_ceiling(hubert_folder: Path) -> None:
    """Without weights beside it, a configuration may describe what others have published."""
    (hubert_folder / "model.safetensors").unlink()
    change(hubert_folder, num_hidden_layers=256, hidden_size=8192, intermediate_size=32768)
    with pytest.raises(UserError, match=r"describes an encoder of [\d,]+ .* 2,500,000,000 at most"):
        auscult.load(f"random(hf:{hubert_folder})")


def test_refusals_take_little_memory(hubert_folder: Path) -> None:
    changed = [x for x, _ in SENTENCES.values() if "model_type" not in x]
    code = (
        "import json, resource, auscult\nfrom pathlib import Path\n"
        "from auscult.errors import UserError\n"
        f"folder = {str(hubert_folder)!r}\npath = Path(folder, 'config.json')\n"
        "first = path.read_text()\nauscult.load('hf:' + folder)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"for settings in json.loads({json.dumps(changed)!r}):\n"
        "    path.write_text(json.dumps(json.loads(first) | settings))\n"
        "    for address in ('hf:' + folder, 'random(hf:' + folder + ')'):\n"
        "        try:\n            auscult.load(address)\n"
        "        except UserError: pass\n        else: raise SystemExit(str(settings))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable], input=code, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < 50_000  # kilobytes


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "int8"])
def test_quantised_weights_are_refused(hubert_folder: Path, dtype: str) -> None:
    """They would need their scales, whatever the configuration says of them."""
    path = hubert_folder / "model.safetensors"
    name = "hubert.encoder.layers.0.attention.k_proj.weight"
    weights = load_file(path)
    weights[name] = weights[name].to(getattr(torch, dtype))
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"other shapes .*k_proj.weight"):
        auscult.load(f"hf:{hubert_folder}")
