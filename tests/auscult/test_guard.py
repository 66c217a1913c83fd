"""s3prl builds its encoders from strangers' checkpoints, and nothing in those runs."""

import argparse
import collections
import importlib
import os
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from auscult import bridge
from auscult.errors import UserError
from auscult.guard import evaluate, guarded_loading

CONVOLUTIONS = "[(8,10,5)] + [(8,3,2)] * 4 + [(8,2,2)] * 2"
NOISE = 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(0))


class Trap:
    """Runs a shell command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def s3prl(module: str) -> Any:
    bridge.repair()
    return importlib.import_module(f"s3prl.upstream.{module}")


def mockingjay(kind: str = "fbank") -> dict[str, Any]:
    model = s3prl("mockingjay.model")
    transformer = {
        **{"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"intermediate_size": 8, "hidden_act": "gelu", "hidden_dropout_prob": 0.1},
        **{"attention_probs_dropout_prob": 0.1, "initializer_range": 0.02},
        **{"layer_norm_eps": 1e-12, "share_layer": False, "pre_layer_norm": False},
    }
    audio = {
        "kaldi": {"feat_type": kind, kind: {"num_mel_bins": 10}},
        "delta": {},
        "cmvn": {"use_cmvn": True},
    }
    built = model.TransformerModel(model.TransformerConfig(transformer), 30)
    return {
        "Transformer": built.state_dict(),
        "Config": {"transformer": transformer, "task": {"sequence_length": 0}, "audio": audio},
    }


def distiller(convolutions: str = CONVOLUTIONS) -> dict[str, Any]:
    model = s3prl("distiller.model")
    config: dict[str, Any] = {"extractor_conv_feature_layers": CONVOLUTIONS, "n_tasks": 1}
    config |= {"encoder_embed_dim": 8, "encoder_ffn_embed_dim": 8, "encoder_attention_heads": 2}
    config |= {"final_dim": 8, "conv_pos": 4, "conv_pos_groups": 2, "out_layer_type": "expand-last"}
    built = model.DistillerModel(model.DistillerConfig(config)).state_dict()
    config["extractor_conv_feature_layers"] = convolutions
    return {"Distiller": built, "Config": {"distiller": config}}


def apc() -> dict[str, Any]:
    paras = {"hidden_size": 8, "num_layers": 3, "dropout": 0.1, "residual": True}
    audio = {"feat_type": "fbank", "feat_dim": 10, "decode_wav": False, "cmvn": True}
    config = {"data": {"audio": audio}, "model": {"paras": paras}}
    return {"model": s3prl("apc.apc").APC(10, **paras).state_dict(), "config": config}


def cpc() -> dict[str, Any]:
    loader = s3prl("cpc.feature_loader")
    config = loader.get_default_cpc_config()
    config.hiddenEncoder = config.hiddenGar = 8
    model = loader.CPCModel(loader.getEncoder(config), loader.getAR(config))
    return {"config": vars(config), "weights": model.state_dict()}


def hubert(convolutions: str = CONVOLUTIONS) -> dict[str, Any]:
    module = s3prl("hubert.hubert_model")
    sizes = {"encoder_layers": 2, "encoder_embed_dim": 8, "encoder_ffn_embed_dim": 8}
    sizes |= {"encoder_attention_heads": 2, "conv_pos": 4, "conv_pos_groups": 2, "final_dim": 4}
    config = {"label_rate": 50.0, "conv_feature_layers": CONVOLUTIONS, **sizes}
    task = {"label_rate": 50.0, "sample_rate": 16000, "normalize": False}
    symbols = [["<s>", "a"]]
    model = module.HubertModel(
        module.HubertConfig(**config), module.HubertPretrainingConfig(**task), symbols
    )
    config["conv_feature_layers"] = convolutions
    return {
        "task_cfg": task,
        "model_cfg": config,
        "model_weight": model.state_dict(),
        "dictionaries_symbols": symbols,
    }


def wavlm(convolutions: str = CONVOLUTIONS) -> dict[str, Any]:
    module = s3prl("wavlm.WavLM")
    config: dict[str, Any] = {"encoder_layers": 2, "encoder_embed_dim": 8}
    config |= {"encoder_ffn_embed_dim": 8, "encoder_attention_heads": 2, "conv_pos": 4}
    config |= {"conv_pos_groups": 2, "conv_feature_layers": CONVOLUTIONS}
    model = module.WavLM(module.WavLMConfig(config)).state_dict()
    return {"cfg": {**config, "conv_feature_layers": convolutions}, "model": model}


FAMILIES: dict[str, Callable[[], dict[str, Any]]] = {
    "mockingjay_local": mockingjay,
    "tera_local": mockingjay,
    "audio_albert_local": mockingjay,
    "distiller_local": distiller,
    "apc_local": apc,
    "cpc_local": cpc,
    "hubert_local": hubert,
    "wavlm_local": wavlm,
}


@pytest.mark.parametrize("name", FAMILIES)
def test_s3prl_builds_what_the_weights_say_and_no_code_runs(name: str, tmp_path: Path) -> None:
    content = FAMILIES[name]()
    trusted = tmp_path / "trusted.ckpt"
    torch.save(content, trusted)
    weights = nn.Linear(2, 2)
    content["Optimizer"] = torch.optim.Adam(weights.parameters())  # a whole object, as old files
    content["Args"] = argparse.Namespace(ckpt=Path("/a/b"), trap=Trap(tmp_path / "ran"))
    content["Runner"] = collections.defaultdict(list, {"trap": [Trap(tmp_path / "ran")]})
    hostile = tmp_path / "hostile.ckpt"
    torch.save(content, hostile)
    load = torch.load
    model = bridge.build_s3prl_upstream(name, str(hostile))
    assert torch.load is load and not (tmp_path / "ran").exists()
    from s3prl import hub

    with bridge.hushed():  # s3prl alone, on a file that torch itself finds safe
        expected = getattr(hub, name)(ckpt=str(trusted)).eval()
    assert {**model.state_dict()}.keys() == {**expected.state_dict()}.keys()
    with torch.no_grad(), bridge.hushed():
        found, wanted = model([NOISE])["hidden_states"], expected([NOISE])["hidden_states"]
    assert len(found) == len(wanted) >= 2
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    torch.load(hostile, weights_only=False)  # does spring the trap
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["distiller_local", "hubert_local", "wavlm_local"])
def test_expressions_of_a_checkpoint_do_not_run(name: str, tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    make: Any = FAMILIES[name]
    for text in (
        f"[__import__('os').system('touch {trap}')]",
        f"[open({str(trap)!r}, 'w')] and {CONVOLUTIONS}",
        f"[(512, 10, 5) for _ in [open({str(trap)!r}, 'w')]]",
    ):
        torch.save(make(text), tmp_path / "x.ckpt")
        with pytest.raises(UserError, match=rf"'{name}': .*, which is not run; expected lists"):
            bridge.build_s3prl_upstream(name, str(tmp_path / "x.ckpt"))
        assert not trap.exists()


def test_features_of_a_checkpoint_are_those_of_torchaudio(tmp_path: Path) -> None:
    for kind in ("torch.load", "__loader__", "fbank.__globals__"):
        content = mockingjay()
        content["Config"]["audio"]["kaldi"] = {"feat_type": kind, kind: {}}
        torch.save(content, tmp_path / "x.ckpt")
        with pytest.raises(UserError, match=r"torchaudio\.compliance.*which is not run"):
            bridge.build_s3prl_upstream("mockingjay_local", str(tmp_path / "x.ckpt"))


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    torch.jit.script(nn.Linear(1, 1)).save(str(path))
    with pytest.raises(UserError, match=r"'tera_local': .*x\.ckpt is a TorchScript archive"):
        bridge.build_s3prl_upstream("tera_local", str(path))
    path.write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"'hubert_local': .*x\.ckpt is a web page"):
        bridge.build_s3prl_upstream("hubert_local", str(path))


def test_only_the_thread_that_builds_is_guarded(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"trap": Trap(tmp_path / "ran")}, path)
    load = torch.load
    with guarded_loading():
        assert torch.load(path, "cpu", weights_only=False)["trap"].stub_args
        with guarded_loading():  # once more, as where an upstream builds another
            assert torch.load(str(path))["trap"].stub_args
        assert not (tmp_path / "ran").exists()
        with path.open("rb") as file, pytest.raises(UserError, match="from a BufferedReader"):
            torch.load(file)
        with pytest.raises(Exception, match="Weights only load failed"):
            torch.load(path, weights_only=True)  # torch's own
        other = threading.Thread(target=lambda: torch.load(path, weights_only=False))
        other.start()
        other.join()
        assert (tmp_path / "ran").exists()
    assert torch.load is load
    with pytest.raises(RuntimeError), guarded_loading():
        raise RuntimeError
    assert torch.load is load


class Encoder(nn.Module):
    """Names its parts by text, as s3prl's encoders do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(1, 1), nn.Sequential(nn.ReLU())])
        self.secret = os.system

    def part(self, text: str) -> Any:
        return evaluate(text)


def test_sizes_and_parts_are_computed() -> None:
    layers = [(512, 10, 5), (512, 3, 2), (512, 3, 2), (512, 2, 2)]
    assert evaluate(" [(512,10,5)] + [(512,3,2)] * 2 + [(512,2,2)]\n") == layers
    assert evaluate("(2, 0.5, -1e-3, None, True, 2 * 3 + 1)") == (2, 0.5, -1e-3, None, True, 7)
    encoder = Encoder()
    assert encoder.part("self") is encoder
    assert encoder.part("self.layers") is encoder.layers
    assert encoder.part("self.layers[1][0]") is encoder.layers.get_submodule("1.0")


@pytest.mark.parametrize(
    "text",
    [
        "self.secret",
        "self.part",
        "self._modules",
        "self.__class__",
        "self.layers[5]",
        "self.layers[-1]",
        "self.layers.append",
        "[0] * 10 ** 9",
        "[0] * 999999999",
        "'a' * 9",
        "[[0] * 1000] * 1000 * 1000",
        "print()",
        "encoder",
        "os",
        "lambda: 0",
        "[x for x in (1,)]",
        "(1).__class__",
        "f'{1}'",
        "1 if 1 else 2",
        "{}",
        "b'x'",
        "[1",
        "",
        "(" * 5000,
        "1+" * 8000 + "1",
        "-[1]",
        "[1] + (2,)",
        "\x1b[2J",
    ],
)
def test_nothing_else_is_computed(text: str) -> None:
    with pytest.raises(UserError, match="which is not run; expected lists of numbers") as caught:
        Encoder().part(text)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


def test_names_of_the_hub_are_s3prls() -> None:
    bridge.repair()
    from s3prl import hub

    assert "eval" not in hub.options()
    assert "eval" not in vars(sys.modules["s3prl.upstream.hubert.hubconf"])
    encoder = s3prl("hubert.hubert_model")
    assert isinstance(encoder, types.ModuleType) and vars(encoder)["eval"] is evaluate
