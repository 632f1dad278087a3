"""totalVI by scvi-tools: a variational autoencoder of RNA and proteins."""

from __future__ import annotations

from typing import Any

import numpy as np

from scdance._checks import InputError, listed
from scdance._core.cells import Pair
from scdance.train import slices

from ._route import batch_of
from ._scvi import OfScvi, by_kind, counts_of


class TotalVI(OfScvi):
    """Explain the counts of genes and proteins by one place of a cell, by scvi-tools [Gayoso2021]_.

    An encoder of both says where a cell lies; from there genes are decoded as negative binomial, and proteins as a
    mixture of two of those, for a count is either of the cell or background. The batch is known to encoder and decoder,
    so that the place need not tell it. Cells without proteins take part, as a batch that lacks them.

    When to use
    -----------
    CITE-seq, above all with several batches (`batch_key=`), of which some may lack the proteins. A GPU.

    When not
    --------
    Without a GPU and with ten thousand cells or more: hundreds of epochs take an hour. RNA with chromatin: use
    ``"multivi"``. New cells.

    Differs from the paper
    ----------------------
    Nothing of the model: it is the authors' own, with its numbers. Genes are chosen by deviance. A cell without RNA is
    placed by a linear regression on its proteins.
    """

    n_top_genes: int | None = 4000

    cite = "Gayoso2021"

    def check_cells(self, cells: Pair) -> None:
        super().check_cells(cells)
        if set(by_kind(cells)) != {"rna", "prot"}:
            msg = (
                f"totalvi joins RNA with proteins, but these modalities are {listed(by_kind(cells))}. Name others as "
                '`source=` and `target=`, or take "multivi".'
            )
            raise InputError(msg)

    def model(self, scvi: Any, pair: Pair) -> tuple[Any, np.ndarray]:
        import anndata
        import pandas as pd

        (rna, of_rna), (prot, of_prot) = (by_kind(pair)[kind] for kind in ("rna", "prot"))
        at = np.flatnonzero(of_rna >= 0)
        # the model takes proteins that are 0 throughout a batch as not measured
        lacks = np.where(of_prot[at] >= 0, "", " without proteins")
        batch = np.char.add(batch_of(pair)[at].astype(str), lacks)
        obs = pd.DataFrame({"batch": pd.Categorical(batch)}, index=at.astype(str))
        adata = anndata.AnnData(counts_of(rna, of_rna[at]), obs=obs)
        proteins = counts_of(prot, of_prot[at])
        adata.obsm["proteins"] = np.concatenate([proteins[here].toarray() for here in slices(len(at))])
        scvi.model.TOTALVI.setup_anndata(adata, protein_expression_obsm_key="proteins", batch_key="batch")
        return scvi.model.TOTALVI(adata, n_latent=self.n_latent), at
