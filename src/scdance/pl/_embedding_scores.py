from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from scdance import metrics as known
from scdance._checks import InputError, listed

from ._benchmark import _columns, _form, _higher_is_better
from ._shared import GREY, single

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

LARGEST = 700  # area of the circle of the best possible value, in points²
BAR = 1.5  # length of the bar of the best possible value, in columns
BLUE = "#9ecae1"


def embedding_scores(table: pd.DataFrame, metrics: Sequence[str] | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw a table of methods and their scores: circles for single scores, bars for those that are made of others.

    The area of a circle and the length of a bar say where a value lies between the worst and the best possible one,
    the shade of a circle where among the methods. They stand in the order of ``mean_of_six`` where it is drawn, else of
    the first score that is made of others, else of the first, the best on top.

    Parameters
    ----------
    table
        Rows of :func:`scdance.bench.run` or :func:`scdance.bench.read`, or of :func:`scdance.metrics.score`, joined by
        ``pandas.concat``: one per run, the method in the column ``variant`` or ``method`` or in the index, and one
        column per metric. Drawn are means over the runs of a method and over the data sets in ``dataset``; one that
        lacks a value where others have one has no mean. Names of floors and controls (by ``kind`` or ``control``)
        are grey.
    metrics
        Columns to draw. None: all that are named like a metric and hold a value.
    ax
        Axes to draw on. None: a new figure.

    Returns
    -------
    The Axes.

    Raises
    ------
    MissingKeyError
        If a column is not in the table; the message says which are.
    InputError
        If the table has no rows or no value of a metric.

    Examples
    --------
    >>> import pandas as pd, scdance as sd
    >>> scores = {"asw": [0.6, 0.7], "batch_asw": [0.9, 0.8], "mean_of_six": [0.7, 0.8]}
    >>> ax = sd.pl.embedding_scores(pd.DataFrame(scores, index=["pca", "svd_concat"]))
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['svd_concat', 'pca']
    """
    named = next((table[name] for name in ("variant", "method") if name in table), table.index.to_series())
    table = table.assign(method=named.to_numpy())
    wanted = [name for name in _columns(table, metrics) if table[name].notna().any()]
    if not wanted:
        msg = f"No row has a value of {listed(metrics or known.names())}, so there is nothing to draw."
        raise InputError(msg)
    made = [name for name in wanted if _is_made_of_others(name)]
    wanted = [*(name for name in wanted if name not in made), *made]
    means = _means(table, wanted)
    first = "mean_of_six" if "mean_of_six" in wanted else [*made, *wanted][0]
    means = means.sort_values(first, ascending=not _higher_is_better(first), kind="stable", na_position="last")

    ends = np.cumsum([BAR + 0.4 if name in made else 1 for name in wanted])
    beside = 0.08 * max(len(str(name)) for name in means.index)
    ax = single(ax, (0.9 + beside + 0.62 * ends[-1], 1.5 + 0.42 * len(means)))
    for name, end in zip(wanted, ends, strict=True):
        if name in made:
            _bars(ax, means[name], end - BAR - 0.2)
        else:
            _circles(ax, means[name], end - 0.5)
    centers = [end - (BAR + 0.2 if name in made else 0.5) for name, end in zip(wanted, ends, strict=True)]
    _frame(ax, means, wanted, centers, float(ends[-1]), _controls(table))
    return ax


def _is_made_of_others(name: str) -> bool:
    return name in known.names() and set(known.get(name).needs) <= set(known.names())


def _means(table: pd.DataFrame, wanted: list[str]) -> pd.DataFrame:
    """Mean of each metric over seeds and data sets, one row per method; NaN where one that can be judged is missing."""
    import pandas as pd

    table = table if "dataset" in table else table.assign(dataset="")
    columns = {}
    for name in wanted:
        wide = table.pivot_table(index="dataset", columns="method", values=name, dropna=False, observed=True)
        columns[name] = wide.dropna(how="all").mean(skipna=False)
    return pd.DataFrame(columns).reindex(list(dict.fromkeys(table["method"])))


def _controls(table: pd.DataFrame) -> set[str]:
    """Methods that are no rivals: floors, and what is made of the truth."""
    if "control" in table:
        return set(table.loc[table["control"].astype(bool), "method"])
    return set(table.loc[table["kind"].isin(["floor", "control"]), "method"]) if "kind" in table else set()


def _shares(values: pd.Series) -> np.ndarray:
    """Where values lie between the worst and the best possible one, or of those that there are, 0 to 1."""
    name = str(values.name)
    low, high = known.get(name).range if name in known.names() else (-np.inf, np.inf)
    low, high = low if np.isfinite(low) else values.min(), high if np.isfinite(high) else values.max()
    share = np.clip((values.to_numpy(dtype=float) - low) / max(high - low, 1e-12), 0, 1)
    return share if _higher_is_better(name) else 1 - share


def _circles(ax: Axes, values: pd.Series, x: float) -> None:
    from matplotlib import colormaps

    share = _shares(values)
    has = np.flatnonzero(~np.isnan(share))
    among = (share[has] - share[has].min()) / max(np.ptp(share[has]), 1e-12)
    ax.scatter(
        np.full(len(has), x), has, s=LARGEST * share[has], c=colormaps["Blues"](0.15 + 0.75 * among), linewidths=0
    )
    dark = dict(zip(has, (among > 0.6) & (share[has] > 0.5), strict=True))
    for row, value in enumerate(values):
        _say(ax, x, row, values.name, value, "center", "white" if dark.get(row) else "0.1")


def _bars(ax: Axes, values: pd.Series, x: float) -> None:
    share = np.nan_to_num(_shares(values))
    rows = np.arange(len(values))
    ax.barh(rows, np.full(len(values), BAR), left=x, height=0.6, color="0.95")
    ax.barh(rows, BAR * share, left=x, height=0.6, color=BLUE)
    for row, value in enumerate(values):
        _say(ax, x + 0.06, row, values.name, value, "left", "0.1")


def _say(ax: Axes, x: float, row: int, name: object, value: float, side: str, color: str) -> None:
    text = "–" if np.isnan(value) else _form(str(name)).format(value)
    ax.text(x, row, text, ha=side, va="center", fontsize="x-small", color="0.5" if np.isnan(value) else color)


def _frame(
    ax: Axes, means: pd.DataFrame, wanted: list[str], centers: list[float], end: float, controls: set[str]
) -> None:
    ways = ["" if name not in known.names() else " ↑" if _higher_is_better(name) else " ↓" for name in wanted]
    heads = [name.replace("_", " ") + way for name, way in zip(wanted, ways, strict=True)]
    ax.set_xticks(centers, heads, rotation=40, ha="left", rotation_mode="anchor")
    ax.xaxis.tick_top()
    ax.set_yticks(range(len(means)), [str(name) for name in means.index])
    for label, name in zip(ax.get_yticklabels(), means.index, strict=True):
        label.set_color("0.5" if name in controls else "black")
    ax.hlines(np.arange(len(means) - 1) + 0.5, 0, end, color=GREY, linewidth=0.5)
    ax.set(xlim=(0, end), ylim=(len(means) - 0.5, -0.5))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
