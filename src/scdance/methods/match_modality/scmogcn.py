"""Messages between cells and features of each modality, and two nets that agree on the true pair."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from scdance._checks import whole_number
from scdance._core.cells import Pair
from scdance.graph import Propagation
from scdance.nn import Dense, LayerMean
from scdance.train import target_of

from ._contrastive import Contrastive, Nets

HIDDEN = 512  # width of the hidden layer of the nets that restore a modality
DROPOUT = 0.2  # part of it that is dropped in training

PAPER = {
    "n_source": 256,
    "n_target": 512,
    "hidden_source": (512, 512),
    "dropout_source": (0.25, 0.25),
    "hidden_target": (512, 512),
    "dropout_target": (0.2, 0.2),
    "log_scale": 2.739896,
    "learn_scale": False,
    "batch_size": 4096,
    "lr": 6e-4,
    "epochs": 2000,
    "patience": 20,
}


class ScMoGCN(Contrastive):
    """Propagate messages between cells and features, then learn directions that agree for the true pair [Wen2022]_.

    The scores of each modality are read as the weights of a graph of cells and features. Messages pass along it, layer
    after layer, without anything to learn; the states of a cell after the layers, averaged by learnt weights, enter
    a net that gives its direction. Beside telling the true pair from all others of a batch, the direction of either
    modality is to restore the states of both. What new cells need of the graph is stored, so they are placed without
    the others.

    When to use
    -----------
    Thousands of pairs that teach, of modalities with many features.

    When not
    --------
    Where seconds matter, or a few hundred pairs are all there is: ``"cca"`` is nearly as sure then.

    Differs from the paper
    ----------------------
    The graph is that of the pairs that teach, where the winners had all cells, those to be matched too. Directions have
    the factor of the cosines in the answers also, where their code dropped it, and partners are sought among the
    likeliest of each cell, not in the whole matrix.

    Parameters
    ----------
    n_layers
        Layers of messages, of which the first is not used; 1: none, the scores enter as they are, standardised.
    auxiliary
        Weight of the losses that restore both modalities; 0: none.
    """

    n_layers: int = 4
    auxiliary: float = 1.0

    cite = "Wen2022"
    exempt = {}  # the states of the cells outweigh the comparisons
    presets = {
        "paper": PAPER,
        "dance": PAPER,
        "gex2adt": PAPER,
        "gex2atac": PAPER
        | {
            "hidden_source": (1024, 1024),
            "dropout_source": (0.5, 0.5),
            "hidden_target": (2048,),
            "dropout_target": (0.5,),
            "n_latent": 256,
            "log_scale": 3.065016,
        },
    }

    def check(self) -> None:
        super().check()
        whole_number(self.n_layers, "n_layers", least=1)

    def learn_inputs(self, pair: Pair, rows: np.ndarray) -> None:
        self.features_, self.scaling_ = {}, {}
        for side, (role, cells) in enumerate((("source", pair.source), ("target", target_of(pair)))):
            learnt = Propagation.of(self.scores(cells, role, rows[:, side]), self.n_layers)
            self.features_[role], self.scaling_[role] = learnt.features, learnt.scaling

    def inputs(self, x: np.ndarray, role: str) -> np.ndarray:
        states = Propagation(self.features_[role], self.scaling_[role]).cells(x)
        return np.ascontiguousarray(states.transpose(1, 0, 2))

    def pair_net(self, widths: dict[str, int]) -> nn.Module:
        return _Nets(self, widths)

    def further_loss(self, net: Any, seen: dict[str, Tensor], places: dict[str, Tensor]) -> Tensor | float:
        if not self.auxiliary:
            return 0.0
        losses = [
            functional.mse_loss(net.decoders[to](place), net.mixed(seen[to], to))
            for place in places.values()
            for to in seen
        ]
        return self.auxiliary * torch.stack(losses).sum()


class _Nets(Nets):
    """The nets of each modality behind a weighted mean of the layers, and those that restore a modality."""

    def __init__(self, model: ScMoGCN, widths: dict[str, int]) -> None:
        super().__init__(model, widths)
        self.means = nn.ModuleDict({role: LayerMean(max(model.n_layers - 1, 1)) for role in widths})
        self.decoders = nn.ModuleDict(
            {
                role: nn.Sequential(
                    Dense([model.n_latent, HIDDEN], activation="gelu", dropout=DROPOUT), nn.Linear(HIDDEN, width)
                )
                for role, width in widths.items()
            }
        )

    def mixed(self, x: Tensor, role: str) -> Tensor:
        """Mean of the states after the layers, (n, n_features); `x` are all of them, (n, n_layers, n_features)."""
        return self.means[role](x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor, role: str) -> Tensor:
        return super().forward(self.mixed(x, role), role)
