from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from scdance._checks import InputError

from ._embedding import _basis, _legend, _scatter
from ._shared import GREY, axes, colors, groups, in_order

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes


def integration(
    adata: AnnData,
    keys: str | Sequence[str],
    *,
    batch_key: str,
    labels_key: str | None = None,
    basis: str | None = None,
    ax: Axes | np.ndarray | None = None,
) -> np.ndarray:
    """Draw the spaces of several integrations, a row each: coloured by batch, and beside it by type.

    In a good one colours of the batches lie over each other, and those of the types apart. Two dimensions show little
    of a space of many: compute a UMAP of each and name them by `basis`, and believe the scores more than the picture.

    Parameters
    ----------
    adata
        Object that holds the results.
    keys
        The ``key_added`` of the runs, or the names of their methods.
    batch_key
        Column of ``obs`` with the batches.
    labels_key
        Column of ``obs`` with the types, which gets the second panel. None: none.
    basis
        Key of ``obsm``, (n_obs, at least 2), with ``"{key}"`` where that of the run goes, such as
        ``"X_umap_{key}"``. None: the first two dimensions of each space.
    ax
        Axes to draw on, one per panel, row by row. None: a new figure.

    Returns
    -------
    The Axes, (n_keys, 1 or 2).

    Raises
    ------
    MissingKeyError
        If a column or a space is not in the object; the message says what is.
    InputError
        If a space has one dimension only, a column holds numbers instead of groups, or no key is given.

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.toy_clusters(batches=2)
    >>> for method in ("pca", "harmony"):
    ...     sd.tl.integrate(adata, method=method, batch_key="batch")
    >>> panels = sd.pl.integration(adata, ["pca", "harmony"], batch_key="batch", labels_key="cell_type")
    """
    keys = [keys] if isinstance(keys, str) else list(keys)
    if not keys:
        msg = "No run is named, so there is nothing to draw: pass keys=['harmony'] or the like."
        raise InputError(msg)
    columns = {name: groups(adata, name, what="groups of the cells") for name in (batch_key, labels_key) if name}
    names = [_basis(adata, key, None if basis is None else basis.format(key=key)) for key in keys]
    _, panels = axes(ax, len(keys), len(columns), (4.4, 3.4))
    for row, (key, name) in enumerate(zip(keys, names, strict=True)):
        x = np.asarray(adata.obsm[name])[:, :2]
        for panel, (column, found) in zip(panels[row], columns.items(), strict=True):
            palette = colors(adata, column, found.categories)
            _scatter(panel, x, found.codes, palette)
            panel.set(xticks=[], yticks=[])
            if row == 0:
                panel.set_title(column)
                shown = [(str(found.categories[i]), palette[i]) for i in in_order(found.categories)]
                _legend(panel, shown + [("missing", GREY)] * bool((found.codes < 0).any()))
        panels[row, 0].set_ylabel(key)
    return panels
