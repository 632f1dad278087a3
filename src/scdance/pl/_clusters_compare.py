from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from scdance import metrics
from scdance._checks import InputError, column_names, listed, one_of

from ._confusion import _write_numbers
from ._shared import groups, single

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

SYMMETRIC = ("ari", "nmi", "ami")  # metrics that say the same of two partitions in either order


def clusters_compare(adata: AnnData, keys: Sequence[str], *, metric: str = "ari", ax: Axes | None = None) -> Axes:
    """Draw how far several partitions of the same cells agree with each other.

    One row and one column per partition, with its number of groups; no truth is needed, but a column of known types
    may be among them. Partitions that agree among themselves are no proof of being right.

    Parameters
    ----------
    adata
        Object that holds the partitions.
    keys
        Columns of ``obs``, at least two: names of runs, known types, clusters of other tools.
    metric
        ``"ari"``, ``"nmi"`` or ``"ami"``.
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
        If there are fewer than two keys, two of them have no cell in common, or the metric is another.
    WrongTypeError
        If `keys` are no names.

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.load("pbmc_demo")
    >>> sd.tl.cluster(adata, method="kmeans", n_clusters=8)
    >>> ax = sd.pl.clusters_compare(adata, ["kmeans", "cell_type"])
    """
    one_of(metric, SYMMETRIC, "metric")
    keys = column_names(keys)
    if len(keys) < 2:
        msg = f"Expected at least two columns of `adata.obs` to compare, found {listed(keys)}."
        raise InputError(msg)
    parts = [groups(adata, key, what="groups") for key in keys]
    agree = metrics.get(metric).function
    x = np.eye(len(keys))
    for i in range(len(keys)):
        for j in range(i):
            known = (parts[i].codes >= 0) & (parts[j].codes >= 0)
            if not known.any():
                msg = f"No cell has a group in both {keys[j]!r} and {keys[i]!r}, so they cannot be compared."
                raise InputError(msg)
            x[i, j] = x[j, i] = agree(parts[i].codes[known], parts[j].codes[known])
    ax = single(ax, (2.4 + 0.6 * len(keys), 1.6 + 0.6 * len(keys)))
    image = ax.imshow(x, cmap="Blues", vmin=0, vmax=1)
    ax.figure.colorbar(image, ax=ax, label=metric.upper(), shrink=0.8)
    ax.set_xticks(range(len(keys)), keys, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(keys)), [f"{k} ({len(part.categories)})" for k, part in zip(keys, parts, strict=True)])
    ax.tick_params(length=0)
    _write_numbers(ax, x, "{:.2f}")
    return ax
