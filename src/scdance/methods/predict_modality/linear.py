"""Truncated SVD of both sides and least squares between them: the floor of what a straight line finds."""

from __future__ import annotations

import numpy as np

from scdance._core.cells import Cells, Pair
from scdance.pp import Recipe

from ._predictor import Answers, Predictor, target_of
from ._reduced import components, recipes, scores

TINY = 1e-10  # of the largest singular value: what is smaller is no direction of the cells


class Linear(Predictor):
    """Regress the scores of the target on those of the source by least squares [Lance2022]_.

    Both modalities are reduced by a truncated singular value decomposition of the cells that teach. The scores of the
    target are a linear function, with intercept, of the scores of the source, and are turned back into features by the
    loadings.

    Parameters
    ----------
    n_source, n_target
        Components of each modality, fewer where there are fewer cells; where a modality has no more features, or
        with None, the features themselves.
    n_top_genes, n_top_peaks
        Genes or peaks of the source with the largest deviance that are kept; None: all.

    When to use
    -----------
    As the floor of every table, and where a prediction has to be explained: it is a matrix.

    When not
    --------
    Where the relation bends, as between cell types: methods with a kernel or a net are closer on most data.

    Differs from the paper
    ----------------------
    The organisers' linear baseline; proteins and open chromatin as a source are normalised by centred log ratio and
    by term frequency and inverse document frequency, and an intercept is fitted. Fewer cells than components
    have the least-squares solution of smallest norm.
    """

    n_source: int | None = 50
    n_target: int | None = 50
    n_top_genes: int | None = None
    n_top_peaks: int | None = 30_000

    cite = "Lance2022"
    control = True
    presets = {"paper": {"n_top_peaks": None}}

    @property
    def recipe(self) -> dict[str, Recipe]:  # type: ignore[override]
        return recipes(self.n_top_genes, self.n_top_peaks)

    def prepare(self, pair: Pair, rows: np.ndarray) -> None:
        seed = self.random_state
        self.loadings_ = {
            "source": components(pair.source, rows[:, 0], self.n_source, random_state=seed),
            "target": components(target_of(pair), rows[:, 1], self.n_target, random_state=seed),
        }
        self.coefficients_: list[np.ndarray] = []

    def fit_one(self, member: int, pair: Pair, rows: np.ndarray, valid: np.ndarray) -> None:
        target = target_of(pair)
        x = _with_one(scores(pair.source, rows[:, 0], self.loadings_["source"])).astype(np.float64)
        y = scores(target, rows[:, 1], self.loadings_["target"]).astype(np.float64)
        self.coefficients_.append(np.linalg.lstsq(x, y, rcond=TINY)[0].astype(np.float32))

    def answers(self, member: int, source: Cells) -> Answers:
        def of(rows: slice) -> np.ndarray:
            x = _with_one(scores(source, rows, self.loadings_["source"]))
            return x @ self.coefficients_[member] @ self.loadings_["target"]

        return of


def _with_one(x: np.ndarray) -> np.ndarray:
    return np.column_stack([x, np.ones(len(x), dtype=x.dtype)])
