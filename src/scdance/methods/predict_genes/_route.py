"""What adapters to other packages share: both sides as their objects, and a prediction that is kept."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from scdance._core.adapter import Adapter, contained
from scdance._core.cells import Cells


class Route(Adapter):
    """Base of adapters that predict genes: a subclass writes :meth:`answer`."""

    needs = ("counts",)
    uses = ()
    keeps = ("prediction_",)

    def answer(self, ref: Cells, cells: Cells) -> np.ndarray:
        """The genes that are asked, of the cells in the unit of ``ref.target``, (n_obs, n_genes)."""
        raise NotImplementedError

    def fit(self, *, ref: Cells, cells: Cells) -> Self:
        with contained(self.name, loud=bool(self.runtime.progress)):
            self.prediction_ = np.asarray(self.answer(ref, cells), dtype=np.float32)
        return self

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        return {"prediction": self.prediction_}


def as_object(matrix: Any) -> Any:
    """Values as an AnnData whose cells and genes have numbers for names, the common genes of both sides the same."""
    import anndata
    import pandas as pd

    names = [[f"{what}{i}" for i in range(n)] for what, n in zip(("cell", "gene"), matrix.shape, strict=True)]
    return anndata.AnnData(matrix, *(pd.DataFrame(index=each) for each in names))
