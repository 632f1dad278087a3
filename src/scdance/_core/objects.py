"""What a user may pass as data, and the parts of it that are read and written: tables, places, modalities."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from scdance import _checks
from scdance._checks import InputError, MissingKeyError, WrongTypeError, listed, nearest
from scdance._settings import unpulled

from .task import Task

# Names under which a modality may stand, by its kind.
ALIASES = {"rna": ("rna", "gex"), "prot": ("prot", "adt", "protein"), "atac": ("atac", "peaks")}
FEWEST_PLACES = 3  # different coordinates that make a tissue
SPATIAL = "spatial"  # where coordinates stand unless a key is typed
# Columns that hold coordinates in the files of common platforms, in lower case; first along x.
COLUMNS = (
    ("x", "y"),
    ("x_centroid", "y_centroid"),
    ("center_x", "center_y"),
    ("pxl_col_in_fullres", "pxl_row_in_fullres"),
)


def kind_of(data: Any) -> str:
    """Name of the class of an object, "AnnData" also for what derives from it."""
    import anndata as ad

    return "AnnData" if isinstance(data, ad.AnnData) else type(data).__name__


def check_kind(data: Any, allowed: Iterable[str]) -> None:
    """Refuse an object of a kind that the task does not take, and say what to pass instead."""
    import scipy.sparse as sp

    kind, allowed = kind_of(data), tuple(allowed)
    if kind in allowed:
        return
    hint = ""
    if kind == "MuData":
        hint = f" Pass one modality: {listed(f'mdata[{name!r}]' for name in data.mod)}."
    elif kind == "SpatialData":
        hint = f" Pass one table: {listed(f'sdata.tables[{name!r}]' for name in data.tables)}."
    elif kind == "AnnData" and "MuData" in allowed:
        hint = " Join the layers of the same cells first: `mudata.MuData({'rna': rna, 'prot': prot})`."
    elif kind in ("DataFrame", "ndarray") or sp.issparse(data):
        hint = " Wrap it: `anndata.AnnData(data)`, cells in rows."
    elif isinstance(data, str):
        hint = f" Read the file first: {' or '.join(READERS[each] for each in allowed)}."
    msg = f"Expected {' or '.join(allowed)}, found {kind}.{hint}"
    raise WrongTypeError(msg)


READERS = {
    "AnnData": "`anndata.read_h5ad(path)`",
    "MuData": "`mudata.read_h5mu(path)`",
    "SpatialData": "`spatialdata.read_zarr(path)`",
}


def check_shape(adata: Any, what: str = "The AnnData") -> Any:
    """Refuse an AnnData without cells or genes."""
    if 0 in adata.shape:
        msg = (
            f"{what} has {adata.n_obs} cells × {adata.n_vars} genes; at least one of each is needed. Look at the "
            "filter or selection that left none."
        )
        raise InputError(msg)
    return adata


def opened(data: Any, task: Task, table_key: str | None = None) -> Any:
    """The object whose slots a task reads and fills: the AnnData or MuData itself, or a table of a SpatialData."""
    check_kind(data, task.data)
    kind = kind_of(data)
    if table_key is not None and kind != "SpatialData":
        msg = f"`table_key` names a table of a SpatialData, but this is {kind}; leave it out."
        raise InputError(msg)
    if kind == "AnnData":
        return check_shape(data)
    if kind == "MuData":
        return data
    names = list(data.tables)
    if table_key is None:
        if not names:
            msg = (
                "The SpatialData has no table, which would hold the expression of each spot. "
                "Add one: `sdata.tables['table'] = adata`."
            )
            raise InputError(msg)
        if len(names) > 1:
            msg = f"The SpatialData has {len(names)} tables ({listed(names)}); pass one of them as `table_key=`."
            raise InputError(msg)
        table_key = names[0]
    if table_key not in names:
        msg = f"The SpatialData has no table {table_key!r}; it has {listed(names)}.{nearest(table_key, names)}"
        raise MissingKeyError(msg)
    return check_shape(data.tables[table_key], f"Table {table_key!r}")


def copied(data: Any, table: Any) -> tuple[Any, Any]:
    """A copy of the object to return, and the table in it to write into.

    A backed AnnData is copied to memory. A SpatialData gets a new table and shares its images, shapes and points.
    """
    kind = kind_of(data)
    if kind == "MuData":
        with unpulled():
            new = data.copy()
        return new, new
    if kind != "SpatialData":
        new = data.to_memory() if getattr(data, "isbacked", False) else data.copy()
        return new, new
    tables = {name: each.copy() if each is table else each for name, each in data.tables.items()}
    new = type(data)(
        images=dict(data.images),
        labels=dict(data.labels),
        points=dict(data.points),
        shapes=dict(data.shapes),
        tables=tables,
        attrs=dict(data.attrs),
    )
    return new, next(tables[name] for name, each in data.tables.items() if each is table)


# ---------------------------------------------------------------------- places


def places(data: Any, table: Any, *, spatial_key: str, coordinate_system: str) -> np.ndarray | None:
    """Coordinates of the rows of `table`, (n_obs, 2 or 3) float64; None if there are none.

    Those of a SpatialData are the centroids of the shapes or labels that the table annotates, in the named
    coordinate system, found by the instance key and never by their order. Without them, and in an AnnData,
    they stand in ``obsm[spatial_key]``.
    """
    if kind_of(data) == "SpatialData":
        found = _centroids(data, table, coordinate_system)
        if found is not None:
            return _checked(found, f"coordinate system {coordinate_system!r}")
    if spatial_key not in table.obsm:
        return None
    try:
        values = np.asarray(table.obsm[spatial_key], dtype=np.float64)
    except (TypeError, ValueError) as error:
        msg = (
            f"`obsm[{spatial_key!r}]` must hold numbers, but {error}. Convert it: "
            f"`adata.obsm[{spatial_key!r}] = adata.obsm[{spatial_key!r}].astype(float)`."
        )
        raise InputError(msg) from error
    if values.ndim != 2 or values.shape[1] not in (2, 3):
        msg = f"`obsm[{spatial_key!r}]` has shape {values.shape}, but ({table.n_obs}, 2) or (…, 3) is expected."
        raise InputError(msg)
    return _checked(values, f"obsm[{spatial_key!r}]")


def needed_places(data: Any, table: Any, who: str, *, spatial_key: str, coordinate_system: str) -> np.ndarray:
    """The same, refused where there are none; `who` needs them."""
    found = places(data, table, spatial_key=spatial_key, coordinate_system=coordinate_system)
    if found is None:
        msg = (
            f"{who} needs the coordinates of the spots, but there is no `obsm[{spatial_key!r}]`; "
            f"obsm has {listed(table.obsm)}. Pass the key that holds them as `spatial_key=`"
            f"{_from_columns(table, spatial_key)}."
        )
        raise MissingKeyError(msg)
    return found


def offered_places(data: Any, table: Any, who: str, *, spatial_key: str, coordinate_system: str) -> np.ndarray | None:
    """The same for `who` can do without: None if there are none, or all are 0; a key that was typed must be there."""
    placed = kind_of(data) == "SpatialData" and table.uns.get("spatialdata_attrs") is not None
    there = not placed and spatial_key in table.obsm
    if there and table.n_obs > 1 and not np.asarray(table.obsm[spatial_key]).any():
        return None
    if spatial_key != SPATIAL:
        return needed_places(data, table, who, spatial_key=spatial_key, coordinate_system=coordinate_system)
    return places(data, table, spatial_key=spatial_key, coordinate_system=coordinate_system)


def _from_columns(table: Any, spatial_key: str) -> str:
    """How to make coordinates of columns of `obs`, if some are called like them or `obsm` holds nothing."""
    known = {str(name).lower(): str(name) for name in table.obs}
    pair = next(([known[x], known[y]] for x, y in COLUMNS if x in known and y in known), None)
    if pair is None and len(table.obsm):
        return ""
    line = f"`adata.obsm[{spatial_key!r}] = adata.obs[{pair or ['x', 'y']}].to_numpy()`"
    return f", or write them there: {line}{'' if pair else ' with your columns'}"


def _checked(values: np.ndarray, where: str) -> np.ndarray:
    """Refuse coordinates that lay nothing out."""
    if not np.isfinite(values).all():
        n_bad = int((~np.isfinite(values)).any(axis=1).sum())
        line = f": `adata = adata[np.isfinite(adata.{where}).all(axis=1)].copy()`" if where.startswith("obsm") else ""
        msg = (
            f"The coordinates in {where} are missing or infinite for {n_bad} of {len(values)} spots. Fill them in, or "
            f"leave these spots out{line}."
        )
        raise InputError(msg)
    n = len(np.unique(values, axis=0))
    if n < min(FEWEST_PLACES, len(values)):
        msg = (
            f"The coordinates in {where} hold {n} different places for {len(values)} spots, so they lay nothing out. "
            f"Pass the true ones as `{'spatial_key' if where.startswith('obsm') else 'coordinate_system'}=`."
        )
        raise InputError(msg)
    return values


def _centroids(sdata: Any, table: Any, coordinate_system: str) -> np.ndarray | None:
    """Centroids of what a table annotates, in the order of its rows; None if it annotates nothing."""
    from spatialdata import get_centroids
    from spatialdata.transformations import get_transformation

    attrs = table.uns.get("spatialdata_attrs")
    if attrs is None:
        return None
    regions = table.obs[attrs["region_key"]].astype(str).to_numpy()
    instances = table.obs[attrs["instance_key"]].to_numpy()
    out = np.full((table.n_obs, 2), np.nan)
    for region in dict.fromkeys(regions):
        elements = {**sdata.shapes, **sdata.labels, **sdata.points}
        if region not in elements:
            msg = (
                f"The table annotates {region!r}, but the SpatialData has {listed(elements)}. Add that element, or "
                "pass the table alone, an AnnData, with its coordinates in `obsm['spatial']`."
            )
            raise MissingKeyError(msg)
        systems = list(get_transformation(elements[region], get_all=True))
        if coordinate_system not in systems:
            msg = (
                f"{region!r} has no coordinate system {coordinate_system!r}; it has {listed(systems)}. "
                f"Pass one of them as `coordinate_system=`.{nearest(coordinate_system, systems)}"
            )
            raise MissingKeyError(msg)
        element = elements[region]
        if hasattr(element, "sort_index"):  # shapes in another order than their index make spatialdata warn
            element = element.sort_index()
        centroids = get_centroids(element, coordinate_system=coordinate_system).compute()
        rows = np.flatnonzero(regions == region)
        found = centroids.reindex(instances[rows])
        if found.isna().any(axis=None):
            lost = instances[rows][found.isna().any(axis=1).to_numpy()]
            msg = f"{len(lost)} rows of the table annotate instances that {region!r} does not have ({listed(lost, 3)})."
            raise InputError(msg)
        out[rows] = found[["x", "y"]].to_numpy()
    return out


def slices_of(data: Any, table: Any, library_key: str | None) -> tuple[np.ndarray, list[str]] | None:
    """Slice of each row of `table` as codes, (n_obs,) int32, and their names; None: all lie on one.

    They stand in ``obs[library_key]``; in a SpatialData each region that the table annotates is a slice.
    """
    import pandas as pd

    if library_key is None:
        attrs = table.uns.get("spatialdata_attrs") if kind_of(data) == "SpatialData" else None
        if attrs is None or table.obs[attrs["region_key"]].nunique() < 2:
            return None
        library_key = attrs["region_key"]
    what = "the column with the slices"
    values = _checks.column(table.obs, library_key, where="adata.obs", what=what, argument="library_key")
    if pd.isna(values).any():
        msg = f"`adata.obs[{library_key!r}]` has {int(pd.isna(values).sum())} missing values; every spot needs a slice."
        raise InputError(msg)
    found = pd.Categorical(values.astype(str))
    return found.codes.astype(np.int32), list(found.categories)


def apart(adata: Any, spatial_key: str = "spatial", library_key: str | None = None) -> np.ndarray:
    """Coordinates of an AnnData with its slices side by side, so that no spot is near one of another slice."""
    coords = needed_places(adata, adata, "The score", spatial_key=spatial_key, coordinate_system="")
    slices = slices_of(adata, adata, library_key)
    if slices is None:
        return coords
    width = np.ptp(coords[:, 0]) + np.ptp(coords, axis=0).max()
    return coords + np.eye(1, coords.shape[1]) * (2 * width * slices[0])[:, None]


# ---------------------------------------------------------------------- modalities


def kind_of_modality(name: str) -> str:
    """What a modality of this name measures: "rna", "prot" or "atac"; "rna" where the name says nothing."""
    return next((kind for kind, names in ALIASES.items() if name.lower() in names), "rna")


def modality(mdata: Any, name: str, argument: str) -> str:
    """The modality of this name or, if exactly one has an alias of it, that one."""
    there = list(mdata.mod)
    if name in there:
        return name
    kind = next((kind for kind, names in ALIASES.items() if str(name).lower() in names), None)
    meant = [each for each in there if kind is not None and each.lower() in ALIASES[kind]]
    if len(meant) == 1:
        return meant[0]
    several = f" {listed(map(repr, meant))} could be meant." if meant else nearest(name, there)
    msg = f"The MuData has no modality {name!r}; it has {listed(there)}.{several} Pass one of them as `{argument}=`."
    raise MissingKeyError(msg)


def two_modalities(mdata: Any, source: str | None, target: str | None) -> tuple[str, str]:
    """Names of the two modalities to work on; of two, the one that measures RNA comes first unless named otherwise."""
    there = list(mdata.mod)
    if len(there) < 2:
        msg = f"The MuData has {len(there)} modality ({listed(there)}), but two are needed."
        raise InputError(msg)
    named = [
        None if each is None else modality(mdata, each, arg) for each, arg in ((source, "source"), (target, "target"))
    ]
    if None in named and len(there) > 2:
        msg = f"The MuData has {len(there)} modalities ({listed(there)}); pass two of them as `source=` and `target=`."
        raise InputError(msg)
    if named == [None, None]:
        first, second = sorted(there, key=lambda each: kind_of_modality(each) != "rna")
    else:
        given = next(each for each in named if each is not None)
        other = next(each for each in there if each != given)
        first, second = named[0] or other, named[1] or other
    if first == second:
        msg = f"`source` and `target` are both {first!r}; pass two of {listed(there)}."
        raise InputError(msg)
    for each in (first, second):
        check_shape(mdata.mod[each], f"Modality {each!r}")
        _checks.unique_names(mdata.mod[each].obs_names, f"mdata[{each!r}].obs")
    return first, second
