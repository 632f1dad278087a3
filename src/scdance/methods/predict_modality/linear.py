"""Truncated SVD of both sides and least squares between them: the floor of what a straight line finds."""

from __future__ import annotations

import numpy as np

from scdance._core.cells import Cells, Pair
from scdance.pp import with_one

from ._predictor import Answers
from ._reduced import Reduced

TINY = 1e-10  # of the largest singular value: what is smaller is no direction of the cells


class Linear(Reduced):
    """Regress the scores of the target on those of the source by least squares [Lance2022]_.

    Both modalities are reduced by a truncated singular value decomposition of the cells that teach. The scores of the
    target are a linear function, with intercept, of the scores of the source, and are turned back into features by the
    loadings.

    When to use
    -----------
    As the floor of every table, and where a prediction has to be explained: it is a matrix.

    When not
    --------
    Where the relation bends, as between cell types: methods with a kernel or a net are closer on most data.

    Differs from the paper
    ----------------------
    The organisers' linear baseline; proteins and open chromatin as a source are normalised by centred log ratio and
    by term frequency and inverse document frequency, an intercept is fitted, and the part of the mean that the loadings
    do not hold is added. Fewer cells than components have the least-squares solution of smallest norm.
    """

    control = True

    def prepare(self, pair: Pair, rows: np.ndarray) -> None:
        self.reduce(pair, rows)
        self.coefficients_: list[np.ndarray] = []

    def fit_one(self, member: int, pair: Pair, rows: np.ndarray, valid: np.ndarray) -> None:
        x = with_one(self.given(pair.source, rows[:, 0])).astype(np.float64)
        self.coefficients_.append(np.linalg.lstsq(x, self.wanted(pair, rows), rcond=TINY)[0])

    def answers(self, member: int, source: Cells) -> Answers:
        return lambda rows: self.features(with_one(self.given(source, rows)) @ self.coefficients_[member])
