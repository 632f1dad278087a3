"""How much of what is known of the cells a space keeps: their types, the cell cycle, their place on a trajectory."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scdance import graph

from ._clustering import _codes, _finite_matrix, _known, _same_length, nmi
from ._embedding import N_NEIGHBORS, _labelled, _neighbours
from ._metric import metric
from ._proportions import _mean_of_defined

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

RESOLUTIONS = np.round(np.linspace(0.1, 2.0, 20), 1)
N_COMPONENTS = 50  # principal components that speak for a matrix
FEWEST_REGRESSED = 4  # cells of a batch: two scores and an intercept explain any three
FEWEST_ORDERED = 10  # cells on a trajectory
N_DIFFUSION, N_PSEUDOTIME, N_VOTES = 15, 10, 3  # components of a diffusion map: made, for distances, for the root


@metric(higher_is_better=True, range=(0.0, 1.0), costly=True)
def nmi_cluster_label(truth: ArrayLike, embedding: ArrayLike, *, random_state: int = 0) -> float:
    """Mutual information over the mean entropy, for the best of twenty Louvain partitions of the neighbour graph.

    The resolutions go from 0.1 to 2.0, and the truth picks one: an upper bound of what clustering would find. The graph
    is that of the 15 nearest neighbours, the cell itself counted.

    Parameters
    ----------
    truth
        Known types, (n_obs,). Cells where it is NaN, None or "" are left out, also of the graph.
    embedding
        Coordinates, (n_obs, n_dims), finite.
    random_state
        Seed of the partitions.

    Returns
    -------
    Score, 0 to 1; chance is above 0.

    Raises
    ------
    InputError
        If the lengths differ, the embedding is not a finite matrix, or no truth is known.
    MissingPackageError
        If igraph is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> import scdance as sd
    >>> types = np.repeat([0, 1], 30)
    >>> x = np.random.default_rng(0).normal(20 * types[:, None], size=(60, 2))
    >>> round(sd.metrics.nmi_cluster_label(types, x), 6)
    1.0
    """
    true, x = _labelled(truth, embedding)
    a = _neighbours(x)
    found = (graph.louvain(a, resolution=float(each), random_state=random_state) for each in RESOLUTIONS)
    return max(nmi(true, labels) for labels in found)


@metric(higher_is_better=True, range=(0.0, 1.0), costly=True)
def cell_cycle_conservation(
    embedding: ArrayLike, expression: Any, cycle: ArrayLike | None, batch: ArrayLike | None = None
) -> float:
    """How near the share of variance that the cell cycle explains in a space is to that in the RNA.

    The share is that of the first 50 principal components which a linear regression on both scores of the cell cycle
    explains, ``Σ wᵢ R²ᵢ`` with the share of each component in the variance as its weight. A batch scores
    ``1 − |after − before| / before``, at least 0, and the mean over the batches is taken.

    Parameters
    ----------
    embedding
        Coordinates, (n_obs, n_dims), finite.
    expression
        Log-normalised RNA, (n_obs, n_vars), CSR or dense; None: there is none.
    cycle
        Scores of the phases S and G2/M, (n_obs, 2), as of :func:`scdance.pp.cell_cycle_scores`; cells where one is NaN
        are left out. None: there are none.
    batch
        Batch of each cell, (n_obs,). Cells where it is missing are left out; None: there is one.

    Returns
    -------
    Score, 0 to 1; batches of fewer than four cells, or whose RNA says nothing of the cycle, are skipped, and NaN where
    all are, or no RNA or no scores are given.

    Raises
    ------
    InputError
        If the lengths differ, or the embedding is not a finite matrix.

    Examples
    --------
    >>> import numpy as np
    >>> import scdance as sd
    >>> x = np.random.default_rng(0).normal(size=(40, 5))
    >>> round(sd.metrics.cell_cycle_conservation(x, x, x[:, :2]), 6)
    1.0
    >>> round(sd.metrics.cell_cycle_conservation(x[:, 2:], x, x[:, :2]) < 0.5)
    1
    """
    z = _finite_matrix(embedding)
    if expression is None or cycle is None:
        return float("nan")
    scores = np.asarray(cycle, dtype=np.float64)
    for name, n in (("expression", expression.shape[0]), ("cycle", len(scores))):
        _same_length(n, len(z), name, "embedding")
    batches = np.where(np.isfinite(scores).all(axis=1), _batches(batch, len(z)), -1)
    kept = []
    for code in np.unique(batches[batches >= 0]):
        rows = np.flatnonzero(batches == code)
        if len(rows) >= FEWEST_REGRESSED:
            before, after = (_explained(_components(x[rows]), scores[rows]) for x in (expression, z))
            kept.append(max(0.0, 1 - abs(after - before) / before) if before else np.nan)
    return _mean_of_defined(kept)


def _components(x: Any) -> NDArray[np.floating]:
    """Scores of the first principal components, (n_obs, at most 50) float64, centred."""
    if not abs(x.max(axis=0) - x.min(axis=0)).sum():
        return np.zeros((x.shape[0], 1))
    if min(x.shape) <= N_COMPONENTS:  # all of them: a rotation would change nothing
        dense = np.asarray(x.toarray() if hasattr(x, "toarray") else x, dtype=np.float64)
        return dense - dense.mean(axis=0)  # type: ignore[no-any-return]
    from sklearn.decomposition import PCA

    solver = "arpack" if hasattr(x, "toarray") else "covariance_eigh"  # neither makes a sparse matrix dense
    return PCA(N_COMPONENTS, svd_solver=solver, random_state=0).fit_transform(x.astype(np.float64))  # type: ignore[no-any-return]


def _explained(z: NDArray[np.floating], given: NDArray[np.floating]) -> float:
    """Share of the variance of the centred `z` that a linear regression on `given` explains: Σ wᵢ R²ᵢ."""
    total = (z**2).sum()
    if not total:
        return 0.0
    u, s, _ = np.linalg.svd(given - given.mean(axis=0), full_matrices=False)
    basis = u[:, s > 1e-10 * s[0]]
    return float(((basis.T @ z) ** 2).sum() / total)


@metric(higher_is_better=True, range=(0.0, 1.0), costly=True)
def trajectory_conservation(
    truth: ArrayLike, embedding: ArrayLike, pseudotime: ArrayLike | None, batch: ArrayLike | None = None
) -> float:
    """How well the diffusion pseudotime in a space follows a known order, batch by batch.

    The pseudotime [Haghverdi2016]_ is that of the cells on the trajectory, all batches together. Its root is a cell of
    the type that comes first: the one that lies outermost in most of the first three diffusion components. Cells
    beyond the largest connected piece of the neighbour graph are put at time 0. The score is ``(s + 1) / 2`` of the
    mean ``s`` of Spearman's correlations within the batches.

    Parameters
    ----------
    truth
        Known types, (n_obs,). Cells where it is NaN, None or "" are left out.
    embedding
        Coordinates, (n_obs, n_dims), finite.
    pseudotime
        Known time of each cell, (n_obs,) or one column for each trajectory, (n_obs, n_trajectories), of which the mean
        is taken; NaN for cells that are not on it. None: there is none.
    batch
        Batch of each cell, (n_obs,). Cells where it is missing are left out; None: there is one.

    Returns
    -------
    Score, 0 to 1: 0.5 by chance, and 0 where no cell of the first type is in the largest piece. Trajectories of fewer
    than ten cells and batches of one time are skipped; NaN where all are, or no time is given.

    Raises
    ------
    InputError
        If the lengths differ, the embedding is not a finite matrix, or no truth is known.

    Examples
    --------
    >>> import numpy as np
    >>> import scdance as sd
    >>> time = np.linspace(0, 1, 100)
    >>> types = np.where(time < 0.2, "stem", "mature")
    >>> round(sd.metrics.trajectory_conservation(types, time[:, None], time), 3)
    1.0
    """
    x, types = _finite_matrix(embedding), _codes(truth)
    _same_length(len(types), len(x), "truth", "embedding")
    known = _known(types)
    if pseudotime is None:
        return float("nan")
    times = np.asarray(pseudotime, dtype=np.float64)
    times = times[:, None] if times.ndim == 1 else times
    _same_length(len(times), len(x), "pseudotime", "embedding")
    batches = _batches(batch, len(x))
    scores = []
    for each in times.T:
        rows = np.flatnonzero(known & (batches >= 0) & ~np.isnan(each))
        scores.append(_along(types[rows], x[rows], each[rows], batches[rows]))
    return _mean_of_defined(scores)


def _along(
    types: NDArray[np.intp], x: NDArray[np.floating], times: NDArray[np.floating], batches: NDArray[np.intp]
) -> float:
    """Score of one trajectory; all of the cells are on it."""
    if len(x) < FEWEST_ORDERED:
        return float("nan")
    found = _pseudotime(types, x, times)
    if found is None:
        return 0.0
    within = [_spearman(times[batches == code], found[batches == code]) for code in np.unique(batches)]
    return (_mean_of_defined(within) + 1) / 2


def _spearman(times: NDArray[np.floating], found: NDArray[np.floating]) -> float:
    """Correlation of the ranks: 0 where nothing was ordered, NaN where there is no order to find."""
    from scipy.stats import spearmanr

    if np.ptp(times) == 0:
        return float("nan")
    return float(spearmanr(times, found).statistic) if np.ptp(found) else 0.0


def _pseudotime(
    types: NDArray[np.intp], x: NDArray[np.floating], times: NDArray[np.floating]
) -> NDArray[np.floating] | None:
    """Diffusion pseudotime in a space, (n_obs,), from a cell of the type that comes first; None where there is none."""
    from scipy.sparse.csgraph import connected_components

    a = _neighbours(x)
    pieces = connected_components(a, directed=False)[1]
    inside = np.flatnonzero(pieces == np.bincount(pieces).argmax())
    sizes = np.bincount(types)
    with np.errstate(invalid="ignore"):
        first = np.nanargmin(np.bincount(types, times) / sizes)  # NaN for types that have no cell here
    candidates = np.flatnonzero(types[inside] == first)
    if not len(candidates) or len(inside) < FEWEST_ORDERED:
        return None
    found = np.zeros(len(x))
    found[inside] = _diffusion(a[inside][:, inside], candidates)
    return found


def _diffusion(a: sp.csr_matrix, candidates: NDArray[np.intp]) -> NDArray[np.floating]:
    """Diffusion pseudotime on a connected graph, (n,), from the candidate that most components put outermost."""
    import anndata
    import scanpy as sc

    n = a.shape[0]
    n_components = min(N_DIFFUSION, n - 1)
    adata = anndata.AnnData(shape=(n, 0), obsp={"connectivities": a, "distances": a})
    told = {"method": "umap", "n_neighbors": N_NEIGHBORS}
    adata.uns["neighbors"] = {"connectivities_key": "connectivities", "distances_key": "distances", "params": told}
    with np.printoptions(), np.errstate(divide="ignore", invalid="ignore"):  # scanpy sets how arrays are printed
        sc.tl.diffmap(adata, n_comps=n_components)
        places = adata.obsm["X_diffmap"][:, 1 : N_VOTES + 1]  # before the first stands what time does not change
        adata.uns["iroot"] = _outermost(places, candidates)
        sc.tl.dpt(adata, n_dcs=min(N_PSEUDOTIME, n_components))
    found = adata.obs["dpt_pseudotime"].to_numpy(dtype=np.float64)
    return np.where(found <= 1, found, 0)  # also what is not finite


def _outermost(places: NDArray[np.floating], candidates: NDArray[np.intp]) -> int:
    """The candidate with the most votes, one of each component; of as many votes that of an earlier component."""
    votes = []
    for column in places.T:
        own = column[candidates]
        votes.append(int(candidates[own.argmin() if own.mean() < column.mean() else own.argmax()]))
    return Counter(votes).most_common(1)[0][0]


def _batches(batch: ArrayLike | None, n: int) -> NDArray[np.intp]:
    """Codes of the batches, (n_obs,) int, −1 where it is missing; one batch where there are none."""
    if batch is None:
        return np.zeros(n, dtype=np.intp)
    codes = _codes(batch)
    _same_length(len(codes), n, "batch", "embedding")
    return codes
