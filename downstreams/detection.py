"""What detections of spoken terms are worth: NIST's term-weighted value, average precision.

At a threshold, a term's value is 1 minus the share of its documents that are missed minus beta
times the share of all others that are detected; a system's is the mean over terms, and its maximum
over thresholds, one for all terms, is the MTWV. Detecting nothing has the value 0, so it is never
less. With the costs of QUESST 2014 (a miss 100, a false alarm 1, one of 1250 trials a target) beta
is 12.49. A trial is a query and a document, as the official scorer counts them, and terms that
occur nowhere are left out, as there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from auscult.errors import UserError
from auscult.interval import cluster_weights, quantiles
from auscult.score import Score, count_speakers

from .score import ratio_score

COST_MISS, COST_FALSE_ALARM, PRIOR = 100.0, 1.0, 0.0008
BETA = COST_FALSE_ALARM * (1 - PRIOR) / (COST_MISS * PRIOR)


@dataclass(frozen=True, slots=True)
class Collection:
    """How many terms and documents the ground truth has, searched or not."""

    num_terms: int  # that occur somewhere
    num_documents: int


def maximum_value(
    scores: NDArray[np.float64], relevant: NDArray[np.bool_], collection: Collection | None = None
) -> float:
    """Return the maximum term-weighted value.

    Args:
        scores: (term, document) higher is more alike.
        relevant: (term, document) whether the term occurs in the document.
        collection: The whole of which these are a part: terms and documents beyond count as not
            detected. By default there are no others.

    Raises:
        UserError: No term occurs in any document.
    """
    occurs = relevant.any(axis=1)
    ones = np.ones((1, int(occurs.sum())))
    return float(_maxima(scores[occurs], relevant[occurs], ones, collection)[0])


def value_score(
    scores: NDArray[np.float64],
    relevant: NDArray[np.bool_],
    speakers: Sequence[str | None],
    collection: Collection | None = None,
) -> Score:
    """Return the maximum term-weighted value with its interval; spoken terms are resampled.

    Args:
        scores: See :func:`maximum_value`, as for the others.
        relevant: See there.
        speakers: Who says each term.
        collection: See there.

    Raises:
        UserError: No term occurs in any document.
    """
    occurs = np.asarray(relevant.any(axis=1))
    mine = [speaker for speaker, there in zip(speakers, occurs, strict=True) if there]
    weights = cluster_weights(mine, len(mine)) if mine else np.zeros((0, 0))
    low, high = quantiles(_maxima(scores[occurs], relevant[occurs], weights, collection))
    return Score(
        metric="mtwv",
        value=maximum_value(scores, relevant, collection),
        low=low,
        high=high,
        num_items=len(mine),
        num_speakers=count_speakers(mine),
    )


def average_precisions(
    scores: NDArray[np.float64], relevant: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the average precision of each term that occurs somewhere, (term,)."""
    from sklearn.metrics import average_precision_score

    pairs = [pair for pair in zip(relevant, scores, strict=True) if pair[0].any()]
    return np.array([average_precision_score(*pair) for pair in pairs])


def precision_score(
    scores: NDArray[np.float64], relevant: NDArray[np.bool_], speakers: Sequence[str | None]
) -> Score:
    """Return the mean average precision with its interval; see :func:`value_score`."""
    found = average_precisions(scores, relevant)
    occurs = np.asarray(relevant.any(axis=1))
    mine = [name for name, there in zip(speakers, occurs, strict=True) if there]
    return ratio_score("map", found, np.ones(len(found)), mine)


def _maxima(
    scores: NDArray[np.float64],
    relevant: NDArray[np.bool_],
    weights: NDArray[np.float64],
    collection: Collection | None,
) -> NDArray[np.float64]:
    """Return the maximum for each row of ``weights`` (resample, term); every term occurs."""
    if not len(scores):
        raise UserError("No query occurs in any document, so that there is nothing to be found.")
    size = collection or Collection(*scores.shape)
    targets = relevant.sum(axis=1, keepdims=True)
    others = np.maximum(size.num_documents - targets, 1)
    gains = np.where(relevant, 1 / targets, -BETA / others).ravel()
    order = np.argsort(-scores, axis=None, kind="stable")
    ordered = scores.ravel()[order]
    ends = np.flatnonzero(np.diff(ordered, append=-np.inf))  # trials of equal scores as one
    gains, term = gains[order], order // scores.shape[1]
    found = size.num_terms / len(scores)
    values = [np.cumsum(gains * row[term])[ends].max() / (row.sum() * found) for row in weights]
    return np.maximum(values, 0.0)
