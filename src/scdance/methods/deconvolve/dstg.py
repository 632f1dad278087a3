"""A graph convolution over spots and mixtures of cells whose composition is known."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from scdance._checks import InputError
from scdance._core.cells import Cells
from scdance.graph import Sparse, knn, normalize, spmm
from scdance.pp import Recipe, canonical, draw_mixtures, group_moments, mean_and_sd, mix_cells, telling_genes
from scdance.train import TorchMethod, Train, split

CLIP = 10.0  # standard deviations
DEPTH = 1e4  # counts of a spot before the logarithm
MOST_GENES = 200  # among which an edge is looked at again
VALID = 0.1  # of the mixtures, which stop the training
ROWS = 1024  # spots whose features are dense at once
SELF = 2.0  # weight of a node's own edge: the authors' graph has one, to which their convolution adds another


class DSTG(TorchMethod):
    """Predict the shares of spots by a graph convolution that learns from mixtures of cells [Song2021]_.

    Mixtures of a few cells of the reference stand beside the spots. In a space of correlated directions, mixture and
    spot are joined where each is among the other's nearest neighbours. A graph convolution of two layers learns the
    shares of the mixtures and predicts those of the spots. It is kept for comparison.

    When to use
    -----------
    To compare with published results. No coordinates are needed.

    When not
    --------
    For an answer about a tissue: on spots mixed of real cells its error is larger than that of non-negative least
    squares, which takes a second. For new spots, about which it says nothing: the graph holds those it was fitted on.

    Differs from the paper
    ----------------------
    Directions are found without the matrix of all mixtures by all spots. The graph uses the genes that are the
    features, of which the authors' choice among 2,000 leaves all. All mixtures train but a tenth, which stops the
    training once it has not been predicted better for ten epochs; the best weights count. The paper joins spots to
    spots too, its code does not: neither do we, because it made the error
    larger on mixed pancreas cells. With `between_spots` such edges
    are not looked at again among the leading genes. The published numbers are the defaults. "dance" has DANCE's
    numbers but for its features, which are standardised.

    Parameters
    ----------
    n_top_genes
        Genes that are kept, those of the largest F statistic between types.
    n_mixtures
        Mixtures of cells.
    n_cells
        Fewest and most cells of a mixture; each number is as likely.
    n_components
        Directions of the space in which neighbours are sought.
    n_neighbors
        Neighbours within which each must have the other, for an edge.
    n_filter
        An edge stays if the spot is among so many that are nearest to the mixture in the leading genes.
    between_spots
        Join spots to spots too.
    hidden
        Width of the hidden layer.
    training
        the network, with all mixtures in each step
    """

    n_top_genes: int = 2000
    n_mixtures: int = 1000
    n_cells: tuple[int, ...] = (2, 8)
    n_components: int = 30
    n_neighbors: int = 5
    n_filter: int = 200
    between_spots: bool = False
    hidden: int = 32
    training: Train = Train(epochs=200, lr=0.01, patience=10)

    cite = "Song2021"
    needs = ("counts", "ref.labels")
    inductive = False
    keeps = ("proportions_", "seen_")
    recipe = Recipe(filter_genes={"min_counts": 1}, normalize_total={"target": DEPTH}, log1p={})
    presets = {
        "paper": {"patience": 10},
        "dance": {
            "n_mixtures": 500,
            "n_cells": (2, 10),
            "hidden": 16,
            "epochs": 25,
            "patience": None,
            "weight_decay": 1e-4,
        },
    }

    def check(self) -> None:
        super().check()
        least = {"n_top_genes": 2, "n_mixtures": 10, "n_components": 1, "n_neighbors": 1, "n_filter": 1, "hidden": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                msg = f"{name}={getattr(self, name)!r}, but it must be at least {low}."
                raise InputError(msg)
        if len(self.n_cells) != 2 or not 1 <= self.n_cells[0] <= self.n_cells[1]:
            msg = f"n_cells={self.n_cells!r}, but it must be the fewest and then the most cells of a mixture."
            raise InputError(msg)

    def net(self) -> nn.Module:
        return GCN(self.n_features_, self.hidden, self.n_types_)

    def fit(self, *, ref: Cells, cells: Cells) -> Self:
        n_types, rng = len(ref.categories), self.rng("mixtures")
        genes = telling_genes(group_moments(ref.x, ref.labels, n_types), self.n_top_genes)
        mixture = draw_mixtures(ref.n_obs, self.n_mixtures, tuple(self.n_cells), rng)
        ref, spots = ref.part(columns=genes), cells.part(columns=genes).counts
        mixed = mix_cells(ref.counts, mixture, rng)
        is_type = np.eye(n_types, dtype=np.float32)[ref.labels]
        truth = (mixture @ is_type) / np.asarray(mixture.sum(axis=1))
        edges, joined = link(
            mixed, spots, self.n_components, self.n_neighbors, self.n_filter, self.rng("directions"),
            between_spots=self.between_spots,
        )  # fmt: skip
        a = normalize(edges + SELF * sp.eye_array(edges.shape[0], format="csr"))
        x = _shares(sp.vstack([mixed, spots], format="csr"))
        self.n_features_, self.n_types_ = len(genes), n_types
        self.net_ = self.net().to(self.target)
        self.seen_ = np.diff(spots.indptr) > 0
        self.notes_ = {"n_edges": int(edges[: self.n_mixtures].nnz), "spots_joined": float(joined.mean())}
        self._train(a, x, truth)
        self.proportions_ = self._answer(a, x)
        return self

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        return _result(self.proportions_, self.seen_)

    def _train(self, a: sp.csr_matrix, x: sp.csr_matrix, truth: np.ndarray) -> None:
        """Learn the shares of the mixtures, for which only they and their neighbours need features."""
        near = a[: self.n_mixtures]
        nodes = np.unique(near.indices)
        features = torch.from_numpy(np.concatenate(list(_propagated(a[nodes], x)))).to(self.target)
        into, target = Sparse(near[:, nodes], self.target), torch.from_numpy(truth).to(self.target)
        train, valid = (
            torch.from_numpy(rows).to(self.target) for rows in split(self.n_mixtures, VALID, self.rng("split"))
        )

        def loss(rows: Tensor) -> Tensor:
            return cross_entropy(spmm(into, self.net_(features))[rows], target[rows])

        self.learn(
            loss,
            self.net_,
            self.training,
            batches=[train],
            valid=lambda: float(loss(valid)),
            look=lambda: _result(self._answer(a, x), self.seen_),
        )

    def _answer(self, a: sp.csr_matrix, x: sp.csr_matrix) -> np.ndarray:
        """Shares of the spots, (n_spots, n_types) float32."""
        with torch.no_grad():
            parts = [self.net_(torch.from_numpy(rows).to(self.target)).cpu().numpy() for rows in _propagated(a, x)]
        logits = torch.from_numpy(a[self.n_mixtures :] @ np.concatenate(parts))
        return logits.softmax(dim=1).numpy()


class GCN(nn.Module):
    """From features that have been propagated once to what is propagated again: ReLU(X W0) W1."""

    def __init__(self, n_features: int, hidden: int, n_types: int) -> None:
        super().__init__()
        self.first = nn.Linear(n_features, hidden, bias=False)
        self.second = nn.Linear(hidden, n_types, bias=False)
        for layer in (self.first, self.second):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())


def _result(proportions: np.ndarray, seen: np.ndarray) -> dict[str, Any]:
    found = np.where(seen[:, None], proportions, np.nan)
    return {"proportions": found, "top": np.where(seen, proportions.argmax(axis=1), -1)}


def _propagated(a: sp.csr_matrix, x: sp.csr_matrix) -> Any:
    """Rows of A X, a dense block at a time; X is constant, so the product with it is made once."""
    for start in range(0, a.shape[0], ROWS):
        yield (a[start : start + ROWS] @ x).toarray()


def _shares(counts: sp.csr_matrix) -> sp.csr_matrix:
    """Rows divided by their sum."""
    total = np.asarray(counts.sum(axis=1)).ravel()
    factor = (1 / np.where(total > 0, total, 1)).astype(np.float32)
    data = counts.data * np.repeat(factor, np.diff(counts.indptr))
    return sp.csr_matrix((data, counts.indices, counts.indptr), shape=counts.shape)


def _logged(counts: sp.csr_matrix) -> sp.csr_matrix:
    out = _shares(counts)
    out.data = np.log1p(DEPTH * out.data)
    return out


# ---------------------------------------------------------------------- the graph


def link(
    mixed: sp.csr_matrix,
    spots: sp.csr_matrix,
    n_components: int,
    n_neighbors: int,
    n_filter: int,
    rng: np.random.Generator,
    *,
    between_spots: bool,
) -> tuple[sp.csr_matrix, np.ndarray]:
    """Undirected edges between mixtures and spots, (n, n) of 0 and 1; and which spots have one to a mixture."""
    logs = [_logged(each) for each in (mixed, spots)]
    z = [Standardised(each) for each in logs]
    u, v = directions(z[0], z[1], n_components, rng)
    i, j = mutual(_unit(u), _unit(v), n_neighbors)
    leading = leading_genes(z[0].back(u) + z[1].back(v), MOST_GENES)
    i, j = refined(i, j, *(_unit_rows(each[:, leading]) for each in logs), n_filter)
    n1, n2 = mixed.shape[0], spots.shape[0]
    edges = sp.csr_matrix((np.ones(len(i), dtype=np.float32), (i, n1 + j)), shape=(n1 + n2, n1 + n2))
    if between_spots and n2 > n_neighbors + 1:
        own = _unit(directions(z[1], None, n_components, rng)[0])
        near = knn(own, n_neighbors)
        near.data[:] = 1
        near = sp.coo_matrix(near.multiply(near.T))
        place = (n1 + near.row, n1 + near.col)
        edges = edges + sp.csr_matrix((np.full(near.nnz, 0.5, dtype=np.float32), place), shape=edges.shape)
    return canonical(edges + edges.T), np.bincount(j, minlength=n2) > 0


class Standardised:
    """Rows whose genes and then whose values were standardised, as a factor of products: never made dense.

    A gene has mean 0, variance 1 and no value beyond ±10; then each row has mean 0 and variance 1. What a zero becomes
    is the same in all rows, so that only the difference to it is held, where there are values.

    Parameters
    ----------
    x
        (n, n_vars) CSR.
    """

    def __init__(self, x: sp.csr_matrix):
        mean, sd = mean_and_sd(x)
        sd = np.where(sd > 0, sd, 1) * np.sqrt(x.shape[0] / max(x.shape[0] - 1, 1))
        self.zero = np.clip(-mean / sd, -CLIP, CLIP)
        data = np.clip((x.data - mean[x.indices]) / sd[x.indices], -CLIP, CLIP) - self.zero[x.indices]
        self.rest = sp.csr_matrix((data, x.indices, x.indptr), shape=x.shape)
        self.shape: tuple[int, int] = x.shape
        ones = np.ones(x.shape[1])
        self.mean = (self.rest @ ones + self.zero.sum()) / x.shape[1]
        square = self.rest.multiply(self.rest) @ ones + 2 * (self.rest @ self.zero) + self.zero @ self.zero
        variance = np.maximum(square / x.shape[1] - self.mean**2, 0)
        self.sd = np.sqrt(np.where(variance > 0, variance, 1))

    def of(self, v: np.ndarray) -> np.ndarray:
        """Product with (n_vars, d) or (n_vars,)."""
        shift = np.multiply.outer(np.ones(self.shape[0]), self.zero @ v) - np.multiply.outer(self.mean, v.sum(axis=0))
        return ((self.rest @ v + shift).T / self.sd).T

    def back(self, u: np.ndarray) -> np.ndarray:
        """Product of the transpose with (n, d) or (n,)."""
        u = (u.T / self.sd).T
        return self.rest.T @ u + np.multiply.outer(self.zero, u.sum(axis=0)) - self.mean @ u


def directions(
    one: Standardised, other: Standardised | None, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """First singular vectors of one · otherᵀ, a matrix that is never made; None: of `one` itself."""
    from scipy.sparse.linalg import LinearOperator, svds

    if other is None:
        shape, of, back = one.shape, one.of, one.back
    else:
        shape = (one.shape[0], other.shape[0])
        of, back = (lambda v: one.of(other.back(v))), (lambda u: other.of(one.back(u)))
    if shape[1] == 1:  # a single spot has one direction, which no iteration has to find
        return of(np.ones(1))[:, None], np.ones((1, 1))
    n = min(n, *(size - 1 for size in shape))
    start = rng.standard_normal(min(shape))
    u, s, vt = svds(LinearOperator(shape, matvec=of, rmatvec=back, dtype=np.float64), k=n, v0=start)
    order = np.argsort(-s, kind="stable")
    u, v = u[:, order], vt[order].T
    sign = np.where(u[0] < 0, -1, 1)
    return u * sign, v * sign


def mutual(one: np.ndarray, other: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows of which each is among the k nearest of the other."""
    from sklearn.neighbors import NearestNeighbors

    def near(points: np.ndarray, among: np.ndarray) -> sp.csr_matrix:
        most = min(k, len(among))
        found = NearestNeighbors(n_neighbors=most).fit(among).kneighbors(points, return_distance=False)
        start = np.arange(0, found.size + 1, most)
        return sp.csr_matrix((np.ones(found.size), found.ravel(), start), shape=(len(points), len(among)))

    both = sp.coo_matrix(near(one, other).multiply(near(other, one).T))
    return both.row, both.col


def leading_genes(loadings: np.ndarray, most: int) -> np.ndarray:
    """Genes at both ends of every direction, as deep into each as fewer than `most` are gathered, sorted."""
    order = np.argsort(loadings, axis=0, kind="stable")
    found = np.array([], dtype=int)
    for depth in range(1, len(order) + 1):
        wider = np.unique(np.concatenate([order[:depth], order[-depth:]]))
        if len(found) and len(wider) >= most:
            break
        found = wider
    return found


def refined(
    i: np.ndarray, j: np.ndarray, one: sp.csr_matrix, other: sp.csr_matrix, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs whose second row is among the k rows of `other` nearest to the first; rows have unit length."""
    if k >= other.shape[0]:
        return i, j
    stays = np.zeros(len(i), dtype=bool)
    for start in range(0, one.shape[0], 64):
        here = np.flatnonzero((i >= start) & (i < start + 64))
        if len(here):
            alike = other @ one[start : start + 64].toarray().T
            least = np.partition(alike, -k, axis=0)[-k]
            stays[here] = alike[j[here], i[here] - start] >= least[i[here] - start]
    return i[stays], j[stays]


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _unit_rows(x: sp.csr_matrix) -> sp.csr_matrix:
    size = np.sqrt(np.asarray(x.multiply(x).sum(axis=1)).ravel())
    return sp.csr_matrix(sp.diags_array(1 / np.maximum(size, 1e-12)) @ x)
