"""Encoders on the device and on the CPU: states, attention maps, gradients, and divergence."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import auscult
from auscult.address import parse_address
from auscult.contracts import AttentionMap, HiddenStates, Waveforms
from auscult.precision import Precision, computing_in, precision_of
from auscult.repeatable import repeatable
from auscult.upstream import Upstream
from auscult.upstreams import FAMILIES
from auscult.upstreams.hub import SUPPORTED
from auscult.upstreams.packaged import place_of
from auscult.upstreams.padded import PaddedUpstream

from .part import Check, Setting, attempt

# Of the norm of what is compared. Float32 products are summed in another order on every device;
# TF32 would be a hundred times worse. In bfloat16 each of some dozens of
# roundings on the way is off by 2**-9 at most, and layer norms keep that from growing; gradients
# pass all of them twice, and maps the exponential of a difference of two products.
FLOAT32 = 1e-4
BFLOAT16 = {"states": 0.1, "maps": 0.1, "gradients": 0.3}
# Of a weight that hardly matters (a key's bias does not at all) the gradient is rounding; what is
# a hundred times smaller than the largest is measured by that.
LEAST_GRADIENT = 1e-2

_SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
_VARIANTS: Mapping[str, Mapping[str, Any]] = {  # of each architecture that has these settings
    "": {},
    "pre-norm": {"do_stable_layer_norm": True, "feat_extract_norm": "layer"},
    "rotary": {"position_embeddings_type": "rotary"},
    "relative": {"position_embeddings_type": "relative"},
    "batch-norm": {"conv_pos_batch_norm": True},
    "distilled": {"feat_proj_layer_norm": False},
}


@dataclass(frozen=True, slots=True)
class _Pass:
    """What one encoder makes of one batch, on the CPU: all in one order, by kind."""

    states: list[Tensor]  # of each layer and utterance, (frame, dim)
    maps: list[Tensor]  # of each block and utterance, (head, frame, frame)
    gradients: list[Tensor]  # of each weight

    def kinds(self) -> dict[str, list[Tensor]]:
        """Return what there is to compare."""
        found = {"states": self.states, "maps": self.maps, "gradients": self.gradients}
        return {kind: tensors for kind, tensors in found.items() if tensors}


def parity(setting: Setting) -> Iterator[Check]:
    """Hold every family against itself on the CPU, in float32 and in bfloat16."""
    found = addresses(setting.folder)
    if not setting.dry:
        found["HuBERT Base"] = "random(hubert_base)"
    seen = {parse_address(address).family for address in found.values()}
    missing = sorted(set(FAMILIES) - seen)
    yield Check("families without a case", len(missing), high=0, note=", ".join(missing))
    for name, address in found.items():
        yield from attempt(name, _compare, name, address, setting)


def addresses(folder: Path) -> dict[str, str]:
    """Return encoders of every family, by a name for each; those of transformers are written."""
    found = {name: name for name, row in FAMILIES.items() if row.ships or row.needs == "nothing"}
    folders = _write_architectures(folder)
    found |= {f"hf {name}": f"random(hf:{path})" for name, path in folders.items()}
    for family in sorted(FAMILIES.keys() & set(SUPPORTED)):  # those with files of their own layouts
        found[family] = f"random({family}:{folders[family]})"
    found["distilhubert"] = f"random(distilhubert:{folders['hubert distilled']})"
    for family in ("lighthubert", "mockingjay", "audio_albert", "w2v_bert"):
        found[family] = str(place_of(parse_address(f"tiny_{family}")))
    for subnet in ("smallest", "largest"):
        found[f"lighthubert@{subnet}"] = f"{found['lighthubert']}@{subnet}"
    found["s3prl's front end"] = "random(audio_albert_s3prl_3l)"
    found["w2v_bert_tiny"] = "random(w2v_bert_tiny)"
    found["s3prl fbank"] = "s3prl:fbank"
    found["s3prl hubert"] = f"s3prl:hf_hubert_custom:{_with_weights(folders['hubert'])}"
    return found


def _write_architectures(folder: Path) -> dict[str, Path]:
    """Write the configuration and the preprocessor of tiny encoders of all that hf reads."""
    from transformers import AutoConfig, SeamlessM4TFeatureExtractor, Wav2Vec2FeatureExtractor

    found = {}
    for model_type in SUPPORTED:
        known = AutoConfig.for_model(model_type).to_dict()
        sizes = {key: value for key, value in _SIZE.items() if key in known}
        for variant, settings in _VARIANTS.items():
            changed = [key for key, value in settings.items() if known.get(key, value) != value]
            if settings and not changed:
                continue  # it has no such setting, or is like that
            path = folder / f"{model_type} {variant}".strip().replace(" ", "-")
            AutoConfig.for_model(model_type, **sizes, **settings).save_pretrained(path)
            extractor: Any = Wav2Vec2FeatureExtractor(do_normalize=variant == "pre-norm")
            if model_type == "wav2vec2-bert":
                extractor = SeamlessM4TFeatureExtractor()
            extractor.save_pretrained(path)
            found[f"{model_type} {variant}".strip()] = path
    return found


def _with_weights(folder: Path) -> Path:
    """Draw the weights of a configuration, which s3prl wants in the folder."""
    loaded: Any = auscult.load(f"random(hf:{folder})")
    loaded.model.save_pretrained(folder)
    return folder


def _compare(name: str, address: str, setting: Setting) -> Iterator[Check]:
    encoder = auscult.load(address)
    audio = noise(setting.dry, encoder.spec.sample_rate)
    if isinstance(encoder, PaddedUpstream):
        encoder.padding = "group"
    reference = _encode(encoder, audio, setting.reference, "float32")
    if isinstance(encoder, PaddedUpstream):
        encoder.padding = "mask"  # as on a GPU, whatever the device is
    exact = _encode(encoder, audio, setting.device, "float32")
    for kind, wanted in reference.kinds().items():
        error = _worst(exact.kinds()[kind], wanted, relative_to_all=kind == "gradients")
        yield Check(f"{name}: {kind}, float32", error, high=FLOAT32)
    if setting.pretended or precision_of(encoder, "bfloat16") == "float32":
        return  # where a GPU is pretended, nothing is rounded
    rounded = _encode(encoder, audio, setting.device, "bfloat16")
    for kind, wanted in reference.kinds().items():
        error = _worst(rounded.kinds()[kind], wanted, relative_to_all=kind == "gradients")
        yield Check(f"{name}: {kind}, bfloat16", error, high=BFLOAT16[kind])


def noise(dry: bool, sample_rate: int = 16_000) -> Waveforms:
    """Return a batch of three utterances, two of them equally long."""
    generator = torch.Generator().manual_seed(0)
    lengths = [int((0.25 if dry else 1.5) * sample_rate * share) for share in (1, 0.8, 1)]
    rows = [0.1 * torch.randn(length, generator=generator) for length in lengths]
    return Waveforms.of(rows, sample_rate)


def _encode(encoder: Upstream, audio: Waveforms, device: str, precision: Precision) -> _Pass:
    encoder.to(device)
    audio = audio.to(device)
    with computing_in(precision, torch.device(device)):
        states = encoder(audio)
    weights = [weight for weight in encoder.parameters() if weight.requires_grad]
    gradients: list[Tensor] = []
    if weights:
        with repeatable(device):  # as where it is trained
            found = torch.autograd.grad(_scalar(states), weights, allow_unused=True)
        gradients = [gradient.float().cpu() for gradient in found if gradient is not None]
    maps: list[AttentionMap] = []
    if encoder.spec.heads:
        with torch.no_grad(), computing_in(precision, torch.device(device)):
            encoder.visit_attention(audio, maps.append)
    encoder.cpu()
    rows = list(enumerate(states.lengths.tolist()))
    return _Pass(
        [layer[row, :n].detach().float().cpu() for layer in states.layers for row, n in rows],
        [found.weights[row, :, :n, :n].float().cpu() for found in maps for row, n in rows],
        gradients,
    )


def _scalar(states: HiddenStates) -> Tensor:
    """Return a number that depends on every value of every state, each by a weight of its own."""
    parts = []
    for number, layer in enumerate(states.layers):
        generator = torch.Generator().manual_seed(number)
        direction = torch.randn(layer.shape[-1], generator=generator).to(layer.device)
        steps = torch.arange(layer.shape[1], device=layer.device).cos()
        for row, frames in enumerate(states.lengths.tolist()):
            parts.append(((layer[row, :frames].float() @ direction) * steps[:frames]).mean())
    return torch.stack(parts).sum()


def _worst(found: list[Tensor], wanted: list[Tensor], *, relative_to_all: bool) -> float:
    """Return the largest norm of a difference over the norm of what it should be."""
    sizes = [float(tensor.double().norm()) for tensor in wanted]
    least = LEAST_GRADIENT * max(sizes) if relative_to_all else 1e-30
    pairs = zip(found, wanted, sizes, strict=True)
    return max(float((a.double() - b.double()).norm()) / max(n, least) for a, b, n in pairs)


def divergence(setting: Setting) -> Iterator[Check]:
    """Measure how alike heads attend, from maps of the device; the pairs are the CPU's work."""
    from auscult.analysis import measure

    utterances = [
        (f"utterance {row}", lambda samples=samples: samples)
        for row, samples in enumerate(noise(setting.dry).rows())
    ]
    for name in ("tiny_hubert", "tiny_lighthubert@smallest", "tiny_w2v_bert"):
        encoder = auscult.load(name)
        wanted, found = (
            measure(encoder.to(device), utterances).all_pairs
            for device in (setting.reference, setting.device)
        )
        yield Check(f"{name}: bits off", float(abs(found - wanted).max()), high=1e-5)
