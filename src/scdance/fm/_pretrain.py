"""Train a model of cells on many files, none of which is ever in memory as a whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scdance._checks import InputError, listed, warn, whole_number
from scdance._core.cells import Cells
from scdance._core.method import OUT_OF_TIME, checked_folder
from scdance._core.objects import kind_of, offered_places, slices_of
from scdance._core.read import read
from scdance._core.run import make, running
from scdance._docs import documented
from scdance._settings import logger, settings
from scdance.pp import FittedRecipe, Recipe, gene_deviance

from ._devices import check_devices, train_together

if TYPE_CHECKING:
    from anndata import AnnData

    from scdance._core.method import Method

METHOD = "cellplm"
FEWEST, LEAST_SHARE = 50, 0.1  # genes of the vocabulary that a file must have, and share of them


@documented()
def pretrain(
    files: Sequence[str | Path | AnnData] | Mapping[str, str | Path | AnnData],
    out: str | Path | None = None,
    *,
    config: str = "small",
    sample_key: str | Mapping[str, str] | None = None,
    spatial_key: str = "spatial",
    layer: str | None = None,
    genes: Sequence[str] | None = None,
    min_files: int | None = None,
    max_minutes: float | None = None,
    about: str = "",
    random_state: int | np.random.Generator | None = 0,
    device: str = "auto",
    devices: int = 1,
    progress: bool | None = None,
    checkpoint: str | Path | None = None,
    **params: Any,
) -> Method:
    """Train CellPLM on the cells of many files, which stay on disk and are read a few hundred cells at a time.

    The result places new cells without training, ``scdance.tl.embed(adata, method=out)``, and is what the training for
    another task begins with, ``scdance.fit("annotate", ref, method="cellplm", init=out, …)``.

    Parameters
    ----------
    files
        Files of AnnData (.h5ad or .zarr) with counts, or objects in memory; a mapping gives each a name. All must name
        genes in the same way: one gene of another name is another gene.
    out
        Folder to save the model in; None: it is only returned.
    config
        Size of the network: "tiny", for tests; "small", some two million numbers, which a processor trains in minutes;
        "base", for a graphics card. Single numbers of it may be given as `params`.
    sample_key
        Column of ``obs`` with the sample (donor, slice) of each cell, or a mapping from the name of a file to its
        column. Cells of one sample hear each other. None: each file is one sample.
    spatial_key
        Key of ``obsm`` with coordinates, where a file has it.
    layer
        Layer with the counts; None: ``layers["counts"]``, else ``X``.
    genes
        The vocabulary; None: the genes that vary most, by their rank in each file that has them and the number of its
        cells.
    min_files
        Files that must have a gene of the vocabulary; None: two of them, of a single one that.
    max_minutes
        Stop after the first pass over the data that ends later than this; None: when `epochs` or `steps` are done. How
        far it comes then hangs on the machine.
    about
        What the data are, where they come from and under which licence, for the card of the model.
    {random_state, device}
    devices
        Number of devices of that kind that train together, or of processes on a processor. A step takes a group of
        `batch_size` cells on each, and the mean of their gradients; a pass has so many fewer steps, at the same rates,
        and `epochs` and `steps` mean as many cells as on one. More than one needs the extra ``distributed`` and files
        that are named by their paths.
    {progress}
    checkpoint
        Folder in which the state is kept; a call that was interrupted goes on from there, to the same result, with as
        many `devices`.
    params
        Further numbers of the method, such as ``steps=1000`` or ``n_latent=32``.

    Returns
    -------
    The fitted method, a CellPLM of the task "embed". ``notes_`` holds the table of files, and how far off hidden
    counts of cells that did not train are, over the error by the mean of each gene: "hidden_deviance" of counts,
    "hidden_mse" of log-normalised ones; below 1 is better. Where "n_held_out" is 0, all cells trained.

    Raises
    ------
    InputError
        If there are no files, they share no genes, or one is stored by columns; or `devices` are more than there are,
        or than there are groups of cells.
    MissingPackageError
        If Lightning Fabric is not there, and `devices` are several.

    Examples
    --------
    >>> import scdance as sd
    >>> parts = [sd.datasets.toy_clusters(n_obs=150, random_state=seed) for seed in (0, 1)]
    >>> model = sd.fm.pretrain(parts, config="tiny", hidden=16, steps=4, progress=False)
    >>> sd.tl.embed(parts[0], method=model)
    >>> parts[0].obsm["X_cellplm"].shape
    (150, 16)
    """
    if out is not None:
        checked_folder(out)
    named, devices = _named(files), whole_number(devices, "devices", least=1)
    model = make("embed", METHOD, params, preset=config, random_state=random_state, device=device)
    if devices > 1:
        check_devices(model, devices, named)
    keys = sample_key if isinstance(sample_key, Mapping) else dict.fromkeys(named, sample_key)
    unknown = [name for name in keys if name not in named]
    if unknown:
        msg = f"`sample_key` names {listed(unknown)}, but the files are {listed(named)}."
        raise InputError(msg)
    opened = {name: _opened(each, name) for name, each in named.items()}
    prep = _vocabulary(opened, model, layer, genes, min_files)
    read_by = {
        name: {"layer": layer, "sample_key": keys.get(name), "spatial_key": spatial_key}
        for name in _with_enough(opened, prep.var_names)
    }
    sources = {name: _cells(opened[name], model, prep, name=name, **how) for name, how in read_by.items()}
    table = {
        "file": np.array(list(sources), dtype=str),
        "n_obs": np.array([cells.n_obs for cells in sources.values()]),
        "n_genes": np.array([_n_genes(cells) for cells in sources.values()]),
        "n_samples": np.array([len(cells.batch_names or ("",)) for cells in sources.values()]),
    }
    logger.info("pretrain: %d cells of %d files, %d genes", table["n_obs"].sum(), len(sources), len(prep.var_names))
    if devices > 1:
        asked = {
            "files": {name: {"path": str(named[name]), **how} for name, how in read_by.items()},
            "prep": prep.to_json()[0],
            "max_minutes": max_minutes,
            "progress": settings.progress if progress is None else progress,
            "checkpoint": None if checkpoint is None else str(checkpoint),
        }
        train_together(model, devices, asked)
    else:
        with running(model, sources, progress=progress, checkpoint=checkpoint):
            model.pretrain(list(sources.values()), each_epoch=clock(max_minutes))  # type: ignore[attr-defined]
    model.preps_, model.categories_ = {"cells": prep}, []
    if len(sources) > 1 or any(keys.values()):
        model.batches_ = [f"{file}/{name}" for file, cells in sources.items() for name in cells.batch_names or ("",)]
    model.notes_ |= {"files": table, "about": about}
    if out is not None:
        model.save(out)
    return model


def _named(files: Any) -> dict[str, Any]:
    """Files by name."""
    if isinstance(files, str | Path) or kind_of(files) == "AnnData":
        files = [files]
    if not isinstance(files, Mapping):
        files = list(files)
        names = [Path(each).stem if isinstance(each, str | Path) else "" for each in files]
        if len({*names, ""}) <= len(names):  # one stands twice, or has none
            names = [f"{i}_{name}".rstrip("_") for i, name in enumerate(names)]
        files = dict(zip(names, files, strict=True))
    if not files:
        msg = "There are no files to train on: pass a list of .h5ad or .zarr files as `files=`."
        raise InputError(msg)
    return dict(files)


def _opened(file: Any, name: str) -> Any:
    """An AnnData whose matrix stays on disk."""
    import anndata as ad

    if isinstance(file, str | Path):
        path = Path(file)
        if not path.exists():
            msg = f"There is no file {str(path)!r}; files are .h5ad or .zarr of AnnData."
            raise InputError(msg)
        if path.suffix == ".zarr":
            file = ad.experimental.read_lazy(path)
            file.obs = file.obs.to_memory()
        else:
            file = ad.read_h5ad(path, backed="r")
    for where, matrix in (("X", file.X), *((f"layers[{key!r}]", file.layers[key]) for key in file.layers)):
        if getattr(matrix, "format", "csr") == "csc" and not hasattr(matrix, "indptr"):
            msg = (
                f"`{where}` of {name!r} is stored by columns (CSC), so that cells cannot be read one by one. Store it "
                f"by rows once: `adata = anndata.read_h5ad(…); adata.{where} = adata.{where}.tocsr(); adata.write(…)`."
            )
            raise InputError(msg)
    return file


def _vocabulary(
    opened: dict[str, Any], model: Method, layer: str | None, genes: Any, min_files: int | None
) -> FittedRecipe:
    """The recipe on the genes of the vocabulary."""
    steps = {name: knobs for name, knobs in model.recipe.steps.items() if name not in ("filter_genes", "select_genes")}
    rank: dict[str, list[float]] = {}
    first: Any = None
    for adata in opened.values():
        cells = read(adata, model, layer=layer, recipe=None)
        first = first or cells
        deviance = gene_deviance(cells.counts, cells.depth)
        share = deviance.argsort().argsort() / max(1, len(deviance) - 1)
        for gene, value in zip(cells.var_names.tolist(), share.tolist(), strict=True):
            rank.setdefault(gene, []).append(cells.n_obs * value)
    if genes is None:
        least = min(2, len(opened)) if min_files is None else whole_number(min_files, "min_files", least=1)
        common = {gene: sum(values) for gene, values in rank.items() if len(values) >= least}
        n_top = model.n_top_genes or len(common)  # type: ignore[attr-defined]
        chosen = sorted(sorted(common, key=lambda gene: (-common[gene], gene))[:n_top])
        if not chosen:
            msg = (
                f"No gene is in {least} of the {len(opened)} files: they name genes differently, such as "
                f"{listed([adata.var_names[0] for adata in opened.values()])}. Bring `var_names` to one kind of names."
            )
            raise InputError(msg)
    else:
        chosen = [str(gene) for gene in genes]
        missing = [gene for gene in chosen if gene not in rank]
        if missing or len(set(chosen)) < len(chosen):
            msg = f"`genes` has {len(missing)} names that no file has ({listed(missing)}), or one twice."
            raise InputError(msg)
    prep = Recipe(**steps).fit(first.counts, first.depth, first.var_names)  # which learns nothing of the cells
    return replace(prep, var_names=np.array(chosen, dtype=str), columns=None)


def _with_enough(opened: dict[str, Any], genes: np.ndarray) -> dict[str, Any]:
    """The files that have some share of the vocabulary."""
    there = {name: int(np.isin(genes, np.asarray(adata.var_names, dtype=str)).sum()) for name, adata in opened.items()}
    least = min(max(FEWEST, int(LEAST_SHARE * len(genes))), len(genes))
    few = [name for name, n in there.items() if n < least]
    if few:
        warn(f"{listed(few)} have fewer than {least} of the {len(genes)} genes of the vocabulary and are left out.")
    if len(few) == len(opened):
        msg = f"No file has {least} of the {len(genes)} genes of the vocabulary; pass others as `genes=`."
        raise InputError(msg)
    return {name: adata for name, adata in opened.items() if name not in few}


def _cells(
    adata: Any,
    model: Method,
    prep: FittedRecipe,
    *,
    layer: str | None,
    sample_key: str | None,
    spatial_key: str,
    name: str,
) -> Cells:
    """The cells of a file, with the genes of the vocabulary."""
    coords = slices = None
    if spatial_key in adata.obsm:
        coords = offered_places(adata, adata, name, spatial_key=spatial_key, coordinate_system="global")
        slices = slices_of(adata, adata, sample_key)
    return read(adata, model, prep=prep, layer=layer, batch_key=sample_key, coords=coords, slices=slices)


def opened_cells(name: str, model: Method, prep: FittedRecipe, *, path: str, **how: Any) -> Cells:
    """The cells of a file that :func:`pretrain` has looked at, opened anew."""
    return _cells(_opened(path, name), model, prep, name=name, **how)


def _n_genes(cells: Cells) -> int:
    return cells.n_vars if cells.present is None else int(cells.present.sum())


def clock(minutes: float | None) -> Callable[[int], str | None] | None:
    """Says that training ends, once the time is over; None: it never is."""
    if minutes is None:
        return None
    start = time.monotonic()

    def over(epoch: int) -> str | None:
        return f"{OUT_OF_TIME} after {minutes:g} minutes" if epoch and time.monotonic() - start > 60 * minutes else None

    return over
