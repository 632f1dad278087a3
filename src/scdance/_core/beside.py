"""What scores compare a space with beside labels: batches, known times, the RNA and its cell cycle, the reference."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from scdance._checks import InputError, MissingKeyError, listed, nearest
from scdance.pp import cell_cycle_scores

from .counts import _loaded, layer_of
from .expression import in_unit
from .method import Method
from .objects import ALIASES, kind_of_modality
from .read import _matrix
from .scan import scan
from .task import Task
from .write import record_of

BESIDE = ("batch", "pseudotime", "expression", "cycle", "ref_embedding")  # by the scores that compare with them
RNA = "rna"


def beside(
    data: Any,
    task: Task,
    key: str,
    needs: Collection[str],
    *,
    batch_key: str | None,
    pseudotime: str | Sequence[str] | None,
    ref: Any = None,
) -> dict[str, Any]:
    """Those of `needs` that are among these; each is None where it was not named or is not there.

    `batch`, one for each cell; `pseudotime`, (n_obs, n_trajectories), NaN where a cell is not on one; `expression`,
    the log-normalised RNA, (n_obs, n_vars) CSR; `cycle`, its scores of two phases, (n_obs, 2), NaN for cells without
    RNA; `ref_embedding`, where the run put the reference, (n_ref, n_latent).
    """
    given: dict[str, Any] = {}
    if "batch" in needs:
        given["batch"] = None if batch_key is None else _of_cells(data, batch_key, "the batches", "batch_key")
    if "pseudotime" in needs:
        names = [pseudotime] if isinstance(pseudotime, str) else list(pseudotime or ())
        given["pseudotime"] = np.column_stack([_times(data, name) for name in names]) if names else None
    if {"expression", "cycle"} & set(needs):
        given["expression"], given["cycle"] = _rna(data, task, key)
    if "ref_embedding" in needs:
        given["ref_embedding"] = None if ref is None else _places(ref, task, key)
    return given


def _places(ref: Any, task: Task, key: str) -> Any:
    """The embedding of the reference that the run wrote."""
    name = task.gives["embedding"].name.format(key=key)
    if name not in ref.obsm:
        msg = (
            f"No {name!r} in `ref.obsm`, where the reference would stand in the space of the run; it has "
            f"{listed(ref.obsm)}. Run the tool with `write_ref=True`, or leave `ref=` out."
        )
        raise MissingKeyError(msg)
    return ref.obsm[name]


def _of_cells(data: Any, key: str, what: str, argument: str) -> Any:
    """A column of the object's `obs` or, for cells that have it there, of the `obs` of its modalities."""
    parts = list(getattr(data, "mod", {}).values())
    held = [each.obs[key].reindex(data.obs_names) for each in (data, *parts) if key in each.obs]
    if not held:
        names = list(dict.fromkeys(str(name) for each in (data, *parts) for name in each.obs))
        msg = (
            f"No column {key!r} in `obs` of the object or of a modality; there are {listed(names)}. "
            f"Pass the name of one with {what} as `{argument}=`.{nearest(key, names)}"
        )
        raise MissingKeyError(msg)
    values = held[0].astype(object)
    for each in held[1:]:
        values = values.where(values.notna(), each.astype(object))
    return values


def _times(data: Any, name: str) -> np.ndarray:
    """A column with known times as numbers, (n_obs,) float64."""
    values = _of_cells(data, name, "known times on a trajectory", "pseudotime")
    try:
        return values.to_numpy(dtype=np.float64)  # type: ignore[no-any-return]
    except (TypeError, ValueError) as error:
        msg = f"Column {name!r} must hold times as numbers, NaN for cells that are not on the trajectory, but {error}."
        raise InputError(msg) from error


def _rna(data: Any, task: Task, key: str) -> tuple[sp.csr_matrix | None, np.ndarray | None]:
    """The log-normalised RNA of the cells, that which the run read if it did, and its scores of the cell cycle."""
    there = getattr(data, "mod", {RNA: data})
    told = [each for each in record_of(data, task, key).get("input", {}).values() if hasattr(each, "get")]
    read = {str(each["modality"]): str(each["layer"]) for each in told if each.get("modality") in there}
    names = [name for name in read if kind_of_modality(name) == RNA]
    names = names or [name for name in there if kind_of_modality(name) == RNA]
    if not names:
        return None, None
    name = min(names, key=lambda each: each.lower() not in ALIASES[RNA])  # one that says nothing counts as RNA, too
    adata = there[name]
    layer = layer_of(read.get(name, "X"))
    values = lognormalised(adata, f"mdata[{name!r}].", layer if layer in adata.layers else None)
    cycle = cell_cycle_scores(values, adata.var_names)
    rows = adata.obs_names.get_indexer(data.obs_names)
    has = rows >= 0
    place = sp.csr_matrix((np.ones(has.sum(), np.float32), (np.flatnonzero(has), rows[has])), (len(rows), adata.n_obs))
    if cycle is not None:
        cycle = np.where(has[:, None], cycle[rows], np.nan)
    return (place @ values).tocsr(), cycle


def lognormalised(adata: Any, owner: str, layer: str | None) -> sp.csr_matrix:
    """Log-normalised values of all genes, (n_obs, n_vars) CSR; those that are so already stay as they are."""
    matrix, where = _matrix(adata, layer, owner, "layer")
    counts = _loaded(matrix)
    asks = type("the score", (Method,), {"needs": ("lognorm",)})()
    kind, depth = scan(counts, adata, where, asks)
    return counts if kind == "log-normalised" else in_unit(counts, depth, "lognorm")
