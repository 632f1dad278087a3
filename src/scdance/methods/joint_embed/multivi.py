"""MultiVI by scvi-tools: a variational autoencoder of RNA, open chromatin and proteins."""

from __future__ import annotations

from typing import Any

import numpy as np

from scdance._checks import InputError, listed
from scdance._core.cells import Pair

from ._route import batch_of
from ._scvi import OfScvi, by_kind, counts_of

LAYERS = {"rna": "rna_layer", "atac": "atac_layer", "prot": "protein_layer"}  # what the model calls them, in its order


class MultiVI(OfScvi):
    """Explain counts of genes and whether regions are open by one place of a cell, by scvi-tools [Ashuach2023]_.

    Each modality has an encoder; where a cell has both, its place is the mean of what they say, and a penalty holds the
    two together. Genes are decoded as negative binomial with more zeros, regions as open or not, proteins as cell or
    background. The batch is known to the decoder. A cell that lacks a modality takes part, and is placed by the other.

    When to use
    -----------
    Multiome beside cells that have one of the two only, with several batches (`batch_key=`). A GPU.

    When not
    --------
    Without a GPU and with ten thousand cells or more: hundreds of epochs take an hour. RNA with proteins: it runs, but
    ``"totalvi"`` was made for that. New cells.

    Differs from the paper
    ----------------------
    Nothing of the model: it is the authors' own. The space has 20 dimensions whatever the number of regions, and the
    learning rate is ten times theirs, with which few cells are far from learnt when the epochs end. Genes and regions
    are chosen by deviance.

    Parameters
    ----------
    n_top_peaks
        Peaks with the largest deviance that are kept; None: all.
    """

    n_top_peaks: int | None = 10_000
    epochs: int = 500
    lr: float = 1e-3
    batch_size: int = 128

    cite = "Ashuach2023"
    presets = {"paper": {"n_top_genes": None, "n_top_peaks": None, "lr": 1e-4}}

    def check_cells(self, cells: Pair) -> None:
        super().check_cells(cells)
        if len(by_kind(cells)) < 2:
            msg = (
                f"multivi joins two kinds of {listed(LAYERS)}, but both modalities are {listed(by_kind(cells))}. Name "
                "others as `source=` and `target=`."
            )
            raise InputError(msg)

    def model(self, scvi: Any, pair: Pair) -> tuple[Any, np.ndarray]:
        import anndata
        import mudata
        import pandas as pd

        batch = pd.Categorical(batch_of(pair).astype(str))
        obs = pd.DataFrame({"batch": batch}, index=[str(i) for i in range(pair.n_obs)])
        parts = {kind: by_kind(pair)[kind] for kind in LAYERS if kind in by_kind(pair)}
        mods = {}
        for kind, (cells, at) in parts.items():
            var = pd.DataFrame(index=[f"{kind}_{i}" for i in range(cells.n_vars)])
            mods[kind] = anndata.AnnData(counts_of(cells, at), obs=obs.copy(), var=var)
        mdata = mudata.MuData(mods)
        layers = {LAYERS[kind]: kind for kind in parts}
        scvi.model.MULTIVI.setup_mudata(mdata, batch_key="batch", modalities={**layers, "batch_key": next(iter(parts))})
        return scvi.model.MULTIVI(mdata, n_latent=self.n_latent), np.arange(pair.n_obs)
