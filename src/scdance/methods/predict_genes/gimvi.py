"""gimVI by scvi-tools: one variational autoencoder for both sides, which decodes the genes that the panel lacks."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import hstack

from scdance._core.cells import Cells
from scdance.train import ScviTools

from ._route import Route, as_object


class GIMVI(ScviTools, Route):
    """Decode the genes from a space in which cells of both sides lie mixed, by scvi-tools [Lopez2019]_.

    The counts of the reference and those of the panel have encoders of their own into one space, where a discriminator
    that is misled keeps the sides from parting. The decoder knows all genes of the reference, so it can be asked for
    those of a cell of the panel.

    When to use
    -----------
    To compare with what others have published, with a GPU, and where counts should be modelled as counts.

    When not
    --------
    Without a GPU and with ten thousand cells or more. Log-normalised values, and new cells.

    Differs from the paper
    ----------------------
    Nothing of the model: it is the authors' own, which sees of the reference the common genes and those that are asked.
    Its shares of the counts are brought to the unit of the reference by the part of a cell that the common genes are.
    """

    n_latent: int = 10
    epochs: int = 200
    lr: float = 1e-3
    batch_size: int = 128

    cite = "Lopez2019"
    needs = ("counts",)
    uses = ()
    keeps = ("prediction_",)

    def answer(self, ref: Cells, cells: Cells) -> np.ndarray:
        target: Any = ref.target
        both = hstack([ref.part().counts, target.part().counts], format="csr")
        sides = [as_object(each) for each in (both, cells.part().counts)]
        model = self.scvi.external.GIMVI
        for each in sides:
            model.setup_anndata(each)
        made = self.trained(model(*sides, n_latent=self.n_latent), plan_kwargs={"lr": self.lr})
        shares = np.asarray(made.get_imputed_values(normalized=True)[1], dtype=np.float64)
        common, asked = shares[:, : ref.n_vars], shares[:, ref.n_vars :]
        total = np.maximum(common.sum(axis=1, keepdims=True), 1e-12)
        return np.log1p(1e4 * ref.extra["panel"]["share"] * asked / total)
