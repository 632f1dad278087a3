"""How SpaFormer's settings were chosen, what its parts are worth, and what imputation does to clusters of a tissue.

    SCDANCE_DATA_DIR=… python docs/dev/tissue_imputation.py pace docs/leaderboard/extra/tissue_imputation.csv

`pace`: steps and learning rate, on two masks of the osmFISH cortex and on fields simulated anew, none of which is in
the table. `positions` and `masks`:
the positional encodings, and how much a step of training hides, on the masks of the table; each also draws its figure.
`clusters`: k-means with the known number of types or regions on 10 principal components of what each method gives,
where 30 % of the entries are hidden from it. Rows that are there are kept.
"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy.sparse import issparse

import scdance as sd
from scdance._core import registry
from scdance.bench._cell import heard
from scdance.graph import kmeans
from scdance.methods.impute.spaformer import POSITIONS
from scdance.pp import PCA, canonical, mask, project

SETS = ("merfish_preoptic_entries", "starmap_mpfc_entries", "osmfish_cortex_entries", "simulated_fov_entries")
ABLATED = ("osmfish_cortex_entries", "simulated_fov_entries")
STEPS, RATES = (500, 1000, 2000), (1e-3, 2e-3, 4e-3)
CELLS, GENES = (0.25, 0.5), (0.1, 0.3, 0.5, 0.7, 0.9)  # hidden in a step of training
METHODS = ("observed", "gene_mean", "knn", "knn in space", "dca", "spagat", "spaformer")
SEEDS = {"pace": 2, "positions": 2, "masks": 2, "clusters": 2}
SCORES = ("rmse_masked", "pearson_masked", "cosine_masked")
COLUMNS = ("question", "dataset", "seed", "setting", *SCORES, "kmeans_ari", "cpu_seconds")
HIDDEN, N_PCS, FIRST_OTHER = 0.3, 10, 100  # share of the entries; components; seed of masks not in the table

Given = tuple[AnnData, Any, dict[str, Any]]


def problem(question: str, dataset: str, seed: int) -> Given:
    """What is seen, all of it, and what else to pass: of a mask of the table, or of another to choose settings."""
    seed += FIRST_OTHER if question == "pace" else 0
    if question == "pace" and dataset == "simulated_fov_entries":
        toy = sd.datasets.info("simulated_fov")["toy"]
        whole = sd.datasets.simulate_fov(**{**toy, "random_state": seed})
        kept = mask(canonical(whole.X), "entries", HIDDEN, np.random.default_rng(seed))
        seen = AnnData(kept, obs=whole.obs[["fov"]], var=whole.var[[]], obsm={"spatial": whole.obsm["spatial"]})
        return seen, whole.X, {"output": "log1p_250", "policy": "replace", "library_key": "fov"}
    given = sd.datasets.problem("impute", dataset, random_state=seed)
    return given.data, given.truth, given.arguments


def settings(question: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, method and knobs of what is compared."""
    if question == "pace":
        for steps in STEPS:
            for lr in RATES:
                yield f"{steps} steps, {lr:g}", "spaformer", {"steps": steps, "lr": lr}
    elif question == "positions":
        for positions in POSITIONS:
            yield positions, "spaformer", {"positions": positions}
    elif question == "masks":
        for share in GENES:
            yield f"genes {share:g}", "spaformer", {"masked_genes": share}
        for share in CELLS:
            yield f"cells {share:g}", "spaformer", {"masked_cells": share}
    else:
        for name in METHODS:
            yield name, name.split()[0], {"near": "place"} if "space" in name else {}


def row(question: str, given: Given, method: str, knobs: dict[str, Any], labels: Any, seed: int) -> dict[str, float]:
    """Impute and score."""
    adata, truth, arguments = given[0].copy(), *given[1:]
    adata.layers["all"] = truth
    found: dict[str, float] = {}
    if method != "observed":
        arguments = heard(registry.get("impute", method), arguments)
        if question == "clusters":
            arguments["output"] = "counts"
        start = time.process_time()
        sd.tl.impute(adata, method=method, key_added="told", random_state=seed, progress=False, **arguments, **knobs)
        found["cpu_seconds"] = round(time.process_time() - start, 1)
        if question != "clusters":
            scores = sd.metrics.score(adata, "impute", key="told", truth="all")
            found |= {name: round(float(scores[name].item()), 4) for name in SCORES}
    if question == "clusters":
        found["kmeans_ari"] = round(clustered(adata.layers.get("told", adata.X), labels, seed), 4)
    return found


def clustered(counts: Any, labels: np.ndarray, seed: int) -> float:
    """ARI of k-means with the known number of groups, on components of the log-normalised counts."""
    cells = AnnData(counts.astype(np.float32))
    sc.pp.normalize_total(cells)
    sc.pp.log1p(cells)
    logs = cells.X.toarray() if issparse(cells.X) else cells.X
    pca = PCA(N_PCS, random_state=seed).fit(lambda: iter([logs]), logs.shape)
    known = ~np.isin(labels, ("", "nan"))
    z = project(iter([logs]), pca.mean_, pca.components_)[known]
    return float(sd.metrics.ari(labels[known], kmeans(z, len(set(labels[known])), random_state=seed)[0]))


def draw(path: Path, question: str) -> None:
    """Error by setting, a panel for each data set."""
    import matplotlib.pyplot as plt
    import pandas as pd

    table = pd.read_csv(path)
    table = table[table["question"] == question]
    figure, panels = plt.subplots(1, len(ABLATED), figsize=(7, 3), layout="constrained", sharey=True)
    order = list(dict.fromkeys(table["setting"]))
    for panel, dataset in zip(panels, ABLATED, strict=True):
        errors = table[table["dataset"] == dataset].groupby("setting")["rmse_masked"].agg(["mean", "std"]).loc[order]
        panel.errorbar(errors["mean"], range(len(order)), xerr=errors["std"], fmt="o", color="black", markersize=4)
        panel.set(title=dataset.removesuffix("_entries"), xlabel="RMSE", yticks=range(len(order)), yticklabels=order)
        panel.locator_params(axis="x", nbins=4)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    figure.savefig(path.with_name(f"tissue_imputation_{question}.png"), dpi=75)


def main(question: str, path: Path) -> None:
    """Add the rows that are missing."""
    sd.settings.n_threads = 1  # scanpy's normalize_total gives torch all of them
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    done = {(each["question"], each["dataset"], int(each["seed"]), each["setting"]) for each in rows}
    sets = {"clusters": SETS}.get(question, ABLATED)
    for dataset in sets:
        whole = sd.datasets.info(dataset)["of"]
        labels = sd.datasets.load(whole).obs[sd.datasets.info(whole)["labels_key"]].astype(str).to_numpy()
        for seed in range(SEEDS[question]):
            given = problem(question, dataset, seed)
            for name, method, knobs in settings(question):
                if (question, dataset, seed, name) in done:
                    continue
                found = row(question, given, method, knobs, labels, seed)
                rows.append({"question": question, "dataset": dataset, "seed": seed, "setting": name, **found})
                with path.open("w", newline="") as file:
                    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                    writer.writeheader()
                    writer.writerows(rows)
    if question in ("positions", "masks"):
        draw(path, question)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
