"""The border to AnnData: `read` turns it into Cells, `write` puts a result back. Nothing else touches it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import scipy.sparse as sp

from scdance import _checks
from scdance._checks import InputError, MissingKeyError, WrongTypeError, listed, warn
from scdance._settings import logger
from scdance.pp import FittedRecipe, OnDisk, Recipe, Rows, Transformed, canonical, is_on_disk

from .cells import Cells
from .method import Method
from .scan import scan
from .task import Slot, Task

ROOT = "scdance"  # key of `uns` that holds the run records
UNWRITABLE = ("", ".", "..", "_index")  # names that HDF5, zarr or anndata keep for themselves


# ---------------------------------------------------------------------- read


def table_of(data: Any) -> Any:
    """`data` if it is an AnnData with cells and genes; else an error that says what to pass."""
    import anndata as ad

    if isinstance(data, ad.AnnData):
        if 0 in data.shape:
            msg = f"The AnnData has {data.n_obs} cells × {data.n_vars} genes; at least one of each is needed."
            raise InputError(msg)
        return data
    kind = type(data).__name__
    hint = ""
    if kind == "MuData":
        hint = f" Pass one modality: {listed(f'mdata[{name!r}]' for name in data.mod)}."
    elif kind == "SpatialData":
        hint = f" Pass one table: {listed(f'sdata.tables[{name!r}]' for name in data.tables)}."
    elif kind in ("DataFrame", "ndarray") or sp.issparse(data):
        hint = " Wrap it: `anndata.AnnData(data)`, cells in rows."
    elif isinstance(data, str):
        hint = " Read the file first: `anndata.read_h5ad(path)`."
    msg = f"Expected an AnnData, found {kind}.{hint}"
    raise WrongTypeError(msg)


def read(
    data: Any,
    model: Method,
    *,
    layer: str | None = None,
    use_rep: str | None = None,
    batch_key: str | None = None,
    neighbors_key: str | None = None,
    recipe: str | None = "default",
) -> Cells:
    """Read from `data` what `model` needs and uses, check it, and preprocess a private copy.

    A fitted model gets the cells with the genes and the numbers that its recipe learnt in training.
    """
    adata = table_of(data)
    _checks.one_of(recipe, ("default", None), "recipe")
    _refuse_unused(model, use_rep=use_rep, batch_key=batch_key, neighbors_key=neighbors_key)
    if model.is_fitted:
        _refuse_other_input(model, use_rep, recipe)
    given: dict[str, Any] = {"n_obs_in": adata.n_obs, "n_vars_in": adata.n_vars}
    if batch_key is not None:
        given["batch"], given["batch_names"] = _batch(adata, batch_key, model)
    if neighbors_key is not None:
        given["graph"] = _graph(adata, neighbors_key)
    if use_rep is not None:
        given["rep"] = _representation(adata, use_rep, model)
    if use_rep is None and neighbors_key is None:
        return _from_matrix(adata, model, layer, recipe, given)
    # The values stand for the expression: the matrix is not read at all.
    _check_n_clusters(model, adata.n_obs)
    where = f"obsm[{use_rep!r}]" if use_rep else f"obsp of {neighbors_key!r}"
    return Cells(
        prep=model.prep_ if model.is_fitted else FittedRecipe(np.array([], dtype=str)),
        rows=np.arange(adata.n_obs),
        obs_names=np.asarray(adata.obs_names, dtype=str),
        var_names=np.array([], dtype=str),
        extra={"input": {"layer": where, "kind": "given"}},
        **given,
    )


def _from_matrix(adata: Any, model: Method, layer: str | None, recipe: str | None, given: dict[str, Any]) -> Cells:
    """Cells with expression: checked, without the empty ones, after the recipe."""
    _checks.unique_names(adata.var_names, "var")
    matrix, where = _matrix(adata, layer)
    counts: Rows = OnDisk(matrix) if is_on_disk(matrix) else canonical(matrix)
    kind, depth = scan(counts, adata, where, model)
    rows = np.flatnonzero(depth > 0)
    if len(rows) == 0:
        msg = f"All {adata.n_obs} cells of `{where}` are empty; pass the layer that holds the counts as `layer=`."
        raise InputError(msg)
    if len(rows) < adata.n_obs:
        warn(
            f"{adata.n_obs - len(rows)} of {adata.n_obs} cells have no counts in `{where}`; they take no part and get "
            "no label. To remove them: `sc.pp.filter_cells(adata, min_counts=1)`."
        )
    _check_n_clusters(model, len(rows))
    if model.is_fitted:
        prepared = model.prep_
        _refuse_other_kind(model, where, kind)
    else:
        steps: Recipe = model.recipe if recipe == "default" else Recipe()
        kept: Rows = counts if len(rows) == adata.n_obs else _subset(counts, rows)
        prepared = steps.fit(kept, depth[rows], adata.var_names, log_input=kind == "log-normalised")
        if len(prepared.var_names) == 0:
            msg = f"The recipe ({steps}) keeps none of the {adata.n_vars} genes of `{where}`."
            raise InputError(msg)
    columns = prepared.find(adata.var_names)
    missing = int((columns < 0).sum())
    if missing:
        warn(f"{missing} of the {len(columns)} genes of the model are not in the object; they count as 0.")
    x, raw = prepared.apply(counts, rows, depth, columns)
    logger.info("%s: %d cells × %d genes of `%s` (%s)", model.name, len(rows), len(columns), where, kind)
    if "batch" in given:
        given["batch"] = given["batch"][rows]
    return Cells(
        prep=prepared,
        rows=rows,
        obs_names=np.asarray(adata.obs_names, dtype=str)[rows],
        var_names=prepared.var_names,
        x=x,
        counts=raw if "counts" in (*model.needs, *model.uses) else None,
        depth=depth[rows],
        extra={"input": {"layer": where, "kind": kind}},
        **given,
    )


def _subset(counts: Rows, rows: np.ndarray) -> Rows:
    return (
        counts[rows] if sp.issparse(counts) else Transformed(counts, rows, lambda block, there: block, counts.shape[1])
    )


def _check_n_clusters(model: Method, n_obs: int) -> None:
    """Refuse a number of clusters that so few cells cannot have; a fitted model has its clusters already."""
    if not model.is_fitted:
        _checks.n_clusters(getattr(model, "n_clusters", None), n_obs)


def _refuse_other_input(model: Method, use_rep: str | None, recipe: str | None) -> None:
    """Refuse, for a fitted model, an input of another kind than it was fitted on, and another recipe."""
    name = type(model).__name__
    if recipe != "default":
        msg = (
            f"The {name} is fitted already and keeps its recipe, so `recipe=` cannot be set in this call; leave it out."
        )
        raise InputError(msg)
    n_dims = getattr(model, "n_dims_", None)
    if use_rep is None and n_dims is not None:
        msg = f"The {name} was fitted on a representation of {n_dims} dimensions; pass its key in obsm as `use_rep=`."
        raise InputError(msg)
    if use_rep is not None and n_dims is None:
        msg = f"The {name} was fitted on expression, not on a representation; leave out `use_rep={use_rep!r}`."
        raise InputError(msg)


def _refuse_other_kind(model: Method, where: str, kind: str) -> None:
    """Refuse, for a fitted model, counts where it learnt from log-normalised values, and the other way round."""
    logged = kind == "log-normalised"
    if model.prep_.log_input != logged:
        here, then = ("log-normalised", "counts") if logged else ("count", "log-normalised values")
        msg = (
            f"The {type(model).__name__} was fitted on {then}, but `{where}` holds {here} values. "
            f"Pass the layer with {then} as `layer=`."
        )
        raise InputError(msg)


def _refuse_unused(model: Method, **given: Any) -> None:
    """Refuse an input that the method would silently ignore."""
    kinds = {"use_rep": "rep", "batch_key": "batch", "neighbors_key": "graph"}
    for argument, value in given.items():
        if value is not None and kinds[argument] not in (*model.needs, *model.uses):
            msg = (
                f"{type(model).__name__} takes no `{argument}=`; it reads {listed((*model.needs, *model.uses))}. "
                "Leave it out."
            )
            raise InputError(msg)
    if "batch" in model.needs and given["batch_key"] is None:
        msg = f"{type(model).__name__} needs the batch of each cell: pass a column of `adata.obs` as `batch_key=`."
        raise InputError(msg)


def _matrix(adata: Any, layer: str | None) -> tuple[Any, str]:
    """The matrix to read and its name: `layer`, else layers["counts"], else X."""
    if layer is not None:
        _checks.column(adata.layers, layer, where="adata.layers", what="the layer with the counts", argument="layer")
        return adata.layers[layer], f"layers[{layer!r}]"
    if "counts" in adata.layers:
        return adata.layers["counts"], "layers['counts']"
    if adata.X is None:
        msg = f"The object has no X, and layers hold {listed(adata.layers)}; pass the one with the counts as `layer=`."
        raise MissingKeyError(msg)
    return adata.X, "X"


def _batch(adata: Any, key: str, model: Method) -> tuple[np.ndarray, list[str]]:
    """Batch codes and names, in the order of training where the model is fitted; −1 for an unseen one."""
    import pandas as pd

    values = _checks.column(adata.obs, key, where="adata.obs", what="the column with the batches", argument="batch_key")
    if pd.isna(values).any():
        msg = f"`adata.obs[{key!r}]` has {int(pd.isna(values).sum())} missing values; every cell needs a batch."
        raise InputError(msg)
    names = list(getattr(model, "batches_", sorted(values.astype(str).unique())))
    return pd.Categorical(values.astype(str), categories=names).codes.astype(np.int32), names


def _representation(adata: Any, key: str, model: Method) -> np.ndarray:
    values = _checks.column(adata.obsm, key, where="adata.obsm", what="the representation", argument="use_rep")
    values = np.asarray(values, dtype=np.float32)
    n_dims = getattr(model, "n_dims_", values.shape[-1])
    if values.ndim != 2 or values.shape[1] != n_dims:
        msg = f"`adata.obsm[{key!r}]` has shape {values.shape}, but ({adata.n_obs}, {n_dims}) is expected."
        raise InputError(msg)
    if not np.isfinite(values).all():
        msg = f"`adata.obsm[{key!r}]` has {int((~np.isfinite(values)).sum())} values that are NaN or infinite."
        raise InputError(msg)
    return values


def _graph(adata: Any, key: str) -> sp.csr_matrix:
    found = _checks.column(
        adata.uns,
        key,
        where="adata.uns",
        what="the neighbours that sc.pp.neighbors wrote",
        argument="neighbors_key",
    )
    name = found.get("connectivities_key", "connectivities") if hasattr(found, "get") else "connectivities"
    return canonical(_checks.column(adata.obsp, name, where="adata.obsp", what="the graph", argument="neighbors_key"))


# ---------------------------------------------------------------------- write


def check_key(key: Any) -> str:
    """Refuse a `key_added` that could not be written to a file."""
    if not isinstance(key, str) or key != safe_name(key):
        msg = (
            f"key_added must be a name that HDF5 and zarr can hold, so without '/' and none of "
            f"{listed(map(repr, UNWRITABLE))}, but is {key!r}. Pass another, such as `key_added='my_result'`."
        )
        raise InputError(msg)
    return key


def slots_of(task: Task, key: str) -> dict[str, tuple[str, str]]:
    """Attribute and name of each part of a result."""
    return {part: (slot.where, slot.name.format(key=key)) for part, slot in task.gives.items()}


def record_of(adata: Any, task: Task, key: str) -> dict[str, Any]:
    """The run record of a task and key, empty if there is none."""
    found: Any = adata.uns
    for step in (ROOT, task.name, key):
        found = found.get(step, {}) if hasattr(found, "get") else {}
    return found if hasattr(found, "get") else {}


def _claimed(adata: Any, task: Task, key: str) -> list[tuple[str, str]]:
    """Attribute and name of the slots that the last run of this task and key wrote."""
    slots = (str(slot).split("/", 1) for slot in record_of(adata, task, key).get("slots", []))
    return [(where, name) for where, name in slots]


def check_slots(data: Any, task: Task, key_added: str | None, model: Method) -> str:
    """Return the key of the results; stop if a slot of it is taken by something that is not this task's own."""
    adata = table_of(data)
    key = check_key(model.name if key_added is None else key_added)
    if adata.is_view and adata.isbacked:
        msg = "A view of a backed AnnData takes no results. Load it first: `adata = adata.to_memory()`."
        raise InputError(msg)
    own = _claimed(adata, task, key)
    for where, name in slots_of(task, key).values():
        if where == "obs" and name == adata.obs.index.name:
            msg = (
                f"The index of `adata.obs` is called {name!r}, as a column would be. Pass another name as `key_added=`."
            )
            raise InputError(msg)
        if name in getattr(adata, where) and (where, name) not in own:
            msg = (
                f"`adata.{where}[{name!r}]` exists and was not written by scdance's {task.name!r}, so it is left "
                f"alone. Pass another name: `key_added={f'{key}_{task.name}'!r}`."
            )
            raise InputError(msg)
    return key


def copied(adata: Any) -> Any:
    """A copy to write into; one of a backed object lives in memory."""
    return adata.to_memory() if adata.isbacked else adata.copy()


def write(
    adata: Any,
    task: Task,
    key: str,
    cells: Cells,
    result: dict[str, Any],
    names: list[str],
    record: dict[str, Any],
) -> None:
    """Put a result into its slots and its record into `uns`; on any error the object is as it was."""
    values = {
        slots_of(task, key)[part]: _stored(task.gives[part], value, names, cells, adata.obs_names)
        for part, value in result.items()
    }
    record = plain({**record, "slots": np.array([f"{where}/{name}" for where, name in values])})
    if [*names] != [safe_name(name) for name in names]:
        record["categories"] = np.array([*names])  # the true names of the columns
    stale = [slot for slot in _claimed(adata, task, key) if slot not in values]
    if adata.is_view:
        adata._init_as_actual(adata.copy())  # as scanpy does: a view becomes an object of its own when written to
    with _restored(adata, [*values, *stale]):
        for where, name in stale:
            if name in getattr(adata, where):
                del getattr(adata, where)[name]
        for (where, name), value in values.items():
            getattr(adata, where)[name] = value
        adata.uns.setdefault(ROOT, {}).setdefault(task.name, {})[key] = record


@contextmanager
def _restored(adata: Any, slots: list[Any]) -> Iterator[None]:
    """Put slots and records back as they were if anything fails, Ctrl-C included."""
    before = {(where, name): getattr(adata, where)[name] for where, name in slots if name in getattr(adata, where)}
    order = list(adata.obs.columns)
    root = {task: dict(keys) for task, keys in adata.uns[ROOT].items()} if ROOT in adata.uns else None
    try:
        yield
    except BaseException:
        for where, name in slots:
            holder = getattr(adata, where)
            if (where, name) in before:
                holder[name] = before[where, name]
            elif name in holder:
                del holder[name]
        adata.obs = adata.obs[order]
        if root is None:
            adata.uns.pop(ROOT, None)
        else:
            adata.uns[ROOT] = root
        raise


def _stored(slot: Slot, value: Any, names: list[str], cells: Cells, obs_names: Any) -> Any:
    """A part of a result as it goes into its slot: all cells of the object, in their order."""
    import pandas as pd

    n = cells.n_obs_in
    if slot.kind == "category":
        codes = np.full(n, -1, dtype=np.int32)
        codes[cells.rows] = value
        return pd.Categorical.from_codes(codes, categories=pd.Index(names))
    value = np.asarray(value, dtype=np.float32)
    # a cell without counts: no evidence, so score and embedding 0 and all clusters equally likely
    fill = 1 / value.shape[1] if slot.kind == "frame" else 0
    out = np.full((n, *value.shape[1:]), fill, dtype=np.float32)
    out[cells.rows] = value
    return pd.DataFrame(out, index=obs_names, columns=safe_names(names)) if slot.kind == "frame" else out


def safe_name(name: str) -> str:
    """A name that HDF5 and zarr take: "/" becomes "|", and one that is kept for other ends gets a "|" behind."""
    name = name.replace("/", "|").replace("\0", "|")
    return f"{name}|" if name in UNWRITABLE else name


def safe_names(names: list[str]) -> list[str]:
    """Column names that can be written to a file, as many and as distinct, with one warning if they differ."""
    safe = [safe_name(name) for name in names]
    for i, name in enumerate(safe):
        while name in safe[:i]:
            name += "|"
        safe[i] = name
    other = {old: new for old, new in zip(names, safe, strict=True) if old != new}
    if other:
        warn(
            f"HDF5 does not take {len(other)} of the names ({listed(map(repr, other))}); the columns are called "
            f"{listed(map(repr, other.values()))}. The run record holds the true names as 'categories'."
        )
    return safe


def plain(value: Any) -> Any:
    """A value as h5ad and zarr take it: no tuple, no None, no key with "/"."""
    if isinstance(value, dict):
        return {str(k).replace("/", "|"): plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        kinds = {type(v) for v in value}
        if kinds <= {int, float} or kinds == {bool} or kinds == {str}:
            return np.array(value)
        return {str(i): plain(v) for i, v in enumerate(value)} if value else np.array([], dtype=float)
    if isinstance(value, np.generic):
        return value.item()
    return value
