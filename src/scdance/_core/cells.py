"""One set of cells as arrays: the only thing that methods receive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from scdance.pp import FittedRecipe, blocks

if TYPE_CHECKING:
    import scipy.sparse as sp

    from scdance.pp import Rows


@dataclass(frozen=True, eq=False)
class Cells:
    """A set of cells. What was not given, or is not in the method's `needs` and `uses`, is None.

    Attributes
    ----------
    x
        Expression after the sparse half of the recipe, (n_obs, n_vars) CSR float32, or for data on disk an
        object with `shape` and ``[rows] -> CSR``.
    counts
        Raw counts of the same genes in the same form, for methods that need counts.
    prep
        The fitted recipe; :meth:`dense` applies its per-batch half.
    rows
        Positions of these cells in the user's object, (n_obs,) int.
    n_obs_in, n_vars_in
        Shape of the user's object.
    obs_names, var_names
        Names of these cells and of the kept genes.
    depth
        Total counts of each cell before gene selection, (n_obs,) float64.
    batch, batch_names
        Batch of each cell as codes, (n_obs,) int32, −1 for one unseen in training; the batches of training.
    graph
        The user's neighbour graph, (n_obs, n_obs) CSR.
    rep
        The user's representation, (n_obs, n_dims) float32.
    extra
        Arrays that a single task names.
    """

    prep: FittedRecipe
    rows: np.ndarray
    n_obs_in: int
    n_vars_in: int
    obs_names: np.ndarray
    var_names: np.ndarray
    x: Rows | None = None
    counts: Rows | None = None
    depth: np.ndarray | None = None
    batch: np.ndarray | None = None
    batch_names: list[str] | None = None
    graph: sp.csr_matrix | None = None
    rep: np.ndarray | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return len(self.rows)

    @property
    def n_vars(self) -> int:
        """Number of genes that the recipe kept."""
        return len(self.var_names)

    def dense(self, rows: Any) -> np.ndarray:
        """Rows of `x`, dense and after the whole recipe, (n, n_vars) float32."""
        if self.x is None:
            msg = "these cells were read without expression"
            raise TypeError(msg)
        return self.prep.dense(self.x[rows])

    def dense_blocks(self, size: int = 1024) -> Iterator[np.ndarray]:
        """All rows in order as dense blocks of at most `size` rows, after the whole recipe."""
        if self.x is None:
            msg = "these cells were read without expression"
            raise TypeError(msg)
        for _, block in blocks(self.x, size):
            yield self.prep.dense(block)
