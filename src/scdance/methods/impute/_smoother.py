"""What the imputers share that average similar cells: where cells lie, and shares of counts that become rates."""

from __future__ import annotations

from typing import Any, Literal, Self, cast

import numpy as np
import scipy.sparse as sp

from scdance._checks import InputError
from scdance._core.cells import Cells
from scdance.pp import PCA, Recipe, project

from ._imputer import Imputer, Rates

GENES = 64  # averaged several times at once, which is what is dense

Space = Literal["shares", "root", "log"]


class Smoother(Imputer):
    """Base of the imputers that average over similar cells, close in principal components.

    What is averaged are shares of the counts, not their logarithms: the mean of logarithms is less than the logarithm
    of the mean, the more so the shallower the cells. The average share times the depth of a cell is its expected
    count.

    Parameters
    ----------
    n_components
        Number of principal components, of log-normalised counts of all genes, in which cells are compared.
    """

    n_components: int = 50

    needs = ("lognorm",)
    uses = ("counts",)
    inductive = False
    recipe = Recipe(normalize_total={}, log1p={})

    def check(self) -> None:
        super().check()
        if self.n_components < 1:
            msg = f"n_components is {self.n_components}, but must be at least 1."
            raise InputError(msg)

    def fit(self, *, cells: Cells) -> Self:
        pca = PCA(self.n_components, random_state=self.random_state)
        pca.fit(cells.dense_blocks, (cells.n_obs, cells.n_vars))
        self.mean_, self.components_ = pca.mean_, pca.components_
        return self

    def place(self, cells: Cells) -> np.ndarray:
        """Principal components of the cells, (n_obs, n_components)."""
        return project(cells.dense_blocks(), self.mean_, self.components_)

    def averaged(self, cells: Cells, weights: sp.csr_matrix, times: int = 1, space: Space = "shares") -> Rates:
        """Rates from values averaged by `weights`, (n_obs, n_obs) with rows that sum to 1, so many times.

        What is averaged are shares of the counts, or roots or logarithms of counts at the median depth.
        """
        if cells.prep.log_input:
            values, back = cast("Any", cells.x)[:], _same
            scale = np.ones(cells.n_obs, dtype=np.float32)
        else:
            depth = np.asarray(cells.depth)
            unit = 1.0 if space == "shares" else float(np.median(depth))
            scale = (depth / unit).astype(np.float32)
            forth, back = SPACES[space]
            values = sp.diags_array(1 / scale).tocsr() @ cast("Any", cells.counts)[:]
            values.data = forth(values.data)
        if times == 1:
            return lambda rows: back((weights[rows] @ values).toarray()) * scale[rows, None]
        if times == 0:
            return lambda rows: back(values[rows].toarray()) * scale[rows, None]
        out, columns = np.empty(values.shape, dtype=np.float32), values.tocsc()
        for start in range(0, values.shape[1], GENES):
            some = columns[:, start : start + GENES].toarray()
            for _ in range(times):
                some = weights @ some
            out[:, start : start + GENES] = back(some)
        return lambda rows: out[rows] * scale[rows, None]


def _same(x: np.ndarray) -> np.ndarray:
    return x


SPACES: dict[str, tuple[Any, Any]] = {
    "shares": (_same, _same),
    "root": (np.sqrt, np.square),
    "log": (np.log1p, np.expm1),
}
