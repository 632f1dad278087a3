"""SpaGAT: graph attention among neighbours in the tissue, trained as SpaFormer is."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import GATConv, GATv2Conv

from scdance._checks import InputError, one_of, whole_number

from ._tissue import Field, TissueImputer

PAPER = {
    "decoder": "mlp",
    "masked_cells": 0.5,
    "loss_on": "cells",
    "score": "linear",
    "n_latent": 20,
    "dropout": 0.2,
    "max_tokens": 20_000,
    "target_sum": 250.0,
    "slow_down": False,
    "epochs": 3000,
    "lr": 1e-3,
    "patience": 10,
}


class SpaGAT(TissueImputer):
    """Impute the cells of a tissue by graph attention to their neighbours, the second model of [Wen2023]_.

    Two layers of graph attention make of what is seen of a cell and of the cells next to it a few numbers, from which
    a small net predicts its counts. In training entries are hidden at random, zeros included, and only these are
    predicted, so that the network cannot learn to copy.

    When to use
    -----------
    On more than a hundred thousand cells, where what lies within two steps of a cell is all that shall tell of it;
    to see what attention to all cells of a field, as ``"spaformer"`` has, is worth.

    When not
    --------
    Without coordinates, where ``"dca"`` does the same for each cell by itself; for spots that hold several cells each.

    Differs from the paper
    ----------------------
    What is predicted are the expected counts of hidden entries alone, as in ``"spaformer"``. Scores of the attention
    are those of GATv2 [Brody2022]_: with the linear scores of the authors' code the part of the cell that listens
    cancels, so that all listen to the same. Tiles are imputed together with the cells within two steps of them.
    ``preset="paper"`` has linear scores and the paper's loss and stopping.

    Parameters
    ----------
    score
        How much a neighbour is heard: by both cells together ("gatv2"), or by the neighbour alone ("linear").
    heads
        Heads of the first layer, which share the width of a state.
    """

    score: Literal["gatv2", "linear"] = "gatv2"
    heads: int = 8

    cite = "Wen2023"
    presets = {"paper": PAPER}
    reach = 2

    def check(self) -> None:
        super().check()
        one_of(self.score, ("gatv2", "linear"), "score")
        whole_number(self.heads, "heads", least=1)
        if self.hidden % self.heads:
            msg = f"hidden={self.hidden}, but it must be a multiple of heads={self.heads}."
            raise InputError(msg)

    def encoder(self, n_out: int) -> nn.Module:
        return _GraphAttention(self.n_vars_, self.hidden, n_out, self.heads, self.dropout, self.score)


class _GraphAttention(nn.Module):
    """Two layers of graph attention; each cell is a neighbour of itself."""

    def __init__(self, n_vars: int, hidden: int, n_out: int, heads: int, dropout: float, score: str) -> None:
        super().__init__()

        def layer(n_in: int, width: int, heads: int, *, residual: bool) -> nn.Module:
            if score == "linear":  # a slope of 1 below 0: no LeakyReLU
                return GATConv(n_in, width, heads, negative_slope=1.0, residual=residual)  # type: ignore[no-any-return]
            return GATv2Conv(n_in, width, heads, residual=residual)  # type: ignore[no-any-return]

        self.first, self.norm = layer(n_vars, hidden // heads, heads, residual=True), nn.LayerNorm(hidden)
        self.drop, self.second = nn.Dropout(dropout), layer(hidden, n_out, 1, residual=False)

    def forward(self, field: Field) -> Tensor:
        """Numbers of each cell, (n, n_out)."""
        h = self.drop(functional.gelu(self.norm(self.first(field.x, field.edges))))
        return self.second(h, field.edges)  # type: ignore[no-any-return]
