"""Files of fairseq, s3prl and torchaudio: parity with their owners, contract, what is refused."""

import argparse
import logging
import pickle
import subprocess
import sys
import types
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.testing import assert_close

import auscult
from auscult.bridge import hushed, repair
from auscult.contracts import Waveforms
from auscult.errors import UserError
from auscult.testing import run_checks
from auscult.upstreams import load_upstream
from auscult.upstreams.conversion import parse_convolutions
from auscult.upstreams.distiller import read_prediction_heads
from auscult.upstreams.huggingface import HuggingFaceUpstream

pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`")  # s3prl's

SAMPLES = 5123
CONV = "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2"
TINY = {
    "conv_feature_layers": CONV,
    "encoder_layers": 3,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48,
    "encoder_attention_heads": 4,
    "conv_pos": 16,
    "conv_pos_groups": 4,
    "encoder_layerdrop": 0.1,
    "final_dim": 8,
}
BASE = {"extractor_mode": "default", "layer_norm_first": False, "conv_bias": False}
PRE = {"extractor_mode": "layer_norm", "layer_norm_first": True}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "base": BASE,
    "large": PRE | {"conv_bias": False},
    "large_lv60": PRE | {"conv_bias": True},
    "group_pre_norm": BASE | {"layer_norm_first": True, "conv_pos": 15},
    "layer_post_norm": PRE | {"layer_norm_first": False, "activation_fn": "relu"},
}
FAMILIES = ("hubert", "wav2vec2")


def samples() -> Tensor:
    return 0.1 * torch.randn(SAMPLES, generator=torch.Generator().manual_seed(3)) + 0.02


def shaken(model: nn.Module, seed: int = 0) -> Any:
    """The model with weights that are nowhere zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def build(family: str, **options: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """A tiny pretraining model of s3prl with the options of model and task that made it."""
    repair()
    with hushed():
        from s3prl.upstream.hubert import hubert_model as hubert
        from s3prl.upstream.wav2vec2 import wav2vec2_model as wav2vec2
    task = {"normalize": options["extractor_mode"] == "layer_norm", "sample_rate": 16_000}
    model = {"_name": family, **TINY, **options}
    own: Any = {
        "hubert": {"label_rate": 50.0},
        "wav2vec2": {"quantize_targets": True, "latent_vars": 5},
    }
    model |= own[family]
    plain = {name: value for name, value in model.items() if name != "_name"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        if family == "hubert":
            built = hubert.HubertModel(
                hubert.HubertConfig(**plain),
                hubert.HubertPretrainingConfig(**task),
                [["a", "b", "c"]],
            )
        else:
            built = wav2vec2.Wav2Vec2Model(wav2vec2.Wav2Vec2Config(**plain))
    return shaken(built), model, task


def converted(family: str, **options: Any) -> dict[str, Any]:
    """What s3prl's conversion of a fairseq checkpoint holds."""
    built, model, task = build(family, **options)
    return {
        "task_cfg": task,
        "model_cfg": model,
        "model_weight": built.state_dict(),
        "dictionaries_symbols": [["a", "b", "c"]],
    }


def save(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def encode(spec: str) -> list[Tensor]:
    with torch.no_grad():
        return [layer[0] for layer in load_upstream(spec)(Waveforms.of([samples()])).layers]


def say(what: str, found: list[Tensor], wanted: list[Tensor]) -> None:
    """Compare whole tensors and print how far apart they are."""
    assert len(found) == len(wanted)
    apart = max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True))
    print(f"parity: {what} {apart:.1e}")
    for one, other in zip(found, wanted, strict=True):  # the same float32 in another order
        assert_close(one, other, atol=2e-5, rtol=1e-5)


# --- s3prl and fairseq -----------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_states_equal_s3prl(family: str, variant: str, tmp_path: Path) -> None:
    path = save(converted(family, **VARIANTS[variant]), tmp_path / "model.pt")
    repair()
    with hushed(stderr=True):
        from s3prl import hub

        expert = getattr(hub, f"{family}_local")(ckpt=str(path)).eval()
        with torch.no_grad():
            wanted = [state[0] for state in expert([samples()])["hidden_states"]]
    say(f"{family} ({variant}) and s3prl", encode(f"{family}:{path}"), wanted)


@pytest.mark.parametrize(
    "group, change",
    [
        ("model_cfg", {"layer_norm_first": False}),
        ("model_cfg", {"encoder_attention_heads": 8}),
        ("model_cfg", {"activation_fn": "tanh"}),
        ("task_cfg", {"normalize": False}),
    ],
)
def test_parity_would_notice(group: str, change: dict[str, Any], tmp_path: Path) -> None:
    """What no tensor shows is read from the options: another value, other states."""
    content = converted("hubert", **VARIANTS["large"])
    right = encode(f"hubert:{save(content, tmp_path / 'right.pt')}")
    content[group] = content[group] | change
    wrong = encode(f"hubert:{save(content, tmp_path / 'wrong.pt')}")
    with pytest.raises(AssertionError):
        say(f"a file with {change}", wrong, right)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_file_says_is_in_the_spec(family: str, tmp_path: Path) -> None:
    for variant, options in VARIANTS.items():
        content = converted(family, **options)
        path = save(content, tmp_path / f"{variant}.pt")
        upstream = auscult.load(f"{family}:{path}")
        assert upstream.spec.family == family and upstream.spec.num_layers == 3
        assert upstream.spec.normalize == content["task_cfg"]["normalize"]
        assert ("final_norm" in upstream.spec.convention) == options["layer_norm_first"]
        stored = sum(tensor.numel() for tensor in content["model_weight"].values())
        assert stored == upstream.spec.num_parameters + upstream.spec.head_parameters
        config: Any = upstream.get_submodule("model").config
        norm = "layer" if options["extractor_mode"] == "layer_norm" else "group"
        assert config.feat_extract_norm == norm
        assert config.conv_bias == options.get("conv_bias", False)


class _Pickled:
    """Modules that fairseq would have, for as long as something of theirs is pickled."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch

    def make(self, module: str, kind: type) -> type:
        kind.__module__, kind.__qualname__ = module, kind.__name__
        stand_in = types.ModuleType(module)
        setattr(stand_in, kind.__name__, kind)
        for depth in range(1, module.count(".") + 1):
            parent = ".".join(module.split(".")[:depth])
            self.patch.setitem(sys.modules, parent, types.ModuleType(parent))
        self.patch.setitem(sys.modules, module, stand_in)
        return kind


def fairseq_files(
    family: str, variant: str, folder: Path, patch: pytest.MonkeyPatch
) -> dict[str, Path]:
    """One encoder in the forms that fairseq has had for checkpoints."""
    found = converted(family, **VARIANTS[variant])
    model, task, weights = found["model_cfg"], found["task_cfg"], found["model_weight"]
    pickled = _Pickled(patch)
    dictionary = pickled.make("fairseq.data.dictionary", type("Dictionary", (), {}))()
    dictionary.symbols = ["<s>", "a"]
    mode = Enum("Mode", {"CHOSEN": model["extractor_mode"]}, type=str)  # type: ignore[misc]
    choice = pickled.make("fairseq.dataclass.constants", mode)
    rest = {
        "task_state": {"dictionaries": [dictionary]},
        "optimizer_history": [{"optimizer_name": "FP16Optimizer", "lr_scheduler_state": {}}],
        "extra_state": {"epoch": 3},
        "last_optimizer_state": None,
    }
    both = model | task | {"arch": family, "task": "audio_pretraining"}
    cfg = {"model": model | {"extractor_mode": choice(model["extractor_mode"])}, "task": task}
    contents: dict[str, dict[str, Any]] = {
        "dict": {"args": None, "cfg": cfg},
        "omegaconf": {"args": None, "cfg": OmegaConf.create({"model": model, "task": task})},
        "namespace": {"args": argparse.Namespace(**both)},
    }
    files = {
        form: save(content | rest | {"model": weights}, folder / f"{form}.pt")
        for form, content in contents.items()
    }
    with patch.context() as gone:  # what read them has no fairseq
        for name in [name for name in sys.modules if name.split(".")[0] == "fairseq"]:
            gone.delitem(sys.modules, name)
        return files | {"s3prl": save(found, folder / "s3prl.pt")}


@pytest.mark.parametrize("family, variant", [("hubert", "large"), ("wav2vec2", "base")])
def test_fairseq_forms_hold_one_encoder(
    family: str, variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = fairseq_files(family, variant, tmp_path, monkeypatch)
    specs = [auscult.load(f"{family}:{path}").spec for path in files.values()]
    assert len(specs) == 4 and len({spec.sha256 for spec in specs}) == 1 and specs[0].sha256
    assert {spec.normalize for spec in specs} == {variant == "large"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", ["cfg", "args"])
def test_fine_tuned_files_hold_the_encoder(family: str, form: str, tmp_path: Path) -> None:
    found = converted(family, **VARIANTS["large_lv60"])
    plain = auscult.load(f"{family}:{save(found, tmp_path / 'plain.pt')}").spec
    heads = ("final_proj", "label_embs", "quantizer", "project_q")
    weights = {
        f"w2v_encoder.w2v_model.{name}": tensor
        for name, tensor in found["model_weight"].items()
        if not name.startswith(heads)
    }
    weights |= {
        "w2v_encoder.proj.weight": torch.ones(7, 32),
        "w2v_encoder.proj.bias": torch.ones(7),
    }
    task = {"normalize": True, "_name": "audio_finetuning"}
    if form == "cfg":
        inner = {"model": found["model_cfg"], "task": found["task_cfg"]}
        options: Any = {"cfg": {"model": {"_name": "hubert_ctc", "w2v_args": inner}, "task": task}}
    else:
        inner = argparse.Namespace(**found["model_cfg"])  # type: ignore[assignment]
        options = {"args": argparse.Namespace(arch="wav2vec_ctc", normalize=True, w2v_args=inner)}
    path = save(options | {"model": weights}, tmp_path / "tuned.pt")
    spec = auscult.load(f"{family}:{path}").spec
    assert spec.sha256 == plain.sha256 and spec.head_parameters == 7 * 32 + 7


def test_published_heads_are_counted() -> None:
    """The heads of the published Base models, as the two packages' classes make them."""
    sizes: Any = {"conv_feature_layers": "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"}
    sizes |= {"encoder_embed_dim": 768, "encoder_layers": 1, "final_dim": 256}
    repair()
    with hushed(), torch.device("meta"):
        from s3prl.upstream.hubert import hubert_model as hubert
        from s3prl.upstream.wav2vec2 import wav2vec2_model as wav2vec2

        task = hubert.HubertPretrainingConfig()
        options = hubert.HubertConfig(label_rate=50.0, **sizes)
        built = {"hubert": hubert.HubertModel(options, task, [["a"] * 504])}
        config = wav2vec2.Wav2Vec2Config(quantize_targets=True, **sizes)
        built["wav2vec2"] = wav2vec2.Wav2Vec2Model(config)
    from auscult.upstreams.conversion import FAIRSEQ, sort_weights

    counts = {}
    for family, model in built.items():
        _, others = sort_weights(Path(family), model.state_dict(), FAIRSEQ)
        counts[family] = sum(tensor.numel() for tensor in others.values())
    assert counts == {"hubert": 325_888, "wav2vec2": 672_896}


# --- torchaudio ------------------------------------------------------------------------------

_NAMES = {"group": "group_norm", "layer": "layer_norm"}


def torchaudio_options(norm: str, bias: bool, width: int = 128) -> dict[str, Any]:
    return {
        "extractor_mode": _NAMES[norm],
        "extractor_conv_layer_config": [(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16, 2, 2)] * 2,
        "extractor_conv_bias": bias,
        "encoder_embed_dim": width,
        "encoder_projection_dropout": 0.1,
        "encoder_pos_conv_kernel": 16,
        "encoder_pos_conv_groups": 4,
        "encoder_num_layers": 2,
        "encoder_num_heads": min(width // 64, 16),
        "encoder_attention_dropout": 0.1,
        "encoder_ff_interm_features": 48,
        "encoder_ff_interm_dropout": 0.1,
        "encoder_dropout": 0.1,
        "encoder_layer_norm_first": norm == "layer",
        "encoder_layer_drop": 0.1,
    }


def build_torchaudio(norm: str, bias: bool, width: int = 128, labels: int | None = None) -> Any:
    options = torchaudio_options(norm, bias, width)
    return shaken(torchaudio.models.wav2vec2_model(**options, aux_num_out=labels))


@pytest.mark.parametrize("norm, bias", [("group", False), ("layer", False), ("layer", True)])
def test_states_equal_torchaudio(norm: str, bias: bool, tmp_path: Path) -> None:
    model = build_torchaudio(norm, bias)
    path = save(model.state_dict(), tmp_path / "model.pth")
    heard = samples()[None]
    if norm == "layer":
        heard = nn.functional.layer_norm(heard, heard.shape)
    with torch.no_grad():
        outputs, _ = model.extract_features(heard)
        last, _ = model(heard)  # in pre-norm encoders after the final norm
    found = encode(f"wav2vec2:{path}")
    name = f"torchaudio ({norm} norm{', biases' * bias})"
    say(name, found[1:], [*(state[0] for state in outputs[:-1]), last[0]])
    assert all(torch.equal(*pair) for pair in zip(found, encode(f"hubert:{path}"), strict=True))


def test_heads_of_wide_torchaudio_models() -> None:
    """XLS-R and HuBERT X-Large have 16 wider heads, not heads of 64."""
    published = {
        name: getattr(torchaudio.pipelines, name)._params
        for name in dir(torchaudio.pipelines)
        if name.startswith(("WAV2VEC2", "HUBERT", "VOXPOPULI"))
    }
    assert len(published) >= 25
    for name, options in published.items():
        width, norm = options["encoder_embed_dim"], options["extractor_mode"]
        assert options["encoder_num_heads"] == min(width // 64, 16), name
        assert options["encoder_layer_norm_first"] == (norm == "layer_norm"), name
        bundle = getattr(torchaudio.pipelines, name)
        assert bundle._normalize_waveform == (norm == "layer_norm"), name


def test_torchaudio_says_what_was_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(build_torchaudio("layer", True, labels=5).state_dict(), tmp_path / "asr.pth")
    with caplog.at_level(logging.INFO, logger="auscult"):
        spec = auscult.load(f"wav2vec2:{path}").spec
    assert spec.heads == (2, 2) and spec.normalize and spec.head_parameters == 5 * 128 + 5
    assert "2 for a width of 128" in caplog.text and "pre-norm blocks" in caplog.text
    assert "they are normalised, as goes with its extractor's layer norm" in caplog.text


def test_torchaudio_wrappers_hold_one_encoder(tmp_path: Path) -> None:
    """A bundle's model that normalises, and the pretraining model under Lightning."""
    model = build_torchaudio("group", False)
    plain = save(model.state_dict(), tmp_path / "plain.pth")
    wrapped = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    pretraining = torchaudio.models.HuBERTPretrainModel(
        model,
        torchaudio.models.wav2vec2.components.MaskGenerator(
            128, 0.1, "static", 0.0, 10, False, 1, 0.1, "static", 0.0, 10, False, 1
        ),
        torchaudio.models.wav2vec2.components.LogitGenerator(128, 5, 8, False, False),
        None,
    )
    lit = {"state_dict": {f"model.{k}": v for k, v in pretraining.state_dict().items()}, "epoch": 1}
    specs = [
        auscult.load(f"hubert:{path}").spec
        for path in (
            plain,
            save(wrapped, tmp_path / "bundle.pth"),
            save(lit, tmp_path / "lit.ckpt"),
        )
    ]
    assert specs[0].sha256 == specs[1].sha256
    assert specs[2].num_parameters == specs[0].num_parameters + 128  # the mask vector
    assert specs[2].head_parameters == 128 * 8 + 8 + 5 * 8


# --- DistilHuBERT ----------------------------------------------------------------------------


def distiller_options(**options: Any) -> dict[str, Any]:
    sizes = {name: value for name, value in TINY.items() if name != "conv_feature_layers"}
    return {
        **sizes,
        "extractor_conv_feature_layers": CONV,
        "encoder_layers": 2,
        "final_dim": 24,
        "out_layer_type": "expand-last",
        "task_emb_type": "expand-last",
        "n_tasks": 3,
        "pred_layer_id": [4, 8, 12],
    } | options


def save_distiller(path: Path, **options: Any) -> Path:
    repair()
    with hushed():
        from s3prl.upstream.distiller.model import DistillerConfig, DistillerModel

        found = distiller_options(**options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            model = shaken(DistillerModel(DistillerConfig(found)))
    config = {"distiller": found, "teacher": {"model": "hubert"}, "audio": {}}
    return save({"Distiller": model.state_dict(), "Config": config, "Step": 9}, path)


DISTILLERS: Mapping[str, Mapping[str, Any]] = {
    "published": {},
    "one head": {"n_tasks": 1, "pred_layer_id": [12], "out_layer_inter_dim": 20},
    "pre-norm": {"layer_norm_first": True, "extractor_mode": "layer_norm"},
}


@pytest.mark.parametrize("variant", DISTILLERS)
def test_distiller_equals_s3prl(variant: str, tmp_path: Path) -> None:
    path = save_distiller(tmp_path / "distiller.ckpt", **DISTILLERS[variant])
    with hushed(stderr=True):
        from s3prl import hub

        expert = hub.distiller_local(ckpt=str(path)).eval()
    encoder = expert.model.model.encoder
    entered: list[Tensor] = []
    left: list[Tensor] = []
    encoder.layers[0].register_forward_pre_hook(lambda _, args: entered.append(args[0][:, 0]))
    encoder.register_forward_hook(lambda _, args, output: left.append(output[0][0]))
    with torch.no_grad():
        states = expert([samples()])["hidden_states"]
    found = encode(f"distilhubert:{path}")
    # s3prl: projected features, blocks, predictions; its last block without the final norm
    say(f"DistilHuBERT ({variant}) and s3prl", found, [entered[0], states[1][0], left[0]])
    assert not torch.allclose(found[0], states[0][0])
    heads = read_prediction_heads(path)
    with torch.no_grad():
        predictions = heads(found[-1][None])
    assert heads.teacher_layers == tuple(distiller_options(**DISTILLERS[variant])["pred_layer_id"])
    assert predictions.shape == (1, len(heads.teacher_layers), len(found[0]), 24)
    wanted = [state[0] for state in states[3:]]
    say(f"DistilHuBERT's predictions ({variant}) and s3prl", list(predictions[0]), wanted)


def test_distiller_spec(tmp_path: Path) -> None:
    path = save_distiller(tmp_path / "distiller.ckpt")
    upstream = auscult.load(f"distilhubert:{path}")
    assert upstream.spec.normalize is False and upstream.spec.num_layers == 2
    heads = read_prediction_heads(path)
    assert upstream.spec.head_parameters == sum(p.numel() for p in heads.parameters())
    stored = torch.load(path)["Distiller"]
    everything = upstream.spec.num_parameters + upstream.spec.head_parameters
    assert everything == sum(tensor.numel() for tensor in stored.values())


def test_distiller_without_heads(tmp_path: Path) -> None:
    path = save_distiller(
        tmp_path / "d.ckpt",
        task_emb_type="self-hidden",
        out_layer_type="none",
        pred_layer_id=[1] * 3,
    )
    assert auscult.load(f"distilhubert:{path}").spec.head_parameters == 0
    with pytest.raises(UserError, match="has no prediction heads"):
        read_prediction_heads(path)


# --- all of them -----------------------------------------------------------------------------


def hubert_file(folder: Path, **change: Any) -> Path:
    return save(converted("hubert", **BASE) | change, folder / "hubert.pt")


MAKERS: Mapping[str, Callable[[Path], str]] = {
    "hubert": lambda path: f"hubert:{hubert_file(path)}",
    "wav2vec2": lambda path: (
        f"wav2vec2:{save(converted('wav2vec2', **VARIANTS['large_lv60']), path / 'w.pt')}"
    ),
    "distilhubert": lambda path: f"distilhubert:{save_distiller(path / 'd.ckpt')}",
    "torchaudio": lambda path: (
        f"hubert:{save(build_torchaudio('layer', False).state_dict(), path / 't.pth')}"
    ),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_contract(maker: str, tmp_path: Path) -> None:
    upstream = auscult.load(MAKERS[maker](tmp_path))
    assert isinstance(upstream, HuggingFaceUpstream)
    for padding in ("group", "mask"):
        upstream.padding = padding
        findings = list(run_checks(upstream))
        assert [f"{f.check}: {f.why}" for f in findings if not f.passed] == []
        assert len(findings) >= 10 and not any(finding.why for finding in findings)


@pytest.mark.parametrize("maker", MAKERS)
def test_random_twin_keeps_the_shape_alone(maker: str, tmp_path: Path) -> None:
    address = MAKERS[maker](tmp_path)
    loaded, twin = auscult.load(address).spec, auscult.load(f"random({address}, seed=3)").spec
    other = auscult.load(f"random({address}, seed=4)").spec
    assert len({loaded.sha256, twin.sha256, other.sha256}) == 3
    assert twin.num_parameters == loaded.num_parameters and twin.normalize == loaded.normalize
    assert twin.head_parameters == loaded.head_parameters and twin.heads == loaded.heads
    outline = auscult.upstreams.outline_upstream(f"random({address})").spec
    assert outline.num_parameters == loaded.num_parameters and outline.sha256 == ""


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


def test_exported_to_transformers_it_is_the_same(tmp_path: Path) -> None:
    """The fingerprint of an encoder that reads samples as they are is one, whatever its file."""
    upstream = auscult.load(f"hubert:{hubert_file(tmp_path)}")
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
        "lacks 2 of the encoder's tensors, in transformers' names encoder.layers.1.feed_forward",
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
        r"output_dense.bias has the shape \(5,\); the encoder's other tensors ask for \(32,\)",
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
    "rate": (
        lambda c: c | {"task_cfg": {"sample_rate": 8000}},
        "reads audio at 8000 Hz; Auscult works at 16000",
    ),
    "options": (
        lambda c: c | {"model_cfg": "hubert"},
        "expected options in model_cfg, got 'hubert'",
    ),
    "code": (
        lambda c: (
            c | {"model_cfg": c["model_cfg"] | {"conv_feature_layers": "__import__('os').getcwd()"}}
        ),
        "its convolutions cannot be read",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused(name: str, tmp_path: Path) -> None:
    change, sentence = BROKEN[name]
    path = save(change(converted("hubert", **BASE)), tmp_path / "broken.pt")
    with pytest.raises(UserError, match=sentence) as raised:
        auscult.load(f"hubert:{path}")
    assert str(path) in str(raised.value)


def test_another_family_is_refused(tmp_path: Path) -> None:
    files = {
        "hubert": hubert_file(tmp_path),
        "wav2vec2": save(converted("wav2vec2", **BASE), tmp_path / "wav2vec2.pt"),
        "distilhubert": save_distiller(tmp_path / "distiller.ckpt"),
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
    content = converted("wav2vec2", **BASE)
    del content["model_cfg"]["_name"]  # the tensors alone tell
    with pytest.raises(UserError, match="checkpoint of wav2vec 2.0, not HuBERT .it holds quantize"):
        auscult.load(f"hubert:{save(content, tmp_path / 'nameless.pt')}")


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    whole = hubert_file(tmp_path).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    save({"loss": 1.0}, tmp_path / "other.pt")
    save([1], tmp_path / "list.pt")
    save({"weight": torch.ones(2)}, tmp_path / "linear.pt")
    odd = build_torchaudio("group", False).state_dict()
    odd["feature_extractor.conv_layers.1.conv.weight"] = torch.ones(16, 16, 4)
    save(odd, tmp_path / "odd.pt")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(eval, protocol=2))
    for name, sentence in {
        "cut.pt": "cut.pt is ",
        "other.pt": "is no checkpoint of fairseq .* it holds loss",
        "list.pt": "expected a checkpoint's dict, got a list",
        "linear.pt": "holds neither HuBERT nor wav2vec 2.0",
        "odd.pt": "a kernel of 4, and no configuration",
        "missing.pt": "no file or folder .* models of the hub are read by hf and",
        "evil.pt": "expected a checkpoint's dict",
    }.items():
        with pytest.raises(UserError, match=sentence):
            auscult.load(f"hubert:{tmp_path / name}")
    for spec, sentence in {
        "hubert": "hubert needs a file or folder, such as",
        "hubert:x.pt@a_small": "the family hubert has no subnets",
    }.items():
        with pytest.raises(UserError, match=sentence):
            auscult.load(spec)


@pytest.mark.parametrize(
    "text",
    [
        "[(512,10,5)] * 101",
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
