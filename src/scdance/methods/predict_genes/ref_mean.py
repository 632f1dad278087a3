"""The mean of the reference: the floor that knows the genes, but nothing of the cell."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from scdance._core.cells import Cells
from scdance._core.method import Method
from scdance.pp import mean_and_sd


class RefMean(Method):
    """Expect of every cell the mean expression of the reference [Li2022]_.

    Genes differ much more than cells do, so the error of this answer is not bad; but it says the same of all cells.

    When to use
    -----------
    As the floor of every table of errors: a method whose error is above is worse than no look at the cells at all.

    When not
    --------
    To tell cells apart: its correlation with what was measured is 0 for each gene.

    Differs from the paper
    ----------------------
    The benchmark of imputing methods has no such row; the mean is that of log-normalised values.
    """

    cite = "Li2022"
    needs = ("lognorm",)
    control = True
    order_free = True

    def fit(self, *, ref: Cells, cells: Cells) -> Self:
        self.mean_ = mean_and_sd(ref.target.x)[0].astype(np.float32)  # type: ignore[union-attr]
        return self

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        return {"prediction": np.repeat(self.mean_[None], cells.n_obs, axis=0)}
