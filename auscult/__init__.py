"""Auscult listens inside self-supervised speech encoders.

``auscult.load(SPEC)`` gives an encoder, ``auscult.corpus(SPEC)`` labelled speech, and
``auscult.register_s3prl()`` makes every encoder an upstream of s3prl. Nothing heavy is imported
before one of them is called.
"""

from importlib import import_module as _import_module
from pathlib import Path as _Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    import pandas as pd

    from auscult.dataset import Corpus
    from auscult.errors import UserError
    from auscult.studies import (
        attention,
        compare,
        describe,
        extract,
        findings,
        finetune,
        plan_attention,
        plan_extract,
        plan_probe,
        plan_run,
        pretrain,
        probe,
        report,
        run,
    )
    from auscult.studies.search import search
    from auscult.studies.superb import plan_superb, superb
    from auscult.upstream import Upstream
    from auscult.wrapped import wrap

__version__ = "0.1.0"
__all__ = [
    "Corpus",
    "Upstream",
    "UserError",
    "attention",
    "compare",
    "corpus",
    "describe",
    "extract",
    "findings",
    "finetune",
    "load",
    "plan_attention",
    "plan_extract",
    "plan_probe",
    "plan_run",
    "plan_superb",
    "pretrain",
    "probe",
    "register_s3prl",
    "report",
    "run",
    "search",
    "superb",
    "wrap",
]
_STUDIES = (
    "attention",
    "compare",
    "describe",
    "extract",
    "findings",
    "finetune",
    "plan_attention",
    "plan_extract",
    "plan_probe",
    "plan_run",
    "plan_superb",
    "pretrain",
    "probe",
    "report",
    "run",
    "search",
    "superb",
)
_LAZY = {  # names of this face -> where they are; nothing heavy before one is asked for
    **dict.fromkeys(_STUDIES, "auscult.studies"),
    "Corpus": "auscult.dataset",
    "Upstream": "auscult.upstream",
    "UserError": "auscult.errors",
    "wrap": "auscult.wrapped",
}

# In a checkout the rooms stand beside this folder, in a wheel inside it.
_here = _Path(__file__).resolve().parent
if not (_here / "probing").exists() and (_here.parent / "probing" / "__init__.py").is_file():
    __path__.append(str(_here.parent))


def load(spec: str, *, seed: int = 0) -> "Upstream":
    """Build the encoder that ``spec`` addresses, in evaluation mode on the CPU.

    Args:
        spec: ``family[:checkpoint][?options][@subnet]``, such as ``fbank``,
            ``hf:/models/wavlm-base``, ``s3prl:tera_local:/x.ckpt`` or ``random(hubert_base)``;
            `auscult upstreams` lists all.
        seed: Seed of the weights inside ``random(...)`` where the spec itself names none.

    Raises:
        UserError: Unknown family, missing checkpoint or unreadable file.
    """
    from auscult.upstreams import load_upstream

    return load_upstream(spec, seed=seed)


def corpus(
    spec: "str | pd.DataFrame | Mapping[str, Iterable[Any]] | Iterable[Any]",
    *,
    split: str | None = None,
    skip_bad: bool = False,
    name: str = "frame",
) -> "Corpus":
    """Read and check labelled speech.

    Args:
        spec: ``reader[:folder]``, such as ``tsv:/data/mine``, ``timit:/data/TIMIT`` or ``demo``; a
            pandas frame with the columns of ``MANIFEST.tsv``; lhotse cuts by split; or
            ``auscult.corpora.Item``s.
        split: Name of the split column, where the corpus has several.
        skip_bad: Leave unreadable or inconsistent items out, counted in ``Corpus.skipped``,
            instead of stopping at the first.
        name: What records call a frame, cuts or items.

    Raises:
        UserError: Unknown reader, missing folder, or the first bad item.
    """
    from auscult.corpora import load_corpus, read_object

    if isinstance(spec, str):
        return load_corpus(spec, split=split, skip_bad=skip_bad)
    return read_object(spec, name=name, split=split, skip_bad=skip_bad)


def register_s3prl() -> None:
    """Add the entry ``auscult`` to ``s3prl.hub``; its checkpoint argument is any upstream spec."""
    from auscult import bridge

    bridge.register(load)


def __getattr__(name: str) -> "Any":
    """Return what studies offer, imported when it is asked for (PEP 562)."""
    if name == "results":  # a room, and a function
        return _import_module("auscult.results")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    """Return what a notebook completes: also what is not imported yet."""
    return sorted({*globals(), *__all__})
