"""What masked autoencoders of cells share: which entries are hidden from them."""

from __future__ import annotations

import numpy as np


def bilevel_mask(
    shape: tuple[int, int], cells: float, genes: float | np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Choose some cells, and of these some entries, to be hidden.

    Parameters
    ----------
    shape
        Numbers of cells and of genes.
    cells
        Share of the cells of which entries are hidden: exactly so many, rounded down, at least one.
    genes
        Probability of each of their entries to be hidden; or one for each cell, (n_obs,).
    rng
        Generator, which is advanced.

    Returns
    -------
    Which entries are hidden, (n_obs, n_vars) bool.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import nn
    >>> nn.bilevel_mask((4, 1000), 0.5, 1.0, np.random.default_rng(0)).sum()
    np.int64(2000)
    """
    n_obs, n_vars = shape
    chosen = np.sort(rng.permutation(n_obs)[: max(1, int(cells * n_obs))])
    rates = np.broadcast_to(np.asarray(genes, dtype=np.float32), n_obs)[chosen]
    hidden = np.zeros(shape, dtype=bool)
    hidden[chosen] = rng.random((len(chosen), n_vars), dtype=np.float32) < rates[:, None]
    return hidden
