from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scdance._checks import one_of
from scdance._core.answers import compared
from scdance._core.task import PREDICT_MODALITY
from scdance.metrics import skill_of_features

from ._shared import GREY, single

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from mudata import MuData

SCATTER, SKILL = (3.9, 3.7), (4.6, 3.4)  # inches
MOST_NAMED = 40  # features whose names fit below their bars
DARK = "#08519c"


def modality_scatter(
    mdata: MuData, key: str, truth: str | AnnData | MuData, feature: str | None = None, *, ax: Axes | None = None
) -> Axes:
    """Draw what was measured of one feature by what was predicted, a point for each cell that was asked.

    Points on the diagonal are right; a cloud that lies flat says that the method keeps to the mean, which the
    horizontal line is not far from. Where the run has intervals, the band shows their width.

    Parameters
    ----------
    mdata
        Object into which :func:`scdance.tl.predict_modality` wrote.
    key
        The ``key_added`` of the run, or the name of its method.
    truth
        What was measured of cells that did not teach: an AnnData of the target, a MuData with it, or the name of a
        modality of `mdata`.
    feature
        Name of the feature. None: the one with the largest skill.
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
        No such feature, or a truth that shares no cells or features with the answers.

    Examples
    --------
    >>> import scdance as sd
    >>> given = sd.datasets.problem("predict_modality", "cite_demo_rna_adt")
    >>> sd.tl.predict_modality(given.data, method="linear", **given.arguments)
    >>> ax = sd.pl.modality_scatter(given.data, "linear", given.truth, "CD3")
    """
    found = compared(mdata, PREDICT_MODALITY, key, truth)
    skills = skill_of_features(found["truth"], found["prediction"], found["mean"])
    names = [str(name) for name in found["names"]]
    which = int(np.nanargmax(skills)) if feature is None else names.index(one_of(feature, names, "feature"))
    said, true = found["prediction"][:, which], _column(found["truth"], which)
    ax = single(ax, SCATTER)
    low, high = min(said.min(), true.min()), max(said.max(), true.max())
    ends = np.array([low, high]) + np.array([-0.03, 0.03]) * max(high - low, 1e-6)
    width = found.get("half_width")
    if width is not None:
        ax.fill_between(ends, ends - width[which], ends + width[which], color=GREY, alpha=0.5, linewidth=0)
    ax.plot(ends, ends, color="0.5", linewidth=1)
    ax.axhline(found["mean"][which], color="0.5", linewidth=1, linestyle=":")
    ax.scatter(said, true, s=6, color=DARK, alpha=0.4, linewidths=0, rasterized=True)
    ax.set(xlabel="predicted", ylabel="measured", xlim=ends, ylim=ends)
    ax.set_title(f"{names[which]}: skill {skills[which]:.2f}")
    return ax


def modality_skill(mdata: MuData, key: str, truth: str | AnnData | MuData, *, ax: Axes | None = None) -> Axes:
    """Draw the skill of each feature of a predicted modality, the best first.

    1 is the measured value, 0 no better than the mean of the feature over the cells that taught. The dashed line is
    the skill over all features together.

    Parameters
    ----------
    mdata
        Object into which :func:`scdance.tl.predict_modality` wrote.
    key
        The ``key_added`` of the run, or the name of its method.
    truth
        What was measured of cells that did not teach: an AnnData of the target, a MuData with it, or the name of a
        modality of `mdata`.
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
        A truth that shares no cells or features with the answers.

    Examples
    --------
    >>> import scdance as sd
    >>> given = sd.datasets.problem("predict_modality", "cite_demo_rna_adt")
    >>> sd.tl.predict_modality(given.data, method="linear", **given.arguments)
    >>> ax = sd.pl.modality_skill(given.data, "linear", given.truth)
    """
    from scdance.metrics import skill

    found = compared(mdata, PREDICT_MODALITY, key, truth)
    parts = (found["truth"], found["prediction"], found["mean"])
    skills, whole = skill_of_features(*parts), skill(*parts)
    order = np.argsort(-np.nan_to_num(skills, nan=-np.inf))
    order = order[np.isfinite(skills[order])]
    ax = single(ax, SKILL)
    ax.bar(np.arange(len(order)), skills[order], width=0.8 if len(order) <= MOST_NAMED else 1.0, color=DARK)
    ax.axhline(0, color="0.3", linewidth=0.8)
    ax.axhline(whole, color="0.3", linewidth=0.8, linestyle="--")
    ax.set(ylabel="skill", ylim=(max(-1.0, min(0.0, float(skills[order].min()))) - 0.02, 1))
    if len(order) <= MOST_NAMED:
        ax.set_xticks(np.arange(len(order)), np.asarray(found["names"])[order], rotation=90, fontsize="small")
    else:
        ax.set_xlabel(f"{len(order)} features, {int((skills[order] > 0).sum())} of them better than their mean")
    ax.set_title(f"{key}: {whole:.2f} over all")
    return ax


def _column(x: Any, which: int) -> np.ndarray:
    """A column, dense."""
    column = x[:, [which]]
    return np.asarray(column.todense() if hasattr(column, "todense") else column).ravel()
