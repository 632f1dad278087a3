"""What variational autoencoders of both modalities share: cells as counts, posteriors, means that fill a library."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from scdance._checks import InputError, whole_number
from scdance._core.cells import Cells, Pair
from scdance.nn import CountHead, CountParameters, nb_loss, zinb_loss
from scdance.train import slices, target_of

from ._joint import ROLES, Joint, Reader

LOG_VARIANCE = 12.0  # bound of the logarithm of a variance of the latent space
LEAST_SPREAD = 0.1  # standard deviation of the logarithm of a library, where all cells have the same


class Seen(NamedTuple):
    """What a net sees of some cells in a modality.

    Attributes
    ----------
    values
        What enters its encoder, (n, n_in).
    counts
        Counts of its features, (n, n_vars).
    library
        Their sum in each cell, at least 1, (n,).
    there
        Which cells have the modality, (n,) bool; in the place of each other stands a cell that has.
    batch
        Batch of each cell, (n,) int, −1 for one unseen in training; None: there are none.
    """

    values: Tensor
    counts: Tensor
    library: Tensor
    there: Tensor
    batch: Tensor | None


class CountJoint(Joint):
    """Base of joint embeddings that explain the counts of both modalities.

    Parameters
    ----------
    encode
        What enters the encoders: the standardised "scores" of the components of each modality, or normalised
        "features".
    hidden
        Widths of the hidden layers of an encoder.
    n_latent
        Dimensions of a latent space.
    dropout
        Part of the units of each hidden layer that is dropped in training, in [0, 1).
    warm_up
        Epochs over which the weight of the divergence from the prior grows to 1, in equal steps from 0.
    """

    n_top_genes: int | None = 2000
    n_top_peaks: int | None = 5000
    encode: Literal["scores", "features"] = "scores"
    hidden: tuple[int, ...] = (128,)
    n_latent: int = 20
    dropout: float = 0.1
    warm_up: int = 10

    needs = ("counts",)
    uses = ("batch",)

    def check(self) -> None:
        super().check()
        whole_number(self.n_latent, "n_latent", least=1)
        whole_number(self.warm_up, "warm_up", least=0)
        if not self.hidden or min(self.hidden) < 1 or not 0 <= self.dropout < 1:
            msg = (
                f"hidden={self.hidden!r} and dropout={self.dropout!r}, but at least one layer of at least one unit "
                "and a part in [0, 1) are needed."
            )
            raise InputError(msg)

    def prepare(self, pair: Pair, rows: np.ndarray) -> None:
        self.sides_: dict[str, dict[str, Any]] = {}
        for role, cells, at in zip(ROLES, (pair.source, target_of(pair)), rows.T, strict=True):
            log = np.log(libraries(cells, at))
            self.sides_[role] = {
                "modality": cells.modality,
                "n_vars": cells.n_vars,
                "n_in": len(self.loadings_[role]) if self.encode == "scores" else cells.n_vars,
                "library": [float(log.mean()), max(float(log.std()), LEAST_SPREAD)],
            }

    def reader(self, cells: Cells, role: str) -> Reader:
        """From positions, −1 for a cell that lacks the modality, to what the net sees of these cells."""
        scores = super().reader(cells, role) if self.encode == "scores" else None

        def read(rows: np.ndarray) -> Seen:
            there = rows >= 0
            if not there.all():  # cells of the batch stand in, so that its mean and variance stay what they are
                rows = rows.copy()
                rows[~there] = np.resize(rows[there], int((~there).sum())) if there.any() else 0
            values = self._tensor(cells.dense(rows)) if scores is None else scores(rows)
            counts = self._tensor(cast("Any", cells.counts)[rows].toarray())
            batch = None if cells.batch is None else self._tensor(cells.batch[rows].astype(np.int64))
            return Seen(values, counts, counts.sum(dim=1).clamp(min=1), self._tensor(there), batch)

        return read

    def prior_weight(self, epoch: int) -> float:
        """Weight of the divergence from the prior in an epoch of training."""
        return min(epoch / self.warm_up, 1.0) if self.warm_up else 1.0

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.target)


def libraries(cells: Cells, rows: np.ndarray) -> np.ndarray:
    """Counts of the kept features in each of the cells at `rows`, at least 1, (n,) float64."""
    counts: Any = cells.counts
    parts = [np.asarray(counts[rows[here]].sum(axis=1, dtype=np.float64)).ravel() for here in slices(len(rows))]
    return np.maximum(np.concatenate(parts), 1)


class Normal(NamedTuple):
    """Independent normal distributions: mean and logarithm of the variance, (n, n_dims) each."""

    mean: Tensor
    log_variance: Tensor

    def draw(self) -> Tensor:
        """A value of each, through which gradients pass."""
        return self.mean + torch.randn_like(self.mean) * (self.log_variance / 2).exp()


def divergence(q: Normal, p: Normal) -> Tensor:
    """Kullback–Leibler divergence of normal distributions, in each dimension."""
    apart = (q.log_variance - p.log_variance).exp() + (q.mean - p.mean).square() * (-p.log_variance).exp()
    return (apart - 1 + p.log_variance - q.log_variance) / 2


STANDARD = Normal(torch.zeros(()), torch.zeros(()))


class Posterior(nn.Linear):
    """From the last hidden layer of an encoder to normal distributions of `n_dims`."""

    def __init__(self, n_in: int, n_dims: int) -> None:
        super().__init__(n_in, 2 * n_dims)

    def forward(self, h: Tensor) -> Normal:  # type: ignore[override]
        """The distributions, (n, n_dims)."""
        mean, log_variance = super().forward(h).chunk(2, dim=1)
        return Normal(mean, log_variance.clamp(-LOG_VARIANCE, LOG_VARIANCE))


class Shares(CountHead):
    """From the last hidden layer to a distribution of counts, whose means are shares of a library.

    As :class:`scdance.nn.CountHead`, but that the means of a cell sum to its `size`: μ = size · softmax(a).
    """

    def forward(self, h: Tensor, size: Tensor | None = None) -> CountParameters:
        """Mean, dispersion and logit of the inflation of each entry."""
        return super().forward(h)._replace(mean=self._log_mean(self.mean(h), size).exp())

    def loss(self, h: Tensor, x: Tensor, size: Tensor | None = None, *, ridge: float = 0.0) -> Tensor:
        """Negative log-likelihood of counts `x`, (n_obs, n_vars), the mean over all entries."""
        a, dispersion, logit = self._outputs(h)
        if logit is None:
            return nb_loss(x, self._log_mean(a, size), dispersion)
        return zinb_loss(x, self._log_mean(a, size), dispersion, logit, ridge=ridge)

    def _log_mean(self, a: Tensor, size: Tensor | None) -> Tensor:
        # not as the size factor of the loss, which takes no gradient, and bounds the share instead of the mean
        return a.log_softmax(dim=1) + (0.0 if size is None else size.log()[:, None])
