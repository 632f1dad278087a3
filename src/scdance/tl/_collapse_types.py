from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from scdance._checks import InputError, warn
from scdance._core.counts import raw_counts
from scdance._core.derive import write_derived
from scdance._core.objects import opened
from scdance._core.read import labels_of
from scdance._core.task import ANNOTATE
from scdance._core.write import check_slots
from scdance._docs import documented
from scdance.pp import Moments, cluster_sums, telling_genes

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

VARIES = np.log(2)  # by so much the mean log-normalised expression of a gene differs between types, at least: twofold
N_GENES = 500  # of these, that tell the types best apart
FEWEST_GENES = 10  # below, a correlation means nothing
ROUNDING = 1e-9  # by which the correlation of equal profiles may miss 1
CLOSEST = 10  # pairs that the record keeps


@documented(ANNOTATE)
def collapse_types(
    ref: AnnData,
    labels_key: str,
    *,
    threshold: float = 0.95,
    layer: str | None = None,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Propose to merge types of a reference whose mean profiles are nearly the same.

    No method of deconvolution can tell such types apart in a spot: it shares them out by noise. Here types are merged
    whose profiles correlate by `threshold` or more, and types between which a chain of such pairs leads. What is
    compared are means of log-normalised expression over the 500 genes that tell the types best apart (by the F
    statistic of a one-way analysis of variance) among those that differ at least twofold between the highest and the
    lowest type: all types correlate over the genes that every cell needs, which says nothing.

    Parameters
    ----------
    ref
        Annotated cells.
    labels_key
        Column of ``ref.obs`` with the cell types. Cells where it is NaN or "" stay without one.
    threshold
        Smallest correlation (Pearson) of types that are merged, above 0 and at most 1.
    layer
        Layer with the counts. None: ``layers['counts']`` if there, else ``X``.
    key_added
        Name of the results; None: ``'<labels_key>_collapsed'``. A slot that another tool wrote is never overwritten.
    copy
        Return a copy with the results instead of writing into `ref`.

    Returns
    -------
    None, or with ``copy=True`` a copy of the object, which gets:

    ``ref.obs['<labels_key>_collapsed']``
        type of each cell, category; merged ones are named after their types, with "+" between them.
    ``ref.uns['scdance']['annotate']['<labels_key>_collapsed']``
        Run record. Its notes hold three tables: ``types``, what each type became and its number of cells; ``merges``,
        the pairs at or above the threshold with their correlation; and ``apart``, the closest pairs that were kept
        apart. ``n_types`` are the numbers of types before and after, ``n_genes`` is that of genes compared.

    Raises
    ------
    {raises}

    Notes
    -----
    The genes are chosen among the types of this reference, so a pair can be merged here and kept apart in a reference
    of its close relatives alone. The mean of a few dozen cells is noisy, which lowers its correlations: rare types are
    kept apart also from those that they are like. Correlation says nothing of what a biologist calls a type: a proposal
    is to be looked at.

    See Also
    --------
    scdance.tl.suggest_merges : merges clusters that no marker genes tell apart.

    Examples
    --------
    >>> import scdance as sd
    >>> ref = sd.datasets.load("pbmc_demo")
    >>> sd.tl.collapse_types(ref, "cell_type")
    >>> ref.obs["cell_type_collapsed"].cat.categories.tolist()
    ['1+4', '2+6', '3', '5', '7', '8']
    """
    start = time.perf_counter()
    ref = opened(ref, ANNOTATE)
    codes, types = labels_of(ref, labels_key, "ref")
    added = check_slots(ref, ANNOTATE, key_added, f"{labels_key}_collapsed")
    if added == labels_key:
        msg = (
            f"key_added is {added!r}, the column that is read. Pass another name, or None for {f'{added}_collapsed'!r}."
        )
        raise InputError(msg)
    if not 0 < threshold <= 1:
        msg = f"threshold is {threshold!r}, but must be a correlation above 0 and at most 1."
        raise InputError(msg)
    counts, depth, told = raw_counts(ref, layer, "collapse_types")
    sums = cluster_sums(counts, codes, depth)
    genes = _varying(sums, labels_key)
    correlation = _correlation(sums.mean[:, genes])
    group_of = _connected(correlation >= threshold - ROUNDING)
    names = _names(types, group_of)
    if len(names) == 1:
        warn(
            f"All {len(types)} types of `ref.obs[{labels_key!r}]` are merged into one at a threshold of {threshold}, "
            "which leaves nothing to tell apart; pass a higher `threshold=`."
        )
    rows = np.flatnonzero(codes >= 0)
    return write_derived(
        ref,
        ANNOTATE,
        added,
        "collapse_types",
        {"labels": group_of[codes[rows]]},
        names,
        rows=rows,
        params={"labels_key": labels_key, "threshold": threshold, "layer": layer},
        start=start,
        made_from={
            **told,
            "recipe": "normalize_total(target=10000.0) → log1p",
            "n_obs": int((depth[rows] > 0).sum()),
            "n_vars": ref.n_vars,
        },
        notes={
            "n_types": np.array([len(types), len(names)]),
            "n_genes": len(genes),
            **_tables(correlation, threshold, group_of, types, names, np.bincount(codes[rows])),
        },
        copy=copy,
    )


def _varying(sums: Moments, labels_key: str) -> np.ndarray:
    """The genes that tell the types best apart, among those that differ between them at all."""
    differ = np.flatnonzero(np.ptp(sums.mean, axis=0) >= VARIES)
    if len(differ) < FEWEST_GENES:
        msg = (
            f"Only {len(differ)} genes differ twofold between types of `ref.obs[{labels_key!r}]`, too few to compare "
            f"them by; {FEWEST_GENES} are needed. Pass more genes, or a column with types that differ as `labels_key=`."
        )
        raise InputError(msg)
    return differ[telling_genes(Moments(sums.n, *(part[:, differ] for part in sums[1:])), N_GENES)]


def _correlation(profiles: np.ndarray) -> np.ndarray:
    """Pearson correlation of the rows, 0 where one does not vary."""
    centred = profiles - profiles.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = centred / np.where(norm > 0, norm, 1)
    return unit @ unit.T


def _connected(alike: np.ndarray) -> np.ndarray:
    """Group of each type, (n_types,) int, numbered by their first types; a chain of pairs makes one group."""
    from scipy.sparse.csgraph import connected_components

    _, found = connected_components(alike, directed=False)
    _, first = np.unique(found, return_index=True)
    return np.argsort(np.argsort(first))[found]


def _names(types: list[str], group_of: np.ndarray) -> list[str]:
    """Name of each group: those of its types, with "_" behind where another group is called so already."""
    names: list[str] = []
    for group in range(group_of.max() + 1):
        members = [name for name, its in zip(types, group_of, strict=True) if its == group]
        name = "+".join(members)
        while name in names or (len(members) > 1 and name in types):
            name += "_"
        names.append(name)
    return names


def _tables(
    correlation: np.ndarray, threshold: float, group_of: np.ndarray, types: list[str], names: list[str], n: np.ndarray
) -> dict[str, pd.DataFrame]:
    """What each type became, which pairs made it so, and the closest of the pairs that are apart."""
    first, second = np.triu_indices(len(types), 1)
    value = correlation[first, second]
    order = np.argsort(-value, kind="stable")
    alike = [i for i in order if value[i] >= threshold - ROUNDING]
    apart = [i for i in order if group_of[first[i]] != group_of[second[i]]][:CLOSEST]

    def pairs(which: list[int]) -> pd.DataFrame:
        return _table(
            {
                "first": [types[first[i]] for i in which],
                "second": [types[second[i]] for i in which],
                "correlation": value[which],
            }
        )

    became = {"type": types, "collapsed": [names[group] for group in group_of], "n_cells": n}
    return {"types": _table(became), "merges": pairs(alike), "apart": pairs(apart)}


def _table(columns: dict[str, Any]) -> pd.DataFrame:
    """A table that a file can hold, also without a row."""
    import pandas as pd

    frame = pd.DataFrame(columns)
    return frame.set_axis([str(i) for i in range(len(frame))]).astype(
        {name: float if name == "correlation" else int if name == "n_cells" else str for name in columns}
    )
