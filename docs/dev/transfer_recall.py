"""Share of the cells of each type that label transfer finds, from RNA to chromatin of the mouse cortex.

    SCDANCE_DATA_DIR=… OMP_NUM_THREADS=1 python docs/dev/transfer_recall.py docs/leaderboard/extra/transfer_recall.csv

The data, seeds and defaults of the benchmark, 5 % of the labels known; mean and standard deviation over five seeds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

import scdance as sd

DATASET, SEEDS, METHODS = "snareseq_transfer_05", range(5), ("ot_transfer", "davae", "scbridge", "knn")


def main(path: Path) -> None:
    """Write the table."""
    parts = []
    for seed in SEEDS:
        problem = sd.datasets.problem("transfer_labels", DATASET, seed)
        for method in METHODS:
            cells = problem.data.copy()
            sd.tl.transfer_labels(cells, method=method, random_state=seed, progress=False, **problem.arguments)
            found = sd.metrics.recall_of_types(problem.truth, cells.obs[method])
            sizes = pd.Series(problem.truth).value_counts()
            parts.append(
                found.reset_index().assign(method=method, seed=seed, n_cells=lambda t, n=sizes: t["type"].map(n))
            )
    table = pd.concat(parts)
    means = table.groupby(["type", "method"])["recall"].agg(["mean", "std"])
    means["n_cells"] = table.groupby(["type", "method"])["n_cells"].mean()
    means.round(3).reset_index().to_csv(path, index=False, lineterminator="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
