"""Louvain communities of the neighbour graph, the baseline of DANCE."""

from __future__ import annotations

from ._communities import Communities


class Louvain(Communities):
    """Find domains by expression alone: Louvain communities of the neighbour graph [Blondel2008]_.

    Each spot is joined to the spots nearest in principal components, wherever they lie. ``"smoothed_pca"``, which
    averages them over neighbours in space, takes as long and finds more.

    When to use
    -----------
    To compare with published tables, which use it as their baseline.

    When not
    --------
    Otherwise: Leiden finds communities that hold together better, and neither looks at places.

    Differs from the paper
    ----------------------
    With `n_clusters` the resolution is searched that gives so many communities. The refined domains look at places.
    """

    n_neighbors: int = 17

    cite = "Blondel2008"
    partition = "louvain"
    presets = {"dance": {"n_top_genes": None, "resolution": 1.0}}
