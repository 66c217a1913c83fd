"""Query by example as SUPERB does it: is a spoken query in a document, without any training.

The same as SUPERB's: subsequence dynamic time warping on the frames of one hidden state
(:mod:`auscult.downstreams.alignment`), each dimension first brought to mean 0 and variance 1 over
the frames of all queries and documents that are compared; a query's scores brought to mean 0 and
variance 1 over the documents; queries of less than five frames detect nothing; each hidden state is
tried on dev and the best one's maximum term-weighted value on test is the result. On QUESST 2014
only English is searched, but the score is that over all six languages, whose other queries count
as missed (:mod:`auscult.corpora.quesst14`): that is what the published numbers are.

Not the same: the score is computed here with the official costs
(:mod:`auscult.downstreams.detection`), not by the official Java program; features are rounded to
float16; audio is not lowered by 3 dB. At the official costs one false alarm in eighty undoes a
perfect search, so mean average precision, which needs no threshold, is reported beside; it decides
where hidden states have the same value on dev.

Any corpus can be searched. Where it has a split ``documents``, dev and test hold the queries.
Otherwise in dev and in test some utterances of each word are queries, no more than half of them and
at most ``queries_per_word``, chosen by their ids alone, and the others are the documents. A word is
what the label ``label`` says; a query occurs in a document whose label, words separated by
spaces, has the query's among them. Labels such as ``_unknown_`` and ``_silence_`` are no words.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auscult.cache import cache_folder
from auscult.dataset import Corpus, utterance_label
from auscult.errors import UserError
from auscult.feature import (
    FeatureStore,
    FrameSource,
    encode_stores,
    frame_bytes,
)
from auscult.pooled import Pooled
from auscult.precision import Precision
from auscult.progress import logger, progress
from auscult.score import Score
from auscult.upstream import Upstream

from .alignment import match_costs
from .detection import (
    Collection,
    average_precisions,
    maximum_value,
    precision_score,
    value_score,
)
from .schedule import HeadResult, Records
from .split import LabelledCorpus, LabelledSplit

DOCUMENTS = "documents"
SHORTEST = 5  # frames of a query that is searched for
CHUNK = 5_000  # frames of documents that are read at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryByExampleConfig:
    """What is searched for; SUPERB's protocol leaves no more to be set."""

    label: str = "keyword"
    queries_per_word: int = 5  # where the corpus does not say which utterances are queries

    def __post_init__(self) -> None:
        if self.queries_per_word < 1:
            raise UserError(f"queries_per_word={self.queries_per_word}: expected 1 or more.")


@dataclass(frozen=True, slots=True)
class SearchCorpus(LabelledCorpus):
    """Queries in ``dev`` and ``test``, and what they are searched in; labels are their words."""

    collection: Mapping[str, Collection | None] = field(default_factory=dict)

    def relevant(self, split: str) -> NDArray[np.bool_]:
        """Return whether each query of a split occurs in each of its documents."""
        queries, documents = self.splits[split].labels, self.splits[documents_of(split)].labels
        return np.array([[f" {q} " in f" {d} " for d in documents] for q in queries])


def documents_of(split: str) -> str:
    """Return the name of the split that holds the documents for the queries of ``split``."""
    return f"{split}_{DOCUMENTS}"


def prepare(corpus: Corpus, config: QueryByExampleConfig, *, skip_unlabelled: bool) -> SearchCorpus:
    """Tell queries from documents.

    Args:
        corpus: With splits dev and test and maybe documents.
        config: Says which label is the word.
        skip_unlabelled: Not used: a document without a label is one in which no query occurs.

    Raises:
        UserError: A missing split, or one whose queries occur in no document or all in every one.
    """
    splits: dict[str, LabelledSplit] = {}
    collection = {}
    shared = DOCUMENTS in corpus.splits
    for name in ("dev", "test"):
        queries = tuple(corpus.split(name))
        documents = tuple(corpus.split(DOCUMENTS)) if shared else queries
        if shared:
            queries = tuple(cut for cut in queries if _word(cut, config.label))
        else:
            queries = _choose(queries, config)
            chosen = {cut.id for cut in queries}
            documents = tuple(cut for cut in documents if cut.id not in chosen)
        for part, cuts in ((name, queries), (documents_of(name), documents)):
            splits[part] = LabelledSplit(part, cuts, tuple(_word(c, config.label) for c in cuts))
        collection[name] = _collection(queries)
    words = sorted({word for name in ("dev", "test") for word in splits[name].labels})
    found = SearchCorpus(splits, tuple(words), (), collection)
    for name in ("dev", "test"):
        if not splits[name].cuts or not found.relevant(name).any():
            raise UserError(
                f"The {name} split of {corpus.spec} has {len(splits[name].cuts)} queries by the "
                f"label {config.label!r}, none of which occurs in a document; choose another with "
                "label=NAME, or mark what is searched with the split 'documents'."
            )
        if found.relevant(name).all():
            raise UserError(
                f"Every query of the {name} split of {corpus.spec} occurs in every document, so "
                "that there is nothing to be told apart; add documents without it."
            )
    return found


def evaluate(
    encoder: Upstream,
    corpus: SearchCorpus,
    *,
    budget: int,
    device: str,
    folder: Path | None = None,
    precision: Precision = "float32",
) -> HeadResult:
    """Search for the queries of dev in every hidden state, and for those of test in the best.

    Args:
        encoder: On the device that it shall run on.
        corpus: What :func:`prepare` returned.
        budget: Largest size of the features that are kept, in bytes; beyond it documents are
            encoded anew for each of the three passes.
        device: Where frames are compared.
        folder: Where features are kept; by default in the user's cache.
        precision: What the encoder computes in.

    Returns:
        The answers are trials in the order of queries, then documents: ``id`` (query, document),
        ``target`` and ``prediction``. The curve has dev's score of each hidden state in the place
        of steps, the layer weights are one for the best.
    """
    stores = _encode(encoder, corpus, budget, folder or cache_folder() / "features", precision)
    pooled = {name: store.pooled() for name, store in stores.items()}
    frames = {name: store.frames() for name, store in stores.items()}
    search = _Search(encoder.spec.name, pooled, frames, device)
    layers = range(encoder.spec.num_layers + 1)
    relevant, found = corpus.relevant("dev"), search.scores("dev", layers)
    values = [maximum_value(scores, relevant, corpus.collection["dev"]) for scores in found]
    precisions = [average_precisions(scores, relevant).mean() for scores in found]
    best = max(layers, key=lambda layer: (values[layer], precisions[layer]))
    (scores,) = search.scores("test", [best])
    queries, documents = corpus.splits["test"].ids, corpus.splits[documents_of("test")].ids
    answers: Records = {
        "id": [(query, document) for query in queries for document in documents],
        "target": corpus.relevant("test").astype(int).ravel().tolist(),
        "prediction": scores.ravel().tolist(),
    }
    return HeadResult(
        answers=answers,
        layer_weights=np.eye(len(layers))[best],
        step=0,
        curve=tuple(enumerate(values)),
        num_parameters=0,
    )


def _encode(
    encoder: Upstream, corpus: SearchCorpus, budget: int, folder: Path, precision: Precision
) -> dict[str, FeatureStore]:
    """Encode queries and documents; keep their frames where they fit the budget."""
    size = sum(frame_bytes(encoder, split.cuts) for split in corpus.splits.values())
    keep = size <= budget
    stores = {
        name: FeatureStore(
            encoder, split.cuts, keep_frames=keep, folder=folder, precision=precision
        )
        for name, split in corpus.splits.items()
    }
    encode_stores(encoder.spec.name, stores.values())
    if not keep:
        logger.info(
            f"{encoder.spec.name}: all features would take {size / 1e9:.2f} GB, more than the "
            f"budget of {budget / 1e9:.2f} GB: documents are encoded for each pass (--budget "
            "raises the limit)."
        )
    return stores


def score(answers: Mapping[str, Sequence[Any]], corpus: SearchCorpus) -> list[Score]:
    """Return value and mean average precision of test, with queries resampled."""
    relevant = corpus.relevant("test")
    scores = np.reshape(np.array(answers["prediction"], dtype=float), relevant.shape)
    speakers = corpus.splits["test"].speakers
    return [
        value_score(scores, relevant, speakers, corpus.collection["test"]),
        precision_score(scores, relevant, speakers),
    ]


@dataclass(frozen=True, slots=True)
class _Search:
    """Frames of queries and documents, and how alike they are."""

    title: str  # of the encoder
    pooled: Mapping[str, Pooled]  # by split
    frames: Mapping[str, FrameSource]
    device: str

    def scores(self, split: str, layers: Sequence[int]) -> list[NDArray[np.float64]]:
        """Return for each layer how alike queries and documents are, (query, document)."""
        pooled = self.pooled[split], self.pooled[documents_of(split)]
        means, scales = _statistics(pooled)
        means, scales = means.to(self.device), scales.to(self.device)
        edges, document_edges = (np.append(0, np.cumsum(part.num_frames)) for part in pooled)
        queries = self._read(split, range(len(edges) - 1), layers)
        queries = [(q - means[i]) * scales[i] for i, q in zip(layers, queries, strict=True)]
        costs: list[list[NDArray[np.float32]]] = [[] for _ in layers]
        chunks = list(_chunks(document_edges))
        title = f"Searching {split} in {self.title}"
        with progress(title, len(chunks), "parts") as advance:
            for first, last in chunks:
                frames = self._read(documents_of(split), range(first, last), layers)
                place = document_edges[first : last + 1] - document_edges[first]
                for i, layer in enumerate(layers):
                    part = (frames[i] - means[layer]) * scales[layer]
                    costs[i].append(match_costs(queries[i], edges, part, place))
                advance()
        short = pooled[0].num_frames < SHORTEST
        return [_standardised(np.hstack(parts), short) for parts in costs]

    def _read(self, name: str, items: Sequence[int], layers: Sequence[int]) -> list[Tensor]:
        return [frames.to(self.device) for frames in self.frames[name].read(items, layers)]


def _statistics(parts: Sequence[Pooled]) -> tuple[Tensor, Tensor]:
    """Return mean and reciprocal standard deviation over all frames, each (layer, dim)."""
    frames = torch.cat([torch.from_numpy(part.num_frames) for part in parts]).double()
    means = torch.cat([part.mean for part in parts]).double()
    stds = torch.cat([part.std for part in parts]).double()
    weights = (frames / frames.sum())[:, None, None]
    mean = (means * weights).sum(0)
    variance = ((stds**2 + (means - mean) ** 2) * weights).sum(0)
    std = (variance * frames.sum() / (frames.sum() - 1)).sqrt()
    # what does not vary but by rounding would drown the rest
    scale = torch.where(std > 1e-6 * mean.abs(), 1 / std.clamp(min=1e-9), 0.0)
    return mean.float(), scale.float()


def _standardised(costs: NDArray[np.float32], short: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return scores with mean 0 and variance 1 for each query; 0 for queries that are too short."""
    scores = -costs.astype(float)
    scores[short] = 0.0
    scores -= scores.mean(axis=1, keepdims=True)
    standardised: NDArray[np.float64] = scores / scores.std(axis=1, keepdims=True).clip(min=1e-9)
    return standardised


def _chunks(edges: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield runs of items with together about CHUNK frames."""
    first = 0
    for last in range(1, len(edges)):
        if edges[last] - edges[first] >= CHUNK or last == len(edges) - 1:
            yield first, last
            first = last


def _choose(cuts: Iterable[Any], config: QueryByExampleConfig) -> tuple[Any, ...]:
    """Return the utterances that are queries."""
    by_word: dict[str, list[Any]] = {}
    for cut in cuts:
        by_word.setdefault(_word(cut, config.label), []).append(cut)
    by_word.pop("", None)
    chosen = []
    for word in sorted(by_word):
        found = by_word[word]
        found.sort(key=lambda cut: hashlib.sha256(cut.id.encode()).digest())
        chosen += found[: min(len(found) // 2, config.queries_per_word)]
    return tuple(chosen)


def _word(cut: Any, label: str) -> str:
    text = utterance_label(cut, label) or ""
    return "" if text.startswith("_") and text.endswith("_") else text


def _collection(queries: Sequence[Any]) -> Collection | None:
    """Return the size of the whole ground truth, where the corpus says it."""
    if not queries:
        return None
    sizes = [utterance_label(queries[0], f"collection_{what}") for what in ("queries", DOCUMENTS)]
    if None in sizes:
        return None
    return Collection(*(int(str(size)) for size in sizes))
