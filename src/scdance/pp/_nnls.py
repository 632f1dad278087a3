"""Non-negative least squares for many right-hand sides at once."""

from __future__ import annotations

import numpy as np

TOLERANCE = 1e-9  # largest step of the last sweep, as part of the largest value of its row
MOST_SWEEPS, CHECK_EVERY = 500, 10
ILL = 1e8  # condition above which sweeps would not end, and each row is solved by itself
MOST_PIVOTS, TRUSTED = 100, 3  # exchanges of the set of positive values; how many may not help before one at a time
ROWS = 2048  # at once, so that their values stay in the processor's cache


def gram_nnls(h: np.ndarray, c: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """Minimise ½ b·H·b − c·b over b ≥ 0 for each row of `c`.

    With H = AᵀA and c = yA this is min ‖y − A b‖², and costs nothing in the length of y. With one H, coordinates
    take turns, each set to its best value for all rows together; rows that have settled are left out. With an H for
    each row, the values that are 0 are guessed and mended for all rows together [Kim2011]_.

    Parameters
    ----------
    h
        (n_types, n_types), symmetric, positive on the diagonal; or one for each row, (n_rows, n_types, n_types),
        positive definite.
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
    if h.ndim == 3:
        return _pivots(h, c, np.ones(c.shape, dtype=bool) if start is None else np.asarray(start) > 0)
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


def _pivots(h: np.ndarray, c: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Block principal pivoting: solve with the values that are thought positive, exchange those that are not."""
    k = c.shape[1]
    scale = np.sqrt(np.einsum("nkk->nk", h))
    h, c = h / (scale[:, :, None] * scale[:, None, :]), c / scale
    out, left, diagonal = np.zeros_like(c), np.arange(len(c)), np.arange(k)
    positive, fewest, trust = positive.copy(), np.full(len(c), k + 1), np.full(len(c), TRUSTED)
    for _ in range(MOST_PIVOTS):
        inner = np.where(positive[:, :, None] & positive[:, None, :], h, 0)
        inner[:, diagonal, diagonal] = 1
        b = np.linalg.solve(inner, np.where(positive, c, 0)[:, :, None])[:, :, 0]
        small = TOLERANCE * 1e-3 * np.abs(c).max(axis=1, keepdims=True)
        wrong = np.where(positive, b < -small, np.einsum("nkl,nl->nk", h, b) - c < -small)
        n_wrong = wrong.sum(axis=1)
        settled = n_wrong == 0
        out[left[settled]] = np.maximum(b[settled], 0)
        if settled.all():
            return out / scale
        helped = n_wrong < fewest
        trust = np.where(helped, TRUSTED, trust - 1)
        fewest = np.minimum(fewest, n_wrong)
        last = k - 1 - wrong[:, ::-1].argmax(axis=1)
        single = (trust < 0)[:, None] & (diagonal != last[:, None])
        positive ^= wrong & ~single
        more = ~settled
        left, h, c, positive = left[more], h[more], c[more], positive[more]
        fewest, trust = fewest[more], trust[more]
    for i, row in enumerate(left):
        out[row] = _one_by_one(h[i], c[i : i + 1])[0]
    return out / scale


def _one_by_one(h: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Solve rows by an active-set method on a square root of H, which nearly equal types do not slow down."""
    from scipy.optimize import nnls

    values, vectors = np.linalg.eigh(h)
    kept = values > values.max() * np.finfo(np.float64).eps * len(h)
    root = np.sqrt(values[kept])[:, None] * vectors[:, kept].T
    sides = c @ vectors[:, kept] / np.sqrt(values[kept])
    return np.stack([nnls(root, side)[0] for side in sides])
