from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scdance._checks import InputError, one_of

from ._shared import groups, in_order, single

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes

MOST_NUMBERS = 24  # rows or columns; beyond that the numbers of the cells would overlap
SCALE = {"cluster": "share of the row", "truth": "share of the type", "none": "cells"}


def confusion(
    adata: AnnData, key: str, truth: str, *, normalize: str | None = "cluster", ax: Axes | None = None
) -> Axes:
    """Draw how many cells of each known type each cluster holds.

    Clusters are ordered by the type that most of their cells have, so that agreement lies on the diagonal.
    Cells without a truth are left out; cells without a cluster are a row of their own.

    Parameters
    ----------
    adata
        Object that holds the result.
    key
        The ``key_added`` of the run, or the name of its method.
    truth
        Column of ``obs`` with the known types.
    normalize
        ``"cluster"``: rows sum to 1 (how pure is a cluster). ``"truth"``: columns sum to 1 (where did a type
        go). None: number of cells.
    ax
        Axes to draw on. None: a new figure.

    Returns
    -------
    The Axes.

    Raises
    ------
    MissingKeyError
        If a column is not in the object; the message says what is.
    InputError
        If `normalize` is something else, or no cell has a truth.

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.load("pbmc_demo")
    >>> sd.tl.cluster(adata, method="kmeans", n_clusters=8)
    >>> ax = sd.pl.confusion(adata, "kmeans", "cell_type")
    """
    if normalize is not None:
        one_of(normalize, ("cluster", "truth"), "normalize (where not None)")
    clusters = groups(adata, key, what="clusters")
    types = groups(adata, truth, what="known types")
    if (types.codes < 0).all():
        msg = f"Column {truth!r} is missing for all {adata.n_obs} cells, so there is nothing to compare with."
        raise InputError(msg)
    counts = _counts(clusters, types)
    x = counts.to_numpy(dtype=float)
    if normalize is not None:
        x = x / x.sum(axis=1 if normalize == "cluster" else 0, keepdims=True)

    size = (2.4 + 0.42 * x.shape[1], 1.4 + 0.34 * x.shape[0])
    ax = single(ax, size)
    image = ax.imshow(x, aspect="auto", cmap="Blues", vmin=0, vmax=1 if normalize else None)
    ax.figure.colorbar(image, ax=ax, label=SCALE[normalize or "none"])
    long = max(map(len, map(str, counts.columns)), default=0) > 3
    ax.set_xticks(range(x.shape[1]), counts.columns, rotation=90 if long else 0)
    ax.set_yticks(range(x.shape[0]), counts.index)
    ax.tick_params(length=0)
    ax.set(xlabel=truth, ylabel=key)
    if max(x.shape) <= MOST_NUMBERS:
        _write_numbers(ax, x, "{:.2f}" if normalize else "{:.0f}")
    return ax


def _counts(clusters: pd.Categorical, types: pd.Categorical) -> pd.DataFrame:
    """Cells per cluster and type, without empty ones: clusters by their main type, those without one last."""
    import pandas as pd

    known = types.codes >= 0
    names = [*map(str, clusters.categories), "none"]  # code -1 is the last
    table = np.zeros((len(names), len(types.categories)), dtype=int)
    np.add.at(table, (clusters.codes[known], types.codes[known]), 1)
    counts = pd.DataFrame(table, index=names, columns=list(map(str, types.categories)))
    counts = counts.iloc[:, in_order(types.categories)]
    counts = counts.loc[counts.sum(axis=1) > 0, counts.sum(axis=0) > 0]
    x = counts.to_numpy()
    return counts.iloc[np.lexsort((-x.max(axis=1), x.argmax(axis=1), counts.index == "none"))]


def _write_numbers(ax: Axes, x: np.ndarray, form: str) -> None:
    """Numbers in the fields that would not be shown as zero; white where the field is dark."""
    top = x.max()
    for i, j in np.argwhere(x > 0):
        text = form.format(x[i, j])
        if float(text) > 0:
            shade = "white" if x[i, j] > 0.6 * top else "black"
            ax.text(j, i, text.removeprefix("0"), ha="center", va="center", fontsize=7, color=shade)
