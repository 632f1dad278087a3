from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scdance._checks import InputError, MissingKeyError, listed

from ._shared import GREY, axes, colors, groups, in_order

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

LEGEND_ROWS = 16


def embedding(
    adata: AnnData,
    key: str,
    *,
    truth: str | None = None,
    basis: str | None = None,
    ax: Axes | np.ndarray | None = None,
) -> Axes | np.ndarray:
    """Draw the cells in two dimensions, coloured by the clusters or labels of a run.

    The first two dimensions of a latent space of many say little; compute a UMAP on it and pass that as
    `basis`, as the example shows.

    Parameters
    ----------
    adata
        Object that holds the result.
    key
        The ``key_added`` of the run, or the name of its method; any column of ``obs`` with groups works.
    truth
        Column of ``obs`` with the known types, drawn in a second panel.
    basis
        Key of ``obsm``, (n_obs, at least 2); ``"umap"`` means ``"X_umap"``. None: the embedding of the run,
        ``f"X_{key}"``.
    ax
        Axes to draw on, two of them with `truth`. None: a new figure.

    Returns
    -------
    The Axes; with `truth` an array of two.

    Raises
    ------
    MissingKeyError
        If a column or the embedding is not in the object; the message says what is.
    InputError
        If the embedding has one dimension only, or a column holds numbers instead of groups.

    Examples
    --------
    >>> import scanpy as sc, scdance as sd
    >>> adata = sd.datasets.load("pbmc_demo")
    >>> sd.tl.cluster(adata, method="kmeans", n_clusters=8)
    >>> sc.pp.neighbors(adata, use_rep="X_kmeans")
    >>> sc.tl.umap(adata)
    >>> panels = sd.pl.embedding(adata, "kmeans", truth="cell_type", basis="umap")
    """
    name = _basis(adata, key, basis)
    x = np.asarray(adata.obsm[name])[:, :2]
    keys = [key] if truth is None else [key, truth]
    columns = [groups(adata, column, what="groups of the cells") for column in keys]
    _, panels = axes(ax, 1, len(keys), (5.0, 3.8))
    for panel, column, labels in zip(panels[0], keys, columns, strict=True):
        palette = colors(adata, column, labels.categories)
        _scatter(panel, x, labels.codes, palette)
        shown = [(str(labels.categories[i]), palette[i]) for i in in_order(labels.categories)]
        _legend(panel, shown + [("missing", GREY)] * bool((labels.codes < 0).any()))
        panel.set_title(column)
        title = name.removeprefix("X_")
        panel.set(xlabel=f"{title} 1", ylabel=f"{title} 2", xticks=[], yticks=[])
    return panels[0, 0] if truth is None else panels[0]


def _basis(adata: AnnData, key: str, basis: str | None) -> str:
    wanted = key if basis is None else basis
    name = next((n for n in (wanted, f"X_{wanted}") if basis is not None and n in adata.obsm), f"X_{wanted}")
    if name not in adata.obsm:
        msg = (
            f"No {name!r} in `adata.obsm`; it has {listed(adata.obsm.keys())}. "
            "Pass the one to draw as `basis=`, such as basis='umap' after scanpy.tl.umap."
        )
        raise MissingKeyError(msg)
    shape = adata.obsm[name].shape
    if len(shape) != 2 or shape[1] < 2:
        msg = f"`adata.obsm[{name!r}]` has shape {shape}; a figure needs two dimensions. Pass another `basis=`."
        raise InputError(msg)
    return name


def _scatter(ax: Axes, x: np.ndarray, codes: np.ndarray, palette: list[str]) -> None:
    """All cells in one layer and in random order, so that no group hides the others."""
    order = np.random.default_rng(0).permutation(len(x))
    color = np.array([*palette, GREY])[codes[order]]  # code -1 is the last: grey
    size = np.clip(12_000 / max(len(x), 1), 0.5, 20)
    ax.scatter(x[order, 0], x[order, 1], c=color, s=size, linewidths=0, rasterized=True)


def _legend(ax: Axes, shown: list[tuple[str, str]]) -> None:
    for name, shade in shown:
        ax.scatter([], [], c=shade, s=25, linewidths=0, label=name)
    ax.legend(
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        frameon=False,
        ncols=1 + (len(shown) - 1) // LEGEND_ROWS,
        handletextpad=0.2,
        columnspacing=0.8,
        fontsize="small",
    )
