"""What a predicted modality is compared with: the cells and features that both have, in one unit."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from scdance._checks import InputError, WrongTypeError, listed, warn
from scdance.pp import Recipe, canonical

from .counts import layer_of
from .method import Method
from .objects import kind_of, kind_of_modality, modality
from .read import _matrix, teachers
from .scan import scan
from .task import Task
from .write import record_of, run_of, slots_of


def in_units(adata: Any, task: Task, name: str, layer: str | None = None) -> sp.csr_matrix:
    """A modality in the unit of the answers, (n_obs, n_vars) CSR; values that are normalised stay as they are."""
    matrix, where = _matrix(adata, layer, f"mdata[{name!r}].", "layer")
    counts = canonical(matrix)
    asks = type("the score", (Method,), {"needs": ("lognorm",)})()
    kind = kind_of_modality(name)
    found, depth = scan(counts, adata, where, asks, proteins=kind == "prot")
    rows = np.arange(adata.n_obs)
    names = np.asarray(adata.var_names, dtype=str)
    fitted = task.units.get(kind, Recipe()).fit(counts, depth, names, log_input=found == "log-normalised")
    values, _ = fitted.apply(counts, rows, depth, np.arange(adata.n_vars))
    return canonical(values[rows])


def compared(mdata: Any, task: Task, key: str, truth: Any) -> dict[str, Any]:
    """Truth and answers of the cells and features that both have, and what is known of each feature.

    Cells that taught the run are left out, since their answers are no predictions.
    `truth` is an AnnData of the target, a MuData that has it, or the name of a modality of `mdata`.
    """
    holder, whole = run_of(mdata, task, key)
    told = record_of(holder, task, whole)
    target = str(told["target"])
    if isinstance(truth, str):
        truth = mdata.mod[modality(mdata, truth, "truth")]
    elif kind_of(truth) == "MuData":
        truth = truth.mod[modality(truth, target, "truth")]
    if kind_of(truth) != "AnnData":
        msg = (
            f"What was measured of {target!r} is the truth: pass `truth=` as an AnnData of cells that were asked and "
            f"did not teach, a MuData with it, or the name of a modality; found {type(truth).__name__}."
        )
        raise WrongTypeError(msg)
    answered, features = np.asarray(holder.obs_names, dtype=str), np.asarray(told["features"]["names"], dtype=str)
    _, rows, true_rows = np.intersect1d(answered, truth.obs_names.to_numpy(dtype=str), return_indices=True)
    _, columns, true_columns = np.intersect1d(features, truth.var_names.to_numpy(dtype=str), return_indices=True)
    if not (len(rows) and len(columns)):
        msg = (
            f"The truth shares {len(rows)} cells and {len(columns)} features with the answers: its cells are "
            f"{listed(truth.obs_names, 3)}, those answered {listed(answered, 3)}; its features "
            f"{listed(truth.var_names, 3)}, those answered {listed(features, 3)}. Names must agree."
        )
        raise InputError(msg)
    asked = ~np.isin(answered[rows], _taught(mdata, holder, told))
    if not asked.any():
        msg = (
            f"All {len(rows)} cells of the truth taught this run, so that their answers are fits and no predictions. "
            "Predict again with some left out, `split_key=` naming a column of `obs` with True for those that teach, "
            "or pass what was measured of other cells as `truth=`."
        )
        raise InputError(msg)
    if not asked.all():
        warn(f"{int((~asked).sum())} of {len(rows)} cells of the truth taught this run and are left out.")
        rows, true_rows = rows[asked], true_rows[asked]
    values = _in_units_of(told, truth, task, target)
    per_feature = {
        name: np.asarray(told["features"][name])[columns]
        for name in ("names", "mean", "half_width")
        if name in told["features"]
    }
    return {
        **per_feature,
        "truth": values[true_rows][:, true_columns],
        "prediction": np.asarray(holder.obsm[slots_of(task, whole)["prediction"][1]])[np.ix_(rows, columns)],
    }


def _in_units_of(told: dict[str, Any], truth: Any, task: Task, target: str) -> sp.csr_matrix:
    """The truth in the unit of a run's answers, read from the layer that taught the run where the truth has it."""
    where = str(told.get("input", {}).get("target", {}).get("layer", "X"))  # a fitted method may see no target
    layer = layer_of(where)
    layer = layer if layer in truth.layers else None
    if str(told["features"]["unit"]) != repr(Recipe()):
        return in_units(truth, task, target, layer)
    values = canonical(_matrix(truth, layer, "truth.", "layer")[0])
    if values.nnz and (values.data == np.rint(values.data)).all():
        msg = (
            f"The run learnt from `{where}`, which is normalised, and answers in its unit, but the truth holds counts: "
            f"put the same values of its cells into the truth, as {'X' if layer is None else f'layer {layer!r}'}."
        )
        raise InputError(msg)
    return values


def _taught(mdata: Any, holder: Any, told: dict[str, Any]) -> np.ndarray:
    """Names of the cells of the object that taught a run: none where a fitted method answered."""
    given = told.get("input", {}).get("source", {})  # a control has none
    if "n_teaching" not in given or kind_of(mdata) != "MuData" or told["target"] not in mdata.mod:
        return np.empty(0, dtype=str)
    source = next(name for name, each in mdata.mod.items() if each is holder)
    return teachers(mdata, (source, str(told["target"])), given.get("split_key"))
