from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from scdance import metrics as known
from scdance._checks import InputError, MissingKeyError, listed

from ._shared import GREY, axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def benchmark(
    table: pd.DataFrame, metrics: Sequence[str] | None = None, *, ax: Axes | np.ndarray | None = None
) -> np.ndarray:
    """Draw the scores of methods: a bar to the mean, a point for each seed.

    One row of panels per data set, one column per metric. Methods stand in the order of their mean rank
    over all panels, the best on top.

    Parameters
    ----------
    table
        One row per run: column ``method``, one column per metric and, where there are several, ``dataset``.
        Runs of the same method and data set are its seeds. Rows where ``control`` is true (floors and
        ceilings) are drawn in grey.
    metrics
        Columns to draw. None: all columns that are named like a metric.
    ax
        Axes to draw on, one per panel. None: a new figure.

    Returns
    -------
    Array of Axes, (n_datasets, n_metrics).

    Raises
    ------
    MissingKeyError
        If a column is not in the table; the message says which are.
    InputError
        If the table has no rows, or no column is named like a metric.

    Examples
    --------
    >>> import pandas as pd, scdance as sd
    >>> runs = pd.DataFrame({"method": ["a", "a", "b"], "seed": [0, 1, 0], "ari": [0.7, 0.8, 0.5]})
    >>> sd.pl.benchmark(runs).shape
    (1, 1)
    """
    wanted = _columns(table, metrics)
    datasets = list(dict.fromkeys(table["dataset"])) if "dataset" in table else [None]
    methods = _ordered(table, wanted)
    controls = set(table.loc[table["control"].astype(bool), "method"]) if "control" in table else set()

    width = 0.5 + 0.075 * max(len(str(m)) for m in methods) / len(wanted)
    _, panels = axes(ax, len(datasets), len(wanted), (2.6 + width, 0.9 + 0.27 * len(methods)))
    for row, dataset in zip(panels, datasets, strict=True):
        part = table if dataset is None else table[table["dataset"] == dataset]
        for panel, metric in zip(row, wanted, strict=True):
            seeds = {method: part.loc[part["method"] == method, metric].dropna() for method in methods}
            _bars(panel, seeds, controls, _form(metric))
            _scale(panel, metric, table[metric])
            panel.tick_params(axis="y", length=0, labelleft=panel is row[0])
        if dataset is not None:
            row[0].set_title(dataset, loc="left", fontsize="medium")
    return panels


def _columns(table: pd.DataFrame, metrics: Sequence[str] | None) -> list[str]:
    wanted = [name for name in table if name in known.names()] if metrics is None else list(metrics)
    missing = [name for name in ("method", *wanted) if name not in table]
    if missing:
        msg = f"No column {listed(missing)} in the table; it has {listed(table.columns)}."
        raise MissingKeyError(msg)
    if not wanted or table.empty:
        msg = (
            f"The table has {len(table)} rows and the columns {listed(table.columns)}; it needs at least one "
            f"row and one metric, such as {listed(known.names())}, or name its columns as `metrics=`."
        )
        raise InputError(msg)
    return wanted


def _ordered(table: pd.DataFrame, wanted: list[str]) -> list:
    """Methods by their mean rank over data sets and metrics, best first; ties by first appearance."""
    by = ["dataset", "method"] if "dataset" in table else ["method"]
    judged = [name for name in wanted if name in known.names()] or wanted  # seconds are no merit
    means = table.groupby(by, sort=False, observed=True)[judged].mean()
    signed = means * [1 if _higher_is_better(name) else -1 for name in judged]
    grouped = signed.groupby("dataset", sort=False, observed=True) if len(by) == 2 else signed
    ranks = grouped.rank(ascending=False).groupby("method", sort=False).mean().mean(axis=1)
    return list(ranks.sort_values(kind="stable").index)


def _higher_is_better(metric: str) -> bool:
    return metric in known.names() and known.get(metric).higher_is_better


def _form(metric: str) -> str:
    """How a value is written: with the more digits where there is no best one to compare it with."""
    if metric not in known.names():
        return "{:.3g}"
    return "{:z.2f}" if np.isfinite(known.get(metric).range[1]) else "{:z.3f}"


def _bars(ax: Axes, seeds: dict[str, pd.Series], controls: set[str], form: str) -> None:
    for i, (method, values) in enumerate(seeds.items()):
        if not len(values):
            ax.text(0, i, " no result", va="center", fontsize="x-small", color="0.5")
            continue
        control, mean = method in controls, float(values.mean())
        ax.barh(i, mean, height=0.7, color=GREY if control else "#9ecae1", zorder=1)
        spread = np.linspace(-0.18, 0.18, len(values)) if len(values) > 1 else np.zeros(1)
        ax.scatter(values, i + spread, s=9, color="0.45" if control else "#08519c", zorder=2)
        ax.annotate(
            form.format(mean), (max(float(values.max()), 0), i), xytext=(5, 0),
            textcoords="offset points", va="center", fontsize="x-small",
        )  # fmt: skip
    ax.set_yticks(range(len(seeds)), list(seeds))
    ax.set_ylim(len(seeds) - 0.4, -0.6)  # the first on top


def _scale(ax: Axes, metric: str, values: pd.Series) -> None:
    if metric in known.names():
        lowest, highest = min(0.0, float(values.min())), known.get(metric).range[1]
        if not np.isfinite(highest):
            highest = max(0.0, float(values.max()), -0.3 * lowest)
        ax.set_xlim(lowest * 1.1, highest * 1.12)  # room for the number behind a full bar
        ax.set_xlabel(f"{metric} {'↑' if known.get(metric).higher_is_better else '↓'}")
    else:
        ax.margins(x=0.18)
        ax.set_xlabel(metric)
    ax.spines[["top", "right", "left"]].set_visible(False)
