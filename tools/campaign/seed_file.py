"""Small valid files of every format that Auscult reads: what the fuzzer mutates.

Each target builds its files in an empty folder and reads them as a user's command does. Reading
may give a value or a ``UserError``, and nothing else.
"""

import io
import json
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

import auscult

ROOT = Path(__file__).resolve().parents[2]
RATE, SAMPLES = 16_000, 4800


@dataclass(frozen=True, slots=True)
class Target:
    """One format: how its files are made, how they are read, and which of them are mutated."""

    build: Callable[[Path], None]
    read: Callable[[Path], object]
    mutated: Sequence[str] = ()  # names or endings; all files where empty

    def files(self, folder: Path) -> list[Path]:
        """Return the files of ``folder`` that are mutated."""
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        return [path for path in found if not self.mutated or path.name.endswith((*self.mutated,))]


# --- checkpoints --------------------------------------------------------------------------------


@cache
def _foreign() -> Any:
    """What other libraries store, as the tests make it."""
    sys.path.insert(0, str(ROOT / "tests" / "upstreams"))
    try:
        import conftest  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    return conftest


def _transformers(architecture: str, folder: Path, *, archive: bool = False) -> None:
    """Save a tiny encoder with its settings in both places, as safetensors or as an archive."""
    tiny = _foreign().save_tiny(architecture, folder)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "processor_config.json").write_text(
        json.dumps({"feature_extractor": settings, "processor_class": "Wav2Vec2Processor"})
    )
    if archive:
        (folder / "model.safetensors").unlink()
        torch.save(tiny.model.state_dict(), folder / "pytorch_model.bin")


def _saved(make: Callable[[], Any], *, archive: bool = True) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        content = make()
        torch.save(content, folder / "model.pt", _use_new_zipfile_serialization=archive)

    return build


def _supernet(folder: Path) -> None:
    from auscult.upstreams.lighthubert.checkpoint import write_supernet
    from auscult.upstreams.lighthubert.scaled import build_space
    from auscult.upstreams.lighthubert.space import Dimensions
    from auscult.upstreams.lighthubert.supernet import draw_supernet

    sizes = Dimensions(
        width=32,
        ffn=64,
        heads=2,
        head_dim=16,
        layers=3,
        channels=16,
        position_kernel=16,
        target_dim=128,
    )
    space = build_space(
        "custom", sizes, embed_dims=(16, 32), heads=(1, 2), ratios=(1.0, 2.0), depths=(2, 3)
    )
    write_supernet(draw_supernet("layer_norm", 3, sizes), space, 2, folder)
    choice = {
        "embed_dim": 16,
        "layer_num": 2,
        "heads_num": [1, 2],
        "atten_dim": [16, 32],
        "ffn_embed": [16, 32],
        "slide_wsz": ["global", "global"],
    }
    (folder / "subnet.json").write_text(json.dumps(choice))


def _w2v_bert(folder: Path) -> None:
    from auscult.upstreams.w2v_bert import Dimensions, build_w2v_bert, save_w2v_bert

    size = Dimensions(
        contrastive_blocks=1,
        masked_prediction_blocks=1,
        dim=16,
        heads=2,
        feed_forward=32,
        filters=20,
        channels=6,
        codebook=12,
        code_dim=10,
    )
    torch.manual_seed(0)
    save_w2v_bert(build_w2v_bert(size), folder)


def _audio_albert() -> Any:
    """The shipped Audio ALBERT in s3prl's own layout."""
    from safetensors import safe_open

    from auscult.compact import nested

    path = ROOT / "upstreams" / "weights" / "tiny_audio_albert" / "model.safetensors"
    with safe_open(path, "pt") as file:
        return nested({name: file.get_tensor(name) for name in file.keys()}, file.metadata())


def _load(spec: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        return auscult.load(spec.format(folder))

    return read


CHECKPOINTS: Mapping[str, Target] = {
    "hf": Target(lambda f: _transformers("hubert", f), _load("hf:{}")),
    "hf-random": Target(
        lambda f: _transformers("hubert", f), _load("random(hf:{})"), ("config.json",)
    ),
    "hf-wavlm-bin": Target(lambda f: _transformers("wavlm", f, archive=True), _load("hf:{}")),
    "hf-w2v-bert": Target(lambda f: _transformers("w2v_bert", f), _load("hf:{}"), (".json",)),
    "hubert": Target(
        _saved(lambda: _foreign().converted("hubert", "base")), _load("hubert:{}/model.pt")
    ),
    "wav2vec2-legacy": Target(
        _saved(lambda: _foreign().converted("wav2vec2", "large"), archive=False),
        _load("wav2vec2:{}/model.pt"),
    ),
    "distilhubert": Target(
        _saved(lambda: _foreign().distilled()), _load("distilhubert:{}/model.pt")
    ),
    "torchaudio": Target(
        _saved(lambda: _foreign().build_torchaudio("layer", False).state_dict()),
        _load("hubert:{}/model.pt?heads=2"),
    ),
    "lighthubert": Target(_supernet, _load("lighthubert:{}@smallest"), (".pt",)),
    "subnet": Target(_supernet, _load("lighthubert:{0}@{0}/subnet.json"), ("subnet.json",)),
    "w2v_bert": Target(_w2v_bert, _load("w2v_bert:{}")),
    "audio_albert": Target(_saved(_audio_albert), _load("audio_albert:{}/model.pt")),
}

# --- corpora ------------------------------------------------------------------------------------

GRID = """File type = "ooTextFile"
Object class = "TextGrid"
0
0.3
<exists>
2
"IntervalTier"
"words"
0
0.3
2
0
0.1
""
0.1
0.3
"say"
"IntervalTier"
"phones"
0
0.3
2
0
0.1
"sp"
0.1
0.3
"IH1"
"""

TSV = {
    "MANIFEST.tsv": "path\tutt\tspeaker\tkeyword\tslots_json\tsplit\n"
    + "".join(
        f'{name}.wav\t{name}\ts{name}\tgo\t{{"tone": "{name}"}}\t{split}\n'
        for name, split in (("a", "train"), ("b", "dev"), ("c", "test"))
    ),
    "PHONES.tsv": "utt\tstart\tend\tphone\na\t0\t1600\tsh\na\t1600\t4800\tih\n",
    "WORDS.tsv": "utt\tstart\tend\tword\na\t0\t4800\tshe\n",
    "TRIALS.tsv": "target\tenrol\ttest\tsplit\n1\ta\tb\ttest\n0\ta\tc\ttest\n",
    "turns.rttm": "SPEAKER c 1 0.00 0.20 <NA> <NA> one <NA> <NA>\n",
}
TSV_AUDIO = ("a.wav", "b.wav", "c.wav")


def _timit() -> tuple[dict[str, str], list[str]]:
    texts, audio = {}, []
    for speaker in ("TRAIN/DR1/FCJF0", "TEST/DR1/FAKS0", "TEST/DR1/MDAB0"):
        stem = f"{speaker}/SI1027"
        audio.append(f"{stem}.WAV")
        texts[f"{stem}.PHN"] = "0 800 h#\n800 1600 sh\n1600 4800 h#\n"
        texts[f"{stem}.WRD"] = "800 2000 she\n"
        texts[f"{stem}.TXT"] = "0 4800 She is.\n"
    return texts, audio


def _librispeech() -> tuple[dict[str, str], list[str]]:
    names = {"train-clean-100": "103-1240", "dev-clean": "84-121", "test-clean": "61-709"}
    texts, audio = {"SPEAKERS.TXT": ";ID  |SEX| SUBSET\n84   | F | dev-clean | 8.0 | A\n"}, []
    for part, name in names.items():
        folder = f"{part}/{name.replace('-', '/')}"
        audio.append(f"{folder}/{name}-0000.flac")
        texts[f"{folder}/{name}.trans.txt"] = f"{name}-0000 CHAPTER ONE\n"
        texts[f"alignments/{folder}/{name}-0000.TextGrid"] = GRID
    return texts, audio


def _speech_commands() -> tuple[dict[str, str], list[str]]:
    audio = [f"{word}/0000000{i}_nohash_0.wav" for word in ("yes", "no") for i in range(3)]
    lists = {
        f"{part}_list.txt": "".join(f"{name}\n" for name in audio if f"0{i}_nohash" in name)
        for i, part in ((1, "validation"), (2, "testing"))
    }
    return lists, [*audio, "_background_noise_/noise.wav"]


def _iemocap() -> tuple[dict[str, str], list[str]]:
    texts, audio = {}, []
    for session in range(1, 6):
        name = f"Ses0{session}F_impro01"
        for who in "FM":
            audio.append(f"Session{session}/sentences/wav/{name}/{name}_{who}000.wav")
        lines = "".join(
            f"[6.2901 - 8.2357]\t{name}_{'FM'[i]}000\t{mood}\t[2.5000, 2.5000, 2.5000]\n"
            for i, mood in enumerate(("neu", "ang"))
        )
        texts[f"Session{session}/dialog/EmoEvaluation/{name}.txt"] = lines
        words = f"{name}_F000 [006.2901-008.2357]: Excuse me.\n"
        texts[f"Session{session}/dialog/transcriptions/{name}.txt"] = words
    return texts, audio


def _librimix() -> tuple[dict[str, str], list[str]]:
    texts = {}
    for part in ("train", "dev", "test"):
        texts[f"{part}/wav.scp"] = f"{part}-1 audio/{part}.wav\n"
        texts[f"{part}/segments"] = f"{part}-1-a {part}-1 0.00 0.20\n"
        texts[f"{part}/utt2spk"] = f"{part}-1-a {part}-1\n"
    return texts, [f"{part}/audio/{part}.wav" for part in ("train", "dev", "test")]


def _fluent() -> tuple[dict[str, str], list[str]]:
    head = ",path,speakerId,transcription,action,object,location\n"
    texts = {
        f"data/{part}_data.csv": f"{head}0,wavs/speakers/{part}/{part}.wav,{part},Go,go,none,none\n"
        for part in ("train", "valid", "test")
    }
    return texts, [f"wavs/speakers/{part}/{part}.wav" for part in ("train", "valid", "test")]


def _voxceleb() -> tuple[dict[str, str], list[str]]:
    files = [f"id1000{i}/abc/0000{part}.wav" for i in (1, 2) for part in (1, 2, 3)]
    parts = "".join(f"{name[-5]} {name}\n" for name in files)
    return {"iden_split.txt": parts}, [f"wav/{name}" for name in files]


def _corpus(reader: str, texts: Mapping[str, str], audio: Sequence[str]) -> Target:
    def build(folder: Path) -> None:
        for name, text in texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        for i, name in enumerate(audio):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            wave = 0.3 * np.sin(np.arange(SAMPLES) * (0.1 + 0.01 * i))
            kind = "FLAC" if name.endswith(".flac") else "NIST" if name.isupper() else "WAV"
            soundfile.write(folder / name, wave, RATE, "PCM_16", format=kind)

    def read(folder: Path) -> object:
        try:
            return auscult.corpus(f"{reader}:{folder}")
        finally:
            auscult.corpus(f"{reader}:{folder}", skip_bad=True)

    return Target(build, read, tuple(Path(name).name for name in texts))


def _audio(form: str, subtype: str) -> Target:
    """Speech in one encoding: read whole and in pieces, as probes and pretraining do."""
    from auscult.audio import read_samples

    def build(folder: Path) -> None:
        (folder / "MANIFEST.tsv").write_text(TSV["MANIFEST.tsv"].replace(".wav", f".{form}"))
        for i, name in enumerate("abc"):
            wave = 0.3 * np.sin(np.arange(SAMPLES) * (0.1 + 0.01 * i))
            soundfile.write(folder / f"{name}.{form}", wave, RATE, subtype)

    def read(folder: Path) -> object:
        corpus = auscult.corpus(f"tsv:{folder}", skip_bad=True)
        return [read_samples(cut) for cuts in corpus.splits.values() for cut in cuts]

    return Target(build, read, (f"a.{form}",))


CORPORA: Mapping[str, Target] = {
    "tsv": _corpus("tsv", TSV, TSV_AUDIO),
    "timit": _corpus("timit", *_timit()),
    "librispeech": _corpus("librispeech", *_librispeech()),
    "speech_commands": _corpus("speech_commands", *_speech_commands()),
    "iemocap": _corpus("iemocap", *_iemocap()),
    "librimix": _corpus("librimix", *_librimix()),
    "fluent_speech_commands": _corpus("fluent_speech_commands", *_fluent()),
    "voxceleb1": _corpus("voxceleb1", *_voxceleb()),
    "wav": _audio("wav", "PCM_16"),
    "gsm": _audio("wav", "GSM610"),
    "flac": _audio("flac", "PCM_16"),
    "ogg": _audio("ogg", "VORBIS"),
}

# --- results and submissions --------------------------------------------------------------------


def _record(layer: int) -> Any:
    from auscult.record import Record

    hashes = {"upstream_sha256": "0" * 64, "corpus_sha256": "1" * 64}
    measured = {"probe": "linear", "metric": "accuracy", "value": 0.5, "low": 0.4, "high": 0.6}
    where = {"split": "test", "selected_on": "dev", "num_items": 10, "seed": 0, "layer": layer}
    run = {"command": "auscult probe", "created": "2026-01-01T00:00:00+00:00", "device": "cpu"}
    made = {"code_version": "0", "libraries": {"torch": "2"}, "config": {"max_epochs": 3}}
    task = {"task": "keyword", "task_version": 1, "upstream": "fbank", "corpus": "demo"}
    return Record.from_dict({**hashes, **measured, **where, **run, **made, **task})


def _store(folder: Path) -> None:
    from auscult.record import Artifact, provenance
    from auscult.results import open_store

    artifact = Artifact(
        kind="layer_weights",
        upstream="fbank",
        upstream_sha256="0" * 64,
        corpus="demo",
        corpus_sha256="1" * 64,
        task="keyword",
        arrays={"weights": np.array([0.25, 0.75])},
        provenance=provenance("auscult run", "cpu"),
    )
    open_store(folder).add([_record(layer) for layer in range(3)], [artifact])


def _read_store(folder: Path) -> object:
    from auscult.results import open_store

    store = open_store(folder)
    records, artifacts = store.records(), store.artifacts()
    store.add([_record(7)])
    return records, artifacts


def _submission(folder: Path) -> None:
    with zipfile.ZipFile(folder / "predict.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("predict/pr/predict.ark", "utt-1 HH AH L OW\nutt-2 \n")
        archive.writestr("predict/ks/predict.txt", "test-yes-0a7c2a8d_nohash_0 yes\n")
        archive.writestr("predict/sid/predict.txt", "id10001-a-1 id10001\n")
        buffer = io.BytesIO()
        np.save(buffer, np.zeros(3))
        archive.writestr("predict/ic/predict.csv", "a1,activate,lights,kitchen\n")


def _read_submission(folder: Path) -> object:
    from auscult.results.superb.check import check_submission

    return check_submission(folder / "predict.zip")


RESULTS: Mapping[str, Target] = {
    "store": Target(_store, _read_store, ("results.sqlite",)),
    "submission": Target(_submission, _read_submission),
}

# --- kept work ----------------------------------------------------------------------------------


def _kept(folder: Path) -> None:
    from auscult import kept

    kept.write_tensors({"a": torch.ones(3, 4)}, folder / "a.safetensors", {"x": "y"})
    kept.write_json({"rows": [1, 2]}, folder / "a.json")
    (folder / "a.jsonl").write_text("".join(kept.sealed_line({"i": i}) for i in range(3)))


def _read_kept(folder: Path) -> object:
    from auscult import kept

    return [
        kept.read_tensors(folder / "a.safetensors"),
        kept.read_json(folder / "a.json"),
        kept.sealed_rows(folder / "a.jsonl"),
    ]


TARGETS: Mapping[str, Target] = {
    **CHECKPOINTS,
    **CORPORA,
    **RESULTS,
    "kept": Target(_kept, _read_kept),
}
