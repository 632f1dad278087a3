"""What is known about a score; decorating the function is what puts it on the list."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from scdance._checks import InputError, one_of

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

Function = TypeVar("Function", bound=Callable[..., float])
_METRICS: dict[str, Metric] = {}


@dataclass(frozen=True)
class Metric:
    """A score and what one must know to use it.

    Attributes
    ----------
    name
        Name of the function.
    function
        Takes `needs` in this order and returns one number, or NaN where the score is not defined.
    higher_is_better
        Direction.
    range
        Lowest and highest possible value.
    needs
        What it compares: "truth", parts of a task's result, such as "labels" or "embedding", or the values of other
        metrics, by their names.
    text
        What it says, in one line.
    costly
        Whether it takes too long to be looked at after every epoch of a training.
    """

    name: str
    function: Callable[..., float]
    higher_is_better: bool
    range: tuple[float, float]
    needs: tuple[str, ...]
    text: str
    costly: bool = False


def metric(
    *, higher_is_better: bool, range: tuple[float, float], costly: bool = False
) -> Callable[[Function], Function]:
    """Put a score on the list; its positional parameters say what it compares, its docstring the rest.

    Parameters
    ----------
    higher_is_better
        Direction of the score.
    range
        Lowest and highest possible value.
    costly
        Whether it takes too long to be looked at after every epoch of a training.

    Returns
    -------
    A decorator that leaves the function as it is.

    Examples
    --------
    >>> from scdance.metrics import metric
    >>> @metric(higher_is_better=True, range=(0.0, 1.0))  # doctest: +SKIP
    ... def purity(truth, labels):
    ...     "Share of the cells that have the main type of their cluster."
    """

    def put_on_list(function: Function) -> Function:
        name = function.__name__
        parameters = inspect.signature(function).parameters.values()
        needs = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
        text = (inspect.getdoc(function) or "").partition("\n")[0]
        _METRICS[name] = Metric(name, function, higher_is_better, range, needs, text, costly)
        return function

    return put_on_list


def get(name: str) -> Metric:
    """The metric of this name.

    Parameters
    ----------
    name
        One of :func:`names`.

    Returns
    -------
    Its record: function, direction, range and what it compares.

    Raises
    ------
    InputError
        If there is no such metric; the nearest name is given.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.get("rmse").higher_is_better
    False
    """
    return _METRICS[one_of(name, names(), "metric")]


def with_parts(wanted: Iterable[str]) -> list[Metric]:
    """The metrics of these names and those whose values they need, each once, after what it needs."""
    found: dict[str, Metric] = {}
    known = names()

    def add(name: str) -> None:
        own = get(name)
        for need in own.needs:
            if need in known:
                add(need)
        found.setdefault(own.name, own)

    for name in wanted:
        add(name)
    return list(found.values())


def names() -> list[str]:
    """Names of all metrics.

    Returns
    -------
    Names, sorted.

    Examples
    --------
    >>> import scdance as sd
    >>> "ari" in sd.metrics.names()
    True
    """
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"{__package__}.{module.name}")
    return sorted(_METRICS)


def table() -> pd.DataFrame:
    """All metrics as a table.

    Returns
    -------
    One row per metric, indexed by name: what it says, what it compares, its direction and its range.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.table().loc["ari", "needs"]
    'truth, labels'
    """
    import pandas as pd

    metrics = [get(name) for name in names()]
    columns = {
        "text": [m.text for m in metrics],
        "needs": [", ".join(m.needs) for m in metrics],
        "higher_is_better": [m.higher_is_better for m in metrics],
        "lowest": [m.range[0] for m in metrics],
        "highest": [m.range[1] for m in metrics],
    }
    return pd.DataFrame(columns, index=pd.Index([m.name for m in metrics], name="name"))


def tables(truth: Any, predicted: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A truth and what was predicted of it, as tables of one shape."""
    true, said = (np.atleast_2d(np.asarray(each, dtype=np.float64)) for each in (truth, predicted))
    if true.shape != said.shape or 0 in true.shape:
        msg = f"The truth has shape {true.shape}, the prediction {said.shape}: expected the same, and not empty."
        raise InputError(msg)
    return true, said
