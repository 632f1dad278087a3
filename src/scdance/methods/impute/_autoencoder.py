"""The autoencoder of scGNN, and batches for one network per group of cells."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from scdance.nn import Dense

LEAST = 1e-5  # mean of a gene, of which the logarithm is taken
LOG_RATE = (math.log(1e-6), math.log(1e6))  # bounds of a rate, a count at the median depth


class Groups:
    """Batches of cells that all belong to one group, in random order: (group, positions)."""

    def __init__(self, groups: np.ndarray, size: int, rng: np.random.Generator) -> None:
        self.members = [np.flatnonzero(groups == group) for group in range(int(groups.max()) + 1)]
        self.size, self.rng = size, rng

    def __len__(self) -> int:
        return sum(-(-len(rows) // self.size) for rows in self.members)

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        found = []
        for group, rows in enumerate(self.members):
            rows = self.rng.permutation(rows)
            found += [(group, rows[start : start + self.size]) for start in range(0, len(rows), self.size)]
        return (found[i] for i in self.rng.permutation(len(found)))


class Autoencoder(nn.Module):
    """Wide, narrow, wide, from log(1 + rate) to the same: G → hidden → n_latent → hidden → G."""

    def __init__(self, n_vars: int, hidden: int, n_latent: int, *, positive: bool) -> None:
        super().__init__()
        self.encoder = Dense((n_vars, hidden, n_latent))
        self.decoder = Dense((n_latent, hidden, n_vars), last="none")
        self.positive = positive

    def start_at(self, rates: np.ndarray) -> None:
        """Reconstruct this rate of each gene, (n_vars,), before any training."""
        with torch.no_grad():
            self.decoder.layers[-1].bias.copy_(torch.from_numpy(np.log(np.maximum(rates, LEAST))))

    def forward(self, x: Tensor) -> Tensor:
        out = self.decoder(self.encoder(x))
        return softplus(out.clamp(LOG_RATE[0], LOG_RATE[1])) if self.positive else out.relu()

    def errors(self, shown: Tensor, target: Tensor, size: Tensor) -> Tensor:
        """Loss of each entry: of the counts size · (exp(target) − 1), or squared."""
        if not self.positive:
            return (self(shown) - target).square()
        log_rate = self.decoder(self.encoder(shown)).clamp(LOG_RATE[0], LOG_RATE[1])
        return size * (log_rate.exp() - target.expm1() * log_rate)
