from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from scdance._checks import InputError, MissingKeyError, listed, nearest, one_of
from scdance._core.write import safe_name

from ._shared import GREY, axes, colors, single
from ._tissue import (
    MISSING_SHARE,
    MOST_PANELS_PER_ROW,
    SMALL_WIDTH,
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
)

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes

KINDS = ("pies", "top", "types")
SMALLEST_WEDGE = 0.01  # of a pie: 3.6 degrees
POINTS_PER_TURN = 48  # corners of a round pie
TITLE_LETTERS = 26  # that fit over a small panel
BAR_SHARE, BAR_ASPECT = 0.6, 12  # of the height of the figure; height per width for each row of panels


def proportions(
    adata: AnnData,
    key: str,
    *,
    kind: Literal["pies", "top", "types"] = "pies",
    types: Sequence[str] | None = None,
    spatial_key: str = "spatial",
    size: float | None = None,
    ax: Axes | np.ndarray | None = None,
) -> Axes | np.ndarray:
    """Draw what the spots of a tissue are made of, each at its place.

    Pies show whole spots, the main types a map of regions, and one panel per type where each one is. Types
    have the same colours in all of them, those of ``uns[f"{key}_top_colors"]`` if there are enough. Spots
    without proportions are small and grey.

    Parameters
    ----------
    adata
        Object that holds the proportions and the coordinates.
    key
        The ``key_added`` of the run, or the name of its method: key of ``obsm`` with a DataFrame, (n_spots,
        n_types); ``"true_prop"`` of a simulated slice works as well.
    kind
        ``"pies"``: a pie per spot, without types below 1 %. ``"top"``: each spot in the colour of its main
        type, ``obs[f"{key}_top"]`` if there. ``"types"``: a panel per type, all on one scale.
    types
        Types to draw, in this order; None: all. What the others hold of a pie stays empty; with ``"top"``
        the main one among these is shown.
    spatial_key
        Key of ``obsm`` with the coordinates, (n_spots, at least 2), as in the image: y points down.
    size
        Diameter of a spot in units of the coordinates; None: 0.9 of the median distance between neighbours.
    ax
        Axes to draw on; with ``"types"`` one per type. None: a new figure.

    Returns
    -------
    The Axes; with ``"types"`` an array of one per type.

    Raises
    ------
    MissingKeyError
        If the proportions, the coordinates or a type is not in the object; the message says what is.
    InputError
        If the proportions are no table, the coordinates are not finite, or `kind` is unknown.

    Examples
    --------
    >>> import scdance as sd
    >>> spots, _ = sd.datasets.toy_mixtures()
    >>> ax = sd.pl.proportions(spots, "true_prop")
    >>> panels = sd.pl.proportions(spots, "true_prop", kind="types")
    """
    one_of(kind, KINDS, "kind")
    check_adata(adata, f"{key}_top")
    table = _table(adata, key)
    xy = coordinates(adata, spatial_key)
    palette = dict(zip(table.columns, colors(adata, f"{key}_top", table.columns), strict=True))
    shown = _chosen(table, types, key)
    radius = radius_of(xy, size)
    if kind == "types":
        return _small_multiples(table[shown], xy, radius, ax)

    panel = single(ax, (WIDTH + legend_width(shown), WIDTH * height(xy)))
    if kind == "pies":
        values = table[shown].to_numpy(np.float64)
        is_missing = np.isnan(values).any(axis=1)
        _draw_pies(panel, xy[~is_missing], values[~is_missing], radius, [palette[name] for name in shown])
    else:
        top = _main_types(adata, table[shown], f"{key}_top", is_all=types is None)
        is_missing = top < 0
        for i, name in enumerate(shown):
            draw_spots(panel, xy[top == i], radius, palette[name])
    draw_spots(panel, xy[is_missing], radius * MISSING_SHARE, GREY)
    legend(panel, {str(name): palette[name] for name in shown}, has_missing=bool(is_missing.any()))
    panel.set_title(key)
    as_tissue(panel, xy, radius)
    return panel


# What is drawn


def _table(adata: AnnData, key: str) -> pd.DataFrame:
    import pandas as pd

    if key not in adata.obsm:
        tables = [name for name, value in adata.obsm.items() if isinstance(value, pd.DataFrame)]
        msg = (
            f"No {key!r} in `adata.obsm`; its tables are {listed(tables)}.{nearest(key, tables)} "
            "Pass the `key_added` (or the method's name) of a run of deconvolution."
        )
        raise MissingKeyError(msg)
    table = adata.obsm[key]
    if not isinstance(table, pd.DataFrame) or not table.shape[1]:
        msg = (
            f"`adata.obsm[{key!r}]` must be a DataFrame with a column per type, but is a "
            f"{type(table).__name__} of shape {table.shape}."
        )
        raise InputError(msg)
    return table


def _chosen(table: pd.DataFrame, types: Sequence[str] | None, key: str) -> list[str]:
    chosen = list(table.columns) if types is None else [types] if isinstance(types, str) else list(types)
    absent = [name for name in chosen if name not in table.columns]
    if absent:
        msg = (
            f"No type {listed(map(repr, absent))} in `adata.obsm[{key!r}]`; it has {listed(table.columns, 60)}."
            f"{nearest(absent[0], table.columns)}"
        )
        raise MissingKeyError(msg)
    if not chosen:
        msg = "types names no type; pass those to draw, or None for all."
        raise InputError(msg)
    return chosen


def _main_types(adata: AnnData, table: pd.DataFrame, top_key: str, *, is_all: bool) -> np.ndarray:
    """Position of each spot's main type among the columns, -1 where nothing is known."""
    values = table.to_numpy(np.float64)
    if is_all and top_key in adata.obs:
        names = [safe_name(name) if isinstance(name, str) else name for name in adata.obs[top_key]]  # as the columns
        return np.asarray(table.columns.get_indexer(names))
    is_known = ~np.isnan(values).any(axis=1)
    return np.where(is_known, np.argmax(np.nan_to_num(values), axis=1), -1)


# How it is drawn


def _draw_pies(ax: Axes, xy: np.ndarray, values: np.ndarray, radius: float, palette: list[str]) -> None:
    """One collection of wedges per type, clockwise from the top in the order of the types."""
    from matplotlib.collections import PolyCollection

    end = np.cumsum(values, axis=1)
    for j, color in enumerate(palette):
        rows = np.flatnonzero(values[:, j] >= SMALLEST_WEDGE)
        wedges = [_wedge(xy[i], radius, end[i, j] - values[i, j], end[i, j]) for i in rows]
        ax.add_collection(PolyCollection(wedges, facecolors=color, linewidths=0, rasterized=True))


def _wedge(centre: np.ndarray, radius: float, start: float, end: float) -> np.ndarray:
    """Corners of the wedge between two shares of a turn."""
    n = max(int(np.ceil((end - start) * POINTS_PER_TURN)), 1) + 1
    angle = 2 * np.pi * np.linspace(start, end, n)
    arc = centre + radius * np.column_stack([np.sin(angle), -np.cos(angle)])  # y points down
    return np.vstack([centre, arc])


def _small_multiples(table: pd.DataFrame, xy: np.ndarray, radius: float, ax: Axes | np.ndarray | None) -> np.ndarray:
    n = table.shape[1]
    n_columns = n if ax is not None else min(n, MOST_PANELS_PER_ROW)
    n_rows = -(-n // n_columns)
    panels = axes(ax, n_rows, n_columns, (SMALL_WIDTH, SMALL_WIDTH * height(xy) + TITLE_HEIGHT))[1].ravel()
    for panel in panels[n:]:
        panel.set_axis_off()
    values = table.to_numpy(np.float64)
    is_known = ~np.isnan(values).any(axis=1)
    highest = values[is_known].max() if is_known.any() else 1.0
    for panel, name, column in zip(panels, table.columns, values.T, strict=False):
        discs = draw_spots(panel, xy[is_known], radius, array=column[is_known], cmap="viridis", clim=(0, highest))
        draw_spots(panel, xy[~is_known], radius * MISSING_SHARE, GREY)
        panel.set_title(textwrap.fill(str(name), TITLE_LETTERS), fontsize="small")
        as_tissue(panel, xy, radius)
    bar = panels[0].figure.colorbar(
        discs, ax=list(panels), shrink=BAR_SHARE, aspect=BAR_ASPECT * n_rows, label="proportion"
    )
    bar.outline.set_visible(False)
    return panels[:n]
