"""What nets share that take all features of a modality: the preprocessing of the source, and means to start at."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from scdance._core.cells import Cells
from scdance.pp import Recipe
from scdance.train import slices

ROLES = ("source", "target")
CLIP = 10.0  # standard deviations


def recipes(n_top_genes: int | None, n_top_peaks: int | None, *, scale: bool) -> dict[str, Recipe]:
    """Preprocessing of the source by kind; of genes and peaks those with the largest deviance (None: all).

    `scale` brings each gene or protein to mean 0 and variance 1; peaks are open or not.
    """
    scaled: dict[str, Any] = {"center_scale": {"clip": CLIP}} if scale else {}
    return {
        "rna": Recipe(normalize_total={}, log1p={}, select_genes={"n_top": n_top_genes}, **scaled),
        "prot": Recipe(clr={}, **scaled),
        "atac": Recipe(select_genes={"n_top": n_top_peaks}, binarize={}),
    }


def means(cells: Cells, rows: np.ndarray) -> torch.Tensor:
    """Mean of each feature over the cells at `rows`, after the whole recipe, (n_vars,) float32."""
    total = sum(cells.dense(rows[here]).sum(axis=0, dtype=np.float64) for here in slices(len(rows)))
    return torch.as_tensor(total / len(rows), dtype=torch.float32)
