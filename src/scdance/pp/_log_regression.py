"""Non-negative regression of logarithms for many rows at once, each with its own background and weights."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ._nnls import gram_nnls

FLOOR = 1e-4  # smallest expected value whose logarithm is taken
MOST_STEPS, MOST_HALVINGS = 100, 30
LEAST_STEP, LEAST_FALL = 1e-8, 1e-12  # of the largest coefficient, of the loss: below either, a row has settled
LEAST_FREE = 0.1  # of a residual: genes that nearly fit themselves tell no variance
RIDGE = 1e-9  # of the trace, so that types without a difference have a solution


def log_regression(
    y: np.ndarray,
    profiles: np.ndarray,
    background: np.ndarray | float = 0.0,
    *,
    weights: np.ndarray | None = None,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """Minimise Σ_g w_g (log y_g − log(background + Σ_k b_k profile_kg))² over b ≥ 0 for each row of `y`.

    Projected Gauss–Newton: in each step the logarithm is made linear, which leaves a problem of non-negative least
    squares, and its step is halved until the loss falls. All rows take their steps together; those that have settled
    are left out.

    Parameters
    ----------
    y
        (n_rows, n_genes), above 0.
    profiles
        (n_types, n_genes), not negative, none of them 0 throughout.
    background
        What is expected without any type: a number, or one for each row, (n_rows,).
    weights
        (n_rows, n_genes), not negative; None: equal.
    start
        Where to begin, (n_rows, n_types), not negative; None: every type with an equal part of the row's mean.

    Returns
    -------
    (n_rows, n_types) float64.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> profiles, y = np.array([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0]]), np.array([[4.1, 3.1, 3.1]])
    >>> pp.log_regression(y, profiles, 0.1).round(6).tolist()
    [[2.0, 1.0]]
    """
    profiles, target = np.ascontiguousarray(profiles, dtype=np.float64), np.log(y)
    background = np.broadcast_to(np.reshape(background, (-1, 1)), (len(target), 1))
    unit = profiles.mean(axis=1)  # amounts are sought in counts, so that a small step is small for every type
    profiles = profiles / unit[:, None]
    if start is None:
        out = np.repeat(np.mean(y, axis=1, dtype=np.float64)[:, None] / len(unit), len(unit), axis=1)
    else:
        out = start * unit
    left, pairs = np.arange(len(target)), _pairs(profiles)
    b = out.copy()
    mean, off, loss = _fit(b, target, profiles, background, weights)
    for _ in range(MOST_STEPS):
        h, slope = _quadratic(mean, off, profiles, pairs, weights)
        step = gram_nnls(h, np.einsum("nkl,nl->nk", h, b) + slope, start=b) - b
        before = loss.copy()
        tried, size = np.arange(len(b)), 1.0
        for _ in range(MOST_HALVINGS):
            some = weights if weights is None else weights[tried]
            found = _fit(b[tried] + size * step[tried], target[tried], profiles, background[tried], some)
            better = found[2] <= loss[tried]
            rows = tried[better]
            b[rows] += size * step[rows]
            mean[rows], off[rows], loss[rows] = (each[better] for each in found)
            tried, size = tried[~better], size / 2
            if not len(tried):
                break
        step[tried] = 0
        settled = np.abs(step).max(axis=1) <= LEAST_STEP * b.max(axis=1)
        settled |= before - loss <= LEAST_FALL * before
        out[left] = b
        if settled.all():
            break
        if settled.any():
            more = ~settled
            left, b, target, background = left[more], b[more], target[more], background[more]
            mean, off, loss = mean[more], off[more], loss[more]
            weights = weights if weights is None else weights[more]
    return out / unit


def log_covariance(
    y: np.ndarray,
    profiles: np.ndarray,
    background: np.ndarray | float,
    b: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    known: float = 0.0,
    kind: Literal["robust", "gn", "hessian"] = "robust",
) -> np.ndarray:
    """Covariance of what :func:`log_regression` found, the amount of background being uncertain, too.

    With slopes j of the logarithms, residuals r and H = Σ_g w j jᵀ it is H⁻¹ (Σ_g w² r² j jᵀ) H⁻¹ for "robust", where
    each gene has the variance that its residual says (r² divided by one minus the gene's leverage), and
    H⁻¹ Σ_g w r² / (n_genes − n_types) for "gn" (Gauss–Newton), where all have the same; counted are genes with a weight
    and types with an amount.

    Parameters
    ----------
    y, profiles, background, weights
        As they were given to it.
    b
        What it found, (n_rows, n_types).
    known
        Part of the background that is certain, such as the 1 of log1p.
    kind
        "robust", "gn", or "hessian": the inverse of the Hessian of the loss, which is a covariance only where the
        residuals have the variance ½; where it is not positive, of its Gauss–Newton part.

    Returns
    -------
    (n_rows, n_types, n_types) float64.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> profiles, y = np.array([[2.0, 0.0, 1.0, 3.0], [0.0, 3.0, 1.0, 1.0]]), np.array([[4.5, 3.1, 3.1, 6.0]])
    >>> pp.log_covariance(y, profiles, 0.1, pp.log_regression(y, profiles, 0.1)).shape
    (1, 2, 2)
    """
    profiles, target = np.ascontiguousarray(profiles, dtype=np.float64), np.log(y)
    background = np.broadcast_to(np.reshape(background, (-1, 1)), (len(target), 1))
    mean, off, loss = _fit(b, target, profiles, background, weights)
    weights = np.ones_like(mean) if weights is None else weights
    uncertain, k = background - known, len(profiles)
    h = _with_background(weights, mean, profiles, uncertain)
    if kind == "robust":
        inverse = _inverse(h)
        off = weights * off**2 / np.maximum(1 - _leverage(inverse, weights, mean, profiles, uncertain), LEAST_FREE)
        return (inverse @ _with_background(weights * off, mean, profiles, uncertain) @ inverse)[:, :k, :k]
    if kind == "gn":
        free = (weights > 0).sum(axis=1) - (b > 0).sum(axis=1)
        return _inverse(h)[:, :k, :k] * (loss / np.maximum(free, 1))[:, None, None]
    whole = _with_background(weights * (1 + off), mean, profiles, uncertain)
    size = np.sqrt(np.einsum("nkk->nk", h)) + (np.einsum("nkk->nk", h) == 0)
    convex = np.linalg.eigvalsh((whole / (size[:, :, None] * size[:, None, :]))[:, :k, :k])[:, 0] > 0
    return _inverse(2 * np.where(convex[:, None, None], whole, h))[:, :k, :k]


def _fit(
    b: np.ndarray, target: np.ndarray, profiles: np.ndarray, background: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Expected values and residuals of the logarithms, (n_rows, n_genes), and the loss, (n_rows,)."""
    mean = b @ profiles
    mean += background
    np.maximum(mean, FLOOR, out=mean)
    off = target - np.log(mean)
    loss = np.einsum("ng,ng->n", off, off if weights is None else off * weights)
    return mean, off, loss


def _quadratic(
    mean: np.ndarray, off: np.ndarray, profiles: np.ndarray, pairs: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Half the Gauss–Newton Hessian of the loss and half its negative gradient."""
    weighted = 1 / mean if weights is None else weights / mean
    slope = (weighted * off) @ profiles.T
    h = _square(weighted / mean, pairs, len(profiles))
    ridge = RIDGE * np.trace(h, axis1=1, axis2=2)
    h[:, np.arange(len(profiles)), np.arange(len(profiles))] += ridge[:, None]
    return h, slope


def _pairs(profiles: np.ndarray) -> np.ndarray:
    """Products of every two profiles, (n_genes, n_pairs)."""
    one, other = np.triu_indices(len(profiles))
    return (profiles[one] * profiles[other]).T.copy()


def _square(weights: np.ndarray, pairs: np.ndarray, k: int) -> np.ndarray:
    """Σ_g weight_g profile_g profile_gᵀ of each row, (n_rows, k, k)."""
    one, other = np.triu_indices(k)
    out = np.empty((len(weights), k, k))
    out[:, one, other] = weights @ pairs
    out[:, other, one] = out[:, one, other]
    return out


def _with_background(weights: np.ndarray, mean: np.ndarray, profiles: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Σ_g weight_g j_g j_gᵀ with the slopes j of the logarithm by the types and, last, the background."""
    k, scaled = len(profiles), weights / mean**2
    out = np.empty((len(mean), k + 1, k + 1))
    out[:, :k, :k] = _square(scaled, _pairs(profiles), k)
    out[:, k, :k] = out[:, :k, k] = (scaled @ profiles.T) * background
    out[:, k, k] = scaled.sum(axis=1) * background[:, 0] ** 2
    return out


def _leverage(
    inverse: np.ndarray, weights: np.ndarray, mean: np.ndarray, profiles: np.ndarray, background: np.ndarray
) -> np.ndarray:
    """Part of each residual that the fit takes up, weight_g j_gᵀ H⁻¹ j_g, (n_rows, n_genes)."""
    k = len(profiles)
    one, other = np.triu_indices(k)
    out = (inverse[:, one, other] * np.where(one == other, 1, 2)) @ _pairs(profiles).T
    out += 2 * background * (inverse[:, k, :k] @ profiles) + background**2 * inverse[:, k, k, None]
    return out * weights / mean**2


def _inverse(h: np.ndarray) -> np.ndarray:
    """Inverses; a row and column of zeros, of a background that there is not, stays zero."""
    scale = np.sqrt(np.abs(np.einsum("nkk->nk", h)))
    there = scale > 0
    scale = np.where(there, scale, 1)
    h = h / (scale[:, :, None] * scale[:, None, :])
    diagonal = np.arange(h.shape[1])
    h[:, diagonal, diagonal] += np.where(there, RIDGE, 1)
    return np.linalg.inv(h) * there[:, :, None] / (scale[:, :, None] * scale[:, None, :])
