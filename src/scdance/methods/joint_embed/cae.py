"""cAE: an encoder of each modality with near-orthogonal weights, and one linear bottleneck for both."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from scdance._checks import InputError, whole_number
from scdance._core.cells import Cells, Pair
from scdance.train import Train, scores, slices, target_of

from ._joint import ROLES, Joint, Reader, Told


class CAE(Joint):
    """Restore genes and proteins or peaks from one linear bottleneck behind two near-orthogonal encoders [Lance2022]_.

    Each modality has an encoder of one layer, whose weights are drawn towards an orthonormal system, so that its units
    do not repeat each other. What both say is mapped linearly to the joint space, and from there all features of both
    modalities are restored. The competition's joint embedding of RNA and open chromatin without training data was won
    by it.

    When to use
    -----------
    Where features shall speak for themselves instead of their leading components: a marker of a rare type has a say.

    When not
    --------
    A cheap start: ``"svd_concat"`` takes seconds. Batches that differ, or types of some cells that are known: neither
    is looked at. Many cells of one modality only: the net does not see them.

    Differs from the paper
    ----------------------
    The errors of a modality are divided by the variance that its leading components explain. With plain mean squared
    errors, as published, the modality with more variance in a feature rules the space: a few proteins silence the
    genes. Outputs are cut off at 0, as published, only where a modality has no value below it; they start at the mean
    of each feature. Batches and learning rate are larger, the orthogonality is looked at in every fourth step and then
    counts four times, and steps, not epochs, are limited. Genes and peaks are chosen by deviance, where the paper takes
    variable genes and the peaks that are open in 3 % of the cells; proteins are normalised by centred log ratio and
    peaks by term frequency and inverse document frequency.

    Parameters
    ----------
    n_hidden
        Units of the encoder of each modality.
    n_latent
        Dimensions of the joint space.
    n_restore
        Units between the joint space and the features.
    dropout
        Part of the features that are not seen in training, in [0, 1).
    orthogonal
        Weight of the distance of the encoders' weights from an orthonormal system; 0: none.
    orthogonal_every
        Steps from one in which it is looked at to the next; it counts as many times.
    balance
        Divide the error of a modality by the variance that its components explain; False: by its number of features.
    """

    n_hidden: int = 64
    n_latent: int = 64
    n_restore: int = 128
    dropout: float = 0.1
    orthogonal: float = 1.0
    orthogonal_every: int = 4
    balance: bool = True
    n_source: int = 50
    n_target: int = 50
    n_top_genes: int | None = 1000
    n_top_peaks: int | None = 5000
    training: Train = Train(epochs=None, steps=2000, lr=2e-3, batch_size=256, patience=10)

    cite = "Lance2022"
    presets = {
        "paper": {
            "n_top_peaks": None,
            "orthogonal_every": 1,
            "balance": False,
            "valid_share": 0.2,
            "epochs": 600,
            "lr": 1e-4,
            "batch_size": 32,
            "patience": 20,
        }
    }

    def check(self) -> None:
        super().check()
        for name in ("n_hidden", "n_latent", "n_restore", "orthogonal_every"):
            whole_number(getattr(self, name), name, least=1)
        if not 0 <= self.dropout < 1:
            msg = f"dropout={self.dropout!r}, but it must be at least 0 and below 1."
            raise InputError(msg)
        if self.orthogonal < 0:
            msg = f"orthogonal={self.orthogonal!r}, but a weight must be at least 0."
            raise InputError(msg)

    def reader(self, cells: Cells, role: str) -> Reader:
        return lambda rows: self.tensor(cells.dense(rows))

    def prepare(self, pair: Pair, rows: np.ndarray) -> None:
        self.means_, self.has_signs_, self.units_ = {}, {}, {}
        for side, (role, cells) in enumerate(zip(ROLES, (pair.source, target_of(pair)), strict=True)):
            here = rows[:, side]
            total, lowest = np.zeros(cells.n_vars), 0.0
            for block in (cells.dense(here[at]) for at in slices(len(here))):
                total, lowest = total + block.sum(axis=0, dtype=np.float64), min(lowest, float(block.min()))
            self.means_[role] = (total / len(here)).astype(np.float32)
            self.has_signs_[role] = lowest < 0
            explained = scores(cells, here, self.loadings_[role]).var(axis=0, dtype=np.float64).sum()
            self.units_[role] = max(float(explained), 1e-12) if self.balance else float(cells.n_vars)

    def net(self) -> nn.Module:
        return Net(self.means_, self.has_signs_, self.n_hidden, self.n_latent, self.n_restore, self.dropout)

    def place(self, x: Tensor, y: Tensor) -> Tensor:
        return self.net_.encode(x, y)  # type: ignore[no-any-return]

    def teach(self, pair: Pair, rows: np.ndarray, valid: np.ndarray) -> None:
        self.run(self.step, self.batches(pair, rows, self.training.batch_size), valid)

    def step(self, batch: tuple[tuple[Tensor, Told], Tensor]) -> Tensor:
        """Loss of a batch: squared errors of both modalities and, while training, how far from orthogonal it is."""
        (x, _), y = batch
        errors = zip(ROLES, (x, y), self.net_(x, y), strict=True)
        loss = torch.zeros((), device=x.device)
        for role, seen, found in errors:
            loss = loss + (seen - found).square().sum(dim=1).mean() / self.units_[role]
        if not self.net_.training or not self.orthogonal:
            return loss
        self.net_.n_steps += 1
        if int(self.net_.n_steps) % self.orthogonal_every:
            return loss
        for encoder in self.net_.encoders.values():
            loss = loss + self.orthogonal_every * self.orthogonal * off_orthogonal(encoder.weight)
        return loss


def off_orthogonal(weights: Tensor) -> Tensor:
    """Distance of the rows of `weights`, (n_units, n_vars), from an orthonormal system: ‖W Wᵀ − I‖."""
    n = len(weights)
    return torch.linalg.matrix_norm(weights @ weights.T - torch.eye(n, device=weights.device))


class Net(nn.Module):
    """Two encoders, the bottleneck, and what restores both modalities.

    Parameters
    ----------
    means
        Mean of each feature by role, at which the outputs start.
    has_signs
        Which modality has values below 0.
    n_hidden, n_latent, n_restore, dropout
        As in :class:`CAE`.
    """

    def __init__(
        self,
        means: dict[str, np.ndarray],
        has_signs: dict[str, bool],
        n_hidden: int,
        n_latent: int,
        n_restore: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.encoders = nn.ModuleDict({role: nn.Linear(len(mean), n_hidden) for role, mean in means.items()})
        self.bottleneck = nn.Linear(n_hidden * len(means), n_latent)
        self.out_of = nn.Linear(n_latent, n_restore)
        self.decoders = nn.ModuleDict({role: nn.Linear(n_restore, len(mean)) for role, mean in means.items()})
        self.has_signs = has_signs
        self.register_buffer("n_steps", torch.zeros((), dtype=torch.int64))  # so that a continued run goes on as one
        with torch.no_grad():
            for role, mean in means.items():
                self.decoders[role].bias.copy_(torch.from_numpy(mean))  # type: ignore[union-attr, operator]

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        """Place of each cell, (n, n_latent)."""
        seen = zip(ROLES, (x, y), strict=True)
        heard = [self.encoders[role](self.dropout(values)).relu() for role, values in seen]
        return self.bottleneck(torch.cat(heard, dim=1))  # type: ignore[no-any-return]

    def forward(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """Both modalities, restored."""
        hidden = self.out_of(self.encode(x, y)).relu()
        restored = [self.decoders[role](hidden) for role in ROLES]
        return [out if self.has_signs[role] else out.relu() for role, out in zip(ROLES, restored, strict=True)]
