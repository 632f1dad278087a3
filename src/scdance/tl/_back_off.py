from __future__ import annotations

import time
from collections.abc import Mapping
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

ROUNDING = 1e-5  # by which float32 probabilities of all types may miss 1


@documented(ANNOTATE)
def back_off(
    adata: AnnData,
    key: str,
    tree: Mapping[str, str],
    *,
    least: float = 0.7,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Say less where the type is in doubt: "T cell" instead of a guess between two kinds of T cell.

    The probability of a group of types is the sum of theirs. Each cell gets the narrowest type or group on the way up
    from its likeliest type that is probable enough, and "unknown" where none is; cells that the annotation had
    rejected are looked at anew.

    Parameters
    ----------
    {adata}
    key
        Annotation with probabilities: the ``key_added`` of a run of :func:`annotate`, or the name of its method.
    tree
        For each type, and each group in a larger one, the name of the group it is in:
        ``{"CD4 T": "T", "CD8 T": "T", "T": "lymphoid", "B": "lymphoid"}``. Types that are not in it stand alone.
    least
        Smallest probability of what a cell is called, above 0 and at most 1.
    {key_added, copy}

    Returns
    -------
    None, or with ``copy=True`` a copy of the object, which gets:

    ``adata.obs['<key>_back_off']``
        type or group of each cell, or "unknown"; cells without a type before have none.
    ``adata.obs['<key>_back_off_score']``
        probability of that, (n_obs,) float32 in [0, 1].
    ``adata.uns['scdance']['annotate']['<key>_back_off']``
        Run record; its notes say how many cells were called at each height of the tree.

    Raises
    ------
    {raises}

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.load("pbmc_demo")
    >>> ref, query = adata[:500].copy(), adata[500:].copy()
    >>> sd.tl.annotate(query, ref, method="svm", labels_key="cell_type")
    >>> sd.tl.back_off(query, "svm", {"1": "1 or 4", "4": "1 or 4"}, least=0.9)
    >>> "1 or 4" in query.obs["svm_back_off"].cat.categories
    True
    """
    start = time.perf_counter()
    adata = opened(adata, ANNOTATE)
    tree = {str(name): str(group) for name, group in tree.items()}
    proba, rows = probabilities(adata, ANNOTATE, key)
    added = check_slots(adata, ANNOTATE, key_added, f"{key}_back_off")
    if not 0 < least <= 1:
        msg = f"least is {least!r}, but must be a probability above 0 and at most 1."
        raise InputError(msg)
    types = proba.columns.tolist()
    ways = [_way_up(name, tree) for name in types]
    names = list(dict.fromkeys([*types, *(group for way in ways for group in way)]))
    if not set(tree) & set(types):
        msg = f"No type of {key!r} ({listed(types)}) is in the tree, which has {listed(tree)}."
        raise InputError(msg)
    member = np.array([[name in way for name in names] for way in ways], dtype=float)
    sums = np.asarray(proba, dtype=float)[rows] @ member  # of each type and group
    likeliest = np.asarray(proba)[rows].argmax(axis=1)
    labels, score = np.full(len(rows), len(names)), np.zeros(len(rows))
    height = np.full(len(rows), -1)
    for i, way in enumerate(ways):
        mine = np.flatnonzero(likeliest == i)
        for up, name in enumerate(way):
            here = names.index(name)
            open_ = mine[height[mine] < 0]
            score[open_] = sums[open_, here]
            enough = open_[sums[open_, here] >= least - ROUNDING]
            labels[enough], height[enough] = here, up
    return write_derived(
        adata,
        ANNOTATE,
        added,
        "back_off",
        {"labels": labels, "score": np.clip(score, 0, 1)},
        names,
        rows=rows,
        params={"key": key, "tree": tree, "least": least},
        start=start,
        notes={"n_at_height": np.bincount(height[height >= 0], minlength=1), "n_unknown": int((height < 0).sum())},
        copy=copy,
    )


def _way_up(name: str, tree: Mapping[str, str]) -> list[str]:
    """The type itself and the groups that it is in, the narrowest first."""
    way = [name]
    while way[-1] in tree:
        if tree[way[-1]] in way:
            msg = f"The tree goes in a circle: {' → '.join([*way, tree[way[-1]]])}. Give each group one larger group."
            raise InputError(msg)
        way.append(tree[way[-1]])
    return way
