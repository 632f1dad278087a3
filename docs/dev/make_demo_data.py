"""Make `lung_lines_demo.h5ad` and `cite_demo.h5mu`, small real sets in the wheel.

Run it from the root of the repository with SCDANCE_DATA_DIR set, then copy the sha256 that it logs into
`registry.yaml`. The third set, `pbmc_demo.h5ad`, has its own script beside this one:

    python docs/dev/make_demo_data.py
"""

import hashlib
import logging
from pathlib import Path

import anndata
import h5py
import mudata
import numpy as np
import pandas as pd
import yaml
from make_pbmc_demo import DATASETS, deviance

import scdance as sd

LUNG, LUNG_GENES, SEED = "batch/cellbench_lung_lines.h5ad", 600, 0
CELLS_OF_A_LINE = {"sc_celseq2": 60, "sc_dropseq": 60}  # by batch
CELLS_OF_A_LINE |= {f"sc_celseq2_5cl_p{plate}": 20 for plate in (1, 2, 3)}  # 60 in three plates
CITE, CITE_GENES = "multimodal/neurips2021_cite_starter.h5mu", 500
SMALL = {"compression": "gzip", "compression_opts": 9, "shuffle": True}


def parent(file, entry):
    """The file that a set is made of, if it is the one that the registry means."""
    path = Path(sd.settings.data_dir) / file
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != entry["parent_sha256"]:
        msg = f"{path} has sha256 {found}, expected {entry['parent_sha256']}."
        raise ValueError(msg)
    return path


def most_deviant(counts, n, allowed=True):
    """Positions of the `n` allowed genes with the largest deviance, in their order."""
    score = np.where(allowed, deviance(counts.astype(np.float64)), -np.inf)
    return np.sort(np.argsort(-score, kind="stable")[:n])


def up_to(groups, most, rng):
    """Positions of at most `most[batch]` cells of each (batch, line), drawn without replacement."""
    drawn = [
        rng.choice(rows, min(len(rows), most[batch]), replace=False)
        for (batch, _), rows in groups.indices.items()  # pandas sorts the groups by name
    ]
    return np.sort(np.concatenate(drawn))


def small(adata, rows, genes, obs):
    """Counts of some cells and genes; of the rest only these columns of `obs` are kept."""
    x = adata.X[rows][:, genes].astype(np.int32)
    x.sort_indices()
    return anndata.AnnData(
        x, obs=adata.obs.iloc[rows][obs].copy(), var=pd.DataFrame(index=adata.var_names[genes].copy())
    )


def lung_lines(entry):
    full = anndata.read_h5ad(parent(LUNG, entry))
    full = full[full.obs["demuxlet_class"] != "DBL"].copy()
    groups = full.obs[["batch", "cell_type"]].astype(str).groupby(["batch", "cell_type"])
    rows = up_to(groups, CELLS_OF_A_LINE, np.random.default_rng(SEED))
    return small(full, rows, most_deviant(full.X, LUNG_GENES), ["cell_type", "batch"])


def cite(entry):
    with mudata.set_options(pull_on_update=False):
        full = mudata.read_h5mu(parent(CITE, entry))
        rna, adt = full["rna"], full["adt"]
        kept = ["cell_type", "batch", "is_train"]
        genes = most_deviant(rna.X, CITE_GENES, allowed=~rna.var_names.isin(adt.var_names))
        rows = np.arange(full.n_obs)
        modalities = {"rna": small(rna, rows, genes, kept), "adt": small(adt, rows, np.arange(adt.n_vars), kept)}
        demo = mudata.MuData(modalities)
        demo.obs[kept] = rna.obs[kept]
    return demo


def write(demo, path, source):
    """Write compressed; the texts of `uns` come after, for HDF5 cannot shuffle a scalar."""
    if path.suffix == ".h5mu":
        with mudata.set_options(pull_on_update=False):
            demo.write_h5mu(path, **SMALL)
    else:
        with h5py.File(path, "w") as file:
            anndata.io.write_elem(file, "/", demo, dataset_kwargs=SMALL)
    with h5py.File(path, "r+") as file:
        anndata.io.write_elem(file, "uns", {"source": source})
    written = path.read_bytes()
    sha256 = hashlib.sha256(written).hexdigest()
    logging.info("%s: %s, %d bytes, sha256 %s", path, demo.shape, len(written), sha256)


def main():
    entries = yaml.safe_load((DATASETS / "registry.yaml").read_text(encoding="utf-8"))
    for name, make in {"lung_lines_demo": lung_lines, "cite_demo": cite}.items():
        entry = entries[name]
        source = {fact: entry[fact] for fact in ("data_source", "data_licence", "via", "recipe", "parent_sha256")}
        write(make(entry), DATASETS / entry["file"], source)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
