"""Cells to mix and cells to give to a method, none of them in both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scdance._checks import InputError, column
from scdance.pp import generator

if TYPE_CHECKING:
    from anndata import AnnData


def split_reference(
    ref: AnnData,
    by: str | None = None,
    fraction: float = 0.5,
    random_state: int | np.random.Generator | None = 0,
) -> tuple[AnnData, AnnData]:
    """Part a reference into cells to mix spots from and cells to give to a method.

    A method that sees the very cells that were mixed is tested on what it knows. Whole donors on either side
    are the harder and more honest test.

    Parameters
    ----------
    ref
        Cells.
    by
        Column of ``ref.obs`` with the donor, sample or batch, each of which goes to one side as a whole.
        None: every cell by itself.
    fraction
        Share of the cells for the first part, above 0 and below 1. Whole donors come as near to it as their
        random order allows.
    random_state
        Seed. A generator is spawned, never advanced.

    Returns
    -------
    The cells to mix and the reference, both in the order of `ref`; each cell is in one of them. Rare types may
    be in one only.

    Raises
    ------
    MissingKeyError
        If the column is not in ``ref.obs``; the message says what is.
    InputError
        If a part would be empty, or cells have no donor.

    Examples
    --------
    >>> import scdance as sd
    >>> cells = sd.datasets.toy_clusters(n_obs=100, n_vars=60, k=3, n_de=10, batches=4)
    >>> mixing, ref = sd.datasets.split_reference(cells, by="batch")
    >>> set(mixing.obs["batch"]) & set(ref.obs["batch"])
    set()
    """
    import pandas as pd

    if not 0 < fraction < 1:
        msg = f"fraction is {fraction}, but must be a share of the cells, above 0 and below 1."
        raise InputError(msg)
    if by is None:
        group = np.arange(ref.n_obs)
    else:
        values = column(ref.obs, by, where="ref.obs", what="the column of donors or batches", argument="by")
        group = pd.factorize(values)[0]
    if (group < 0).any():
        msg = f"{(group < 0).sum()} of {ref.n_obs} cells have no {by!r}; name it or leave them out of `ref`."
        raise InputError(msg)
    sizes = np.bincount(group)
    if len(sizes) < 2:
        msg = f"{'`ref`' if by is None else f'Column {by!r}'} has {len(sizes)} cells or groups; two parts need 2."
        raise InputError(msg)
    order = generator(random_state).permutation(len(sizes))
    share = np.cumsum(sizes[order])[:-1] / ref.n_obs  # of the first part, if it ends behind this group
    is_first = np.isin(group, order[: 1 + np.argmin(np.abs(share - fraction))])
    return ref[is_first].copy(), ref[~is_first].copy()
