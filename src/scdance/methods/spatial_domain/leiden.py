"""Leiden communities of the neighbour graph: what a scanpy user has today."""

from __future__ import annotations

from ._communities import Communities


class Leiden(Communities):
    """Find domains by expression alone: Leiden communities of the neighbour graph [Traag2019]_.

    Each spot is joined to the spots nearest in principal components, wherever they lie. With `n_clusters` the
    resolution is searched at which the graph falls into so many communities.

    When to use
    -----------
    As the yardstick: what a method gains by looking at places is what it is better than this.

    When not
    --------
    To find regions: it cuts them into salt and pepper wherever expression is noisy.

    Differs from the paper
    ----------------------
    Two iterations of igraph's implementation, as scanpy runs it; the refined domains do look at places.
    """

    cite = "Traag2019"
    partition = "leiden"
