"""Find a data set by name: in the package, in the user's folder, in the cache, on the network."""

from __future__ import annotations

import hashlib
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scdance._checks import InputError, ScdanceError, one_of
from scdance._settings import logger, settings, unpulled

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData

HERE = Path(__file__).parent
GITHUB = "https://raw.githubusercontent.com"
ROWS_PER_READ = 1024  # the originals are dense: 160 MB at 20,000 genes


class DatasetError(ScdanceError, OSError):
    """A data set that is not on this machine and could not be fetched."""


@cache
def _registry() -> dict[str, dict[str, Any]]:
    import yaml

    found = yaml.safe_load((HERE / "registry.yaml").read_text(encoding="utf-8"))
    return {name: {**found.get(entry.get("of"), {}), **entry} for name, entry in found.items()}


def names(task: str | None = None) -> list[str]:
    """Names of the data sets that :func:`load` knows.

    Parameters
    ----------
    task
        Only those for this task, such as ``"cluster"``.

    Returns
    -------
    Names, in the order of the registry.

    Raises
    ------
    InputError
        If no data set has this task; the tasks are named.

    Examples
    --------
    >>> import scdance as sd
    >>> "pbmc_demo" in sd.datasets.names("cluster")
    True
    """
    entries = _registry()
    if task is None:
        return list(entries)
    one_of(task, sorted({t for entry in entries.values() for t in entry["tasks"]}), "task")
    return [name for name, entry in entries.items() if task in entry["tasks"]]


def info(name: str) -> dict[str, Any]:
    """What the registry knows of one data set.

    Parameters
    ----------
    name
        One of :func:`names`.

    Returns
    -------
    A copy of the entry: ``tasks, description, file, sha256, shape, preset, data_source, data_licence, via``;
    ``labels_key, n_classes`` where each cell has a known label; ``modalities``, the number of features of each, where
    there are several; and ``remote`` where it can be downloaded.

    Raises
    ------
    InputError
        If there is no such data set; the nearest name is given.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.datasets.info("pbmc_demo")["labels_key"]
    'cell_type'
    """
    one_of(name, names(), "name")
    return deepcopy(_registry()[name])


def table(task: str | None = None) -> pd.DataFrame:
    """The data sets as a table.

    Parameters
    ----------
    task
        Only those for this task.

    Returns
    -------
    One row per data set, indexed by name: its tasks, shape (cells, features of all modalities), number of
    classes (<NA> where there is no truth), whether it lies in the package, the licence of the data and who
    measured them.

    Raises
    ------
    InputError
        If no data set has this task; the tasks are named.

    Examples
    --------
    >>> import scdance as sd
    >>> bool(sd.datasets.table("cluster").loc["pbmc_demo", "embedded"])
    True
    """
    import pandas as pd

    rows = {name: info(name) for name in names(task)}
    columns = {
        "task": [", ".join(row["tasks"]) for row in rows.values()],
        "shape": [tuple(row["shape"]) for row in rows.values()],
        "classes": pd.array([row.get("n_classes") for row in rows.values()], dtype="Int64"),
        "embedded": [row.get("embedded", False) for row in rows.values()],
        "licence": [row["data_licence"] for row in rows.values()],
        "source": [row["data_source"] for row in rows.values()],
    }
    return pd.DataFrame(columns, index=pd.Index(list(rows), name="name"))


def load(name: str) -> AnnData | MuData:
    """Load a data set: raw counts in ``X``, labels in ``obs``.

    Looks in the package, then in ``scdance.settings.data_dir`` (``SCDANCE_DATA_DIR``), then in the cache
    of the user, and only then on the network. Whatever is found must have the recorded sha256.

    Parameters
    ----------
    name
        One of :func:`names`.

    Returns
    -------
    AnnData with int32 counts (CSR) in ``X`` (float32 where ``info(name)["dtype"]`` says so: they are means of
    probes), the truth, if there is one, in ``obs[info(name)["labels_key"]]`` (of simulated spots in
    ``obsm["true_prop"]``, of regions mixed in known shares in ``obsm[info(name)["mixed"]["truth"]]``) and the origin
    of the data in ``uns["source"]``; the same wherever the file was found. Where ``info(name)`` has ``modalities``, a
    MuData that holds the counts of each in an AnnData of its own, and the truth and the origin in the ``obs`` and
    ``uns`` of the whole.

    Raises
    ------
    InputError
        If there is no such data set, or a file is not the one that the registry means.
    DatasetError
        If the data set is not on this machine and cannot be downloaded (there is no single file to download,
        ``scdance.settings.offline``, or no network); the message says which file to put where.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.datasets.load("pbmc_demo").shape
    (800, 1000)
    >>> sd.datasets.load("cite_demo")["adt"].shape
    (600, 134)
    """
    entry = info(name)
    if "simulated" in entry:
        from ._problem import mixed

        return mixed(entry)[0]
    return _made(entry) if "toy" in entry else _loaded(name, entry)


def _made(entry: dict[str, Any]) -> AnnData:
    """Cells of planted types or perturbations, in fields of view or by a panel if need be, as the entry has them."""
    if "n_fovs" in entry["toy"]:
        from ._fov import simulate_fov

        data = simulate_fov(**entry["toy"])
        data.obs = data.obs[["cell_type", "niche", "fov"]]
        del data.layers["molecules"], data.obsm["expected"], data.varm["expected"], data.uns["simulation"]
    elif "n_singles" in entry["toy"]:
        from ._toy_perturbed import toy_perturbed

        data = toy_perturbed(**entry["toy"])
        del data.varm["lfc"]
    elif "n_panel" in entry["toy"]:
        from ._toy_panel import toy_panel

        data = toy_panel(**entry["toy"])[0]
    else:
        from ._toy import toy_clusters

        data = toy_clusters(**entry["toy"])
        del data.varm["lfc"]  # what was planted
    data.uns["source"] = {fact: entry[fact] for fact in ("data_source", "data_licence", "via")}
    return data


def _loaded(name: str, entry: dict[str, Any]) -> AnnData | MuData:
    """The data in the file of an entry."""
    if entry.get("embedded"):
        return _read(_verified(HERE / entry["file"], entry["sha256"]))
    remote, local = entry.get("remote", {}), _in_data_dir(entry)
    if local:
        data = _read(_verified(local, entry["sha256"]))
    elif remote:
        data = READERS[remote["reader"]](_fetched(name, entry), entry)
    else:
        why = f"there is no single file to download (it was made from {entry['via']})"
        raise DatasetError(f"{_where_to_put(name, entry, why)}.")
    data.uns["source"] = {
        **{fact: entry[fact] for fact in ("data_source", "data_licence", "via")},
        **{fact: value for fact, value in remote.items() if fact != "reader"},
    }
    return data


def _read(path: Path) -> AnnData | MuData:
    if path.suffix == ".h5mu":
        return _read_paired(path)
    import anndata

    return anndata.read_h5ad(path)


def _read_paired(path: Path) -> MuData:
    """Modalities of the same cells; columns of `obs` that all of them have stand in the common `obs`, too."""
    import mudata

    with unpulled():  # what 0.4 does; else it warns, and doubles every column
        mdata = mudata.read_h5mu(path)
    tables = [modality.obs for modality in mdata.mod.values()]
    for column in tables[0].columns:
        if column not in mdata.obs and all(column in table for table in tables):
            mdata.obs[column] = tables[0][column].reindex(mdata.obs_names)
    return mdata


def _in_data_dir(entry: dict[str, Any]) -> Path | None:
    if settings.data_dir is None:
        return None
    path = Path(settings.data_dir).expanduser() / entry["file"]
    return path if path.is_file() else None


def _fetched(name: str, entry: dict[str, Any]) -> Path:
    """The original file in the cache; downloaded if it is not there yet."""
    import pooch

    remote = entry["remote"]
    url = "/".join((GITHUB, remote["repo"], remote["commit"], remote["path"]))
    folder = Path(pooch.os_cache("scdance"))
    path = folder / f"{entry.get('of', name)}{Path(remote['path']).suffix}"
    if path.is_file():
        return _verified(path, remote["sha256"])
    if settings.offline:
        raise DatasetError(_what_to_do(name, entry, url, path, "scdance is set to work offline"))
    logger.info("downloading %s from %s", name, url)
    try:
        pooch.retrieve(url, f"sha256:{remote['sha256']}", fname=path.name, path=folder)
    except (OSError, ValueError) as error:  # no network or no room; not the file that we know
        raise DatasetError(_what_to_do(name, entry, url, path, f"the download failed: {error}")) from error
    return path


def _what_to_do(name: str, entry: dict[str, Any], url: str, path: Path, why: str) -> str:
    return f"{_where_to_put(name, entry, why)}, or download {url} to {path}."


def _where_to_put(name: str, entry: dict[str, Any], why: str) -> str:
    return (
        f"Data set {name!r} is not on this machine, and {why}. Set SCDANCE_DATA_DIR "
        f"(scdance.settings.data_dir, now {str(settings.data_dir)!r}) to a folder that holds {entry['file']}"
    )


def _verified(path: Path, sha256: str) -> Path:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found == sha256:
        return path
    msg = (
        f"{path} is not the file that the registry means: expected sha256 {sha256}, found {found}. "
        "It may be cut short or of another version; remove it (or point scdance.settings.data_dir at "
        "another folder) and load again."
    )
    raise InputError(msg)


def _counts_and_labels(path: Path, entry: dict[str, Any]) -> AnnData:
    """Read HDF5 with `X`, dense counts (cells, genes), and `Y`, one label per cell."""
    import anndata
    import h5py
    import numpy as np
    import pandas as pd
    import scipy.sparse as sp

    with h5py.File(path) as file:
        x, y = file["X"], file["Y"][:]
        blocks = [
            sp.csr_matrix(np.asarray(x[start : start + ROWS_PER_READ]).astype(np.int32))
            for start in range(0, x.shape[0], ROWS_PER_READ)
        ]
    # numbers may be stored as floats and text as bytes; both become the text of the label
    labels = y.astype(np.int64).astype(str) if np.issubdtype(y.dtype, np.number) else y.astype(str)
    counts = sp.vstack(blocks, format="csr")
    return anndata.AnnData(
        counts,
        obs=pd.DataFrame(
            {entry["labels_key"]: pd.Categorical(labels)},
            index=[f"cell_{i}" for i in range(counts.shape[0])],
        ),
        var=pd.DataFrame(index=[f"gene_{i}" for i in range(counts.shape[1])]),
    )


READERS = {"counts_and_labels": _counts_and_labels}
