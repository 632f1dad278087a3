"""What the adversary of DAVAE buys and costs: one row per data set, way to tell the batch, weight and seed.

    export SCDANCE_DATA_DIR=… OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
    python docs/dev/davae_sweep.py docs/leaderboard/extra/davae_sweep.csv 5

The number is that of the seeds; names of data sets after it stand for all. Types (`subsampled_ari`) against mixing
(`ilisi`, `batch_ari`) give the trade-off. The weight is λ, which counts once for each gene; the published one is 1 for
most data. Rows that are there are kept. The figure beside the table draws them.
"""

from __future__ import annotations

import csv
import itertools
import sys
import time
from pathlib import Path

import scdance as sd
from scdance.bench._cell import _import

TASK, METHOD = "integrate", "davae"
SETS = ("shifted_batches", "disjoint_batches", "lung_lines", "symphony_pbmc")
CONDITIONS = ("offset_decoder", "decoder")
WEIGHTS = (0.0, 0.001, 0.01, 0.05, 0.2, 1.0)
SCORES = ("subsampled_ari", "ilisi", "batch_ari")
COLUMNS = ("dataset", "condition", "adversary", "seed", *SCORES, "cpu_seconds")


def row(dataset: str, condition: str, adversary: float, seed: int) -> dict[str, str]:
    """Scores and CPU seconds of one run, after imports."""
    given = sd.datasets.problem(TASK, dataset)
    start = time.process_time()
    sd.tl.integrate(
        given.data, METHOD, **given.arguments,
        condition=condition, adversary=adversary, random_state=seed, progress=False,
    )  # fmt: skip
    cpu = time.process_time() - start
    given.data.obs["truth"] = given.truth
    found = sd.metrics.score(
        given.data, TASK, key=METHOD, truth="truth", batch_key=given.arguments["batch_key"], metrics=list(SCORES)
    ).iloc[0]
    scores = {name: f"{found[name]:.4f}" for name in SCORES}
    told = {"dataset": dataset, "condition": condition, "adversary": f"{adversary:g}", "seed": str(seed)}
    return {**told, **scores, "cpu_seconds": f"{cpu:.1f}"}


def draw(path: Path) -> None:
    """Types and mixing from λ = 0 on for each data set: means over the seeds."""
    import matplotlib.pyplot as plt
    import pandas as pd

    table = pd.read_csv(path).groupby(["dataset", "condition", "adversary"])[list(SCORES[:2])].mean()
    figure, panels = plt.subplots(2, len(SETS), figsize=(2.6 * len(SETS), 4.4), sharey="row", layout="constrained")
    for dataset, column in zip(SETS, panels.T, strict=True):
        for condition, told in zip(CONDITIONS, ("offset and input", "input alone"), strict=True):
            curve = table.loc[dataset].loc[condition]
            for score, panel in zip(SCORES, column, strict=False):
                panel.plot(range(len(curve)), curve[score], marker="o", markersize=4, label=told)
                panel.set_xticks(range(len(curve)), [f"{weight:g}" for weight in curve.index])
                panel.spines[["top", "right"]].set_visible(False)
        column[0].set_title(dataset)
        column[1].set_xlabel("weight of the adversary")
    panels[0, 0].set_ylabel("ARI of types")
    panels[1, 0].set_ylabel("iLISI")
    panels[0, 0].legend(frameon=False, fontsize=7)
    figure.savefig(path.with_suffix(".png"), dpi=75)


def main(path: Path, n_seeds: int, datasets: list[str]) -> None:
    """Add the rows that are missing."""
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    done = {tuple(each[name] for name in COLUMNS[:4]) for each in rows}
    _import({"task": TASK, "method": METHOD})
    for seed, dataset, condition, adversary in itertools.product(range(n_seeds), datasets or SETS, CONDITIONS, WEIGHTS):
        if (dataset, condition, f"{adversary:g}", str(seed)) in done:
            continue
        rows.append(row(dataset, condition, adversary, seed))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    draw(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
