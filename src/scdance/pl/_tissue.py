"""Spots of a tissue at their places, the same in all figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scdance._checks import InputError, MissingKeyError, WrongTypeError, column, listed

from ._shared import GREY

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.collections import EllipseCollection

SPOT_SHARE = 0.9  # of the distance between neighbours that a spot fills
MOST_TYPES_PER_COLUMN = 20  # of a legend
MOST_PANELS_PER_ROW = 4
WIDTH, SMALL_WIDTH = 4.5, 2.2  # inches of the panel, and of one of several
LEGEND_WIDTH, LETTER_WIDTH = 0.4, 0.075  # inches of a column of the legend without names, and of a letter
TITLE_HEIGHT = 0.3  # inches
FLATTEST_AND_TALLEST = (0.5, 2.0)  # heights of a panel per width
LEGEND_DOT = 25  # square points
MISSING_SHARE = 0.6  # of the diameter of a spot: grey may also be the colour of a type


def check_adata(adata: Any, color: str) -> None:
    """Refuse a SpatialData, and say what draws its column `color`, and which part of it can be passed."""
    if hasattr(adata, "tables"):
        tables = listed(f"sdata.tables[{name!r}]" for name in adata.tables)
        msg = (
            f"Expected AnnData, found {type(adata).__name__}. Draw its shapes by spatialdata-plot: "
            f"`sdata.pl.render_shapes(color={color!r}).pl.show()`; or pass a table ({tables}) with coordinates in obsm."
        )
        raise WrongTypeError(msg)


def coordinates(adata: AnnData, spatial_key: str) -> np.ndarray:
    """The first two coordinates of all spots, finite, (n_obs, 2) float64."""
    if spatial_key not in adata.obsm:
        msg = (
            f"No {spatial_key!r} in `adata.obsm`; it has {listed(adata.obsm.keys())}. "
            "Pass the one with the coordinates of the spots as `spatial_key=`."
        )
        raise MissingKeyError(msg)
    xy = np.asarray(adata.obsm[spatial_key], dtype=np.float64)
    if xy.ndim != 2 or xy.shape[1] < 2 or not np.isfinite(xy[:, :2]).all():
        msg = (
            f"`adata.obsm[{spatial_key!r}]` has shape {xy.shape}; a figure needs two finite coordinates for "
            "every spot. Pass another `spatial_key=`."
        )
        raise InputError(msg)
    return xy[:, :2]


def slices_of(adata: AnnData, library_key: str | None) -> np.ndarray:
    """Name of the slice of each spot, (n_obs,); a number where no column says it."""
    if library_key is None:
        return np.zeros(adata.n_obs, dtype=int)
    what = "the column with the slices"
    found = column(adata.obs, library_key, where="adata.obs", what=what, argument="library_key")
    return found.astype(str).to_numpy()


def radius_of(xy: np.ndarray, size: float | None) -> float:
    """Half of the diameter of a spot, in units of the coordinates: as asked, or such that neighbours do not touch."""
    if size is None:
        return SPOT_SHARE * _pitch(xy) / 2
    if not 0 < size < np.inf:
        msg = f"size is {size}, but must be a diameter above 0, in units of the coordinates."
        raise InputError(msg)
    return size / 2


def _pitch(xy: np.ndarray) -> float:
    """Median distance of a spot to its nearest neighbour; 1 where no two places differ."""
    from scipy.spatial import cKDTree

    places = np.unique(xy, axis=0)
    return float(np.median(cKDTree(places).query(places, k=2)[0][:, 1])) if len(places) > 1 else 1.0


def draw_spots(
    ax: Axes, xy: np.ndarray, radius: float, color: str | None = None, **mapped: object
) -> EllipseCollection:
    """Discs of this radius in units of the coordinates, in one colour or with `mapped` values."""
    from matplotlib.collections import EllipseCollection

    width = np.full(len(xy), 2 * radius)
    discs = EllipseCollection(
        width,
        width,
        np.zeros(len(xy)),
        units="xy",
        offsets=xy,
        offset_transform=ax.transData,
        linewidths=0,
        rasterized=True,
        facecolors=color,
        **mapped,
    )
    ax.add_collection(discs)
    return discs


def height(xy: np.ndarray) -> float:
    """Height of the tissue for a width of 1, within what makes a readable figure."""
    width, height = np.ptp(xy, axis=0)
    return float(np.clip(height / width if width else 1.0, *FLATTEST_AND_TALLEST))


def as_tissue(ax: Axes, xy: np.ndarray, radius: float) -> None:
    """Axes of a picture: y points down, one unit is as long in both directions, no frame."""
    (left, top), (right, bottom) = xy.min(axis=0) - 2 * radius, xy.max(axis=0) + 2 * radius
    ax.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], aspect="equal")
    ax.spines[:].set_visible(False)


def _legend_columns(n_types: int) -> int:
    return 1 + (n_types - 1) // MOST_TYPES_PER_COLUMN


def legend_width(names: list[str]) -> float:
    """Inches that the names take."""
    longest = max(len(str(name)) for name in names)
    return _legend_columns(len(names)) * (LEGEND_WIDTH + LETTER_WIDTH * longest)


def legend(ax: Axes, palette: dict[str, str], *, has_missing: bool) -> None:
    """Names and colours on the right."""
    for name, shade in palette.items():
        ax.scatter([], [], c=shade, s=LEGEND_DOT, linewidths=0, label=name)
    if has_missing:
        ax.scatter([], [], c=GREY, s=LEGEND_DOT * MISSING_SHARE**2, linewidths=0, label="missing")
    ax.legend(
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        frameon=False,
        ncols=_legend_columns(len(palette)),
        handletextpad=0.2,
        columnspacing=0.8,
        fontsize="small",
    )
