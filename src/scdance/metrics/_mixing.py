"""How well batches are mixed in a space, and whether each type holds together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import _clustering
from ._clustering import _codes, _same_length
from ._embedding import _labelled, _neighbours
from ._metric import metric
from ._proportions import _mean_of_defined

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@metric(higher_is_better=True, range=(0.0, 1.0), costly=True)
def batch_asw(
    truth: ArrayLike, embedding: ArrayLike, batch: ArrayLike | None = None, *, random_state: int = 0
) -> float:
    """How little the batches part within a type: 1 less their absolute silhouette width, the mean over the types.

    A space that knows nothing scores near 1, so it never ranks by itself.

    Parameters
    ----------
    truth
        Known types, (n_obs,). Cells where it is NaN, None or "" are left out.
    embedding
        Coordinates, (n_obs, n_dims), finite.
    batch
        Batch of each cell, (n_obs,). Cells where it is missing are left out; None: there is one.
    random_state
        Seed of the 10,000 cells that are drawn of a type that has more.

    Returns
    -------
    Score, 0 to 1; types with one batch, or where every cell is its own, are skipped, and NaN where all are.

    Raises
    ------
    InputError
        If the lengths differ, the embedding is not a finite matrix, or no truth is known.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.batch_asw(["T"] * 4, [[0.0], [0.0], [1.0], [1.0]], ["a", "b", "a", "b"])
    0.5
    >>> sd.metrics.batch_asw(["T"] * 4, [[0.0], [0.0], [1.0], [1.0]], ["a", "a", "b", "b"])
    0.0
    """
    true, x = _labelled(truth, embedding)
    if batch is None:
        return float("nan")
    batches, known = _codes(batch), _codes(truth) >= 0
    _same_length(len(batches), len(known), "batch", "truth")
    batches = batches[known]
    rng = np.random.default_rng(random_state)
    widths = [
        _batch_width(x, batches, np.flatnonzero((true == code) & (batches >= 0)), rng) for code in np.unique(true)
    ]
    return _mean_of_defined(widths)


def _batch_width(
    x: NDArray[np.floating], batches: NDArray[np.intp], rows: NDArray[np.intp], rng: np.random.Generator
) -> float:
    """1 less the mean absolute silhouette width of the batches of these cells; NaN where it is not defined."""
    from sklearn.metrics import silhouette_samples

    if len(rows) > _clustering.MOST_CELLS:
        rows = rng.choice(rows, _clustering.MOST_CELLS, replace=False)
    if not 1 < len(np.unique(batches[rows])) < len(rows):
        return float("nan")
    return float(1 - np.abs(silhouette_samples(x[rows], batches[rows])).mean())


@metric(higher_is_better=True, range=(0.0, 1.0), costly=True)
def graph_connectivity(truth: ArrayLike, embedding: ArrayLike) -> float:
    """Share of a type in its largest connected piece of the neighbour graph, the mean over the types.

    Batches that lie apart cut a type into pieces, and so does a space that scatters it. Of the 15 nearest
    neighbours, the cell itself counted, only those of its own type are links, in both directions.

    Parameters
    ----------
    truth
        Known types, (n_obs,). Cells where it is NaN, None or "" are left out, also of the graph.
    embedding
        Coordinates, (n_obs, n_dims), finite.

    Returns
    -------
    Score, 0 to 1; a type of one cell holds together.

    Raises
    ------
    InputError
        If the lengths differ, the embedding is not a finite matrix, or no truth is known.

    Examples
    --------
    >>> import numpy as np
    >>> import scdance as sd
    >>> apart = np.repeat([0.0, 50.0], 20)[:, None] + np.linspace(0, 1, 40)[:, None]
    >>> sd.metrics.graph_connectivity(["T"] * 40, apart)
    0.5
    """
    from scipy.sparse.csgraph import connected_components

    true, x = _labelled(truth, embedding)
    a, shares = _neighbours(x), []
    for code in np.unique(true):
        rows = np.flatnonzero(true == code)
        pieces = connected_components(a[rows][:, rows], directed=False)[1]
        shares.append(np.bincount(pieces).max() / len(rows))
    return float(np.mean(shares))
