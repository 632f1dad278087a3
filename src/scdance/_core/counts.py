"""What tools without a method read and write: raw counts, the clusters of the cells, layers made from counts."""

from __future__ import annotations

import ast
from collections.abc import Collection
from typing import Any

import numpy as np
import scipy.sparse as sp

from scdance._checks import InputError, column
from scdance.pp import OnDisk, Rows, canonical, is_on_disk

from .expression import in_unit, out_of_unit
from .method import Method
from .read import _matrix
from .scan import _instead, scan
from .task import Task
from .write import ROOT, _restored, plain, record_of, safe_name, slots_of

SPLIT = "split_counts"  # under this name `uns` keeps the records of splits, by the layer to test in
HOLD_OUT = "hold_out"  # and under this one those of what was hidden, by the layer with what is left
COMPARED = (
    "truth",
    "observed",
    "rates",
    "logs",
    "logs_of_nonzero",
    "logs_at_250",
    "before",
    "after",
)  # by scores of expression


def raw_counts(
    adata: Any, layer: str | None, tool: str, *, whole: bool = False
) -> tuple[Rows, np.ndarray, dict[str, Any]]:
    """Find and check the counts that a tool needs.

    Parameters
    ----------
    adata
        The object, which stays as it is.
    layer
        Layer with the counts; None: ``layers["counts"]`` if there, else ``X``.
    tool
        Name of the tool, for messages.
    whole
        Refuse counts with fractions, and load those on disk.

    Returns
    -------
    The counts, (n_obs, n_vars), in memory or on disk; their sum in each cell, (n_obs,) float64; and what a run record
    says of them.
    """
    matrix, where = _matrix(adata, layer, "", "layer")
    counts: Rows = OnDisk(matrix) if is_on_disk(matrix) else canonical(matrix)
    if whole:
        counts = counts[:]
        _refuse_fractions(counts, adata, where, tool)
    asks = type(tool, (Method,), {})()  # a method needs counts unless it says otherwise
    kind, depth = scan(counts, adata, where, asks)
    return counts, depth, {"layer": where, "kind": kind}


def _refuse_fractions(counts: Any, adata: Any, where: str, tool: str) -> None:
    with np.errstate(invalid="ignore"):  # what is not finite is refused elsewhere
        part = np.abs(counts.data - np.rint(counts.data)) > 1e-6
    if part.any():
        msg = (
            f"`{where}` has {int(part.sum())} values with fractions (up to {counts.data.max():.3g}), but {tool} needs "
            f"whole counts.{_instead(adata, where)}"
        )
        raise InputError(msg)


def clusters(adata: Any, key: str, argument: str = "key") -> tuple[np.ndarray, np.ndarray]:
    """Clusters of the cells in a column of `obs`, as codes, (n_obs,) int, −1 for none; and their names, in order."""
    import pandas as pd

    values = column(adata.obs, key, where="adata.obs", what="the column with the clusters", argument=argument)
    given = pd.Categorical(values)
    n_cells, n = int((given.codes >= 0).sum()), len(np.unique(given.codes[given.codes >= 0]))
    if n_cells == 0:
        msg = f"No cell has a cluster in `adata.obs[{key!r}]`, so there is nothing to compare. Pass another column."
        raise InputError(msg)
    if n > max(n_cells // 2, 1):
        msg = (
            f"`adata.obs[{key!r}]` has {n} values for {n_cells} cells, so it holds no clusters. Pass the column that "
            f"does as `{argument}=`."
        )
        raise InputError(msg)
    return given.codes.astype(int), given.categories.astype(str).to_numpy(dtype=object)


def other_part(adata: Any, layer: str) -> str | None:
    """Layer with the counts that a split took from those of `layer`, as its record says; None without a record."""
    split = adata.uns.get(ROOT, {}).get(SPLIT, {}).get(layer, {})
    return split.get("params", {}).get("fit_layer")


def check_layers(adata: Any, names: dict[str, str], source: str | None, *, overwrite: bool) -> None:
    """Refuse names of new layers that cannot be, that are taken, or that are those of the layer they are made from.

    `names` are the layers by the argument that holds each; `source` is the layer that is read, None for the default.
    """
    if adata.is_view and adata.isbacked:
        msg = "A view of a backed AnnData takes no results. Load it first: `adata = adata.to_memory()`."
        raise InputError(msg)
    for argument, name in names.items():
        if not isinstance(name, str) or name != safe_name(name):
            msg = f"{argument} must be a name that HDF5 and zarr can hold, so not empty and without '/', not {name!r}."
            raise InputError(msg)
        if name == (source or "counts"):
            msg = f"{argument} is {name!r}, the layer that is read. Pass another name as `{argument}=`."
            raise InputError(msg)
        if name in adata.layers and not overwrite:
            msg = (
                f"`adata.layers[{name!r}]` exists. Pass another name as `{argument}=`, or `overwrite=True` to replace "
                "the layer."
            )
            raise InputError(msg)
    if len(set(names.values())) < len(names):
        msg = f"{' and '.join(names)} are the same, {next(iter(names.values()))!r}. Pass different names."
        raise InputError(msg)


def write_layers(adata: Any, tool: str, key: str, layers: dict[str, Any], record: dict[str, Any]) -> None:
    """Put matrices into layers, and the record of the tool into `uns` under `key`; on any error nothing changes."""
    if adata.is_view:
        adata._init_as_actual(adata.copy())  # as scanpy does: a view becomes an object of its own when written to
    with _restored(adata, [("layers", name) for name in layers]):
        for name, values in layers.items():
            adata.layers[name] = values
        adata.uns.setdefault(ROOT, {}).setdefault(tool, {})[key] = plain(record)


def made_from(adata: Any, task: Task, layer: str) -> list[str]:
    """Keys of the runs of a task that read a layer."""
    runs = adata.uns.get(ROOT, {}).get(task.name, {})
    return [str(key) for key, run in runs.items() if run.get("input", {}).get("layer") == f"layers[{layer!r}]"]


def matrix_at(adata: Any, where: str) -> Any:
    """The matrix that a run record names: "X" or "layers['name']"."""
    name = layer_of(where)
    if name is None:
        return adata.X
    column(adata.layers, name, where="adata.layers", what="the layer that the run read", argument="key")
    return adata.layers[name]


def layer_of(where: str) -> str | None:
    """Name of the layer that a run record names, of whichever modality; None for X."""
    found = where.find("layers[")
    return None if found < 0 else str(ast.literal_eval(where[found + len("layers[") : -1]))


def _loaded(matrix: Any) -> sp.csr_matrix:
    return OnDisk(matrix)[:] if is_on_disk(matrix) else canonical(matrix)


def source_of(adata: Any, layer: str) -> str | None:
    """Where the counts are from which :func:`scdance.tl.hold_out` made a layer, as its record says; None without."""
    record = adata.uns.get(ROOT, {}).get(HOLD_OUT, {}).get(layer, {})
    return record.get("input", {}).get("layer")


def hidden(
    adata: Any, task: Task, key: str, truth: str | None, needs: Collection[str] = COMPARED[:6]
) -> dict[str, Any]:
    """What scores of a result of a task on expression compare.

    `truth`, all counts, (n_obs, n_vars); `observed`, those that the method saw; and its prediction as `rates`,
    expected counts, as `logs`, of log(1 + count), as `logs_of_nonzero`, and as `logs_at_250`, of log(1 + count) at a
    depth of 250, None where it has another unit. `before` and `after` are log-normalised: what the method saw, and its
    prediction. `needs` are those that are wanted; nothing
    is looked for if there is none of them, or no result.
    """
    where, name = slots_of(task, key)["expression"]
    if name not in getattr(adata, where) or not set(needs) & set(COMPARED):
        return {}
    record = record_of(adata, task, key)
    read = record.get("input", {})
    seen, unit = str(read.get("layer", "X")), str(record.get("params", {}).get("output", "lognorm"))
    whole = _whole(adata, key, seen, truth) if "truth" in needs else None
    observed = _loaded(matrix_at(adata, seen))
    depth = np.asarray(observed.sum(axis=1, dtype=np.float64)).ravel()
    values = getattr(adata, where)[name]
    values = canonical(values).toarray() if sp.issparse(values) else np.asarray(values)
    given: dict[str, Any] = {**dict.fromkeys(COMPARED), "truth": whole, "observed": observed}
    if unit == "log1p_nonzero":
        given["logs_of_nonzero"] = values
    elif unit == "log1p_250":
        given["logs_at_250"] = values
        given["rates"] = out_of_unit(values, depth, unit)
    else:
        given["rates"] = out_of_unit(values, depth, unit)
        given["logs"] = values if unit == "log1p" else np.log1p(given["rates"])
    if "before" in needs:
        is_logged = read.get("kind") == "log-normalised"
        given["before"] = observed if is_logged else in_unit(observed, depth, "lognorm")
        if unit == "lognorm":
            given["after"] = values
        elif given["rates"] is not None:
            given["after"] = in_unit(given["rates"], depth, "lognorm")
    return given


def _whole(adata: Any, key: str, seen: str, truth: str | None) -> Any:
    """All counts: those in the layer `truth`, else those from which the layer that was seen was made."""
    if truth is not None:
        return _loaded(
            column(adata.layers, truth, where="adata.layers", what="the layer with all counts", argument="truth")
        )
    layer = layer_of(seen)
    source = None if layer is None else source_of(adata, layer)
    if source is None:
        msg = (
            f"The run {key!r} read `{seen}`, of which nothing is known to be hidden. Hide some counts with "
            "`scdance.tl.hold_out`, impute the layer that it writes, and score that; or pass the layer with all counts "
            "as `truth=`."
        )
        raise InputError(msg)
    return _loaded(matrix_at(adata, source))
