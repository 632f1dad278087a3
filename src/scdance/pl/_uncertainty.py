from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scdance._checks import MissingKeyError, listed
from scdance._core.task import TASKS

from ._shared import GREY, axes
from ._tissue import (
    MISSING_SHARE,
    TITLE_HEIGHT,
    WIDTH,
    as_tissue,
    check_adata,
    coordinates,
    draw_spots,
    height,
    radius_of,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes


def uncertainty(
    adata: AnnData,
    key: str,
    *,
    spatial_key: str = "spatial",
    size: float | None = None,
    ax: Axes | np.ndarray | None = None,
) -> np.ndarray:
    """Draw how far a result can be trusted, spot by spot.

    One panel for each thing that the run says of its own doubt. Of shares of types: the standard deviation of the
    largest one, how mixed the spot is (entropy of the shares, 0 for one type and 1 for equal shares of all), and what
    the reference does not explain (if :func:`scdance.tl.unexplained` was asked). Of domains: one minus the score of
    the domain.

    Parameters
    ----------
    adata
        Object that holds the result and the coordinates.
    key
        The ``key_added`` of a run of :func:`scdance.tl.deconvolve` or :func:`scdance.tl.spatial_domain`, or the name
        of its method.
    spatial_key
        Key of ``obsm`` with the coordinates, (n_spots, at least 2), as in the image: y points down.
    size
        Diameter of a spot in units of the coordinates; None: 0.9 of the median distance between neighbours.
    ax
        Axes to draw on, one per panel. None: a new figure.

    Returns
    -------
    Array of the Axes, one per panel.

    Raises
    ------
    MissingKeyError
        If no such result says anything of its doubt; the message says what is there.
    InputError
        If the coordinates are not finite.

    Examples
    --------
    >>> import scdance as sd
    >>> spots, ref = sd.datasets.toy_mixtures()
    >>> sd.tl.deconvolve(spots, ref, method="nnls", labels_key="cell_type")
    >>> panels = sd.pl.uncertainty(spots, "nnls")
    """
    check_adata(adata, f"{key}_score")
    xy = coordinates(adata, spatial_key)
    shown = _doubts(adata, key)
    if not shown:
        records = adata.uns.get("scdance", {})
        runs = [each for task in ("deconvolve", "spatial_domain") for each in records.get(task, {})]
        msg = (
            f"No result {key!r} says how far it can be trusted; there are runs {listed(runs)}. Pass the `key_added` "
            "(or the method's name) of a run that gives a standard deviation, a residual or a score."
        )
        raise MissingKeyError(msg)
    radius = radius_of(xy, size)
    _, panels = axes(ax, 1, len(shown), (WIDTH, WIDTH * height(xy) + TITLE_HEIGHT))
    for panel, (title, (values, highest)) in zip(panels[0], shown.items(), strict=True):
        known = np.isfinite(values)
        top = highest or float(values[known].max(initial=0)) or 1.0
        discs = draw_spots(panel, xy[known], radius, array=values[known], cmap="magma", clim=(0, top))
        draw_spots(panel, xy[~known], radius * MISSING_SHARE, GREY)
        bar = panel.figure.colorbar(discs, ax=panel, shrink=0.6, aspect=15)
        bar.outline.set_visible(False)
        panel.set_title(title)
        as_tissue(panel, xy, radius)
    return panels[0]


def _doubts(adata: AnnData, key: str) -> dict[str, tuple[np.ndarray, float | None]]:
    """Title → values of the spots, and the end of the scale (None: the largest value)."""
    out: dict[str, tuple[np.ndarray, float | None]] = {}
    deconvolve, domain = (TASKS[name].gives for name in ("deconvolve", "spatial_domain"))
    shares = deconvolve["proportions"].name.format(key=key)
    if shares in adata.obsm and key in adata.uns.get("scdance", {}).get("deconvolve", {}):
        p = np.asarray(adata.obsm[shares], dtype=np.float64)
        sd = deconvolve["sd"].name.format(key=key)
        if sd in adata.obsm:
            largest = np.nan_to_num(p, nan=-1.0).argmax(axis=1)
            out["sd of the largest share"] = np.asarray(adata.obsm[sd])[np.arange(len(p)), largest], None
        entropy = -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(axis=1) / np.log(max(p.shape[1], 2))
        out["mixture of types"] = np.where(np.isnan(p).any(axis=1), np.nan, entropy), 1.0
        if f"{key}_residual" in adata.obs:  # by `tl.unexplained`
            out["not explained by the reference"] = adata.obs[f"{key}_residual"].to_numpy(dtype=float), None
    score = domain["score"].name.format(key=key)
    if score in adata.obs and key in adata.uns.get("scdance", {}).get("spatial_domain", {}):
        out["1 − score of the domain"] = 1 - adata.obs[score].to_numpy(dtype=float), None
    return out
