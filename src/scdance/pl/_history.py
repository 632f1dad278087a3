from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from scdance._checks import InputError, MissingKeyError, listed, one_of
from scdance._core.task import TASKS
from scdance._core.write import record_of, run_of

from ._shared import single

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

LOG_ABOVE = 50  # losses that differ by more than this factor are drawn on a logarithmic scale
Place = Literal["best", "upper center", "lower center"]
Stages = dict[str, dict[str, np.ndarray]]  # stage → curve → values by epoch


def history(adata: AnnData, task: str, key: str, *, ax: Axes | None = None) -> Axes:
    """Draw the training of a run: what its record keeps of each epoch.

    Stages stand one after the other, in the order of the record. Losses are read on the left, on a
    logarithmic scale where they are positive and differ by more than a factor of 50; all else on the right.

    Parameters
    ----------
    adata
        Object that holds the run record.
    task
        Name of the task, such as ``"cluster"``.
    key
        The ``key_added`` of the run, or the name of its method.
    ax
        Axes to draw on. None: a new figure.

    Returns
    -------
    The Axes of the losses.

    Raises
    ------
    MissingKeyError
        If there is no record of that run; the message names those that are there.
    InputError
        If there is no such task, or the run trained nothing.

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.toy_clusters()
    >>> sd.tl.cluster(adata, method="graphsc", n_clusters=4)
    >>> ax = sd.pl.history(adata, "cluster", "graphsc")
    """
    declared = TASKS[one_of(task, TASKS, "task")]
    holder, whole = run_of(adata, declared, key)
    record = record_of(holder, declared, whole)
    if not record:
        runs = adata.uns.get("scdance", {}).get(task, {})
        msg = f"No run {key!r} of task {task!r} in `adata.uns`; it has {listed(runs)}."
        raise MissingKeyError(msg)
    stages = _by_stage(record.get("history", {}))
    if not stages:
        msg = f"The run {key!r} of task {task!r} has no history: {record.get('method', key)!r} trains no epochs."
        raise InputError(msg)

    ax = single(ax, (5.5, 3.5))
    names = list(dict.fromkeys(name for curves in stages.values() for name in curves))
    shades = {name: f"C{i}" for i, name in enumerate(names)}
    losses = [name for name in names if name.endswith("loss")] or names
    others = [name for name in names if name not in losses]
    _curves(ax, stages, {name: shades[name] for name in losses}, legend="upper center" if others else "best")
    if others:  # shares and the like have a scale of their own
        right = ax.twinx()
        _curves(right, stages, {name: shades[name] for name in others}, legend="lower center")
        right.spines["top"].set_visible(False)
    if len(stages) > 1:
        _mark_stages(ax, stages)
    ax.set_xlabel("epoch")
    ax.set_title(key, pad=18 if len(stages) > 1 else None)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _curves(ax: Axes, stages: Stages, shades: dict[str, str], legend: Place) -> None:
    """Draw some curves of all stages, each in its colour; one alone is named by the axis, several by a legend."""
    for name, shade in shades.items():
        start = 0
        for curves in stages.values():
            values = curves.get(name, np.array([]))
            marker = "." if len(values) < 3 else None
            ax.plot(start + 1 + np.arange(len(values)), values, color=shade, marker=marker)
            start += _length(curves)
        ax.plot([], [], color=shade, label=name.replace("_", " "))
    drawn = np.concatenate([curves[name] for curves in stages.values() for name in shades if name in curves])
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) and drawn.min() > 0 and drawn.max() / drawn.min() > LOG_ABOVE:
        ax.set_yscale("log")
    if len(shades) == 1:
        [(name, shade)] = shades.items()
        ax.set_ylabel(name.replace("_", " "), color=shade)
    else:
        ax.legend(frameon=False, loc=legend)


def _mark_stages(ax: Axes, stages: Stages) -> None:
    start = 0
    for stage, curves in stages.items():
        middle = start + 0.5 + _length(curves) / 2
        ax.annotate(
            stage, (middle, 1), xycoords=("data", "axes fraction"), xytext=(0, 3),
            textcoords="offset points", ha="center", fontsize="small",
        )  # fmt: skip
        if start:
            ax.axvline(start + 0.5, color="0.7", linewidth=0.8, linestyle=":")
        start += _length(curves)


def _length(curves: dict[str, np.ndarray]) -> int:
    return max(map(len, curves.values()))


def _by_stage(history: dict[str, np.ndarray]) -> Stages:
    """Split names: the stage "pretraining" has its curve "valid_loss" in "pretraining_valid_loss"."""
    stages: Stages = {}
    for full, values in history.items():
        stage, _, name = full.partition("_")
        stages.setdefault(stage if name else "", {})[name or full] = np.atleast_1d(values).astype(float)
    filled = {stage: {n: v for n, v in curves.items() if len(v)} for stage, curves in stages.items()}
    return {stage: curves for stage, curves in filled.items() if curves}
