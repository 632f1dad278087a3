"""Two independent halves of the counts, so that what is found in one can be tested in the other."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from scdance._checks import InputError

from ._rows import canonical


def thin(counts: sp.csr_matrix, share: float, rng: np.random.Generator) -> sp.csr_matrix:
    """Draw each counted molecule with probability `share`.

    What is drawn and what is left are two data sets of the same cells. Their counts are independent given the rates
    where the counts are Poisson [Neufeld2024]_; where they vary more than that, both halves share the surplus.

    Parameters
    ----------
    counts
        Raw counts, (n_obs, n_vars): whole numbers of at least 0.
    share
        Probability of a molecule to be drawn, above 0 and below 1.
    rng
        Generator, which is advanced.

    Returns
    -------
    Counts that were drawn, (n_obs, n_vars) CSR float32, none above that of `counts`.

    Raises
    ------
    InputError
        `share` is not between 0 and 1, or a value is negative, not finite or has a fraction.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> counts = pp.canonical(np.array([[1000, 0], [0, 2000]]))
    >>> part = pp.thin(counts, 0.5, np.random.default_rng(0))
    >>> bool(400 < part[0, 0] < 600), bool(900 < part[1, 1] < 1100), part.nnz
    (True, True, 2)
    """
    if not 0 < share < 1:
        msg = f"share is {share!r}, but must be a share of the counts above 0 and below 1."
        raise InputError(msg)
    counts = canonical(counts)
    refuse_no_counts(counts)
    drawn = rng.binomial(np.rint(counts.data).astype(np.int64), share).astype(np.float32)
    return canonical(sp.csr_matrix((drawn, counts.indices, counts.indptr), shape=counts.shape))


def refuse_no_counts(counts: sp.csr_matrix, *, fractions: bool = False) -> None:
    """Refuse values that are negative, not finite or, unless `fractions`, have a fraction."""
    if fractions:
        wrong = ~np.isfinite(counts.data) | (counts.data < 0)
        if wrong.any():
            msg = f"{int(wrong.sum())} values are no counts: negative or not finite. Pass raw counts."
            raise InputError(msg)
        return
    whole = np.rint(counts.data)
    with np.errstate(invalid="ignore"):  # infinite less infinite
        wrong = ~(np.abs(counts.data - whole) <= 1e-6) | (whole < 0)
    if wrong.any():
        msg = f"{int(wrong.sum())} values are no counts: negative, not finite or with a fraction. Pass raw counts."
        raise InputError(msg)
