"""w2v-BERT 2.0 through hf: its front end against Kaldi's, its batches against transformers'."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchaudio.compliance import kaldi
from transformers import AutoModel, SeamlessM4TFeatureExtractor

import auscult
from auscult.contracts import Waveforms
from auscult.upstreams.front_end import FilterbankFrontEnd

LENGTHS = [6400, 5123, 4900]  # 38, 30 and 29 filterbank frames: an odd last one is dropped


@pytest.fixture(scope="module")
def rows() -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [0.1 * torch.randn(length, generator=generator) + 0.02 for length in LENGTHS]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from transformers import AutoConfig

    config = AutoConfig.for_model(
        "wav2vec2-bert",
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = AutoModel.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    SeamlessM4TFeatureExtractor().save_pretrained(tmp_path)
    return tmp_path


def test_front_end_is_kaldis_filterbank(rows: list[Tensor]) -> None:
    """Logarithms of mel energies, each filter at zero mean and unit variance, stacked in pairs."""
    furthest = 0.0
    for samples in rows:
        energies = kaldi.fbank(samples[None] * 2**15, num_mel_bins=80, window_type="povey")
        variance, mean = torch.var_mean(energies, dim=0, correction=1)
        normalised = (energies - mean) / torch.sqrt(variance + 1e-7)
        wanted = normalised[: len(normalised) // 2 * 2].reshape(-1, 160)
        found = FilterbankFrontEnd(normalize=True).prepare(samples)
        furthest = max(furthest, float((found - wanted).abs().max()))
        assert_close(found, wanted, atol=5e-4, rtol=1e-4)  # float64 and float32 spectra
    print(f"parity: w2v-BERT 2.0's front end and Kaldi's filterbank {furthest:.1e}")


def test_a_batch_equals_transformers_own(folder: Path, rows: list[Tensor]) -> None:
    """transformers pads features and masks attention and convolutions; valid frames are equal."""
    extractor = SeamlessM4TFeatureExtractor.from_pretrained(folder)
    inputs = extractor(
        [row.numpy() for row in rows], sampling_rate=16_000, return_tensors="pt", padding=True
    )
    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        wanted = model(**inputs, output_hidden_states=True).hidden_states
    upstream: Any = auscult.load(f"hf:{folder}")
    furthest = 0.0
    for padding in ("group", "mask"):
        upstream.padding = padding
        with torch.no_grad():
            states = upstream(Waveforms.of(rows))
        assert states.lengths.tolist() == inputs["attention_mask"].sum(1).tolist()
        for found, other in zip(states.layers, wanted, strict=True):
            for row, frames in enumerate(states.lengths.tolist()):
                apart = (found[row, :frames] - other[row, :frames]).abs().max()
                furthest = max(furthest, float(apart))
                assert_close(found[row, :frames], other[row, :frames], atol=1e-5, rtol=1e-5)
    print(f"parity: w2v-BERT 2.0's padded batches and transformers {furthest:.1e}")


def test_reach_of_positions_is_part_of_the_fingerprint(folder: Path) -> None:
    """64 frames back and 8 ahead, or the other way: tensors of the same shapes, other states."""
    before = auscult.load(f"hf:{folder}").spec.sha256
    settings = json.loads((folder / "config.json").read_text())
    swapped = {"left_max_position_embeddings": 8, "right_max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(settings | swapped))
    assert auscult.load(f"hf:{folder}").spec.sha256 != before
