"""What the page draws arrays from: JSON values, rounded far below their uncertainty."""

import math
from typing import Any

import numpy as np

from auscult.record import Artifact

DIGITS = 5  # significant digits of a map's cell


def divergence(label: str, artifact: Artifact) -> dict[str, Any]:
    """Return what the divergence maps of one encoder are drawn from."""
    arrays = artifact.arrays
    return {
        "label": label,
        "unit": artifact.meta["unit"],
        "blocks": np.unique(arrays["block_of"]).tolist(),
        "block_of": arrays["block_of"].tolist(),
        "head_of": arrays["head_of"].tolist(),
        "mean": _rounded(arrays["mean"].tolist()),
        "same_head": _rounded(arrays["same_head"].tolist()),
        "all_pairs": _rounded(arrays["all_pairs"].tolist()),
    }


def weights(label: str, artifact: Artifact) -> dict[str, Any]:
    """Return what the layer weights of one head are drawn from."""
    found = np.asarray(artifact.arrays["weights"], np.float64).tolist()
    return {"label": f"{label} · {artifact.task}", "weights": _rounded(found)}


def _rounded(value: Any) -> Any:
    """Round nested lists for the page; what is missing becomes null, as JSON wants it."""
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
