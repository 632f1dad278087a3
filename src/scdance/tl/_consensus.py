from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from scdance import graph
from scdance._checks import InputError, column_names, listed
from scdance._core.derive import write_derived
from scdance._core.objects import opened
from scdance._core.read import partitions
from scdance._core.run import seed_of
from scdance._core.task import CLUSTER
from scdance._core.write import check_slots
from scdance._docs import documented

if TYPE_CHECKING:
    from anndata import AnnData


@documented(CLUSTER)
def consensus(
    adata: AnnData,
    keys: Sequence[str],
    *,
    resolution: float = 1.0,
    together: float = 0.5,
    key_added: str | None = None,
    random_state: int | np.random.Generator | None = 0,
    copy: bool = False,
) -> AnnData | None:
    """Agree on clusters from several runs: other seeds, other methods, other numbers of clusters.

    Cells are joined by the share of the partitions that put them together, and Leiden looks for communities in that
    graph. The score of a cell is its stability: the mean share of the partitions that put it together with a
    cell of its cluster. Low ones belong nowhere for sure. Agreement is no proof of being right: runs that err alike
    agree.

    Parameters
    ----------
    {adata}
    keys
        Columns of ``adata.obs`` with the partitions, at least two; cells where one is missing have no say in it.
    resolution
        Resolution of Leiden, at least 0; higher gives more clusters.
    together
        Pairs that a smaller share of the partitions puts together count as apart, 0 to 1.
    {key_added, random_state, copy}

    Returns
    -------
    None, or with ``copy=True`` a copy of the object, which gets:

    ``adata.obs['<key>']``
        cluster of each cell, "0" is the largest; cells without any partition have none.
    ``adata.obs['<key>_score']``
        stability, (n_obs,) float32 in [0, 1].
    ``adata.uns['scdance']['cluster']['<key>']``
        Run record: the keys, the numbers of clusters, and the share of boundary cells, which are beside the cells of
        another cluster at least half as often as beside those of their own.

    Raises
    ------
    {raises}

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.load("pbmc_demo")
    >>> for seed in range(3):
    ...     sd.tl.cluster(adata, method="kmeans", n_clusters=8, random_state=seed, key_added=f"seed{seed}")
    >>> sd.tl.consensus(adata, ["seed0", "seed1", "seed2"])
    >>> bool(adata.obs["consensus_score"].median() > 0.8)
    True
    """
    adata = opened(adata, CLUSTER)
    keys = _names(keys)
    _check_numbers(resolution, together)
    codes = partitions(adata, keys)
    _check_partitions(keys, codes)
    key = check_slots(adata, CLUSTER, key_added, "consensus")
    if key in keys:
        msg = f"The results would go to {key!r}, one of the columns that are read. Pass another name as `key_added=`."
        raise InputError(msg)
    rows = np.flatnonzero((codes >= 0).any(axis=1))
    start, seed = time.perf_counter(), seed_of(random_state)
    found = graph.consensus(codes[rows], resolution=resolution, together=together, random_state=seed)
    return write_derived(
        adata,
        CLUSTER,
        key,
        "consensus",
        {"labels": found.labels, "score": found.stability},
        [str(i) for i in range(int(found.labels.max()) + 1)],
        rows=rows,
        params={"keys": np.array(keys), "resolution": resolution, "together": together},
        start=start,
        made_from={"kind": "partitions"},
        random_state=seed,
        notes={
            "n_clusters": np.array([len(np.unique(part[part >= 0])) for part in codes.T]),
            "boundary_share": float(found.boundary.mean()),
        },
        copy=copy,
    )


def _names(keys: Sequence[str]) -> list[str]:
    """The columns as a list, refusing fewer than two different ones."""
    keys = column_names(keys)
    if len(keys) < 2:
        msg = (
            f"A consensus needs at least two partitions; found {listed(keys)}. Pass columns of `adata.obs` as `keys=`."
        )
        raise InputError(msg)
    if twice := [key for i, key in enumerate(keys) if key in keys[:i]]:
        msg = f"keys has {listed(twice)} more than once; each partition has one vote. Leave out the others."
        raise InputError(msg)
    return keys


def _check_numbers(resolution: float, together: float) -> None:
    for value, name, most, words in (
        (resolution, "resolution", np.finfo(float).max, "at least 0; 1 is usual, and more gives more clusters"),
        (together, "together", 1, "a share of the partitions, from 0 to 1"),
    ):
        is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= most:
            msg = f"{name} is {value!r}, but must be {words}."
            raise InputError(msg)


def _check_partitions(keys: list[str], codes: np.ndarray) -> None:
    """Refuse columns that hold a number of each cell, or nothing."""
    for key, part in zip(keys, codes.T, strict=True):
        part = part[part >= 0]
        n = len(np.unique(part))
        if n == 0 or n > max(len(part) // 2, 1):
            msg = (
                f"`adata.obs[{key!r}]` has {n} values for {len(part)} cells, so it holds no partition. Pass columns "
                "that do as `keys=`."
            )
            raise InputError(msg)
