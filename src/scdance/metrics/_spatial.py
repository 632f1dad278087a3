"""Scores of regions of a tissue that need no truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scdance._checks import InputError
from scdance.graph import spatial

from ._clustering import _codes, _finite_matrix, _same_length
from ._metric import metric

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

N_NEIGHBORS = 6  # of a spot on a hexagonal lattice


@metric(higher_is_better=True, range=(0.0, 1.0))
def spatial_coherence(labels: ArrayLike, coords: ArrayLike) -> float:
    """Mean share of the six nearest neighbours in space that have the label of the spot.

    It says nothing about truth: one domain for all spots has 1. Labels drawn at random have the sum of the squared
    shares of the domains.

    Parameters
    ----------
    labels
        Domain of each spot, (n_obs,). Spots where it is NaN, None or "" are left out, as neighbours too.
    coords
        Coordinates, (n_obs, 2 or 3), finite.

    Returns
    -------
    Score, 0 to 1.

    Raises
    ------
    InputError
        If the lengths differ, the coordinates are not a finite matrix, or fewer than two spots have a label.

    Examples
    --------
    >>> import numpy as np
    >>> import scdance as sd
    >>> places = np.column_stack([np.arange(14), np.zeros(14)])
    >>> round(sd.metrics.spatial_coherence([0] * 7 + [1] * 7, places), 2)
    0.86
    """
    codes, places = _codes(labels), _finite_matrix(coords)
    _same_length(len(codes), len(places), "labels", "coords")
    known = codes >= 0
    if known.sum() < 2:
        msg = f"{int(known.sum())} spots have a label, but a neighbour is needed."
        raise InputError(msg)
    codes = codes[known]
    near = spatial(places[known], n_neighbors=N_NEIGHBORS)
    rows = np.repeat(np.arange(len(codes)), np.diff(near.indptr))
    return float((codes[rows] == codes[near.indices]).mean())
