"""Seeded simulators: counts whose truth is known because we planted it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scdance._checks import InputError
from scdance._settings import unpulled
from scdance.pp import generator

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData
    from numpy.typing import NDArray

# What real counts look like, in natural logarithms: spread of the genes, of the depth of the cells, and of
# the factor by which a batch changes a gene.
GENE_SD, DEPTH_SD, BATCH_SD = 1.0, 0.3, 0.3
PROTEIN_MEAN, PROTEIN_SD, PROTEIN_THETA = 3.0, 1.0, 4.0  # of the log mean count of a protein; inverse dispersion
DROPOUT_SLOPE = -1.5  # on the log mean: weak genes are lost more often
ENTRIES_PER_BLOCK = 1_000_000  # dense at once: 8 MB an array


def toy_clusters(
    n_obs: int = 600,
    n_vars: int = 500,
    k: int = 4,
    n_de: int = 40,
    lfc: float = 1.5,
    depth: float = 3000.0,
    theta: float = 2.0,
    dropout: float = 0.0,
    batches: int = 1,
    batch_sd: float = BATCH_SD,
    apart: bool = False,
    random_state: int | np.random.Generator | None = 0,
) -> AnnData:
    """Simulate counts with `k` planted clusters.

    Each cell draws negative binomial counts around its cluster's profile times its own depth. A cluster is
    the common profile with `n_de` random genes raised. The clusters differ in size, the first being three
    times the last. Cells are made in blocks, so that memory stays with the counts above zero.

    Parameters
    ----------
    n_obs, n_vars
        Number of cells and genes.
    k
        Number of clusters.
    n_de
        Number of genes that are raised in a cluster, at most `n_vars`; clusters may share some.
    lfc
        How far they are raised, in natural logarithms: 1.5 is a factor of 4.5.
    depth
        Mean of the expected total counts of a cell.
    theta
        Inverse dispersion of the counts, above 0: variance is `mean + mean² / theta`.
    dropout
        Share of the entries, 0 to below 1, that are set to zero afterwards, weak genes more often: with
        probability `sigmoid(-1.5 (log mean - m0))`, where `m0` gives the share.
    batches
        Number of batches; each changes every gene by its own factor.
    batch_sd
        Standard deviation of the logarithm of that factor, ≥ 0.
    apart
        Whether each cluster is in one batch only, the first in the first, and so on round.
    random_state
        Seed. A generator is spawned, never advanced.

    Returns
    -------
    AnnData with int32 counts (CSR) in ``X``, categories in ``obs["cell_type"]`` and the planted log fold
    changes in ``varm["lfc"]``, (n_vars, k); ``obs["batch"]`` if there are several; with dropout, the counts
    that were lost in ``layers["dropped"]``.

    Raises
    ------
    InputError
        If a number is out of range.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.datasets.toy_clusters(n_obs=100, n_vars=60, k=3, n_de=10).shape
    (100, 60)
    """
    import anndata
    import pandas as pd
    import scipy.sparse as sp

    _check(n_obs=n_obs, n_vars=n_vars, k=k, n_de=n_de, theta=theta, dropout=dropout, batches=batches)
    rng = generator(random_state)
    base = rng.normal(0, GENE_SD, n_vars)
    change = np.zeros((n_vars, k), dtype=np.float32)
    for cluster in range(k):
        change[rng.choice(n_vars, n_de, replace=False), cluster] = lfc
    shift = rng.normal(0, batch_sd, (batches, n_vars)) if batches > 1 else np.zeros((1, n_vars))

    cell_type = rng.permutation(_codes_by_share(np.linspace(1.5, 0.5, k) / k, n_obs))
    batch = cell_type % batches if apart else rng.integers(batches, size=n_obs)
    log_depth = np.log(depth) + rng.normal(-(DEPTH_SD**2) / 2, DEPTH_SD, n_obs)

    # one profile per (batch, cluster): shares of the genes, each row sums to 1
    profile = np.exp(base + change.T[None] + shift[:, None])
    log_profile = np.log(profile / profile.sum(axis=-1, keepdims=True))
    m0 = _dropout_midpoint(log_profile, float(np.log(depth)), dropout) if dropout else -np.inf

    kept, lost = [], []
    step = max(1, ENTRIES_PER_BLOCK // n_vars)
    for start in range(0, n_obs, step):
        rows = slice(start, start + step)
        log_mean = log_profile[batch[rows], cell_type[rows]] + log_depth[rows, None]
        counts = _negative_binomial(log_mean, theta, rng)
        if dropout:
            gone = rng.random(counts.shape) < _dropout_probability(log_mean, m0)
            lost.append(sp.csr_matrix(counts * gone))
            counts *= ~gone
        kept.append(sp.csr_matrix(counts))

    cells = [f"cell_{i}" for i in range(n_obs)]
    adata = anndata.AnnData(
        sp.vstack(kept, format="csr"),
        obs=pd.DataFrame({"cell_type": _named("type", cell_type, k)}, index=cells),
        var=pd.DataFrame(index=[f"gene_{i}" for i in range(n_vars)]),
        varm={"lfc": change},
    )
    if batches > 1:
        adata.obs["batch"] = _named("batch", batch, batches)
    if dropout:
        adata.layers["dropped"] = sp.vstack(lost, format="csr")
    return adata


def toy_pairs(
    n_obs: int = 300,
    n_genes: int = 200,
    n_proteins: int = 20,
    k: int = 4,
    unpaired: float = 0.0,
    random_state: int | np.random.Generator | None = 0,
) -> MuData:
    """Simulate cells of `k` types that were measured in RNA and proteins.

    The RNA is that of :func:`toy_clusters`. Each type has its own random mean of every protein, and a cell draws
    negative binomial counts around it times its own depth.

    Parameters
    ----------
    n_obs
        Number of cells.
    n_genes, n_proteins
        Number of features of each modality.
    k
        Number of types.
    unpaired
        Share of the cells, 0 to below 1, that lack one modality, half of them each.
    random_state
        Seed. A generator is spawned, never advanced.

    Returns
    -------
    MuData with int32 counts (CSR) in ``X`` of the modalities ``"rna"`` and ``"prot"``, and categories in
    ``obs["cell_type"]``.

    Raises
    ------
    InputError
        If a number is out of range.

    Examples
    --------
    >>> import scdance as sd
    >>> mdata = sd.datasets.toy_pairs(n_obs=100, unpaired=0.2)
    >>> mdata["rna"].n_obs, mdata["prot"].n_obs
    (90, 90)
    """
    import anndata
    import mudata
    import pandas as pd
    import scipy.sparse as sp

    if not 0 <= unpaired < 1:
        msg = f"unpaired is {unpaired}, but must be a share of the cells, from 0 to below 1."
        raise InputError(msg)
    rng = generator(random_state)
    rna = toy_clusters(n_obs, n_genes, k, n_de=n_genes // 5, random_state=rng)
    del rna.varm["lfc"]
    log_mean = rng.normal(PROTEIN_MEAN, PROTEIN_SD, (k, n_proteins))[rna.obs["cell_type"].cat.codes]
    depth = rng.normal(0, DEPTH_SD, (n_obs, 1))
    prot = anndata.AnnData(
        sp.csr_matrix(_negative_binomial(log_mean + depth, PROTEIN_THETA, rng)),
        obs=pd.DataFrame(index=rna.obs_names),
        var=pd.DataFrame(index=[f"protein_{i}" for i in range(n_proteins)]),
    )
    types = rna.obs.pop("cell_type")
    half = round(n_obs * unpaired / 2)
    with unpulled():
        mdata = mudata.MuData({"rna": rna[: n_obs - half].copy(), "prot": prot[half:].copy()})
    mdata.obs["cell_type"] = types.reindex(mdata.obs_names)
    return mdata


def _check(n_obs: int, n_vars: int, k: int, n_de: int, theta: float, dropout: float, batches: int) -> None:
    for name, value in {"n_obs": n_obs, "n_vars": n_vars, "k": k, "batches": batches}.items():
        if value < 1:
            msg = f"{name} is {value}, but must be at least 1."
            raise InputError(msg)
    if not 0 <= n_de <= n_vars:
        msg = f"n_de is {n_de}, but must lie between 0 and the number of genes, {n_vars}."
        raise InputError(msg)
    if not theta > 0:
        msg = f"theta is {theta}, but must be above 0; large values come near to Poisson counts."
        raise InputError(msg)
    if not 0 <= dropout < 1:
        msg = f"dropout is {dropout}, but must be a share of the entries, from 0 to below 1."
        raise InputError(msg)


def _negative_binomial(log_mean: np.ndarray, theta: float, rng: np.random.Generator) -> NDArray[np.int32]:
    """Counts with these means and the variance mean + mean² / theta, int32."""
    # Poisson around a gamma with mean 1 and variance 1 / theta
    noise = rng.standard_gamma(theta, log_mean.shape) / theta
    return rng.poisson(np.exp(log_mean) * noise).astype(np.int32)


def _codes_by_share(share: np.ndarray, n: int) -> np.ndarray:
    """Codes of `n` cells in groups that hold this share of them, to within one cell."""
    ends = np.ceil(np.cumsum(share) * n)
    return np.searchsorted(ends[:-1], np.arange(n), side="right")


def _named(what: str, codes: NDArray[np.integer], n: int) -> pd.Categorical[str]:
    import pandas as pd

    return pd.Categorical.from_codes(codes, pd.Index([f"{what}{i + 1}" for i in range(n)]))


def _dropout_probability(log_mean: np.ndarray, m0: float) -> np.ndarray:
    from scipy.special import expit

    return expit(DROPOUT_SLOPE * (log_mean - m0))


def _dropout_midpoint(log_profile: np.ndarray, log_depth: float, share: float) -> float:
    """The log mean at which half is lost, such that `share` of all entries is."""
    from scipy.optimize import brentq

    log_mean = log_profile + log_depth
    return brentq(
        lambda m0: float(_dropout_probability(log_mean, m0).mean()) - share,
        float(log_mean.min()) - 50,
        float(log_mean.max()) + 50,
    )
