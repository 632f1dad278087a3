from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scdance._checks import InputError, listed, whole_number
from scdance._core.task import ANNOTATE
from scdance._core.write import record_of

from ._shared import single

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

CHARACTER = 0.085  # inches that a letter of a name takes
MOST_COLORS = 0.98  # quantile of the weights at which the colours end


def markers(adata: AnnData, key: str, *, n_genes: int = 3, ax: Axes | None = None) -> Axes:
    """Draw the genes that spoke for each type in an annotation.

    Linear methods tell the weight of each gene; of the others the genes are shown whose expression goes along with the
    probability of the type in the reference. That is what the model used, not what defines the type: compare with
    markers that you trust.

    Parameters
    ----------
    adata
        Object that holds the annotation.
    key
        The ``key_added`` of the run, or the name of its method.
    n_genes
        Genes of each type, at least 1.
    ax
        Axes to draw on. None: a new figure.

    Returns
    -------
    The Axes: types in rows, genes in columns; empty where a gene is not among the top 25 of a type.

    Raises
    ------
    InputError
        If the run has no markers.

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.load("pbmc_demo")
    >>> ref, query = adata[:500].copy(), adata[500:].copy()
    >>> sd.tl.annotate(query, ref, method="svm", labels_key="cell_type")
    >>> ax = sd.pl.markers(query, "svm")
    """
    whole_number(n_genes, "n_genes", least=1)
    notes = record_of(adata, ANNOTATE, key).get("notes", {})
    if "markers" not in notes:
        runs = adata.uns.get("scdance", {}).get(ANNOTATE.name, {})
        msg = f"There are no markers of a run {key!r}; runs of annotate: {listed(runs)}."
        raise InputError(msg)
    table = pd.DataFrame({name: np.asarray(values) for name, values in notes["markers"].items()})
    types = list(dict.fromkeys(table["type"]))
    genes = list(dict.fromkeys(table.loc[table["rank"] <= n_genes, "gene"]))
    shown = table.pivot_table(index="type", columns="gene", values="weight").reindex(index=types, columns=genes)
    beside, below = (CHARACTER * max(map(len, names)) for names in (types, genes))
    ax = single(ax, (1.6 + beside + 0.24 * len(genes), 0.6 + below + 0.26 * len(types)))
    top = max(float(np.nanquantile(shown.to_numpy(), MOST_COLORS)), 1e-12)
    image = ax.imshow(shown.to_numpy(), cmap="Blues", vmin=0, vmax=top, aspect="auto")
    ax.figure.colorbar(image, ax=ax, label="weight", shrink=0.8)
    ax.set_xticks(range(len(genes)), genes, rotation=90)
    ax.set_yticks(range(len(types)), types)
    ax.tick_params(length=0)
    return ax
