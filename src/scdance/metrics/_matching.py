"""How well cells of two modalities are matched, over the cells whose true partner is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from scdance._checks import InputError

from ._metric import metric

ROWS = 1024  # cells whose distances to all others are computed at once


@metric(higher_is_better=True, range=(0.0, 1.0))
def match_probability(partner: Any, matching: Any) -> float:
    """Probability that a matching gives the true partner, the mean over the cells; the competition's score.

    Parameters
    ----------
    partner
        Column of the true partner of each row, (n,) int, −1 where it is not known or there is none.
    matching
        Probability of each partner, (n, n), sparse or dense, not negative; a row is divided by its sum.

    Returns
    -------
    Between 0 and 1; one over the number of candidates by chance. NaN where no partner is known.

    Raises
    ------
    InputError
        If the shapes do not agree.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.match_probability([1, 0], [[0.2, 0.8], [1.0, 0.0]])
    0.9
    """
    rows, columns, links = _known(partner, matching)
    sums = np.asarray(links.sum(axis=1)).ravel()
    return _mean(_at(links, columns) / np.where(sums > 0, sums, 1)) if len(rows) else float("nan")


@metric(higher_is_better=True, range=(0.0, 1.0))
def match_top5(partner: Any, matching: Any) -> float:
    """Share of the cells whose true partner is among the five likeliest.

    Parameters
    ----------
    partner
        As in :func:`match_probability`.
    matching
        As in :func:`match_probability`.

    Returns
    -------
    Between 0 and 1, NaN where no partner is known.

    Raises
    ------
    InputError
        If the shapes do not agree.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.match_top5([1, 0], [[0.2, 0.8], [1.0, 0.0]])
    1.0
    """
    ranks = partner_ranks(partner, matching)
    return _mean(ranks <= 5) if len(ranks) else float("nan")


@metric(higher_is_better=True, range=(0.0, 1.0))
def match_accuracy(truth: Any, match: Any) -> float:
    """Share of the cells whose one partner is the true one.

    Parameters
    ----------
    truth
        Name of the true partner of each cell, (n,); cells where it is missing or "" are left out.
    match
        Name of the partner that was found, (n,); a cell without one counts as wrong.

    Returns
    -------
    Between 0 and 1, NaN where no partner is known.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.match_accuracy(["a", "b"], ["a", "c"])
    0.5
    """
    import pandas as pd

    true, found = pd.Series(np.asarray(truth, dtype=object)), pd.Series(np.asarray(match, dtype=object))
    known = true.notna() & (true != "")
    return _mean(true[known].eq(found[known]).to_numpy()) if known.any() else float("nan")


@metric(higher_is_better=False, range=(0.0, 1.0))
def foscttm(partner: Any, embedding: Any) -> float:
    """Share of the cells that are closer than the true match; 0.5 by chance, 0 where nobody is.

    Parameters
    ----------
    partner
        Row of the true partner of each row, (n,) int, −1 where it is not known or there is none.
    embedding
        Common space, (n, n_latent); cells are compared by cosine.

    Returns
    -------
    Mean over the cells and over their partners, between 0 and 1: of the other cells on the partner's side, the share
    that is closer. NaN with fewer than two pairs.

    Raises
    ------
    InputError
        If the numbers of rows do not agree.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.foscttm([2, 3, -1, -1], [[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.1, 1.0]])
    0.0
    """
    partner, z = np.asarray(partner), np.asarray(embedding, dtype=np.float64)
    if partner.shape != z.shape[:1]:
        msg = f"partner has shape {partner.shape}, the embedding {z.shape}; expected as many rows."
        raise InputError(msg)
    z = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    rows = np.flatnonzero(partner >= 0)
    if len(rows) < 2:
        return float("nan")
    a, b = z[rows], z[partner[rows]]
    own = np.einsum("ij,ij->i", a, b)
    closer = sum(
        float(((one[at] @ other.T) > own[at, None] + 1e-12).sum())
        for one, other in ((a, b), (b, a))
        for at in (slice(start, start + ROWS) for start in range(0, len(rows), ROWS))
    )
    return closer / (2 * len(rows) * (len(rows) - 1))


def partner_ranks(partner: Any, matching: Any) -> np.ndarray:
    """How far down the likeliest partners of each cell the true one stands.

    Parameters
    ----------
    partner
        As in :func:`match_probability`.
    matching
        As in :func:`match_probability`.

    Returns
    -------
    1 for the likeliest, infinity where the true one has no probability, (n,) float64, of cells whose partner is known.

    Raises
    ------
    InputError
        If the shapes do not agree.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.partner_ranks([1, 0], [[0.2, 0.8], [1.0, 0.0]]).tolist()
    [1.0, 1.0]
    """
    rows, columns, links = _known(partner, matching)
    own = _at(links, columns)
    row = np.repeat(np.arange(len(rows)), np.diff(links.indptr))
    above = np.bincount(row, weights=links.data > own[row], minlength=len(rows))
    return np.where(own > 0, above + 1, np.inf)


def _known(partner: Any, matching: Any) -> tuple[np.ndarray, np.ndarray, sp.csr_matrix]:
    """Rows whose partner is known, that partner, and their links."""
    partner, links = np.asarray(partner), sp.csr_matrix(matching, dtype=np.float64)
    if partner.shape != (links.shape[0],) or partner.max(initial=-1) >= links.shape[1]:
        msg = f"partner has shape {partner.shape}, the matching {links.shape}; expected a column of it for each row."
        raise InputError(msg)
    rows = np.flatnonzero(partner >= 0)
    return rows, partner[rows], links[rows]


def _at(links: sp.csr_matrix, columns: np.ndarray) -> np.ndarray:
    return np.asarray(links[np.arange(links.shape[0]), columns]).ravel() if len(columns) else np.zeros(0)


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values))
