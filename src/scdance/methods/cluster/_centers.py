"""What the methods that end in cluster centres share: how many there are, where they start, how they are numbered."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from scdance._checks import package
from scdance._core.method import Method
from scdance.graph import Choice, by_size, choose_k

from ._limits import check_limits


class ByCenters(Method):
    """A method whose number of clusters is given or estimated.

    Parameters
    ----------
    n_clusters
        Number of clusters; None: estimated on the space in which cells are compared, see `k_method`.
    k_method
        How the number is estimated: "leiden" (clusters of a Leiden partition), "stability" (largest number
        that subsamples agree on) or "scgnn" (a share of the clusters that Louvain finds).
    """

    n_clusters: int | None = None
    k_method: Literal["leiden", "stability", "scgnn"] = "leiden"

    def check(self) -> None:
        super().check()
        check_limits(self)
        if self.n_clusters is None:
            package("igraph", extra="leiden", why="Estimating the number of clusters (or pass `n_clusters=`)")

    def _chosen(self, z: np.ndarray) -> Choice | None:
        """The number of clusters in `z`, (n_obs, n_dims), with its partition; None where it is given."""
        if self.n_clusters is not None:
            return None
        choice = choose_k(z, how=self.k_method, random_state=self.random_state)
        self._note(k_selection=choice.table)
        return choice

    def _order(self, labels: np.ndarray, n_clusters: int) -> np.ndarray:
        """Order of the clusters by size, the largest first and those without cells last; the latter are noted."""
        labels, order = by_size(labels, n_clusters)
        n_filled = int(labels.max()) + 1
        if n_filled < n_clusters:
            self._note(n_clusters_nonempty=n_filled)
        return order

    def _note(self, **notes: Any) -> None:
        self.notes_ = getattr(self, "notes_", {}) | notes


def means(z: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean of the cells of each cluster, (n_clusters, n_dims)."""
    return np.stack([z[labels == j].mean(axis=0) for j in range(int(labels.max()) + 1)])


def shrunk(z: np.ndarray, shrink: float) -> np.ndarray:
    """Put each cell at distance d^(1 − shrink) from the middle, in its direction."""
    off = z - z.mean(axis=0)
    return off * np.maximum(np.linalg.norm(off, axis=1, keepdims=True), 1e-12) ** -shrink
