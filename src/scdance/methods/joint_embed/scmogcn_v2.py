"""Cells and singular vectors of both modalities as one graph, and a decoder that knows the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from scdance._checks import InputError, whole_number
from scdance._core.cells import Pair
from scdance.nn import CellFeatureNet, CellGraph, Dense, known_cross_entropy
from scdance.train import Train, slices, target_of

from ._joint import ROLES, Told
from ._slots import CellCycle

GROUPS = CellFeatureNet.groups
PUBLISHED = {
    "classify": 1.0,
    "hidden": 56,
    "dropout": 0.4,
    "lr": 1e-2,
    "batch_size": 5000,
    "epochs": 1000,
    "patience": 20,
}


class ScMoGCNV2(CellCycle):
    """Let cells and singular vectors of both modalities tell each other what they are, end to end [Wen2022]_.

    The scores of both modalities are the weights of one graph between cells and singular vectors. In each layer a cell
    hears the weighted mean of what the vectors say, and the vectors that of the cells; what a cell has become is its
    place. A decoder restores both modalities from it and from the batch of the cell, so that the place need not tell
    the batch. Where types or the cell cycle are known, a part of the place is to foretell them. What the vectors said
    at last is stored, so that new cells are placed without the others.

    When to use
    -----------
    Batches that differ, which are named (`batch_key=`); types of some cells that are known.

    When not
    --------
    To judge a space by the labels that shaped it: score cells that had none. One batch and no labels: ``"svd_concat"``
    is cheaper.

    Differs from the paper
    ----------------------
    DANCE alone has this version. All latent dimensions are used, where the code left half of them to nothing; it
    starts from random weights, where the code loads trained ones; all vectors take part in each batch, and a batch that
    was not seen is decoded as the average one.

    Parameters
    ----------
    hidden
        Width of the states of all nodes, a multiple of 4 from 16 on.
    n_layers
        Rounds of messages.
    dropout
        Part of the units of each state that is dropped in training, in [0, 1).
    n_biology
        Latent dimensions from which types and cell cycle are foretold.
    n_free
        The others.
    restore
        Width of the hidden layer of the decoder.
    classify, cycle
        Weights of the cross-entropy of the types, and of the squared error of the scores of the cell cycle.
    """

    hidden: int = 64
    n_layers: int = 3
    dropout: float = 0.2
    n_biology: int = 20
    n_free: int = 9
    restore: int = 150
    classify: float = 0.2
    cycle: float = 1.0
    training: Train = Train(
        epochs=None, steps=3000, lr=3e-3, batch_size=128, patience=30, weight_decay=1e-3, optimizer="adamw"
    )

    cite = "Wen2022"
    uses = ("batch", "labels")
    presets = {"dance": PUBLISHED | {"n_source": 256, "n_target": 512}}

    def check(self) -> None:
        super().check()
        for name in ("n_layers", "n_biology", "n_free", "restore"):
            whole_number(getattr(self, name), name, least=1)
        inside = {
            "hidden": (self.hidden >= 4 * GROUPS and self.hidden % GROUPS == 0, f"a multiple of {GROUPS}, at least 16"),
            "dropout": (0 <= self.dropout < 1, "at least 0 and below 1"),
            "classify": (self.classify >= 0, "at least 0"),
        }
        for name, (fits, text) in inside.items():
            if not fits:
                msg = f"{name}={getattr(self, name)!r}, but it must be {text}."
                raise InputError(msg)

    def net(self) -> nn.Module:
        return _Net(self, {role: len(loadings) for role, loadings in self.loadings_.items()})

    def place(self, x: Tensor, y: Tensor) -> Tensor:
        return self.net_.graph.recall(of_graph(x, y))  # type: ignore[no-any-return]

    def teach(self, pair: Pair, rows: np.ndarray, valid: np.ndarray) -> None:
        net, n = self.net_, len(self.loadings_["source"])

        def step(batch: tuple[tuple[Tensor, Told], Tensor]) -> Tensor:
            (x, told), y = batch
            seen = of_graph(x, y)
            z = net.graph(seen)
            off = (net.decoder(z, told.batch) - seen.edges).square()
            loss = 0.5 * off[:, :n].mean() + 0.5 * off[:, n:].mean()
            if net.types is not None and told.labels is not None and net.training:  # as in the others
                loss = loss + self.classify * known_cross_entropy(net.types(z[:, : self.n_biology]), told.labels)
            if net.phases is not None and told.cycle is not None:
                loss = loss + self.cycle * functional.mse_loss(net.phases(z[:, : self.n_biology]), told.cycle)
            return loss  # type: ignore[no-any-return]

        self.run(step, self.batches(pair, rows, self.training.batch_size, self._phases), valid)
        x, y = (self.reader(cells, role) for role, cells in zip(ROLES, (pair.source, target_of(pair)), strict=True))
        at = [rows[here] for here in slices(len(rows))]
        net.graph.listen(lambda: (of_graph(x(each[:, 0]), y(each[:, 1])) for each in at))


def of_graph(x: Tensor, y: Tensor) -> CellGraph:
    """Cells and all vectors, each linked with each."""
    edges = torch.cat([x, y], dim=1)
    n, n_vars = edges.shape
    return CellGraph(edges, edges.new_full((n, 1), n_vars), edges.new_full((n_vars, 1), n))


class _Net(nn.Module):
    """The graph, the decoder, and the heads of what is known."""

    def __init__(self, model: ScMoGCNV2, widths: dict[str, int]) -> None:
        super().__init__()
        n_vars, n_latent = sum(widths.values()), model.n_biology + model.n_free
        self.graph = CellFeatureNet(
            n_vars=n_vars, n_out=n_latent, hidden=model.hidden, n_layers=model.n_layers, dropout=model.dropout
        )  # fmt: skip
        how: dict[str, Any] = {"activation": "gelu", "dropout": model.dropout, "n_covariates": model.n_batches_}
        self.decoder = Dense([n_latent, model.restore, n_vars], last="none", **how)
        self.types = nn.Linear(model.n_biology, model.n_types_) if model.n_types_ else None
        self.phases = nn.Linear(model.n_biology, 2) if model.has_cycle_ else None
