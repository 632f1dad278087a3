"""Autoencoders and a graph of cells that take turns: similar cells are found, and each kind gets its own network."""

from __future__ import annotations

import copy
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from scdance._checks import InputError, package
from scdance._core.cells import Cells
from scdance.graph import Sparse, by_size, kmeans, louvain, normalize, self_loops
from scdance.pp import Recipe, blocks
from scdance.train import TorchMethod, Train

from ._autoencoder import Autoencoder, Groups
from ._imputer import ROWS, Imputer, Rates, depth_of
from ._links import GraphAutoencoder, cell_weights, link_loss, linked
from ._ltmg import active

MOST_CLUSTERS = 30  # what lies beyond joins the last
SHARE_OF_LOUVAIN = {True: 0.8, False: 0.5}  # of its clusters: below FEW_CELLS, and above
FEW_CELLS = 2000
ACTIVE_WEIGHT = 0.9  # α: weight of the squared errors of active entries; of all of them 1 − α
STARTS = 5  # of k-means
WHOLE = 10**9  # cells per step: all of them

Source = Cells | np.ndarray  # of expression: the observed one, or what was imputed, (n_obs, n_vars)

_PUBLISHED = {
    "learn_from": "imputed",
    "hide": 0.0,
    "loss": "squared",
    "normalize": False,
    "flavor": "variance",
    "hidden": 512,
    "n_latent": 128,
    "l1": 1.0,
    "lr": 1e-3,
    "pretrain_batch_size": WHOLE,
    "loop_batch_size": WHOLE,
    "batch_size": WHOLE,
    "link_epochs": 200,
}
PAPER = _PUBLISHED | {"version": 1, "iterations": 10, "agree": 0.99}
PAPER |= {"pretrain_epochs": 500, "loop_epochs": 200, "epochs": 200}
PAPER2 = PAPER | {"version": 2, "iterations": 31, "agree": 0.95, "n_neighbors": 30, "loop_epochs": 300}
PAPER2 |= {"nonzero_weight": 1.0}


class ScGNN(Imputer, TorchMethod):
    """Impute by autoencoders that take turns with a graph of cells [Wang2021]_, [Gu2022]_.

    An autoencoder compresses the expression of each cell. Cells that are close in its narrow layer are linked, a graph
    autoencoder turns the links into an embedding, and clusters are sought there. Each cluster then gets an autoencoder
    of its own. What these reconstruct is compressed anew, until the clusters no longer change.

    When to use
    -----------
    To have imputed expression together with an embedding and clusters that fit it, of a few thousand cells or more.

    When not
    --------
    For new cells, which the graph does not hold: ``"dca"`` takes them. To test differences: estimates of one cell
    borrow from all others. With a few hundred cells ``"magic"`` does as well.

    Differs from the paper
    ----------------------
    In each step a random half of the entries, zeros included, is hidden from the networks, which predict those and no
    others: the paper's networks see what they predict, learn to copy it with its zeros, and learn from then on what
    they have imputed themselves. They minimise the negative Poisson log-likelihood of the counts instead of squared
    errors of logarithms, rates start at those of the genes, and every network starts from the first one. Most of the
    result is that first network; those of the clusters, which are trained briefly, change little on held-out counts.
    As the exponential of an expected logarithm is less than the expected count, the estimates of each gene are scaled
    to its total [Duan1983]_. The regularisers of graph and clusters are weights of cells, which is what the products
    of matrices in the authors' code come to; links beyond the limit are dropped, where it keeps them; and the
    embedding is a mean instead of a sample. ``preset="paper"`` and ``"paper2"`` have the numbers of both versions,
    ``"dance"`` those of DANCE.

    Parameters
    ----------
    version
        2: the networks of the clusters give the estimate; 1: one network for all cells does, in whose training cells
        of many links and of large clusters weigh more.
    n_top_genes
        Genes that are modelled; None: all.
    flavor
        Which: those of the largest "deviance", or of the largest "variance" of the logarithm.
    normalize
        Divide counts by the depth of the cell before the logarithm.
    hidden
        Width of the layers beside the narrow one.
    n_latent
        Width of the narrow layer of the autoencoders.
    loss
        What networks minimise: "poisson", the negative log-likelihood of counts, from rates that are above zero and
        start at the mean of each gene; "squared", errors of logarithms, with estimates that may be zero, as published.
    learn_from
        What the last networks learn: "observed" expression, or what was "imputed" before, as published.
    hide
        Share of the entries that is hidden in a step, and predicted; 0: all are seen and compared, as published.
    ltmg
        Let entries that a left-truncated mixture of Gaussians [Wan2019]_ takes for active weigh more at first.
    n_neighbors
        Nearest neighbours of each cell, of which those no further than their mean distance and one standard deviation
        are linked.
    n_clusters
        Number of clusters; None: a share of those that Louvain finds.
    iterations
        Most rounds of links, clusters and networks.
    agree
        Adjusted Rand index of the clusters of two rounds, above which there is no further one.
    graph_weight
        Weight of the errors of linked cells.
    celltype_weight
        Weight of the errors of cells in the same cluster.
    nonzero_weight
        Weight, in version 2, of the distance from what was observed, taken over non-zero entries.
    l1
        Weight of the absolute weights of the last networks.
    pretraining
        first autoencoder
    looping
        the same in further rounds, on imputed expression
    linking
        graph autoencoder, all cells in each step
    training
        networks of the clusters, or the last one of version 1
    """

    version: Literal[1, 2] = 2
    n_top_genes: int | None = 2000
    flavor: Literal["deviance", "variance"] = "deviance"
    normalize: bool = True
    hidden: int = 256
    n_latent: int = 64
    loss: Literal["poisson", "squared"] = "poisson"
    learn_from: Literal["observed", "imputed"] = "observed"
    hide: float = 0.5
    ltmg: bool = False
    n_neighbors: int = 10
    n_clusters: int | None = None
    iterations: int = 3
    agree: float = 0.9
    graph_weight: float = 0.3
    celltype_weight: float = 0.1
    nonzero_weight: float = 0.0
    l1: float = 0.0
    pretraining: Train = Train(epochs=None, steps=600, lr=1e-3, batch_size=256)
    looping: Train = Train(epochs=None, steps=60, lr=1e-3, batch_size=256)
    linking: Train = Train(epochs=60, lr=1e-2, batch_size=WHOLE)
    training: Train = Train(epochs=None, steps=50, lr=2e-4, batch_size=256)

    cite = "Wang2021"
    inductive = False
    keeps = ("input_", "embedding_", "labels_")
    presets = {
        "paper": PAPER,
        "paper2": PAPER2,
        "dance": PAPER | {"pretrain_epochs": 20, "loop_epochs": 10, "epochs": 20, "iterations": 2},
    }

    @property
    def recipe(self) -> Recipe:
        steps: dict[str, Any] = {"normalize_total": {}} if self.normalize else {}
        steps |= {"log1p": {}, "select_genes": {"n_top": self.n_top_genes, "flavor": self.flavor}}
        return Recipe(filter_genes={"min_counts": 1}, **steps)

    def check(self) -> None:
        super().check()
        if self.version not in (1, 2) or not 0 <= self.hide < 1 or self.iterations < 1 or self.n_neighbors < 1:
            msg = (
                f"version={self.version}, hide={self.hide:g}, iterations={self.iterations}, "
                f"n_neighbors={self.n_neighbors}; version must be 1 or 2, hide at least 0 and below 1, and the others "
                "at least 1."
            )
            raise InputError(msg)
        if self.n_clusters is None:
            package("igraph", extra="leiden", why="Finding the number of clusters (or pass `n_clusters=`)")

    def net(self) -> nn.ModuleList:
        return nn.ModuleList(self._autoencoder() for _ in range(self.n_nets_))

    def _autoencoder(self) -> Autoencoder:
        return Autoencoder(self.n_vars_, self.hidden, self.n_latent, positive=self.loss == "poisson")

    def fit(self, *, cells: Cells) -> Self:
        self.n_vars_ = cells.n_vars
        self.median_depth_ = float(np.median(depth_of(cells)))
        first = self._first(cells)
        source, start, a = self._rounds(cells, first)
        self.input_ = source if isinstance(source, np.ndarray) else np.zeros((0, 0), dtype=np.float32)
        self.notes_ = {"n_clusters": int(self.labels_.max()) + 1, "n_rounds": self.n_rounds_}
        self.net_ = self._copies(start)
        self.n_nets_ = len(self.net_)
        groups, weights = self._groups(), self._weights(a)
        self._learn(self.net_, groups, source, cells, self.training, "training", weights=weights, last=True)
        self._rescale(cells)
        return self

    def rates(self, cells: Cells) -> Rates:
        source: Source = self.input_ if len(self.input_) else cells
        groups, size = self._groups(), self._size(cells)

        def rate(rows: slice) -> np.ndarray:
            logs = self._imputed(self.net_, groups, source, np.arange(rows.start, rows.stop))
            return np.expm1(logs) * self.scale_ * size[rows, None]  # type: ignore[no-any-return]

        return rate

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        return {**super().predict(cells=cells), "embedding": self.embedding_, "clusters": self.labels_}

    # ------------------------------------------------------------------ the stages

    def _first(self, cells: Cells) -> Autoencoder:
        """Train the autoencoder that all others start from."""
        net = self._autoencoder()
        if self.loss == "poisson":
            counts: Any = cells.counts
            total = sum(np.asarray(block.sum(axis=0, dtype=np.float64)).ravel() for _, block in blocks(counts))
            net.start_at(total / self._size(cells).sum(dtype=np.float64))
        nets, groups = nn.ModuleList([net]).to(self.target), np.zeros(cells.n_obs, dtype=np.int32)
        signals = active(cast("Any", cells.part().x)) if self.ltmg else None
        self._learn(nets, groups, cells, cells, self.pretraining, "pretraining", signals=signals)
        return net

    def _rounds(self, cells: Cells, first: Autoencoder) -> tuple[Source, Autoencoder, csr_matrix]:
        """Find links and clusters until these agree with those of the round before.

        Returns what the last networks learn, the one that they start from, and the links.
        """
        from sklearn.metrics import adjusted_rand_score

        one, observed = np.zeros(cells.n_obs, dtype=np.int32), self.learn_from == "observed"
        values: Source = cells if observed else self._array(nn.ModuleList([first]), one, cells)
        begin, coder, before = values, first, None
        for i in range(1, self.iterations + 1):
            if i > 1:
                coder = copy.deepcopy(coder)
                how, nets = self.looping, nn.ModuleList([coder])
                self._learn(nets, one, values, cells, how, f"looping_{i}", hide=0.0)
            z = self._encoded(coder, values, cells.n_obs)
            a = linked(z, self.n_neighbors, random_state=self.random_state)
            self.embedding_ = self._embed(z, a, f"linking_{i}")
            self.labels_, self.n_rounds_ = self._clusters(a), i
            agree = before is not None and adjusted_rand_score(before, self.labels_) >= self.agree
            if agree or i == self.iterations:
                break
            before = self.labels_
            source, start = (cells, first) if observed else (values, coder)
            nets = nn.ModuleList(copy.deepcopy(start) for _ in range(int(before.max()) + 1))
            weights = self._weights(a) if self.version == 2 else None
            self._learn(nets, before, source, cells, self.training, f"clusters_{i}", weights=weights, last=True)
            values = self._array(nets, before, source)
        if observed:
            return cells, first, a
        return (begin, first, a) if self.version == 1 else (values, coder, a)

    def _clusters(self, a: csr_matrix) -> np.ndarray:
        """k-means in the embedding, (n_obs,) codes by size; k as given, or a share of what Louvain finds."""
        n, k = len(self.embedding_), self.n_clusters
        if k is None:
            n_communities = int(louvain(a, random_state=self.random_state).max()) + 1
            k = min(n, round(max(2, n_communities * SHARE_OF_LOUVAIN[n < FEW_CELLS])))
        k = min(k, len(np.unique(self.embedding_, axis=0)))
        labels, _ = kmeans(self.embedding_, k, n_init=STARTS, random_state=self.random_state)
        return by_size(np.minimum(labels, MOST_CLUSTERS - 1))[0]

    def _embed(self, z: np.ndarray, a: csr_matrix, stage: str) -> np.ndarray:
        """Train a graph autoencoder to predict the links; its means, (n_obs, 16)."""
        x = z > z.mean(axis=0) if self.version == 1 else z / max(float(z.std()), 1e-6)
        features, a = torch.from_numpy(x.astype(np.float32)).to(self.target), self_loops(a)
        propagate, links = Sparse(normalize(a), self.target), Sparse(a, self.target).forward
        net = GraphAutoencoder(x.shape[1]).to(self.target)

        def step(_: None) -> Tensor:
            mean, log_sd = net(features, propagate)
            sample = mean + log_sd.exp() * torch.randn_like(mean)
            divergence = -(1 + 2 * log_sd - mean.square() - (2 * log_sd).exp()).sum(dim=1).mean()
            return link_loss(sample, links) + 0.5 / len(mean) * divergence

        self.learn(step, net, self.linking, stage=stage, batches=[None])
        with torch.no_grad():
            return cast("np.ndarray", net(features, propagate)[0].cpu().numpy())

    def _weights(self, a: csr_matrix) -> np.ndarray:
        return cell_weights(a, self.labels_, self.version, self.graph_weight, self.celltype_weight)

    def _learn(
        self,
        nets: nn.ModuleList,
        groups: np.ndarray,
        source: Source,
        cells: Cells,
        how: Train,
        stage: str,
        *,
        weights: np.ndarray | None = None,
        signals: tuple[csr_matrix, np.ndarray] | None = None,
        hide: float | None = None,
        last: bool = False,
    ) -> None:
        """Train a network for each group of cells to reconstruct `source`; `last` adds what only the last ones have."""
        hide = self.hide if hide is None else hide
        in_group, per_cell = np.bincount(groups), None if weights is None else self._tensor(weights)
        size = self._tensor(self._size(cells))[:, None]

        def step(batch: tuple[int, np.ndarray]) -> Tensor:
            group, rows = batch
            target = self._rows(source, rows)
            hidden = torch.rand_like(target) < hide
            shown = torch.where(hidden, 0, target / (1 - hide)) if hide else target
            errors = nets[group].errors(shown, target, size[rows])
            if signals is not None:
                errors = errors * self._tensor(1 - ACTIVE_WEIGHT + ACTIVE_WEIGHT * _active(signals, rows, target))
            errors = (errors * hidden if hide else errors).sum(dim=1)
            loss = errors.sum() if per_cell is None else errors @ per_cell[rows]
            if last and self.version == 2 and self.nonzero_weight:
                seen = self._rows(cells, rows)
                loss = loss + self.nonzero_weight * torch.linalg.vector_norm((nets[group](shown) - seen)[seen > 0])
            if last and self.l1:
                total = sum(parameter.abs().sum() for parameter in nets[group].parameters())
                loss = loss + self.l1 * len(rows) / float(in_group[group]) * total
            return loss / target.numel()

        def look() -> dict[str, Any]:
            self._rescale(cells)
            return self.predict(cells=cells)

        rng = self.rng(stage)
        batches = Groups(groups, how.batch_size, rng)
        self.learn(step, nets, how, stage=stage, batches=batches, look=look if stage == "training" else None, rng=rng)

    # ------------------------------------------------------------------ what networks say

    def _copies(self, net: Autoencoder) -> nn.ModuleList:
        return nn.ModuleList(copy.deepcopy(net) for _ in range(int(self._groups().max()) + 1))

    def _groups(self) -> np.ndarray:
        """Which of the last networks a cell has, (n_obs,)."""
        return self.labels_ if self.version == 2 else np.zeros_like(self.labels_)

    def _rows(self, source: Source, rows: np.ndarray) -> Tensor:
        return self._tensor(source[rows] if isinstance(source, np.ndarray) else source.dense(rows))

    def _tensor(self, x: np.ndarray) -> Tensor:
        return torch.as_tensor(x, dtype=torch.float32, device=self.target)

    def _imputed(self, nets: nn.ModuleList, groups: np.ndarray, source: Source, rows: np.ndarray) -> np.ndarray:
        """Reconstruction of some cells by the networks of their groups, (n, n_vars)."""
        out, x = np.empty((len(rows), self.n_vars_), dtype=np.float32), self._rows(source, rows)
        with torch.no_grad():
            for group in np.unique(groups[rows]):
                here = np.flatnonzero(groups[rows] == group)
                out[here] = nets[group](x[here]).cpu().numpy()
        return out

    def _array(self, nets: nn.ModuleList, groups: np.ndarray, source: Source) -> np.ndarray:
        """Reconstruction of all cells."""
        out = np.empty((len(groups), self.n_vars_), dtype=np.float32)
        for rows in _blocks(len(groups)):
            out[rows] = self._imputed(nets, groups, source, rows)
        return out

    def _encoded(self, net: Autoencoder, source: Source, n: int) -> np.ndarray:
        """Narrow layer of all cells, (n_obs, n_latent)."""
        with torch.no_grad():
            return np.concatenate([net.encoder(self._rows(source, rows)).cpu().numpy() for rows in _blocks(n)])

    def _size(self, cells: Cells) -> np.ndarray:
        """By what an estimate is to be multiplied for the depth of each cell, (n_obs,)."""
        depth = depth_of(cells)
        return (depth / self.median_depth_ if self.normalize else np.ones_like(depth)).astype(np.float32)

    def _rescale(self, cells: Cells) -> None:
        """Factor of each gene, (n_vars,), with which its estimates sum to its counts: Duan's smearing."""
        self.scale_ = np.ones(self.n_vars_, dtype=np.float32)
        rates, counts = self.rates(cells), cast("Any", cells.counts)
        seen, expected = np.zeros(self.n_vars_), np.zeros(self.n_vars_)
        for rows in _blocks(cells.n_obs):
            seen += np.asarray(counts[rows].sum(axis=0, dtype=np.float64)).ravel()
            expected += rates(slice(rows[0], rows[-1] + 1)).sum(axis=0, dtype=np.float64)
        self.scale_ = np.divide(seen, expected, out=np.ones_like(seen), where=expected > 0).astype(np.float32)


def _blocks(n: int) -> list[np.ndarray]:
    return [np.arange(start, min(start + ROWS, n)) for start in range(0, n, ROWS)]


def _active(signals: tuple[csr_matrix, np.ndarray], rows: np.ndarray, x: Tensor) -> Any:
    """Which entries of some cells the mixtures take for active, (n, n_vars), 0 or 1."""
    flags, of_zeros = signals
    return flags[rows].toarray() + (x.cpu().numpy() == 0) * of_zeros
