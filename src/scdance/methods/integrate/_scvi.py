"""What adapters of integration to scvi-tools share: counts as its object."""

from __future__ import annotations

from typing import Any

import numpy as np

from scdance._core.adapter import contained
from scdance._core.cells import Cells
from scdance.train import ScviTools

from ._integrator import Integrator


class OfScvi(ScviTools, Integrator):
    """Base of adapters of integration to scvi-tools: a subclass writes :meth:`embed`."""

    n_latent: int = 30
    lr: float = 1e-3
    batch_size: int = 128

    needs = ("counts", "batch")
    uses = ()

    def embed(self, cells: Cells, adata: Any) -> np.ndarray:
        """Places of the cells of `adata`, counts with batches, (n_obs, n_latent)."""
        raise NotImplementedError

    def learn_space(self, cells: Cells) -> None:
        import anndata
        import pandas as pd

        batch = pd.Categorical(np.array(cells.batch_names)[cells.batch])
        index = [str(i) for i in range(cells.n_obs)]
        adata = anndata.AnnData(cells.part().counts, obs=pd.DataFrame({"batch": batch}, index=index))
        with contained(self.name, loud=bool(self.runtime.progress)):
            self.embedding_ = np.asarray(self.embed(cells, adata), dtype=np.float32)

    def place(self, cells: Cells) -> np.ndarray:
        return self.embedding_
