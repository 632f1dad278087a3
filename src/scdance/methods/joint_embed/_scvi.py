"""What adapters of joint embedding to scvi-tools share: counts as its objects."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from scdance._core.cells import Cells, Pair
from scdance.train import ScviTools, target_of

from ._route import Route


class OfScvi(ScviTools, Route):
    """Base of adapters of joint embedding to scvi-tools: a subclass makes the model."""

    def model(self, scvi: Any, pair: Pair) -> tuple[Any, np.ndarray]:
        """The untrained model, and the positions among the cells of the pair of those that it is given."""
        raise NotImplementedError

    def embed(self, pair: Pair) -> np.ndarray:
        model, at = self.model(self.scvi, pair)
        self.trained(model, lr=self.lr)
        z = np.full((pair.n_obs, self.n_latent), np.nan, dtype=np.float32)
        z[at] = model.get_latent_representation()
        return z


def by_kind(pair: Pair) -> dict[str, tuple[Cells, np.ndarray]]:
    """Each modality by its kind, with the row in it of every cell of the pair."""
    both = zip((pair.source, target_of(pair)), pair.at.T, strict=True)
    return {cells.modality or "": (cells, at) for cells, at in both}


def counts_of(cells: Cells, at: np.ndarray) -> csr_matrix:
    """Counts at these rows, 0 where a row is −1, (n, n_vars) CSR."""
    counts: Any = cells.part().counts
    there = np.flatnonzero(at >= 0)
    place = csr_matrix((np.ones(len(there), np.float32), (there, at[there])), (len(at), cells.n_obs))
    return csr_matrix(place @ counts)
