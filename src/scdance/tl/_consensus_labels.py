from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from scdance._checks import InputError, listed
from scdance._core.derive import probabilities, write_derived
from scdance._core.objects import opened
from scdance._core.task import ANNOTATE
from scdance._core.write import check_slots
from scdance._docs import documented

if TYPE_CHECKING:
    from anndata import AnnData


@documented(ANNOTATE)
def consensus_labels(
    adata: AnnData,
    keys: Sequence[str],
    *,
    least: float = 0.0,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Agree on types from several annotations: other methods, other references, other seeds.

    The probabilities of a cell are averaged, and the likeliest type is taken. Where methods of different kinds
    disagree, at least one is wrong: look at these cells first. Cells that one of them had rejected are looked at anew.

    Parameters
    ----------
    {adata}
    keys
        At least two annotations with probabilities: the ``key_added`` of runs of :func:`annotate`, or the names of
        their methods. A type that one of them does not know counts as improbable there.
    least
        Smallest mean probability, 0 to 1; cells below become "unknown".
    {key_added, copy}

    Returns
    -------
    None, or with ``copy=True`` a copy of the object, which gets:

    ``adata.obs['consensus_labels']``
        type of each cell; cells that none of the annotations gave a type have none.
    ``adata.obs['consensus_labels_score']``
        mean probability of it, (n_obs,) float32 in [0, 1].
    ``adata.obs['consensus_labels_disagreement']``
        share of the annotations whose likeliest type is another, (n_obs,) float32 in [0, 1].
    ``adata.obsm['consensus_labels_proba']``
        mean probability of each type, (n_obs, n_types) float32, rows sum to 1.
    ``adata.uns['scdance']['annotate']['consensus_labels']``
        Run record; its notes hold how often each two annotations agree.

    Raises
    ------
    {raises}

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.load("pbmc_demo")
    >>> ref, query = adata[:500].copy(), adata[500:].copy()
    >>> for method in ("svm", "knn"):
    ...     sd.tl.annotate(query, ref, method=method, labels_key="cell_type")
    >>> sd.tl.consensus_labels(query, ["svm", "knn"])
    >>> bool(query.obs["consensus_labels_disagreement"].mean() < 0.5)
    True
    """
    start = time.perf_counter()
    adata = opened(adata, ANNOTATE)
    keys = [keys] if isinstance(keys, str) else list(keys)
    if len(keys) < 2:
        msg = f"A consensus needs at least two annotations; found {listed(keys)}. Pass the keys of runs as `keys=`."
        raise InputError(msg)
    if not 0 <= least <= 1:
        msg = f"least is {least!r}, but must be a probability from 0 to 1."
        raise InputError(msg)
    found = [probabilities(adata, ANNOTATE, key) for key in keys]
    added = check_slots(adata, ANNOTATE, key_added, "consensus_labels")
    names = list(dict.fromkeys(name for proba, _ in found for name in proba.columns))
    total, heard = np.zeros((adata.n_obs, len(names))), np.zeros(adata.n_obs)
    calls = np.full((adata.n_obs, len(keys)), -1)
    for i, (proba, rows) in enumerate(found):
        columns = np.array([names.index(name) for name in proba.columns])
        values = np.asarray(proba, dtype=float)[rows]
        total[np.ix_(rows, columns)] += values
        heard[rows] += 1
        calls[rows, i] = columns[values.argmax(axis=1)]
    rows = np.flatnonzero(heard)
    mean = total[rows] / heard[rows, None]
    best, score = mean.argmax(axis=1), mean.max(axis=1)
    others = (calls[rows] >= 0) & (calls[rows] != best[:, None])
    agree = [[_agreement(one, other) for other in calls.T] for one in calls.T]
    result = {
        "labels": np.where(score >= least, best, len(names)),
        "proba": mean,
        "score": score,
        "disagreement": others.sum(axis=1) / heard[rows],
    }
    return write_derived(
        adata,
        ANNOTATE,
        added,
        "consensus_labels",
        result,
        names,
        rows=rows,
        params={"keys": np.array(keys), "least": least},
        start=start,
        notes={"agreement": np.array(agree)},
        copy=copy,
    )


def _agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Share of the cells with the same type in two annotations, of those that have one in both; 0 without any."""
    both = (one >= 0) & (other >= 0)
    return float(np.mean(one[both] == other[both])) if both.any() else 0.0
