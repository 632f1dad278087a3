"""An autoencoder and a graph convolution over the cells that teach each other the clusters."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal, Self

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, mse_loss

from scdance._checks import InputError
from scdance._core.cells import Cells
from scdance.graph import Sparse, kmeans, knn, normalize, self_loops, symmetric
from scdance.nn import DEC, CountHead, Dense, dec_loss, target_distribution
from scdance.pp import PCA, Recipe, project
from scdance.train import Batch, Batches, Expression, TorchMethod, Train, relative_depth

from ._centers import ByCenters, means, shrunk

ALL_CELLS = 10**9  # a batch that no data set fills: every cell is restored in each step
COMPONENTS = 50  # principal components in which correlations are measured

# What the authors and DANCE share, and what DANCE sets for every data set of its own.
_AUTOENCODER = {
    "flavor": "cell_ranger",
    "likelihood": "zinb",
    "pretrain_counts_weight": 0.0,
    "shrink": 0.0,
}
_STAGES = {"pretrain_batch_size": 256, "pretrain_epochs": 100, "batch_size": ALL_CELLS}
_PUBLISHED = _AUTOENCODER | _STAGES | {"graph_weight": 0.01, "counts_weight": 0.1}
_PAPER = _PUBLISHED | {"encoder": (500, 500, 2000), "latent": (10,), "expression_weight": 1.0}
_PAPER |= {"epochs": 300, "lr": 1e-4}
_DANCE = _PUBLISHED | {"encoder": (512, 256, 256), "latent": (256, 128, 32), "alpha": 3.0, "epochs": 1000, "lr": 0.01}
_DANCE |= {"assignment_weight": 1.0, "expression_weight": 0.1}


class ScDSC(ByCenters, TorchMethod):
    """Cluster by an autoencoder and a graph convolution that share each layer [Gan2022]_.

    An autoencoder learns to restore expression and counts; beside it, a graph convolution smooths expression over
    similar cells, and each of its layers takes up the encoder's layer of the same depth. The latent space assigns
    cells to centres; both are trained to agree with the sharpened assignment. The labels are the convolution's.

    When to use
    -----------
    Raw counts of some thousand cells and a known number of clusters, where neighbours should agree on their label.

    When not
    --------
    For a single decisive run: labels vary more with the seed than those of other methods. For new cells, which it
    cannot label, or beyond 100,000 cells, all of which pass the graph at once. Without a number of clusters. For
    several batches: it is not told them, as its graph joins cells of one batch anyway.

    Differs from the paper
    ----------------------
    The autoencoder is narrower and sees the counts in pre-training too; these follow a negative binomial with one
    dispersion per gene instead of a zero-inflated one, and weigh more. The second stage is faster and shorter: every
    cell passes the encoder and the graph, but only a random batch is restored in each step. The graph joins
    nearest neighbours by correlation and is never chosen by labels; targets come from the network in its predicting
    state, and its last state counts. The defaults were chosen on three labelled
    sets together: worm neuron, 10X PBMC and mouse bladder. ``preset="paper"`` has the authors' numbers; "dance" and
    its data sets have DANCE's, but neither its frozen autoencoder nor its random centres.

    Parameters
    ----------
    n_top_genes
        Genes that are kept; None: all.
    flavor
        How they are chosen: by "deviance" of the counts, or by dispersion as "cell_ranger" does.
    n_neighbors
        Most correlated cells to which each cell is joined in the graph, the cell itself not counted.
    encoder
        Widths of the hidden layers of the encoder; the decoder mirrors them.
    latent
        Widths of the layers after these, which have no activation; the last one is the latent space.
    sigma
        Share of the autoencoder in what each layer of the graph convolution is given, in [0, 1].
    alpha
        Degrees of freedom > 0 of the Student-t kernel around the centres.
    assignment_weight
        Weight of the cross-entropy between the assignment of the autoencoder and the target.
    graph_weight
        Weight of the divergence of the graph convolution from the target.
    expression_weight
        Weight of the squared error of the restored expression.
    counts_weight
        Weight of the negative log-likelihood of the counts.
    pretrain_counts_weight
        The same in pre-training, where the squared error weighs 1; 0: expression only.
    likelihood
        "nb": a dispersion per gene; "zinb": zero-inflated, dispersion and inflation per entry.
    shrink
        For the first partition, a cell at distance d from the middle is put at d^(1 − shrink), so that no centre is
        spent on a few far cells; 0 leaves the distances as they are, 1 leaves directions only.
    pretraining
        autoencoder alone
    training
        all together; an epoch is one step, and the batch are the cells that are restored in it
    """

    n_top_genes: int | None = 2000
    flavor: Literal["deviance", "cell_ranger"] = "deviance"
    n_neighbors: int = 10
    encoder: tuple[int, ...] = (256, 64)
    latent: tuple[int, ...] = (32,)
    sigma: float = 0.5
    alpha: float = 1.0
    assignment_weight: float = 0.1
    graph_weight: float = 0.1
    expression_weight: float = 0.1
    counts_weight: float = 1.0
    pretrain_counts_weight: float = 1.0
    likelihood: Literal["nb", "zinb"] = "nb"
    shrink: float = 0.25
    pretraining: Train = Train(epochs=None, steps=1300, batch_size=128)
    training: Train = Train(epochs=30, batch_size=1024)

    cite = "Gan2022"
    needs = ("counts",)
    inductive = False
    keeps = ("proba_", "embedding_")
    presets = {
        "paper": _PAPER,
        "dance": _DANCE,
        "10x_pbmc": _DANCE | {"encoder": (1024, 256, 64), "latent": (64, 128, 32)},
        "mouse_es": _DANCE | {"sigma": 0.1, "alpha": 2.0, "pretrain_epochs": 50},
        "worm_neuron": _DANCE | {"encoder": (512, 256, 64), "latent": (64, 64, 32)},
        "mouse_bladder": _DANCE | {"n_neighbors": 50, "alpha": 7.0},
    }

    @property
    def recipe(self) -> Recipe:
        chosen = {"n_top": self.n_top_genes, "flavor": self.flavor}
        return Recipe(
            filter_genes={"min_counts": 3}, normalize_total={}, log1p={}, select_genes=chosen, center_scale={}
        )

    def check(self) -> None:
        super().check()
        for wrong, msg in (
            (not self.latent, "latent=() has no width; pass that of the latent space too, as in latent=(32,)."),
            (not 0 <= self.sigma <= 1, f"sigma={self.sigma!r}, but it must lie between 0 (graph alone) and 1."),
            (not self.alpha > 0, f"alpha={self.alpha!r}, but degrees of freedom must be above 0; 1 is usual."),
            (self.training.batch_size < 2, "batch_size=1, but batch norm needs at least 2 cells."),
            (self.pretraining.batch_size < 2, "pretrain_batch_size=1, but batch norm needs at least 2 cells."),
        ):
            if wrong:
                raise InputError(msg)

    def net(self) -> nn.Module:
        widths = (self.n_vars_, *self.encoder, *self.latent)
        net = _Net(widths, len(self.encoder), self.likelihood, self.sigma)
        if hasattr(self, "n_clusters_"):
            net.add_clusters(torch.zeros(self.n_clusters_, self.latent[-1]), self.alpha)
        return net

    def fit(self, *, cells: Cells) -> Self:
        self.n_vars_ = cells.n_vars
        self.net_ = self.net().to(self.target)
        size = relative_depth(cells, self.target)
        self._pretrain(cells, size)
        x = Expression(cells, self.target)
        a = Sparse(self._graph(cells), self.target)
        with torch.no_grad():
            centers = self._first_centers(self.net_.encode(x)[-1].cpu().numpy())
        self.n_clusters_ = len(centers)
        self.net_.add_clusters(torch.from_numpy(centers), self.alpha)
        self.net_.to(self.target)
        self._train(cells, size, x, a)
        self._number_by_size(x, a)
        self.proba_, self.embedding_ = self._assigned(x, a)
        return self

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        return _result(self.proba_, self.embedding_)

    def _graph(self, cells: Cells) -> csr_matrix:
        """D^-½ (A + I) D^-½, (n_obs, n_obs), of the nearest neighbours by correlation, in either direction."""

        def profiles() -> Iterator[np.ndarray]:
            for block in cells.dense_blocks():
                yield block - block.mean(axis=1, keepdims=True)

        pca = PCA(COMPONENTS, random_state=self.random_state)
        pca.fit(profiles, (cells.n_obs, cells.n_vars))
        z = project(profiles(), pca.mean_, pca.components_)
        z /= np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)  # among unit rows, near is correlated
        neighbors = knn(z, self.n_neighbors, random_state=self.random_state)
        neighbors.data[:] = 1
        return normalize(self_loops(symmetric(neighbors)))

    def _pretrain(self, cells: Cells, size: Tensor) -> None:
        """Train the autoencoder alone."""
        how, rng = self.pretraining, self.rng("pretraining")
        counted = self.pretrain_counts_weight != 0

        def step(batch: Batch) -> Tensor:
            z = self.net_.encode(batch.x)[-1]
            expression, counts = self._reconstruction(z, batch, size, counted)
            return expression + self.pretrain_counts_weight * counts

        batches = Batches(cells, how.batch_size, rng=rng, counts=counted, device=self.target)
        self.learn(step, self.net_, how, stage="pretraining", batches=batches, rng=rng)

    def _train(self, cells: Cells, size: Tensor, x: Expression, a: Sparse) -> None:
        """Train autoencoder, centres and graph convolution together."""
        net, how, rng = self.net_, self.training, self.rng("training")
        target = torch.empty(0)

        def refresh(epoch: int) -> None:
            nonlocal target
            with torch.no_grad():  # `net` is in eval mode here
                target = target_distribution(net.dec(net.encode(x)[-1]).exp())

        def step(batch: Batch) -> Tensor:
            hidden = net.encode(x)
            expression, counts = self._reconstruction(hidden[-1][batch.rows], batch, size)
            return (
                self.assignment_weight * binary_cross_entropy(net.dec(hidden[-1]).exp(), target)
                + self.graph_weight * dec_loss(net.convolve(a, x, hidden), target)
                + self.expression_weight * expression
                + self.counts_weight * counts
            )

        batches = _Sample(cells, how.batch_size, rng=rng, counts=True, device=self.target)
        hooks = {"each_epoch": refresh, "look": lambda: _result(*self._assigned(x, a))}
        self.learn(step, net, how, batches=batches, rng=rng, **hooks)

    def _reconstruction(self, z: Tensor, batch: Batch, size: Tensor, counted: bool = True) -> tuple[Tensor, Any]:
        """Squared error of the standardised expression, and negative log-likelihood of the counts."""
        h = self.net_.decoder(z)
        expression = mse_loss(self.net_.expression(h), batch.x)
        return expression, self.net_.head.loss(h, batch.counts, size[batch.rows]) if counted else 0.0

    def _first_centers(self, z: np.ndarray) -> np.ndarray:
        """Centres of a first partition of the latent space, (n_clusters, n_latent)."""
        choice = self._chosen(z)
        if choice is not None:
            return means(z, choice.labels)
        return means(z, kmeans(shrunk(z, self.shrink), self.n_clusters, random_state=self.random_state)[0])

    def _number_by_size(self, x: Expression, a: Sparse) -> None:
        """Sort centres and outputs so that cluster 0 is the largest."""
        order = self._order(self._assigned(x, a)[0].argmax(axis=1), self.n_clusters_)
        for each in (self.net_.dec.centers, self.net_.graph[-1].weight):
            each.data = each.data[order]

    def _assigned(self, x: Expression, a: Sparse) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of the graph convolution and latent space of all cells, by running statistics."""
        self.net_.eval()
        with torch.no_grad():
            hidden = self.net_.encode(x)
            proba = self.net_.convolve(a, x, hidden).exp()
        return proba.cpu().numpy(), hidden[-1].cpu().numpy()


def _result(proba: np.ndarray, z: np.ndarray) -> dict[str, Any]:
    return {"labels": proba.argmax(axis=1), "embedding": z, "proba": proba, "score": proba.max(axis=1)}


class _Sample(Batches):
    """One batch in each epoch, of cells drawn at random."""

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Batch]:
        yield self.take(np.sort(self.rng.permutation(self.rows)[: self.size]))


class _Net(nn.Module):
    """Autoencoder; once there are centres, `dec` holds them and `graph` the weights of the convolution."""

    def __init__(self, widths: tuple[int, ...], n_hidden: int, likelihood: Any, sigma: float) -> None:
        super().__init__()
        self.widths, self.n_hidden, self.sigma = widths, n_hidden, sigma
        n_vars, back = widths[0], (widths[-1], *reversed(widths[1 : n_hidden + 1]))
        self.encoder = _layers(widths)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in widths[1:])
        self.decoder = Dense(back, batch_norm=True)
        self.expression = nn.Linear(back[-1], n_vars)
        dispersion = "gene" if likelihood == "nb" else "entry"
        self.head = CountHead(back[-1], n_vars, likelihood=likelihood, dispersion=dispersion)

    def add_clusters(self, centers: Tensor, alpha: float) -> None:
        """Set the centres, (n_clusters, n_latent), and make the graph convolution that ends in so many outputs."""
        self.dec = DEC(centers, alpha)
        self.graph = _layers((*self.widths, len(centers)), bias=False)
        for layer in self.graph:
            nn.init.xavier_uniform_(layer.weight)

    def encode(self, x: Tensor | Expression) -> list[Tensor]:
        """Every layer of the encoder for cells with standardised expression."""
        out: list[Tensor] = []
        for i, (layer, norm) in enumerate(zip(self.encoder, self.norms, strict=True)):
            h = norm(x @ layer.weight.T + layer.bias if i == 0 else layer(out[-1]))
            out.append(h.relu() if i < self.n_hidden else h)
        return out

    def convolve(self, a: Sparse, x: Expression, hidden: list[Tensor]) -> Tensor:
        """Log-probability of each cluster, (n_obs, n_clusters): h ← Â ((1 − σ) ReLU(h) + σ H) W, first Â X W."""
        h = a @ (x @ self.graph[0].weight.T)
        for layer, seen in zip(self.graph[1:], hidden, strict=True):
            h = a @ layer((1 - self.sigma) * h.relu() + self.sigma * seen)
        return torch.log_softmax(h, dim=1)


def _layers(widths: tuple[int, ...], bias: bool = True) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(*each, bias=bias) for each in pairwise(widths))
