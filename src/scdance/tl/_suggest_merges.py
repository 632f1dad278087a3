from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from scdance._checks import InputError, warn
from scdance._core.counts import clusters, other_part, raw_counts
from scdance._core.derive import write_derived
from scdance._core.objects import opened
from scdance._core.task import CLUSTER
from scdance._core.write import check_slots, record_of
from scdance._docs import documented
from scdance.graph import by_size
from scdance.pp import Merges, cluster_sums, merge_by_markers

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

FIT_LAYER, TEST_LAYER = "counts_fit", "counts_test"  # as split_counts calls them
CLOSEST, TOP = 10, 5  # pairs that the record keeps, and genes of each side


@documented(CLUSTER)
def suggest_merges(
    adata: AnnData,
    key: str,
    *,
    layer: str = TEST_LAYER,
    min_genes: int = 5,
    min_log2_fold_change: float = 1.0,
    max_fdr: float = 0.05,
    min_share: float = 0.1,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Merge clusters that no marker genes tell apart, in counts that were not used to find them.

    Clusters of noise have marker genes, too, in the counts that they were made from: the test looks at the data
    twice. So :func:`scdance.tl.split_counts` cuts the counts in two, clusters are found in one part, and this tool
    tests them in the other. Every pair of clusters is compared gene by gene, and the pair with the fewest genes is
    merged until each has at least `min_genes`.

    Parameters
    ----------
    {adata}
    key
        Column of ``adata.obs`` with the clusters; cells where it is missing stay without one.
    layer
        Layer with the counts to test in; they should have had no part in the making of the clusters.
    min_genes
        Genes that keep two clusters apart, at least 1.
    min_log2_fold_change
        Smallest fold change of such a gene, in powers of 2, at least 0; of the mean expression per 10,000 counts.
    max_fdr
        Largest false discovery rate of such a gene, above 0 and at most 1; Welch's t test of log-normalised values,
        corrected for the number of genes by Benjamini and Hochberg.
    min_share
        Smallest share of the cells of the higher cluster that express such a gene, 0 to 1.
    key_added
        Name of the results; None: ``'<key>_merged'``. A slot that another tool wrote is never overwritten.
    {copy}

    Returns
    -------
    None, or with ``copy=True`` a copy of the object, which gets:

    ``adata.obs['<key>_merged']``
        cluster of each cell after the merges, "0" is the largest.
    ``adata.uns['scdance']['cluster']['<key>_merged']``
        Run record. Its notes hold ``members``, the old clusters in each new one; ``merges``, the merges in order with
        the number of genes between the two; and ``apart``, the pairs of new clusters with the fewest genes between
        them and the strongest genes of either side.

    Raises
    ------
    {raises}

    Notes
    -----
    Halves of counts that vary more than Poisson counts are not wholly independent, so some clusters of noise stay
    apart. A cluster of very few cells can show few genes, and joins one that it may not belong to. Genes say nothing
    of what a biologist calls a type: a suggestion is to be looked at.

    See Also
    --------
    scdance.tl.split_counts : makes the layers.
    scdance.pp.merge_by_markers : the same on arrays.

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.load("pbmc_demo")
    >>> sd.tl.split_counts(adata)
    >>> sd.tl.cluster(adata, method="kmeans", n_clusters=16, layer="counts_fit")
    >>> sd.tl.suggest_merges(adata, "kmeans")
    >>> len(adata.obs["kmeans_merged"].cat.categories) < 16
    True
    """
    adata = opened(adata, CLUSTER)
    codes, old_names = clusters(adata, key)
    rows = np.flatnonzero(codes >= 0)
    codes[rows], old = by_size(codes[rows])  # so that the names of the clusters have no say in the result
    old_names = old_names[old]
    added = check_slots(adata, CLUSTER, key_added, f"{key}_merged")
    if added == key:
        msg = f"key_added is {key!r}, the column that is read. Pass another name, or None for {f'{key}_merged'!r}."
        raise InputError(msg)
    knobs = {
        "min_genes": min_genes,
        "min_log2_fold_change": min_log2_fold_change,
        "max_fdr": max_fdr,
        "min_share": min_share,
    }
    for name, value in knobs.items():
        if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not np.isfinite(value):
            msg = f"{name} is {value!r}, but must be a number."
            raise InputError(msg)
    start = time.perf_counter()
    counts, depth, told = raw_counts(adata, layer, "suggest_merges")
    _refuse_same_counts(adata, key, layer, told["layer"])
    found = merge_by_markers(cluster_sums(counts, codes, depth), **knobs)
    group_of = np.empty(len(old_names), dtype=int)
    for i, group in enumerate(found.groups):
        group_of[group] = i
    labels, order = by_size(group_of[codes[rows]])
    return write_derived(
        adata,
        CLUSTER,
        added,
        "suggest_merges",
        {"labels": labels},
        [str(i) for i in range(len(order))],
        rows=rows,
        params={"key": key, "layer": layer, **knobs},
        start=start,
        made_from={
            **told,
            "recipe": "normalize_total(target=10000.0) → log1p",
            "n_obs": int((depth[rows] > 0).sum()),
            "n_vars": adata.n_vars,
        },
        notes=_notes(found, order, old_names, np.asarray(adata.var_names, dtype=str)),
        copy=copy,
    )


def _sources(adata: AnnData, key: str, seen: frozenset[str] = frozenset()) -> set[str]:
    """What a partition was made from, as the run records say it: "" where there is none."""
    record = record_of(adata, CLUSTER, key)
    params = record.get("params", {})
    others = [*params.get("keys", []), *([params["key"]] if "key" in params else [])]
    if str(record.get("method")) in ("consensus", "suggest_merges") and key not in seen:
        return set().union(*(_sources(adata, str(other), seen | {key}) for other in others))
    return {str(record["input"].get("layer", ""))} if "input" in record else {""}


def _refuse_same_counts(adata: AnnData, key: str, layer: str, where: str) -> None:
    """Refuse clusters of the counts that are tested here, and warn where they may have been made from these."""
    made_from = _sources(adata, key)
    what_to_type = (
        f"Split the counts, cluster one part and test the other: `sd.tl.split_counts(adata)`, `sd.tl.cluster(adata, "
        f"layer={FIT_LAYER!r}, key_added={key!r})`, `sd.tl.suggest_merges(adata, {key!r})`."
    )
    if where in made_from:
        msg = (
            f"{key!r} was clustered on `{where}`, the counts that are to be tested. Clusters have marker genes in the "
            f"counts that they were made from, also where there are none to find. {what_to_type}"
        )
        raise InputError(msg)
    partner = other_part(adata, layer) or (FIT_LAYER if layer == TEST_LAYER else None)
    if made_from == {f"layers[{partner!r}]"}:
        return
    others = ", ".join(f"`{each}`" for each in sorted(made_from - {""}))
    told = f"was clustered on {others}" if others else "has no run record that says what it was clustered on"
    warn(
        f"{key!r} {told}. If that contains the counts of `{where}`, the clusters have marker genes there because they "
        f"were made from them, and too few are merged. {what_to_type}"
    )


def _notes(found: Merges, order: np.ndarray, old_names: np.ndarray, genes: np.ndarray) -> dict[str, Any]:
    """What was merged and what stays apart, by names; `order` is the group of each new cluster."""
    new_name = {int(group): str(i) for i, group in enumerate(order)}
    steps = [(_joined(old_names, one), _joined(old_names, other), n) for one, other, n in found.steps]
    closest = []
    for a, b, up_a, up_b in found.apart[:CLOSEST]:
        sides = sorted([(int(new_name[a]), up_a), (int(new_name[b]), up_b)], key=lambda side: side[0])
        names = [", ".join(genes[up[:TOP]]) for _, up in sides]
        closest.append((*(str(number) for number, _ in sides), len(up_a) + len(up_b), *names))
    return {
        "n_clusters": np.array([len(old_names), len(order)]),
        "members": np.array([_joined(old_names, found.groups[group]) for group in order]),
        "merges": _table(steps, ["first", "second", "n_genes"]),
        "apart": _table(closest, ["first", "second", "n_genes", "higher_in_first", "higher_in_second"]),
    }


def _joined(names: np.ndarray, group: list[int]) -> str:
    return "+".join(names[group])


def _table(rows: list[tuple[Any, ...]], columns: list[str]) -> pd.DataFrame:
    """A table that a file can hold, also without a row."""
    import pandas as pd

    frame = pd.DataFrame(rows, columns=columns, index=[str(i) for i in range(len(rows))])
    return frame.astype({name: int if name == "n_genes" else str for name in columns})
