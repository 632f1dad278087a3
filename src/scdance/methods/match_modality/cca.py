"""Canonical correlations of two modalities."""

from __future__ import annotations

import numpy as np

from scdance._checks import whole_number
from scdance._core.cells import Cells, Pair
from scdance.pp import Recipe, canonical_correlations
from scdance.train import components, recipes_to_reduce, scores, target_of

from ._matcher import Matcher


class CCA(Matcher):
    """Match by canonical correlations: the directions of either modality that go together [Hotelling1936]_.

    Both modalities are reduced by a truncated singular value decomposition. Of their scores those combinations are
    sought that correlate most over the pairs that teach, each uncorrelated with the others; a cell lies where its
    combinations put it, each weighted by its correlation.

    When to use
    -----------
    First, and as the floor of what a network must beat: seconds, and nothing to tune.

    When not
    --------
    Where modalities go together in no linear way.

    Differs from the paper
    ----------------------
    The modalities are reduced first, a ridge keeps small variances from counting, and directions are weighted.

    Parameters
    ----------
    n_source, n_target
        Components of each modality, fewer where there are fewer cells; where a modality has no more features, or
        with None, the features themselves.
    n_latent
        Canonical directions at most.
    ridge
        Added to the variances of the scores, as a part of their mean.
    n_top_genes, n_top_peaks
        Genes or peaks with the largest deviance that are kept; None: all.
    """

    n_source: int | None = 100
    n_target: int | None = 100
    n_latent: int = 100
    ridge: float = 0.1
    n_top_genes: int | None = None
    n_top_peaks: int | None = 30_000

    cite = "Hotelling1936"
    control = True
    refits = True

    @property
    def recipe(self) -> dict[str, Recipe]:  # type: ignore[override]
        return recipes_to_reduce(self.n_top_genes, self.n_top_peaks)

    def check(self) -> None:
        super().check()
        whole_number(self.n_latent, "n_latent", least=1)

    def teach(self, pair: Pair, rows: np.ndarray, valid: np.ndarray) -> None:
        sides = (("source", pair.source, self.n_source, 0), ("target", target_of(pair), self.n_target, 1))
        self.loadings_ = {
            role: components(cells, rows[:, side], n, random_state=self.random_state) for role, cells, n, side in sides
        }
        x, y = (scores(cells, rows[:, side], self.loadings_[role]) for role, cells, _, side in sides)
        found = canonical_correlations(x, y, self.n_latent, ridge=self.ridge)
        self.means_ = {"source": x.mean(axis=0), "target": y.mean(axis=0)}
        self.maps_ = {"source": found.x, "target": found.y}

    def places(self, cells: Cells, role: str) -> np.ndarray:
        x = scores(cells, slice(None), self.loadings_[role]) - self.means_[role]
        return x @ self.maps_[role]  # type: ignore[no-any-return]
