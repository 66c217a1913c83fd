"""Subsequence dynamic time warping: what it costs to find a query somewhere in a document.

The same as s3prl's for QUESST 2014: between two frames exp(1 - cosine) - 1; each row, a frame of
the query against all of the document, stretched to reach from 0 to 1; the asymmetric step pattern,
in which a frame of the query goes on by none, one or two frames of the document; begin and end of
the document free; the cost divided by the frames of the query.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

CELLS = 2**24  # distances between frames that are held at a time: 64 MB

_Floats = NDArray[np.float32]
_Edges = NDArray[np.int64]
_Kernel = Callable[[_Floats, _Edges, _Edges, _Floats], None]


def match_costs(
    queries: Tensor, query_edges: _Edges, documents: Tensor, document_edges: _Edges
) -> _Floats:
    """Return the cost of each query in each document, (query, document).

    Args:
        queries: (frame, dim) of all queries, one after the other.
        query_edges: (query + 1,) where each begins, and where the last ends.
        documents: (frame, dim) of all documents, on the same device.
        document_edges: (document + 1,) likewise.
    """
    compiled = _compiled()
    costs: _Floats = np.empty((len(query_edges) - 1, len(document_edges) - 1), dtype=np.float32)
    queries, documents = functional.normalize(queries), functional.normalize(documents)
    threads = torch.get_num_threads()
    shares = [share for share in np.array_split(np.arange(len(costs)), threads) if len(share)]

    def align(share: _Edges, distances: _Floats, edges: _Edges, place: slice) -> None:
        found = np.empty((len(share), len(edges) - 1), dtype=np.float32)
        compiled(distances, query_edges[share[0] : share[-1] + 2], edges, found)
        costs[share[0] : share[-1] + 1, place] = found

    with ThreadPoolExecutor(threads) as pool:
        for place in _blocks(document_edges, CELLS // len(queries)):
            edges = document_edges[place.start : place.stop + 1]
            part = documents[edges[0] : edges[-1]]
            # the distance is one less, which stretching the rows removes
            distances = (1 - queries @ part.T).exp_().cpu().numpy()
            work = partial(align, distances=distances, edges=edges - edges[0], place=place)
            list(pool.map(work, shares))
    return costs


def _blocks(edges: _Edges, size: int) -> Iterator[slice]:
    """Yield runs of documents with together about ``size`` frames, at least one document each."""
    first = 0
    while first < len(edges) - 1:
        last = int(np.searchsorted(edges, edges[first] + size, side="right")) - 1
        last = max(last, first + 1)
        yield slice(first, last)
        first = last


def _align(distances: _Floats, rows: _Edges, columns: _Edges, costs: _Floats) -> None:
    """Write the cost of each query in each document into ``costs``. Compiled by numba.

    Args:
        distances: (query frame, document frame).
        rows: Edges of the queries in ``distances``.
        columns: Edges of the documents.
        costs: (query, document).
    """
    widest = 0
    for d in range(len(columns) - 1):
        widest = max(widest, columns[d + 1] - columns[d])
    before, now = np.empty(widest, np.float32), np.empty(widest, np.float32)
    for q in range(len(rows) - 1):
        for d in range(len(columns) - 1):
            width = columns[d + 1] - columns[d]
            before[:width] = 0
            for i in range(rows[q], rows[q + 1]):
                row = distances[i, columns[d] : columns[d + 1]]
                low, high = row[0], row[0]
                for j in range(width):
                    low, high = min(low, row[j]), max(high, row[j])
                scale = np.float32(1) / max(high - low, np.float32(1e-9))
                for j in range(min(2, width)):
                    now[j] = (row[j] - low) * scale + before[: j + 1].min()
                for j in range(2, width):
                    step = min(before[j], min(before[j - 1], before[j - 2]))
                    now[j] = (row[j] - low) * scale + step
                before, now = now, before
            costs[q, d] = before[:width].min() / (rows[q + 1] - rows[q])


@cache
def _compiled() -> _Kernel:
    """Have the loop compiled when it is first called; cached on disk where that can be written."""
    options = {"nogil": True, "fastmath": {"nnan", "reassoc", "contract", "nsz"}}
    try:
        kernel: _Kernel = numba.njit(_align, cache=True, **options)
    except RuntimeError:  # neither this folder nor the user's cache folder can be written
        kernel = numba.njit(_align, **options)
    return kernel
