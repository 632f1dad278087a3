"""What count models need of all cells before they train."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch

from scdance._core.cells import Cells
from scdance.pp import blocks


def relative_depth(cells: Cells, device: torch.device | str = "cpu") -> torch.Tensor:
    """Depth of each cell relative to that of the median cell.

    Parameters
    ----------
    cells
        The cells, with their depth.
    device
        Where the tensor lies.

    Returns
    -------
    The size factor of each cell, (n_obs,) float32.

    Examples
    --------
    >>> relative_depth(cells).median()  # doctest: +SKIP
    tensor(1.)
    """
    depth: Any = cells.depth
    return torch.as_tensor(depth / np.median(depth), dtype=torch.float32, device=device)


def mean_counts(cells: Cells) -> torch.Tensor:
    """Mean count of each gene in a cell of median depth.

    Parameters
    ----------
    cells
        The cells, with counts.

    Returns
    -------
    Counts, (n_vars,) float32; at least 1e-5, so that their logarithm can be taken.

    Examples
    --------
    >>> mean_counts(cells).shape  # doctest: +SKIP
    torch.Size([2000])
    """
    depth, counts = cast("tuple[Any, Any]", (cells.depth, cells.counts))
    total = sum((np.asarray(block.sum(axis=0, dtype=np.float64)).ravel() for _, block in blocks(counts)), start=0.0)
    return torch.as_tensor(np.maximum(total * np.median(depth) / depth.sum(), 1e-5), dtype=torch.float32)
