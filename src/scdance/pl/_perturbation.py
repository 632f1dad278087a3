from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scdance._checks import MissingKeyError, listed, nearest, one_of
from scdance._core.responses import responses
from scdance._core.task import PREDICT_PERTURBATION

from ._shared import GREY, single

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

SIZE = (4.2, 4.0)  # inches
DARK, STRONG = "#08519c", "#cb181d"  # genes, and those that tell measured cells from control cells best
MARGIN, EDGE = 0.18, 0.015  # of the range, on either side: beside the points, beside names
ROOM = 0.055  # of the height, between the names of two genes


def perturbation(
    adata: AnnData,
    key: str,
    target: str | None = None,
    truth: AnnData | None = None,
    *,
    n_names: int = 8,
    ax: Axes | None = None,
) -> Axes:
    """Draw the measured change of each gene under a perturbation by the predicted one.

    Points on the diagonal are right; those on the horizontal line do not change; a cloud that stands upright says that
    nothing was predicted. In red are the 20 genes that tell measured cells from control cells best.

    Parameters
    ----------
    adata
        Object into which :func:`scdance.tl.predict_perturbation` wrote.
    key
        The ``key_added`` of the run, or the name of its method.
    target
        One of the perturbations that it predicted. None: the first one that was measured.
    truth
        AnnData with measured cells of it. None: those of `adata`, which the tool did not read.
    n_names
        Number of genes that are named: those that change most, in either way.
    ax
        Axes to draw on. None: a new figure.

    Returns
    -------
    The Axes.

    Raises
    ------
    KeyError
        No such run.
    ValueError
        No such perturbation, or one without measured cells.

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.toy_perturbed()
    >>> sd.tl.predict_perturbation(adata, "additive", perturbation_key="perturbation", targets="gene_0+gene_1")
    >>> ax = sd.pl.perturbation(adata, "additive")
    """
    name = PREDICT_PERTURBATION.gives["change"].name.format(key=key)
    if name not in adata.varm:
        msg = (
            f"No {name!r} in `adata.varm`, which has {listed(adata.varm)}.{nearest(name, map(str, adata.varm))} Pass "
            "the `key_added` of a run of `scdance.tl.predict_perturbation`, or the name of its method."
        )
        raise MissingKeyError(msg)
    found = responses(adata, PREDICT_PERTURBATION, key, truth)
    names = list(found["names"])
    which = 0 if target is None else names.index(one_of(target, names, "target"))
    said, true = found["change"][which], found["truth"][which] - found["control"]
    ax = single(ax, SIZE)
    low, high = min(said.min(), true.min()), max(said.max(), true.max())
    ends = np.array([low, high]) + np.array([-MARGIN, MARGIN]) * max(high - low, 1e-6)
    ax.plot(ends, ends, color="0.5", linewidth=1)
    ax.axhline(0, color=GREY, linewidth=1, zorder=0)
    is_top = np.isin(np.arange(len(said)), found["top"][which])
    for genes, color in ((~is_top, DARK), (is_top, STRONG)):
        ax.scatter(said[genes], true[genes], s=12, color=color, alpha=0.6, linewidths=0)
    ax.set(xlabel="predicted change", ylabel="measured change", xlim=ends, ylim=ends)
    _name(ax, said, true, found["genes"], n_names)
    ax.set_title(f"{names[which]}: r = {_correlation(said, true):.2f}")
    return ax


def _name(ax: Axes, x: np.ndarray, y: np.ndarray, names: np.ndarray, n: int) -> None:
    """Write the names of the points farthest from 0 at the nearer side, a line leading to each."""
    chosen = np.argsort(-np.maximum(np.abs(x), np.abs(y)), kind="stable")[:n]
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    is_left = x[chosen] < (left + right) / 2
    for at, side, some in ((left, "left", chosen[is_left]), (right, "right", chosen[~is_left])):
        some = some[np.argsort(y[some])]
        for i, height in zip(some, _apart(y[some], low, high, ROOM * (high - low)), strict=True):
            ax.annotate(
                str(names[i]),
                (x[i], y[i]),
                (at + EDGE * (right - left) * (1 if side == "left" else -1), height),
                ha=side,
                va="center",
                fontsize="x-small",
                arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2},
            )


def _apart(heights: np.ndarray, low: float, high: float, room: float) -> np.ndarray:
    """Sorted heights moved up, then down again, until they have room between them and lie inside."""
    up = np.maximum.accumulate(np.maximum(heights, low + room) - room * np.arange(len(heights)))
    up += room * np.arange(len(heights))
    most = high - room * np.arange(len(heights), 0, -1)
    return np.minimum(up, most)


def _correlation(said: np.ndarray, true: np.ndarray) -> float:
    """Pearson's, 0 where one of them does not vary."""
    return float(np.corrcoef(said, true)[0, 1]) if np.ptp(said) and np.ptp(true) else 0.0
