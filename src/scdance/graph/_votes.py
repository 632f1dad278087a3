"""Votes of the nearest cells."""

from __future__ import annotations

import numpy as np

NEAREST = 1e-6  # distance below which a neighbour weighs no more
LEAST = 1e-3  # votes of a type that has none, so that no probability is 0


def votes(places: np.ndarray, labels: np.ndarray, asked: np.ndarray, n_neighbors: int, n_types: int) -> np.ndarray:
    """Share of the votes that each type gets from the nearest cells, each by the inverse of its distance.

    Parameters
    ----------
    places
        Where the cells that vote lie, (n, n_dims).
    labels
        Their types as codes from 0, (n,) int.
    asked
        Where the cells that are voted on lie, (n_obs, n_dims).
    n_neighbors
        Cells that vote, at most n.
    n_types
        Number of types.

    Returns
    -------
    Shares, (n_obs, n_types) float64, above 0, rows sum to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import graph
    >>> graph.votes(np.array([[0.0], [1.0], [9.0]]), np.array([0, 0, 1]), np.array([[0.5]]), 2, 2).round(2).tolist()
    [[1.0, 0.0]]
    """
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=min(n_neighbors, len(places))).fit(places)
    distance, which = near.kneighbors(asked)
    out = np.zeros((len(asked), n_types))
    np.add.at(out, (np.arange(len(asked))[:, None], labels[which]), 1 / np.maximum(distance, NEAREST))
    out = out / out.sum(axis=1, keepdims=True) + LEAST
    return out / out.sum(axis=1, keepdims=True)
