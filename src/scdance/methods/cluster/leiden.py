"""The partition that a scanpy user has today: neighbours in principal components, then Leiden."""

from __future__ import annotations

from typing import Any, Self

from scdance._checks import InputError
from scdance._core.cells import Cells
from scdance._core.method import Method
from scdance.graph import fuzzy, knn, leiden
from scdance.pp import PCA, Recipe, project

from ._limits import check_limits


class Leiden(Method):
    """Cluster by Leiden communities of the neighbour graph in principal components [Traag2019]_.

    Each cell is joined to its nearest neighbours, edges are weighted as UMAP weights them, and the Leiden
    algorithm looks for communities with more edges inside than expected. The number of clusters follows
    from `resolution`. The same partition as ``sc.pp.neighbors`` and ``sc.tl.leiden(flavor="igraph")``.

    When to use
    -----------
    When the number of types is unknown, and as the yardstick for every other method.

    When not
    --------
    When a given number of clusters is wanted, or new cells are to be labelled later: use ``"kmeans"``.

    Differs from the paper
    ----------------------
    Two iterations of igraph's implementation, as scanpy runs it.

    Parameters
    ----------
    resolution
        Higher gives more clusters.
    n_neighbors
        Neighbours of each cell, itself counted, as in scanpy.
    n_top_genes
        Genes with the largest deviance that are kept; None: all.
    n_components
        Number of principal components.
    n_iterations
        Passes of the Leiden algorithm; −1: until nothing changes.
    """

    resolution: float = 1.0
    n_neighbors: int = 15
    n_top_genes: int | None = 2000
    n_components: int = 50
    n_iterations: int = 2

    cite = "Traag2019"
    needs = ("lognorm",)
    uses = ("rep", "graph")
    extras = (("igraph", "leiden"),)
    inductive = False
    keeps = ("labels_", "embedding_")
    control = True

    @property
    def recipe(self) -> Recipe:
        return Recipe(normalize_total={}, log1p={}, select_genes={"n_top": self.n_top_genes})

    def check(self) -> None:
        super().check()
        check_limits(self)
        for wrong, msg in (
            (self.n_neighbors < 2, f"n_neighbors={self.n_neighbors}, but a cell, itself counted, needs at least 2."),
            (self.n_iterations == 0, "n_iterations=0 leaves each cell alone; pass 2, or −1 to go on to the end."),
        ):
            if wrong:
                raise InputError(msg)

    def fit(self, *, cells: Cells) -> Self:
        graph = cells.graph
        if graph is None:
            self.embedding_ = self._embed(cells)
            graph = fuzzy(knn(self.embedding_, self.n_neighbors - 1, random_state=self.random_state))
        self.labels_ = leiden(
            graph, resolution=self.resolution, n_iterations=self.n_iterations, random_state=self.random_state
        )
        return self

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        found = {"labels": self.labels_}
        return found | ({"embedding": self.embedding_} if hasattr(self, "embedding_") else {})

    def _embed(self, cells: Cells) -> Any:
        if cells.rep is not None:
            return cells.rep
        pca = PCA(self.n_components, random_state=self.random_state)
        pca.fit(cells.dense_blocks, (cells.n_obs, cells.n_vars))
        return project(cells.dense_blocks(), pca.mean_, pca.components_)
