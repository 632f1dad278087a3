"""Regression trees with many outputs, grown by scikit-learn and kept as plain arrays: boosted, or as a forest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.ensemble import RandomForestRegressor
from sklearn.tree import DecisionTreeRegressor

Trees = dict[str, np.ndarray]  # that can be saved without pickle


def as_arrays(trees: Sequence[DecisionTreeRegressor], n_outputs: int, rate: float) -> Trees:
    """All nodes one after the other and the first of each tree; values are times `rate`, leaves lead to themselves.

    `feature`, `threshold`, `left` and `right` are (n_nodes,), `value` (n_nodes, n_outputs), `first` (n_trees,).
    """
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("feature", "threshold", "left", "right", "value")}
    start, first = 0, []
    for tree in (each.tree_ for each in trees):
        itself = np.arange(tree.node_count)
        leaf = tree.children_left < 0
        parts["feature"].append(np.where(leaf, 0, tree.feature))
        parts["threshold"].append(tree.threshold)
        parts["left"].append(start + np.where(leaf, itself, tree.children_left))
        parts["right"].append(start + np.where(leaf, itself, tree.children_right))
        parts["value"].append(rate * tree.value[:, :, 0])
        first.append(start)
        start += tree.node_count
    if not first:
        return {"first": np.zeros(0, dtype=np.int32), "depth": np.zeros(1, dtype=np.int32)} | {
            name: np.zeros((0, n_outputs) if name == "value" else 0, dtype=np.float32) for name in parts
        }
    types = {"threshold": np.float64, "value": np.float32}
    out = {name: np.concatenate(each).astype(types.get(name, np.int32)) for name, each in parts.items()}
    depth = max(each.get_depth() for each in trees)
    return out | {"first": np.array(first, dtype=np.int32), "depth": np.array([depth], dtype=np.int32)}


def told_by(trees: Trees, x: np.ndarray) -> np.ndarray:
    """Sum over the trees of the value of the leaf that each row of `x` falls in, (n, n_outputs) float32."""
    rows = np.arange(len(x))[:, None]
    node = np.repeat(trees["first"][None], len(x), axis=0)
    for _ in range(int(trees["depth"][0])):
        goes_left = x[rows, trees["feature"][node]] <= trees["threshold"][node]
        node = np.where(goes_left, trees["left"][node], trees["right"][node])
    out = np.zeros((len(x), trees["value"].shape[1]), dtype=np.float32)
    for column in node.T:
        out += trees["value"][column]
    return out


def boosted(
    x: np.ndarray,
    y: np.ndarray,
    valid: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
    *,
    n_trees: int,
    depth: int,
    rate: float,
    share: float,
) -> Trees:
    """Trees that each learn what those before leave over; as many are kept as tell the cells of `valid` best.

    Each is grown on a `share` of the cells and, at each node, of the features.
    """
    trees: list[DecisionTreeRegressor] = []
    left, off = y.copy(), valid[1].copy()
    errors = [float((off**2).sum())]
    for _ in range(n_trees):
        some = rng.permutation(len(x))[: max(1, round(share * len(x)))]
        seed = int(rng.integers(2**31))
        tree = DecisionTreeRegressor(max_depth=depth, min_samples_leaf=10, max_features=share, random_state=seed)
        tree.fit(x[some], left[some])
        left -= rate * tree.predict(x).reshape(left.shape)
        if len(off):
            off -= rate * tree.predict(valid[0]).reshape(off.shape)
            errors.append(float((off**2).sum()))
        trees.append(tree)
    kept = int(np.argmin(errors)) if len(off) else n_trees
    return as_arrays(trees[:kept], y.shape[1], rate)


def forest(x: np.ndarray, y: np.ndarray, rng: np.random.Generator, *, n_trees: int, **knobs: float) -> Trees:
    """The mean of trees that are each grown on a draw of the cells."""
    seed = int(rng.integers(2**31))
    model = RandomForestRegressor(n_trees, random_state=seed, **knobs).fit(x, y[:, 0] if y.shape[1] == 1 else y)
    return as_arrays(model.estimators_, y.shape[1], 1 / n_trees)
