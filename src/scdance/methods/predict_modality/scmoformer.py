"""scMoFormer: transformers of cells, genes and proteins, which tell each other what they are."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from scdance._checks import InputError, warn, whole_number
from scdance._core.cells import Cells, Pair
from scdance.graph import Sparse, laplacian_positions, walk_positions
from scdance.pp import Recipe, canonical
from scdance.train import Train, components, recipes_to_reduce, scores, slices

from ._facts import sparse
from ._torch_predictor import TorchPredictor
from ._transformers import Known, Links, Net, Seen

JUDGES = 2048  # cells, at most, that are heard while validation errors are taken

PAPER = {
    "shrink": False,
    "hidden": 512,
    "n_layers": 3,
    "head_width": 64,
    "dropout": 0.5,
    "n_top_genes": None,
    "gene_init": "sum",
    "valid_by": "cells",
    "batch_size": 10_000,
    "epochs": 5000,
    "lr": 1e-3,
    "weight_decay": 1e-5,
    "patience": 40,
}
CITE = PAPER | {"batch_size": 3000, "weight_decay": 1e-6, "valid_share": 0.2}


class ScMoFormer(TorchPredictor):
    """Predict proteins by transformers of cells, genes and proteins that send each other messages [Tang2023]_.

    Cells start from their singular vectors, genes from the mean of those of the cells that express them, proteins from
    a learnt state. In each layer all nodes of a kind attend to each other, in linear time by random features
    [Choromanski2021]_; cells and genes hear each other along the values of the genes in the cells; and, with a prior,
    genes and proteins hear those that they are known to go with and start from where they lie among them. The states
    of a cell before and after all layers are mapped to the target. Training takes batches of cells; at its end what
    genes say to cells, and cells to each other, having heard all cells that teach, is stored, and a new cell needs
    nothing else.

    When to use
    -----------
    To predict proteins from RNA as well as may be, from a thousand paired cells on, or to let what is known of genes
    and proteins enter as a prior.

    When not
    --------
    In a hurry, or where the source says little of the target, as chromatin does of RNA: a net on singular vectors, or
    ``"kernel_ridge"``, tells as much in a fraction of the time.

    Differs from the paper
    ----------------------
    Singular vectors are learnt from the cells that teach, and cells attend to those alone, whose sums over keys and
    values are kept: in the paper the cells that are asked take part in both, so that answers hang on the cells asked
    together. Batches of cells are drawn anew in each epoch, and there is no schedule of the rate of learning. Cells
    and genes have the same block, normalised after each step. States that nothing hears are not computed: those of
    genes after the last layer, of proteins after the last but one, and of proteins without a prior. Answers start at
    the mean of each feature. By default states are smaller and the layers two, which for 10,000 cells makes minutes
    of hours; only the 4,000 genes with the largest deviance are read; genes start from means, where sums, which the
    presets have, grow with the number of cells.

    Parameters
    ----------
    hidden
        Width of the states of all nodes.
    n_layers
        Rounds of attention and messages.
    n_components
        Components of the truncated singular value decomposition of the source.
    heads, head_width
        Heads of the attention, and numbers per head.
    n_random
        Random features per head; None: head_width · ln(head_width).
    dropout
        Part of the units, and of the edges between cells and genes, that is dropped in training, in [0, 1).
    attention_dropout
        Part of what attention says that is dropped in training, in [0, 1).
    gene_init
        A gene starts from the sum over cells of value times singular vectors ("sum"), or from that over the number of
        cells that express it ("mean").
    positions
        Where a feature lies among its known links: eigenvectors of the Laplacian ("laplacian"), whose signs are drawn
        anew in each step of training; how likely a random walk comes back ("walk"); or nothing ("none").
    n_positions
        Numbers that say so.
    n_top_genes, n_top_peaks
        Genes or peaks of the source with the largest deviance that are kept; None: all.
    """

    hidden: int = 128
    n_layers: int = 2
    n_components: int = 128
    heads: int = 8
    head_width: int = 16
    n_random: int | None = None
    dropout: float = 0.2
    attention_dropout: float = 0.1
    gene_init: Literal["mean", "sum"] = "mean"
    positions: Literal["laplacian", "walk", "none"] = "laplacian"
    n_positions: int = 10
    n_top_genes: int | None = 4000
    n_top_peaks: int | None = 4000
    training: Train = Train(epochs=60, lr=1e-3, batch_size=512, weight_decay=1e-5, patience=8, optimizer="adamw")

    cite = "Tang2023"
    uses = ("batch", "prior")  # type: ignore[assignment]
    presets = {"paper": PAPER, "dance": CITE, "cite": CITE}

    @property
    def recipe(self) -> dict[str, Recipe]:  # type: ignore[override]
        return recipes_to_reduce(self.n_top_genes, self.n_top_peaks)

    def check(self) -> None:
        super().check()
        for name in ("hidden", "n_layers", "n_components", "heads", "head_width", "n_positions"):
            whole_number(getattr(self, name), name, least=1)
        if self.n_random is not None:
            whole_number(self.n_random, "n_random", least=1)
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                msg = f"{name}={getattr(self, name)!r}, but it must be at least 0 and below 1."
                raise InputError(msg)

    def prepare(self, pair: Pair, rows: np.ndarray) -> None:
        source, here = pair.source, rows[:, 0]
        self.loadings_ = components(source, here, self.n_components, random_state=self.random_state)
        z = scores(source, here, self.loadings_)
        # one scale for all, so that components keep their weight
        self.scaling_ = {"mean": z.mean(axis=0), "sd": np.maximum(z.std(axis=0).mean(), 1e-6)}
        self.is_linked_ = pair.prior is not None and pair.prior.nnz > 0
        if pair.prior is not None and not self.is_linked_:
            warn("The prior links no two features, and so has no effect.")

    def one_net(self) -> nn.Module:
        return Net(
            n_vars=self.loadings_.shape[1],
            n_scores=len(self.loadings_),
            n_out=self.n_features,
            hidden=self.hidden,
            n_layers=self.n_layers,
            heads=self.heads,
            head_width=self.head_width,
            n_random=self.n_random,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            n_positions=self.n_positions if self.positions != "none" else 0,
            is_linked=self.is_linked_,
        )

    def seen(self, source: Cells, rows: Any) -> Seen:
        x = sparse(source, rows)
        z = self.tensor((x @ self.loadings_.T - self.scaling_["mean"]) / self.scaling_["sd"])
        of_cells, of_genes = (self.tensor(x.getnnz(axis)[:, None]) for axis in (1, 0))
        return Seen(Sparse(x, self.target), of_cells, of_genes, z)

    def say(self, net: Any, x: Seen) -> Tensor:
        return net.recall(x) + self.tensor(self.features_["mean"])  # type: ignore[no-any-return]

    def train_one(self, net: Any, pair: Pair, rows: np.ndarray, valid: np.ndarray, stage: str) -> None:
        source, here = pair.source, rows[:, 0]
        known = Known(self.tensor(self.genes(source, here)), self.links(pair))
        mean = self.tensor(self.features_["mean"])
        speakers = np.sort(self.rng(f"{stage} judges").permutation(here)[:JUDGES])
        some = [self.seen(source, speakers[at]) for at in slices(len(speakers))]
        batches = self.batches(pair, rows, self.training.batch_size, stage)

        def step(batch: tuple[Seen, Tensor]) -> Tensor:
            seen, y = batch
            if self.dropout:
                seen = seen._replace(edges=seen.edges.dropout(self.dropout))
            return functional.mse_loss(net(seen, known) + mean, y)

        def judge() -> float:
            net.listen(lambda: some, known)
            return self.rmse(net, pair, valid)

        net.train()
        knobs: dict[str, Any] = {"valid": judge} if len(valid) else {}
        self.learn(step, net, self.training, stage=stage, batches=batches, rng=batches.rng, **knobs)
        net.listen(lambda: (self.seen(source, here[at]) for at in slices(len(here))), known)

    def genes(self, source: Cells, rows: np.ndarray) -> np.ndarray:
        """What each feature of the source is before the first message, (n_vars, n_components)."""
        total, n = np.zeros((source.n_vars, len(self.loadings_))), np.zeros((source.n_vars, 1))
        for at in slices(len(rows)):
            x = sparse(source, rows[at])
            total += x.T @ ((x @ self.loadings_.T - self.scaling_["mean"]) / self.scaling_["sd"])
            n[:, 0] += x.getnnz(axis=0)
        if self.gene_init == "sum":
            return total
        means = total / np.maximum(n, 1)
        return means / max(means.std(), 1e-6)  # type: ignore[no-any-return]

    def links(self, pair: Pair) -> Links | None:
        """What is known of the features; a node hears the mean over its links."""
        if not self.is_linked_ or pair.prior is None:
            return None
        n = pair.source.n_vars
        genes, proteins, between = pair.prior[:n, :n], pair.prior[n:, n:], pair.prior[:n, n:]
        return Links(
            genes=self.means(genes),
            proteins=self.means(proteins),
            to_genes=self.means(between),
            to_proteins=self.means(between.T),
            of_genes=self.places(genes),
            of_proteins=self.places(proteins),
            flips=self.positions == "laplacian",
        )

    def places(self, a: Any) -> Tensor | None:
        """Where each node lies in a graph, (n, n_positions)."""
        if self.positions == "none":
            return None
        if self.positions == "walk":
            return self.tensor(walk_positions(a, self.n_positions))
        # an eigenvector has length 1: by the root of the number of nodes its entries are of size 1
        return self.tensor(laplacian_positions(a, self.n_positions) * np.sqrt(a.shape[0]))

    def means(self, a: Any) -> Sparse:
        """What makes of states the mean over links, times their weights."""
        a = canonical(a).copy()
        degrees = np.diff(a.indptr)
        a.data /= np.repeat(degrees, degrees)
        return Sparse(a, self.target)
