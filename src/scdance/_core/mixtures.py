"""What tools need to look at an earlier deconvolution again: counts, shares, and the profiles of the types."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from scdance._checks import InputError, listed
from scdance.pp import Rows, group_moments

from .counts import raw_counts
from .derive import part_of
from .method import Method
from .read import _subset, reference
from .task import DECONVOLVE
from .write import record_of


class Mixed(NamedTuple):
    """Spots of which a run has said what they are made of.

    Attributes
    ----------
    counts
        Raw counts of the spots that have shares, (n_spots, n_genes), in memory or on disk.
    shares
        Their shares, (n_spots, n_types).
    profiles
        Mean counts of each type in the reference, (n_types, n_genes).
    genes
        Names of the genes that both have.
    rows
        Positions of these spots in the object.
    told
        What a run record says of the input.
    """

    counts: Rows
    shares: np.ndarray
    profiles: np.ndarray
    genes: np.ndarray
    rows: np.ndarray
    told: dict[str, Any]


def mixed(
    adata: Any, ref: Any, key: str, *, labels_key: str | None, layer: str | None, ref_layer: str | None, tool: str
) -> Mixed:
    """Read what the deconvolution `key` of `adata` worked on."""
    shares = part_of(adata, DECONVOLVE, key, "proportions")
    if not isinstance(shares, pd.DataFrame):
        msg = f"The shares of {key!r} are a {type(shares).__name__}, but must be a DataFrame with a column per type."
        raise InputError(msg)
    types = [str(name) for name in record_of(adata, DECONVOLVE, key).get("categories", shares.columns)]
    asks = type(tool, (Method,), {})()  # a method needs counts unless it says otherwise
    cells = reference(ref, asks, labels_key, ref_layer, None, shared_with=adata.var_names)
    known = list(cells.categories or [])
    absent = [name for name in types if name not in known]
    if absent:
        msg = (
            f"The shares of {key!r} are of types that the reference does not have: {listed(absent)}; it has "
            f"{listed(known)}. Pass the reference of that run."
        )
        raise InputError(msg)
    assert cells.x is not None
    assert cells.labels is not None
    means = group_moments(cells.x, cells.labels, len(known)).mean
    counts, depth, told = raw_counts(adata, layer, tool)
    columns = pd.Index(adata.var_names.astype(str)).get_indexer(cells.var_names)
    values = shares.to_numpy(dtype=np.float64)
    rows = np.flatnonzero((depth > 0) & np.isfinite(values).all(axis=1))
    return Mixed(
        _subset(counts, rows, columns),
        values[rows],
        means[[known.index(name) for name in types]],
        cells.var_names,
        rows,
        told,
    )
