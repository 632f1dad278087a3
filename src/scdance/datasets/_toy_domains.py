"""A small tissue whose layers are planted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scdance._checks import whole_number
from scdance.pp import generator

from ._tissue import PITCH, layout
from ._toy import toy_clusters

if TYPE_CHECKING:
    from anndata import AnnData

WAVE = 0.15  # height of the waves of a layer, as part of the height of the tissue


def toy_domains(
    n_obs: int = 600,
    n_vars: int = 200,
    k: int = 4,
    n_de: int = 20,
    lfc: float = 1.0,
    depth: float = 300.0,
    theta: float = 2.0,
    slices: int = 1,
    random_state: int | np.random.Generator | None = 0,
) -> AnnData:
    """Simulate a tissue of `k` planted layers.

    The counts are those of :func:`toy_clusters`, a cluster being a layer; the spots of a hexagonal lattice are given
    to the clusters one after the other, from top to bottom along waves. A single spot tells little of its layer;
    its neighbours tell more.

    Parameters
    ----------
    n_obs, n_vars
        Number of spots and genes.
    k
        Number of layers.
    n_de, lfc, depth, theta
        Genes that are raised in a layer and how far, counts of a spot and their dispersion, as in
        :func:`toy_clusters`.
    slices
        Number of slices, each with all layers; they lie on the same coordinates.
    random_state
        Seed. A generator is spawned, never advanced.

    Returns
    -------
    AnnData with int32 counts (CSR) in ``X``, layers in ``obs["domain"]``, coordinates in pixels in
    ``obsm["spatial"]`` (neighbours are 100 apart), and with several slices ``obs["slice"]``.

    Raises
    ------
    InputError
        If a number is out of range.

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.toy_domains(n_obs=100)
    >>> adata.obsm["spatial"].shape, adata.obs["domain"].nunique()
    ((100, 2), 4)
    """
    import pandas as pd

    slices = whole_number(slices, "slices", least=1)
    adata = toy_clusters(
        n_obs, n_vars, k, n_de=n_de, lfc=lfc, depth=depth, theta=theta, random_state=generator(random_state)
    )
    codes = adata.obs["cell_type"].cat.codes.to_numpy()
    slice_of = adata.obs.groupby("cell_type", observed=True).cumcount().to_numpy() % slices
    coords = np.empty((n_obs, 2))
    for each in range(slices):
        members = np.flatnonzero(slice_of == each)
        side = int(np.ceil(np.sqrt(len(members))))
        xy = layout("hex", side, side).xy[: len(members)]
        down = xy[:, 1] + WAVE * side * PITCH * np.sin(2 * np.pi * xy[:, 0] / (side * PITCH))
        coords[members[np.argsort(codes[members], kind="stable")]] = xy[np.argsort(down, kind="stable")]
    adata.obsm["spatial"] = coords
    adata.obs["domain"] = adata.obs.pop("cell_type")
    if slices > 1:
        adata.obs["slice"] = pd.Categorical([f"slice_{each}" for each in slice_of])
    return adata
