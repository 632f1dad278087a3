"""Standardised expression of all cells at once, as a factor of products."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix

from scdance._core.cells import Cells
from scdance.graph import Sparse, spmm


class Expression:
    """Expression after the whole recipe as a factor, ``x @ w``; the dense matrix is never made.

    With mean m and standard deviation s of each gene, (X − m) S⁻¹ W = X S⁻¹ W − m S⁻¹ W, of which X is sparse. A
    recipe that clips does so from above only: what the zeros become is not bounded.

    Parameters
    ----------
    cells
        The cells. Of the steps that fill the matrix their recipe may have `center_scale`, and no other.
    device
        Where the tensors lie.

    Raises
    ------
    TypeError
        If the recipe fills the matrix by another step.

    Examples
    --------
    >>> x = Expression(cells)  # doctest: +SKIP
    >>> (x @ torch.ones(cells.n_vars, 8)).shape  # doctest: +SKIP
    torch.Size([4000, 8])
    """

    def __init__(self, cells: Cells, device: torch.device | str = "cpu"):
        whole: Any = cells.part().x
        state: dict[str, Any] = {"mean": np.float32(0), "sd": np.float32(1), "clip": None}
        for name, learnt in cells.prep.filling:
            if name != "center_scale":
                msg = f"{name} cannot be folded into a product"
                raise TypeError(msg)
            state = learnt
        mean, sd = (np.broadcast_to(state[name], whole.shape[1]) for name in ("mean", "sd"))
        values = whole.data / sd[whole.indices]
        if state["clip"] is not None:
            values = np.minimum(values, (mean / sd + state["clip"])[whole.indices])
        self.sparse = Sparse(csr_matrix((values, whole.indices, whole.indptr), shape=whole.shape), device)
        self.shift = torch.from_numpy((mean / sd).astype(np.float32)).to(device)

    def __matmul__(self, w: torch.Tensor) -> Any:
        return spmm(self.sparse, w) - self.shift @ w

    def dropout(self, p: float) -> Expression:
        """The same with a share `p` of the entries unseen, as if they had not been measured, and the rest scaled up."""
        new = object.__new__(Expression)
        new.sparse, new.shift = self.sparse.dropout(p), self.shift
        return new
