"""Linear regression of several values at once, with an intercept and a penalty."""

from __future__ import annotations

import numpy as np


def with_one(x: np.ndarray) -> np.ndarray:
    """The values and a column of ones behind them, which the intercept of :func:`ridge` is multiplied by.

    Parameters
    ----------
    x
        Values, (n_obs, n_vars).

    Returns
    -------
    (n_obs, n_vars + 1), of the type of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> pp.with_one(np.array([[2.0], [3.0]])).tolist()
    [[2.0, 1.0], [3.0, 1.0]]
    """
    return np.column_stack([x, np.ones(len(x), dtype=x.dtype)])


def ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """Coefficients of a ridge regression; ``with_one(x) @ ridge(x, y, penalty)`` foretells `y`.

    Parameters
    ----------
    x
        What is given, (n_obs, n_x).
    y
        What is to be foretold, (n_obs, n_y).
    penalty
        Added to the mean square of each column of `x`, in the unit of `x` squared; above 0. The intercept has none.

    Returns
    -------
    (n_x + 1, n_y) float32, the intercepts in the last row.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> x = np.array([[0.0], [1.0], [2.0]])
    >>> pp.ridge(x, 2 * x + 1, 1e-9).round(3).tolist()
    [[2.0], [1.0]]
    """
    x = with_one(x).astype(np.float64)
    added = np.diag([*np.full(x.shape[1] - 1, penalty * len(x)), 0.0])
    return np.linalg.solve(x.T @ x + added, x.T @ y).astype(np.float32)
