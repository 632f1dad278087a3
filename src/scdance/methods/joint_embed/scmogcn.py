"""Messages between cells and features of each modality, and an autoencoder with slots for what is known."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from scdance._checks import whole_number
from scdance._core.cells import Cells, Pair
from scdance.graph import Propagation
from scdance.nn import Dense, LayerMean
from scdance.train import target_of

from ._joint import Reader
from ._slots import Slots

RESTORE = 150  # width of the hidden layer that restores both modalities
OF_NORM = 0.01  # of the weight of the batches, as published

PAPER = {"n_source": 256, "n_target": 512, "n_free": 5, "lr": 1e-4, "batch_size": 512, "epochs": 60, "patience": 10}


class ScMoGCN(Slots):
    """Propagate messages between cells and features, then learn a space with slots for what is known [Wen2022]_.

    The scores of each modality are read as the weights of a graph of cells and features. Messages pass along it, layer
    after layer, without anything to learn; the states of a cell after the layers, averaged by learnt weights, enter
    an autoencoder. Some of its latent dimensions are to be the logits of the type of a cell, where it has a label, two
    the scores of its cell cycle, those of the batches are drawn to 0, and the rest is free. What new cells need of the
    graph is stored, so they are placed without the others.

    When to use
    -----------
    Where types of some cells are known and all cells shall lie by them: labels shape the space.

    When not
    --------
    To judge a space by the labels that shaped it: score cells that had none. Without labels, ``"svd_concat"`` is
    cheaper. Batches that differ: that slots carry no batch does not take it out of the others.

    Differs from the paper
    ----------------------
    Restored values are linear, since scores have signs; the code cuts them off at 0. A cell without a label takes no
    part in the loss of the types, where the code gave it the first one. The latent space has as many dimensions as the
    labels and batches call for, not 61. Without labels there are more free dimensions.

    Parameters
    ----------
    n_layers
        Layers of messages, of which the first is not used; 1: none, the scores enter as they are, standardised.
    """

    n_layers: int = 3

    cite = "Wen2022"
    presets = {"paper": PAPER, "dance": PAPER | {"n_source": 64}}

    def check(self) -> None:
        super().check()
        whole_number(self.n_layers, "n_layers", least=1)

    def prepare(self, pair: Pair, rows: np.ndarray) -> None:
        super().prepare(pair, rows)
        self.features_, self.told_ = {}, {}
        for side, (role, cells) in enumerate((("source", pair.source), ("target", target_of(pair)))):
            learnt = Propagation.of(self.scores(cells, role)[rows[:, side]], self.n_layers)
            self.features_[role], self.told_[role] = learnt.features, learnt.scaling

    def reader(self, cells: Cells, role: str) -> Reader:
        states = Propagation(self.features_[role], self.told_[role]).cells(self.scores(cells, role))
        seen = torch.from_numpy(np.ascontiguousarray(states.transpose(1, 0, 2))).to(self.target)
        return lambda rows: seen[rows]

    def inputs(self) -> dict[str, nn.Module]:
        return {role: LayerMean(max(self.n_layers - 1, 1)) for role in self.loadings_}

    def body(self, n_in: int, n_out: int) -> tuple[nn.Module, nn.Module]:
        sizes = [n_in, *self.hidden]
        encoder = Dense(sizes, activation="gelu", batch_norm=True, dropout=self.dropout)
        decoder = Dense([n_out, RESTORE, n_in], last="none")
        return nn.Sequential(encoder, nn.Linear(sizes[-1], n_out)), decoder

    def off_batch(self, z: Tensor) -> Tensor:
        """Length of the slots of a cell, in the mean of its batch."""
        return OF_NORM * z.norm(dim=1).sum()
