"""How well a space merges batches and keeps types apart: by clusters, by neighbours, and by what a classifier tells.

Cells whose truth or batch is missing (NaN, None or "") are left out before anything is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from scdance import graph
from scdance._checks import InputError

from . import _clustering
from ._clustering import _codes, _finite_matrix, ari
from ._conservation import _batches
from ._embedding import _labelled
from ._metric import metric
from ._proportions import _mean_of_defined

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

N_SAMPLES, SAMPLED = 20, 0.8  # samples of the cells that are clustered, and the share of the cells in each
PERCENTS = (5, 10, 15, 20, 25)  # of the cells of a type: sizes of neighbourhoods
ALPHA = 0.05  # below this probability a neighbourhood is rejected
MOST_OF_A_TYPE, MOST_TESTED = 2_000, 100  # cells of a type that are drawn, and those whose neighbourhoods are tested
FEWEST = 5  # cells of a neighbourhood, and of a batch in a type: with fewer, chi-square is far from the truth
PERPLEXITY = 30  # effective number of neighbours; three times as many are looked at
LOG_PRECISION = (-10.0, 60.0)  # where that of the weights is sought, in units of the mean distance
N_HALVINGS = 40
N_FOLDS = 5


@metric(higher_is_better=True, range=(-0.5, 1.0), costly=True)
def subsampled_ari(truth: ArrayLike, embedding: ArrayLike, *, random_state: int = 0) -> float:
    """Adjusted Rand index of k-means against the types, the median over 20 random samples of 80 % of the cells.

    The protocol of [Tran2020]_. Each sample gets as many clusters as it has types, from one start, so that the
    median is over the luck of the starts, too.

    Parameters
    ----------
    truth
        Known types, (n_obs,). Cells where it is NaN, None or "" are left out, also of the clustering.
    embedding
        Coordinates, (n_obs, n_dims), finite.
    random_state
        Seed of the samples and of the starts of k-means.

    Returns
    -------
    Score, -0.5 to 1; 0 is chance.

    Raises
    ------
    InputError
        If the lengths differ, the embedding is not a finite matrix, or no truth is known.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.subsampled_ari(["T", "T", "B", "B"], [[0.0], [0.1], [5.0], [5.1]])
    1.0
    """
    true, x = _labelled(truth, embedding)
    return float(np.median([ari(true[rows], found) for rows, found in _clusterings(true, x, random_state)]))


@metric(higher_is_better=True, range=(0.0, 1.5), costly=True)
def batch_ari(
    truth: ArrayLike, embedding: ArrayLike, batch: ArrayLike | None = None, *, random_state: int = 0
) -> float:
    """1 less the adjusted Rand index of k-means against the batches, for types that at least two batches share.

    The clusters are those of :func:`subsampled_ari`, and so is the median over them [Tran2020]_. A space that
    knows nothing scores near 1, so it never ranks by itself.

    Parameters
    ----------
    truth
        Known types, (n_obs,). Cells where it is NaN, None or "" are left out, also of the clustering.
    embedding
        Coordinates, (n_obs, n_dims), finite.
    batch
        Batch of each cell, (n_obs,). Cells where it is missing are left out, also of the clustering; None: there is
        one.
    random_state
        Seed of the samples and of the starts of k-means.

    Returns
    -------
    Score, 0 to 1.5; 1 where clusters have nothing to do with batches, and NaN where no type is in two batches.

    Raises
    ------
    InputError
        If the lengths differ, the embedding is not a finite matrix, or no truth is known.

    Examples
    --------
    >>> import numpy as np
    >>> import scdance as sd
    >>> types, batch = np.repeat(["T", "B"], 20), np.tile(["a", "b"], 20)
    >>> x = np.repeat([0.0, 9.0], 20)[:, None]
    >>> round(sd.metrics.batch_ari(types, x, batch), 1)
    1.0
    >>> round(sd.metrics.batch_ari(batch, x, types), 1)  # the space parts the batches, not the types
    0.0
    """
    true, x, batches = _with_batches(truth, embedding, batch)
    n_batches = np.bincount(np.unique(np.column_stack([true, batches]), axis=0)[:, 0])
    shared = n_batches[true] > 1
    if not shared.any():
        return float("nan")
    scores = [
        1 - ari(batches[rows[shared[rows]]], found[shared[rows]])
        for rows, found in _clusterings(true, x, random_state)
        if shared[rows].any()
    ]
    return float(np.median(scores))


def _clusterings(
    true: NDArray[np.intp], x: NDArray[np.floating], random_state: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.int32]]]:
    """Rows of each sample, and their clusters."""
    rng = np.random.default_rng(random_state)
    for seed in rng.integers(2**31, size=N_SAMPLES):
        rows = rng.choice(len(x), round(SAMPLED * len(x)), replace=False)
        yield rows, graph.kmeans(x[rows], len(np.unique(true[rows])), n_init=1, random_state=int(seed))[0]


@metric(higher_is_better=True, range=(0.0, 1.0), costly=True)
def kbet(truth: ArrayLike, embedding: ArrayLike, batch: ArrayLike | None = None, *, random_state: int = 0) -> float:
    """Share of neighbourhoods whose batches a chi-square test cannot tell from those of the type: kBET acceptance.

    The nearest 5, 10, 15, 20 and 25 % of the cells of a type, the cell itself counted, are tested at a level of 0.05
    with one degree of freedom less than there are batches; the mean over the sizes and then over the types is taken
    [Buettner2019]_.

    Parameters
    ----------
    truth
        Known types, (n_obs,). Cells where it is NaN, None or "" are left out.
    embedding
        Coordinates, (n_obs, n_dims), finite.
    batch
        Batch of each cell, (n_obs,). Cells where it is missing are left out; None: there is one.
    random_state
        Seed of the 2,000 cells that are drawn of a type that has more, and of the 100 whose neighbourhoods are tested.

    Returns
    -------
    Score, 0 to 1; near 0.95 where batches are random, up to 0.98, since a neighbourhood is a part of the type that it
    is compared with, and 1 where they are spread evenly. NaN where all types are skipped.

    Raises
    ------
    InputError
        If the lengths differ, the embedding is not a finite matrix, or no truth is known.

    Notes
    -----
    A chi-square test needs some cells. Batches of fewer than five cells of a type are left out of it, for one of them
    in a neighbourhood would be enough to reject it, and so are neighbourhoods of fewer than five cells, which few tests
    could reject. A type of fewer than 20 cells, or with fewer than two batches, is skipped.

    Examples
    --------
    >>> import numpy as np
    >>> import scdance as sd
    >>> line = np.arange(100.0)[:, None]
    >>> sd.metrics.kbet(["T"] * 100, line, np.tile(["a", "b"], 50))
    1.0
    >>> sd.metrics.kbet(["T"] * 100, np.repeat([0.0, 9.0], 50)[:, None] + line / 100, np.repeat(["a", "b"], 50))
    0.0
    """
    true, x, batches = _with_batches(truth, embedding, batch)
    rng = np.random.default_rng(random_state)
    rows = (rng.permutation(np.flatnonzero(true == code)) for code in np.unique(true))
    return _mean_of_defined([_acceptance(x, batches, each[:MOST_OF_A_TYPE]) for each in rows])


def _acceptance(x: NDArray[np.floating], batches: NDArray[np.intp], rows: NDArray[np.intp]) -> float:
    """Share of neighbourhoods that are accepted, of the first of these cells; NaN where none can be tested.

    The cells come in random order, so that those at one place are not sorted by batch.
    """
    from scipy.spatial.distance import cdist
    from scipy.stats import chisquare

    own = batches[rows]
    rows = rows[np.bincount(own)[own] >= FEWEST]
    names, own = np.unique(batches[rows], return_inverse=True)
    sizes = [size for size in (len(rows) * percent // 100 for percent in PERCENTS) if size >= FEWEST]
    if len(names) < 2 or not sizes:
        return float("nan")
    nearest = cdist(x[rows[:MOST_TESTED]], x[rows]).argsort(axis=1, kind="stable")[:, : sizes[-1]]
    of_batch = own[nearest][..., None] == np.arange(len(names))  # (n_tested, n_neighbours, n_batches)
    share = np.bincount(own) / len(own)
    tests = [chisquare(of_batch[:, :size].sum(axis=1), size * share[None], axis=1) for size in sizes]
    return float(np.mean([test.pvalue >= ALPHA for test in tests]))


@metric(higher_is_better=True, range=(0.0, 1.0), costly=True)
def ilisi(embedding: ArrayLike, batch: ArrayLike | None = None, *, random_state: int = 0) -> float:
    """Effective number of batches around a cell, the median over the cells, brought to 0 to 1: iLISI.

    The local inverse Simpson index is one over the probability that two neighbours come from the same batch
    [Korsunsky2019]_: 1 where there is one batch, and the number of batches where they are even. The 90 nearest
    neighbours have weights that fall exponentially with distance, with an effective number of 30; where there are
    fewer cells, a third of them.

    Parameters
    ----------
    embedding
        Coordinates, (n_obs, n_dims), finite.
    batch
        Batch of each cell, (n_obs,). Cells where it is missing are left out, also of the neighbours; None: there is
        one.
    random_state
        Seed of which neighbours count among more at the same place, and of the search above 50,000 cells.

    Returns
    -------
    Score, 0 to 1: (index − 1) / (number of batches − 1), below 1 where batches differ in size, however well they are
    mixed. NaN for one batch.

    Raises
    ------
    InputError
        If the lengths differ, or the embedding is not a finite matrix.

    Examples
    --------
    >>> import numpy as np
    >>> import scdance as sd
    >>> line = np.arange(200.0)[:, None]
    >>> round(sd.metrics.ilisi(line, np.tile(["a", "b"], 100)), 1)
    1.0
    >>> round(sd.metrics.ilisi(line, np.repeat(["a", "b"], 100)), 1)
    0.0
    """
    x, batches = _in_batches(embedding, batch)
    n_batches = len(np.unique(batches))
    if n_batches < 2:
        return float("nan")
    return float(np.clip((_lisi(x, batches, random_state) - 1) / (n_batches - 1), 0, 1))


@metric(higher_is_better=True, range=(0.0, 1.0), costly=True)
def clisi(truth: ArrayLike, embedding: ArrayLike, *, random_state: int = 0) -> float:
    """How few types are around a cell: effective number of types, the median over the cells, brought to 0 to 1: cLISI.

    The index and its neighbours are those of :func:`ilisi`. It does not look at the type of the cell itself, and with
    many types it is near 1 for most spaces.

    Parameters
    ----------
    truth
        Known types, (n_obs,). Cells where it is NaN, None or "" are left out, also of the neighbours.
    embedding
        Coordinates, (n_obs, n_dims), finite.
    random_state
        Seed of which neighbours count among more at the same place, and of the search above 50,000 cells.

    Returns
    -------
    Score, 0 to 1: (number of types − index) / (number of types − 1), 1 where all neighbours are of one type. NaN for a
    single type.

    Raises
    ------
    InputError
        If the lengths differ, the embedding is not a finite matrix, or no truth is known.

    Examples
    --------
    >>> import numpy as np
    >>> import scdance as sd
    >>> line = np.arange(200.0)[:, None]
    >>> round(sd.metrics.clisi(np.repeat(["T", "B"], 100), line), 1)
    1.0
    >>> round(sd.metrics.clisi(np.tile(["T", "B"], 100), line), 1)
    0.0
    """
    true, x = _labelled(truth, embedding)
    n_types = len(np.unique(true))
    if n_types < 2:
        return float("nan")
    return float(np.clip((n_types - _lisi(x, true, random_state)) / (n_types - 1), 0, 1))


def _lisi(x: NDArray[np.floating], codes: NDArray[np.intp], random_state: int) -> float:
    """Local inverse Simpson index of at least two cells, the median: 1 to the number of codes."""
    # of neighbours at one place the first are taken, and cells are often sorted by batch or type
    rows = np.random.default_rng(random_state).permutation(len(x))
    near = graph.knn(x[rows], 3 * PERPLEXITY, random_state=random_state)
    near.data = _weights(near.data.reshape(len(x), -1)).ravel()
    names, own = np.unique(codes[rows], return_inverse=True)
    shares = near @ np.eye(len(names))[own]
    return float(np.median(1 / (shares**2).sum(axis=1)))


def _weights(distances: NDArray[np.floating]) -> NDArray[np.float64]:
    """Exponential weights of the neighbours, (n_obs, n_neighbours); rows sum to 1, their perplexity is a third of them.

    A bisection for all cells at once finds the precision β at which Σ −p log p is the logarithm of the perplexity, with
    p ~ exp(−β d). Where more neighbours than that lie at the place of the nearest, these share the weight.
    """
    far = distances.astype(np.float64)
    far -= far.min(axis=1, keepdims=True)
    mean = far.mean(axis=1, keepdims=True)
    far /= np.where(mean > 0, mean, 1)
    goal = np.log(far.shape[1] / 3)
    low, high = (np.full(len(far), bound) for bound in LOG_PRECISION)
    for _ in range(N_HALVINGS):
        middle = (low + high) / 2
        precision = np.exp(middle)
        p = np.exp(-precision[:, None] * far)
        total = p.sum(axis=1)
        p /= total[:, None]
        entropy = np.log(total) + precision * (p * far).sum(axis=1)
        too_wide = entropy > goal
        low, high = np.where(too_wide, middle, low), np.where(too_wide, high, middle)
    return p


@metric(higher_is_better=False, range=(0.0, 2.0), costly=True)
def a_distance(embedding: ArrayLike, batch: ArrayLike | None = None, *, random_state: int = 0) -> float:
    """How well a linear classifier tells the batches apart: 2 (1 − 2 error), 0 where it guesses; the A-distance.

    The error is that of a logistic regression on cells that are held out in turn, five-fold, both sides counting the
    same, so that the larger batch is no safe guess. With more than two batches each is told from all others, and the
    mean is taken.

    Parameters
    ----------
    embedding
        Coordinates, (n_obs, n_dims), finite.
    batch
        Batch of each cell, (n_obs,). Cells where it is missing are left out; None: there is one.
    random_state
        Seed of the 10,000 cells that are drawn where there are more, and of the five parts.

    Returns
    -------
    Distance, 0 to 2; chance is above 0, by about 0.1 with 100 cells. A batch with fewer than five cells, or that leaves
    fewer to the others, is skipped; NaN where all are, as for one batch.

    Raises
    ------
    InputError
        If the lengths differ, or the embedding is not a finite matrix.

    Examples
    --------
    >>> import numpy as np
    >>> import scdance as sd
    >>> x = np.random.default_rng(0).normal(size=(400, 3))
    >>> batch = np.repeat(["a", "b"], 200)
    >>> round(sd.metrics.a_distance(x, batch), 1)
    0.1
    >>> sd.metrics.a_distance(x + 9 * (batch == "b")[:, None], batch)
    2.0
    """
    x, batches = _in_batches(embedding, batch)
    rows = np.random.default_rng(random_state).permutation(len(x))[: _clustering.MOST_CELLS]
    x, batches = x[rows], batches[rows]
    names = np.unique(batches)
    told = names if len(names) > 2 else names[:1]  # of two, either is all others to the other
    return _mean_of_defined([_apart(x, batches == name, random_state) for name in told])


@metric(higher_is_better=False, range=(0.0, 2.0), costly=True)
def a_distance_to_ref(embedding: ArrayLike, ref_embedding: ArrayLike | None = None, *, random_state: int = 0) -> float:
    """How well a linear classifier tells cells from their reference: 2 (1 − 2 error), 0 where it guesses.

    The :func:`a_distance` of both sides in their common space. It is also above 0 where they hold types in other
    shares, and near 0 in a space that knows nothing, or in which each side is centred by itself; so it never ranks by
    itself.

    Parameters
    ----------
    embedding
        Coordinates of the cells, (n_obs, n_dims), finite.
    ref_embedding
        Coordinates of the reference in the same space, (n_ref, n_dims), finite; None: it has none.
    random_state
        Seed of the 10,000 cells that are drawn where both sides have more, and of the five parts.

    Returns
    -------
    Distance, 0 to 2; NaN without a reference, or where a side has fewer than five cells.

    Raises
    ------
    InputError
        If the dimensions differ, or an embedding is not a finite matrix.

    Examples
    --------
    >>> import numpy as np
    >>> import scdance as sd
    >>> x = np.random.default_rng(0).normal(size=(400, 3))
    >>> sd.metrics.a_distance_to_ref(x[:200], x[200:] + 9)
    2.0
    """
    x = _finite_matrix(embedding)
    if ref_embedding is None:
        return float("nan")
    ref = _finite_matrix(ref_embedding)
    if x.shape[1] != ref.shape[1]:
        msg = (
            f"The cells have {x.shape[1]} dimensions and their reference {ref.shape[1]}; pass places of both in one "
            "space, of one run."
        )
        raise InputError(msg)
    both = np.concatenate([ref, x])
    return a_distance(both, np.arange(len(both)) < len(ref), random_state=random_state)


def _apart(x: NDArray[np.floating], is_one: NDArray[np.bool_], random_state: int) -> float:
    """Distance of these cells to the others; NaN where either are fewer than the parts."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if min(is_one.sum(), (~is_one).sum()) < N_FOLDS:
        return float("nan")
    classifier = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    parts = StratifiedKFold(N_FOLDS, shuffle=True, random_state=random_state)
    error = 1 - balanced_accuracy_score(is_one, cross_val_predict(classifier, x, is_one, cv=parts))
    return float(np.clip(2 * (1 - 2 * error), 0, 2))


def _in_batches(embedding: ArrayLike, batch: ArrayLike | None) -> tuple[NDArray[np.floating], NDArray[np.intp]]:
    """Coordinates and batch of the cells whose batch is known."""
    x = _finite_matrix(embedding)
    batches = _batches(batch, len(x))
    return x[batches >= 0], batches[batches >= 0]


def _with_batches(
    truth: ArrayLike, embedding: ArrayLike, batch: ArrayLike | None
) -> tuple[NDArray[np.intp], NDArray[np.floating], NDArray[np.intp]]:
    """Codes of the truth, coordinates and batch of the cells whose truth and batch are known."""
    true, x = _labelled(truth, embedding)
    known = _codes(truth) >= 0
    batches = _batches(batch, len(known))[known]
    return true[batches >= 0], x[batches >= 0], batches[batches >= 0]
