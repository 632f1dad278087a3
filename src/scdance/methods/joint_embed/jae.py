"""JAE: a residual autoencoder of both modalities with slots for types, batches and the cell cycle."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from ._slots import Slots


class JAE(Slots):
    """Restore both modalities from a latent space in which what is known of a cell has its place [Lance2022]_.

    Singular vectors of both modalities enter an autoencoder of residual blocks. Some of its latent dimensions are to
    be the logits of the type of a cell, where it has a label, two the scores of its cell cycle, one for each batch is
    to say nothing of the batch, and the rest is free. It won the competition's joint embedding with training data.

    When to use
    -----------
    An annotated collection to which cells without labels are added: types have dimensions of their own, so that they
    can be read from the place of a cell.

    When not
    --------
    To find out whether modalities agree on types. Where batches differ: that some dimensions carry no batch does not
    take it out of the others. Without labels it is an autoencoder like others.

    Differs from the paper
    ----------------------
    Latent dimensions and restored values are linear, since scores have signs; the code cuts both off at 0. Proteins
    enter as centred log ratios, and chromatin weighted by term frequency and inverse document frequency. Cells with
    and without a label train together, where the competition trained on labelled cells and went over all others once
    more. Without labels there are more free dimensions.

    Parameters
    ----------
    dropout
        Part of the units inside each block that is dropped in training, in [0, 1).
    """

    dropout: float = 0.1

    cite = "Lance2022"
    presets = {
        "paper": {"n_free": 5, "lr": 1e-4, "batch_size": 32, "epochs": 500, "patience": 5, "weight_decay": 0.0},
        "dance": {"n_free": 5, "lr": 1e-4, "batch_size": 128, "epochs": 60, "patience": 10, "weight_decay": 0.0},
    }

    def body(self, n_in: int, n_out: int) -> tuple[nn.Module, nn.Module]:
        def stack(sizes: list[int], last: int) -> nn.Module:
            blocks = [Residual(a, b, self.dropout) for a, b in pairwise(sizes)]
            return nn.Sequential(*blocks, nn.Linear(sizes[-1], last))

        return stack([n_in, *self.hidden], n_out), stack([n_out, *reversed(self.hidden)], n_in)

    def off_batch(self, z: Tensor) -> Tensor:
        """Cross-entropy of equal shares with the soft-max, less what is left at best."""
        uniform = torch.full_like(z, 1 / z.shape[1])
        return functional.kl_div(z.log_softmax(dim=1), uniform, reduction="batchmean")


class Residual(nn.Module):
    """A dense layer, and another that adds to it: u = relu(a(x)), relu(u + b(norm(dropout(u))))."""

    def __init__(self, n_in: int, n_out: int, dropout: float) -> None:
        super().__init__()
        self.a = nn.Linear(n_in, n_out)
        self.b = nn.Sequential(nn.Dropout(dropout), nn.BatchNorm1d(n_out), nn.Linear(n_out, n_out))

    def forward(self, x: Tensor) -> Tensor:
        """Output, (n, n_out)."""
        u = functional.relu(self.a(x))
        return functional.relu(u + self.b(u))
