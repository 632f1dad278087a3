"""Harmony by its own package: clusters in which every batch has its share, and corrections towards them."""

from __future__ import annotations

import logging

import numpy as np

from scdance._checks import InputError, whole_number
from scdance._core.cells import Cells

from ._decomposed import Decomposed


class Harmony(Decomposed):
    """Move principal components until batches mix within soft clusters, by harmonypy [Korsunsky2019]_.

    Cells are grouped softly under a penalty on groups that a batch dominates; within each group a linear model takes
    the batches off; and both are repeated.

    When to use
    -----------
    As the first choice: it is fast, keeps types apart and is hard to beat.

    When not
    --------
    New cells, or corrected expression: use ``"davae"``. Batches without any type in common.

    Differs from the paper
    ----------------------
    Nothing: it is the authors' method in Python, on principal components of genes that vary within the batches.

    Parameters
    ----------
    theta
        Weight of the penalty on groups that a batch dominates, ≥ 0; 0: none.
    max_iter
        Most rounds of grouping and correcting.
    """

    theta: float = 2.0
    max_iter: int = 10

    cite = "Korsunsky2019"
    inductive = False
    keeps = ("embedding_",)

    def check(self) -> None:
        super().check()
        whole_number(self.max_iter, "max_iter", least=1)
        if self.theta < 0:
            msg = f"theta={self.theta!r}, but it must be at least 0."
            raise InputError(msg)

    def learn_space(self, cells: Cells) -> None:
        super().learn_space(cells)
        z = super().place(cells)
        if len(cells.batch_names or ()) > 1:
            z = self._mixed(z, np.array(cells.batch_names)[cells.batch])
        self.embedding_ = z.astype(np.float32)

    def place(self, cells: Cells) -> np.ndarray:
        return self.embedding_

    def _mixed(self, z: np.ndarray, batch: np.ndarray) -> np.ndarray:
        import harmonypy
        import pandas as pd

        told = logging.getLogger("harmonypy")
        level = told.level
        told.setLevel(logging.WARNING)
        try:
            fitted = harmonypy.run_harmony(
                z.astype(np.float64), pd.DataFrame({"batch": batch}), "batch", theta=self.theta,
                max_iter_harmony=self.max_iter, random_state=self.random_state, verbose=False,
            )  # fmt: skip
        finally:
            told.setLevel(level)
        found = np.asarray(fitted.Z_corr)
        return found if found.shape == z.shape else found.T  # the orientation differs between versions
