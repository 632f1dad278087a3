"""From the user's object to Cells: what a method needs and uses is read, checked and preprocessed on a private copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from scdance import _checks
from scdance._checks import InputError, MissingKeyError, listed, warn
from scdance._settings import logger
from scdance.pp import (
    FittedRecipe,
    OnDisk,
    Recipe,
    Rows,
    Transformed,
    blocks,
    canonical,
    checked_pairs,
    is_on_disk,
    shared_genes,
)

from . import registry
from .cells import Cells, Image, Pair
from .expression import refuse_wide
from .images import read_images
from .method import Method
from .objects import (
    check_kind,
    check_shape,
    kind_of_modality,
    modality,
    needed_places,
    offered_places,
    slices_of,
    two_modalities,
)
from .panel import N_ASKED, panel
from .perturbed import screened
from .scan import scan
from .task import TASKS, Task

VARYING = Recipe(filter_genes={"min_counts": 1}, select_genes={"n_top": N_ASKED})
FEW_CELLS = 2  # of a type: a single one is no mean


def read_roles(
    task: Task,
    model: Method,
    data: Any,
    table: Any,
    *,
    ref: Any = None,
    labels_key: str | None = None,
    ref_layer: str | None = None,
    source: str | None = None,
    target: str | None = None,
    layer: Any = None,
    spatial_key: str = "spatial",
    library_key: str | None = None,
    image_key: Any = None,
    coordinate_system: str = "global",
    perturbation_key: str | None = None,
    control: str = "control",
    targets: Any = None,
    genes: Any = None,
    recipe: str | None = "default",
    **given: Any,
) -> dict[str, Any]:
    """Read what `model` needs and uses, by the roles of its task: Cells, and a Pair for the role "pair".

    `table` is the AnnData or MuData in the user's object `data`; `given` are further arguments of :func:`read`.
    """
    _checks.one_of(recipe, ("default", None), "recipe")
    if perturbation_key is not None:
        _refuse_word(model, "perturbation", "perturbation_key")
    if "pair" in task.roles:
        given["labels_key"] = labels_key
        return {"pair": _pair(task, table, model, source, target, layer=layer, recipe=recipe, **given)}
    out: dict[str, Any] = {}
    if task.asks_genes:
        _refuse_second_reference(model, ref=ref, genes=genes)
        visible, common, asked = panel(table, model, ref, genes)
        given["kind"] = _kind(table[:, visible], model, layer)
        table = table[:, common]  # of a view: what is asked is not even looked at
        if not model.is_fitted:
            out["ref"] = _with_target(task, ref, model, common, asked, ref_layer, recipe)
        refuse_wide(table.n_obs, (out["ref"].target.prep if out else model.preps_["target"]).var_names)
    elif "ref" in task.roles:
        _refuse_second_reference(model, ref=ref, labels_key=labels_key)
        if not model.is_fitted:
            out["ref"] = reference(ref, model, labels_key, ref_layer, recipe, shared_with=table.var_names)
    coords = slices = images = None
    words = (*model.needs, *model.uses)
    if "coords" in words:
        where = {"spatial_key": spatial_key, "coordinate_system": coordinate_system}
        if "coords" in model.needs:
            coords = needed_places(data, table, type(model).__name__, **where)
        else:
            coords = offered_places(data, table, type(model).__name__, **where)
    for word, argument, value in (("slice", "library_key", library_key), ("image", "image_key", image_key)):
        if value is not None:
            _refuse_word(model, word, argument)
    if "slice" in words:
        slices = slices_of(data, table, library_key)
    if "image" in words:
        images = read_images(data, table, coords, slices, image_key, coordinate_system=coordinate_system)
    prep = out["ref"].prep if "ref" in out else None
    if isinstance(model.recipe, dict):  # each side by its own numbers, on the genes that the reference has kept
        given["genes"] = None if prep is None else prep.var_names
        prep = None
    if "ref" not in task.roles:
        given["labels_key"] = labels_key
    if "perturbation" in words:
        split_key = given.pop("split_key", None)
        rows, screen = screened(table, model, perturbation_key, control, targets, split_key)
        # of a view: what the other cells hold is not even looked at
        cells = read(table[rows], model, layer=layer, recipe=recipe, **given)
        told = {"perturbation_key": perturbation_key, "control": control, "split_key": split_key}
        cells.extra["input"] |= {name: value for name, value in told.items() if value is not None}
        out["cells"] = replace(cells, rows=rows[cells.rows], n_obs_in=table.n_obs, screen=screen.among(cells.rows))
        return out
    out["cells"] = read(
        table, model, prep=prep, coords=coords, slices=slices, images=images, layer=layer, recipe=recipe, **given
    )
    return out


def read(
    adata: Any,
    model: Method,
    *,
    prep: FittedRecipe | None = None,
    coords: np.ndarray | None = None,
    slices: tuple[np.ndarray, list[str]] | None = None,
    images: tuple[Image, ...] | None = None,
    layer: str | None = None,
    use_rep: str | None = None,
    batch_key: str | None = None,
    neighbors_key: str | None = None,
    labels_key: str | None = None,
    must_link: Any = None,
    cannot_link: Any = None,
    recipe: str | None = "default",
    genes: np.ndarray | None = None,
    kind: str | None = None,
) -> Cells:
    """Read from an AnnData what `model` needs and uses, check it, and preprocess a private copy.

    A fitted model gets the cells with the genes and the numbers that its recipe learnt in training; with `prep`,
    a model gets them with those that the recipe learnt from a reference. `kind` says what the values are, where that
    was seen of more genes.
    """
    check_kind(adata, ("AnnData",))
    check_shape(adata)
    _checks.one_of(recipe, ("default", None), "recipe")
    _refuse_unused(
        model, use_rep=use_rep, batch_key=batch_key, neighbors_key=neighbors_key, labels_key=labels_key,
        must_link=must_link, cannot_link=cannot_link,
    )  # fmt: skip
    if model.is_fitted:
        _refuse_other_input(model, use_rep, recipe)
        prep = model.preps_["cells"]
    given: dict[str, Any] = {"n_obs_in": adata.n_obs, "n_vars_in": adata.n_vars, "coords": coords, "images": images}
    if slices is not None:
        given["slice"] = slices[0]
    if batch_key is not None:
        given["batch"], given["batch_names"], given["sample"] = _batch(adata, batch_key, model)
    if neighbors_key is not None:
        given["graph"] = _graph(adata, neighbors_key)
    if use_rep is not None:
        given["rep"] = _representation(adata, use_rep, model)
    if labels_key is not None:
        given["labels"], given["categories"] = labels_of(adata, labels_key, "adata")
    pairs = None
    if must_link is not None or cannot_link is not None:
        pairs = checked_pairs(must_link, cannot_link, adata.obs_names)
    # a graph stands for the expression, but for methods that need the counts beside it
    if use_rep is None and (neighbors_key is None or "counts" in model.needs):
        columns = None if genes is None else adata.var_names.get_indexer(genes)
        steps = _steps(model, "cells")
        found = _from_matrix(adata, model, steps, prep, layer, recipe, given, genes=columns, kind=kind)
        return _with_pairs(found, pairs)
    # The values stand for the expression: the matrix is not read at all.
    _check_n_clusters(model, adata.n_obs)
    where = f"obsm[{use_rep!r}]" if use_rep else f"obsp of {neighbors_key!r}"
    return Cells(
        prep=prep or FittedRecipe(np.array([], dtype=str)),
        rows=np.arange(adata.n_obs),
        obs_names=np.asarray(adata.obs_names, dtype=str),
        var_names=np.array([], dtype=str),
        extra={"input": {"layer": where, "kind": "given"}},
        **given,
    )


def reference(
    ref: Any,
    model: Method,
    labels_key: str | None,
    layer: str | None,
    recipe: str | None,
    *,
    shared_with: Sequence[str] | None = None,
) -> Cells:
    """The cells of a reference with their labels, or a table of profiles with one row per type.

    Only genes that are also in `shared_with` are read; None: all.
    """
    import anndata as ad
    import pandas as pd

    if ref is None:
        msg = (
            f"{type(model).__name__} learns from a reference: pass annotated cells as `ref=` and the column of "
            "`ref.obs` with their types as `labels_key=`."
        )
        raise InputError(msg)
    if isinstance(ref, pd.DataFrame):
        ref = ad.AnnData(ref)
    check_kind(ref, ("AnnData",))
    check_shape(ref, "The reference")
    _checks.unique_names(ref.var_names, "ref.var")
    genes = None if shared_with is None else shared_genes(ref.var_names, shared_with)
    given: dict[str, Any] = {"n_obs_in": ref.n_obs, "n_vars_in": ref.n_vars}
    if labels_key is None:
        if "ref.labels" in model.needs:
            msg = (
                f"{type(model).__name__} needs cells with labels: pass the column of `ref.obs` with the cell types as "
                f"`labels_key=`. `ref.obs` has {listed(ref.obs.columns)}."
            )
            raise InputError(msg)
        if "ref.labels" in model.uses:
            _refuse_cells(ref)
        _checks.unique_names(ref.obs_names, "ref.obs")
        given["labels"] = np.arange(ref.n_obs, dtype=np.int32)
        given["categories"] = [str(name) for name in ref.obs_names]
        return _from_matrix(ref, model, _steps(model, "ref"), None, layer, recipe, given, genes=genes, role="ref")
    codes, categories = labels_of(ref, labels_key, "ref")
    known = codes >= 0
    if "ref.unlabelled" in model.uses:
        known[:] = True
    elif (codes < 0).any():
        warn(f"{int((codes < 0).sum())} of {ref.n_obs} cells of the reference have no label and are left out.")
    sizes = np.bincount(codes[codes >= 0], minlength=len(categories))
    rare = [name for name, size in zip(categories, sizes, strict=True) if size < FEW_CELLS]
    if rare:
        warn(f"{len(rare)} types of the reference have fewer than {FEW_CELLS} cells: {listed(rare)}.")
    given["labels"], given["categories"] = codes, categories
    steps = _steps(model, "ref")
    return _from_matrix(ref, model, steps, None, layer, recipe, given, genes=genes, role="ref", only=known)


def _kind(adata: Any, model: Method, layer: str | None, owner: str = "") -> str:
    """What the values of an object are, by all genes that may be read; what the method cannot use is refused."""
    matrix, where = _matrix(adata, layer, owner, "ref_layer" if owner else "layer")
    return scan(OnDisk(matrix) if is_on_disk(matrix) else canonical(matrix), adata, where, model)[0]


def _with_target(
    task: Task,
    ref: Any,
    model: Method,
    common: np.ndarray,
    asked: np.ndarray | None,
    layer: str | None,
    recipe: str | None,
) -> Cells:
    """The cells of a reference by the genes that both sides have, and beside them by those that are asked.

    `asked` are names; None: those that vary most among the genes that are not common.
    """
    matrix, where = _matrix(ref, layer, "ref.", "ref_layer")
    counts: Rows = OnDisk(matrix) if is_on_disk(matrix) else canonical(matrix)
    kind, depth = scan(counts, ref, where, model)
    logged = kind == "log-normalised"
    names = np.asarray(ref.var_names, dtype=str)
    given: dict[str, Any] = {"n_obs_in": ref.n_obs, "n_vars_in": ref.n_vars}
    cells = _from_matrix(
        ref[:, common], model, _steps(model, "ref"), None, layer, recipe, dict(given), role="ref",
        only=np.ones(ref.n_obs, dtype=bool), kind=kind,
    )  # fmt: skip
    if asked is None:
        others = np.flatnonzero(~np.isin(names, common))
        some = _subset(counts, cells.rows, others)
        columns = others[VARYING.fit(some, depth[cells.rows], names[others], log_input=logged).columns]
    else:
        columns = ref.var_names.get_indexer(asked)
    unit = task.units["rna"] if recipe == "default" else Recipe()
    prep = unit.fit(_subset(counts, cells.rows, columns), depth[cells.rows], names[columns], log_input=logged)
    x, raw = prep.apply(counts, cells.rows, depth, columns)
    target = Cells(
        prep=prep,
        rows=cells.rows,
        obs_names=cells.obs_names,
        var_names=prep.var_names,
        x=x,
        counts=raw if cells.counts is not None else None,
        depth=depth[cells.rows],
        **given,
    )
    # what part of a cell the common genes are: by it, counts of a panel are brought to the unit of the reference
    share = 1.0 if logged else float(cells.depth.sum() / target.depth.sum())  # type: ignore[union-attr]
    told = {"common": common, "share": share, "named": asked is not None}
    return replace(cells, target=target, extra={**cells.extra, "panel": told})


def _steps(model: Method, role: str) -> Recipe:
    """The recipe of a role, where the method has one for each."""
    return model.recipe[role] if isinstance(model.recipe, dict) else model.recipe  # type: ignore[no-any-return]


def _refuse_cells(ref: Any) -> None:
    """Refuse rows that a column of names groups: they are cells, each of which would count as a type."""
    from pandas.api.types import is_numeric_dtype

    names = [name for name, column in ref.obs.items() if not is_numeric_dtype(column)]
    groups = [name for name in names if 1 < ref.obs[name].nunique() < ref.n_obs]
    if groups:
        msg = (
            f"Without `labels_key=`, each of the {ref.n_obs} rows of `ref` is the profile of a type, but columns of "
            f"`ref.obs` group them: {listed(groups)}. Pass the one with the cell types as `labels_key=`, or "
            "`ref.to_df()` if these are profiles."
        )
        raise InputError(msg)


def labels_of(adata: Any, key: str, owner: str) -> tuple[np.ndarray, list[str]]:
    """Codes of the labels in a column of `obs`, −1 where there is none, and their names in order."""
    where = f"{owner}.obs"
    values = _checks.column(adata.obs, key, where=where, what="the column with the cell types", argument="labels_key")
    return _coded(values, f"{where}[{key!r}]")


def _coded(values: Any, where: str) -> tuple[np.ndarray, list[str]]:
    import pandas as pd

    found = pd.Categorical(values)
    found = found.remove_unused_categories().remove_categories([c for c in found.categories if c == ""])
    if len(found.categories) < 2:
        there = listed(found.categories)
        msg = f"`{where}` holds {len(found.categories)} type ({there}); at least 2 are needed."
        raise InputError(msg)
    return found.codes.astype(np.int32), [str(name) for name in found.categories]


def _with_pairs(cells: Cells, pairs: tuple[np.ndarray, np.ndarray] | None) -> Cells:
    """The cells with the pairs among them, as positions in their order; pairs of cells without counts are dropped."""
    if pairs is not None:
        place = np.full(cells.n_obs_in, -1)
        place[cells.rows] = np.arange(cells.n_obs)
        moved = [place[each] for each in pairs]
        cells.extra["pairs"] = tuple(each[(each >= 0).all(axis=1)] for each in moved)
    return cells


def partitions(adata: Any, keys: Sequence[str], *, argument: str = "keys") -> np.ndarray:
    """Groups of the cells in several columns of `obs` as codes, (n_obs, n_keys) int, −1 where a cell has none."""
    import pandas as pd

    what = "a column with a partition"
    columns = [_checks.column(adata.obs, key, where="adata.obs", what=what, argument=argument) for key in keys]
    return np.column_stack([pd.Categorical(column).codes.astype(int) for column in columns])


def modalities(task: Task, model: Method, mdata: Any, source: str | None, target: str | None) -> tuple[str, str]:
    """Names of source and target; a fitted method that gives the target knows its name, and needs the source only."""
    if not (task.suffix and model.is_fitted):
        return two_modalities(mdata, source, target)
    then, gives = model.modalities_
    if target is not None and kind_of_modality(target) != kind_of_modality(gives):
        msg = f"The {type(model).__name__} was fitted to give {gives!r}, not {target!r}; leave out `target=`."
        raise InputError(msg)
    return modality(mdata, source or then, "source"), gives


def _pair(
    task: Task,
    mdata: Any,
    model: Method,
    source: str | None,
    target: str | None,
    *,
    layer: Any,
    recipe: str | None,
    batch_key: str | None = None,
    labels_key: str | None = None,
    split_key: str | None = None,
    prior: Any = None,
    symbols: dict[str, str] | None = None,
    **given: Any,
) -> Pair:
    """Both modalities of a MuData, and which cells they share; where the target is asked for, of those that teach."""
    if any(value is not None for value in given.values()):
        _refuse_unused(model, **given)
    for word, argument, value in (
        ("batch", "batch_key", batch_key),
        ("labels", "labels_key", labels_key),
        ("prior", "prior", prior),
    ):
        if value is not None:
            _refuse_word(model, word, argument)
    if symbols is not None and prior is None:
        msg = "`symbols=` gives other names of genes to a `prior=`: pass one, or leave `symbols=` out."
        raise InputError(msg)
    names = modalities(task, model, mdata, source, target)
    asks = bool(task.suffix)  # for the target: only cells that teach are read of it, and none by a fitted method
    layers = layer if isinstance(layer, dict) else dict.fromkeys(names, layer)
    for each in layers:
        _checks.one_of(each, names, "Modality in `layer`")
    roles = {"source": names[0]} if asks and model.is_fitted else dict(zip(("source", "target"), names, strict=True))
    teaching = None
    if asks and not model.is_fitted:
        teaching = teachers(mdata, names, split_key)
        if not len(teaching):
            raise InputError(_no_cell_in_both(mdata, names))
    read_in: dict[str, Cells] = {}
    for role, name in roles.items():
        adata = mdata.mod[name]
        kind = kind_of_modality(name)
        steps: Any = _steps(model, kind or "")
        steps = task.units.get(kind, steps) if role == "target" else steps
        prep = model.preps_[role] if model.is_fitted else None
        own: dict[str, Any] = {"n_obs_in": adata.n_obs, "n_vars_in": adata.n_vars, "modality": kind}
        if role == "source" or not asks:
            own |= _of_source(mdata, name, batch_key, labels_key if role == "source" else None)
        inside = None if teaching is None else np.isin(adata.obs_names.to_numpy(dtype=str), teaching)
        read_in[role] = _from_matrix(
            adata, model, steps, prep, layers.get(name), recipe, own, name=name,
            only=inside if role == "target" else None, learn=inside if role == "source" else None,
        )  # fmt: skip
        read_in[role].extra["input"]["modality"] = name
    if batch_key is not None and "target" in read_in and not asks:
        read_in |= _same_batches(read_in)
    told = read_in["source"].extra["input"]
    if batch_key is not None:
        told["batch_key"] = batch_key
    if teaching is not None:
        told["n_teaching"] = len(teaching)
        if split_key is not None:
            told["split_key"] = split_key
    pair = Pair.of(read_in["source"], read_in.get("target"), np.asarray(mdata.obs_names, dtype=str))
    if len(pair.both) == 0 and not model.is_fitted:
        raise InputError(_no_cell_in_both(mdata, names))
    if prior is not None and pair.target is not None:
        from scdance.graph import prior_graph

        links, told = prior_graph(prior, np.concatenate([pair.source.var_names, pair.target.var_names]), symbols)
        pair = replace(pair, prior=links)
        pair.source.extra["input"]["prior"] = told
    return pair


def _no_cell_in_both(mdata: Any, names: Sequence[str]) -> str:
    """The message for modalities that share no cell."""
    there = [listed(mdata.mod[name].obs_names, 3) for name in names]
    return (
        f"No cell is in both modalities: {there[0]} in {names[0]!r}, {there[1]} in {names[1]!r}. A cell needs the same "
        "name in both."
    )


def _of_source(mdata: Any, name: str, batch_key: str | None, labels_key: str | None) -> dict[str, Any]:
    """Batch and labels of the cells of a modality, from its own `obs` or that of the MuData."""
    import pandas as pd

    out: dict[str, Any] = {}
    if batch_key is not None:
        values = _column_of(mdata, name, batch_key, "the column with the batches", "batch_key")
        if pd.isna(values).any():
            msg = (
                f"{batch_key!r} has {int(pd.isna(values).sum())} missing values in {name!r}; every cell needs a batch. "
                "Name those that are missing, or leave their cells out."
            )
            raise InputError(msg)
        found = pd.Categorical(values.astype(str))
        out |= {"batch": found.codes.astype(np.int32), "batch_names": list(found.categories)}
    if labels_key is not None:
        values = _column_of(mdata, name, labels_key, "the column with the cell types", "labels_key")
        out["labels"], out["categories"] = _coded(values, f"mdata[{name!r}].obs[{labels_key!r}]")
    return out


def _same_batches(sides: dict[str, Cells]) -> dict[str, Cells]:
    """Both modalities with codes of one list of batches."""
    names = sorted({name for cells in sides.values() for name in cells.batch_names or ()})
    out = {}
    for role, cells in sides.items():
        own = np.array([names.index(name) for name in cells.batch_names or ()], dtype=np.int32)
        out[role] = replace(cells, batch=own[cells.batch], batch_names=names)
    return out


def _column_of(mdata: Any, name: str, key: str, what: str, argument: str) -> Any:
    """A column of the modality's `obs`, or of that of the MuData for its cells."""
    adata = mdata.mod[name]
    if key not in adata.obs and key in mdata.obs:
        return mdata.obs[key].reindex(adata.obs_names)
    return _checks.column(adata.obs, key, where=f"mdata[{name!r}].obs", what=what, argument=argument)


def teachers(mdata: Any, names: Sequence[str], split_key: str | None) -> np.ndarray:
    """Names of the cells that are in all these modalities and, of those, that a column of the first says teach."""
    both = np.intersect1d(*(mdata.mod[name].obs_names.to_numpy(dtype=str) for name in names))
    if split_key is None or not len(both):
        return both
    values = _column_of(mdata, names[0], split_key, "the column that says which cells teach", "split_key").reindex(both)
    return both[_checks.teaching(values, split_key)]


def _from_matrix(
    adata: Any,
    model: Method,
    steps: Recipe,
    prep: FittedRecipe | None,
    layer: str | None,
    recipe: str | None,
    given: dict[str, Any],
    *,
    genes: np.ndarray | None = None,
    only: np.ndarray | None = None,
    learn: np.ndarray | None = None,
    role: str = "cells",
    name: str = "",
    kind: str | None = None,
) -> Cells:
    """Cells with expression: checked, without the empty ones, after the recipe.

    `prep` is applied if given, else `steps` are fitted to the columns `genes` of the rows `only`; of these to the
    rows `learn`, if given. `kind` is given for the common genes of a panel, which were checked among others.
    """
    owner = {"ref": "ref.", "cells": ""}[role] if not name else f"mdata[{name!r}]."
    _checks.unique_names(adata.var_names, f"{owner}var")
    matrix, where = _matrix(adata, layer, owner, "ref_layer" if role == "ref" else "layer")
    counts: Rows = OnDisk(matrix) if is_on_disk(matrix) else canonical(matrix)
    profiles = role == "ref" and only is None  # one row per type: means, not counts
    is_panel = kind is not None
    if kind is None:
        kind, depth = scan(counts, adata, where, model, profiles=profiles, proteins=given.get("modality") == "prot")
    else:
        depth = np.concatenate([np.asarray(block.sum(axis=1, dtype=np.float64)).ravel() for _, block in blocks(counts)])
    rows = np.flatnonzero(depth > 0 if only is None else (depth > 0) & only)
    if len(rows) == 0:
        msg = f"All {adata.n_obs} cells of `{where}` are empty; pass the layer that holds the counts as `layer=`."
        raise InputError(msg)
    n_empty = int((depth == 0).sum())
    if n_empty and is_panel:
        warn(
            f"{n_empty} of {adata.n_obs} cells have no counts in `{where}` of the genes that both sides have; they "
            "take no part, and such cells of the panel get the mean of the others."
        )
    elif n_empty:
        table = (owner or "adata.").removesuffix(".")
        warn(
            f"{n_empty} of {adata.n_obs} cells have no counts in `{where}`; they take no part and get "
            f"no label. To remove them: `sc.pp.filter_cells({table}, min_counts=1)`."
        )
    _check_n_clusters(model, len(rows))
    if prep is None:
        steps = steps if recipe == "default" else Recipe()
        taught = rows if learn is None else rows[learn[rows]]
        kept = _subset(counts, taught, genes)
        names = adata.var_names if genes is None else adata.var_names[genes]
        prep = steps.fit(kept, depth[taught], names, log_input=kind == "log-normalised")
        if len(prep.var_names) == 0:
            msg = f"The recipe ({steps}) keeps none of the {len(names)} genes of `{where}`."
            raise InputError(msg)
    else:
        _refuse_other_kind(model, prep, where, kind)
    columns = prep.find(adata.var_names)
    missing = int((columns < 0).sum())
    if missing:
        fate = "they are left out" if model.skips_missing else "they count as 0"
        say = warn if model.is_fitted else logger.info  # genes of a vocabulary to be learnt may be of other data sets
        say(f"{missing} of the {len(columns)} genes of the model are not in the object; {fate}.")
    x, raw = prep.apply(counts, rows, depth, columns)
    keeps = bool(model.task) and TASKS[model.task].gives_expression
    whole = {"whole": counts} if keeps else {}  # genes without a result keep their input
    if role == "cells" and model.beside:
        there = np.flatnonzero(np.isin(np.asarray(adata.var_names, dtype=str), model.beside))
        whole["beside"] = _subset(counts, rows, there)
    logger.info("%s: %d cells × %d genes of `%s` (%s)", model.name, len(rows), len(columns), where, kind)
    for part in ("batch", "sample", "labels", "coords", "slice"):
        if given.get(part) is not None:
            given[part] = given[part][rows]
    if given.get("images") is not None:
        given["images"] = tuple(image.among(rows) for image in given["images"])
    if given.get("graph") is not None:
        given["graph"] = given["graph"][rows][:, rows]
    return Cells(
        prep=prep,
        rows=rows,
        obs_names=np.asarray(adata.obs_names, dtype=str)[rows],
        var_names=prep.var_names,
        x=x,
        counts=raw if "counts" in (*model.needs, *model.uses) else None,
        depth=depth[rows],
        present=columns >= 0 if missing else None,
        extra={"input": {"layer": where, "kind": "profiles" if profiles else kind}, **whole},
        **given,
    )


def _subset(counts: Rows, rows: np.ndarray, columns: np.ndarray | None) -> Rows:
    if columns is None and len(rows) == counts.shape[0]:
        return counts
    if columns is None:
        columns = np.arange(counts.shape[1])
        return counts[rows] if sp.issparse(counts) else Transformed(counts, rows, lambda b, _: b, len(columns))
    return Transformed(counts, rows, lambda block, _: canonical(block[:, columns]), len(columns))


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


def _refuse_second_reference(model: Method, **given: Any) -> None:
    """Refuse a reference, and what goes with it, for a model that has learnt from one."""
    typed = [name for name, value in given.items() if value is not None]
    if model.is_fitted and typed:
        name = type(model).__name__
        msg = f"The {name} is fitted already, so {listed(typed)} cannot be set in this call; leave it out."
        raise _checks.UnknownParameterError(msg)


def _refuse_other_kind(model: Method, prep: FittedRecipe, where: str, kind: str) -> None:
    """Refuse counts where the recipe learnt from log-normalised values, and the other way round."""
    logged = kind == "log-normalised"
    if prep.log_input != logged:
        here, then = ("log-normalised", "counts") if logged else ("count", "log-normalised values")
        msg = (
            f"The {type(model).__name__} was fitted on {then}, but `{where}` holds {here} values. "
            f"Pass the layer with {then} as `layer=`."
        )
        raise InputError(msg)


def _refuse_unused(model: Method, **given: Any) -> None:
    """Refuse an input that the method would silently ignore."""
    kinds = {
        "use_rep": "rep",
        "batch_key": "batch",
        "neighbors_key": "graph",
        "labels_key": "labels",
        "must_link": "pairs",
        "cannot_link": "pairs",
    }
    for argument, value in given.items():
        if value is not None:
            _refuse_word(model, kinds[argument], argument)
    if "batch" in model.needs and given["batch_key"] is None:
        msg = f"{type(model).__name__} needs the batch of each cell: pass a column of `adata.obs` as `batch_key=`."
        raise InputError(msg)


def _refuse_word(model: Method, word: str, argument: str) -> None:
    """Refuse an argument whose kind of input the method does not read."""
    read_by_it = (*model.needs, *model.uses)
    if word not in read_by_it:
        others = registry.readers(model.task, word) if model.task else []
        way = f", or take a method that reads it: {listed(others)}" if others else ""
        msg = f"{type(model).__name__} takes no `{argument}=`; it reads {listed(read_by_it)}. Leave it out{way}."
        raise InputError(msg)


def _matrix(adata: Any, layer: str | None, owner: str, argument: str) -> tuple[Any, str]:
    """The matrix to read and its name: `layer`, else layers["counts"], else X."""
    if layer is not None:
        where = f"{owner or 'adata.'}layers"
        _checks.column(adata.layers, layer, where=where, what="the layer with the counts", argument=argument)
        return adata.layers[layer], f"{owner}layers[{layer!r}]"
    if "counts" in adata.layers:
        return adata.layers["counts"], f"{owner}layers['counts']"
    if adata.X is None:
        msg = (
            f"The object has no {owner}X, and layers hold {listed(adata.layers)}; pass the one with the counts as "
            f"`{argument}=`."
        )
        raise MissingKeyError(msg)
    return adata.X, f"{owner}X"


def _batch(adata: Any, key: str, model: Method) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Batch codes and names, in the order of training where the model is fitted, −1 for an unseen one; own codes."""
    import pandas as pd

    values = _checks.column(adata.obs, key, where="adata.obs", what="the column with the batches", argument="batch_key")
    if pd.isna(values).any():
        msg = f"`adata.obs[{key!r}]` has {int(pd.isna(values).sum())} missing values; every cell needs a batch."
        raise InputError(msg)
    own = pd.Categorical(values.astype(str))
    names = list(getattr(model, "batches_", own.categories))
    return own.set_categories(names).codes.astype(np.int32), names, own.codes.astype(np.int32)


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
