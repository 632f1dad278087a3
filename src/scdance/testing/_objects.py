"""What a user's object holds, and whether two hold the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scdance._core.objects import copied as _copied
from scdance._core.task import BY_GENE
from scdance._settings import unpulled

if TYPE_CHECKING:
    from scdance._core.task import Task

SLOTS = ("obs", "var", "obsm", "varm", "obsp", "varp", "uns")
MATRIX = re.compile(r"(ref/)?(mod/[^/]+/)?(X|raw|layers)(/.*)?")  # names of what holds expression


def copied(data: Any) -> Any:
    """A copy of an AnnData or MuData."""
    return _copied(data, data)[0]


def taken(data: Any, rows: Any, columns: Any = slice(None)) -> Any:
    """Some rows and columns of an AnnData or MuData, as a new object."""
    with unpulled():
        return data[rows, columns].copy()


def through_a_file(data: Any, folder: Path) -> Any:
    """The object as it is read back after it was written."""
    import anndata
    import mudata

    with unpulled():
        if hasattr(data, "mod"):
            data.write_h5mu(folder / "x.h5mu")
            return mudata.read_h5mu(folder / "x.h5mu")
        data.write_h5ad(folder / "x.h5ad")
        return anndata.read_h5ad(folder / "x.h5ad")


def parts(data: Any, under: str = "") -> dict[str, Any]:
    """Everything in an object, flat: "X", "obs/cell_type", "uns/scdance/cluster/…", "mod/rna/X"."""
    found = {f"{under}obs_names": data.obs_names, f"{under}var_names": data.var_names}
    for where in SLOTS:
        found |= flat(f"{under}{where}", dict(getattr(data, where)))
    if hasattr(data, "mod"):
        found |= flat(f"{under}obsmap", dict(data.obsmap))
        for name, each in data.mod.items():
            found |= parts(each, f"{under}mod/{name}/")
        return found
    found |= {f"{under}X": data.X, **flat(f"{under}layers", dict(data.layers))}
    if data.raw is not None:
        found[f"{under}raw/X"] = data.raw.X
    return found


def is_matrix(name: str) -> bool:
    """Whether a part of this name holds expression."""
    return MATRIX.fullmatch(name) is not None


def flat(name: str, value: Any) -> dict[str, Any]:
    """A nested dict as one, the names joined by "/"."""
    if not isinstance(value, dict):
        return {name: value}
    return {k: v for key, inner in value.items() for k, v in flat(f"{name}/{key}", inner).items()}


def same(a: Any, b: Any, tolerance: float = 0.0) -> bool:
    """Whether two values of an object are equal in kind, type, shape and numbers."""
    import pandas as pd

    if sp.issparse(a) or sp.issparse(b):
        if not (sp.issparse(a) and sp.issparse(b)) or (a.format, a.shape) != (b.format, b.shape):
            return False
        return all(same(getattr(a, name), getattr(b, name), tolerance) for name in ("data", "indices", "indptr"))
    if isinstance(a, pd.DataFrame) or isinstance(b, pd.DataFrame):
        if not (isinstance(a, pd.DataFrame) and isinstance(b, pd.DataFrame)):
            return False
        both = ((a.index, b.index), (a.columns, b.columns), (a.to_numpy(), b.to_numpy()))
        return all(same(one, other, tolerance) for one, other in both)
    if isinstance(a, pd.Series) and isinstance(b, pd.Series) and isinstance(a.dtype, pd.CategoricalDtype):
        return a.dtype == b.dtype and a.cat.codes.equals(b.cat.codes)
    a, b = (value.astype(str) if value.dtype.kind in "OUT" else value for value in map(np.asarray, (a, b)))
    if a.shape != b.shape or (a.dtype != b.dtype and a.dtype.kind != "U"):
        return False
    if a.dtype.kind == "f":
        return bool(np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True))
    return bool(np.array_equal(a, b))


def unlike(a: dict[str, Any], b: dict[str, Any], tolerance: float = 0.0) -> list[str]:
    """Names whose values differ or that one of the two lacks."""
    return [name for name in {**a, **b} if name not in a or name not in b or not same(a[name], b[name], tolerance)]


def genes_of(task: Task, result: dict[str, Any], columns: Any) -> dict[str, Any]:
    """The same result with the genes in another order."""
    kinds = {part: task.gives[part].kind for part in result}
    moved = {part: value[:, columns] for part, value in result.items() if kinds[part] == "expression"}
    return {**result, **moved, **{part: result[part].iloc[columns] for part in result if kinds[part] in BY_GENE}}


def by_cell(task: Task, result: dict[str, Any]) -> dict[str, Any]:
    """The parts of a result that have a row for each cell."""
    return {part: value for part, value in result.items() if task.gives[part].kind not in BY_GENE}


def rows_of(result: dict[str, Any], rows: Any) -> dict[str, Any]:
    """The same result for some of the cells; links are those among them."""

    def of(value: Any) -> Any:
        if sp.issparse(value) and value.shape[0] == value.shape[1]:
            return value[rows][:, rows]
        return value.iloc[rows] if hasattr(value, "iloc") else value[rows]

    return {part: of(value) for part, value in result.items()}


def nameless(result: dict[str, Any]) -> dict[str, Any]:
    """Results without the names of the cells, and without categories that none of them has."""
    bare = {part: v.reset_index(drop=True) if hasattr(v, "reset_index") else v for part, v in result.items()}
    return {part: v.cat.remove_unused_categories() if hasattr(v, "cat") else v for part, v in bare.items()}
