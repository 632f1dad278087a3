from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scdance._checks import InputError

from ._shared import GREY, groups, palette, single

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes

WIDTH = 0.04  # of a bar, of the distance between both sides
GAP = 0.012  # between bars, of the height
LEAST_SHOWN = 0.01  # share of the cells from which a group is named


def transfer_flow(adata: AnnData, key: str, by: str, *, score: bool = True, ax: Axes | None = None) -> Axes:
    """Draw which types the cells of each group were given, as bands from groups to types.

    Groups are those of another column: clusters of the cells' own layer, a second method, or known types. A band is as
    wide as it has cells, and has the colour of its type.

    Parameters
    ----------
    adata
        Object that holds the result.
    key
        The ``key_added`` of the run, or the name of its method.
    by
        Column of ``obs`` with the groups on the left. Cells without one are left out.
    score
        Whether bands are the paler, the less sure their cells are on average, by ``obs[f"{key}_score"]`` if it is
        there.
    ax
        Axes to draw on. None: a new figure.

    Returns
    -------
    The Axes.

    Raises
    ------
    MissingKeyError
        If a column is not in the object; the message says what is.
    InputError
        If a column holds numbers instead of groups, or no cell has a value in both.

    Examples
    --------
    >>> import scdance as sd
    >>> cells = sd.datasets.toy_clusters(n_obs=300)
    >>> ref, adata = cells[:150].copy(), cells[150:].copy()
    >>> sd.tl.transfer_labels(adata, ref, method="knn", labels_key="cell_type")
    >>> ax = sd.pl.transfer_flow(adata, "knn", "cell_type")
    """
    types, parts = groups(adata, key, what="types that were given"), groups(adata, by, what="groups of the cells")
    there = (types.codes >= 0) & (parts.codes >= 0)
    if not there.any():
        msg = f"No cell has both a group in {by!r} and a type in {key!r}, so there is nothing to draw."
        raise InputError(msg)
    counts = np.zeros((len(parts.categories), len(types.categories)))
    np.add.at(counts, (parts.codes[there], types.codes[there]), 1)
    surest = np.ones_like(counts)
    if score and f"{key}_score" in adata.obs:
        sums = np.zeros_like(counts)
        np.add.at(sums, (parts.codes[there], types.codes[there]), adata.obs[f"{key}_score"].to_numpy()[there])
        surest = sums / np.maximum(counts, 1)
    rows, columns = _order(counts)
    shares = counts[np.ix_(rows, columns)] / counts.sum()
    shades = _shades(types.categories[columns])
    ax = single(ax, (5.5, 1.2 + 0.3 * max(shares.shape)))
    left, right = _bars(shares.sum(axis=1)), _bars(shares.sum(axis=0))
    from_, to = left[:, 0].copy(), right[:, 0].copy()
    for i, j in zip(*np.nonzero(shares), strict=True):
        _band(ax, from_[i], to[j], shares[i, j], shades[j], 0.15 + 0.6 * surest[rows[i], columns[j]])
        from_[i] += shares[i, j]
        to[j] += shares[i, j]
    _side(ax, 0 - WIDTH, left, parts.categories[rows], ["0.4"] * len(rows), "right")
    _side(ax, 1, right, types.categories[columns], shades, "left")
    ax.text(-WIDTH / 2, -0.02, by, ha="center", va="bottom")
    ax.text(1 + WIDTH / 2, -0.02, key, ha="center", va="bottom")
    ax.set(xlim=(-WIDTH, 1 + WIDTH), ylim=(max(left[-1, 1], right[-1, 1]), 0), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


def _order(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Groups and types that hold cells: types by size, each group at the height of its main type."""
    columns = np.argsort(-counts.sum(axis=0), kind="stable")
    columns = columns[counts.sum(axis=0)[columns] > 0]
    main = counts[:, columns].argmax(axis=1)
    rows = np.lexsort((-counts.sum(axis=1), main))
    return rows[counts.sum(axis=1)[rows] > 0], columns


def _shades(names: pd.Index) -> list[Any]:
    """Colours of the types, as they would be in the order of their names; grey for "unknown"."""
    ordered = sorted(map(str, names))
    by_name = dict(zip(ordered, palette(len(ordered)), strict=True))
    return [GREY if str(name) == "unknown" else by_name[str(name)] for name in names]


def _bars(sizes: np.ndarray) -> np.ndarray:
    """Upper and lower end of each bar, (n, 2), under each other."""
    ends = np.cumsum(sizes + GAP)
    return np.column_stack([ends - sizes - GAP, ends - GAP])


def _side(ax: Axes, x: float, bars: np.ndarray, names: pd.Index, shades: list[Any], side: str) -> None:
    heights = bars[:, 1] - bars[:, 0]
    ax.bar(np.full(len(bars), x), heights, WIDTH, bars[:, 0], align="edge", color=shades)
    at = x - 0.02 if side == "right" else x + WIDTH + 0.02
    for (low, high), height, name in zip(bars, heights, names, strict=True):
        if height >= LEAST_SHOWN:
            ax.text(at, (low + high) / 2, str(name), ha=side, va="center", fontsize="small")


def _band(ax: Axes, left: float, right: float, height: float, shade: Any, alpha: float) -> None:
    """A band that leaves and arrives level."""
    t = np.linspace(0, 1, 40)
    upper = left + (right - left) * t**2 * (3 - 2 * t)
    ax.fill_between(t, upper, upper + height, color=shade, alpha=alpha, linewidth=0)
