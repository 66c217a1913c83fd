"""Files of fairseq, s3prl and torchaudio: parity with their owners, what their specs say."""

import argparse
import logging
import sys
import types
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.testing import assert_close
from torchaudio.models.wav2vec2 import components

import auscult
from auscult.bridge import hushed, repair
from auscult.contracts import Waveforms
from auscult.errors import UserError
from auscult.upstreams import load_upstream
from auscult.upstreams.bare import PUBLISHED_HEADS
from auscult.upstreams.distilhubert.distiller import read_prediction_heads

pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`")  # s3prl's

SAMPLES = 5123
VARIANTS = ("base", "large", "large_lv60", "group_pre_norm", "layer_post_norm")
FAMILIES = ("hubert", "wav2vec2")


def samples() -> Tensor:
    return 0.1 * torch.randn(SAMPLES, generator=torch.Generator().manual_seed(3)) + 0.02


def save(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def encode(spec: str) -> list[Tensor]:
    with torch.no_grad():
        return [layer[0] for layer in load_upstream(spec)(Waveforms.of([samples()])).layers]


def assert_parity(what: str, found: list[Tensor], wanted: list[Tensor]) -> None:
    """Compare whole tensors and print how far apart they are."""
    assert len(found) == len(wanted)
    apart = max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True))
    print(f"parity: {what} {apart:.1e}")
    for one, other in zip(found, wanted, strict=True):  # the same float32 in another order
        assert_close(one, other, atol=2e-5, rtol=1e-5)


# --- s3prl and fairseq -----------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_states_equal_s3prl(foreign: Any, family: str, variant: str, tmp_path: Path) -> None:
    path = save(foreign.converted(family, variant), tmp_path / "model.pt")
    repair()
    with hushed(stderr=True):
        from s3prl import hub

        expert = getattr(hub, f"{family}_local")(ckpt=str(path)).eval()
        with torch.no_grad():
            wanted = [state[0] for state in expert([samples()])["hidden_states"]]
    assert_parity(f"{family} ({variant}) and s3prl", encode(f"{family}:{path}"), wanted)


@pytest.mark.parametrize(
    "group, change",
    [
        ("model_cfg", {"layer_norm_first": False}),
        ("model_cfg", {"encoder_attention_heads": 8}),
        ("model_cfg", {"activation_fn": "tanh"}),
        ("task_cfg", {"normalize": False}),
    ],
)
def test_parity_would_notice(
    foreign: Any, group: str, change: dict[str, Any], tmp_path: Path
) -> None:
    """What no tensor shows is read from the options: another value, other states."""
    content = foreign.converted("hubert", "large")
    right = encode(f"hubert:{save(content, tmp_path / 'right.pt')}")
    content[group] = content[group] | change
    wrong = encode(f"hubert:{save(content, tmp_path / 'wrong.pt')}")
    with pytest.raises(AssertionError):
        assert_parity(f"a file with {change}", wrong, right)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_file_says_is_in_the_spec(foreign: Any, family: str, tmp_path: Path) -> None:
    assert set(VARIANTS) == set(foreign.variants)
    for variant, options in foreign.variants.items():
        content = foreign.converted(family, variant)
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
    foreign: Any, family: str, variant: str, folder: Path, patch: pytest.MonkeyPatch
) -> dict[str, Path]:
    """One encoder in the forms that fairseq has had for checkpoints."""
    found = foreign.converted(family, variant)
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
    foreign: Any, family: str, variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = fairseq_files(foreign, family, variant, tmp_path, monkeypatch)
    specs = [auscult.load(f"{family}:{path}").spec for path in files.values()]
    assert len(specs) == 4 and len({spec.sha256 for spec in specs}) == 1 and specs[0].sha256
    assert {spec.normalize for spec in specs} == {variant == "large"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", ["cfg", "args"])
def test_fine_tuned_files_hold_the_encoder(
    foreign: Any, family: str, form: str, tmp_path: Path
) -> None:
    found = foreign.converted(family, "large_lv60")
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
        built: dict[str, nn.Module] = {"hubert": hubert.HubertModel(options, task, [["a"] * 504])}
        config = wav2vec2.Wav2Vec2Config(quantize_targets=True, **sizes)
        built["wav2vec2"] = wav2vec2.Wav2Vec2Model(config)
    from auscult.upstreams.layout import sort_weights

    counts = {}
    for family, model in built.items():
        heads = sort_weights(Path(family), model.state_dict()).heads
        counts[family] = sum(tensor.numel() for tensor in heads.values())
    assert counts == {"hubert": 325_888, "wav2vec2": 672_896}


# --- torchaudio ------------------------------------------------------------------------------


@pytest.mark.parametrize("norm, bias", [("group", False), ("layer", False), ("layer", True)])
def test_states_equal_torchaudio(foreign: Any, norm: str, bias: bool, tmp_path: Path) -> None:
    model = foreign.torchaudio(norm, bias)
    path = save(model.state_dict(), tmp_path / "model.pth")
    heard = samples()[None]
    if norm == "layer":
        heard = nn.functional.layer_norm(heard, heard.shape)
    with torch.no_grad():
        outputs, _ = model.extract_features(heard)
        last, _ = model(heard)  # in pre-norm encoders after the final norm
    found = encode(f"wav2vec2:{path}?heads=2")
    name = f"torchaudio ({norm} norm{', biases' * bias})"
    assert_parity(name, found[1:], [*(state[0] for state in outputs[:-1]), last[0]])
    assert all(
        torch.equal(*pair) for pair in zip(found, encode(f"hubert:{path}?heads=2"), strict=True)
    )


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
        assert options["encoder_num_heads"] == PUBLISHED_HEADS[width], name
        assert options["encoder_layer_norm_first"] == (norm == "layer_norm"), name
        bundle = getattr(torchaudio.pipelines, name)
        assert bundle._normalize_waveform == (norm == "layer_norm"), name


def test_torchaudio_says_what_was_taken(
    foreign: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(foreign.torchaudio("layer", True, labels=5).state_dict(), tmp_path / "asr.pth")
    with caplog.at_level(logging.INFO, logger="auscult"):
        spec = auscult.load(f"wav2vec2:{path}?heads=2").spec
    assert spec.heads == (2, 2) and spec.normalize and spec.head_parameters == 5 * 128 + 5
    assert "heads for a width" not in caplog.text and "pre-norm blocks" in caplog.text
    assert "they are normalised, as goes with its extractor's layer norm" in caplog.text


def test_torchaudio_wrappers_hold_one_encoder(foreign: Any, tmp_path: Path) -> None:
    """A bundle's model that normalises, and the pretraining model under Lightning."""
    model = foreign.torchaudio("group", False)
    plain = save(model.state_dict(), tmp_path / "plain.pth")
    wrapped = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    pretraining = torchaudio.models.HuBERTPretrainModel(
        model,
        components.MaskGenerator(
            128, 0.1, "static", 0.0, 10, False, 1, 0.1, "static", 0.0, 10, False, 1
        ),
        components.LogitGenerator(128, 5, 8, False, False),
        None,
    )
    lit = {"state_dict": {f"model.{k}": v for k, v in pretraining.state_dict().items()}, "epoch": 1}
    specs = [
        auscult.load(f"hubert:{path}?heads=2").spec
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


DISTILLERS: Mapping[str, Mapping[str, Any]] = {
    "published": {},
    "one head": {"n_tasks": 1, "pred_layer_id": [12], "out_layer_inter_dim": 20},
    "pre-norm": {"layer_norm_first": True, "extractor_mode": "layer_norm"},
}


@pytest.mark.parametrize("variant", DISTILLERS)
def test_distiller_equals_s3prl(foreign: Any, variant: str, tmp_path: Path) -> None:
    path = save(foreign.distilled(**DISTILLERS[variant]), tmp_path / "distiller.ckpt")
    with hushed(stderr=True):
        from s3prl import hub

        expert = hub.distiller_local(ckpt=str(path)).eval()
    encoder: Any = expert.model.model.encoder
    entered: list[Tensor] = []
    left: list[Tensor] = []
    encoder.layers[0].register_forward_pre_hook(lambda _, args: entered.append(args[0][:, 0]))
    encoder.register_forward_hook(lambda _, args, output: left.append(output[0][0]))
    with torch.no_grad():
        states = expert([samples()])["hidden_states"]
    found = encode(f"distilhubert:{path}")
    # s3prl: projected features, blocks, predictions; its last block without the final norm
    assert_parity(f"DistilHuBERT ({variant}) and s3prl", found, [entered[0], states[1][0], left[0]])
    assert not torch.allclose(found[0], states[0][0])
    heads = read_prediction_heads(path)
    with torch.no_grad():
        predictions = heads(found[-1][None])
    assert heads.teacher_layers == tuple(
        foreign.distiller_options(**DISTILLERS[variant])["pred_layer_id"]
    )
    assert predictions.shape == (1, len(heads.teacher_layers), len(found[0]), 24)
    wanted = [state[0] for state in states[3:]]
    assert_parity(f"DistilHuBERT's predictions ({variant}) and s3prl", list(predictions[0]), wanted)


def test_distiller_spec(foreign: Any, tmp_path: Path) -> None:
    path = save(foreign.distilled(), tmp_path / "distiller.ckpt")
    upstream = auscult.load(f"distilhubert:{path}")
    assert upstream.spec.normalize is False and upstream.spec.num_layers == 2
    heads = read_prediction_heads(path)
    assert upstream.spec.head_parameters == sum(p.numel() for p in heads.parameters())
    stored = torch.load(path)["Distiller"]
    everything = upstream.spec.num_parameters + upstream.spec.head_parameters
    assert everything == sum(tensor.numel() for tensor in stored.values())


def test_distiller_without_heads(foreign: Any, tmp_path: Path) -> None:
    path = save(
        foreign.distilled(
            task_emb_type="self-hidden", out_layer_type="none", pred_layer_id=[1] * 3
        ),
        tmp_path / "d.ckpt",
    )
    assert auscult.load(f"distilhubert:{path}").spec.head_parameters == 0
    with pytest.raises(UserError, match="has no prediction heads"):
        read_prediction_heads(path)
