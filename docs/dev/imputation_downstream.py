"""What imputation does to clusters, markers and correlations of real cells: one row per data set, method and seed.

    SCDANCE_DATA_DIR=… python docs/dev/imputation_downstream.py docs/leaderboard/extra/impute_downstream.csv 3

The last word is the number of seeds. Nothing is hidden here: each method sees all counts, and k-means with the known
number of types looks for them in the first 50 principal components of what it gives. Rows that are there are kept.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import scanpy as sc
from anndata import AnnData

import scdance as sd
from scdance.graph import kmeans
from scdance.pp import PCA, project

SETS = ("10x_pbmc", "worm_neuron", "baron_mouse_1_to_2")
METHODS = ("observed", "gene_mean", "knn", "magic", "dca", "deepimpute", "scgnn", "graphsci")
N_GENES = 2000  # of the largest deviance
COLUMNS = ("dataset", "method", "seed", "kmeans_ari", "marker_inflation", "correlation_inflation")


def prepared(dataset: str) -> tuple[AnnData, np.ndarray]:
    """Counts of the most informative genes, and the types."""
    entry = sd.datasets.info(dataset)
    adata = sd.datasets.load(dataset)
    truth = adata.obs[entry["labels_key"]].astype(str).to_numpy()
    chosen = sd.pp.Recipe(select_genes={"n_top": N_GENES})
    counts = sd.pp.canonical(adata.X)
    depth = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    adata = adata[:, chosen.fit(counts, depth, adata.var_names.to_numpy()).columns].copy()
    adata.obs = adata.obs[[]]
    adata.layers["counts"] = adata.X.copy()
    adata.layers["observed"] = adata.X.astype(np.float32)
    sc.pp.normalize_total(adata, target_sum=1e4, layer="observed")
    sc.pp.log1p(adata, layer="observed")
    return adata, truth


def row(adata: AnnData, truth: np.ndarray, method: str, seed: int) -> dict[str, float]:
    """Impute, and look at what came of it."""
    if method != "observed":
        sd.tl.impute(adata, method=method, random_state=seed, progress=False)
    before, after = adata.layers["observed"].toarray(), adata.layers[method]
    after = before if method == "observed" else np.asarray(after)
    pca = PCA(50, random_state=seed).fit(lambda: iter([after]), after.shape)
    z = project(iter([after]), pca.mean_, pca.components_)
    labels, _ = kmeans(z, len(set(truth)), random_state=seed)
    return {
        "kmeans_ari": sd.metrics.ari(truth, labels),
        "marker_inflation": sd.metrics.marker_inflation(truth, before, after),
        "correlation_inflation": sd.metrics.correlation_inflation(before, after),
    }


def main(path: Path, n_seeds: int) -> None:
    """Add the rows that are missing."""
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    done = {(each["dataset"], each["method"], int(each["seed"])) for each in rows}
    for dataset in SETS:
        adata, truth = prepared(dataset)
        for seed in range(n_seeds):
            for method in METHODS:
                if (dataset, method, seed) in done:
                    continue
                found = {name: round(float(value), 4) for name, value in row(adata, truth, method, seed).items()}
                rows.append({"dataset": dataset, "method": method, "seed": seed, **found})
                with path.open("w", newline="") as file:
                    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                    writer.writeheader()
                    writer.writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
