"""What predicted perturbations are compared with: the cells of the same perturbations that were measured."""

from __future__ import annotations

from typing import Any

import numpy as np

from scdance._checks import InputError, listed, warn
from scdance.pp import Moments, group_moments, marker_test

from .beside import lognormalised
from .cells import perturbed_genes
from .counts import layer_of
from .objects import check_kind
from .perturbed import coded
from .task import Task
from .write import record_of, slots_of

N_TOP = 20  # differentially expressed genes of a perturbation, as the field counts them


def responses(adata: Any, task: Task, key: str, truth: Any) -> dict[str, Any]:
    """What was measured and what was predicted, by perturbation (row) and gene (column) that both have.

    `truth`, the mean log-normalised expression of the cells, and beside it `profile` and `change`, the prediction, all
    (n_targets, n_genes); `control`, the mean of the control cells of the object, (n_genes,); `top`, positions of the
    genes that tell measured cells from control cells best by Welch's statistic, (n_targets, at most 20) int;
    `names` of the perturbations and `genes`.

    Cells are those of the AnnData `truth`; None: of the object itself.
    """
    told = record_of(adata, task, key)
    name = told.get("input", {}).get("perturbation_key")
    if name is None:
        msg = (
            f"The run {key!r} does not say which column tells what is perturbed in each cell, so nothing can be "
            f"compared with it. Run `scdance.tl.{task.name}` with `perturbation_key=`."
        )
        raise InputError(msg)
    if truth is not None:
        check_kind(truth, ("AnnData",))
    name, control, layer = str(name), str(told["input"]["control"]), layer_of(str(told["input"]["layer"]))
    frames = {part: adata.varm[slot[1]] for part, slot in slots_of(task, key).items()}
    asked = [str(each) for each in told.get("categories", frames["profile"].columns)]
    cells = adata if truth is None else truth
    rows = {each: rows for each, rows in _cells_of(cells, name, control, asked).items() if len(rows)}
    taught = {perturbed_genes(str(each), control) for each in told.get("taught", [])}
    if fits := [each for each in rows if perturbed_genes(each, control) in taught]:
        warn(f"{len(fits)} of the perturbations ({listed(fits)}) taught this run and are left out.")
    columns = [i for i, each in enumerate(asked) if each in rows and each not in fits]
    if not columns:
        there = listed(cells.obs[name].astype(str).unique(), 30)
        msg = (
            f"There is no measured cell of what the run {key!r} predicted ({listed(asked)}) in "
            f"`{'adata' if truth is None else 'truth'}.obs[{name!r}]`, which has {there}. Pass an AnnData with such "
            "cells as `truth=`."
        )
        raise InputError(msg)
    said = frames["profile"].notna().all(axis=1).to_numpy()
    mine, theirs = adata.var_names[said], cells.var_names
    genes = mine[mine.isin(theirs)]
    if not len(genes):
        msg = f"The truth shares no gene with the prediction: {listed(theirs, 3)} against {listed(mine, 3)}."
        raise InputError(msg)
    base = _cells_of(adata, name, control, [control])[control]
    if not len(base):
        msg = f"No cell of `adata.obs[{name!r}]` is {control!r} any more, against which changes are counted."
        raise InputError(msg)
    groups = [_moments(adata, genes, base, layer)]
    groups += [_moments(cells, genes, rows[asked[i]], layer) for i in columns]
    sums = Moments(*(np.concatenate(parts) for parts in zip(*groups, strict=True)))
    predicted = {part: frame.loc[genes].to_numpy(dtype=np.float64).T[columns] for part, frame in frames.items()}
    top = np.array([_telling(sums, i) for i in range(1, len(groups))])
    truths = {"truth": sums.mean[1:], "control": sums.mean[0], "top": top}
    return {**truths, **predicted, "names": [asked[i] for i in columns], "genes": genes.to_numpy(dtype=str)}


def _cells_of(cells: Any, key: str, control: str, asked: list[str]) -> dict[str, np.ndarray]:
    """Rows of the cells of each of these perturbations."""
    found, codes = coded(cells, key, control)
    place = {genes: i for i, genes in enumerate(found)}
    return {name: np.flatnonzero(codes == place.get(perturbed_genes(name, control), -2)) for name in asked}


def _moments(adata: Any, genes: Any, rows: np.ndarray, layer: str | None) -> Moments:
    """Sums of log-normalised genes over some cells, as one group; the depth is that of all genes."""
    some = adata[rows]
    values = lognormalised(some, "", layer if layer in some.layers else None)
    return group_moments(values[:, adata.var_names.get_indexer(genes)], np.zeros(len(rows), dtype=int), 1)


def _telling(sums: Moments, which: int) -> np.ndarray:
    """The genes that tell a group from the first one best, the best first."""
    t = marker_test(sums, which, 0).t
    if not t.any():  # a single cell has no variance
        t = sums.mean[which] - sums.mean[0]
    return np.argsort(-np.abs(t), kind="stable")[:N_TOP]
