"""Subnets cut out: equal to the supernet's, no larger than they are, readable elsewhere."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import auscult
from auscult.errors import UserError
from auscult.upstreams.lighthubert import LightHubertUpstream
from auscult.upstreams.lighthubert.export import export_subnet, export_transformers
from auscult.upstreams.lighthubert.space import BASE, SMALL, ExtractorMode, SearchSpace, Subnet
from auscult.upstreams.lighthubert.supernet import Supernet, draw_supernet

MODES: tuple[ExtractorMode, ...] = ("layer_norm", "group_norm")


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    """Weights that are nowhere zero or one."""
    found = draw_supernet("layer_norm", 2).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in found.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return found.requires_grad_(False)


def cut(supernet: Supernet, subnet: Subnet, space: SearchSpace = SMALL) -> LightHubertUpstream:
    return LightHubertUpstream(supernet.cut(subnet), space, name="drawn", source="")


@pytest.fixture(scope="module")
def exported(supernet: Supernet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "new" / "drawn"
    export_subnet(cut(supernet, SMALL.sample(8)), folder)
    return folder


def test_an_export_equals_the_sliced_supernet(exported: Path, supernet: Supernet) -> None:
    subnet = SMALL.sample(8)
    assert len(set(subnet.heads)) > 1 and len(set(subnet.ffn_dims)) > 1
    upstream = auscult.load(f"lighthubert:{exported}")
    assert isinstance(upstream, LightHubertUpstream)
    samples = torch.randn(2, 4000, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([4000, 2900])
    with torch.no_grad():
        whole, alone = supernet(samples, lengths, subnet), upstream.network(samples, lengths)
    off = max(float((a - b).abs().max()) for a, b in zip(whole, alone, strict=True))
    print(f"parity: LightHuBERT exported, against its supernet {off:.1e}")
    assert off <= 1e-6
    assert upstream.spec.sha256 == cut(supernet, subnet).spec.sha256


def test_an_export_holds_its_own_weights_alone(exported: Path) -> None:
    upstream = auscult.load(f"lighthubert:{exported}")
    assert {path.name for path in exported.iterdir()} == {"config.json", "model.safetensors"}
    size = (exported / "model.safetensors").stat().st_size
    assert 0 < size - 4 * upstream.spec.num_parameters < 30_000  # names and shapes
    configuration = json.loads((exported / "config.json").read_text())
    assert configuration["subnet"] == SMALL.sample(8).to_dict()
    assert configuration["sha256"] == upstream.spec.sha256
    assert configuration["normalize"] is True
    assert upstream.spec.subnet == str(SMALL.sample(8))


def test_an_exports_random_twin_has_its_shape(exported: Path) -> None:
    twin = auscult.load(f"random(lighthubert:{exported}, seed=3)")
    expected = auscult.load(f"random(lighthubert_small@{SMALL.sample(8)}, seed=3)")
    assert twin.spec.sha256 == expected.spec.sha256
    assert twin.spec.sha256 != auscult.load(f"lighthubert:{exported}").spec.sha256


@pytest.mark.parametrize("subnet", [SMALL.smallest, SMALL.default], ids=["smallest", "a_small"])
@pytest.mark.parametrize("mode", MODES)
def test_transformers_reads_what_is_uniform(
    mode: ExtractorMode, subnet: Subnet, supernet: Supernet, tmp_path: Path
) -> None:
    from transformers import AutoFeatureExtractor, HubertModel

    if mode == "group_norm":
        supernet = of_group_norm(supernet)
    upstream = cut(supernet, subnet)
    export_transformers(upstream, tmp_path / "hubert")
    found: Any = HubertModel.from_pretrained(tmp_path / "hubert", output_loading_info=True)
    model, loading = found
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not loading[kind], kind
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "hubert")
    assert extractor.do_normalize == upstream.spec.normalize
    off = differences(model, upstream)
    print(f"parity: LightHuBERT {mode} as transformers' HuBERT {off:.1e}")
    again = auscult.load(f"hf:{tmp_path / 'hubert'}")
    assert again.spec.heads == upstream.spec.heads
    assert again.spec.normalize == upstream.spec.normalize
    # the mask vector is cut there, and the norms of the positional convolution are weights
    assert again.spec.num_parameters == upstream.spec.num_parameters - 768 + subnet.embed_dim + 128


def differences(model: Any, upstream: LightHubertUpstream) -> float:
    """Return the largest difference in float32, and assert that little is left in float64."""
    samples = torch.randn(2, 4000, generator=torch.Generator().manual_seed(1))
    off = {}
    for dtype in (torch.float32, torch.float64):
        network = upstream.network.to(dtype)
        with torch.no_grad():
            found = model.eval().to(dtype)(samples.to(dtype), output_hidden_states=True)
            ours = network(samples.to(dtype), torch.tensor([4000, 4000]))
        assert len(found.hidden_states) == len(ours) == upstream.spec.num_layers + 1
        pairs = list(zip(found.hidden_states[1:], ours[1:], strict=True))  # state 0 is another
        off[dtype] = max(float((a - b).abs().max()) for a, b in pairs)
    # In float32, transformers' convolutions are themselves 1e-5 off float64, and ours half of that;
    # in float64 the stored norms of the positional convolution remain, rounded to float32.
    assert off[torch.float32] < 3e-5 and off[torch.float64] < 1e-6
    return off[torch.float32]


def of_group_norm(supernet: Supernet) -> Supernet:
    """Return a supernet with the same weights where there are such."""
    with torch.device("meta"):
        found = Supernet("group_norm")
    state = {name: tensor for name, tensor in supernet.state_dict().items() if ".2.1." not in name}
    for kind in ("weight", "bias"):
        norm = supernet.state_dict()[f"feature_extractor.conv_layers.0.2.1.{kind}"]
        state[f"feature_extractor.conv_layers.0.2.{kind}"] = norm
    found.load_state_dict(state, assign=True)
    return found.eval().requires_grad_(False)


@pytest.mark.slow
def test_transformers_reads_the_base_space(tmp_path: Path) -> None:
    from transformers import HubertModel

    supernet = draw_supernet("layer_norm", 3).eval()
    for name in ("smallest", "default", "largest"):
        subnet: Subnet = getattr(BASE, name)
        upstream = cut(supernet, subnet, BASE)
        if name == "smallest":  # the FFN ratio is free
            assert subnet.ffn_dims[0] != 4 * subnet.embed_dim
        export_transformers(upstream, tmp_path / name)
        model: Any = HubertModel.from_pretrained(tmp_path / name)
        differences(model, upstream)


@pytest.mark.parametrize(
    ("subnet", "message"),
    [
        (Subnet(384, (6,) * 9 + (8,), (1536,) * 10), r"heads\[0\] is 6 and heads\[9\] is 8"),
        (Subnet(384, (6,) * 10, (1536, *(1344,) * 9)), r"ffn\[0\] is 1536 and ffn\[1\] is 1344"),
        (Subnet(384, (8,) * 10, (1536,) * 10), "8 heads of 64 stand beside embed_dim 384"),
    ],
)
def test_transformers_has_no_other_subnets(subnet: Subnet, message: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        supernet = Supernet()
    upstream = cut(supernet, subnet)
    with pytest.raises(UserError, match=message):
        export_transformers(upstream, tmp_path / "hubert")
    assert list(tmp_path.iterdir()) == []


def test_an_export_is_whole_or_not_there(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = auscult.load(f"lighthubert:{exported}")
    assert isinstance(upstream, LightHubertUpstream)
    before = sorted(exported.iterdir())
    with pytest.raises(UserError, match="is not an empty folder; name another with --out"):
        export_subnet(upstream, exported)
    assert sorted(exported.iterdir()) == before

    def fail(*args: object, **options: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(json, "dumps", fail)
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "absent", tmp_path / "empty"):
        with pytest.raises(UserError, match=f"{tmp_path} is full, so "):
            export_subnet(upstream, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    monkeypatch.undo()
    with monkeypatch.context() as patch, pytest.raises(UserError, match="A disk is mounted at"):
        patch.setattr(Path, "is_mount", lambda path: path.name == "empty")
        export_subnet(upstream, tmp_path / "empty")
    export_subnet(upstream, tmp_path / "empty")
    assert auscult.load(f"lighthubert:{tmp_path / 'empty'}").spec.sha256 == upstream.spec.sha256


def lacks_configuration(folder: Path) -> None:
    (folder / "config.json").unlink()


def lacks_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def is_not_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def is_another_model(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "hubert"}')


def has_other_heads(folder: Path) -> None:
    rewrite(folder, lambda found: found["subnet"]["heads_num"].__setitem__(0, 12))


def has_other_dims(folder: Path) -> None:
    rewrite(folder, lambda found: found["subnet"].update(SMALL.smallest.to_dict()))


def is_not_normalised(folder: Path) -> None:
    rewrite(folder, lambda found: found.update(normalize=False))


def lacks_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["mask_emb"]
    save_file(weights, folder / "model.safetensors")


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    found = json.loads((folder / "config.json").read_text())
    change(found)
    (folder / "config.json").write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lacks_configuration, "has no config.json; lighthubert reads"),
        (lacks_weights, "model.safetensors does not exist"),
        (is_not_json, "config.json cannot be read as JSON"),
        (is_another_model, "does not describe a LightHuBERT subnet"),
        (has_other_heads, r"config.json: .*(heads|atten)"),
        (has_other_dims, "model.safetensors does not|holds .* expected float32"),
        (is_not_normalised, "normalize is False, which does not go with a layer_norm extractor"),
        (lacks_a_weight, "model.safetensors lacks mask_emb"),
    ],
)
def test_folders_that_are_refused(
    spoil: Callable[[Path], None], message: str, exported: Path, tmp_path: Path
) -> None:
    for path in exported.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    spoil(tmp_path)
    with pytest.raises(UserError, match=message):
        auscult.load(f"lighthubert:{tmp_path}")


def test_an_export_has_no_subnets(exported: Path) -> None:
    with pytest.raises(UserError, match="is one subnet already; drop @smallest"):
        auscult.load(f"lighthubert:{exported}@smallest")


def test_command_line(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    spec = "random(lighthubert_small@smallest, seed=7)"
    status, out, _ = run("subnet", "export", spec, "--out", tmp_path / "mine", "--json")
    assert status == 0
    found = json.loads(out)
    assert found["spec"] == f"lighthubert:{tmp_path / 'mine'}"
    assert found["parameters"] == 11_449_088 < found["bytes"] / 4
    assert auscult.load(found["spec"]).spec.sha256 == found["sha256"]
    status, out, err = run(
        *("subnet", "export", spec, "--out", tmp_path / "theirs", "--format", "transformers")
    )
    assert status == 0 and f"hf:{tmp_path / 'theirs'}: 11,448,704 parameters, 45.8 MB" in out
    status, _, err = run("subnet", "export", spec, "--out", tmp_path / "mine")
    assert status == 2 and "is not an empty folder" in err
    status, _, err = run("subnet", "export", "random(hubert_tiny)", "--out", tmp_path / "no")
    assert status == 2 and "has no subnets" in err and not (tmp_path / "no").exists()
