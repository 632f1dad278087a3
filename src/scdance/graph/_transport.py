"""Cells spread over types so that both sides get what they should: entropic optimal transport."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from scdance._checks import InputError

HALVINGS = 30  # of a step, before it is given up
FLAT = 1e-9  # second derivative, as a share of the total, below which a direction counts as flat


def sinkhorn(
    cost: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    *,
    reg: float = 0.1,
    hold: float | None = None,
    tol: float = 1e-7,
    max_iter: int = 1000,
) -> np.ndarray:
    """Plan with given sums that costs least, smoothed by its entropy [Cuturi2013]_.

    Of all Q with these sums of rows and columns, Σ Q C + reg Σ Q log Q is smallest. Row and column factors are scaled
    in turn, as logarithms, so that no cost is too large; between these rounds a step of Newton on the few column
    factors is taken, as scaling alone is slow where `reg` is small. Time and memory are linear in the
    size of `cost`.

    Parameters
    ----------
    cost
        Cost of each pair C, (n, k), finite.
    rows
        Sum of each row, (n,), above 0.
    columns
        Sum of each column, (k,), above 0, with the total of `rows`.
    reg
        Weight of the entropy, above 0; the smaller, the nearer to the cheapest plan, and the slower.
    hold
        How much sums of columns are held to: `hold` · KL(sums of Q ‖ `columns`) is added to the cost. None: exactly.
    tol
        Ends when no sum of columns, as a share of the total, is further off.
    max_iter
        Most rounds; what is found by then is returned.

    Returns
    -------
    Q, (n, k) float64. Its rows have their sums exactly, its columns up to `tol` where `hold` is None.

    Raises
    ------
    InputError
        A shape does not fit, a sum is not above 0, totals differ, or a number is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import graph
    >>> cost = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 3.0]])
    >>> plan = graph.sinkhorn(cost, np.full(3, 1 / 3), np.array([2 / 3, 1 / 3]))
    >>> plan.argmax(axis=1).tolist(), plan.sum(axis=0).round(6).tolist()
    ([0, 0, 0], [0.666667, 0.333333])
    """
    cost, rows, columns = (np.asarray(each, dtype=np.float64) for each in (cost, rows, columns))
    _refuse(cost, rows, columns, reg, hold)
    dual = _Dual(-cost / reg, rows, columns, 0.0 if hold is None else reg / hold)
    at = dual.at(np.zeros(len(columns)))
    for _ in range(max_iter):
        if np.abs(at.off).max() <= tol * columns.sum():
            break
        at = dual.nearer(dual.at(dual.scaled(at)))
    return at.plan


class _At(NamedTuple):
    """The dual at column factors g: value, gradient, plan, logarithm of its sums of columns, sums that g asks for."""

    g: np.ndarray
    value: float
    off: np.ndarray
    plan: np.ndarray
    log_sums: np.ndarray
    asked: np.ndarray


class _Dual:
    """F(g) = Σ_i r_i log Σ_j exp(g_j + log K_ij) − Σ_j b_j g_j, the convex function of the column factors to minimise.

    Where columns are held less than exactly, −g_j in the last sum is (exp(−ease g_j) − 1) / ease.
    """

    def __init__(self, log_kernel: np.ndarray, rows: np.ndarray, columns: np.ndarray, ease: float) -> None:
        self.log_kernel, self.rows, self.columns, self.ease = log_kernel, rows, columns, ease
        self.reach = 1 + float(np.ptp(log_kernel))  # factors further apart leave columns empty

    def at(self, g: np.ndarray) -> _At:
        logits = self.log_kernel + g
        log_sum = _log_sum(logits, axis=1)
        log_plan = logits - log_sum + np.log(self.rows)[:, None]
        log_sums = _log_sum(log_plan, axis=0)[0]
        with np.errstate(over="ignore"):  # after a step that is too long, and then not taken
            bent = np.expm1(-self.ease * g)
        asked = self.columns * (1 + bent)
        value = float(self.rows @ log_sum[:, 0] + self.columns @ (bent / self.ease if self.ease else -g))
        return _At(g, value, np.exp(log_sums) - asked, np.exp(log_plan), log_sums, asked)

    def scaled(self, at: _At) -> np.ndarray:
        """The column factors g ← (log b − log Kᵀu) / (1 + ease), where log Kᵀu = log Qᵀ1 − g."""
        return (np.log(self.columns) - at.log_sums + at.g) / (1 + self.ease)

    def nearer(self, at: _At) -> _At:
        """Where a step of Newton leads, −(H + flat I)⁻¹ ∇F, halved until F falls."""
        share = at.plan / self.rows[:, None]
        hessian = np.diag(np.exp(at.log_sums) + self.ease * at.asked) - share.T @ at.plan
        flat = FLAT * self.rows.sum()  # F does not change where all factors grow alike, and elsewhere hardly
        step = np.linalg.solve(hessian + flat * np.eye(len(hessian)), -at.off)
        step *= min(1.0, self.reach / max(np.abs(step).max(), 1e-300))
        for i in range(HALVINGS):
            ahead = self.at(at.g + step / 2**i)
            if ahead.value < at.value:
                return ahead
        return at


def _log_sum(x: np.ndarray, axis: int) -> np.ndarray:
    top = x.max(axis=axis, keepdims=True)
    return top + np.log(np.exp(x - top).sum(axis=axis, keepdims=True))  # type: ignore[no-any-return]


def _refuse(cost: np.ndarray, rows: np.ndarray, columns: np.ndarray, reg: float, hold: float | None) -> None:
    if cost.ndim != 2 or rows.shape != cost.shape[:1] or columns.shape != cost.shape[1:] or not cost.size:
        msg = (
            f"cost has shape {cost.shape}, rows {rows.shape}, columns {columns.shape}; expected (n, k), (n,) and (k,)."
        )
        raise InputError(msg)
    if not (np.isfinite(cost).all() and rows.min() > 0 and columns.min() > 0):
        msg = "Costs must be finite, and sums of rows and columns above 0."
        raise InputError(msg)
    if not (reg > 0 and (hold is None or hold > 0)):
        msg = f"reg={reg!r} and hold={hold!r}, but both must be above 0; hold=None holds columns exactly."
        raise InputError(msg)
    if not np.isclose(rows.sum(), columns.sum()):
        msg = f"Rows sum to {rows.sum():g} in all, columns to {columns.sum():g}; both must be the same."
        raise InputError(msg)
