from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scdance._checks import MissingKeyError, listed

from ._shared import GREY, axes, colors, groups, in_order, palette
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

GREYS = ("#7f7f7f", "#c7c7c7")  # of the palette: a spot without a domain is grey, too

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes


def domains(
    adata: AnnData,
    key: str,
    *,
    truth: str | None = None,
    refined: bool = False,
    library_key: str | None = None,
    spatial_key: str = "spatial",
    size: float | None = None,
    ax: Axes | np.ndarray | None = None,
) -> Axes | np.ndarray:
    """Draw the domains of a tissue, each spot at its place.

    With a known answer beside it, a domain gets the colour of the known region of which it has most, where no larger
    domain has it already, so that equal colours mean what they seem to.

    Parameters
    ----------
    adata
        Object that holds the domains and the coordinates.
    key
        The ``key_added`` of the run, or the name of its method; any column of ``obs`` with groups works.
    truth
        Column of ``obs`` with known regions, drawn in a second panel.
    refined
        Draw the domains after the vote of the neighbours, ``obs[f"{key}_refined"]``.
    library_key
        Column of ``obs`` with the slice of each spot: one row of panels per slice. None: all lie on one.
    spatial_key
        Key of ``obsm`` with the coordinates, (n_spots, at least 2), as in the image: y points down.
    size
        Diameter of a spot in units of the coordinates; None: 0.9 of the median distance between neighbours.
    ax
        Axes to draw on, one per panel. None: a new figure.

    Returns
    -------
    The Axes; of several panels an array, (n_slices, n_panels).

    Raises
    ------
    MissingKeyError
        If a column or the coordinates are not in the object; the message says what is.
    InputError
        If a column holds numbers instead of groups, or the coordinates are not finite.

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.toy_domains()
    >>> sd.tl.spatial_domain(adata, method="smoothed_pca", n_clusters=4)
    >>> panels = sd.pl.domains(adata, "smoothed_pca", truth="domain")
    """
    name = f"{key}_refined" if refined else key
    check_adata(adata, name)
    if refined and name not in adata.obs:
        msg = f"No {name!r} in `adata.obs`; it has {listed(adata.obs.columns)}. Run the method with `refine=6`."
        raise MissingKeyError(msg)
    keys = [name] if truth is None else [name, truth]
    found = [groups(adata, each, what="domains of the spots") for each in keys]
    palettes = [colors(adata, each, labels.categories) for each, labels in zip(keys, found, strict=True)]
    if truth is not None and f"{name}_colors" not in adata.uns:
        palettes[0] = _like(found[0], found[1], palettes[1])
    xy = coordinates(adata, spatial_key)
    slices = slices_of(adata, library_key)
    first = xy[slices == slices[0]]
    shown = [str(each) for labels in found for each in labels.categories]
    wide = WIDTH + legend_width(shown)
    _, panels = axes(ax, len(np.unique(slices)), len(keys), (wide, WIDTH * height(first) + TITLE_HEIGHT))
    for row, each in zip(panels, dict.fromkeys(slices), strict=True):
        there = slices == each
        radius = radius_of(xy[there], size)
        for panel, title, labels, shades in zip(row, keys, found, palettes, strict=True):
            codes = labels.codes[there]
            for i, shade in enumerate(shades):
                draw_spots(panel, xy[there][codes == i], radius, shade)
            draw_spots(panel, xy[there][codes < 0], radius * MISSING_SHARE, GREY)
            order = in_order(labels.categories)
            legend(panel, {str(labels.categories[i]): shades[i] for i in order}, has_missing=bool((codes < 0).any()))
            panel.set_title(title if library_key is None else f"{title}, {each}")
            as_tissue(panel, xy[there], radius)
    return panels[0, 0] if panels.size == 1 else panels


def _like(labels: pd.Categorical, truth: pd.Categorical, theirs: list[str]) -> list[str]:
    """Colours of the domains: those of the regions they lie in, and where these are taken, such as no region has."""
    out: list[str | None] = [None] * len(labels.categories)
    for i in np.argsort([-(labels.codes == i).sum() for i in range(len(out))], kind="stable"):
        votes = np.bincount(truth.codes[(labels.codes == i) & (truth.codes >= 0)], minlength=len(theirs))
        region = int(votes.argmax()) if votes.size and votes.any() else -1
        if region >= 0 and theirs[region] not in out:
            out[i] = theirs[region]
    spare = iter([shade for shade in palette(len(out) + len(theirs) + 2) if shade not in [*theirs, *GREYS]])
    return [shade or next(spare, GREY) for shade in out]
