"""Pairs of cells that belong together or apart: where they may come from, and whether they contradict each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scdance._checks import InputError, listed, warn, whole_number

from ._random import generator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    Pairs = tuple[np.ndarray, np.ndarray]

ROUNDS = 20  # of drawing, until enough different pairs have come up


def checked_pairs(must_link: Any, cannot_link: Any, names: Sequence[str]) -> Pairs:
    """Positions of the pairs, each once and in ascending order, without those that contradict each other.

    Parameters
    ----------
    must_link, cannot_link
        Pairs of positions or of names, (n_pairs, 2); None for none.
    names
        Names of the cells, unique.

    Returns
    -------
    Two arrays, (n, 2) int.

    Raises
    ------
    InputError
        Not pairs, a position outside the cells, an unknown name, or a cell that is paired with itself.

    Examples
    --------
    >>> from scdance.pp import checked_pairs
    >>> must, cannot = checked_pairs([["b", "a"], ["a", "b"]], [[0, 2]], names=["a", "b", "c"])
    >>> must.tolist(), cannot.tolist()
    ([[0, 1]], [[0, 2]])
    """
    must = _positions(must_link, names, "must_link")
    cannot = _positions(cannot_link, names, "cannot_link")
    both = np.isin(_code(must, len(names)), _code(cannot, len(names)))
    if both.any():
        warn(f"{int(both.sum())} pairs are in must_link and in cannot_link; they are left out of both.")
        cannot = cannot[~np.isin(_code(cannot, len(names)), _code(must[both], len(names)))]
        must = must[~both]
    torn = _torn(must, cannot, len(names))
    if torn.any():
        warn(
            f"{int(torn.sum())} cannot-link pairs join cells that chains of must-link pairs hold together; "
            "they are kept, so both cannot be satisfied."
        )
    return must, cannot


def _positions(pairs: Any, names: Sequence[str], what: str) -> np.ndarray:
    import pandas as pd

    if pairs is None:
        return np.empty((0, 2), dtype=np.int64)
    try:
        pairs = np.asarray(pairs)
    except ValueError as error:  # rows of several lengths
        msg = f"{what} must have one row of two cells for each pair, (n_pairs, 2), but its rows differ in length."
        raise InputError(msg) from error
    if pairs.size == 0:
        return np.empty((0, 2), dtype=np.int64)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        msg = f"{what} has shape {pairs.shape}, but one row of two cells for each pair is expected, (n_pairs, 2)."
        raise InputError(msg)
    if pairs.dtype.kind in "OUST":
        found = pd.Index(names).get_indexer(pairs.ravel().astype(str)).reshape(-1, 2)
        if (found < 0).any():
            msg = (
                f"{what} names {int((found < 0).sum())} cells that are not there: {listed(pairs[found < 0], 3)}. Pass "
                f"names of `obs_names`, such as {listed(names, 3)}, or positions from 0."
            )
            raise InputError(msg)
        pairs = found
    if pairs.dtype.kind not in "iu" or pairs.min() < 0 or pairs.max() >= len(names):
        msg = (
            f"{what} must hold names of cells, or positions from 0 to {len(names) - 1}; found {pairs.dtype} values "
            f"from {pairs.min()} to {pairs.max()}."
        )
        raise InputError(msg)
    if (pairs[:, 0] == pairs[:, 1]).any():
        msg = f"{what} pairs {int((pairs[:, 0] == pairs[:, 1]).sum())} cells with themselves; leave these out."
        raise InputError(msg)
    return _once(pairs, len(names))


def _code(pairs: np.ndarray, n: int) -> np.ndarray:
    """One number per pair."""
    return pairs[:, 0].astype(np.int64) * n + pairs[:, 1]


def _once(pairs: np.ndarray, n: int) -> np.ndarray:
    """Each pair once, the smaller position first, sorted."""
    pairs = np.sort(pairs.astype(np.int64), axis=1)
    code = np.unique(_code(pairs, n))
    return np.column_stack([code // n, code % n])


def _torn(must: np.ndarray, cannot: np.ndarray, n: int) -> np.ndarray:
    """Which cannot-link pairs lie within one connected component of the must-link pairs."""
    import scipy.sparse as sp
    from scipy.sparse.csgraph import connected_components

    joined = sp.csr_matrix((np.ones(len(must)), (must[:, 0], must[:, 1])), shape=(n, n))
    _, component = connected_components(joined, directed=False)
    return component[cannot[:, 0]] == component[cannot[:, 1]]


def pairs_from_labels(
    labels: Any, n_pairs: int = 10_000, *, wrong: float = 0.0, random_state: int | np.random.Generator | None = 0
) -> Pairs:
    """Draw pairs of labelled cells: those of one label belong together, the others apart.

    Parameters
    ----------
    labels
        Known types, (n_obs,); cells where it is NaN, None or "" are in no pair.
    n_pairs
        Pairs to draw; fewer where there are not as many different ones.
    wrong
        Share of the pairs, 0 to 1, that are put into the wrong list, to see what errors do.
    random_state
        Seed. A generator is spawned, never advanced.

    Returns
    -------
    Must-link and cannot-link pairs, (n, 2) int positions each.

    Raises
    ------
    InputError
        Fewer than two cells have a label, or `wrong` is no share.

    Examples
    --------
    >>> import scdance as sd
    >>> must, cannot = sd.pp.pairs_from_labels(["T", "T", "B", ""], 10)
    >>> must.tolist(), cannot.tolist()
    ([[0, 1]], [[0, 2], [1, 2]])
    """
    import pandas as pd

    whole_number(n_pairs, "n_pairs", least=1)
    if not 0 <= wrong <= 1:
        msg = f"wrong is {wrong}, but must be a share of the pairs, from 0 to 1."
        raise InputError(msg)
    values = pd.Series(np.asarray(labels, dtype=object))
    codes = pd.factorize(values.where(values.notna() & (values != "")))[0]
    known = np.flatnonzero(codes >= 0)
    if len(known) < 2:
        msg = f"{len(known)} of {len(codes)} cells have a label, but a pair needs two."
        raise InputError(msg)
    rng = generator(random_state)
    pairs = _drawn(known, n_pairs, len(codes), rng)
    same = (codes[pairs[:, 0]] == codes[pairs[:, 1]]) ^ (rng.random(len(pairs)) < wrong)
    return pairs[same], pairs[~same]


def _drawn(cells: np.ndarray, n_pairs: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Different pairs of these cells at random, at most `n_pairs`."""
    n_there = len(cells) * (len(cells) - 1) // 2
    if n_there <= n_pairs:
        first, second = np.triu_indices(len(cells), 1)
        return _once(np.column_stack([cells[first], cells[second]]), n)
    pairs = np.empty((0, 2), dtype=np.int64)
    for _ in range(ROUNDS):
        new = rng.choice(cells, (2 * n_pairs, 2))
        pairs = _once(np.vstack([pairs, new[new[:, 0] != new[:, 1]]]), n)
        if len(pairs) >= n_pairs:
            break
    return pairs[np.sort(rng.choice(len(pairs), min(n_pairs, len(pairs)), replace=False))]


def pairs_from_markers(
    adata: AnnData,
    markers: Mapping[str, Sequence[str]],
    n_pairs: int = 10_000,
    *,
    share: float = 0.1,
    random_state: int | np.random.Generator | None = 0,
) -> Pairs:
    """Draw pairs of cells that clearly express the markers of one type and of no other.

    The score of a type is the mean of its markers, each as the rank of the cell among all cells. A cell in the upper
    `share` of exactly one score counts as that type; pairs are then drawn as by :func:`pairs_from_labels`.

    Parameters
    ----------
    adata
        Cells with expression in ``X``, (n_obs, n_vars): counts or log values, genes or proteins.
    markers
        Names of marker genes for each type, at least two types.
    n_pairs, random_state
        As in :func:`pairs_from_labels`.
    share
        Upper part of the cells, above 0 and below 1, that a score counts as high.

    Returns
    -------
    Must-link and cannot-link pairs, (n, 2) int positions each.

    Raises
    ------
    InputError
        Fewer than two types, a marker that is not in the data, or a share outside 0 to 1.

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.toy_clusters(n_obs=100, n_vars=60, k=3, n_de=10)
    >>> top = {f"type{i}": adata.var_names[adata.varm["lfc"][:, i] > 0] for i in range(3)}
    >>> must, cannot = sd.pp.pairs_from_markers(adata, top, 50)
    >>> must.shape[1], cannot.shape[1]
    (2, 2)
    """
    from scipy.stats import rankdata

    from ._rows import canonical

    if len(markers) < 2:
        msg = f"markers has {len(markers)} type, but cells can only be told apart by at least 2."
        raise InputError(msg)
    if not 0 < share < 1:
        msg = f"share is {share}, but must lie above 0 and below 1."
        raise InputError(msg)
    absent = [name for names in markers.values() for name in names if name not in adata.var_names]
    if absent:
        msg = f"{len(absent)} markers are not in `adata.var_names`: {listed(absent, 5)}. Leave them out or rename them."
        raise InputError(msg)
    x = canonical(adata.X)
    scores = np.column_stack([
        rankdata(x[:, adata.var_names.get_indexer(list(names))].toarray(), axis=0).mean(axis=1)
        for names in markers.values()
    ])  # fmt: skip
    high = scores >= np.quantile(scores, 1 - share, axis=0)
    labels = np.where(high.sum(axis=1) == 1, np.array(list(markers), dtype=object)[high.argmax(axis=1)], "")
    return pairs_from_labels(labels, n_pairs, random_state=random_state)


def pairs_from_embedding(
    z: np.ndarray,
    n_pairs: int = 10_000,
    *,
    near: float = 0.005,
    far: float = 0.95,
    random_state: int | np.random.Generator | None = 0,
) -> Pairs:
    """Draw pairs that another measurement puts very near to each other, or far apart.

    The space should not come from the data that are clustered, but from proteins, say; else the pairs say nothing new.

    Parameters
    ----------
    z
        Places of the cells, (n_obs, n_dims).
    n_pairs
        Pairs to draw, half of either kind.
    near, far
        Quantiles of the distances of random pairs: a must-link pair is nearer than the first, a cannot-link pair
        farther than the second.
    random_state
        Seed. A generator is spawned, never advanced.

    Returns
    -------
    Must-link and cannot-link pairs, (n, 2) int positions each.

    Raises
    ------
    InputError
        The quantiles are not in order, or `z` has values that are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> import scdance as sd
    >>> z = np.repeat([[0.0], [9.0]], 20, axis=0) + np.random.default_rng(0).normal(size=(40, 1))
    >>> must, cannot = sd.pp.pairs_from_embedding(z, 20)
    >>> bool(((must < 20).sum(axis=1) != 1).all() and ((cannot < 20).sum(axis=1) == 1).all())
    True
    """
    whole_number(n_pairs, "n_pairs", least=1)
    if not 0 < near < far < 1:
        msg = f"near is {near} and far {far}, but 0 < near < far < 1 is expected."
        raise InputError(msg)
    z = np.asarray(z, dtype=np.float64)
    if not np.isfinite(z).all():
        msg = f"z has {int((~np.isfinite(z)).sum())} values that are NaN or infinite."
        raise InputError(msg)
    rng = generator(random_state)
    wanted = int(np.ceil(n_pairs / 2 / min(near, 1 - far)))
    pairs = _drawn(np.arange(len(z)), wanted, len(z), rng)
    distance = np.linalg.norm(z[pairs[:, 0]] - z[pairs[:, 1]], axis=1)
    low, high = np.quantile(distance, [near, far])
    must, cannot = pairs[distance <= low], pairs[distance >= high]
    half = (n_pairs + 1) // 2
    return must[np.sort(rng.permutation(len(must))[:half])], cannot[np.sort(rng.permutation(len(cannot))[:half])]
