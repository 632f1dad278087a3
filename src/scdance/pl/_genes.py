from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scdance._checks import InputError, MissingKeyError, listed, nearest, one_of
from scdance._core.measured import measured
from scdance._core.task import PREDICT_GENES
from scdance.metrics import score_genes
from scdance.pp import SPARSITY_BINS

from ._shared import GREY, axes
from ._tissue import TITLE_HEIGHT, as_tissue, check_adata, coordinates, draw_spots, height, radius_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes

WIDTH = 3.6  # inches of a panel
MOST_GENES = 4  # drawn in space
ENDS = (1.0, 99.0)  # percentiles at which the colours of a gene begin and end: a few cells would leave the others dark
LOWEST = 0.75  # height of a panel with axes per width
MARGIN = 0.02  # of the axis, beside 0 and 1
DARK, STRONG = "#08519c", "#cb181d"  # genes, and their means


def held_out_genes(
    adata: AnnData,
    key: str,
    truth: AnnData | None = None,
    *,
    genes: Sequence[str] | None = None,
    spatial_key: str = "spatial",
    size: float | None = None,
    ax: Axes | np.ndarray | None = None,
) -> Axes | np.ndarray:
    """Draw how well held-out genes were predicted, by how rare they are, and some of them in space.

    The first panel has a point for each gene: the correlation of prediction and measurement over the cells, by the
    share of the cells in which nothing of it was counted. Red lines are the means of four bins of that share, with the
    number of genes. Rare genes correlate less even where the prediction is right, as their counts are mostly noise. For
    up to four genes the measured values stand above the predicted ones, each on a scale of its own from the first to
    the 99th percentile, as a mean of many cells varies less than counts do. To draw one slice of tissue, pass its cells
    alone.

    Parameters
    ----------
    adata
        Object into which :func:`scdance.tl.predict_genes` wrote.
    key
        The ``key_added`` of the run, or the name of its method.
    truth
        AnnData with what was measured of the genes, cells under the same names. None: `adata` itself.
    genes
        Names of up to four genes to draw in space. None: the four with the largest correlation where there are
        coordinates; ``[]``: the first panel alone.
    spatial_key
        Key of ``obsm`` with the coordinates, (n_obs, at least 2), as in the image: y points down.
    size
        Diameter of a cell in units of the coordinates; None: 0.9 of the median distance between neighbours.
    ax
        Axes to draw on, one per panel: (2, 1 + n_genes), or one. None: a new figure.

    Returns
    -------
    The Axes: with genes in space an array, (2, 1 + n_genes), whose first one of the second row is empty.

    Raises
    ------
    KeyError
        No such run, or no coordinates for genes that were named.
    ValueError
        No such gene, more than four, or none that was measured.

    Examples
    --------
    >>> import scdance as sd
    >>> adata, ref = sd.datasets.toy_panel()
    >>> sd.tl.predict_genes(adata, ref, genes=adata.var_names[:20])
    >>> panels = sd.pl.held_out_genes(adata, "knn")
    """
    name = PREDICT_GENES.gives["prediction"].name.format(key=key)
    check_adata(adata, name)
    if name not in adata.obsm:
        msg = (
            f"No {name!r} in `adata.obsm`, which has {listed(adata.obsm)}.{nearest(name, map(str, adata.obsm))} Pass "
            f"the `key_added` of a run of `scdance.tl.{PREDICT_GENES.name}`, or the name of its method."
        )
        raise MissingKeyError(msg)
    scores = score_genes(adata, key=key, truth=truth)
    if genes is None:
        best = scores["pearson"].nlargest(MOST_GENES).index
        genes = list(best) if spatial_key in adata.obsm else []
    names = [one_of(gene, scores.index, "Gene") for gene in ([genes] if isinstance(genes, str) else genes)]
    if len(names) > MOST_GENES:
        msg = f"{len(names)} genes were named, but at most {MOST_GENES} are drawn; call again for the others."
        raise InputError(msg)
    if not names:
        panel = axes(ax, 1, 1, (WIDTH + 1, WIDTH))[1][0, 0]
        _by_sparsity(panel, scores)
        return panel
    found = measured(adata, PREDICT_GENES, key, truth)
    xy = coordinates(adata, spatial_key)[found["rows"]]
    _, panels = axes(ax, 2, 1 + len(names), (WIDTH, WIDTH * max(height(xy), LOWEST) + TITLE_HEIGHT))
    _by_sparsity(panels[0, 0], scores)
    panels[1, 0].set_axis_off()
    radius = radius_of(xy, size)
    for column, gene in zip(panels.T[1:], names, strict=True):
        which = found["genes"].tolist().index(gene)
        for panel, part, what in zip(column, ("truth", "prediction"), ("measured", "predicted"), strict=True):
            _in_space(panel, xy, found[part][:, which], radius)
            panel.set_title(f"{gene}, {what}")
        column[1].set_title(f"{gene}, predicted: r = {scores.loc[gene, 'pearson']:.2f}")
    return panels


def _by_sparsity(ax: Axes, scores: pd.DataFrame) -> None:
    """A point for each gene, and the mean of each bin that has one."""
    ax.axhline(0, color=GREY, linewidth=1, zorder=0)
    ax.scatter(scores["sparsity"], scores["pearson"], s=16, color=DARK, alpha=0.6, linewidths=0)
    ends = [0.0, *SPARSITY_BINS, 1.0]
    for end in SPARSITY_BINS:
        ax.axvline(end, color=GREY, linewidth=0.8, linestyle=":", zorder=0)
    low, high = min(float(scores["pearson"].min()), 0.0), max(float(scores["pearson"].max()), 0.1)
    top = high + 0.15 * (high - low)
    for left, right, (_, rows) in zip(ends[:-1], ends[1:], scores.groupby("bin", observed=False), strict=True):
        if len(rows):
            ax.plot([left, right], [rows["pearson"].mean()] * 2, color=STRONG, linewidth=1.5)
            ax.text((left + right) / 2, top, str(len(rows)), ha="center", va="top", fontsize="x-small", color=STRONG)
    ax.set(xlim=(-MARGIN, 1 + MARGIN), ylim=(low - 0.05 * (high - low), top + 0.02 * (high - low)))
    ax.set(xlabel="share of cells without a count", ylabel="correlation over the cells")
    ax.set_title(f"{len(scores)} genes: mean r = {scores['pearson'].mean():.2f}")


def _in_space(ax: Axes, xy: np.ndarray, values: Any, radius: float) -> None:
    """Cells at their places in the colour of a value."""
    low, high = np.percentile(values, ENDS)
    if low == high:  # of a rare gene
        low, high = float(values.min()), max(float(values.max()), float(values.min()) + 1e-6)
    order = np.argsort(values, kind="stable")  # the highest are drawn last
    discs = draw_spots(ax, xy[order], radius, array=values[order], cmap="magma", clim=(low, high))
    bar = ax.figure.colorbar(discs, ax=ax, shrink=0.6, aspect=15)
    bar.outline.set_visible(False)
    as_tissue(ax, xy, radius)
