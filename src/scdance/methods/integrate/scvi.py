"""scVI by scvi-tools: a variational autoencoder of counts."""

from __future__ import annotations

from typing import Any

import numpy as np

from scdance._core.cells import Cells

from ._scvi import OfScvi


class ScVI(OfScvi):
    """Explain the counts of a cell by its place, its depth and its batch, by scvi-tools [Lopez2018]_.

    An encoder says where a cell lies; from there and from the batch its genes are decoded as negative binomial, so that
    the place need not tell the batch.

    When to use
    -----------
    Many cells of many batches, and a GPU; to compare with what others have published.

    When not
    --------
    Without a GPU and with ten thousand cells or more: hundreds of epochs take an hour. New cells, which need the model
    of the package itself. Log-normalised values.

    Differs from the paper
    ----------------------
    Nothing of the model: it is the authors' own, with two layers, 30 dimensions and no further zeros, as their tutorial
    of integration has it. Genes are those that vary within the batches.

    Parameters
    ----------
    n_layers
        Hidden layers of encoder and decoder.
    """

    n_layers: int = 2

    cite = "Lopez2018"

    def embed(self, cells: Cells, adata: Any) -> np.ndarray:
        model = self.scvi.model.SCVI
        model.setup_anndata(adata, batch_key="batch")
        made = model(adata, n_latent=self.n_latent, n_layers=self.n_layers, gene_likelihood="nb")
        return np.asarray(self.trained(made, plan_kwargs={"lr": self.lr}).get_latent_representation())
