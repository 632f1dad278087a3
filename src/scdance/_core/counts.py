"""What tools without a method read and write: raw counts, the clusters of the cells, layers made from counts."""

from __future__ import annotations

from typing import Any

import numpy as np

from scdance._checks import InputError, column
from scdance.pp import OnDisk, Rows, canonical, is_on_disk

from .method import Method
from .read import _matrix
from .scan import _instead, scan
from .write import ROOT, _restored, plain, safe_name

SPLIT = "split_counts"  # under this name `uns` keeps the records of splits, by the layer to test in


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


def clusters(adata: Any, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Clusters of the cells in a column of `obs`, as codes, (n_obs,) int, −1 for none; and their names, in order."""
    import pandas as pd

    values = column(adata.obs, key, where="adata.obs", what="the column with the clusters", argument="key")
    given = pd.Categorical(values)
    n_cells, n = int((given.codes >= 0).sum()), len(np.unique(given.codes[given.codes >= 0]))
    if n_cells == 0:
        msg = f"No cell has a cluster in `adata.obs[{key!r}]`, so there is nothing to compare. Pass another column."
        raise InputError(msg)
    if n > max(n_cells // 2, 1):
        msg = (
            f"`adata.obs[{key!r}]` has {n} values for {n_cells} cells, so it holds no clusters. Pass the column that "
            "does as `key=`."
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


def write_parts(adata: Any, fit_layer: str, fit: Any, test_layer: str, test: Any, record: dict[str, Any]) -> None:
    """Put both parts of split counts into their layers, and the record into `uns`; on any error nothing changes."""
    layers = {fit_layer: fit, test_layer: test}
    record = {**record, "params": {**record["params"], "fit_layer": fit_layer, "test_layer": test_layer}}
    if adata.is_view:
        adata._init_as_actual(adata.copy())  # as scanpy does: a view becomes an object of its own when written to
    with _restored(adata, [("layers", name) for name in layers]):
        for name, values in layers.items():
            adata.layers[name] = values
        adata.uns.setdefault(ROOT, {}).setdefault(SPLIT, {})[test_layer] = plain(record)
