"""CMAE: an autoencoder of each modality, whose latent spaces an adversary cannot tell apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from scdance._core.cells import Cells, Pair
from scdance.methods.predict_modality.cmae import DANCE, TwoAutoencoders
from scdance.train import Train

from ._latent import Latent

PUBLISHED = {knob: value for knob, value in DANCE.items() if knob != "shrink"}


class CMAE(TwoAutoencoders, Latent):
    """Match cells in the latent space of two autoencoders that an adversary makes one [Yang2021]_.

    Each modality has an autoencoder; the layers next to the latent space are common to both. An adversary learns to
    tell of which modality a point of the latent space is, and both encoders learn to mislead it, so that they fill
    the same space; pairs that teach are held to one place in it. Cells are matched by the cosine of their places.

    When to use
    -----------
    Where the same model serves to decode one modality from the other, or types shape the space (`labels_key=`).

    When not
    --------
    For the surest partners: what restores a cell is not what tells it from others, which ``"novel"`` learns.

    Differs from the paper
    ----------------------
    As in ``predict_modality``: one layer of each modality, dropout, squared errors, outputs that start near the means
    and an anchor that weighs more, since all cells that teach are pairs. Places are compared by cosines of standardised
    dimensions, where DANCE takes absolute differences, and writes the nearest cells to transposed positions, so that
    its published scores are those of chance. Held-out pairs end the training.
    """

    training: Train = Train(epochs=None, steps=3000, lr=2e-3, batch_size=128, patience=20)

    cite = "Yang2021"
    uses = ("batch", "labels")  # type: ignore[assignment]
    presets = {"paper": PUBLISHED | {"n_top_genes": None, "batch_size": 32}, "dance": PUBLISHED}

    def net(self) -> nn.Module:
        return self.autoencoders(self.n_vars_, self.n_types_)

    def teach(self, pair: Pair, rows: np.ndarray, valid: np.ndarray) -> None:
        self.look_at(pair)
        self.net_: Any = self.net().to(self.target)
        self.start(self.net_, pair, rows)
        batches = self.paired(pair, rows, self.training.batch_size, "training")
        judge = (lambda: self.unlikely(pair, valid)) if len(valid) > 1 else None
        self.learn(self.turns(self.net_), self.net_, self.training, batches=batches, valid=judge, rng=batches.rng)
        self.net_.eval()
        self.standardise(pair, rows)

    def latent(self, cells: Cells, role: str, rows: np.ndarray) -> Tensor:
        return self.net_.encode(self.tensor(cells.dense(rows)), role)  # type: ignore[no-any-return]
