"""SpaFormer: cells of a field of view are the tokens of a transformer, which learns to fill what is hidden of them."""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from torch.nn import functional

from scdance._checks import InputError, one_of, whole_number
from scdance._core.cells import Cells
from scdance.graph import laplacian_positions, unit_coordinates, walk_positions
from scdance.nn import (
    FlowAttention,
    GPSBlock,
    LinearAttention,
    NeighborPlaces,
    PatchPlaces,
    SignNet,
    TransformerBlock,
    sinusoid,
)

from ._tissue import Field, TissueImputer

N_WALK, N_LAPLACIAN = 16, 10  # steps of a random walk, and eigenvectors
PATCHES = 100  # along each axis, which make the unit of a sinusoid
POSITIONS = ("cond", "patch", "sin", "sin_coord", "mlp", "walk", "laplacian", "signnet", "none")

PAPER = {
    "decoder": "mlp",
    "masked_cells": 0.5,
    "loss_on": "cells",
    "n_latent": 20,
    "dropout": 0.2,
    "head_width": 64,
    "max_tokens": 20_000,
    "target_sum": 250.0,
    "slow_down": False,
    "epochs": 3000,
    "lr": 1e-3,
    "patience": 10,
}


class SpaFormer(TissueImputer):
    """Impute the cells of a tissue by a transformer of all cells of a field [Wen2023]_.

    Each cell is a token: what is seen of its expression, and where it lies. The tokens of a field attend to each other
    in time linear in their number [Choromanski2021]_, and from what each has become a small net predicts its counts.
    In training entries are hidden at random, zeros included, and only these are predicted, so that the network cannot
    learn to copy.

    When to use
    -----------
    Single cells with coordinates and some tens to a thousand genes, where what is next to a cell tells something of it.

    When not
    --------
    Without coordinates, where ``"dca"`` does the same for each cell by itself and faster; for spots that hold several
    cells each; to test whether genes differ between places, as the estimate of a cell borrows from those around it.

    Differs from the paper
    ----------------------
    What is predicted are the expected counts, by the likelihood of Poisson counts, of hidden entries alone; the paper
    predicts log-normalised values by squared error, and those too that it shows. Entries are hidden in all cells of a
    step. Heads have 16 numbers instead of 64 and so need fewer random features; fields are tiles of some hundred cells,
    which makes more steps of the same time; cells are brought to the median depth; the learning rate falls. A cell is
    joined to its nearest cells, whatever the unit of the coordinates. Eigenvectors keep their signs once the net is
    trained. The zero-inflated decoder has no softmax. Fields that judge do not train, and all of their cells are seen.
    ``preset="paper"`` has the paper's network, loss and stopping.

    Parameters
    ----------
    positions
        What a token is told of its place: what lies around it, by attention to its neighbours ("cond"); a vector for
        its patch of the field, of 100 × 100 ("patch"), or sines and cosines of the patch ("sin") or of the coordinates
        ("sin_coord"); a linear map of the coordinates ("mlp"); how likely a random walk along the neighbours comes back
        ("walk"); eigenvectors of the Laplacian of their graph, of random signs ("laplacian") or by a net that no sign
        changes ("signnet"); or nothing ("none").
    encoder_kind
        "transformer"; "gps": each layer also hears the mean of the neighbours.
    attention
        How cells of a field hear each other: "favor", by random features of the softmax; "flow", by conserved flows.
    n_layers
        Layers of attention.
    heads, head_width
        Heads of the attention, and numbers per head; with "flow" all heads together have as many as a state.
    n_random
        Random features per head; None: head_width · ln(head_width).
    """

    positions: Literal["cond", "patch", "sin", "sin_coord", "mlp", "walk", "laplacian", "signnet", "none"] = "cond"
    encoder_kind: Literal["transformer", "gps"] = "transformer"
    attention: Literal["favor", "flow"] = "favor"
    n_layers: int = 2
    heads: int = 8
    head_width: int = 16
    n_random: int | None = None

    cite = "Wen2023"
    presets = {"paper": PAPER}

    def check(self) -> None:
        super().check()
        one_of(self.positions, POSITIONS, "positions")
        one_of(self.encoder_kind, ("transformer", "gps"), "encoder_kind")
        one_of(self.attention, ("favor", "flow"), "attention")
        for name in ("n_layers", "heads", "head_width"):
            whole_number(getattr(self, name), name, least=1)
        if self.n_random is not None:
            whole_number(self.n_random, "n_random", least=1)
        if self.hidden % self.heads or self.hidden % 4:
            msg = f"hidden={self.hidden}, but it must be a multiple of heads={self.heads} and of 4."
            raise InputError(msg)
        if self.encoder_kind == "gps" and self.attention != "favor":
            msg = f"encoder_kind='gps' has attention='favor', not {self.attention!r}."
            raise InputError(msg)

    def encoder(self, n_out: int) -> nn.Module:
        blocks = [self._block() for _ in range(self.n_layers)]
        is_last = self.objective in ("vae", "maskvae")
        return _Tokens(self.n_vars_, self.hidden, n_out, self.positions, blocks, self.dropout, linear=is_last)

    def _block(self) -> nn.Module:
        sizes = (self.heads, self.head_width, self.n_random)
        if self.encoder_kind == "gps":
            return GPSBlock(self.hidden, *sizes, dropout=self.dropout, has_links=True)
        attention = FlowAttention(self.hidden, self.heads)
        if self.attention == "favor":
            attention = LinearAttention(self.hidden, *sizes)  # type: ignore[assignment]
        return TransformerBlock(attention, self.hidden, hidden=4 * self.hidden, dropout=self.dropout)

    def places(self, cells: Cells, a: csr_matrix) -> np.ndarray | None:
        if self.positions in ("cond", "none"):
            return None
        if self.positions == "walk":
            return walk_positions(_ones(a), N_WALK, random_state=self.random_state)
        if self.positions in ("laplacian", "signnet"):
            joined = _ones(a)
            component = connected_components(joined, directed=False)[1]
            found = laplacian_positions(joined, N_LAPLACIAN, random_state=self.random_state)
            # an eigenvector has length 1: by the root of the size of its component its entries are of size 1
            return found * np.sqrt(np.bincount(component))[component, None]
        return unit_coordinates(cast("np.ndarray", cells.coords), cells.slice)


def _ones(a: csr_matrix) -> csr_matrix:
    return csr_matrix((np.ones(a.nnz, dtype=np.float32), a.indices, a.indptr), shape=a.shape)


class _Tokens(nn.Module):
    """From a field to some numbers of each of its cells: tokens, places, layers of attention."""

    def __init__(
        self,
        n_vars: int,
        hidden: int,
        n_out: int,
        positions: str,
        blocks: list[nn.Module],
        dropout: float,
        *,
        linear: bool,
    ) -> None:
        super().__init__()
        self.token, self.norm, self.drop = nn.Linear(n_vars, hidden), nn.LayerNorm(hidden), nn.Dropout(dropout)
        self.positions, self.linear = positions, linear
        made: dict[str, Any] = {
            "cond": lambda: NeighborPlaces(hidden),
            "patch": lambda: PatchPlaces(hidden),
            "mlp": lambda: nn.Linear(2, hidden),
            "walk": lambda: nn.Linear(N_WALK, hidden),
            "laplacian": lambda: nn.Linear(N_LAPLACIAN, hidden),
            "signnet": lambda: SignNet(N_LAPLACIAN, hidden),
        }
        self.place = made[positions]() if positions in made else None
        self.blocks, self.out = nn.ModuleList(blocks), nn.Linear(hidden, n_out)

    def forward(self, field: Field) -> Tensor:
        """Numbers of each cell, (n, n_out)."""
        h = self.token(field.x)
        if self.positions == "none":
            h = self.drop(self.norm(functional.gelu(h)))
        else:
            h = self.norm(self.drop(h + self.encoded(h, field)))
        for block in self.blocks:
            h = block(h, links=field.links) if isinstance(block, GPSBlock) else block(h)
        out: Tensor = self.out(h)
        return out if self.linear else functional.gelu(out)

    def encoded(self, h: Tensor, field: Field) -> Tensor:
        """The positional encoding of each cell, (n, hidden)."""
        at: Any = field.places
        if self.positions == "sin":
            return sinusoid((PATCHES * at).floor().clamp(max=PATCHES - 1), h.shape[1])
        if self.positions == "sin_coord":
            return sinusoid(PATCHES * at, h.shape[1])
        place = cast("nn.Module", self.place)
        if self.positions == "cond":
            return place(h, field.edges)  # type: ignore[no-any-return]
        if self.positions == "signnet":
            return place(at, field.edges)  # type: ignore[no-any-return]
        if self.positions == "mlp":
            at = at[:, :2]
        if self.positions == "laplacian" and self.training:  # the sign of an eigenvector means nothing
            at = at * torch.randn(at.shape[1], device=at.device).sign()
        return place(at)  # type: ignore[no-any-return]
