"""What predicted genes are compared with: the same genes of the same cells where they were measured."""

from __future__ import annotations

from typing import Any

import numpy as np

from scdance._checks import InputError, listed
from scdance.pp import Recipe, sparsity

from .counts import _loaded, layer_of
from .expression import in_unit
from .objects import check_kind
from .read import _matrix
from .task import Task
from .write import record_of, slots_of


def measured(adata: Any, task: Task, key: str, truth: Any) -> dict[str, Any]:
    """What was measured and what was predicted, of the cells (rows) and genes (columns) that both have.

    `truth` and `prediction`, (n_cells, n_genes) float32, in the unit of the prediction; `genes`, their names;
    `sparsity`, the share of the cells in which nothing was counted, (n_genes,); `rows`, positions of the cells.

    Measured genes are those of the AnnData `truth`; None: of the object itself, of which the run did not read them.
    A cell without counts in the genes that the run read takes no part, as nothing tells how deep it was measured.
    """
    features = record_of(adata, task, key).get("features", {})
    if not {"names", "common", "share"} <= set(features):
        msg = (
            f"The run {key!r} does not say which genes it predicted, so nothing can be compared with it. Predict them "
            f"by `scdance.tl.{task.name}`."
        )
        raise InputError(msg)
    if truth is not None:
        check_kind(truth, ("AnnData",))
    whole = adata if truth is None else truth
    names, there = (np.asarray(each, dtype=str) for each in (features["names"], whole.var_names))
    genes, columns, true_columns = np.intersect1d(names, there, return_indices=True)
    rows = true_rows = np.arange(adata.n_obs)
    if truth is not None:
        _, rows, true_rows = np.intersect1d(
            np.asarray(adata.obs_names, dtype=str), np.asarray(whole.obs_names, dtype=str), return_indices=True
        )
    if not (len(genes) and len(rows)):
        what = "The object" if truth is None else "The truth"
        msg = (
            f"{what} has {len(genes)} of the {len(names)} predicted genes ({listed(names, 3)}) and {len(rows)} of the "
            f"cells. Pass what was measured of these genes and cells, under the same names, as `truth=`."
        )
        raise InputError(msg)
    told = record_of(adata, task, key)["input"]
    layer = layer_of(str(told["layer"]))
    some = _values(adata[:, np.isin(adata.var_names, features["common"])], layer)
    depth = np.asarray(some.sum(axis=1, dtype=np.float64)).ravel()[rows]
    rows, true_rows, depth = rows[depth > 0], true_rows[depth > 0], depth[depth > 0]
    values = _values(whole[:, there[true_columns]], layer)[true_rows]
    nothing = sparsity(values)
    if str(features["unit"]) != repr(Recipe()) and told.get("kind") != "log-normalised":
        values = in_unit(values, depth / float(features["share"]), "lognorm")
    return {
        "truth": values.toarray(),
        "prediction": np.asarray(adata.obsm[slots_of(task, key)["prediction"][1]])[np.ix_(rows, columns)],
        "genes": genes,
        "sparsity": nothing,
        "rows": rows,
    }


def _values(adata: Any, layer: str | None) -> Any:
    """The layer that a run read where the object has it, in memory."""
    return _loaded(_matrix(adata, layer if layer in adata.layers else None, "", "layer")[0])
