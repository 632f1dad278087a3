"""Neighbours in space, slice by slice."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from scdance._checks import InputError


def spatial(
    coords: np.ndarray, *, n_neighbors: int | None = None, radius: float | None = None, slices: np.ndarray | None = None
) -> csr_matrix:
    """Distances to neighbours in space: the nearest ones, those within a radius, or those of a triangulation.

    Parameters
    ----------
    coords
        Coordinates, (n, 2 or 3).
    n_neighbors
        So many nearest neighbours of each point, without the point itself (fewer on a slice that has not so many).
    radius
        All neighbours up to this distance, in the unit of the coordinates. Without either, the neighbours are those of
        the Delaunay triangulation.
    slices
        Slice of each point as codes, (n,); no edge joins two slices. None: all lie on one.

    Returns
    -------
    Distances, (n, n), CSR float32, columns ascending, nothing on the diagonal; points on the same place are
    neighbours at a stored distance of 0. Symmetric, but for nearest neighbours.

    Raises
    ------
    InputError
        If both `n_neighbors` and `radius` are given, or one is not above 0.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import graph
    >>> coords = np.array([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]])
    >>> graph.spatial(coords, radius=1.5).toarray().tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    if n_neighbors is not None and radius is not None:
        msg = f"n_neighbors={n_neighbors} and radius={radius} are both given; leave one of them out."
        raise InputError(msg)
    for name, value in (("n_neighbors", n_neighbors), ("radius", radius)):
        if value is not None and not value > 0:
            msg = f"{name}={value!r}, but it must be above 0."
            raise InputError(msg)
    coords = np.asarray(coords, dtype=np.float64)
    n = len(coords)
    rows, columns, distances = [], [], []
    for members in _members(slices, n):
        if len(members) > 1:
            i, j, d = _edges(coords[members], n_neighbors, radius)
            rows.append(members[i])
            columns.append(members[j])
            distances.append(d)
    if not rows:
        return csr_matrix((n, n), dtype=np.float32)  # type: ignore[arg-type]
    i, j, d = np.concatenate(rows), np.concatenate(columns), np.concatenate(distances).astype(np.float32)
    order = np.lexsort((j, i))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(i, minlength=n))])
    kind = np.int32 if len(d) < 2**31 else np.int64
    return csr_matrix((d[order], j[order].astype(kind), indptr.astype(kind)), shape=(n, n))


def _members(slices: np.ndarray | None, n: int) -> list[np.ndarray]:
    """Positions of the points of each slice."""
    if slices is None:
        return [np.arange(n)]
    return [np.flatnonzero(slices == each) for each in np.unique(slices)]


def _edges(
    coords: np.ndarray, n_neighbors: int | None, radius: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and distances of the neighbours on one slice."""
    from squidpy.gr.neighbors import DelaunayBuilder, KNNBuilder, RadiusBuilder

    builder: Any
    if n_neighbors is not None:
        builder = KNNBuilder(min(n_neighbors, len(coords) - 1))
    else:
        builder = DelaunayBuilder() if radius is None else RadiusBuilder(float(radius))
    joined = builder.build(coords)[0].tocoo()  # not the distances, whose zeros squidpy drops
    others = (joined.row != joined.col) & (joined.data != 0)
    i, j = joined.row[others], joined.col[others]
    return i, j, np.linalg.norm(coords[i] - coords[j], axis=1)


def tiles(coords: np.ndarray, size: int, slices: np.ndarray | None = None) -> list[np.ndarray]:
    """Divide points into compact groups, slice by slice: the larger ones in halves, across their longer side.

    Parameters
    ----------
    coords
        Coordinates, (n, 2 or 3).
    size
        Most points of a group, at least 1; a group that was divided has at least half as many, rounded down.
    slices
        Slice of each point as codes, (n,); no group has points of two. None: all lie on one.

    Returns
    -------
    Positions of the points of each group, ascending; each point is in one.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import graph
    >>> coords = np.array([[0.0, 0.0], [9.0, 1.0], [1.0, 1.0], [8.0, 0.0]])
    >>> [each.tolist() for each in graph.tiles(coords, 2)]
    [[0, 2], [1, 3]]
    """
    done, waiting = [], _members(slices, len(coords))[::-1]
    while waiting:
        members = waiting.pop()
        if len(members) <= size:
            done.append(np.sort(members))
            continue
        here = coords[members]
        order = members[np.argsort(here[:, np.ptp(here, axis=0).argmax()], kind="stable")]
        waiting += [order[len(order) // 2 :], order[: len(order) // 2]]
    return done


def unit_coordinates(coords: np.ndarray, slices: np.ndarray | None = None) -> np.ndarray:
    """Bring the coordinates of each slice to 0 to 1 along its longer side.

    Parameters
    ----------
    coords
        Coordinates, (n, 2 or 3).
    slices
        Slice of each point as codes, (n,); None: all lie on one.

    Returns
    -------
    Coordinates of the same shape; shapes are kept.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import graph
    >>> graph.unit_coordinates(np.array([[2.0, 5.0], [6.0, 7.0]])).tolist()
    [[0.0, 0.0], [1.0, 0.5]]
    """
    out = np.zeros_like(coords)
    for here in _members(slices, len(coords)):
        span = np.ptp(coords[here], axis=0).max()
        out[here] = (coords[here] - coords[here].min(axis=0)) / (span if span > 0 else 1)
    return out


def pitch(coords: np.ndarray, slices: np.ndarray | None = None) -> float:
    """Median distance of a point to its nearest neighbour: of a lattice, its constant.

    Parameters
    ----------
    coords
        Coordinates, (n, 2 or 3).
    slices
        Slice of each point as codes, (n,); None: all lie on one.

    Returns
    -------
    The median in the unit of the coordinates, over the points that have a neighbour on another place.

    Raises
    ------
    InputError
        If all points of each slice lie on one place.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import graph
    >>> graph.pitch(np.array([[0.0, 0.0], [0.0, 2.0], [0.0, 4.0], [5.0, 4.0]]))
    2.0
    """
    nearest = []
    for members in _members(slices, len(coords)):
        places = np.unique(np.asarray(coords, dtype=np.float64)[members], axis=0)
        if len(places) > 1:
            nearest.append(spatial(places, n_neighbors=1).data)
    if not nearest:
        msg = "All points of each slice lie on one place, so they have no distance to each other."
        raise InputError(msg)
    return float(np.median(np.concatenate(nearest)))


def majority(labels: np.ndarray, neighbors: csr_matrix) -> np.ndarray:
    """Let the neighbours of each point outvote it, once and all at the same time.

    A point changes its label if fewer than half of its neighbours' number agree with it, itself counted, and more
    than half of that number share another label.

    Parameters
    ----------
    labels
        Label of each point, (n,), codes ≥ 0.
    neighbors
        Neighbours of each point, (n, n), CSR, nothing on the diagonal; only the pattern counts.

    Returns
    -------
    New labels, (n,), int32; among equally frequent ones the smallest code wins.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import graph
    >>> coords = np.column_stack([np.arange(5.0), np.zeros(5)])
    >>> graph.majority(np.array([0, 0, 1, 0, 0]), graph.spatial(coords, n_neighbors=4)).tolist()
    [0, 0, 0, 0, 0]
    """
    labels = np.asarray(labels, dtype=np.int64)
    n, k = len(labels), int(labels.max(initial=0)) + 1
    degree = np.diff(neighbors.indptr)
    rows = np.repeat(np.arange(n), degree)
    votes = np.zeros((n, k), dtype=np.int32)
    np.add.at(votes, (rows, labels[neighbors.indices]), 1)
    votes[np.arange(n), labels] += 1
    own, most = votes[np.arange(n), labels], votes.max(axis=1)
    outvoted = (2 * own < degree) & (2 * most > degree)
    return np.where(outvoted, votes.argmax(axis=1), labels).astype(np.int32)
