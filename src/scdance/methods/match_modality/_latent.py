"""The base of matchers whose common space is the latent space of a model of both modalities."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from scdance._core.cells import Cells, Pair
from scdance.train import TorchMethod, slices, target_of

from ._matcher import Matcher, likelihood_of_pairs

JUDGES = 2048  # pairs at most among which the true one is to be found in validation
SCALE = 10.0  # of the cosines in validation


class Latent(Matcher, TorchMethod):
    """Base of matchers by a latent space: a subclass writes :meth:`teach` and :meth:`latent`.

    Each latent dimension is brought to mean 0 and variance 1 by the pairs that teach, in either modality, before cells
    are compared: else what all cells have in common would rule the cosines.
    """

    def latent(self, cells: Cells, role: str, rows: np.ndarray) -> Tensor:
        """Where the model puts cells of a modality by it alone, (n, n_latent)."""
        raise NotImplementedError

    def places(self, cells: Cells, role: str) -> np.ndarray:
        mean, sd = self.moments_[role]
        return (self._latent(cells, role, np.arange(cells.n_obs)) - mean) / sd  # type: ignore[no-any-return]

    def standardise(self, pair: Pair, rows: np.ndarray) -> None:
        """Learn mean and standard deviation of each latent dimension from the pairs at `rows`."""
        self.moments_ = {}
        for role, cells, at in zip(("source", "target"), (pair.source, target_of(pair)), rows.T, strict=True):
            z = self._latent(cells, role, at)
            self.moments_[role] = np.stack([z.mean(axis=0), np.maximum(z.std(axis=0), 1e-6)])

    def unlikely(self, pair: Pair, valid: np.ndarray) -> float:
        """How unlikely the true partners of held-out pairs are: what ends the training."""
        sides, some = [], self.some(valid, JUDGES)
        for role, cells, at in zip(("source", "target"), (pair.source, target_of(pair)), some.T, strict=True):
            z = self._latent(cells, role, at)
            sides.append((z - z.mean(axis=0)) / np.maximum(z.std(axis=0), 1e-6))
        return -likelihood_of_pairs(*sides, [SCALE])[0]

    def _latent(self, cells: Cells, role: str, rows: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            parts: list[Any] = [self.latent(cells, role, rows[here]).cpu().numpy() for here in slices(len(rows))]
        return np.concatenate(parts)
