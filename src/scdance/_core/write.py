"""Put a result back: slots, run records, names that files can hold; and the object as it was if anything fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from scdance._checks import InputError, MissingKeyError, listed, warn
from scdance.graph import fuzzy, knn

from .cells import Cells, Pair
from .expression import in_layer
from .objects import check_kind, kind_of
from .task import BY_GENE, FRAMES, Slot, Task

ROOT = "scdance"  # key of `uns` that holds the run records
UNWRITABLE = ("", ".", "..", "_index")  # names that HDF5, zarr or anndata keep for themselves


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


def run_of(data: Any, task: Task, key: str) -> tuple[Any, str]:
    """The object that holds a run of this key, and its whole key: a modality where the task writes into one."""
    if not task.suffix or kind_of(data) == "AnnData":
        return data, key
    check_kind(data, ("MuData",))
    runs = [
        (name, run, record)
        for name, each in data.mod.items()
        for run, record in each.uns.get(ROOT, {}).get(task.name, {}).items()
    ]
    found = [(name, run) for name, run, _ in runs if run == key] or [
        (name, run) for name, run, told in runs if run == f"{key}{task.suffix.format(target=told.get('target'))}"
    ]
    if len(found) == 1:
        return data.mod[found[0][0]], found[0][1]
    if not runs:
        msg = f"The MuData has no run of {task.name!r} yet: call `sd.tl.{task.name}(…)` first."
        raise MissingKeyError(msg)
    there = listed([run for _, run, _ in runs])
    what = f"{len(found)} runs" if found else "no run"
    msg = f"The MuData has {what} {key!r} of {task.name!r}; there are: {there}. Pass the whole name of one as `key=`."
    raise MissingKeyError(msg)


def _claimed(adata: Any, task: Task, key: str) -> list[tuple[str, str]]:
    """Attribute and name of the slots that the last run of this task and key wrote."""
    slots = (str(slot).split("/", 1) for slot in record_of(adata, task, key).get("slots", []))
    return [(where, name) for where, name in slots]


def neighbor_slots(key: str) -> list[tuple[str, str]]:
    """Attribute and name of what a neighbour graph of the result takes, as scanpy and muon name it."""
    return [("obsp", f"{key}_distances"), ("obsp", f"{key}_connectivities"), ("uns", key)]


def check_slots(
    adata: Any,
    task: Task,
    key_added: str | None,
    method: str,
    *,
    suffix: str = "",
    whole: Any = None,
    neighbors: bool = False,
) -> str:
    """Return the key of the results; stop if a slot of it is taken by something that is not this task's own.

    `adata` is the object or, with a `suffix` behind the key, the modality of the object `whole` that receives them.
    """
    base = method if key_added is None else key_added
    key = check_key(base) + suffix
    whole = adata if whole is None else whole
    if whole.is_view and not hasattr(whole, "_init_as_actual"):
        msg = "A view of a MuData takes no results. Copy it first: `mdata = mdata.copy()`."
        raise InputError(msg)
    if adata.is_view and adata.isbacked:
        msg = "A view of a backed AnnData takes no results. Load it first: `adata = adata.to_memory()`."
        raise InputError(msg)
    own = _claimed(adata, task, key)
    for where, name in [*slots_of(task, key).values(), *(neighbor_slots(key) if neighbors else [])]:
        if where in ("obs", "var") and name == getattr(adata, where).index.name:
            msg = (
                f"The index of `adata.{where}` is called {name!r}, as a column would be. Pass another name as "
                "`key_added=`."
            )
            raise InputError(msg)
        if (where, name) == ("layers", "counts"):
            msg = (
                "`adata.layers['counts']` is where every tool looks for raw counts, so no estimate is put there. Pass "
                f"another name: `key_added={f'{key}_{task.name}'!r}`."
            )
            raise InputError(msg)
        if name in getattr(adata, where) and (where, name) not in own:
            msg = (
                f"`adata.{where}[{name!r}]` exists and was not written by scdance's {task.name!r}, so it is left "
                f"alone. Pass another name: `key_added={f'{base}_{task.name}'!r}`."
            )
            raise InputError(msg)
    return key


def write(
    adata: Any,
    task: Task,
    key: str,
    cells: Cells | Pair,
    result: dict[str, Any],
    names: list[str],
    record: dict[str, Any],
    neighbors: int | None = None,
) -> None:
    """Put a result into its slots and its record into `uns`; on any error the object is as it was.

    With `neighbors` a graph of so many neighbours in the embedding goes beside it.
    """
    import pandas as pd

    kinds = {part: task.gives[part].kind for part in result}
    columns = safe_names(names) if {*kinds.values()} & {*FRAMES, "profiles"} else []
    unit = record.get("params", {}).get("output", "lognorm")
    values = {
        slots_of(task, key)[part]: in_layer(task.gives[part], value, result, cells, adata.var_names, unit)
        if kinds[part] in ("expression", *BY_GENE)
        else _stored(task.gives[part], value, names, columns, cells, adata.obs_names)
        for part, value in result.items()
    }
    for part in (part for part, kind in kinds.items() if kind == "profiles"):
        place = slots_of(task, key)[part]
        values[place] = pd.DataFrame(values[place], index=adata.var_names, columns=columns)
    if neighbors is not None:
        values |= _neighbors(result, key, cells, neighbors)
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


def _neighbors(result: dict[str, Any], key: str, cells: Cells | Pair, n: int) -> dict[tuple[str, str], Any]:
    """The slots of a neighbour graph of the embedding; cells without one have no neighbours."""
    if "embedding" not in result:
        msg = f"The result {key!r} has no embedding, so there are no neighbours in it; leave `neighbors=` out."
        raise InputError(msg)
    distances = knn(np.asarray(result["embedding"], dtype=np.float32), n - 1)
    whole = [_spread(each, cells) for each in (distances, fuzzy(distances))]
    params = {"n_neighbors": n, "method": "umap", "metric": "euclidean", "use_rep": f"X_{key}"}
    told = {"distances_key": f"{key}_distances", "connectivities_key": f"{key}_connectivities", "params": params}
    return dict(zip(neighbor_slots(key), [*whole, told], strict=True))


def _spread(links: Any, cells: Cells | Pair) -> csr_matrix:
    """A matrix between the cells that were read as one between all cells of the object."""
    place = csr_matrix(
        (np.ones(cells.n_obs, dtype=np.float32), (cells.rows, np.arange(cells.n_obs))), (cells.n_obs_in, cells.n_obs)
    )
    return (place @ links @ place.T).tocsr()


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


def _stored(slot: Slot, value: Any, names: list[str], columns: list[str], cells: Cells | Pair, obs_names: Any) -> Any:
    """A part of a result as it goes into its slot: all cells of the object, in their order."""
    import pandas as pd

    n = cells.n_obs_in
    if slot.kind == "category":
        codes = np.full(n, -1, dtype=np.int32)
        codes[cells.rows] = value
        beyond = [_beside(names, slot.beyond)] if codes.max(initial=-1) >= len(names) else []
        return pd.Categorical.from_codes(codes, categories=pd.Index([*names, *beyond]))
    if slot.kind == "text":
        given = np.full(n, None, dtype=object)
        given[cells.rows] = np.where(value == "", None, value)
        return pd.Categorical(given)
    if slot.kind == "links":
        return _spread(value, cells)
    if slot.kind == "sets":
        members, which = np.unique(value, axis=0, return_inverse=True)  # few of all the possible ones occur
        texts = ["|".join(name for name, inside in zip(names, row, strict=True) if inside) for row in members]
        codes = np.full(n, -1, dtype=np.int32)
        codes[cells.rows] = which.ravel()
        return pd.Categorical.from_codes(codes, categories=pd.Index(texts))
    value = np.asarray(value, dtype=np.float32)
    empty: Any = (
        1 / value.shape[1] if slot.empty == "even" else value.mean(axis=0) if slot.empty == "mean" else slot.empty
    )
    out = np.empty((n, *value.shape[1:]), dtype=np.float32)
    out[:] = empty
    out[cells.rows] = value
    return pd.DataFrame(out, index=obs_names, columns=columns) if slot.kind in FRAMES else out


def _beside(names: list[str], name: str) -> str:
    """A further category's name, with "_" behind where one of the names is the same already."""
    while name in names:
        name += "_"
    return name


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
