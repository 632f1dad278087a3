"""A graph convolution from genes to cells, trained to tell which genes a cell expresses."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, dropout

from scdance._checks import package
from scdance._core.cells import Cells
from scdance.graph import bipartite, by_size, choose_k, fuzzy, kmeans, knn, leiden
from scdance.pp import Recipe, blocks
from scdance.train import Batches, TorchMethod, Train

from ._centers import means
from ._limits import check_limits

OUTPUT_DROPOUT = 0.1  # of the embedding, in training
PAIR_NEIGHBORS = 15  # of a cell in the objective "knn"
LANDMARKS = 10_000  # cells, drawn at random, among which clusters are sought when there are more
CHANCE = (1e-6, 0.98)  # bounds of the probability that a cell and a gene are linked at random
ROWS = 4096  # cells whose distances to the centres are held at once
EXTRA, PASSES = 10, 10  # directions and passes of the subspace iteration beyond what is wanted
PAPER = {"objective": "identity", "epochs": 100, "lr": 1e-5}


class GraphSC(TorchMethod):
    """Cluster by a graph convolution from genes to cells [Ciortan2022]_.

    Each gene gets principal components of its expression as features; a cell sums those of the genes that it
    expresses, weighted by the expression and divided by how common cell and gene are. A small network turns the
    sum into the embedding, and k-means (or Leiden, where no number is given) finds the clusters in it. Of more than
    10,000 cells it looks at as many drawn at random, and each other cell joins what is nearest.

    When to use
    -----------
    Clusters in seconds, without a wanted number of them: Leiden communities of a wide neighbourhood, few and
    stable. Data on disk: but for the objective "bipartite", cells are read only to sum over their genes.

    When not
    --------
    For what the training adds: most of the result is the propagation, and ``epochs=0``, which leaves the network
    as it was made, comes within a few hundredths of it. More training than the default makes k-means worse.

    Differs from the paper
    ----------------------
    The paper's loss compares a batch of cells with the identity, because cells share no edge: it drives every
    cell from every other. The default predicts the edges between cells and genes instead, which scored higher
    on average over three data sets; ``preset="paper"`` has the paper's. Degrees are those of the whole
    graph, where the paper's depend on the batch. Dropout acts after the propagation, which is computed once.
    Counts are normalised by depth before the logarithm. Features are scaled to unit variance over the cells.

    Parameters
    ----------
    n_clusters
        Number of clusters, by k-means; None: as many as Leiden finds, see `resolution` and `k_method`.
    k_method
        What is made of the embedding where no number is given: "leiden" (communities of the neighbourhood), "stability"
        (the largest number of them that subsamples agree on, whatever the `resolution`) or "scgnn" (k-means with a
        share of their number as Louvain finds it). The latter two look at 20 neighbours, as in the other methods.
    objective
        What is trained: "bipartite" predicts which genes a cell expresses; "identity" tells each cell from the
        others of its batch; "knn" does so with one of its nearest neighbours in its place.
    n_top_genes
        Genes that are kept, those of the largest dispersion for their mean; None: all.
    n_components
        Principal components that describe a gene.
    hidden
        Width of the convolution.
    n_latent
        Dimensions of the embedding.
    dropout
        Share of the propagated features that is dropped in training.
    edge_norm
        Scale the weights of the edges into each cell to an average of 1.
    n_neighbors
        Neighbourhood for Leiden, the cell itself counted; at most a tenth of the cells.
    resolution
        Resolution of Leiden; higher gives more clusters.
    n_init
        Starts of k-means; the best is kept.
    training
        the network; no epochs leave it as it was made
    """

    n_clusters: int | None = None
    k_method: Literal["leiden", "stability", "scgnn"] = "leiden"
    objective: Literal["bipartite", "identity", "knn"] = "bipartite"
    n_top_genes: int | None = 3000
    n_components: int = 50
    hidden: int = 200
    n_latent: int = 300
    dropout: float = 0.1
    edge_norm: bool = True
    n_neighbors: int = 300
    resolution: float = 1.0
    n_init: int = 20
    training: Train = Train(epochs=10, lr=1e-4, batch_size=128)

    cite = "Ciortan2022"
    needs = ("lognorm",)
    keeps = ("prototypes_", "prototype_labels_")
    presets = {"paper": PAPER, "dance": PAPER, "10x_pbmc": {**PAPER, "dropout": 0.5}}

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            filter_genes={"min_counts": 3},
            normalize_total={},
            log1p={},
            select_genes={"n_top": self.n_top_genes, "flavor": "cell_ranger"},
            row_share={},
        )

    def check(self) -> None:
        super().check()
        check_limits(self)
        if self.n_clusters is None:
            package("igraph", extra="leiden", why="Finding the number of clusters (or pass `n_clusters=`)")

    def net(self) -> nn.Module:
        n_components = self.gene_features_.shape[1]
        return _Net(n_components, self.hidden, self.n_latent, self.dropout, decodes=self.objective == "bipartite")

    def fit(self, *, cells: Cells) -> Self:
        self.gene_features_, self.gene_degrees_ = _describe_genes(cells, self.n_components, self.rng("genes"))
        h = self._propagated(cells)
        # The components of genes grow with the number of cells; the network shall not.
        scale = float(h.std()) or 1.0
        self.gene_features_ /= scale
        h = torch.from_numpy(h / scale).to(self.target)
        self.net_ = self.net().to(self.target)

        def look() -> dict[str, Any]:
            self._partition(h)
            return self.predict(cells=cells)

        rng = self.rng("training")
        self.learn(
            getattr(self, f"_{self.objective}_step")(cells, h),
            self.net_,
            self.training,
            batches=_Rows(cells, self.training.batch_size, rng=rng),
            look=look,
            rng=rng,
        )
        self._partition(h)
        return self

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        z = self._embed(torch.from_numpy(self._propagated(cells)).to(self.target))
        labels = self._assign(z)
        return {"labels": labels, "embedding": z, "score": _silhouette(z, labels, self.centers_)}

    def _propagated(self, cells: Cells) -> np.ndarray:
        """What reaches each cell, (n_obs, n_components): d_i^-½ Σ_j w'_ij d_j^-½ x_j over its genes and itself.

        A row needs nothing but its cell and the gene side, so new cells are treated like old ones.
        """
        from_genes = self.gene_features_ / np.sqrt(self.gene_degrees_)[:, None]
        out = np.empty((cells.n_obs, self.gene_features_.shape[1]), dtype=np.float32)
        for here, block in blocks(cells.x):
            into_cells, _ = bipartite(block, norm=self.edge_norm)
            itself = block @ self.gene_features_  # features of the cell; the self-loop weighs 1, no edge leaves it
            degrees = np.diff(block.indptr) + 1
            out[here] = (into_cells @ from_genes + itself) / np.sqrt(degrees)[:, None]
        return out

    def _embed(self, h: Tensor) -> np.ndarray:
        out = np.empty((len(h), self.n_latent), dtype=np.float32)
        self.net_.eval()
        with torch.no_grad():
            for start in range(0, len(h), ROWS):
                here = slice(start, start + ROWS)
                out[here] = self.net_(h[here]).cpu().numpy()
        return out

    # ------------------------------------------------------------------ what is trained

    def _bipartite_step(self, cells: Cells, h: Tensor) -> Any:
        """Step that predicts which genes the cells of a batch express, beyond what the degrees of both say."""
        features = torch.from_numpy(self.gene_features_).to(h)
        features = features / features.square().sum(dim=1).mean().sqrt()  # so that scores start around ±1
        degrees = torch.from_numpy(self.gene_degrees_ - 1).to(h)

        def step(rows: np.ndarray) -> Tensor:
            edges = torch.from_numpy((cells.x[rows].toarray() > 0).astype(np.float32)).to(h)
            by_chance = (edges.sum(dim=1, keepdim=True) * degrees / degrees.sum()).clamp(*CHANCE)
            scores = self.net_.decoder(self._training_embedding(h[rows])) @ features.T
            return binary_cross_entropy_with_logits(scores + by_chance.logit(), edges)

        return step

    def _identity_step(self, cells: Cells, h: Tensor) -> Any:
        """Step of the paper: each cell is linked to itself and to no other."""

        def step(rows: np.ndarray) -> Tensor:
            z = self._training_embedding(h[rows])
            return _tell_apart(z, z)

        return step

    def _knn_step(self, cells: Cells, h: Tensor) -> Any:
        """Step that links each cell to one of its nearest neighbours and to no other cell."""
        k, rng = min(PAIR_NEIGHBORS, cells.n_obs - 1), self.rng("pairs")
        neighbors = knn(h.cpu().numpy(), k, random_state=self.random_state).indices.reshape(-1, k)

        def step(rows: np.ndarray) -> Tensor:
            partners = neighbors[rows, rng.integers(k, size=len(rows))]
            return _tell_apart(self._training_embedding(h[rows]), self._training_embedding(h[partners]))

        return step

    def _training_embedding(self, h: Tensor) -> Tensor:
        return dropout(self.net_(h), OUTPUT_DROPOUT)

    # ------------------------------------------------------------------ clusters

    def _partition(self, h: Tensor) -> None:
        """Find the clusters, and keep the points by which any cell is assigned to one."""
        sampled = len(h) > LANDMARKS
        if sampled:
            some = h[np.sort(self.rng("landmarks").choice(len(h), LANDMARKS, replace=False))]
        z = self._embed(some if sampled else h)
        if self.n_clusters is not None:
            _, self.prototypes_ = kmeans(z, self.n_clusters, n_init=self.n_init, random_state=self.random_state)
            self.prototype_labels_ = np.arange(self.n_clusters, dtype=np.int32)
            self.centers_ = self.prototypes_
        else:
            found, self.notes_ = self._communities(z)
            self.prototypes_, self.prototype_labels_ = z, found
            self.centers_ = means(z, found)
        if sampled:  # the largest of the sample need not be the largest of all
            labels = np.concatenate([self._assign(self._embed(part)) for part in h.split(ROWS)])
            _, order = by_size(labels, len(self.centers_))
            self.prototype_labels_ = np.argsort(order).astype(np.int32)[self.prototype_labels_]
            self.centers_ = self.centers_[order]
            self.notes_ = {**getattr(self, "notes_", {}), "n_landmarks": LANDMARKS}

    def _communities(self, z: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        """Clusters of the cells of an embedding without a number given, and what is noted of their choice."""
        if self.k_method != "leiden":
            choice = choose_k(z, how=self.k_method, random_state=self.random_state, resolution=self.resolution)
            return choice.labels, {"n_clusters": choice.k, "k_selection": choice.table}
        n_neighbors = max(2, min(self.n_neighbors, len(z) // 10))
        graph = fuzzy(knn(z, n_neighbors - 1, random_state=self.random_state))
        found = leiden(graph, resolution=self.resolution, random_state=self.random_state)
        k = int(found.max()) + 1
        table = {"resolution": np.array([self.resolution]), "n_communities": np.array([k]), "n_clusters": np.array([k])}
        return found, {"n_clusters": k, "n_neighbors": n_neighbors, "k_selection": table}

    def _assign(self, z: np.ndarray) -> np.ndarray:
        """Cluster of the nearest prototype: a centre of k-means, or a cell that Leiden has seen."""
        from sklearn.neighbors import NearestNeighbors

        if np.array_equal(z, self.prototypes_):
            return self.prototype_labels_
        near = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(self.prototypes_)
        return self.prototype_labels_[near.kneighbors(z, return_distance=False).ravel()]


class _Rows(Batches):
    """Batches that are the positions of their cells and nothing more."""

    def take(self, rows: np.ndarray) -> Any:
        return rows


class _Net(nn.Module):
    """From propagated features to the embedding; `decoder` maps it back among the features of the genes."""

    def __init__(self, n_components: int, hidden: int, n_latent: int, p: float, *, decodes: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Dropout(p), nn.Linear(n_components, hidden), nn.ReLU(), nn.Linear(hidden, n_latent)
        )
        self.decoder = nn.Linear(n_latent, n_components) if decodes else None
        for layer in (self.encoder[1], self.decoder):
            if layer is not None:
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, h: Tensor) -> Tensor:
        return self.encoder(h)


def _tell_apart(one: Tensor, other: Tensor) -> Tensor:
    """Cross-entropy of the inner products with the identity, in which the diagonal weighs one half.

    Equals norm · BCE(one · otherᵀ, I) with pos_weight = B − 1 and norm = B / 2 (B − 1), for a batch of B cells.
    """
    n = max(2, len(one))
    identity, weight = torch.eye(len(one), device=one.device), torch.tensor(n - 1.0, device=one.device)
    return n / (2 * (n - 1)) * binary_cross_entropy_with_logits(one @ other.T, identity, pos_weight=weight)


def _describe_genes(cells: Cells, n_components: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Principal components of the genes, (n_vars, n_components) float32, and their degrees, (n_vars,) float32.

    The samples are genes and the variables cells, of the expression that is standardised within each gene.
    Neither the standardised nor the centred matrix is made: a block of cells W gives Z = (W − 1 m) S less the
    mean of its rows, and the products with Z and Zᵀ follow from those with W.
    """
    n_obs, n_vars = cells.n_obs, cells.n_vars
    total, square, degrees = np.zeros(n_vars), np.zeros(n_vars), np.ones(n_vars)  # a self-loop each
    for _, block in blocks(cells.x):
        total += np.asarray(block.sum(axis=0, dtype=np.float64)).ravel()
        square += np.asarray(block.multiply(block).sum(axis=0, dtype=np.float64)).ravel()
        degrees += np.bincount(block.indices, minlength=n_vars)
    mean = total / n_obs
    variance = np.maximum(square / n_obs - mean**2, 0)
    constant = variance <= 1e-10 * mean**2  # the sums of a constant gene do not cancel to the last digit
    inverse = np.where(constant, 0, 1 / np.sqrt(np.where(constant, 1, variance)))

    def scores(block: csr_matrix, basis: np.ndarray) -> np.ndarray:
        """Z times the basis, for the cells of a block; centring a row is centring the basis."""
        scaled = inverse[:, None] * (basis - basis.mean(axis=0))
        return block @ scaled - mean @ scaled

    n_components = max(1, min(n_components, n_vars - 1, n_obs - 1))
    basis = np.linalg.qr(rng.standard_normal((n_vars, min(n_components + EXTRA, n_vars))))[0]
    for _ in range(PASSES):
        image = np.zeros_like(basis)
        for _, block in blocks(cells.x):
            t = scores(block, basis)
            image += inverse[:, None] * (block.T @ t - np.outer(mean, t.sum(axis=0)))
        basis = np.linalg.qr(image - image.mean(axis=0))[0]
    small = np.zeros((basis.shape[1], basis.shape[1]))
    for _, block in blocks(cells.x):
        t = scores(block, basis)
        small += t.T @ t
    values, vectors = np.linalg.eigh(small)
    best = slice(None, -n_components - 1, -1)  # largest first
    features = basis @ vectors[:, best] * np.sqrt(np.maximum(values[best], 0))
    features *= np.sign(features[np.abs(features).argmax(axis=0), np.arange(n_components)])
    return features.astype(np.float32), degrees.astype(np.float32)


def _silhouette(z: np.ndarray, labels: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Simplified silhouette (b − a) / max(a, b) from −1…1 to 0…1; a, b: distance to the own and the next centre."""
    from scipy.spatial.distance import cdist

    out = np.ones(len(z), dtype=np.float32)
    if len(centers) == 1:
        return out
    for start in range(0, len(z), ROWS):
        here = slice(start, start + ROWS)
        distances, own = cdist(z[here], centers), labels[here]
        rows = np.arange(len(own))
        a = distances[rows, own]
        distances[rows, own] = np.inf
        b = distances.min(axis=1)
        out[here] = (1 + (b - a) / np.maximum(np.maximum(a, b), 1e-12)) / 2
    return out
