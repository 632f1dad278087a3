"""stLearn: expression averaged over neighbours that look alike, in expression and under the microscope."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self

import numpy as np
import scipy.sparse as sp

from scdance._checks import InputError, package, whole_number
from scdance._core.cells import Cells
from scdance.graph import by_size, pitch, spatial
from scdance.pp import Recipe, patch_features, patches

from ._domains import Domains, principal_components
from ._mixed import mixed_rows, scaled_components

SLACK = 0.99  # of the radius: "within" is strict, and coordinates in pixels are rounded
EDGES = 2**18  # whose similarity is computed at once: 50 components take 105 MB
LEAST_PATCH = 8  # pixels: a smaller square has no texture


class StLearn(Domains):
    """Divide a tissue by expression that is averaged over similar neighbours, also in the image [Pham2023]_.

    Without an image it finds layers less well than ``"smoothed_pca"``; what an image adds has not been measured here.
    Among the spots within `radius`, each spot takes the two that are most similar to it, the similarity being the
    product of two cosines: of their principal components, and of what the image shows around them.
    Half of a spot's expression stays its own, half is the weighted mean of itself and these two (SME). Principal
    components of the result are divided into domains. Nothing is trained.

    When to use
    -----------
    Where an image shows borders that the average must not cross. It takes seconds.

    When not
    --------
    Without an image: similarity of expression keeps an average among spots that are alike already, so it takes away
    less noise. ``"smoothed_pca"`` and ``"banksy"`` average all neighbours, as ``use=("space",)`` does here.

    Differs from the paper
    ----------------------
    The image is described by colour moments and local binary patterns of a square around each spot, as no trained
    net comes with this package; for features of your own, see Notes. With `n_clusters`, components are divided by a
    mixture of Gaussians with one covariance, which found layers better than k-means (``preset="paper"``) on every
    slice that was tried. The similarity of expression is a cosine; the correlation of two spots over their components,
    as in the paper, changes with the signs of the components, which are arbitrary. The radius is in true distances
    between spots, where the authors' code measures √2 times the step of a column. Pieces of a domain that do not
    touch are numbered as `pieces_` on the fitted method.

    Notes
    -----
    A subclass with a method ``features(patches)``, from squares (n, height, width, 3) uint8 to (n, n_features), is a
    method of your own, given to the tool as ``method=``, with whatever net it calls.

    Parameters
    ----------
    use
        What counts for the weights: "space" always; "expr", similarity of expression; "image", which refuses data
        without an image.
    radius
        Neighbours are nearer than this, in units of the distance between neighbouring spots; 0 averages nothing.
    n_mean
        Spots that are averaged, the spot itself counted; None: 3, or 6 where ``use=("space",)``.
    zeros_only
        Put the mean only where a spot has no count of a gene, in full, and leave the other values as they are.
    patch
        Width of the square of the image around a spot, in units of the distance between neighbouring spots; 0.55 is
        the diameter of a Visium spot. At least 8 pixels are taken.
    partition
        "mixture": Gaussians with one covariance; "kmeans": equal spheres; either takes as many domains as Leiden
        finds without `n_clusters`. "louvain": communities of the neighbour graph in the components.
    n_neighbors
        Nearest spots in the components, for Louvain, the spot itself counted.
    target
        Counts that each spot is brought to; None: the median.
    n_top_genes
        Genes with the largest deviance that are kept; None: all.
    n_similar
        Principal components whose cosine is the similarity of expression.
    n_components
        Number of principal components of the averaged expression.
    least
        Spots of a piece of a domain, below which it belongs to the nearest larger one.
    """

    use: tuple[Literal["expr", "space", "image"], ...] = ("expr", "space", "image")
    radius: float = 3.0
    n_mean: int | None = None
    zeros_only: bool = False
    patch: float = 0.55
    partition: Literal["mixture", "kmeans", "louvain"] = "mixture"
    n_neighbors: int = 10
    target: float | None = None
    n_top_genes: int | None = 3000
    n_similar: int = 50
    n_components: int = 20
    least: int = 10

    cite = "Pham2023"
    uses = ("slice", "image")
    keeps = ("labels_", "refined_", "embedding_", "proba_", "pieces_")
    presets = {
        "paper": {"partition": "kmeans", "n_top_genes": None, "n_components": 50, "refine": 0},
        "dance": {
            "partition": "louvain", "resolution": 0.6, "target": 1e4, "n_top_genes": None, "n_similar": 10,
            "n_components": 10, "refine": 0,
        },
    }  # fmt: skip

    @property
    def recipe(self) -> Recipe:
        return Recipe(normalize_total={"target": self.target}, log1p={}, select_genes={"n_top": self.n_top_genes})

    def check(self) -> None:
        super().check()
        if self.partition == "louvain":
            package("igraph", extra="leiden", why="Louvain clustering")
        if "space" not in self.use:
            msg = f'use={self.use!r} lacks "space", but only neighbours are averaged: add it, or use `sd.tl.cluster`.'
            raise InputError(msg)
        if not self.radius >= 0 or not self.patch > 0:
            msg = f"radius={self.radius!r} and patch={self.patch!r}: a radius must be at least 0, a patch above 0."
            raise InputError(msg)
        if self.n_mean is not None:
            whole_number(self.n_mean, "n_mean", least=1)

    def check_cells(self, cells: Cells) -> None:
        if "image" in self.use and cells.images is None:
            others = tuple(each for each in self.use if each != "image")
            msg = (
                f"StLearn looks at an image of the tissue, but neither `uns['spatial']` nor a SpatialData holds one. "
                f"To do without: `use={others!r}`."
            )
            raise InputError(msg)

    def fit(self, *, cells: Cells) -> Self:
        step = pitch(cells.coords, cells.slice)
        average = self._average(cells, step)
        n, own = cells.n_obs, sp.identity(cells.n_obs, dtype=np.float32, format="csr")
        operators = [own, average] if self.zeros_only else [((own + average) * np.float32(0.5)).tocsr()]

        def dense_blocks() -> Iterator[np.ndarray]:
            for block in mixed_rows(cells.x, operators):
                yield np.where(block[0] == 0, block[1], block[0]) if self.zeros_only else block[0]

        z = scaled_components(dense_blocks, (n, cells.n_vars), self.n_components, random_state=self.random_state)
        self.divide(z, cells, self.partition, n_neighbors=self.n_neighbors)
        self.pieces_ = pieces(self.labels_, cells.coords, 1.5 * step, slices=cells.slice, least=self.least)
        return self

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        names = [
            f"{label}_{piece}" for label, piece in zip(self.labels_, _within(self.labels_, self.pieces_), strict=True)
        ]
        return {**super().predict(cells=cells), "pieces": np.array(names)}

    def features(self, patches: np.ndarray) -> np.ndarray:
        """What squares of the image, (n, height, width, 3) uint8, show: (n, n_features), in any unit."""
        return patch_features(patches)

    def _average(self, cells: Cells, step: float) -> sp.csr_matrix:
        """The mean over each spot and those most similar to it, (n, n), rows sum to 1."""
        if self.radius == 0:
            return sp.identity(cells.n_obs, dtype=np.float32, format="csr")
        near = spatial(cells.coords, radius=SLACK * self.radius * step, slices=cells.slice)
        views = []
        if "expr" in self.use:
            views.append(principal_components(cells, self.n_similar, random_state=self.random_state))
        if "image" in self.use:
            views.append(self._morphology(cells, step))
        weights = similarity(near, views)
        return mean_of_best(near, weights, self.n_mean or (3 if views else 6))

    def _morphology(self, cells: Cells, step: float) -> np.ndarray:
        """Principal components of the features of the image at each spot, each slice for itself, (n, 50)."""
        out = np.zeros((cells.n_obs, 50), dtype=np.float32)
        for image in cells.images or ():
            if len(image.rows) < 2:
                continue
            pixels = image.pixels()
            size = max(round(self.patch * step * image.scale), LEAST_PATCH)
            found = [self.features(each) for each in patches(pixels, image.inside(pixels.shape), size)]
            features = np.concatenate(found).astype(np.float32)
            z = scaled_components(
                lambda features=features: iter([features.copy()]), features.shape, 50, random_state=self.random_state
            )
            out[image.rows, : z.shape[1]] = z
        return out


def similarity(near: sp.csr_matrix, views: list[np.ndarray]) -> np.ndarray:
    """Product over views, each (n, n_features), of the cosine of both ends of an edge, not below 0: (n_edges,).

    What has nothing to show, all features being 0, is like everything else of that kind, and like nothing else.
    """
    row = np.repeat(np.arange(near.shape[0]), np.diff(near.indptr))
    out = np.ones(near.nnz, dtype=np.float32)
    for view in views:
        length = np.linalg.norm(view, axis=1, keepdims=True)
        unit = view / np.where(length > 0, length, 1)
        blank = length[:, 0] == 0
        for start in range(0, near.nnz, EDGES):
            i, j = row[start : start + EDGES], near.indices[start : start + EDGES]
            cosine = np.einsum("ij,ij->i", unit[i], unit[j]) + (blank[i] & blank[j])
            out[start : start + EDGES] *= np.maximum(cosine, 0)  # each for itself: two unlike views do not make a like
    return out


def mean_of_best(near: sp.csr_matrix, weights: np.ndarray, n_mean: int) -> sp.csr_matrix:
    """Weighted mean over a spot, which weighs 1, and its neighbours with the largest weights: (n, n), rows sum to 1.

    Of equal weights the nearer neighbour comes first. `n_mean` counts the spot itself.
    """
    n = near.shape[0]
    row = np.repeat(np.arange(n), np.diff(near.indptr))
    order = np.lexsort((near.data, -weights, row))
    rank = np.arange(near.nnz) - near.indptr[row]  # rows stay together in that order
    best = order[(rank < n_mean - 1) & (weights[order] > 0)]
    i, j = np.concatenate([np.arange(n), row[best]]), np.concatenate([np.arange(n), near.indices[best]])
    w = np.concatenate([np.ones(n), weights[best]])
    mean = sp.csr_matrix(((w / np.bincount(i, w)[i]).astype(np.float32), (i, j)), shape=(n, n))
    mean.sort_indices()
    return mean


def pieces(
    labels: np.ndarray, coords: np.ndarray, radius: float, *, slices: np.ndarray | None = None, least: int = 10
) -> np.ndarray:
    """Pieces of domains whose spots are joined by steps up to `radius`: codes by size, (n,) int32.

    A piece of fewer than `least` spots belongs to the nearest larger one of the same domain and slice, if any.
    """
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    near = spatial(coords, radius=radius, slices=slices).tocoo()
    same = labels[near.row] == labels[near.col]
    joined = sp.csr_matrix((np.ones(same.sum()), (near.row[same], near.col[same])), shape=near.shape)
    found = connected_components(joined, directed=False)[1]
    large = np.bincount(found)[found] >= least
    slices = np.zeros(len(labels), dtype=int) if slices is None else slices
    out = found.copy()
    for label, each in np.unique(np.column_stack([labels, slices])[~large], axis=0):
        there = (labels == label) & (slices == each)
        onto, small = np.flatnonzero(there & large), np.flatnonzero(there & ~large)
        if len(onto):
            distance, nearest = cKDTree(coords[onto]).query(coords[small])
            order = np.lexsort((distance, found[small]))  # a piece goes as a whole, by its spot that is nearest
            first = np.unique(found[small][order], return_index=True)[1]
            goal = dict(zip(found[small][order][first], found[onto[nearest[order][first]]], strict=True))
            out[small] = [goal[piece] for piece in found[small]]
    return by_size(out)[0]


def _within(labels: np.ndarray, pieces: np.ndarray) -> np.ndarray:
    """Number of each spot's piece among those of its domain, 0 being the largest."""
    out = np.zeros(len(pieces), dtype=int)
    for label in np.unique(labels):
        out[labels == label] = np.unique(pieces[labels == label], return_inverse=True)[1]
    return out
