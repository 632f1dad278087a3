"""Skill of RNA from proteins on the CITE starter set, with counts brought to the median depth instead of to 10,000.

    SCDANCE_DATA_DIR=… python docs/dev/median_depth.py docs/leaderboard/extra/median_depth.csv

Five seeds of each method. The median is that of the cells that teach; all counts are brought to it.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import scanpy as sc

import scdance as sd

DATASET, LAYER = "bmmc_cite_adt_rna", "median_depth"
METHODS, SEEDS = ("lsl_ensemble", "pca_knn", "novel", "kernel_ridge", "linear"), range(5)


def skill(method: str, seed: int) -> float:
    """Skill of one call."""
    problem = sd.datasets.problem("predict_modality", DATASET, random_state=seed)
    target = problem.data["rna"]
    depth = float(np.median(np.asarray(target.X.sum(axis=1))))
    for each in (target, problem.truth):
        each.layers[LAYER] = sc.pp.normalize_total(each, target_sum=depth, inplace=False)["X"].log1p()
    given = {"layer": {"rna": LAYER}, "random_state": seed, "progress": False, "key_added": "said"}
    sd.tl.predict_modality(problem.data, method, **problem.arguments, **given)
    score = sd.metrics.score(problem.data, "predict_modality", key="said", truth=problem.truth)
    return float(score["skill"].item())


def main(path: Path) -> None:
    """Write the table."""
    rows = [(method, seed, f"{skill(method, seed):.4f}") for method in METHODS for seed in SEEDS]
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("method", "seed", "skill"), *rows])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
