"""Linear regression of one modality on the other, and the nearest cells to what it says."""

from __future__ import annotations

import numpy as np

from scdance._core.cells import Cells, Pair
from scdance.pp import Recipe
from scdance.train import components, recipes_to_reduce, scores, target_of

from ._matcher import Matcher


class Linear(Matcher):
    """Regress the scores of the target on those of the source, and match what is said with what is there [Lance2022]_.

    Both modalities are reduced by a truncated singular value decomposition. By least squares over the pairs that
    teach, the standardised scores of the target are a linear function of those of the source; a cell of the source
    lies where that puts it, one of the target at its own scores.

    When to use
    -----------
    As the floor of every table.

    When not
    --------
    Otherwise: ``"cca"`` is as quick and weighs directions by how much they tell.

    Differs from the paper
    ----------------------
    The organisers' baseline has 10 components and weighs 10 neighbours by their distance, and its matrix is
    transposed. Here there are 50 with mean 0 and variance 1, and partners are sought as by all methods.

    Parameters
    ----------
    n_source, n_target
        Components of each modality, fewer where there are fewer cells; where a modality has no more features, or
        with None, the features themselves.
    n_top_genes, n_top_peaks
        Genes or peaks with the largest deviance that are kept; None: all.
    """

    n_source: int | None = 50
    n_target: int | None = 50
    n_top_genes: int | None = None
    n_top_peaks: int | None = 30_000

    cite = "Lance2022"
    control = True
    refits = True

    @property
    def recipe(self) -> dict[str, Recipe]:  # type: ignore[override]
        return recipes_to_reduce(self.n_top_genes, self.n_top_peaks)

    def teach(self, pair: Pair, rows: np.ndarray, valid: np.ndarray) -> None:
        sides = (("source", pair.source, self.n_source, 0), ("target", target_of(pair), self.n_target, 1))
        self.loadings_ = {
            role: components(cells, rows[:, side], n, random_state=self.random_state) for role, cells, n, side in sides
        }
        x, y = (scores(cells, rows[:, side], self.loadings_[role]) for role, cells, _, side in sides)
        self.means_ = {"source": x.mean(axis=0), "target": y.mean(axis=0)}
        self.sd_ = np.maximum(y.std(axis=0), 1e-6)
        of_y = (y - self.means_["target"]) / self.sd_
        self.coefficients_ = np.linalg.lstsq(x - self.means_["source"], of_y, rcond=None)[0].astype(np.float32)

    def places(self, cells: Cells, role: str) -> np.ndarray:
        x = scores(cells, slice(None), self.loadings_[role]) - self.means_[role]
        return x @ self.coefficients_ if role == "source" else x / self.sd_  # type: ignore[no-any-return]
