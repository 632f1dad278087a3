"""Sums of a few cells: spots without a place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scdance._checks import InputError, whole_number
from scdance.pp import generator

from ._mixing import above_zero, as_spots, mixable, record, thinned

if TYPE_CHECKING:
    from anndata import AnnData

TRIES_PER_SPOT = 1_000  # draws of a pseudo-spot until it has enough types


def simulate_pseudospots(
    ref: AnnData,
    labels_key: str,
    n: int = 1000,
    *,
    n_cells: tuple[int, int] = (2, 8),
    min_types: int = 1,
    max_umi: float = 25_000,
    target_umi: float = 20_000,
    replace: bool = True,
    layer: str | None = None,
    random_state: int | np.random.Generator | None = 0,
) -> AnnData:
    """Sum the counts of a few random cells of a reference, spot by spot.

    Such spots train or test a deconvolution where their place does not matter. A spot is deeper than its
    cells are, so that one with too many molecules is thinned.

    Parameters
    ----------
    ref
        Cells with raw counts in ``layers["counts"]`` or ``X``. Cells without counts or type are left out.
    labels_key
        Column of ``ref.obs`` with their types.
    n
        Number of spots.
    n_cells
        Fewest and most cells of a spot; each number is as likely.
    min_types
        Fewest types of a spot; draws with fewer are repeated.
    max_umi
        Most total counts of a spot. One with more keeps each molecule with probability `target_umi` / total.
    target_umi
        Mean total counts of thinned spots, at most `max_umi`.
    replace
        Whether a cell may occur several times in a spot.
    layer
        Layer with the raw counts. None: ``layers["counts"]`` if there, else ``X``.
    random_state
        Seed. A generator is spawned, never advanced.

    Returns
    -------
    AnnData with int32 counts (CSR) in ``X``; ``obsm["true_prop"]``, the types' shares of the cells, and
    ``obsm["true_prop_rna"]``, their shares of the RNA before thinning, rows sum to 1; ``obs["n_cells"]``; the
    parameters in ``uns["simulation"]``. There are no coordinates. "/" in the name of a type is written "|".

    Raises
    ------
    MissingKeyError
        If the column or layer is not in `ref`; the message says what is.
    InputError
        If there are fewer than two types, the counts are no counts, or a number is out of range.

    Examples
    --------
    >>> import scdance as sd
    >>> cells = sd.datasets.toy_clusters(n_obs=200, n_vars=60, k=3, n_de=10)
    >>> sd.datasets.simulate_pseudospots(cells, "cell_type", 50).shape
    (50, 60)
    """
    import pandas as pd
    import scipy.sparse as sp

    n = whole_number(n, "n", least=1)
    fewest, most = (whole_number(each, "n_cells", least=1) for each in n_cells)
    above_zero(max_umi=max_umi, target_umi=target_umi)
    cells = mixable(ref, labels_key, layer)
    n_types = whole_number(min_types, "min_types", least=1)
    for wrong, what in (
        (fewest > most, f"n_cells is {n_cells}, but must be the fewest and then the most cells of a spot."),
        (target_umi > max_umi, f"target_umi is {target_umi}, but must be at most max_umi, {max_umi}."),
        (n_types > fewest, f"min_types is {n_types}, but a spot may have {fewest} cells; raise n_cells."),
        (n_types > len(cells.types), f"min_types is {n_types}, but there are {len(cells.types)} types."),
        (
            not replace and most > len(cells.codes),
            f"n_cells goes up to {most}, but there are {len(cells.codes)} cells; pass replace=True.",
        ),
    ):
        if wrong:
            raise InputError(what)
    rng = generator(random_state)

    sizes = rng.integers(fewest, most + 1, size=n)
    members = np.concatenate([_members(cells.codes, size, n_types, replace, rng) for size in sizes])
    mixture = sp.csr_array(
        (np.ones(len(members), np.int32), members, np.r_[0, np.cumsum(sizes)]), (n, len(cells.codes))
    )
    x = sp.csr_array(mixture @ cells.counts.astype(np.int32))
    total = x.sum(axis=1)
    keep = np.where(total > max_umi, target_umi / np.maximum(total, 1), 1.0)
    x = thinned(x, keep, rng)

    depth = np.asarray(cells.counts.sum(axis=1)).ravel()
    rna = (mixture @ sp.diags_array(depth) @ cells.is_type).toarray()
    obs = pd.DataFrame({"n_cells": sizes.astype(np.int32)}, index=[f"spot_{i}" for i in range(n)])
    adata = as_spots(x, ref.var_names, obs, (mixture @ cells.is_type).toarray() / sizes[:, None], rna, cells.types)
    adata.uns["simulation"] = record(
        "simulate_pseudospots",
        labels_key=labels_key,
        n_cells=list(n_cells),
        min_types=min_types,
        max_umi=max_umi,
        target_umi=target_umi,
        replace=replace,
        layer=layer,
        random_state=random_state,
    )
    return adata


def _members(codes: np.ndarray, size: int, n_types: int, replace: bool, rng: np.random.Generator) -> np.ndarray:
    """Rows of the cells of one pseudo-spot with at least `n_types` types."""
    for _ in range(TRIES_PER_SPOT):
        rows = rng.choice(len(codes), size, replace=replace)
        if n_types == 1 or len(np.unique(codes[rows])) >= n_types:
            return rows
    msg = f"No draw of {size} cells had min_types={n_types} types in {TRIES_PER_SPOT} tries; pass fewer, or more cells."
    raise InputError(msg)
