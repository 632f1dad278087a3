"""Scanorama by its own package: panoramas of batches by mutual neighbours."""

from __future__ import annotations

import numpy as np

from scdance._checks import package, whole_number
from scdance._core.adapter import Adapter, contained
from scdance._core.cells import Cells

from ._integrator import Integrator


class Scanorama(Adapter, Integrator):
    """Join batches where cells are each other's nearest, and move them towards these matches [Hie2019]_.

    Cells of all pairs of batches are matched in a common singular value decomposition; batches are merged in the order
    of how many of their cells are matched, each moved by smoothed differences of its matches.

    When to use
    -----------
    Batches that hold different types: what has no match is not moved. Without a GPU.

    When not
    --------
    New cells. Batches that share no type, where it finds chance matches.

    Differs from the paper
    ----------------------
    Nothing: it is the authors' package, on genes that vary within the batches.

    Parameters
    ----------
    n_latent
        Dimensions of the space.
    n_neighbors
        Neighbours among which matches are looked for.
    """

    n_latent: int = 50
    n_neighbors: int = 20

    cite = "Hie2019"
    extras = (("scanorama", "scanorama"),)
    exempt = {"memory_grows_with_the_cells": "the package holds the matches of all pairs of batches"}

    def check(self) -> None:
        super().check()
        for name in ("n_latent", "n_neighbors"):
            whole_number(getattr(self, name), name, least=1)

    def learn_space(self, cells: Cells) -> None:
        scanorama = package("scanorama", extra="scanorama", why=self.name)
        x, batch = cells.part().x, np.asarray(cells.batch)
        rows = [np.flatnonzero(batch == code) for code in np.unique(batch)]
        genes = cells.var_names.tolist()
        with contained(self.name, loud=bool(self.runtime.progress)):
            found, _ = scanorama.integrate(
                [x[here] for here in rows], [genes] * len(rows), dimred=min(self.n_latent, cells.n_vars - 1),
                knn=self.n_neighbors, seed=self.random_state, verbose=False,
            )  # fmt: skip
        self.embedding_ = np.zeros((cells.n_obs, found[0].shape[1]), dtype=np.float32)
        for here, z in zip(rows, found, strict=True):
            self.embedding_[here] = z

    def place(self, cells: Cells) -> np.ndarray:
        return self.embedding_
