from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from scdance._checks import InputError
from scdance._core.derive import part_of, types_of, write_derived
from scdance._core.objects import opened
from scdance._core.read import partitions, read
from scdance._core.run import make, seed_of, solve
from scdance._core.task import ANNOTATE
from scdance._core.write import check_slots
from scdance._docs import documented

if TYPE_CHECKING:
    from anndata import AnnData

FEWEST = 50  # cells: below, groups of similar ones mean nothing
# resolution of the groups by the number of cells, as CellTypist chooses it
RESOLUTIONS = ((5_000, 5.0), (20_000, 10.0), (40_000, 15.0), (100_000, 20.0), (200_000, 25.0), (np.inf, 30.0))


@documented(ANNOTATE)
def vote(
    adata: AnnData,
    key: str,
    groups: str | None = None,
    *,
    least: float = 0.0,
    layer: str | None = None,
    key_added: str | None = None,
    random_state: int | np.random.Generator | None = 0,
    copy: bool = False,
) -> AnnData | None:
    """Give every cell of a group the type that most of its cells were given.

    Single cells are noisy and their neighbours are not: among similar cells the majority is more often right. A group
    that mixes types takes a rare one away, so the groups are kept small.

    Parameters
    ----------
    {adata}
    key
        Annotation that votes: the ``key_added`` of a run of :func:`annotate`, or the name of its method.
    groups
        Column of ``adata.obs`` with groups of similar cells. None: many small ones, by Leiden at a resolution of 5 (up
        to 5,000 cells) to 30.
    least
        Smallest share of the votes, 0 to 1; groups without such a majority become "unknown".
    {layer, key_added, random_state, copy}

    Returns
    -------
    None, or with ``copy=True`` a copy of the object, which gets:

    ``adata.obs['<key>_voted']``
        type of each cell by vote; cells without a type before have none.
    ``adata.obs['<key>_voted_score']``
        share of the votes, (n_obs,) float32 in [0, 1].
    ``adata.obsm['<key>_voted_proba']``
        share of each type among the votes of the group, (n_obs, n_types) float32.
    ``adata.uns['scdance']['annotate']['<key>_voted']``
        Run record.

    Raises
    ------
    {raises}

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.load("pbmc_demo")
    >>> ref, query = adata[:500].copy(), adata[500:].copy()
    >>> sd.tl.annotate(query, ref, method="svm", labels_key="cell_type")
    >>> sd.tl.vote(query, "svm")
    >>> bool(query.obs["svm_voted"].isna().any())
    False
    """
    import pandas as pd

    adata = opened(adata, ANNOTATE)
    given = pd.Categorical(part_of(adata, ANNOTATE, key, "labels"))
    added = check_slots(adata, ANNOTATE, key_added, f"{key}_voted")
    if not 0 <= least <= 1:
        msg = f"least is {least!r}, but must be a share of the votes, from 0 to 1."
        raise InputError(msg)
    start, seed = time.perf_counter(), seed_of(random_state)
    if groups is None:
        where, codes = "leiden", _small_groups(adata, layer, seed)
    else:
        where, codes = groups, partitions(adata, [groups], argument="groups")[:, 0]
    names = types_of(adata, ANNOTATE, key, given)
    if not names:
        msg = f"All cells of {key!r} are of unknown type, so there is nothing to vote on; pass another `key`."
        raise InputError(msg)
    place = pd.Index(names).get_indexer([*map(str, given.categories), None])
    votes_of = place[given.codes]  # "unknown" and missing: −1, no vote
    rows = np.flatnonzero(given.codes >= 0)
    votes = np.zeros((codes.max(initial=0) + 1, len(names)))
    count = (codes >= 0) & (votes_of >= 0)
    np.add.at(votes, (codes[count], votes_of[count]), 1)
    own = np.eye(len(names) + 1)[votes_of[rows], : len(names)]  # a cell in no group votes for itself
    heard = np.where((codes[rows] >= 0)[:, None], votes[np.maximum(codes[rows], 0)], own)
    total = heard.sum(axis=1, keepdims=True)
    share = np.where(total > 0, heard / np.maximum(total, 1), 1 / len(names))
    labels = np.where((total[:, 0] > 0) & (share.max(axis=1) >= least), share.argmax(axis=1), len(names))
    return write_derived(
        adata,
        ANNOTATE,
        added,
        "vote",
        {"labels": labels, "proba": share, "score": share.max(axis=1)},
        names,
        rows=rows,
        params={"key": key, "groups": where, "least": least},
        start=start,
        random_state=seed,
        notes={"n_groups": len(np.unique(codes[codes >= 0]))},
        copy=copy,
    )


def _small_groups(adata: AnnData, layer: str | None, seed: int) -> np.ndarray:
    """Many small groups of similar cells, (n_obs,) int; −1 where there is none, as for all of too few cells."""
    if adata.n_obs <= FEWEST:
        return np.full(adata.n_obs, -1)
    resolution = next(value for most, value in RESOLUTIONS if adata.n_obs <= most)
    model = make("cluster", "leiden", {"resolution": resolution}, random_state=seed)
    cells = read(adata, model, layer=layer)
    out = np.full(adata.n_obs, -1)
    out[cells.rows] = solve(model, cells=cells, progress=False)[0]["labels"]
    return out
