"""DCCA: a variational autoencoder of each modality, the second of which is drawn to the places of the first."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from scdance._checks import InputError, whole_number
from scdance._core.cells import Cells, Pair
from scdance.nn import Dense
from scdance.train import PairedBatches, Train, mean_counts, slices, target_of

from ._counts import STANDARD, CountJoint, Normal, Posterior, Seen, Shares, divergence
from ._joint import ROLES, Reader

PAPER = {
    "encode": "features",
    "hidden_other": (1500, 128),
    "n_latent": 4,
    "n_cycles": 1,
    "output": "rna",
    "lr": 1e-2,
    "follow_lr": 5e-3,
    "weight_decay": 1e-6,
    "follow_weight_decay": 1e-6,
    "batch_size": 64,
    "follow_batch_size": 64,
    "patience": 30,
    "follow_patience": 30,
}


class DCCA(CountJoint):
    """Learn a latent space of each modality, and draw that of the second to that of the first [ZuoDai2021]_.

    Each modality has a variational autoencoder of its own: genes and proteins are negative binomial around shares of
    the counts of a cell, peaks are open or not. That of RNA learns first, alone; then that of the other modality,
    alone, and once more, drawn to the places that the first, which now stays as it is, has given the same cells. In
    further cycles each is drawn to the other in turn. The places in both spaces, side by side, are the answer.

    When to use
    -----------
    One modality that tells much of a cell, and a poorer one that is to be read in its light.

    When not
    --------
    Two modalities that tell different things, as 100 proteins do: the second is drawn away from what it alone knows;
    ``"scmvae"`` lets the surer one speak. Many cells of one modality only: they are placed by a linear regression.

    Differs from the paper
    ----------------------
    Both latent spaces are the answer, as in DANCE; the paper takes that of RNA (``output="rna"``). In a second cycle
    the first modality hears the second. The encoders see 100 singular vectors of each modality, and the latent spaces
    are larger. Under ``preset="paper"`` too, proteins are counts, where DANCE takes them for present or not; a cell's
    depth enters as the logarithm of its counts, where DANCE exponentiates a hundredth of them, and raises the odds of
    peaks, so that places need not tell it; the decoder of the second modality has a hidden layer; means are drawn to
    each other; cells that were held out end each phase; the learning rates stay, where they fell to a tenth; and the
    decoders are told the batch, if one is given.

    Parameters
    ----------
    hidden, hidden_other
        Widths of the hidden layers of the encoder of RNA, and of the other modality; the decoders have one layer, as
        wide as the last.
    attraction
        "euclid": squared distance of the means; "kl": divergence of the posterior from that which draws it.
    attract
        Weight of the attraction of the second modality to the first.
    attract_first
        Weight of that of the first to the second, from the second cycle on.
    n_cycles
        Times that the second modality is drawn to the first; 0: never.
    output
        "concat": the latent spaces of both, that of RNA in front; "rna": that of RNA alone.
    training
        phases of the first modality
    following
        phases of the second modality
    """

    hidden_other: tuple[int, ...] = (128,)
    attraction: Literal["euclid", "kl"] = "euclid"
    attract: float = 5.0
    attract_first: float = 1.0
    n_cycles: int = 2
    output: Literal["concat", "rna"] = "concat"
    training: Train = Train(epochs=None, steps=1500, lr=4e-3, batch_size=128, patience=10)
    following: Train = Train(epochs=None, steps=1000, lr=4e-3, batch_size=128, patience=10)

    cite = "ZuoDai2021"
    presets = {
        "paper": PAPER,
        "dance": PAPER | {"n_latent": 50, "output": "concat", "epochs": 10, "follow_epochs": 10},
    }

    def check(self) -> None:
        super().check()
        whole_number(self.n_cycles, "n_cycles", least=0)
        if not self.hidden_other or min(self.hidden_other) < 1:
            msg = f"hidden_other={self.hidden_other!r}, but at least one layer of at least one unit is needed."
            raise InputError(msg)
        for name in ("attract", "attract_first"):
            if getattr(self, name) < 0:
                msg = f"{name}={getattr(self, name)!r}, but a weight must be at least 0."
                raise InputError(msg)

    def check_cells(self, cells: Pair) -> None:  # type: ignore[override]
        super().check_cells(cells)
        if self.output == "rna" and "rna" not in (cells.source.modality, target_of(cells).modality):
            msg = "output='rna', but neither modality is RNA; pass output='concat'."
            raise InputError(msg)

    @property
    def order(self) -> tuple[str, str]:
        """Roles of the first and the second modality: RNA is the first."""
        return ("target", "source") if self.sides_["target"]["modality"] == "rna" else ROLES  # type: ignore[return-value]

    def net(self) -> nn.Module:
        hidden = dict(zip(self.order, (self.hidden, self.hidden_other), strict=True))
        return nn.ModuleDict(
            {
                role: VAE(side, list(hidden[role]), self.n_latent, dropout=self.dropout, n_batches=self.n_batches_)
                for role, side in self.sides_.items()
            }
        )

    def place(self, x: Seen, y: Seen) -> Tensor:
        seen, roles = dict(zip(ROLES, (x, y), strict=True)), self.order[: 1 if self.output == "rna" else 2]
        return torch.cat([self.net_[role].posterior(seen[role].values).mean for role in roles], dim=1)

    def teach(self, pair: Pair, rows: np.ndarray, valid: np.ndarray) -> None:
        first, second = self.order
        sides = dict(zip(ROLES, (pair.source, target_of(pair)), strict=True))
        for (role, cells), at in zip(sides.items(), rows.T, strict=True):
            self.net_[role].head.start_at(mean_counts(cells.part(at)).to(self.target))

        def phase(stage: str, role: str, weight: float | None = None) -> None:
            other = second if role == first else first
            goal = None if weight is None else self.posteriors(sides[other], other)
            self.train_one(stage, role, self.reader(sides[role], role), goal, weight or 0.0, rows, valid)

        phase("first", first)
        phase("second", second)
        for cycle in range(1, self.n_cycles + 1):
            if cycle > 1:
                phase(f"first_{cycle}", first, self.attract_first)
            phase(f"second_{cycle}", second, self.attract)

    def train_one(
        self,
        stage: str,
        role: str,
        read: Reader,
        goal: Normal | None,
        weight: float,
        rows: np.ndarray,
        valid: np.ndarray,
    ) -> None:
        """Train the autoencoder of a modality by itself or, with a `goal` for each cell of the other, drawn to that."""
        net, how = self.net_[role], self.training if role == self.order[0] else self.following
        side = ROLES.index(role)
        now = {"prior": 1.0}

        def warm(epoch: int) -> None:
            now["prior"] = self.prior_weight(epoch) if goal is None else 1.0

        def goals(at: np.ndarray) -> Normal | None:
            return None if goal is None else Normal(*(part[at] for part in goal))

        def step(batch: tuple[Any, Any]) -> Tensor:
            seen, toward = batch[side], batch[1 - side]
            q = net.posterior(seen.values)
            z, prior = (q.draw(), now["prior"]) if net.training else (q.mean, 1.0)
            loss = net.unexplained(z, seen) + prior * divergence(q, STANDARD).sum(dim=1).mean()
            return loss if toward is None else loss + weight * apart(q, toward, self.attraction).mean()  # type: ignore[no-any-return]

        source, target = (read, goals) if side == 0 else (goals, read)
        batches = PairedBatches(source, target, rows, how.batch_size, self.rng(stage))
        self.run(step, batches, valid, net=net, how=how, stage=stage, each_epoch=warm)

    def posteriors(self, cells: Cells, role: str) -> Normal:
        """Where the autoencoder of a modality places each of its cells, (n_obs, n_latent)."""
        read = self.reader(cells, role)
        with torch.no_grad():
            found = [self.net_[role].posterior(read(np.arange(cells.n_obs)[at]).values) for at in slices(cells.n_obs)]
        return Normal(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def apart(q: Normal, p: Normal, how: Literal["euclid", "kl"]) -> Tensor:
    """How far each cell is from its place in the other space, (n,): squared distance of the means, or KL(q ‖ p)."""
    each = (q.mean - p.mean).square() if how == "euclid" else divergence(q, p)
    return each.sum(dim=1)


class VAE(nn.Module):
    """Variational autoencoder of the counts of a modality, or of which of its peaks are open.

    Parameters
    ----------
    side
        Its ``modality``, and its ``n_in`` and ``n_vars``.
    hidden, n_latent, dropout
        As in :class:`DCCA`.
    n_batches
        Number of batches that the decoder is told.
    """

    def __init__(
        self, side: dict[str, Any], hidden: list[int], n_latent: int, *, dropout: float, n_batches: int
    ) -> None:
        super().__init__()
        how: dict[str, Any] = {"batch_norm": True, "dropout": dropout}
        width, n_vars = hidden[-1], side["n_vars"]
        self.posterior = nn.Sequential(Dense([side["n_in"], *hidden], **how), Posterior(width, n_latent))
        self.decoder = Dense([n_latent, width], n_covariates=n_batches, **how)
        is_binary = side["modality"] == "atac"
        self.head = Open(width, n_vars) if is_binary else Shares(width, n_vars, likelihood="nb", dispersion="gene")

    def unexplained(self, z: Tensor, seen: Seen) -> Tensor:
        """Negative log-likelihood at these places, summed over the features, the mean over the cells."""
        h = self.decoder(z, seen.batch)
        return seen.counts.shape[1] * self.head.loss(h, seen.counts, seen.library)  # type: ignore[no-any-return, operator]


class Open(nn.Linear):
    """From the last hidden layer to the odds that a peak is open, which grow with the counts of a cell."""

    def start_at(self, mean: Tensor) -> None:
        """Predict about what the mean counts, (n_vars,) > 0, say, where the hidden layer is 0, before any training."""
        with torch.no_grad():
            # a Poisson count is above 0 with chance 1 − exp(−mean)
            self.bias.copy_(torch.logit(-torch.expm1(-mean), eps=1e-6) - mean.sum().log())

    def loss(self, h: Tensor, x: Tensor, size: Tensor) -> Tensor:
        """Cross-entropy of counts `x` above 0, (n_obs, n_vars), in cells of `size` counts, the mean over entries."""
        logits = self(h) + size.log()[:, None]
        return functional.binary_cross_entropy_with_logits(logits, (x > 0).to(logits))
