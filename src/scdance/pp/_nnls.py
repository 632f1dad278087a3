"""Non-negative least squares for many right-hand sides at once."""

from __future__ import annotations

import numpy as np

TOLERANCE = 1e-9  # largest step of the last sweep, as part of the largest value of its row
MOST_SWEEPS, CHECK_EVERY = 500, 10
ILL = 1e8  # condition above which sweeps would not end, and each row is solved by itself
ROWS = 2048  # at once, so that their values stay in the processor's cache


def gram_nnls(h: np.ndarray, c: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """Minimise ½ b·H·b − c·b over b ≥ 0 for each row of `c`.

    With H = AᵀA and c = yA this is min ‖y − A b‖², and costs nothing in the length of y. Coordinates take turns,
    each set to its best value for all rows together; rows that have settled are left out.

    Parameters
    ----------
    h
        (n_types, n_types), symmetric, positive on the diagonal.
    c
        (n_rows, n_types).
    start
        Where to begin, (n_rows, n_types), not negative; None: at 0.

    Returns
    -------
    (n_rows, n_types) float64.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> profiles, spots = np.array([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0]]), np.array([[4.0, 3.0, 3.0]])
    >>> pp.gram_nnls(profiles @ profiles.T, spots @ profiles.T).round(6).tolist()
    [[2.0, 1.0]]
    """
    h, c = np.asarray(h, dtype=np.float64), np.asarray(c, dtype=np.float64)
    if np.linalg.cond(h) > ILL:
        return _one_by_one(h, c)
    out = np.zeros_like(c) if start is None else np.array(start, dtype=np.float64)
    for begin in range(0, len(c), ROWS):
        rows = slice(begin, begin + ROWS)
        out[rows] = _sweeps(h, c[rows], out[rows])
    return out


def _sweeps(h: np.ndarray, c: np.ndarray, b: np.ndarray) -> np.ndarray:
    out, left = b, np.arange(len(b))
    b = np.array(b.T, order="C")  # one row per type, so that each step runs over neighbours in memory
    c = np.array(c.T, order="C")
    for sweep in range(1, MOST_SWEEPS + 1):
        looks = sweep % CHECK_EVERY == 0
        before = b.copy() if looks else b
        for k in range(len(h)):
            b[k] = np.maximum(b[k] - (h[k] @ b - c[k]) / h[k, k], 0)
        if looks:
            moving = np.abs(b - before).max(axis=0) > TOLERANCE * np.maximum(b.max(axis=0), 1e-300)
            out[left[~moving]] = b[:, ~moving].T
            if not moving.any():
                return out
            left, b, c = left[moving], np.ascontiguousarray(b[:, moving]), np.ascontiguousarray(c[:, moving])
    out[left] = b.T
    return out


def _one_by_one(h: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Solve rows by an active-set method on a square root of H, which nearly equal types do not slow down."""
    from scipy.optimize import nnls

    values, vectors = np.linalg.eigh(h)
    kept = values > values.max() * np.finfo(np.float64).eps * len(h)
    root = np.sqrt(values[kept])[:, None] * vectors[:, kept].T
    sides = c @ vectors[:, kept] / np.sqrt(values[kept])
    return np.stack([nnls(root, side)[0] for side in sides])
