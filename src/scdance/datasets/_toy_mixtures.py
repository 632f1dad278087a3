"""A small tissue slice with its reference, both planted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from scdance._checks import whole_number
from scdance.pp import generator

from ._tissue import layout
from ._toy import toy_clusters
from ._visium import simulate_visium

if TYPE_CHECKING:
    from anndata import AnnData


def toy_mixtures(
    n_obs: int = 97,
    n_vars: int = 60,
    k: int = 3,
    n_ref: int = 150,
    lfc: float = 2.0,
    depth: float = 1000.0,
    pattern: Literal["blobs", "layers", "gradient", "gp", "random"] = "blobs",
    gene_effect_sd: float = 0.3,
    random_state: int | np.random.Generator | None = 0,
) -> tuple[AnnData, AnnData]:
    """Simulate a small tissue slice and a reference with `k` planted types.

    The cells come from :func:`toy_clusters`; every other cell of a type is mixed into spots by
    :func:`simulate_visium`, the rest is the reference.

    Parameters
    ----------
    n_obs, n_vars
        Number of spots and genes.
    k
        Number of types, at least 2.
    n_ref
        Number of cells of the reference, to within `k`; at least 4 a type. As many are mixed.
    lfc
        How far the genes of a type are raised, in natural logarithms.
    depth
        Mean of the expected total counts of a spot, and of a cell.
    pattern
        How types lie in the tissue, as in :func:`simulate_visium`.
    gene_effect_sd
        Spread of the factors by which the platform changes the genes, in natural logarithms.
    random_state
        Seed. A generator is spawned, never advanced.

    Returns
    -------
    The spots, as from :func:`simulate_visium`, with the truth in ``obsm["true_prop"]`` and coordinates in
    ``obsm["spatial"]``; and the reference, int32 counts (CSR) of other cells with ``obs["cell_type"]``. Both
    have the same genes in the same order.

    Raises
    ------
    InputError
        If a number is out of range.

    Examples
    --------
    >>> import scdance as sd
    >>> spots, ref = sd.datasets.toy_mixtures()
    >>> spots.shape, ref.obs["cell_type"].nunique()
    ((97, 60), 3)
    """
    k, n_obs = whole_number(k, "k", least=2), whole_number(n_obs, "n_obs", least=2)
    n_ref = whole_number(n_ref, "n_ref", least=4 * k)
    for_cells, for_spots = generator(random_state).spawn(2)
    n_de = max(n_vars // (2 * k), 1)
    cells = toy_clusters(2 * n_ref, n_vars, k, n_de=n_de, lfc=lfc, depth=depth, random_state=for_cells)
    is_mixed = cells.obs.groupby("cell_type", observed=True).cumcount().to_numpy() % 2 == 0
    side = int(np.ceil(np.sqrt(n_obs)))
    spots = simulate_visium(
        cells[is_mixed],
        "cell_type",
        lattice=layout("hex", side, side).xy[:n_obs],
        pattern=pattern,
        lengthscale=side / 5,
        depth=depth,
        gene_effect_sd=gene_effect_sd,
        random_state=for_spots,
    )
    ref = cells[~is_mixed].copy()
    del ref.varm["lfc"]
    return spots, ref
