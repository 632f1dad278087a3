"""scMM: a variational autoencoder of counts whose posterior is a mixture of one expert for each modality."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from scdance._core.cells import Cells, Pair
from scdance.methods.predict_modality.scmm import PAPER, TwoExperts
from scdance.train import Train

from ._latent import Latent

PUBLISHED = {knob: value for knob, value in PAPER.items() if knob != "shrink"}


class ScMM(TwoExperts, Latent):
    """Match cells by where the experts of a mixture of two place them [Minoura2021]_.

    A variational autoencoder of both modalities at once: each has an encoder, its expert, and from the place that
    either gives a cell the counts of both modalities are to be decoded. Thereby experts agree on what tells
    in both modalities. Cells are matched by the cosine of the means that the experts give them.

    When to use
    -----------
    Raw counts of both modalities, where the same model is to tell the distribution of counts of one from the other.

    When not
    --------
    For the surest partners: nothing in the training tells the true pair from others, as ``"novel"`` does.

    Differs from the paper
    ----------------------
    Means are compared by cosines of standardised dimensions, where DANCE takes Euclidean distances, and writes the
    nearest cells to transposed positions. Both modalities weigh alike, counts enter as logarithms, and held-out pairs
    end the training.
    """

    n_top_genes: int | None = 2000
    training: Train = Train(epochs=60, lr=3e-3, batch_size=256, patience=10, optimizer="amsgrad")

    cite = "Minoura2021"
    needs = ("counts",)
    presets = {
        "paper": PUBLISHED | {"n_top_genes": None},
        "dance": PUBLISHED | {"n_layers": 2, "n_top_genes": 10_000},
    }

    def net(self) -> nn.Module:
        return self.experts(self.sides_)

    def teach(self, pair: Pair, rows: np.ndarray, valid: np.ndarray) -> None:
        self.look_at(pair, rows)
        self.net_: Any = self.net().to(self.target)
        judge = (lambda: self.unlikely(pair, valid)) if len(valid) > 1 else None
        self.train_experts(self.net_, pair, rows, judge, "training")
        self.net_.eval()
        self.standardise(pair, rows)

    def latent(self, cells: Cells, role: str, rows: np.ndarray) -> Tensor:
        return self.net_.expert(role).posterior(self.seen(cells, rows, role).counts).mean  # type: ignore[no-any-return]
