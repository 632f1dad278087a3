from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scdance._checks import InputError, MissingKeyError, listed, nearest, whole_number
from scdance._core.task import ATTENTION
from scdance._core.write import record_of, slots_of

from ._shared import GREY, axes, colors, groups, in_order
from ._tissue import (
    MISSING_SHARE,
    TITLE_HEIGHT,
    WIDTH,
    as_tissue,
    check_adata,
    coordinates,
    draw_spots,
    height,
    legend,
    legend_width,
    radius_of,
    slices_of,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from scipy.sparse import csr_matrix

SPOT = 0.6  # of the diameter that spots have in other figures: lines must be seen between them
INK = "0.1"
THINNEST, WIDEST = 0.4, 1.8  # points
ROUNDING = 1e-6  # relative, of p-values that are stored as float32
FAINTEST = 0.3  # opacity of the lightest line


def attention_edges(
    adata: AnnData,
    key: str,
    *,
    color: str | None = None,
    p: float = 0.05,
    top: int | None = None,
    library_key: str | None = None,
    spatial_key: str = "spatial",
    size: float | None = None,
    ax: Axes | np.ndarray | None = None,
) -> Axes | np.ndarray:
    """Draw which cells hear a neighbour more than chance would have it, each cell at its place.

    A line joins two neighbours of which one hears the other with a p-value of at most `p`; those of larger weight are
    darker and wider. Below stands how many there are, and how many there would be if the cells lay at random: a hint,
    not evidence, as :func:`scdance.tl.attention` says.

    Parameters
    ----------
    adata
        Object that holds the result and the coordinates.
    key
        The ``key_added`` of a run of :func:`scdance.tl.attention`, or the name of its method.
    color
        Column of ``obs`` with groups, such as cell types, whose colours the cells get. None: all are grey.
    p
        Largest p-value of a pair, above 0 and at most 1.
    top
        Draw so many of these at most, those of the largest weights, at least 1; None: all.
    library_key
        Column of ``obs`` with the slice of each cell: one panel per slice. None: that of the run.
    spatial_key
        Key of ``obsm`` with the coordinates, (n_obs, at least 2), as in the image: y points down.
    size
        Diameter of a cell in units of the coordinates; None: about half of the median distance between neighbours.
    ax
        Axes to draw on, one per panel. None: a new figure.

    Returns
    -------
    The Axes; of several panels an array, (n_slices, 1).

    Raises
    ------
    MissingKeyError
        If there is no such run, column or coordinates; the message says what is there.
    InputError
        If `p` is out of range, or below what the permutations of the run can tell.

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.simulate_fov(n_obs=200, n_vars=100, n_fovs=1)
    >>> model = sd.fit("embed", adata, method="cellplm", preset="tiny", steps=20)
    >>> sd.tl.attention(adata, model, n_permutations=19)
    >>> ax = sd.pl.attention_edges(adata, "cellplm", color="cell_type")
    """
    check_adata(adata, color or "cell_type")
    weights, values = _links(adata, key)
    params = record_of(adata, ATTENTION, key)["params"]
    least = 1 / (1 + int(params["n_permutations"]))
    _check_p(p, least)
    if top is not None:
        whole_number(top, "top", least=1)
    labels = None if color is None else groups(adata, color, what="groups of the cells")
    shades = [] if labels is None else colors(adata, color or "", labels.categories)
    xy = coordinates(adata, spatial_key)
    slices = slices_of(adata, params.get("library_key") if library_key is None else library_key)
    shown = _strongest(weights, values, p, top)
    first = xy[slices == slices[0]]
    wide = WIDTH + (0.0 if labels is None else legend_width([str(each) for each in labels.categories]))
    names = list(dict.fromkeys(slices))
    _, panels = axes(ax, len(names), 1, (wide, WIDTH * height(first) + 2 * TITLE_HEIGHT))
    chance = least * np.floor(p / least * (1 + ROUNDING))  # p-values are multiples of the least
    range_ = (float(shown.data.min(initial=np.inf)), float(shown.data.max(initial=-np.inf)))
    for panel, name in zip(panels[:, 0], names, strict=True):
        there = slices == name
        radius = radius_of(xy[there], size) * (SPOT if size is None else 1)
        if labels is None:
            draw_spots(panel, xy[there], radius, GREY)
        else:
            codes = labels.codes[there]
            for i, shade in enumerate(shades):
                draw_spots(panel, xy[there][codes == i], radius, shade)
            draw_spots(panel, xy[there][codes < 0], radius * MISSING_SHARE, GREY)
            order = in_order(labels.categories)
            legend(panel, {str(labels.categories[i]): shades[i] for i in order}, has_missing=bool((codes < 0).any()))
        _draw_lines(panel, xy, shown[there], np.flatnonzero(there), range_)
        here = values[there].data
        n_low, n_drawn = int((here <= p * (1 + ROUNDING)).sum()), shown[there].nnz
        told = f"{n_low:,} of {len(here):,} pairs have p ≤ {p:g}; {chance * len(here):,.0f} by chance"
        panel.set_title(key if len(names) == 1 else f"{key}, {name}")
        as_tissue(panel, xy[there], radius)
        panel.set_xlabel(told if n_drawn == n_low else f"{told}\n{n_drawn:,} are drawn", fontsize="small")
    return panels[0, 0] if panels.size == 1 else panels


def _links(adata: AnnData, key: str) -> tuple[csr_matrix, csr_matrix]:
    """Weights and p-values of the pairs, in the same order."""
    from scipy.sparse import csr_matrix

    found = [name for _, name in slots_of(ATTENTION, key).values()]
    runs = [str(run) for run in adata.uns.get("scdance", {}).get(ATTENTION.name, {})]
    if key not in runs or any(name not in adata.obsp for name in found):
        msg = (
            f"No run {key!r} of `attention` in the object; there are {listed(runs)}.{nearest(key, runs)} Pass one as "
            "`key=`, or call `sd.tl.attention(adata, model)` first."
        )
        raise MissingKeyError(msg)
    weights, values = (csr_matrix(adata.obsp[name]) for name in found)
    weights.sort_indices()
    values.sort_indices()
    return weights, values


def _check_p(p: float, least: float) -> None:
    if not 0 < p <= 1:
        msg = f"p is {p!r}, but must be above 0 and at most 1."
        raise InputError(msg)
    if p * (1 + ROUNDING) < least:
        msg = (
            f"p is {p:g}, but the smallest p-value of the run is {least:g}. Run `sd.tl.attention` with "
            f"`n_permutations={int(np.ceil(1 / p)) - 1}` or more, or pass a larger `p=`."
        )
        raise InputError(msg)


def _strongest(weights: csr_matrix, values: csr_matrix, p: float, top: int | None) -> csr_matrix:
    """The weights of the pairs that are drawn."""
    from scipy.sparse import csr_matrix

    kept = np.flatnonzero(values.data <= p * (1 + ROUNDING))
    if top is not None:
        kept = kept[np.argsort(-weights.data[kept], kind="stable")[:top]]
    rows = np.repeat(np.arange(weights.shape[0]), np.diff(weights.indptr))
    return csr_matrix((weights.data[kept], (rows[kept], weights.indices[kept])), shape=weights.shape)


def _draw_lines(ax: Axes, xy: np.ndarray, links: csr_matrix, cells: np.ndarray, range_: tuple[float, float]) -> None:
    """Lines between cells, the strongest on top; rows of `links` are the cells at these positions."""
    from matplotlib.collections import LineCollection

    links = links.tocoo()
    order = np.argsort(links.data, kind="stable")
    low, high = range_
    strength = (links.data[order] - low) / (high - low) if high > low else np.ones(len(order))
    lines = np.stack([xy[cells[links.row[order]]], xy[links.col[order]]], axis=1)
    ax.add_collection(
        LineCollection(
            list(lines),
            colors=INK,
            alpha=FAINTEST + (1 - FAINTEST) * strength if len(order) else None,
            linewidths=THINNEST + (WIDEST - THINNEST) * strength,
            capstyle="round",
            rasterized=True,
        )
    )
