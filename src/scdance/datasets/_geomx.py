"""Regions of a tissue as GeoMx measures them: few, deep, without neighbours, and with a background that is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from scdance._checks import InputError, one_of, whole_number
from scdance.pp import generator

from ._mixing import (
    Mixable,
    above_zero,
    as_spots,
    at_least_zero,
    drawn,
    lognormal_noise,
    mixable,
    present_types,
    record,
    shares,
    sources,
)

if TYPE_CHECKING:
    from anndata import AnnData

NEGATIVE = "NegProbe"  # what the names of probes without a target begin with


def simulate_geomx(
    ref: AnnData,
    labels_key: str,
    n_regions: int = 24,
    *,
    concentration: float = 1.0,
    n_cells_per_region: float = 200.0,
    expression: Literal["cells", "profiles"] = "cells",
    depth: float = 100_000.0,
    capture_sd: float = 0.3,
    gene_effect_sd: float = 0.3,
    noise_sd: float = 0.3,
    background: float = 0.2,
    n_negative: int = 20,
    pure_type: str | None = None,
    n_pure: int = 4,
    drop_types: Sequence[str] = (),
    layer: str | None = None,
    random_state: int | np.random.Generator | None = 0,
) -> AnnData:
    """Simulate regions of interest, as GeoMx counts them, by mixing the cells of a reference.

    The shares of the types in a region are random, with a Poisson number of cells. Their counts are summed and every
    gene is changed by the factor by which the platforms differ. Every probe also binds where it should not, in a region
    as often as each other probe; negative probes, which have no target, count nothing else and so tell how much that
    is. Each count varies around what is expected by a log-normal factor of its own. Mix other cells than those a
    method gets as its reference: :func:`split_reference`.

    Parameters
    ----------
    ref
        Cells with raw counts in ``layers["counts"]`` or ``X``. Cells without counts or type are left out.
    labels_key
        Column of ``ref.obs`` with their types.
    n_regions
        Number of regions.
    concentration
        How mixed the regions are, above 0: near 0 one type rules each region, at 1 all shares are as likely, large
        values approach equal shares (parameter of a symmetric Dirichlet distribution).
    n_cells_per_region
        Mean number of cells, above 0; a region has at least 1.
    expression
        ``"cells"`` sums random cells of the types, ``"profiles"`` the mean profiles of the types.
    depth
        Mean of the expected total counts of a region, those of negative probes not included, above 0.
    capture_sd
        Spread of the regions' capture efficiency and, independent of it, of their background, in natural logarithms.
    gene_effect_sd
        Spread of the factors by which the platform changes the genes, in natural logarithms.
    noise_sd
        Spread of each count around what is expected, in natural logarithms, besides that of a Poisson count.
    background
        Share of the expected counts of all regions, 0 to below 1, that comes from the background.
    n_negative
        Number of negative probes, at least 0; they stand behind the genes.
    pure_type
        Type, such as a tumour, that the last `n_pure` regions consist of alone. None: there are no such regions.
        Without its cells in the reference of a method it is a tumour that nobody has a profile of.
    n_pure
        Number of regions of `pure_type` alone; not used without it.
    drop_types
        Types that occur in no region. They keep their columns of zeros in the truth.
    layer
        Layer with the raw counts. None: ``layers["counts"]`` if there, else ``X``.
    random_state
        Seed. A generator is spawned, never advanced.

    Returns
    -------
    AnnData with int32 counts (CSR) in ``X``; ``var["is_negative"]`` for the negative probes; ``obsm["true_prop"]``,
    the types' shares of the cells, and ``obsm["true_prop_rna"]``, their shares of the cells' RNA, rows sum to 1;
    ``obs["n_cells"]``, ``obs["is_pure"]``, ``obs["background"]``, the expected background of each probe, and
    ``obs["expected_counts"]``, without negative probes; the parameters in ``uns["simulation"]``. There are no
    coordinates. "/" in the name of a type is written "|".

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
    >>> mixing, ref = sd.datasets.split_reference(cells)
    >>> regions = sd.datasets.simulate_geomx(mixing, "cell_type", 12, n_negative=5, pure_type="type1", n_pure=2)
    >>> regions.shape, int(regions.obs["is_pure"].sum())
    ((12, 65), 2)
    """
    import pandas as pd
    import scipy.sparse as sp

    one_of(expression, ("cells", "profiles"), "expression")
    n, n_negative = whole_number(n_regions, "n_regions", least=1), whole_number(n_negative, "n_negative")
    above_zero(concentration=concentration, n_cells_per_region=n_cells_per_region, depth=depth)
    at_least_zero(capture_sd=capture_sd, gene_effect_sd=gene_effect_sd, noise_sd=noise_sd)
    shares(background=background)
    probes = _probes(ref, n_negative)
    cells = mixable(ref, labels_key, layer)
    present = present_types(cells, drop_types)
    pure = _pure(cells, present, pure_type, n_pure, n)
    rng = generator(random_state)

    proportions = np.zeros((n, len(cells.types)))
    proportions[:, present] = rng.dirichlet(np.full(len(present), concentration), size=n)
    if len(pure):
        proportions[pure] = np.eye(len(cells.types))[cells.types.index(str(pure_type))]
    n_cells = np.maximum(rng.poisson(n_cells_per_region, n), 1)
    members = rng.multinomial(n_cells, proportions)  # cells of each type in each region

    source, mixture = sources(cells, members, expression, rng)
    truth_rna = (mixture @ sp.diags_array(source.total) @ source.is_type).toarray()
    genes = source.counts @ sp.diags_array(rng.lognormal(0, gene_effect_sd, source.counts.shape[1]))
    capture, binding = rng.lognormal(-(capture_sd**2) / 2, capture_sd, (2, n))
    weights = sp.diags_array(capture) @ mixture
    weights = weights * ((1 - background) * depth / (weights @ genes.sum(axis=1)).mean())
    unspecific = binding / binding.mean() * background * depth / ref.n_vars  # counts of each probe, (n_regions,)

    # the background is one more thing that is mixed, which has as much of every probe
    weights = sp.csr_array(sp.hstack([weights, unspecific[:, None]]))
    no_target = sp.csr_array((genes.shape[0], n_negative))
    everywhere = sp.csr_array(np.ones((1, len(probes))))
    genes = sp.csr_array(sp.vstack([sp.hstack([genes, no_target]), everywhere]))
    counts = drawn(weights, genes, rng, noise=lognormal_noise(noise_sd, rng))

    obs = pd.DataFrame(
        {
            "n_cells": n_cells.astype(np.int32),
            "is_pure": np.isin(np.arange(n), pure),
            "background": unspecific,
            "expected_counts": weights @ genes[:, : ref.n_vars].sum(axis=1),
        },
        index=[f"region_{i}" for i in range(n)],
    )
    adata = as_spots(counts, probes, obs, members / n_cells[:, None], truth_rna, cells.types)
    adata.var["is_negative"] = np.arange(len(probes)) >= ref.n_vars
    adata.uns["simulation"] = record(
        "simulate_geomx",
        labels_key=labels_key,
        concentration=concentration,
        n_cells_per_region=n_cells_per_region,
        expression=expression,
        depth=depth,
        capture_sd=capture_sd,
        gene_effect_sd=gene_effect_sd,
        noise_sd=noise_sd,
        background=background,
        n_negative=n_negative,
        pure_type=pure_type,
        n_pure=len(pure),
        drop_types=list(drop_types),
        layer=layer,
        random_state=random_state,
    )
    return adata


def _probes(ref: AnnData, n_negative: int) -> np.ndarray:
    """Names of the genes and of the negative probes behind them."""
    negative = [f"{NEGATIVE}_{i}" for i in range(n_negative)]
    taken = [name for name in negative if name in ref.var_names]
    if taken:
        msg = f"`ref.var_names` has {taken[0]!r}, the name of a negative probe; rename that gene or pass n_negative=0."
        raise InputError(msg)
    return np.array([*ref.var_names, *negative], dtype=object)


def _pure(cells: Mixable, present: np.ndarray, pure_type: str | None, n_pure: int, n: int) -> np.ndarray:
    """The last regions, which are of one type alone."""
    if pure_type is None:
        return np.array([], dtype=int)
    one_of(pure_type, [cells.types[code] for code in present], "pure_type")
    if whole_number(n_pure, "n_pure", least=1) > n:
        msg = f"n_pure is {n_pure}, but there are {n} regions; pass fewer, or a larger n_regions."
        raise InputError(msg)
    return np.arange(n - n_pure, n)
