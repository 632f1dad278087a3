"""scANVI by scvi-tools: scVI that some known types shape."""

from __future__ import annotations

from typing import Any

import numpy as np

from scdance._checks import warn, whole_number
from scdance._core.cells import Cells

from ._scvi import OfScvi

UNKNOWN = "unlabelled"


class ScANVI(OfScvi):
    """Explain counts by place and batch, with a prior for each known type, by scvi-tools [Xu2021]_.

    It starts from a trained scVI; then each type gets a distribution of its own in the space, and a classifier says
    which one a cell without a type belongs to.

    When to use
    -----------
    As scVI, where types of some cells are known (`labels_key=`) and shall lie together.

    When not
    --------
    To find out whether types lie together: it is told. Score it by the cells without a label. Without a GPU, and for
    new cells or log-normalised values, as scVI.

    Differs from the paper
    ----------------------
    Nothing of the model: it is the authors' own, with the numbers of scVI here. Genes are those that vary within the
    batches.

    Parameters
    ----------
    n_layers
        Hidden layers of encoder and decoder.
    further_epochs
        Passes after those of scVI.
    """

    n_layers: int = 2
    further_epochs: int = 20

    cite = "Xu2021"
    uses = ("labels",)

    def check(self) -> None:
        super().check()
        whole_number(self.further_epochs, "further_epochs", least=1)

    def embed(self, cells: Cells, adata: Any) -> np.ndarray:
        import pandas as pd

        model = self.scvi.model
        codes = np.full(cells.n_obs, -1) if cells.labels is None else cells.labels
        adata.obs["type"] = pd.Categorical(np.array([*(cells.categories or ()), UNKNOWN])[codes])
        model.SCVI.setup_anndata(adata, batch_key="batch", labels_key="type")
        start = model.SCVI(adata, n_latent=self.n_latent, n_layers=self.n_layers, gene_likelihood="nb")
        self.trained(start, plan_kwargs={"lr": self.lr})
        if codes.max() < 0:
            warn("No type is known, so this is the space of scVI; pass the column with some types as `labels_key=`.")
            return np.asarray(start.get_latent_representation())
        made = model.SCANVI.from_scvi_model(start, unlabeled_category=UNKNOWN)
        return np.asarray(self.trained(made, max_epochs=self.further_epochs).get_latent_representation())
