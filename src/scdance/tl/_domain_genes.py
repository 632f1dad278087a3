from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from scdance._checks import InputError, listed, nearest, whole_number
from scdance._core.counts import clusters, raw_counts
from scdance._core.derive import write_derived
from scdance._core.objects import copied, needed_places, opened, slices_of
from scdance._core.task import SPATIAL_DOMAIN
from scdance._core.write import check_slots
from scdance._docs import documented
from scdance.graph import pitch, spatial
from scdance.pp import canonical, group_moments, rank_sum_test

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData

TARGET = 1e4  # depth that every spot is scaled to
EQUAL = 1e-5  # by which equal distances of a lattice may differ


class _Around(NamedTuple):
    """What lies around a domain: the radius, mean number of spots in it, and the domains that are compared."""

    radius: float
    n_near: float
    domains: np.ndarray


@documented(SPATIAL_DOMAIN)
def domain_genes(
    adata: AnnData | SpatialData,
    key: str,
    *,
    domains: Sequence[str] | None = None,
    n_near: float = 12.0,
    min_contact: float = 0.5,
    n_around: int = 3,
    max_fdr: float = 0.05,
    min_share: float = 0.8,
    min_share_ratio: float = 1.0,
    min_fold_change: float = 1.5,
    layer: str | None = None,
    spatial_key: str = "spatial",
    library_key: str | None = None,
    table_key: str | None = None,
    coordinate_system: str = "global",
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | SpatialData | None:
    """Find the genes that are higher in a domain than in the domains around it [Hu2021]_.

    For each domain a radius is searched in which its spots have `n_near` neighbours on average; the domains whose
    spots are often within that radius of it lie around it. Its spots are compared with theirs gene by gene, so that a
    gene that varies elsewhere in the tissue says nothing.

    Parameters
    ----------
    {adata}
    key
        Column of ``adata.obs`` with the domains; spots where it is missing take no part.
    domains
        Those whose genes are sought; None: all.
    n_near
        Mean number of spots within the radius around a spot of the domain, above 0.
    min_contact
        Least number of spots of the domain that a spot of another has within the radius on average, for that to lie
        around it. Where no domain reaches it, the one that comes nearest is compared.
    n_around
        Most domains that are compared, those with the most contact first; at least 1.
    max_fdr
        Largest false discovery rate of a gene, above 0 and at most 1; Wilcoxon's rank-sum test of log-normalised
        values, corrected for the number of genes by Benjamini and Hochberg.
    min_share
        Smallest share of the spots of the domain that have the gene, 0 to 1.
    min_share_ratio
        Smallest ratio of that share to the one around, which it has to exceed.
    min_fold_change
        Smallest ratio of expression, of geometric means of counts per 10,000 plus 1, which it has to exceed.
    {layer, spatial_key, library_key, table_key, coordinate_system}
    key_added
        Name of the results; None: ``'<key>_genes'``.
    {copy}

    Returns
    -------
    None, or with ``copy=True`` a copy of the object, which gets:

    ``adata.uns['scdance']['spatial_domain']['<key>_genes']``
        Run record. Its notes hold ``genes``, a table of the genes of each domain with false discovery rate, share of
        the spots in the domain and around it, and fold change, by descending fold change; and ``around``, the radius,
        the mean number of spots within it and the domains that were compared.

    Raises
    ------
    {raises}

    Notes
    -----
    The domains were found in the same expression that is tested here, so some genes differ because the border was drawn
    along them, and the rates are too low. :func:`scdance.tl.split_counts` cuts the counts in two: find the domains in
    ``layer="counts_fit"`` and test in ``layer="counts_test"``. The radius is searched among distances between the
    spots of a slice, so it differs between domains at the border of the tissue.

    See Also
    --------
    scdance.tl.spatial_domain : finds the domains.
    scdance.tl.suggest_merges : merges clusters that too few genes tell apart.

    Examples
    --------
    >>> import scdance as sd
    >>> import squidpy as sq
    >>> adata = sd.datasets.toy_domains()
    >>> sd.tl.spatial_domain(adata, method="smoothed_pca", n_clusters=4)
    >>> sd.tl.domain_genes(adata, "smoothed_pca", min_share=0.5)
    >>> genes = adata.uns["scdance"]["spatial_domain"]["smoothed_pca_genes"]["notes"]["genes"]
    >>> genes.columns.tolist()
    ['domain', 'gene', 'fdr', 'share', 'share_around', 'fold_change']
    >>> near = sd.graph.spatial(adata.obsm["spatial"], n_neighbors=6)
    >>> adata.obsp["spatial_connectivities"] = (near > 0).astype(float)  # a second look: does a gene vary in space?
    >>> sq.gr.spatial_autocorr(adata, mode="moran", genes=genes["gene"].unique().tolist())
    >>> bool(adata.uns["moranI"]["I"].max() > 0.2)
    True
    """
    start = time.perf_counter()
    limits = _limits(max_fdr, min_share, min_share_ratio, min_fold_change)
    _refuse_numbers(n_near, min_contact)
    whole_number(n_around, "n_around", least=1)
    table = opened(adata, SPATIAL_DOMAIN, table_key)
    codes, names = clusters(table, key)
    added = check_slots(table, SPATIAL_DOMAIN, key_added, f"{key}_genes")
    wanted = _wanted(domains, codes, names, key)
    coords = needed_places(adata, table, "domain_genes", spatial_key=spatial_key, coordinate_system=coordinate_system)
    slices = slices_of(adata, table, library_key)
    counts, depth, told = raw_counts(table, layer, "domain_genes")
    codes[depth == 0] = -1
    near = _near(coords, None if slices is None else slices[0], codes, wanted, n_near)
    around = {code: _around(near, codes, code, n_near, min_contact, n_around) for code in wanted}
    found = [_higher(counts, depth, codes, code, around[code].domains, limits) for code in wanted]
    if copy:
        adata, table = copied(adata, table)
    write_derived(
        table,
        SPATIAL_DOMAIN,
        added,
        "domain_genes",
        {},
        [],
        rows=np.flatnonzero(codes >= 0),
        params={
            "key": key,
            "domains": [str(name) for name in names[wanted]],
            "n_near": n_near,
            "min_contact": min_contact,
            "n_around": n_around,
            **limits._asdict(),
            "layer": layer,
        },
        start=start,
        made_from={
            **told,
            "recipe": "normalize_total(target=10000.0) → log1p",
            "n_obs": int((codes >= 0).sum()),
            "n_vars": table.n_vars,
        },
        notes={
            "genes": _genes_table(found, names[wanted], np.asarray(table.var_names, dtype=str)),
            "around": _around_table(around, names),
        },
    )
    return adata if copy else None


class _Limits(NamedTuple):
    """What a gene of a domain has to reach."""

    max_fdr: float
    min_share: float
    min_share_ratio: float
    min_fold_change: float


def _limits(max_fdr: float, min_share: float, min_share_ratio: float, min_fold_change: float) -> _Limits:
    if not 0 < max_fdr <= 1:
        msg = f"max_fdr is {max_fdr!r}, but must be a rate above 0 and at most 1."
        raise InputError(msg)
    if not 0 <= min_share <= 1:
        msg = f"min_share is {min_share!r}, but must be a share from 0 to 1."
        raise InputError(msg)
    for name, value in (("min_share_ratio", min_share_ratio), ("min_fold_change", min_fold_change)):
        if not value >= 0:
            msg = f"{name} is {value!r}, but must be a ratio of at least 0."
            raise InputError(msg)
    return _Limits(max_fdr, min_share, min_share_ratio, min_fold_change)


def _refuse_numbers(n_near: float, min_contact: float) -> None:
    if not n_near > 0:
        msg = f"n_near is {n_near!r}, but must be a number of spots above 0."
        raise InputError(msg)
    if not min_contact >= 0:
        msg = f"min_contact is {min_contact!r}, but must be a number of spots of at least 0."
        raise InputError(msg)


def _wanted(domains: Sequence[str] | None, codes: np.ndarray, names: np.ndarray, key: str) -> np.ndarray:
    """Codes of the domains whose genes are sought, (n,) int."""
    there = np.unique(codes[codes >= 0])
    if len(there) < 2:
        msg = f"`adata.obs[{key!r}]` holds one domain, so nothing lies around it. Pass a column with several as `key=`."
        raise InputError(msg)
    if domains is None:
        return there
    known = [str(name) for name in names[there]]
    asked = [domains] if isinstance(domains, str) else [str(each) for each in domains]
    for each in asked:
        if each not in known:
            msg = f"`adata.obs[{key!r}]` has no domain {each!r}; it has {listed(known)}.{nearest(each, known)}"
            raise InputError(msg)
    return there[[known.index(each) for each in asked]]


# ------------------------------------------------------------------ what lies around a domain


def _near(
    coords: np.ndarray, slices: np.ndarray | None, codes: np.ndarray, wanted: np.ndarray, n_near: float
) -> sp.csr_matrix:
    """Distances up to a radius within which the spots of every domain have `n_near` others on average, if there are."""
    sizes = np.array([len(codes)]) if slices is None else np.bincount(slices)
    n_pairs = int((sizes * (sizes - 1)).sum())
    radius = 2 * pitch(coords, slices)
    while True:
        near = spatial(coords, radius=radius, slices=slices)
        degree = np.diff(near.indptr)
        if near.nnz == n_pairs or min(degree[codes == code].mean() for code in wanted) > n_near:
            return near
        radius *= 1.5


def _around(
    near: sp.csr_matrix, codes: np.ndarray, code: int, n_near: float, min_contact: float, n_around: int
) -> _Around:
    """The radius of a domain, and the domains that lie around it within that."""
    rows = near[np.flatnonzero(codes == code)]
    size, sizes = rows.shape[0], np.bincount(codes[codes >= 0]).astype(float)
    radius = _radius(np.sort(rows.data), n_near * size)
    within = rows.data <= radius
    others = codes[rows.indices[within]]
    contact = np.bincount(others[others >= 0], minlength=len(sizes)) / np.maximum(sizes, 1)
    contact[code] = 0
    order = np.argsort(-contact, kind="stable")
    found = order[contact[order] >= max(min_contact, np.finfo(float).tiny)][:n_around]
    if not len(found):  # far from all others, or a thin layer around a large one
        found = order[:1] if contact.max() > 0 else np.setdiff1d(np.flatnonzero(sizes), [code])
    return _Around(radius, float(within.sum() / size), found)


def _radius(distances: np.ndarray, n_wanted: float) -> float:
    """The distance up to which about `n_wanted` of the sorted distances lie; equal ones are not torn apart."""
    if not len(distances):
        return 0.0
    place = min(max(round(n_wanted), 1), len(distances)) - 1
    below = int(np.searchsorted(distances, distances[place] * (1 - EQUAL), side="left"))
    up_to = int(np.searchsorted(distances, distances[place] * (1 + EQUAL), side="right"))
    nearer = below if below > 0 and n_wanted - below < up_to - n_wanted else up_to
    return float(distances[nearer - 1])


# ------------------------------------------------------------------ genes


def _higher(
    counts: Any, depth: np.ndarray, codes: np.ndarray, code: int, around: np.ndarray, limits: _Limits
) -> dict[str, np.ndarray]:
    """Places and numbers of the genes that are higher in a domain than around it, by descending fold change."""
    rows = np.flatnonzero(np.isin(codes, [code, *around]))
    x = canonical(counts[rows])
    inside = codes[rows] == code
    factor = TARGET / depth[rows]
    x.data = np.log1p(x.data * np.repeat(factor, np.diff(x.indptr)))
    sums = group_moments(x, (~inside).astype(int), 2)
    share, mean = sums.filled / sums.n[:, None], sums.mean
    fold = np.exp(mean[0] - mean[1])
    fdr = false_discovery_rate(rank_sum_test(x, inside))
    higher = (fdr < limits.max_fdr) & (share[0] > limits.min_share) & (fold > limits.min_fold_change)
    higher &= share[0] > limits.min_share_ratio * share[1]
    genes = np.flatnonzero(higher)
    genes = genes[np.argsort(-fold[genes], kind="stable")]
    return {
        "gene": genes,
        "fdr": fdr[genes],
        "share": share[0, genes],
        "share_around": share[1, genes],
        "fold_change": fold[genes],
    }


def false_discovery_rate(p: np.ndarray) -> np.ndarray:
    """False discovery rates by Benjamini and Hochberg."""
    from scipy.stats import false_discovery_control

    return np.asarray(false_discovery_control(p))


# ------------------------------------------------------------------ tables


def _genes_table(found: list[dict[str, np.ndarray]], domains: np.ndarray, genes: np.ndarray) -> pd.DataFrame:
    import pandas as pd

    columns: dict[str, Any] = {"domain": np.repeat(domains, [len(each["gene"]) for each in found]).astype(str)}
    columns |= {name: np.concatenate([each[name] for each in found]) for name in found[0]}
    columns["gene"] = genes[columns["gene"]]
    frame = pd.DataFrame(columns)
    return frame.set_axis([str(i) for i in range(len(frame))]).astype({"domain": str, "gene": str})


def _around_table(around: dict[int, _Around], names: np.ndarray) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        {
            "domain": [str(names[code]) for code in around],
            "radius": [each.radius for each in around.values()],
            "n_near": [each.n_near for each in around.values()],
            "compared_with": ["+".join(names[each.domains]) for each in around.values()],
        },
        index=[str(i) for i in range(len(around))],
    )
