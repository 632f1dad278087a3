"""Principal components averaged over neighbours: the floor that looks at places."""

from __future__ import annotations

from typing import Self

import numpy as np

from scdance._checks import InputError
from scdance._core.cells import Cells
from scdance.graph import normalize, self_loops, spatial
from scdance.pp import Recipe

from ._domains import Domains, principal_components


class SmoothedPCA(Domains):
    """Find domains by principal components that are averaged over each spot's neighbours [Pearson1901]_.

    Each spot's principal components become the mean over itself and its nearest neighbours in space, `rounds` times;
    the result is divided by a mixture of Gaussians with one covariance. Nothing is trained.

    When to use
    -----------
    First, on any tissue: it takes seconds, and a method that is not better is not worth its time.

    When not
    --------
    Where single cells of different types lie side by side and the type matters, not the region: use
    :func:`scdance.tl.cluster`. Where domains are thinner than three spots, which the average blurs.

    Differs from the paper
    ----------------------
    The paper is that of principal components; their average over neighbours is folklore.

    Parameters
    ----------
    n_neighbors
        Nearest spots that are averaged with each spot.
    rounds
        How often the average is taken.
    n_top_genes
        Genes with the largest deviance that are kept; None: all.
    n_components
        Number of principal components.
    """

    n_neighbors: int = 6
    rounds: int = 2
    n_top_genes: int | None = 3000
    n_components: int = 30

    cite = "Pearson1901"
    control = True

    @property
    def recipe(self) -> Recipe:
        return Recipe(normalize_total={}, log1p={}, select_genes={"n_top": self.n_top_genes})

    def check_cells(self, cells: Cells) -> None:
        super().check_cells(cells)
        most = cells.n_obs if cells.slice is None else int(np.bincount(cells.slice).max())
        if self.rounds and most <= self.n_neighbors + 1:
            msg = (
                f"n_neighbors={self.n_neighbors} averages each spot with all others, as no slice has more than {most}: "
                "they would all be alike. Pass fewer, or use `sd.tl.cluster`, which looks at no places."
            )
            raise InputError(msg)

    def fit(self, *, cells: Cells) -> Self:
        z = principal_components(cells, self.n_components, random_state=self.random_state)
        near = spatial(cells.coords, n_neighbors=self.n_neighbors, slices=cells.slice)
        near.data[:] = 1
        mean = normalize(self_loops(near), "row")
        for _ in range(self.rounds):
            z = mean @ z
        self.divide(z, cells)
        return self
