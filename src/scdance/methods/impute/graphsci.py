"""A graph of genes that weighs what a count network sees of each cell."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, cast

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch.nn import functional

from scdance._checks import InputError, warn
from scdance._core.cells import Cells
from scdance.graph import Sparse, csr_tensor, gene_graph, normalize, self_loops
from scdance.nn import CountHead, Dense
from scdance.pp import PCA, project
from scdance.train import Batches, Train

from ._count_net import CountImputer

MOST_GENES = {True: 6000, False: 2000}  # with weights on edges only, and for all pairs
MOST_LOG_SD = 2.0  # of the gates: beyond, their noise would drown any signal
START = (1.0, -2.0)  # mean and log standard deviation of the gates before training: open, with little noise
SAMPLE = 200  # genes on either side of the pairs that stand for all
PAPER = {
    "hidden": (16, 32),
    "dropout": 0.2,
    "n_components": None,
    "edges_only": False,
    "link_weight": 1.0,
    "kl_weight": 1.0,
    "n_parts": 1,
    "shown": (1.0, 1.0),
    "likelihood": "zinb",
    "theta": "entry",
    "start_at_mean": False,
    "slow_down": False,
    "batch_size": 1_000_000,
    "epochs": 100,
    "lr": 0.01,
}


class GraphSCI(CountImputer):
    """Impute with a graph of correlated genes that weighs the input of a count autoencoder [Rao2021]_.

    On held-out molecules it is behind the mean of the nearest neighbours, ``"knn"``; on entries that were set to zero
    it is ahead of it.

    A graph network on genes linked by correlation learns a gate for each pair of genes, with noise as in a
    variational autoencoder. In the first layer of a second network, which predicts the counts of each cell, every gene
    hears its neighbours in the graph, each by a weight times its gate. Both are trained together: the gates also
    have to reconstruct the graph.

    When to use
    -----------
    Where modules of genes that vary together are what is wanted: the graph says which genes speak for which.

    When not
    --------
    For the best prediction of counts ``"dca"``, which has no graph, is faster and at least as good. On shallow data few
    genes correlate, and little is left of the graph; a smaller `threshold` links more.

    Differs from the paper
    ----------------------
    Weights and gates exist on the edges of the graph and the diagonal only, and the loss of the gates is estimated
    from random pairs of genes, which makes it cheap; ``edges_only=False`` has all pairs. Genes are described by
    principal components instead of by their expression in each cell; counts are predicted from genes other than
    themselves, as in ``"dca"``, by a negative binomial without zero inflation, and in batches of cells. The squared
    error of counts, of little weight in the paper's loss, is left out. ``preset="paper"`` has the published numbers,
    but for a learning rate that falls. The log standard deviation of the gates has weights of its own.

    Parameters
    ----------
    threshold
        Smallest absolute correlation of log-normalised expression that links two genes.
    hidden
        Widths of the two hidden layers, both of the graph network and of the network of counts.
    dropout
        Share of the units of the hidden layers that is left out in training.
    n_components
        Principal components that describe each gene to the graph network; None: its expression in all cells.
    edges_only
        Weigh only linked genes and each gene itself; False: all pairs, for at most 2,000 genes.
    link_weight
        Weight of the reconstruction of the graph in the loss.
    kl_weight
        Weight of the divergence of the gates from a standard normal distribution in the loss.
    """

    n_top_genes: int | None = 2000
    threshold: float = 0.3
    hidden: tuple[int, int] = (128, 64)
    dropout: float = 0.0
    n_components: int | None = 256
    edges_only: bool = True
    link_weight: float = 1e-2
    kl_weight: float = 1e-2
    training: Train = Train(epochs=None, steps=1200, lr=3e-3, batch_size=128, clip=5.0)

    cite = "Rao2021"
    presets = {"paper": PAPER}

    def check(self) -> None:
        super().check()
        if not 0 <= self.dropout < 1:
            msg = f"dropout={self.dropout:g}, but it must be at least 0 and below 1."
            raise InputError(msg)

    def net(self) -> nn.Module:
        links = sp.csr_matrix(
            (np.ones(self.links_.shape[1], dtype=np.float32), tuple(self.links_)), shape=(self.n_vars_, self.n_vars_)
        )
        gates = _Gates(links, self.n_features_, self.hidden, edges_only=self.edges_only)
        return _GraphNet(gates, self.hidden, self.likelihood, self.theta, self.n_batches_, self.dropout)

    def first_net(self, cells: Cells) -> nn.Module:
        """Link the genes and describe them."""
        most = MOST_GENES[self.edges_only]
        if cells.n_vars > most:
            msg = (
                f"{cells.n_vars} genes, but with edges_only={self.edges_only} graphsci takes at most {most}. "
                f"Pass a smaller `n_top_genes` (now {self.n_top_genes})."
            )
            raise InputError(msg)
        graph = gene_graph(self._logs(cells), self.threshold)
        if graph.nnz == 0:
            warn(
                f"No two of the {cells.n_vars} genes correlate by {self.threshold:g} or more: no graph is left. "
                "Pass a smaller `threshold`."
            )
        self.links_ = np.stack(self_loops(graph).nonzero()).astype(np.int32)
        features = self._features(cells)
        self.n_features_ = features.shape[1]
        net = cast("_GraphNet", self.net())
        net.gates.describe(torch.from_numpy(features))
        return net

    def further_loss(self) -> Tensor:
        return cast("Tensor", self.net_.gates.loss(self.link_weight, self.kl_weight))

    def _logs(self, cells: Cells) -> sp.csr_matrix:
        """Log-normalised expression, (n_obs, n_vars) CSR."""
        counts, depth = cast("Any", cells.part().counts).copy(), cast("np.ndarray", cells.depth)
        counts.data = np.log1p(counts.data * np.repeat(self.median_depth_ / depth, np.diff(counts.indptr)))
        return cast("sp.csr_matrix", counts.astype(np.float32))

    def _features(self, cells: Cells) -> np.ndarray:
        """What describes each gene, (n_vars, n_components or n_obs) float32, of mean square 1."""
        size = self._size(cells)

        def blocks() -> Any:
            for batch in Batches(cells, 1024, device=self.target):
                yield self.expression(batch.x, size[batch.rows]).cpu().numpy()

        if self.n_components is None:
            found = np.concatenate(list(blocks())).T
        else:
            pca = PCA(self.n_components, random_state=self.random_state).fit(blocks, (cells.n_obs, cells.n_vars))
            found = pca.components_.T * np.linalg.norm(project(blocks(), pca.mean_, pca.components_), axis=0)
        return (found / max(float(np.sqrt(np.mean(found**2))), 1e-12)).astype(np.float32)


class _Gates(nn.Module):
    """The variational graph network: a gate for pairs of genes, and what it is taught.

    Parameters
    ----------
    links
        The graph with its diagonal, (n_vars, n_vars).
    n_features
        Numbers that describe a gene.
    hidden
        Widths of the two layers.
    edges_only
        Whether gates, and the weights beside them, exist on edges only.
    """

    def __init__(self, links: sp.csr_matrix, n_features: int, hidden: tuple[int, int], *, edges_only: bool) -> None:
        super().__init__()
        self.n_vars, self.edges_only = links.shape[0], edges_only
        self.around = Sparse(normalize(links))
        first, second = hidden
        self.first, self.second = nn.Linear(n_features, first, bias=False), nn.Linear(first, second, bias=False)
        self.mean, self.log_sd = nn.Linear(second, self.n_vars), nn.Linear(second, self.n_vars)
        nn.init.constant_(self.mean.bias, START[0])
        nn.init.constant_(self.log_sd.bias, START[1])
        rows, columns = (torch.from_numpy(each.astype(np.int64)) for each in links.nonzero())
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        self.register_buffer("starts", torch.from_numpy(links.indptr.astype(np.int64)), persistent=False)
        self.register_buffer("features", torch.zeros(self.n_vars, n_features))
        n_heard = len(rows) / self.n_vars if edges_only else self.n_vars
        spread = float(np.sqrt(3 / n_heard))  # variance of what is heard is that of the input
        shape = (len(rows),) if edges_only else (self.n_vars, self.n_vars)
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-spread, spread))

    def describe(self, features: Tensor) -> None:
        """Set what describes each gene, (n_vars, n_features)."""
        self.features.copy_(self.around @ features.to(self.features))

    def forward(self, x: Tensor) -> Tensor:
        """What each gene hears, (n_obs, n_vars), of standardised expression."""
        h = self.nodes()
        mean, log_sd = self.on_edges(h) if self.edges_only else (self.mean(h), self.log_sd(h))
        gates = _drawn(mean, log_sd) if self.training else mean
        if self.training:
            self.recent = _Drawn(h, mean, log_sd, gates)
        if self.edges_only:
            return _Heard.apply(self.weight * gates, x, self)  # type: ignore[no-any-return]
        return x @ (self.weight * gates).T

    def nodes(self) -> Tensor:
        """The last hidden layer, averaged over neighbours, (n_vars, width)."""
        h = torch.tanh(self.first(self.features))
        return self.around @ functional.relu(self.around @ self.second(h))

    def on_edges(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of the gates on the edges, (n_edges,) each."""
        here = h.index_select(0, self.rows)
        mean, log_sd = (
            (here * layer.weight.index_select(0, self.columns)).sum(dim=1) + layer.bias.index_select(0, self.columns)
            for layer in (self.mean, self.log_sd)
        )
        return mean, log_sd

    def loss(self, link_weight: float, kl_weight: float) -> Tensor:
        """Weighted cross-entropy of the graph and divergence of the gates, of the gates that were drawn last.

        Both are sums over all pairs of genes, and one over the edges. Where gates are on edges only, the former are
        estimated, without bias, from all pairs of some random genes with some others.
        """
        h, mean, log_sd, gates = self.recent
        n, n_links, on_links, anywhere = self.n_vars, len(self.rows), gates, gates
        if self.edges_only:
            some, others = (torch.randperm(n, device=h.device)[:SAMPLE] for _ in range(2))
            mean, log_sd = (
                functional.linear(
                    h.index_select(0, some), layer.weight.index_select(0, others), layer.bias.index_select(0, others)
                )
                for layer in (self.mean, self.log_sd)
            )
            anywhere = _drawn(mean, log_sd)
        else:
            on_links = gates[self.rows, self.columns]
        n_other = max(n**2 - n_links, 1)
        links = (n_other / n_links * functional.softplus(-on_links) - functional.softplus(on_links)).sum() / n**2
        links = n**2 / (2 * n_other) * (links + functional.softplus(anywhere).mean())
        log_sd = log_sd.clamp(max=MOST_LOG_SD)
        divergence = -0.5 * (1 + 2 * log_sd - mean.square() - (2 * log_sd).exp()).mean()
        return link_weight * links + kl_weight * divergence


class _Drawn(NamedTuple):
    """Gates of one step: the nodes they come from, their moments, and their values with noise."""

    nodes: Tensor
    mean: Tensor
    log_sd: Tensor
    gates: Tensor


def _drawn(mean: Tensor, log_sd: Tensor) -> Tensor:
    """Gates with noise around their mean."""
    return mean + torch.randn_like(mean) * log_sd.clamp(max=MOST_LOG_SD).exp()


class _Heard(torch.autograd.Function):
    """Product of expression with a sparse matrix whose values are learnt."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, x: Tensor, gates: Any) -> Tensor:
        across = x.T.contiguous()
        ctx.save_for_backward(across)
        ctx.gates = gates
        matrix = csr_tensor(gates.starts, gates.columns, values, (gates.n_vars, gates.n_vars))
        return (matrix @ across).T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (across,) = ctx.saved_tensors
        gradient = gradient.T.contiguous()
        return (gradient[ctx.gates.rows] * across[ctx.gates.columns]).sum(dim=1), None, None


class _GraphNet(nn.Module):
    """From standardised expression through the gates to the distribution of counts."""

    def __init__(
        self,
        gates: _Gates,
        hidden: tuple[int, int],
        likelihood: Literal["nb", "zinb"],
        theta: Literal["gene", "entry"],
        n_batches: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.gates = gates
        self.bias = nn.Parameter(torch.zeros(gates.n_vars))
        self.dense = Dense([gates.n_vars, *hidden], batch_norm=True, dropout=dropout, n_covariates=n_batches)
        self.head = CountHead(hidden[-1], gates.n_vars, likelihood=likelihood, dispersion=theta)

    def hidden(self, x: Tensor, batch: Tensor | None) -> Tensor:
        """The last hidden layer, (n_obs, width)."""
        return self.dense(functional.relu(self.gates(x) + self.bias), batch)  # type: ignore[no-any-return]
