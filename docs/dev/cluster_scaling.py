"""CPU seconds and memory of the clustering methods at 5,000 and 50,000 simulated cells of 2,000 genes.

    OMP_NUM_THREADS=1 python docs/dev/cluster_scaling.py docs/leaderboard/extra/cluster_scaling.csv sctag scdsc

Ten clusters, a thousand counts a cell; defaults, with the number of clusters known. Each run is a process of its own.
Rows that are there are kept; without names of methods all are run.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from pathlib import Path

import scdance as sd
from scdance._core import registry
from scdance._core.knobs import knobs
from scdance.bench._cell import _import, peak_mb, resident_mb

SIZES, K = (5000, 50_000), 10
COLUMNS = ("method", "n_obs", "cpu_seconds", "mb", "ari")


def run(method: str, n_obs: int) -> list[str]:
    """The row of one call, after imports and without the simulation."""
    adata = sd.datasets.toy_clusters(n_obs=n_obs, n_vars=2000, k=K, depth=1000)
    truth = adata.obs.pop("cell_type")
    _import({"task": "cluster", "method": method})
    given = {"n_clusters": K} if "n_clusters" in knobs(registry.get("cluster", method)) else {}
    held, start = resident_mb(), time.process_time()
    sd.tl.cluster(adata, method=method, progress=False, **given)
    cpu, mb = time.process_time() - start, peak_mb() - held
    return [method, str(n_obs), f"{cpu:.1f}", f"{mb:.0f}", f"{sd.metrics.ari(truth, adata.obs[method]):.3f}"]


def main(path: Path, methods: list[str]) -> None:
    """Add the rows that are missing."""
    rows = list(csv.reader(path.open()))[1:] if path.exists() else []
    done = {tuple(row[:2]) for row in rows}
    for method in methods or registry.names("cluster"):
        for n_obs in SIZES:
            if (method, str(n_obs)) in done:
                continue
            call = [sys.executable, __file__, "--one", method, str(n_obs)]
            rows.append(subprocess.run(call, check=True, capture_output=True, text=True).stdout.split())
            with path.open("w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([COLUMNS, *sorted(rows)])


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        sys.stdout.write(" ".join(run(sys.argv[2], int(sys.argv[3]))) + "\n")
    else:
        main(Path(sys.argv[1]), sys.argv[2:])
