"""What a folder says of its encoder's input, read where transformers' AutoFeatureExtractor does.

That is ``feature_extractor`` or ``audio_processor`` in processor_config.json, else
preprocessor_config.json. Each setting that changes numbers is followed or refused. What is padded
with, and on which side, changes none: here no frame sees padding.
"""

from pathlib import Path
from typing import Any

from auscult.contracts import SAMPLE_RATE
from auscult.errors import UserError, quoted
from auscult.progress import logger
from auscult.text import read_table

from ..front_end import STACKED
from ..hub import Source, find_file
from ..packaged import WEIGHTS

_PROCESSOR, _PREPROCESSOR = "processor_config.json", "preprocessor_config.json"
_NESTED = ("feature_extractor", "audio_processor")
_WAVEFORM, _FILTERBANK = "Wav2Vec2FeatureExtractor", "SeamlessM4TFeatureExtractor"


def reads_normalized(source: Source, config: Any) -> bool:
    """Return whether the encoder expects each utterance, or filter, at mean 0 and variance 1.

    Raises:
        UserError: It expects what Auscult does not compute, or its file is wrong.
    """
    filterbank = config.model_type == "wav2vec2-bert"
    path, settings = _find_settings(source)
    if path is None:
        normalize = filterbank or getattr(config, "feat_extract_norm", "layer") == "layer"
        if not Path(source.name).is_relative_to(WEIGHTS):  # those were trained as goes with it
            logger.info(
                f"{source} has no {_PREPROCESSOR}, and no {_PROCESSOR} with an extractor: "
                f"utterances are {'normalised' if normalize else 'read as they are'}, as goes "
                "with its extractor's norm."
            )
        return normalize
    if not isinstance(settings, dict):
        raise UserError(f"{path} is wrong: expected an object with do_normalize true or false.")
    kind = _FILTERBANK if filterbank else _WAVEFORM
    _expect(path, settings, "feature_extractor_type", kind)
    rate = settings.get("sampling_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        raise UserError(
            f"{source} reads audio at {quoted(rate)} Hz; Auscult works at {SAMPLE_RATE}."
        )
    if filterbank:  # its extractor normalises, whatever do_normalize says
        _expect(path, settings, "stride", STACKED)
        filters = config.feature_projection_input_dim // STACKED
        _expect(path, {"num_mel_bins": 80} | settings, "num_mel_bins", filters)
        return True
    _expect(path, settings, "feature_size", 1)
    said = settings.get("do_normalize", True)
    if not isinstance(said, bool):
        raise UserError(f"{path} is wrong: expected an object with do_normalize true or false.")
    return said


def _find_settings(source: Source) -> tuple[Path | None, object]:
    """Return the settings of the extractor and their file; None where nothing says them."""
    processor = find_file(source, _PROCESSOR)
    if processor is not None:
        content = read_table(processor)
        nested = next((content[name] for name in _NESTED if name in content), None)
        if nested is not None:
            return processor, nested
    path = find_file(source, _PREPROCESSOR)
    return path, None if path is None else read_table(path)


def _expect(path: Path, settings: dict[str, Any], name: str, wanted: object) -> None:
    found = settings.get(name)
    if found is not None and found != wanted:
        raise UserError(
            f"{path}: {name} is {quoted(found)}; this encoder is read with {wanted!r} only."
        )
