"""State dicts that people have: each read as far as its tensors and its address say it."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.testing import assert_close

import auscult
from auscult.bridge import hushed, repair
from auscult.contracts import Waveforms
from auscult.errors import UserError
from auscult.testing import run_checks

pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`")  # s3prl's

_SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
_PRE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}


def samples() -> Tensor:
    return 0.1 * torch.randn(5123, generator=torch.Generator().manual_seed(3)) + 0.02


def encode(spec: str) -> list[Tensor]:
    with torch.no_grad():
        return [layer[0] for layer in auscult.load(spec)(Waveforms.of([samples()])).layers]


def save(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def assert_equal(what: str, found: list[Tensor], wanted: list[Tensor]) -> None:
    """Compare whole tensors and print how far apart they are."""
    assert len(found) == len(wanted)
    apart = max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True))
    print(f"parity: {what} {apart:.1e}")
    for one, other in zip(found, wanted, strict=True):  # the same float32 in another order
        assert_close(one, other, atol=1e-5, rtol=1e-5)


def check_padding(spec: str) -> None:
    upstream: Any = auscult.load(spec)
    for padding in ("group", "mask"):
        upstream.padding = padding
        assert [f"{f.check}: {f.why}" for f in run_checks(upstream) if not f.passed] == []


# --- transformers, and what is around its encoders -------------------------------------------


def transformers_model(kind: str, model_class: str = "AutoModel", **settings: Any) -> Any:
    import transformers

    config = transformers.AutoConfig.for_model(kind, **(_SIZE | settings))
    torch.manual_seed(5)
    model = getattr(transformers, model_class).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


KINDS: Mapping[str, tuple[str, dict[str, Any], str]] = {
    "hubert": ("hubert", {}, "heads=4"),
    "hubert large": ("hubert", _PRE, "heads=4"),
    "hubert odd": ("hubert", {"do_stable_layer_norm": True}, "heads=4,norm=pre,normalize=yes"),
    "hubert batch norm": ("hubert", {"conv_pos_batch_norm": True}, "heads=4"),
    "hubert strides": (
        "hubert",
        {"conv_kernel": (8, 4, 4, 4, 4, 2, 2), "conv_stride": (4, 2, 2, 2, 3, 2, 2)},
        "heads=4,strides=4-2-2-2-3-2-2",
    ),
    "distilhubert": ("hubert", {"feat_proj_layer_norm": False}, "heads=4"),
    "wav2vec2": ("wav2vec2", {}, "heads=4"),
    "wav2vec2 biased": ("wav2vec2", {"conv_bias": True}, "heads=4,normalize=no"),
    "wav2vec2 adapted": ("wav2vec2", _PRE | {"adapter_attn_dim": 8}, "heads=4"),
    "wavlm": ("wavlm", {"num_buckets": 24}, "norm=post"),
    "wavlm large": ("wavlm", _PRE, ""),
}


@pytest.mark.parametrize("name", KINDS)
def test_transformers_state_dicts(name: str, tmp_path: Path) -> None:
    """Bare, under a head, in SpeechBrain's wrapper and others' are one encoder: the folder's."""
    from transformers import Wav2Vec2FeatureExtractor

    kind, settings, options = KINDS[name]
    model = transformers_model(kind, **settings)
    model.save_pretrained(tmp_path / "folder")
    normalize = "normalize=yes" in options or settings.get("feat_extract_norm") == "layer"
    Wav2Vec2FeatureExtractor(do_normalize=normalize).save_pretrained(tmp_path / "folder")
    wanted = auscult.load(f"hf:{tmp_path / 'folder'}").spec
    plain = model.state_dict()
    mark = f"?{options}" if options else ""
    older = {
        n.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): x
        for n, x in plain.items()
    }
    files: Mapping[str, Any] = {
        "plain": plain,
        "older": older,
        "head": {f"{model.base_model_prefix}.{n}": x for n, x in plain.items()}
        | {"lm_head.weight": torch.ones(5, 32), "lm_head.bias": torch.ones(5)},
        "speechbrain": {f"model.{n}": x for n, x in plain.items()},
        "recogniser": {f"modules.wav2vec2.model.{n}": x for n, x in plain.items()}
        | {"modules.enc.0.weight": torch.ones(3, 3), "encoder.layers.0.x": torch.ones(1)},
        "lightning": {"state_dict": {f"net.{n}": x for n, x in plain.items()}, "epoch": 3},
        "trainer": {"model": plain, "step": torch.tensor(7), "optimizer": {"state": {}}},
    }
    for file, content in files.items():
        spec = auscult.load(f"{kind}:{save(content, tmp_path / f'{file}.pt')}{mark}").spec
        assert (spec.sha256, file) == (wanted.sha256, file)
        assert spec.heads == wanted.heads and spec.normalize == normalize
        assert spec.head_parameters == (5 * 33 if file == "head" else 0)
    save_file(plain, tmp_path / "other.safetensors")
    assert auscult.load(f"{kind}:{tmp_path / 'other.safetensors'}{mark}").spec.sha256
    twin = auscult.load(f"random({kind}:{tmp_path / 'plain.pt'}{mark})").spec
    assert twin.num_parameters == wanted.num_parameters and twin.sha256 != wanted.sha256
    assert twin.name == f"random({kind}:{tmp_path / 'plain.pt'}{mark})"


def test_an_adapter_behind_the_encoder_is_left_out(tmp_path: Path) -> None:
    model = transformers_model("wav2vec2", "AutoModelForCTC", add_adapter=True)
    found = encode(f"wav2vec2:{save(model.state_dict(), tmp_path / 'a.pt')}?heads=4")
    model.save_pretrained(tmp_path / "folder")
    assert_equal("without its adapter", found, encode(f"hf:{tmp_path / 'folder'}"))


def test_what_a_batch_norm_counts_changes_nothing(tmp_path: Path) -> None:
    model = transformers_model("hubert", conv_pos_batch_norm=True)
    plain = model.state_dict()
    wanted = encode(f"hubert:{save(plain, tmp_path / 'a.pt')}?heads=4")
    cast = {name: tensor.double() for name, tensor in plain.items()}
    lacking = {name: x for name, x in plain.items() if not name.endswith("num_batches_tracked")}
    assert len(lacking) == len(plain) - 1
    for name, content in (("cast", cast), ("lacking", lacking)):
        model.save_pretrained(tmp_path / name)
        save_file(content, tmp_path / name / "model.safetensors")
        file = save(content, tmp_path / f"{name}.pt")
        for spec in (f"hubert:{file}?heads=4", f"hf:{tmp_path / name}"):
            assert_equal(f"counter {name}", encode(spec), wanted)


def test_weight_norm_may_have_been_removed(tmp_path: Path) -> None:
    model = transformers_model("hubert")
    wanted = encode(f"hubert:{save(model.state_dict(), tmp_path / 'a.pt')}?heads=4")
    nn.utils.parametrize.remove_parametrizations(model.encoder.pos_conv_embed.conv, "weight")
    found = encode(f"hubert:{save(model.state_dict(), tmp_path / 'b.pt')}?heads=4")
    assert_equal("a positional convolution without weight norm", found, wanted)


def test_what_was_taken_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wide: dict[str, Any] = {"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 1}
    model = transformers_model("wav2vec2", **wide)
    path = save(model.state_dict(), tmp_path / "wide.pt")
    with caplog.at_level(logging.INFO, logger="auscult"):
        assert auscult.load(f"wav2vec2:{path}").spec.heads == (12,)
    assert "taken are 12 heads for a width of 768, post-norm blocks" in caplog.text
    assert f"such as wav2vec2:{path}?heads=8,norm=pre" in caplog.text
    assert auscult.load(f"wav2vec2:{path}?heads=6").spec.heads == (6,)
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="auscult"):
        auscult.load(f"wavlm:{save(transformers_model('wavlm').state_dict(), tmp_path / 'w.pt')}")
    assert "positions up to 800 frames apart" in caplog.text and "heads for" not in caplog.text


# --- fairseq, ESPnet -------------------------------------------------------------------------


def with_batch_norm(model: Any, shaken: Callable[..., Any]) -> Any:
    """Give a model of s3prl the positional convolution that fairseq builds for the option.

    Reference: fairseq, models/wav2vec/wav2vec2.py, ``make_conv_pos`` with ``is_batch_norm``.
    """
    from s3prl.upstream.wav2vec2.wav2vec2_model import SamePad

    old = model.encoder.pos_conv[0]
    conv = nn.Conv1d(32, 32, old.kernel_size[0], padding=old.kernel_size[0] // 2, groups=4)
    norm = nn.BatchNorm1d(32)
    model.encoder.pos_conv = nn.Sequential(norm, conv, SamePad(old.kernel_size[0]), nn.GELU())
    generator = torch.Generator().manual_seed(8)
    norm.running_mean = 0.3 * torch.randn(32, generator=generator)
    norm.running_var = 1 + torch.rand(32, generator=generator)
    return shaken(model, 9)


def states_of_fairseq(model: Any, heard: Tensor) -> list[Tensor]:
    """The input of the first block and the output of each, then the encoder's own."""
    states: list[Tensor] = []
    first = model.encoder.layers[0].register_forward_pre_hook(
        lambda module, args: states.append(args[0][:, 0])
    )
    others = [
        layer.register_forward_hook(lambda module, args, output: states.append(output[0][:, 0]))
        for layer in model.encoder.layers
    ]
    with torch.no_grad():
        last = model(heard[None], padding_mask=None, mask=False, features_only=True)["x"][0]
    for handle in (first, *others):
        handle.remove()
    return [*(state[: len(last)] for state in states[:-1]), last]  # it pads to even frames


@pytest.mark.parametrize("family", ["hubert", "wav2vec2"])
@pytest.mark.parametrize("variant", ["base", "large", "group_pre_norm"])
def test_batch_norm_positions_equal_fairseq(
    foreign: Any, family: str, variant: str, tmp_path: Path
) -> None:
    built, model, task = foreign.s3prl(family, **foreign.variants[variant])
    built = with_batch_norm(built, foreign.shaken)
    model["conv_pos_batch_norm"] = True
    heard = samples()
    if task["normalize"]:
        heard = nn.functional.layer_norm(heard, heard.shape)
    wanted = states_of_fairseq(built, heard)
    content = {"cfg": {"model": model, "task": task}, "model": built.state_dict()}
    path = save(content, tmp_path / "model.pt")
    assert_equal(f"{family} ({variant}, batch norm)", encode(f"{family}:{path}"), wanted)
    check_padding(f"{family}:{path}")
    bare = save(built.state_dict(), tmp_path / "bare.pt")
    norm = "pre" if model["layer_norm_first"] else "post"
    assert_equal("its state dict", encode(f"{family}:{bare}?heads=4,norm={norm}"), wanted)
    content["cfg"]["model"] = model | {"conv_pos_batch_norm": False}
    with pytest.raises(UserError, match="conv_pos_batch_norm is False by its configuration and Tr"):
        auscult.load(f"{family}:{save(content, tmp_path / 'contradicts.pt')}")


@pytest.mark.parametrize(
    "prefix, around",
    [
        ("", {}),
        ("module.", {}),
        ("encoder.encoders.", {"encoder.output_layer.0.weight": torch.ones(3, 32)}),
        (
            "frontend.upstream.upstream.model.",
            {
                "frontend.featurizer.weights": torch.ones(4),
                "encoder.encoders.0.self_attn.linear_q.weight": torch.ones(3, 3),
                "encoder.layers.0.self_attn.k_proj.weight": torch.ones(3, 3),
                "decoder.embed.0.weight": torch.ones(5, 3),
                "ctc.ctc_lo.bias": torch.ones(5),
            },
        ),
    ],
)
def test_fairseq_under_any_prefix(
    foreign: Any, prefix: str, around: dict[str, Tensor], tmp_path: Path
) -> None:
    content = foreign.converted("hubert", "large")
    wanted = auscult.load(f"hubert:{save(content, tmp_path / 'whole.pt')}").spec
    state = {f"{prefix}{name}": x for name, x in content["model_weight"].items()} | around
    spec = auscult.load(f"hubert:{save(state, tmp_path / 'bare.pth')}?heads=4").spec
    assert (spec.sha256, spec.head_parameters) == (wanted.sha256, wanted.head_parameters)


# --- WavLM -----------------------------------------------------------------------------------

_WAVLM = {
    "conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
    "encoder_layers": 3,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48,
    "encoder_attention_heads": 4,
    "conv_pos": 16,
    "conv_pos_groups": 4,
    "relative_position_embedding": True,
    "num_buckets": 24,
    "max_distance": 60,
    "gru_rel_pos": True,
    "encoder_layerdrop": 0.05,
}
_PUBLISHED = {
    "base": {"extractor_mode": "default", "layer_norm_first": False, "normalize": False},
    "large": {"extractor_mode": "layer_norm", "layer_norm_first": True, "normalize": True},
}


def unilm(foreign: Any, **options: Any) -> dict[str, Any]:
    """What microsoft's unilm publishes, of a tiny WavLM."""
    repair()
    with hushed():
        from s3prl.upstream.wavlm.WavLM import WavLM, WavLMConfig

        cfg = _WAVLM | options
        torch.manual_seed(2)
        model = foreign.shaken(WavLM(WavLMConfig(cfg)))
    return {"cfg": cfg, "model": model.state_dict()}


@pytest.mark.parametrize("variant", _PUBLISHED)
def test_published_wavlm_equals_s3prl(foreign: Any, variant: str, tmp_path: Path) -> None:
    content = unilm(foreign, **_PUBLISHED[variant])
    path = save(content, tmp_path / "wavlm.pt")
    repair()
    with hushed(stderr=True):
        from s3prl import hub

        expert = hub.wavlm_local(ckpt=str(path)).eval()
        with torch.no_grad():
            wanted = [state[0] for state in expert([samples()])["hidden_states"]]
    assert_equal(f"WavLM ({variant}) and s3prl", encode(f"wavlm:{path}"), wanted)
    spec = auscult.load(f"wavlm:{path}").spec
    assert (spec.family, spec.heads) == ("wavlm", (4, 4, 4))
    assert spec.normalize == _PUBLISHED[variant]["normalize"]
    stored = sum(tensor.numel() for tensor in content["model"].values())
    assert spec.num_parameters == stored
    check_padding(f"wavlm:{path}")
    content["cfg"]["max_distance"] = 30  # what no tensor shows is read from the options
    with pytest.raises(AssertionError):
        assert_equal("another", encode(f"wavlm:{save(content, tmp_path / 'other.pt')}"), wanted)


def test_wavlm_of_torchaudio(foreign: Any, tmp_path: Path) -> None:
    options = {
        "extractor_mode": "group_norm",
        "extractor_conv_layer_config": [(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16, 2, 2)] * 2,
        "extractor_conv_bias": False,
        "encoder_embed_dim": 32,
        "encoder_pos_conv_kernel": 16,
        "encoder_pos_conv_groups": 4,
        "encoder_num_layers": 2,
        "encoder_num_heads": 4,
        "encoder_num_buckets": 24,
        "encoder_max_distance": 800,
        "encoder_ff_interm_features": 48,
        "encoder_layer_norm_first": False,
        "aux_num_out": None,
    }
    drops = ("projection", "attention", "ff_interm")
    options |= {f"encoder_{name}_dropout": 0.0 for name in drops}
    torch.manual_seed(4)
    model = foreign.shaken(
        torchaudio.models.wavlm_model(**options, encoder_dropout=0.0, encoder_layer_drop=0.0)
    )
    with torch.no_grad():
        wanted = [state[0] for state in model.extract_features(samples()[None])[0]]
    path = save(model.state_dict(), tmp_path / "wavlm.pth")
    assert_equal("WavLM of torchaudio", encode(f"wavlm:{path}")[1:], wanted)


# --- what is refused -------------------------------------------------------------------------


def refused(spec: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        auscult.load(spec)


def test_what_is_missing_is_said(foreign: Any, tmp_path: Path) -> None:
    state = transformers_model("hubert").state_dict()
    path = save(state, tmp_path / "hubert.pt")
    refused(f"hubert:{path}", rf"which does not say how many heads .* hubert:{path}\?heads=N\.")
    refused(f"random(hubert:{path})", r"hubert.pt\?heads=N\.")
    odd = save(
        transformers_model("hubert", conv_kernel=(9, *(3,) * 6)).state_dict(), tmp_path / "o"
    )
    refused(f"hubert:{odd}?heads=4", r"a kernel of 9: write it .*\?strides=5-2-2-2-2-2-2")
    refused(f"hubert:{path}?heads=5", "5 attention heads do not divide a width of 32")
    refused(f"hubert:{path}?heads=4,strides=5-2", "is wrong: .*incorrect")
    for option in ("heads=many", "heads=", "norm=batch", "normalize=maybe", "strides=5.2"):
        refused(f"hubert:{path}?{option}", "expected such as heads=12|expected options such as")
    refused(f"hubert:{path}?head=4", "Unknown option 'head'. Did you mean heads?")
    refused(f"hubert:{path}?heads=4,heads=4", "gives an option twice")
    refused(f"hf:{tmp_path}?heads=4", "hf takes no options; drop")
    said = save(foreign.converted("hubert", "large"), tmp_path / "said.pt")
    assert auscult.load(f"hubert:{said}?heads=4,norm=pre,normalize=yes").spec.normalize
    refused(f"hubert:{said}?heads=8", "says itself that num_attention_heads is 4, and the options")
    refused(f"hubert:{said}?norm=post", "says itself that do_stable_layer_norm is True")
    refused(f"hubert:{said}?normalize=no", "says itself that normalize is True")
    wavlm = save(transformers_model("wavlm").state_dict(), tmp_path / "wavlm.pt")
    refused(f"wavlm:{wavlm}?heads=8", "contradicts itself: num_attention_heads is 8 by")


def test_other_encoders_are_named(foreign: Any, tmp_path: Path) -> None:
    def file(content: Any) -> Path:
        return save(content, tmp_path / "file.pt")

    hubert, wavlm = (transformers_model(kind).state_dict() for kind in ("hubert", "wavlm"))
    refused(f"hubert:{file(wavlm)}?heads=4", "is a checkpoint of WavLM, not HuBERT .*write wavlm:")
    refused(f"wavlm:{file(hubert)}", "holds no WavLM: .* write hubert:")
    named = {f"wav2vec2.{name}": x for name, x in hubert.items()}
    refused(f"hubert:{file(named)}?heads=4", r"begin with wav2vec2\.\); write wav2vec2:")
    two = {f"{who}.{name}": x for name, x in hubert.items() for who in ("teacher", "student")}
    refused(f"hubert:{file(two)}?heads=4", r"holds 2 encoders, .* student\. and teacher\.")
    for kind, what in (("wav2vec2-conformer", "a conformer"), ("data2vec-audio", "data2vec")):
        settings = {} if kind == "data2vec-audio" else {"position_embeddings_type": "relative"}
        state = transformers_model(kind, **settings).state_dict()
        refused(f"wav2vec2:{file(state)}", f"holds .*{what}.*save_pretrained.* write hf:FOLDER")
    refused(f"hubert:{file({'a.weight': torch.ones(1)})}", "nor WavLM .* but a.weight")
    supernet = {"cfg": {"model": {"_name": "hubert_pruner"}}, "model": hubert}
    refused(f"hubert:{file(supernet)}", "is a checkpoint of LightHuBERT; write lighthubert:")
    mockingjay = {"input_representations.spec_transform.weight": torch.ones(2, 2)}
    refused(f"hubert:{file(mockingjay)}", "mockingjay:FILE or audio_albert:FILE")
    query = "encoder.layers.0.attention.q_proj"
    adapted = {name.replace(query, f"{query}.base_layer"): x for name, x in hubert.items()}
    refused(f"hubert:{file(adapted)}?heads=4", "an adapter of PEFT beside it: merge the two")
    broken = unilm(foreign, **_PUBLISHED["base"])
    broken["cfg"]["gru_rel_pos"] = False
    refused(f"wavlm:{file(broken)}", "gru_rel_pos=False is not read, only True")


def test_files_of_a_folder_lead_to_their_folder(hubert_folder: Path) -> None:
    refused(f"hubert:{hubert_folder / 'model.safetensors'}", f"folder, hubert:{hubert_folder}.")
    refused(f"hubert:{hubert_folder}?heads=4", "config.json says it all; leave the options out")
