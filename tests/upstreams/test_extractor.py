"""Settings of the extractor: found where transformers finds them, each followed or refused."""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import (
    AutoFeatureExtractor,
    AutoModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
)

import auscult
from auscult.contracts import Waveforms
from auscult.errors import UserError

PROCESSOR, PREPROCESSOR = "processor_config.json", "preprocessor_config.json"


@pytest.fixture(scope="module")
def rows() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [0.1 * torch.randn(length, generator=generator) + 0.05 for length in (5123, 4003)]


def save_processor(folder: Path, normalize: bool, **settings: Any) -> None:
    """Write what a whole processor of transformers 5 writes."""
    (folder / "vocab.json").write_text(json.dumps({"<pad>": 0, "a": 1, "|": 2, "<unk>": 3}))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    extractor = Wav2Vec2FeatureExtractor(do_normalize=normalize, **settings)
    Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    assert "feature_extractor" in json.loads((folder / PROCESSOR).read_text())
    assert not (folder / PREPROCESSOR).exists()


def states_of_transformers(folder: Path, rows: list[Tensor]) -> list[list[Tensor]]:
    """Encode each utterance by itself with what the Auto classes find."""
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    found = []
    for row in rows:
        inputs = extractor(row.numpy(), sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            output = model(**inputs, output_hidden_states=True)
        found.append([x[0] for x in (*output.hidden_states[:-1], output.last_hidden_state)])
    return found


FILES = {
    "processor": lambda folder, said: save_processor(folder, said),
    "preprocessor": lambda folder, said: Wav2Vec2FeatureExtractor(
        do_normalize=said
    ).save_pretrained(folder),
}


@pytest.mark.parametrize("files", ["processor", "preprocessor", "both", "contradicting"])
@pytest.mark.parametrize("norm, said", [("group", True), ("layer", False)])
def test_states_equal_transformers(
    architectures: Any, tmp_path: Path, rows: list[Tensor], norm: str, said: bool, files: str
) -> None:
    """Where the file says the opposite of what goes with the norm, it is followed."""
    architecture = architectures["hubert" if norm == "group" else "hubert_pre_norm"]
    config = AutoModel.from_config(auto_config(architecture)).config
    torch.manual_seed(1)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    if files in FILES:
        FILES[files](tmp_path, said)
    else:
        FILES["processor"](tmp_path, said)
        FILES["preprocessor"](tmp_path, said == (files == "both"))
    wanted = states_of_transformers(tmp_path, rows)
    upstream: Any = auscult.load(f"hf:{tmp_path}")
    assert upstream.spec.normalize == said
    for padding in ("group", "mask"):
        upstream.padding = padding
        with torch.no_grad():
            found = upstream(Waveforms.of(rows))
        for row, layers in enumerate(wanted):
            for one, other in zip(found.layers, layers, strict=True):
                assert_close(one[row, : len(other)], other, atol=1e-5, rtol=1e-5)


def auto_config(architecture: Any) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(architecture.model_type, **architecture.settings)


@pytest.mark.parametrize("name", ["feature_extractor", "audio_processor"])
def test_other_files_of_processors(hubert_folder: Path, name: str) -> None:
    """One without an extractor leaves the word to the other file, as in transformers."""
    settings = json.loads((hubert_folder / PREPROCESSOR).read_text())
    (hubert_folder / PROCESSOR).write_text(json.dumps({"processor_class": "Wav2Vec2Processor"}))
    assert not auscult.load(f"hf:{hubert_folder}").spec.normalize
    nested = {name: settings | {"do_normalize": True}}
    (hubert_folder / PROCESSOR).write_text(json.dumps(nested))
    assert auscult.load(f"hf:{hubert_folder}").spec.normalize
    assert auscult.load(f"hubert:{hubert_folder}").spec.normalize
    assert auscult.load(f"random(hf:{hubert_folder})").spec.normalize
    (hubert_folder / PROCESSOR).write_text(json.dumps({name: None}))
    assert not auscult.load(f"hf:{hubert_folder}").spec.normalize


@pytest.mark.parametrize("file", [PROCESSOR, PREPROCESSOR])
@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"sampling_rate": 8000}, "reads audio at 8000 Hz"),
        ({"sampling_rate": "16000"}, "reads audio at '16000' Hz"),
        ({"feature_size": 2}, "feature_size is 2; this encoder is read with 1 only"),
        ({"do_normalize": "false"}, "expected an object with do_normalize true or false"),
        ({"do_normalize": None}, "expected an object with do_normalize true or false"),
        (
            {"feature_extractor_type": "WhisperFeatureExtractor"},
            "feature_extractor_type is 'WhisperFeatureExtractor'",
        ),
    ],
)
def test_settings_that_are_refused(
    hubert_folder: Path, file: str, settings: dict[str, Any], sentence: str
) -> None:
    content = settings if file == PREPROCESSOR else {"feature_extractor": settings}
    (hubert_folder / file).write_text(json.dumps(content))
    with pytest.raises(UserError, match=sentence):
        auscult.load(f"hf:{hubert_folder}")


@pytest.mark.parametrize(
    "text", ["[]", '{"feature_extractor": []}', '{"feature_extractor": "x"}', "{", "[" * 9999]
)
def test_odd_files_are_refused(hubert_folder: Path, text: str) -> None:
    (hubert_folder / PROCESSOR).write_text(text)
    with pytest.raises(UserError, match="is wrong: expected|cannot be read as JSON"):
        auscult.load(f"hf:{hubert_folder}")


def test_filterbanks_are_as_wide_as_the_extractor_says(
    architectures: Any, tmp_path: Path, rows: list[Tensor]
) -> None:
    from transformers import AutoConfig

    sizes = dict(architectures["w2v_bert"].settings) | {"feature_projection_input_dim": 96}
    torch.manual_seed(1)
    AutoModel.from_config(AutoConfig.for_model("wav2vec2-bert", **sizes)).save_pretrained(tmp_path)
    # do_normalize is none of its settings: it normalises each filter whatever that says
    SeamlessM4TFeatureExtractor(48, num_mel_bins=48, do_normalize=False).save_pretrained(tmp_path)
    rows = [row[: 400 + 160 * (2 * i + 19)] for i, row in enumerate(rows)]  # even frames
    wanted = states_of_transformers(tmp_path, rows)
    upstream = auscult.load(f"hf:{tmp_path}")
    with torch.no_grad():
        found = upstream(Waveforms.of(rows))
    for row, layers in enumerate(wanted):
        assert len(layers[0]) == int(found.lengths[row])
        for one, other in zip(found.layers, layers, strict=True):
            assert_close(one[row, : len(other)], other, atol=1e-5, rtol=1e-5)
    settings = json.loads((tmp_path / PREPROCESSOR).read_text())
    for name, value in (("stride", 3), ("num_mel_bins", 80), ("sampling_rate", 8000)):
        (tmp_path / PREPROCESSOR).write_text(json.dumps(settings | {name: value}))
        with pytest.raises(UserError, match=str(value)):
            auscult.load(f"hf:{tmp_path}")
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="read with 'SeamlessM4TFeatureExtractor' only"):
        auscult.load(f"hf:{tmp_path}")


def test_models_of_the_hub_say_it_through_the_cache(
    hubert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    cache = tmp_path / "cache"
    snapshot = cache / "models--someone--tiny" / "snapshots" / "0123abc"
    shutil.copytree(hubert_folder, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0123abc")
    (snapshot / PREPROCESSOR).unlink()
    save_processor(snapshot, True)
    for module in ("huggingface_hub.constants", "transformers.utils.hub.constants"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(cache), raising=False)
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", True, raising=False)
    with caplog.at_level(logging.INFO, logger="auscult"):
        assert auscult.load("hf:someone/tiny").spec.normalize
    assert "read from its cache" in caplog.text and "has no preprocessor" not in caplog.text
    assert os.path.exists(snapshot / PROCESSOR)
