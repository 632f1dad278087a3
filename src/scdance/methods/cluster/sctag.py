"""A graph autoencoder of counts and neighbours whose latent space and cluster centres are trained together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn.functional import normalize as unit_rows

from scdance._core.cells import Cells
from scdance.graph import Sparse, kmeans, knn, normalize, self_loops, symmetric
from scdance.nn import DEC, CountHead, Dense, adjacency_loss, dec_loss, target_distribution
from scdance.pp import PCA, Recipe, project
from scdance.train import Batches, Expression, TorchMethod, Train, mean_counts, relative_depth

from ._centers import ByCenters, means

ROWS = 4096  # cells whose differences from all centres are held at once
WHOLE = 10**9  # cells per step: all of them
# What the paper and DANCE share, and what DANCE sets for every data set of its own.
_PUBLISHED = {
    "flavor": "cell_ranger",
    "likelihood": "zinb",
    "radius": None,
    "clip": None,
    "tol": 0.0,
    "refresh": 8,
    "epochs": 300,
    "lr": 5e-4,
    "batch_size": WHOLE,
    "pretrain_batch_size": WHOLE,
}
_DANCE = _PUBLISHED | {
    "n_top_genes": 3000,
    "hops": 2,
    "pretrain_epochs": 200,
    "pretrain_lr": 1e-3,
    "pretrain_optimizer": "amsgrad",
}


class ScTAG(ByCenters, TorchMethod):
    """Cluster by a graph autoencoder of counts with trained cluster centres [Yu2022]_.

    An encoder mixes the expression of each cell with that of its neighbours, of their neighbours and so on, with
    weights of its own for each distance. From the narrow latent space one decoder predicts the counts of the cell
    and another who its neighbours are. The centres of a first partition of that space are then trained together
    with the network, which pulls each cell towards the centre that it is already likely to belong to.

    When to use
    -----------
    Raw counts of a few thousand cells, with a known number of clusters, and with a minute to spend; also to cluster
    by a neighbour graph of your own together with the counts.

    When not
    --------
    For many small types, where ``"graphsc"`` is better and takes seconds, or without counts. New cells: the graph
    holds only those it was fitted on; use ``"scdeepcluster"``.

    Differs from the paper
    ----------------------
    Counts are predicted, where the authors' code fits their likelihood to standardised values; by a negative
    binomial with a dispersion per gene instead of a zero-inflated one; from a mean that starts at that of each gene;
    and for a batch of cells in each step, whose graph part sees all. Cells lie on a sphere in the latent space:
    predicted neighbours depend on directions, and with free lengths k-means cuts types by length. First centres are
    those of k-means instead of spectral clustering, the divergence is KL(P‖Q), the graph is symmetric, and above
    5,000 cells its loss is estimated from random pairs. There are more genes, fewer steps at a higher rate, and a
    weaker pull to the centres; ``preset="paper"`` has the paper's. These defaults were chosen once, for the three
    labelled data sets of the leaderboard together, and are the same for all data. Training ends after its epochs
    or when its labels settle; no label of the user is ever seen.

    Parameters
    ----------
    n_top_genes
        Genes that are kept; None: all.
    flavor
        Which: those of the largest "deviance", or of the largest dispersion for their mean ("cell_ranger").
    clip
        Largest value of standardised expression; None: not bounded.
    n_neighbors
        Nearest neighbours of each cell in the graph, itself not counted; where the object has a graph that you
        name by `neighbors_key`, that is used.
    n_components
        Principal components in which neighbours are sought.
    hops
        Steps along the graph that each of the two layers of the encoder looks; 0 is an encoder without a graph.
    hidden
        Width of the first layer of the encoder.
    n_latent
        Dimensions of the latent space.
    radius
        Distance of all cells from the origin of the latent space; None: free.
    n_links
        Dimensions in which neighbours are predicted.
    decoder
        Widths of the hidden layers of the decoder of counts.
    dropout
        Share of the measured entries that the encoder takes for zeros in a step of training.
    likelihood
        "nb": negative binomial with a dispersion per gene; "zinb": zero-inflated, with a dispersion and an
        inflation per entry.
    graph_weight
        Weight of the loss of the neighbours.
    counts_weight
        Weight of the loss of the counts.
    cluster_weight
        Weight of the clustering loss in the second stage; 0 trains the autoencoder only.
    n_init
        Starts of k-means; the best is kept.
    pretraining
        autoencoder alone; a batch limits the counts that a step predicts, it always sees all cells
    training
        autoencoder and centres; `tol` ends it
    refresh
        Epochs between two looks at all cells, which set the target of the clustering loss.
    tol
        Training ends when a smaller share of the cells changes its cluster from one look to the next.
    """

    n_top_genes: int | None = 2000
    flavor: Literal["deviance", "cell_ranger"] = "deviance"
    clip: float | None = 10.0
    n_neighbors: int = 15
    n_components: int = 50
    hops: int = 2
    hidden: int = 128
    n_latent: int = 15
    radius: float | None = 5.0
    n_links: int = 32
    decoder: tuple[int, ...] = (128, 256, 512)
    dropout: float = 0.2
    likelihood: Literal["nb", "zinb"] = "nb"
    graph_weight: float = 0.3
    counts_weight: float = 1.0
    cluster_weight: float = 0.1
    n_init: int = 20
    pretraining: Train = Train(epochs=None, steps=80, lr=2e-3, batch_size=512)
    training: Train = Train(epochs=None, steps=40, lr=5e-4, batch_size=512)
    refresh: int = 1
    tol: float = 1e-3

    cite = "Yu2022"
    needs = ("counts",)
    uses = ("graph",)
    inductive = False
    keeps = ("embedding_",)
    presets = {
        "paper": _PUBLISHED
        | {"n_top_genes": 500, "hops": 3, "cluster_weight": 1.5}
        | {"pretrain_epochs": 1000, "pretrain_lr": 1e-4},
        "dance": _DANCE | {"graph_weight": 1.0, "counts_weight": 1.0, "cluster_weight": 1.0},
        "10x_pbmc": _DANCE
        | {"pretrain_epochs": 100, "graph_weight": 0.01, "counts_weight": 3.0, "cluster_weight": 0.1, "dropout": 0.5},
        "mouse_es": _DANCE
        | {"pretrain_epochs": 100, "graph_weight": 0.01, "counts_weight": 0.75, "cluster_weight": 1.0},
        "worm_neuron": _DANCE | {"graph_weight": 0.01, "counts_weight": 2.0, "cluster_weight": 0.25, "hops": 1},
        "mouse_bladder": _DANCE
        | {"pretrain_epochs": 100, "graph_weight": 0.1, "counts_weight": 2.5, "cluster_weight": 3.0},
    }

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            filter_genes={"min_counts": 3},
            normalize_total={},
            log1p={},
            select_genes={"n_top": self.n_top_genes, "flavor": self.flavor},
            center_scale={"clip": self.clip},
        )

    def net(self) -> nn.Module:
        return _Net(self, getattr(self, "n_clusters_", None))

    def fit(self, *, cells: Cells) -> Self:
        self.n_vars_ = cells.n_vars
        self.net_ = self.net().to(self.target)
        self.net_.head.start_at(mean_counts(cells))
        whole = _Whole.of(cells, self._graph(cells), self.target)
        self._pretrain(cells, whole)
        centers = self._first_centers(self._latent(whole).cpu().numpy())
        self.n_clusters_ = len(centers)
        self.net_.dec = DEC(torch.from_numpy(centers)).to(self.target)
        self._train(cells, whole)
        z = self._latent(whole)
        self._number_by_size(z)
        self.embedding_ = z.cpu().numpy()
        return self

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        return self._result(torch.from_numpy(self.embedding_).to(self.target))

    def _result(self, z: Tensor) -> dict[str, Any]:
        q = self._log_q(z).exp().cpu().numpy()
        return {"labels": q.argmax(axis=1), "embedding": z.cpu().numpy(), "proba": q, "score": q.max(axis=1)}

    def _graph(self, cells: Cells) -> csr_matrix:
        """Who is a neighbour of whom, (n_obs, n_obs), symmetric, each cell its own neighbour."""
        if cells.graph is not None:
            return self_loops(symmetric(cells.graph))
        pca = PCA(self.n_components, random_state=self.random_state)
        pca.fit(cells.dense_blocks, (cells.n_obs, cells.n_vars))
        x = project(cells.dense_blocks(), pca.mean_, pca.components_)
        a = knn(x, self.n_neighbors, random_state=self.random_state)
        a.data[:] = 1
        return self_loops(symmetric(a))

    def _pretrain(self, cells: Cells, whole: _Whole) -> None:
        """Train the autoencoder alone."""
        rng = self.rng("pretraining")
        self.learn(
            lambda batch: self._reconstruction(self.net_.encode(whole), batch, whole),
            self.net_,
            self.pretraining,
            stage="pretraining",
            batches=self._counts(cells, self.pretraining, rng),
            rng=rng,
        )

    def _train(self, cells: Cells, whole: _Whole) -> None:
        """Train autoencoder and centres together, until the labels settle."""
        how, rng = self.training, self.rng("training")
        memory: dict[str, Tensor] = {"changed": torch.empty(0)}

        def refresh(epoch: int) -> str | None:
            if epoch % self.refresh and "target" in memory:
                return None
            log_q = self._log_q(self._latent(whole))
            memory["target"] = target_distribution(log_q.exp())
            labels = log_q.argmax(dim=1)
            before, memory["labels"] = memory.get("labels"), labels
            if epoch == 0 or before is None:
                return None
            changed = (labels != before.to(labels)).float().mean()
            memory["changed"] = torch.cat([memory["changed"], changed.cpu().reshape(1)])
            return f"fewer than {self.tol:g} of the labels changed" if changed < self.tol else None

        def step(batch: tuple[np.ndarray, Tensor]) -> Tensor:
            z = self.net_.encode(whole)
            pull = dec_loss(self.net_.dec(z), memory["target"].to(z))
            return self._reconstruction(z, batch, whole) + self.cluster_weight * pull

        self.learn(
            step,
            self.net_,
            how,
            batches=self._counts(cells, how, rng),
            each_epoch=refresh,
            look=lambda: self._result(self._latent(whole)),
            rng=rng,
            memory=memory,
        )
        self.history_["training_changed"] = memory["changed"].numpy()

    def _counts(self, cells: Cells, how: Train, rng: np.random.Generator) -> _Counts:
        """Batches of counts; so large that one pass is no more than the steps that were asked for.

        Each step sees all cells, so that more steps for more cells would cost their square.
        """
        size = max(how.batch_size, -(-cells.n_obs // how.steps)) if how.epochs is None and how.steps else how.batch_size
        return _Counts(cells, size, rng=rng, device=self.target)

    def _reconstruction(self, z: Tensor, batch: tuple[np.ndarray, Tensor], whole: _Whole) -> Tensor:
        """Loss of the counts of a batch of cells and of the neighbours of all cells."""
        rows, counts = batch
        of_counts = self.net_.head.loss(self.net_.decoder(z[rows]), counts, whole.size[rows])
        h = self.net_.links(z)
        of_graph = adjacency_loss(self.net_.bilinear(h), h, whole.links)
        return self.counts_weight * of_counts + self.graph_weight * of_graph

    def _first_centers(self, z: np.ndarray) -> np.ndarray:
        """Centres of a first partition of the latent space, (n_clusters, n_latent)."""
        choice = self._chosen(z)
        if choice is not None:
            return means(z, choice.labels)
        return kmeans(z, self.n_clusters, n_init=self.n_init, random_state=self.random_state)[1]

    def _number_by_size(self, z: Tensor) -> None:
        """Sort the centres so that cluster 0 is the largest."""
        labels, centers = self._log_q(z).argmax(dim=1).cpu().numpy(), self.net_.dec.centers
        centers.data = centers.data[self._order(labels, self.n_clusters_)]

    def _latent(self, whole: _Whole) -> Tensor:
        """Latent space of all cells, without dropout; the forward pass is that of training."""
        self.net_.eval()
        with torch.no_grad():
            return self.net_.encode(whole)  # type: ignore[no-any-return]

    def _log_q(self, z: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([self.net_.dec(some) for some in z.split(ROWS)])


@dataclass(frozen=True)
class _Whole:
    """What each step needs of all cells.

    Attributes
    ----------
    x
        Standardised expression.
    size
        Depth of each cell relative to the median cell, (n_obs,).
    propagate
        Â = D^-½ A D^-½ of the graph.
    links
        The graph A itself, to be predicted, a torch CSR tensor.
    """

    x: Expression
    size: Tensor
    propagate: Sparse
    links: Tensor

    @classmethod
    def of(cls, cells: Cells, graph: csr_matrix, device: torch.device) -> _Whole:
        propagate, links = Sparse(normalize(graph), device), Sparse(graph, device).forward
        return cls(Expression(cells, device), relative_depth(cells, device), propagate, links)


class _Counts(Batches):
    """Batches of the positions of their cells and of their counts."""

    def take(self, rows: np.ndarray) -> Any:
        return rows, torch.from_numpy(self.cells.counts[rows].toarray()).to(self.device)


class TAGConv(nn.Module):
    """Graph convolution Σ_k Â^k X W_k + b over k = 0 … `hops`.

    X W_k comes first, because it is narrower than X; Horner's scheme then needs one product with Â per hop.
    """

    def __init__(self, n_in: int, n_out: int, hops: int) -> None:
        super().__init__()
        self.hops = hops
        self.linear = nn.Linear(n_in, (hops + 1) * n_out, bias=False)
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor | Expression, a: Sparse) -> Tensor:
        *fewer, out = (x @ self.linear.weight.T).chunk(self.hops + 1, dim=1)
        for part in reversed(fewer):
            out = part + a @ out.contiguous()
        return out + self.bias


class _Net(nn.Module):
    """Encoder and the decoders of counts and neighbours; `dec` holds the centres once there are some."""

    def __init__(self, knobs: ScTAG, n_clusters: int | None) -> None:
        super().__init__()
        n_vars, n_latent, sizes = knobs.n_vars_, knobs.n_latent, (knobs.n_latent, *knobs.decoder)
        self.radius, self.dropout = knobs.radius, knobs.dropout
        self.conv1 = TAGConv(n_vars, knobs.hidden, knobs.hops)
        self.conv2 = TAGConv(knobs.hidden, n_latent, knobs.hops)
        self.links = nn.Linear(n_latent, knobs.n_links)
        self.bilinear = nn.Linear(knobs.n_links, knobs.n_links, bias=False)
        self.decoder = Dense(sizes)
        dispersion = "gene" if knobs.likelihood == "nb" else "entry"
        self.head = CountHead(sizes[-1], n_vars, likelihood=knobs.likelihood, dispersion=dispersion)
        if n_clusters is not None:
            self.dec = DEC(torch.zeros(n_clusters, n_latent))

    def encode(self, whole: _Whole) -> Tensor:
        """Latent space of all cells, (n_obs, n_latent)."""
        x = whole.x.dropout(self.dropout) if self.training and self.dropout else whole.x
        h = self.conv1(x, whole.propagate).relu()
        z = self.conv2(h, whole.propagate)
        return z if self.radius is None else self.radius * unit_rows(z, dim=1)
