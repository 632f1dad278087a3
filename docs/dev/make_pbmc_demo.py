"""Make `src/scdance/datasets/data/pbmc_demo.h5ad`, the small real set in the wheel.

Run it from the root of the repository, with SCDANCE_DATA_DIR set or a network at hand, then copy the
sha256 that it logs into `registry.yaml`:

    python docs/dev/make_pbmc_demo.py
"""

import hashlib
import logging
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import yaml

import scdance as sd

N_CELLS, N_GENES, SEED = 800, 1000, 0
DATASETS = Path("src/scdance/datasets")


def deviance(counts):
    """Binomial deviance of each gene from "the same share of every cell"; knows no labels."""
    cells = counts.tocoo()
    depth, total = counts.sum(axis=1).A1, counts.sum(axis=0).A1
    expected = depth[cells.row] * (total / total.sum())[cells.col]
    return 2 * np.bincount(cells.col, cells.data * np.log(cells.data / expected), minlength=counts.shape[1])


def stratified(labels, n, rng):
    """Positions of `n` cells, every label with its share; remainders go to the largest fractions."""
    codes, names = pd.factorize(labels, sort=True)
    share = n * np.bincount(codes) / len(codes)
    take = share.astype(int)
    take[np.argsort(take - share, kind="stable")[: n - take.sum()]] += 1
    drawn = [rng.choice(np.flatnonzero(codes == c), take[c], replace=False) for c in range(len(names))]
    return np.sort(np.concatenate(drawn))


def main():
    full = sd.datasets.load("10x_pbmc")
    entry = yaml.safe_load((DATASETS / "registry.yaml").read_text(encoding="utf-8"))["pbmc_demo"]
    counts = full.X.astype(np.float64)
    genes = np.sort(np.argsort(-deviance(counts), kind="stable")[:N_GENES])
    rows = stratified(full.obs["cell_type"], N_CELLS, np.random.default_rng(SEED))

    x = full.X[rows][:, genes].astype(np.int32)
    x.sort_indices()
    demo = anndata.AnnData(
        x,
        obs=pd.DataFrame({"cell_type": full.obs["cell_type"].iloc[rows]}, index=full.obs_names[rows]),
        var=pd.DataFrame(index=full.var_names[genes]),
        uns={"source": {name: entry[name] for name in ("data_source", "data_licence", "via", "recipe")}},
    )
    demo.uns["source"] |= {"seed": SEED, "parent_sha256": entry["parent_sha256"]}

    path = DATASETS / "data" / "pbmc_demo.h5ad"
    demo.write_h5ad(path, compression="gzip", compression_opts=9)
    written = path.read_bytes()
    logging.info("%s: %d bytes, sha256 %s", path, len(written), hashlib.sha256(written).hexdigest())


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
