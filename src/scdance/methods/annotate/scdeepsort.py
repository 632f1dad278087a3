"""One graph layer from genes to cells, with a weight for each gene, and a classifier on top."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy import sparse as sp
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from scdance._checks import InputError
from scdance._core.cells import Cells
from scdance.graph import Sparse
from scdance.pp import blocks
from scdance.train import TorchMethod, Train, split

from ._annotator import Annotator
from ._genes import gene_features, shares

VALID_SHARE = 0.2  # of the cells, held out where training may stop early
CONSTANT = 1e-6  # standard deviation below which a feature of the cells is left out
ROWS = 1024  # cells that are predicted, or made dense, at once
PAPER = {
    "n_top_genes": None,
    "n_components": 400,
    "lr": 1e-3,
    "standardize": False,
    "exclude_rate": 0.005,
    "epochs": 300,
    "batch_size": 500,
    "patience": 30,
    "weight_decay": 1e-6,  # 5e-4 beside the sum of the loss over 500 cells is this beside its mean
}


class ScDeepSort(Annotator, TorchMethod):
    """Annotate by a graph neural network on cells and the genes that they express [Shao2021]_.

    A gene is described by principal components over the cells of the reference, a cell by the mean of its genes'. The
    network gives each gene a weight of its own, averages the genes of a cell and the cell itself by expression, and
    maps this mean to the types by one hidden layer. New cells bring their edges; genes stay as they were learnt.

    When to use
    -----------
    For references of many cells, where types differ by programmes of many genes; training is cheap, also on a CPU.

    When not
    --------
    For types that one or two genes tell apart: they drown in the mean. ``"celltypist"`` and ``"actinn"`` see each gene.

    Differs from the paper
    ----------------------
    The genes that best tell the types apart are used instead of all, the components are standardised over the cells of
    the reference, and dropout acts on the mean rather than on each gene. There is one layer, in which genes are not
    updated, so a cell's prediction does not depend on the other cells. The paper's "unsure", a best probability below
    2 over the number of types, is ``reject=2 / n_types``. ``preset="paper"`` has its genes, numbers and stopping, by
    the loss instead of the accuracy of the cells that are held out.

    Parameters
    ----------
    n_components
        Principal components that describe a gene.
    standardize
        Whether the components are brought to mean 0 and variance 1 over the cells of the reference.
    hidden
        Width of the hidden layer.
    dropout
        Share of the averaged features that is dropped in training, in [0, 1).
    exclude_rate
        Types with at most this share of the reference are not learnt, in [0, 1).
    training
        the network; with a patience, a fifth of the cells is held out to judge
    """

    n_components: int = 100
    standardize: bool = True
    hidden: int = 200
    dropout: float = 0.1
    exclude_rate: float = 0.0
    training: Train = Train(epochs=None, steps=150, lr=3e-3, batch_size=500)

    cite = "Shao2021"
    skips_missing = False
    presets = {"paper": PAPER, "dance": {**PAPER, "exclude_rate": 0.0, "patience": None}}

    def check(self) -> None:
        super().check()
        for name in ("dropout", "exclude_rate"):
            if not 0 <= getattr(self, name) < 1:
                msg = f"{name}={getattr(self, name)!r}, but it must be at least 0 and below 1."
                raise InputError(msg)

    def net(self) -> nn.Module:
        return _Net(*self.gene_features_.shape, self.hidden, len(self.learnt_), self.dropout)

    def teach(self, cells: Cells, *, stage: str) -> None:
        self.learnt_ = np.bincount(cells.labels, minlength=len(cells.categories)) > self.exclude_rate * cells.n_obs
        if self.learnt_.sum() < 2:
            msg = (
                f"exclude_rate={self.exclude_rate!r} leaves {self.learnt_.sum()} of the {len(self.learnt_)} types to "
                "learn, but it takes two; pass a smaller one."
            )
            raise InputError(msg)
        rows = np.flatnonzero(self.learnt_[cells.labels])
        self.gene_features_ = gene_features(cells, self.n_components, self.random_state)
        itself = self._scale(cells)
        self.net_ = self.net().to(self.target)
        labels, rng, valid = torch.from_numpy(cells.labels.astype(np.int64)).to(self.target), self.rng(stage), None
        if self.training.patience is not None:
            kept, held = split(len(rows), VALID_SHARE, rng)
            rows, judges = rows[kept], rows[held]

            def valid() -> float:
                return float(cross_entropy(self._scores(cells.x[judges], itself[judges]), labels[judges]))

        def step(some: np.ndarray) -> Tensor:
            return cross_entropy(self._scores(cells.x[some], itself[some]), labels[some])

        batches = _Rows(rows, self.training.batch_size, rng)
        self.learn(step, self.net_, self.training, stage=stage, batches=batches, valid=valid, rng=rng)

    def logits(self, cells: Cells) -> np.ndarray:
        with torch.no_grad():
            parts = [self._scores(block, self._itself(block)).cpu().numpy() for _, block in blocks(cells.x, ROWS)]
        scores = np.concatenate(parts)
        return np.where(self.learnt_, scores, scores.min(axis=1, keepdims=True))

    def _scores(self, x: sp.csr_matrix, itself: np.ndarray) -> Tensor:
        """Scores of the types for some cells with their own features, (n_obs, n_types)."""
        features = torch.from_numpy(self.gene_features_).to(self.target)
        offset = torch.from_numpy(self.offset_).to(self.target)
        share, n_edges = shares(x)
        to_cells = Sparse(sp.diags(n_edges / (1 + n_edges)) @ share, self.target)
        own = torch.from_numpy(itself / (1 + n_edges)[:, None]).to(self.target)
        return self.net_(to_cells, own, features, offset)

    def _itself(self, block: sp.csr_matrix) -> np.ndarray:
        """Features of the cells: the mean of their genes', by expression, (n_obs, n_components)."""
        return shares(block)[0] @ self.gene_features_

    def _scale(self, cells: Cells) -> np.ndarray:
        """Bring the features of genes to a scale at which those of the cells vary by 1; return the latter."""
        itself = np.concatenate([self._itself(block) for _, block in blocks(cells.x)])
        mean, sd = itself.mean(axis=0, dtype=np.float64), itself.std(axis=0, dtype=np.float64)
        if self.standardize:
            factor = np.divide(1, sd, out=np.zeros_like(sd), where=sd > CONSTANT * max(sd.max(), CONSTANT))
        else:  # the components of genes grow with the number of cells; the network shall not
            factor = np.full_like(sd, 1 / max(np.sqrt((sd**2 + mean**2).mean()), CONSTANT))
        self.gene_features_ = (self.gene_features_ * factor).astype(np.float32)
        self.offset_ = (mean * factor * self.standardize).astype(np.float32)
        return itself * factor.astype(np.float32)


class _Net(nn.Module):
    """A weight for each gene and one for the cell itself; their mean; a hidden layer; the scores of the types."""

    def __init__(self, n_genes: int, n_components: int, hidden: int, n_types: int, p: float) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(n_genes))
        self.alpha = nn.Parameter(torch.ones(()))
        self.head = nn.Sequential(nn.Dropout(p), nn.Linear(n_components, hidden), nn.ReLU(), nn.Linear(hidden, n_types))
        for layer in (self.head[1], self.head[3]):
            nn.init.xavier_uniform_(layer.weight, gain=nn.init.calculate_gain("relu"))
            nn.init.zeros_(layer.bias)

    def forward(self, to_cells: Sparse, itself: Tensor, features: Tensor, offset: Tensor) -> Tensor:
        mean = self.alpha * itself + to_cells @ (self.beta[:, None] * features)  # eq. 13 of the paper
        return self.head(mean - offset)


class _Rows:
    """Batches that are positions of cells, shuffled anew for each pass."""

    def __init__(self, rows: np.ndarray, size: int, rng: np.random.Generator) -> None:
        self.rows, self.size, self.rng = rows, size, rng

    def __len__(self) -> int:
        return max(1, len(self.rows) // self.size)

    def __iter__(self) -> Iterator[np.ndarray]:
        yield from np.array_split(self.rng.permutation(self.rows), len(self))
