"""All checks of one method."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from . import _results, _unchanged, _fitted, _words, _memory  # noqa: F401, they register their checks  # isort: skip
from ._check import CHECKS, CheckFailed, NoRun
from ._trial import Trial

if TYPE_CHECKING:
    from scdance._core.method import Method


def check_method(
    method: str | type[Method],
    task: str | None = None,
    *,
    knobs: dict[str, Any] | None = None,
    checks: Iterable[str] | None = None,
    device: str = "cpu",
) -> None:
    """Hold a method to the contract of scdance: results, randomness, saving, memory, words.

    Fits at most three times on 97 toy cells (a fourth time if the method calls itself `order_free`), with a reference
    of 149 others where the task has one, and twice on 1,200 and 2,400 cells for the memory. A check that a method
    cannot pass is declared on its class as ``exempt = {"name of the check": "reason"}``; an exempt check that passes
    is a failure too.

    Parameters
    ----------
    method
        A method of scdance by name, or a class of your own.
    task
        Name of the task; None: the one that the class names, or that has a method of this name.
    knobs
        Parameters that make the method quick on toy data. Training stages run three epochs (one for the memory)
        unless set here.
    checks
        Names of the checks to run, out of ``CHECKS``; None: all.
    device
        Where nets run. Elsewhere than on the CPU equal runs may differ by 1e-4.

    Raises
    ------
    CheckFailed
        At least one check fails; the message has a line for each problem.
    ValueError
        There is no such method, task or check.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance._core.method import Method
    >>> from scdance.testing import check_method
    >>> class Deep(Method):
    ...     '''Cut the cells in two by their depth.
    ...
    ...     When to use
    ...     -----------
    ...     To see whether clusters are depth.
    ...
    ...     When not
    ...     --------
    ...     To find cell types.
    ...
    ...     Differs from the paper
    ...     ----------------------
    ...     There is none.
    ...
    ...     Parameters
    ...     ----------
    ...     share
    ...         Part of the cells that goes into the larger half.
    ...     '''
    ...
    ...     share: float = 0.6
    ...
    ...     def fit(self, *, cells):
    ...         self.cut_ = float(np.quantile(cells.depth, self.share))
    ...         return self
    ...
    ...     def predict(self, *, cells):
    ...         return {"labels": cells.depth > self.cut_}
    >>> check_method(Deep, "cluster")
    """
    chosen = list(CHECKS if checks is None else checks)
    if unknown := [name for name in chosen if name not in CHECKS]:
        msg = f"There is no check {unknown[0]!r}; there are {', '.join(CHECKS)}."
        raise ValueError(msg)
    trial = Trial(method, task, knobs=knobs, device=device)
    found = {name: trial.problems(name) for name in chosen}
    # a run that fails has been told by the check "runs"; what could not be looked at for it is no news
    found = {name: said for name, said in found.items() if said and said != [NoRun.text]}
    if found:
        raise CheckFailed(trial.cls.__name__, found) from next(iter(trial.errors), None)
