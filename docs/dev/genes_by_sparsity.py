"""How well held-out genes are predicted by how rare they are, and how much counting noise alone takes away.

    SCDANCE_DATA_DIR=… python docs/dev/genes_by_sparsity.py docs/leaderboard/extra/genes_by_sparsity.csv

Beside the floors stands what a second measurement of half the depth would reach: the counts of each gene are divided at
random into two halves, of which one predicts the other. It is no bound, as both halves are noisy, and what a platform
adds beside the noise of counting is in both.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

import scdance as sd
from scdance._core import registry
from scdance._core.task import PREDICT_GENES
from scdance.bench._cell import heard

TASK, SEEDS, HALVES = PREDICT_GENES.name, range(5), "half of the molecules"


def genes(dataset: str, seed: int) -> pd.DataFrame:
    """Scores of each gene by each floor, and of one half of its molecules by the other."""
    given = sd.datasets.problem(TASK, dataset, seed)
    floors = [name for name in registry.names(TASK) if registry.get(TASK, name).control]
    tables = {}
    for name in floors:
        arguments = heard(registry.get(TASK, name), given.arguments)
        sd.tl.predict_genes(given.data, method=name, random_state=seed, **arguments)
        tables[name] = sd.metrics.score_genes(given.data, key=name, truth=given.truth)
    first = given.truth.copy()
    first.X = sd.pp.thin(first.X, 0.5, np.random.default_rng(seed))
    second = given.truth.copy()
    second.X = given.truth.X - first.X
    record = given.data.uns["scdance"][TASK]
    record[HALVES] = record[floors[0]]
    names = record[HALVES]["features"]["names"].tolist()
    given.data.obsm[HALVES] = np.log1p(first[given.data.obs_names, names].X.toarray()).astype(np.float32)
    halves = sd.metrics.score_genes(given.data, key=HALVES, truth=second)
    tables[HALVES] = halves.assign(bin=tables[floors[0]]["bin"], rmse=np.nan)
    return pd.concat(tables, names=["what"])


def main(path: Path) -> None:
    """Write the mean over the genes of each bin, its mean and standard deviation over the seeds."""
    tables = []
    for dataset in sd.datasets.names(TASK):
        found = pd.concat({seed: genes(dataset, seed) for seed in SEEDS}, names=["seed"])
        every = found.assign(bin="all").groupby(["what", "bin", "seed"])
        each = found.assign(bin=found["bin"].astype(str)).groupby(["what", "bin", "seed"])
        for groups in (each, every):
            means = groups[["pearson", "cosine", "rmse"]].mean().assign(n_genes=groups.size())
            table = means.groupby(["what", "bin"]).agg(["mean", "std"])
            table.columns = ["_".join(names) for names in table.columns]
            tables.append(table.drop(columns="n_genes_std").reset_index().assign(dataset=dataset))
    table = pd.concat(tables)
    table = table[["dataset", "what", "bin", *table.columns.drop(["dataset", "what", "bin"])]]
    table.sort_values(["dataset", "what", "bin"]).to_csv(path, index=False, float_format="%.3f", lineterminator="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
