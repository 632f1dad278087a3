from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scdance._checks import InputError, MissingKeyError, listed
from scdance._core.task import CLUSTER
from scdance._core.write import record_of

from ._shared import GREY, single

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes


def cluster_stability(adata: AnnData, key: str, *, ax: Axes | None = None) -> Axes:
    """Draw the numbers of clusters that a run looked at: how many, and how stable each is.

    Of the candidates of ``k_method="stability"`` the one that was taken is marked: the most clusters that subsamples
    agree on within 5 % as well as on the most stable number.

    Parameters
    ----------
    adata
        Object that holds the run record.
    key
        The ``key_added`` of the run, or the name of its method.
    ax
        Axes to draw on. None: a new figure.

    Returns
    -------
    The Axes.

    Raises
    ------
    MissingKeyError
        If there is no record of that run; the message names those that are there.
    InputError
        If the run compared no candidates.

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.toy_clusters()
    >>> sd.tl.cluster(adata, method="kmeans", k_method="stability")
    >>> ax = sd.pl.cluster_stability(adata, "kmeans")
    """
    record = record_of(adata, CLUSTER, key)
    if not record:
        runs = adata.uns.get("scdance", {}).get(CLUSTER.name, {})
        msg = f"No run {key!r} of `cluster` in the object; there are {listed(runs)}. Pass one of them as `key=`."
        raise MissingKeyError(msg)
    table = record.get("notes", {}).get("k_selection", {})
    if "stability" not in table:
        msg = (
            f"Run {key!r} compared no numbers of clusters by their stability. Run it with "
            '`n_clusters=None, k_method="stability"`.'
        )
        raise InputError(msg)
    k, stability = np.asarray(table["n_clusters"]), np.asarray(table["stability"])
    ax = single(ax, (4.8, 3.4))
    order = np.argsort(k, kind="stable")
    ax.plot(k[order], stability[order], color=GREY, zorder=1)
    ax.scatter(k, stability, c=np.where(table["taken"], "tab:red", "tab:blue"), zorder=2)
    for x, y, resolution in zip(k, stability, table["resolution"], strict=True):
        ax.annotate(f"{resolution:g}", (x, y), textcoords="offset points", xytext=(4, 4), fontsize=7, color="0.4")
    ax.set(xlabel="clusters (small figures: resolution)", ylabel="agreement of subsamples (ARI)", title=key)
    return ax
