"""What is told of the cells of a batch, and of features that go together: numbers made of the values of cells."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix

from scdance._core.cells import Cells
from scdance.pp import canonical
from scdance.train import slices

FACTS = 9  # numbers that describe the cells of a batch
COLUMNS = 1024  # of a Gram matrix that are there at once


def facts_of_batches(source: Cells, rows: np.ndarray) -> np.ndarray:
    """Mean facts of the cells of each batch, each fact at mean 0 and variance 1 over the batches that `rows` have.

    Returns (n_batches + 1, 9) float32: row b of batch b, and 0 in those that `rows` do not have and in the last row.
    """
    n_batches = 0 if source.batch is None else int(source.batch.max(initial=-1)) + 1
    if source.batch is None or n_batches == 0:
        return np.zeros((1, FACTS), dtype=np.float32)
    total, n = np.zeros((n_batches + 1, FACTS)), np.zeros(n_batches + 1)
    for at in slices(len(rows)):
        batch = source.batch[rows[at]]
        np.add.at(total, batch, facts_of_cells(sparse(source, rows[at])))
        np.add.at(n, batch, 1)
    n[-1] = 0  # where cells of no batch were added
    there = n > 0
    means = total[there] / n[there, None]
    sd = means.std(axis=0)
    out = np.zeros((n_batches + 1, FACTS), dtype=np.float32)
    out[there] = (means - means.mean(axis=0)) / np.where(sd > 1e-9, sd, 1)
    return out


def facts_of_cells(x: csr_matrix) -> np.ndarray:
    """Nine facts about the values of each cell, (n_cells, 9) float64.

    Mean and standard deviation of all; quartiles and maximum of those that are not 0, their number in thousands, their
    mean and standard deviation. A cell without a value has 0 throughout.
    """
    n_cells, n_vars = x.shape
    n, starts = np.diff(x.indptr), x.indptr[:-1]
    cell = np.repeat(np.arange(n_cells), n)
    values = x.data[np.lexsort((x.data, cell))].astype(np.float64)
    total, square = (np.bincount(cell, values**power, n_cells) for power in (1, 2))

    def quantile(part: float) -> np.ndarray:
        """Between the two nearest in order, as numpy has it."""
        some, place = n > 0, np.maximum(n - 1, 0) * part
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, np.maximum(n - 1, 0))
        out = np.zeros(n_cells)
        below, above = values[(starts + low)[some]], values[(starts + high)[some]]
        out[some] = below + (place - low)[some] * (above - below)
        return out

    def mean_and_sd(count: Any) -> tuple[np.ndarray, np.ndarray]:
        mean = total / count
        return mean, np.sqrt(np.maximum(square / count - mean**2, 0))

    quantiles = [quantile(part) for part in (0.25, 0.5, 0.75, 1)]
    return np.column_stack([*mean_and_sd(n_vars), *quantiles, n / 1000, *mean_and_sd(np.maximum(n, 1))])


def cosines(source: Cells, rows: np.ndarray, links: csr_matrix, threshold: float) -> csr_matrix:
    """The links weighed by the cosine of the values of their features in the cells at `rows`.

    Links whose cosine is not larger than the threshold in size are left out, and those of features without values.
    """
    used = np.flatnonzero(np.diff(links.indptr))
    edges = links[used][:, used].tocsc()
    weights, square = np.zeros(edges.nnz), np.zeros(len(used))
    for start in range(0, len(used), COLUMNS):
        gram = np.zeros((len(used), min(COLUMNS, len(used) - start)))
        for at in slices(len(rows)):
            block = sparse(source, rows[at])[:, used]
            gram += block.T @ block[:, start : start + COLUMNS].toarray()
        columns = np.arange(gram.shape[1])
        square[start + columns] = gram[start + columns, columns]
        inside = slice(edges.indptr[start], edges.indptr[start + gram.shape[1]])
        degrees = np.diff(edges.indptr[start : start + gram.shape[1] + 1])
        weights[inside] = gram[edges.indices[inside], np.repeat(columns, degrees)]
    rows_, columns_ = edges.indices, np.repeat(np.arange(len(used)), np.diff(edges.indptr))
    size = np.sqrt(square[rows_] * square[columns_])
    weights = np.divide(weights, size, out=np.zeros_like(weights), where=size > 0)
    kept = np.abs(weights) > threshold
    places = (used[rows_[kept]], used[columns_[kept]])
    return canonical(coo_matrix((weights[kept].astype(np.float32), places), shape=links.shape))


def sparse(cells: Cells, rows: np.ndarray) -> csr_matrix:
    """Values of the cells at `rows`, after the whole recipe."""
    return canonical(cells.dense(rows) if cells.prep.filling else cells.x[rows])  # type: ignore[index]
