"""Fields of view with single cells whose expression depends on their neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scdance._checks import InputError, whole_number
from scdance.pp import generator

from ._mixing import above_zero, as_counts, at_least_zero, drawn, gamma_noise, record, thinned
from ._tissue import field, layout, softmax
from ._toy import DEPTH_SD, GENE_SD, _named

if TYPE_CHECKING:
    from anndata import AnnData

CELL_PITCH = 10.0  # µm between the centres of neighbouring cells, before they are moved
JITTER = 0.25  # of this distance: how far a cell is moved along each axis, at most
NICHE_SD = 1.0  # spread of the shares of a type between niches, in natural logarithms
LIGAND_LFC = 3.0  # how far the ligand is raised in the type that sends it, in natural logarithms


def simulate_fov(
    n_obs: int = 1000,
    n_vars: int = 1000,
    *,
    n_types: int = 6,
    n_niches: int = 3,
    n_fovs: int = 2,
    lengthscale: float = 6.0,
    n_de: int | None = None,
    lfc: float = 1.5,
    radius: float = 15.0,
    n_response: int = 5,
    response_lfc: float = 1.5,
    depth: float = 1500.0,
    detection: float = 0.15,
    theta: float | None = None,
    random_state: int | np.random.Generator | None = 0,
) -> AnnData:
    """Simulate fields of view with single cells, some genes of which only the neighbours of a cell explain.

    Each niche, a random part of the tissue, has its own shares of the types. Cells of ``"type1"`` make a ligand: in
    cells of any other type within `radius` of one of them, the response genes are raised. All types have as much of
    these genes otherwise, so nothing but the neighbours, and other response genes, tells how much a cell has. Of
    the molecules of each cell a part is detected. Cells are made in blocks, so that memory stays with the counts above
    zero.

    Parameters
    ----------
    n_obs, n_vars
        Number of cells in all fields, and of genes.
    n_types
        Number of types, at least 2.
    n_niches
        Number of niches, at least 1.
    n_fovs
        Number of fields of view, each with coordinates of its own that begin at 0: cells of different fields are never
        neighbours, wherever they lie. Cells are spread evenly over the fields.
    lengthscale
        Range of the random fields that part the niches, in distances between neighbouring cells, above 0.
    n_de
        Number of genes that are raised in a type; types may share some. None: a twentieth of the genes, at least 1.
    lfc
        How far they are raised, in natural logarithms: 1.5 is a factor of 4.5.
    radius
        How far the ligand reaches, in µm, at least 0; neighbouring cells are about 10 µm apart.
    n_response
        Number of genes that respond, at least 1. With 1, no other gene tells anything of it.
    response_lfc
        How far they are raised, in natural logarithms; 0: not at all.
    depth
        Mean of the expected number of molecules of a cell, above 0.
    detection
        Probability, above 0 to 1, with which a molecule is counted.
    theta
        Inverse dispersion of the molecules, above 0: variance is `mean + mean² / theta`. None: Poisson numbers.
    random_state
        Seed. A generator is spawned, never advanced.

    Returns
    -------
    AnnData with int32 counts (CSR) in ``X`` and the molecules they were detected from in ``layers["molecules"]``;
    categories in ``obs["cell_type"]``, ``obs["niche"]`` and ``obs["fov"]``; ``obs["is_responding"]``; coordinates in µm
    in ``obsm["spatial"]``; ``var["is_ligand"]`` and ``var["is_response"]``; the parameters in ``uns["simulation"]``.
    The expected molecules, (n_obs, n_vars), are ``obsm["expected"] @ varm["expected"].T``, two tables with a column
    for each type and one for the response; times `detection` these are the expected counts.

    Raises
    ------
    InputError
        If a number is out of range.

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.simulate_fov(n_obs=300, n_vars=100)
    >>> expected = adata.obsm["expected"] @ adata.varm["expected"].T
    >>> responses = expected.loc[:, adata.var["is_response"]].mean(axis=1)
    >>> bool(responses[adata.obs["is_responding"]].mean() > 3 * responses[~adata.obs["is_responding"]].mean())
    True
    """
    import anndata
    import pandas as pd
    import scipy.sparse as sp

    n_types, n_niches = whole_number(n_types, "n_types", least=2), whole_number(n_niches, "n_niches", least=1)
    n_response, n_fovs = whole_number(n_response, "n_response", least=1), whole_number(n_fovs, "n_fovs", least=1)
    n_obs = whole_number(n_obs, "n_obs", least=2 * n_fovs)
    n_vars = whole_number(n_vars, "n_vars", least=n_response + 2)
    n_de = whole_number(max(n_vars // 20, 1) if n_de is None else n_de, "n_de")
    if n_de >= n_vars - n_response:
        msg = f"n_de is {n_de}, but of {n_vars} genes {n_response} respond and 1 is the ligand; pass fewer."
        raise InputError(msg)
    above_zero(lengthscale=lengthscale, depth=depth, theta=1.0 if theta is None else theta)
    at_least_zero(lfc=lfc, radius=radius, response_lfc=response_lfc)
    if not 0 < detection <= 1:
        msg = f"detection is {detection}, but must be a probability, above 0 to 1."
        raise InputError(msg)
    rng = generator(random_state)

    fov = np.arange(n_obs) * n_fovs // n_obs
    sizes = np.bincount(fov)
    xy = np.concatenate([_places(size, rng) for size in sizes])
    niche = np.concatenate([_niches(xy[fov == i], n_niches, lengthscale, rng) for i in range(n_fovs)])
    shares_of_types = softmax(NICHE_SD * rng.standard_normal((n_niches, n_types)))
    cell_type = _one_of_each(shares_of_types[niche], rng)
    responding = _near(xy, fov, cell_type == 0, radius) & (cell_type != 0)

    ligand, response, profiles = _genes(n_vars, n_types, n_de, lfc, n_response, response_lfc, rng)
    size = rng.lognormal(-(DEPTH_SD**2) / 2, DEPTH_SD, n_obs)
    loadings = size[:, None] * np.column_stack([np.eye(n_types)[cell_type], responding])
    loadings *= depth / (loadings @ profiles.sum(axis=0)).mean()
    weights, genes = sp.csr_array(loadings), sp.csr_array(profiles.T)
    molecules = drawn(weights, genes, rng, noise=gamma_noise(theta, rng))
    counts = thinned(molecules, np.full(n_obs, detection), rng)

    cells, names = [f"cell_{i}" for i in range(n_obs)], [f"gene_{i}" for i in range(n_vars)]
    parts = [*(f"type{i + 1}" for i in range(n_types)), "response"]
    return anndata.AnnData(
        as_counts(counts),
        obs=pd.DataFrame(
            {
                "cell_type": _named("type", cell_type, n_types),
                "niche": _named("niche", niche, n_niches),
                "fov": _named("fov", fov, n_fovs),
                "is_responding": responding,
                "expected_counts": detection * loadings @ profiles.sum(axis=0),
            },
            index=cells,
        ),
        var=pd.DataFrame({"is_ligand": ligand, "is_response": response}, index=names),
        obsm={"spatial": xy, "expected": pd.DataFrame(loadings, index=cells, columns=parts)},
        varm={"expected": pd.DataFrame(profiles, index=names, columns=parts)},
        layers={"molecules": as_counts(molecules)},
        uns={
            "simulation": record(
                "simulate_fov",
                n_types=n_types,
                n_niches=n_niches,
                n_fovs=n_fovs,
                lengthscale=lengthscale,
                n_de=n_de,
                lfc=lfc,
                radius=radius,
                n_response=n_response,
                response_lfc=response_lfc,
                depth=depth,
                detection=detection,
                theta=theta,
                random_state=random_state,
            )
        },
    )


def _places(n: int, rng: np.random.Generator) -> np.ndarray:
    """Coordinates of the cells of a field in µm, (n, 2): a hexagonal lattice from which each is moved a little."""
    side = int(np.ceil(np.sqrt(n)))
    tissue = layout("hex", side, side)
    xy = tissue.xy[:n] / tissue.pitch + rng.uniform(-JITTER, JITTER, (n, 2))
    return (xy - xy.min(axis=0)) * CELL_PITCH


def _niches(xy: np.ndarray, n_niches: int, lengthscale: float, rng: np.random.Generator) -> np.ndarray:
    """Niche of each cell: that whose random field is the highest."""
    return field("gp", xy / CELL_PITCH, n_niches, lengthscale, rng).argmax(axis=1)


def _one_of_each(probabilities: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A category for each row of probabilities."""
    ends = probabilities.cumsum(axis=1)
    return (rng.random((len(ends), 1)) * ends[:, -1:] >= ends).sum(axis=1)


def _near(xy: np.ndarray, fov: np.ndarray, is_sender: np.ndarray, radius: float) -> np.ndarray:
    """Whether a sender of the same field lies within the radius of a cell."""
    from scipy.spatial import cKDTree

    near = np.zeros(len(xy), dtype=bool)
    for i in np.unique(fov):
        here = np.flatnonzero(fov == i)
        senders = here[is_sender[here]]
        if len(senders):
            near[here] = cKDTree(xy[senders]).query(xy[here])[0] <= radius
    return near


def _genes(
    n_vars: int,
    n_types: int,
    n_de: int,
    lfc: float,
    n_response: int,
    response_lfc: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which gene is the ligand, which respond, and profiles of the types and, in the last column, of the response."""
    base = rng.normal(0, GENE_SD, n_vars)
    order = rng.permutation(n_vars)
    ligand, response, others = order[0], order[1 : n_response + 1], order[n_response + 1 :]
    base[response] = GENE_SD  # often enough detected to be looked at
    base[ligand] = -GENE_SD
    change = np.zeros((n_vars, n_types))
    for kind in range(n_types):
        change[rng.choice(others, n_de, replace=False), kind] = lfc
    change[ligand, 0] = LIGAND_LFC
    added = np.zeros(n_vars)
    added[response] = np.expm1(response_lfc) * np.exp(base[response])
    profiles = np.column_stack([np.exp(base[:, None] + change), added]) / np.exp(base).sum()
    return *(np.isin(np.arange(n_vars), each) for each in (ligand, response)), profiles
