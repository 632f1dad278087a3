"""What methods of spatial domains share: the partition of a latent space, and the vote of the neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np

from scdance._checks import InputError, package, whole_number
from scdance._core.cells import Cells
from scdance._core.method import Method
from scdance.graph import fuzzy, kmeans, knn, leiden, louvain, majority, spatial, tied_mixture, with_n_clusters
from scdance.pp import PCA, project

N_NEAREST = 15  # in the latent space, where Leiden finds the number of domains
LEAST = {"refine": 0, "n_init": 1, "n_components": 1}  # of numbers that methods have or not


class Domains(Method):
    """A method that ends in a partition of a latent space.

    With `n_clusters` the latent space is divided by a mixture of Gaussians that share one covariance: layers of a
    tissue form a continuum there, which communities of a graph cut across.

    Parameters
    ----------
    n_clusters
        Number of domains; None: as many as Leiden finds in the latent space.
    resolution
        Of that Leiden partition: higher gives more domains. Without effect where `n_clusters` is given.
    refine
        Nearest spots that may outvote a spot, once, for the refined domains; 0 leaves them out. A spot of a hexagonal
        lattice has 6 neighbours, one of a square lattice 4.
    n_init
        Starts of the mixture, the likeliest of which is kept.
    """

    n_clusters: int | None = None
    resolution: float = 1.0
    refine: int = 6
    n_init: int = 10

    needs = ("lognorm", "coords")
    uses = ("slice",)
    inductive = False
    keeps = ("labels_", "refined_", "embedding_", "proba_")

    def check(self) -> None:
        super().check()
        if self.n_clusters is None:
            package("igraph", extra="leiden", why="Finding the number of domains (or pass `n_clusters=`)")
        if not self.resolution > 0:
            msg = f"resolution={self.resolution!r}, but it must be above 0; 1 is usual, and more gives more domains."
            raise InputError(msg)
        for name, least in LEAST.items():
            if (value := getattr(self, name, None)) is not None:
                whole_number(value, name, least=least)

    def divide(self, z: np.ndarray, cells: Cells, how: str = "mixture", *, n_neighbors: int = N_NEAREST) -> None:
        """Divide the latent space `z`, (n_obs, n_latent), into domains, and keep them.

        `how` is "mixture", "kmeans", "leiden" or "louvain"; the first two need a number of domains, and without one
        Leiden finds it. `n_neighbors` of each spot in `z`, itself counted, make the graph of the latter two.
        """
        self.embedding_, k, seed = np.asarray(z, dtype=np.float32), self.n_clusters, self.random_state
        if k is not None and how == "mixture":
            labels, _, proba = tied_mixture(z, k, n_init=self.n_init, random_state=seed)
            self.keep(labels, cells, proba)
            return
        if k is not None and how == "kmeans":
            self.keep(kmeans(z, k, n_init=self.n_init, random_state=seed)[0], cells)
            return
        partition, resolution = louvain if how == "louvain" else leiden, self.resolution
        near = fuzzy(knn(self.embedding_, n_neighbors - 1, random_state=seed))
        if k is None:
            labels = partition(near, resolution=resolution, random_state=seed)
        else:
            labels, resolution = with_n_clusters(partition, near, k, random_state=seed)
        self.notes_ = getattr(self, "notes_", {}) | {"resolution": resolution}
        self.keep(labels, cells)

    def keep(self, labels: np.ndarray, cells: Cells, proba: np.ndarray | None = None) -> None:
        """Keep domains as codes by size, with their probabilities if there are any, and what neighbours say of them."""
        self.labels_ = labels
        if proba is not None:
            self.proba_ = proba
        if self.refine:
            self.refined_ = majority(labels, spatial(cells.coords, n_neighbors=self.refine, slices=cells.slice))

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        parts = ("labels", "refined", "embedding", "proba")
        found = {part: getattr(self, f"{part}_") for part in parts if hasattr(self, f"{part}_")}
        return found | ({"score": self.proba_.max(axis=1)} if "proba" in found else {})


def principal_components(cells: Cells, n: int, *, random_state: int) -> np.ndarray:
    """Principal components of the cells after the whole recipe, (n_obs, n) float32."""
    pca = PCA(n, random_state=random_state)
    pca.fit(cells.dense_blocks, (cells.n_obs, cells.n_vars))
    return project(cells.dense_blocks(), pca.mean_, pca.components_)
