"""A small tissue measured by a panel of few genes, and dissociated cells of its neighbourhood with all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scdance._checks import InputError, whole_number
from scdance.pp import generator

from ._fov import simulate_fov
from ._mixing import above_zero, as_counts, at_least_zero, thinned

if TYPE_CHECKING:
    from anndata import AnnData

REF_DETECTION = 0.3  # mean share of the molecules of a cell that the dissociated cells show


def toy_panel(
    n_obs: int = 300,
    n_vars: int = 200,
    n_panel: int = 120,
    n_types: int = 4,
    n_de: int | None = None,
    lfc: float = 2.0,
    depth: float = 3000.0,
    gene_effect_sd: float = 0.5,
    random_state: int | np.random.Generator | None = 0,
) -> tuple[AnnData, AnnData]:
    """Simulate a field of view in which a panel of genes is measured, and single cells of another with all genes.

    Both fields come from :func:`simulate_fov`, so they have the same types, in other shares, and no cell in common. Of
    the molecules of the dissociated cells each gene shows its own share: that is how the platforms differ.

    Parameters
    ----------
    n_obs
        Number of cells of the tissue, and of the reference.
    n_vars, n_panel
        Number of genes of the reference, and how many of them, drawn at random, the panel measures.
    n_types
        Number of types, at least 2.
    n_de
        Number of genes that are raised in a type; types may share some. None: a fifth of the genes.
    lfc
        How far they are raised, in natural logarithms.
    depth
        Mean of the expected number of molecules of a cell in all genes.
    gene_effect_sd
        Spread of the factors by which the platform changes the genes of the reference, in natural logarithms.
    random_state
        Seed. A generator is spawned, never advanced.

    Returns
    -------
    The tissue, (n_obs, n_panel), with ``obs["cell_type"]`` and coordinates in µm in ``obsm["spatial"]``; and the
    reference, (n_obs, n_vars), with ``obs["cell_type"]``; both with int32 counts (CSR) in ``X``.

    Raises
    ------
    InputError
        If a number is out of range.

    Examples
    --------
    >>> import scdance as sd
    >>> adata, ref = sd.datasets.toy_panel(n_obs=100)
    >>> adata.shape, ref.shape, set(adata.var_names) <= set(ref.var_names)
    ((100, 120), (100, 200), True)
    """
    import anndata
    import pandas as pd
    import scipy.sparse as sp

    n_obs = whole_number(n_obs, "n_obs", least=2)
    if whole_number(n_panel, "n_panel", least=1) > whole_number(n_vars, "n_vars"):
        msg = f"n_panel is {n_panel}, but there are only {n_vars} genes."
        raise InputError(msg)
    above_zero(depth=depth)
    at_least_zero(gene_effect_sd=gene_effect_sd)
    for_cells, rng = generator(random_state).spawn(2)
    both = simulate_fov(
        2 * n_obs,
        n_vars,
        n_types=n_types,
        n_fovs=2,
        n_de=n_vars // 5 if n_de is None else n_de,
        lfc=lfc,
        depth=depth,
        detection=REF_DETECTION / 2,
        random_state=for_cells,
    )
    columns = np.sort(rng.permutation(n_vars)[:n_panel])
    cells, others = both[:n_obs], both[n_obs:]
    panel = anndata.AnnData(
        as_counts(sp.csr_array(cells.X[:, columns])),
        obs=cells.obs[["cell_type"]].copy(),
        var=pd.DataFrame(index=both.var_names[columns]),
        obsm={"spatial": cells.obsm["spatial"].copy()},
    )
    effect = rng.lognormal(-(gene_effect_sd**2) / 2, gene_effect_sd, n_vars)
    shown = thinned(sp.csr_array(others.layers["molecules"].T), np.minimum(REF_DETECTION * effect, 1), rng)
    ref = anndata.AnnData(
        as_counts(sp.csr_array(shown.T)),
        obs=others.obs[["cell_type"]].copy(),
        var=pd.DataFrame(index=both.var_names.copy()),
    )
    return panel, ref
