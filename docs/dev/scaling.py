"""CPU seconds and memory of the methods of a task on simulated cells, each run in a process of its own.

    OMP_NUM_THREADS=1 python docs/dev/scaling.py cluster docs/leaderboard/extra/scaling.csv sctag scdsc

Defaults, with the number of clusters known. Clusters: 5,000 and 50,000 cells of ten types, 2,000 genes, a thousand
counts a cell. Pairs of modalities: 10,000 cells with 2,000 genes and 134 proteins, the RNA thinned to the 13 % of
entries above 0 that CITE-seq has, and many more cells; for prediction and matching one cell in ten is asked. Batches:
25,000 to 100,000 cells of ten types in three batches that change genes as much as types do; for the transfer of
labels two batches of 10,000, one of which knows a tenth of its types. Fields of 2,500 cells: 10,000 and 40,000 cells,
960 genes. The score is the ARI (of k-means for a space), the skill, the mean probability of the true partner, the
accuracy, or the correlation of imputed counts with those expected. Rows that are there are kept; without names of
methods all of the task are run. For integration a figure beside the table draws seconds and memory by cells.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mudata
import numpy as np

import scdance as sd
from scdance._core import registry
from scdance._core.knobs import knobs
from scdance._settings import unpulled
from scdance.bench._cell import _import, peak_mb, resident_mb

# cells and genes
SIZES = {
    "cluster": ((5000, 2000), (50_000, 2000)),
    "impute": ((10_000, 960), (40_000, 960)),
    "integrate": ((25_000, 2000), (50_000, 2000), (100_000, 2000)),
    "joint_embed": ((10_000, 2000), (80_000, 2000)),
    "match_modality": ((10_000, 2000), (80_000, 2000)),
    "predict_modality": ((10_000, 2000), (100_000, 5000)),
    "transfer_labels": ((20_000, 2000),),
}
K, PROTEINS, KEPT, ASKED = 10, 134, 0.12, 10
SHIFT, SCORED = 0.7, 3000  # of batches, as the logarithm of a factor; cells that are scored
PER_FIELD = 2500  # cells
COLUMNS = ("task", "method", "n_obs", "n_vars", "cpu_seconds", "mb", "score")


def clusters(n_obs: int, n_vars: int, method: str) -> tuple[Any, dict[str, Any], Any]:
    """Cells of known types; the arguments of the call, and how its result is scored."""
    adata = sd.datasets.toy_clusters(n_obs=n_obs, n_vars=n_vars, k=K, depth=1000)
    truth = adata.obs.pop("cell_type")
    given = {"n_clusters": K} if "n_clusters" in knobs(registry.get("cluster", method)) else {}
    return adata, given, lambda: sd.metrics.ari(truth, adata.obs[method])


def batches(n_obs: int, n_vars: int, task: str, method: str) -> tuple[Any, dict[str, Any], Any]:
    """Cells of known types in batches; the arguments of the call, and how its result is scored."""
    n_batches = 3 if task == "integrate" else 2
    adata = sd.datasets.toy_clusters(n_obs, n_vars, k=K, depth=1000, batches=n_batches, batch_sd=SHIFT)
    truth = adata.obs.pop("cell_type")
    if task == "integrate":
        few, space = truth[:SCORED], f"X_{method}"
        return adata, {"batch_key": "batch"}, lambda: sd.metrics.kmeans_ari(few, adata.obsm[space][:SCORED])
    first = (adata.obs["batch"] == "batch1").to_numpy()
    ref, cells = adata[first].copy(), adata[~first].copy()
    ref.obs["known"] = truth[first].where(np.arange(ref.n_obs) % 10 == 0)
    given = {"ref": ref, "labels_key": "known"}
    return cells, given, lambda: float((cells.obs[method].astype(str) == truth[~first].astype(str)).mean())


def fields(n_obs: int, n_vars: int, method: str) -> tuple[Any, dict[str, Any], Any]:
    """Cells of fields of view; the arguments of the call, and how its result is scored."""
    adata = sd.datasets.simulate_fov(n_obs, n_vars, n_fovs=n_obs // PER_FIELD)
    expected = adata.obsm.pop("expected").to_numpy()[:SCORED] @ adata.varm.pop("expected").to_numpy().T
    del adata.layers["molecules"]
    in_space = "slice" in registry.get("impute", method).uses
    given = {"output": "counts", "policy": "replace", **({"library_key": "fov"} if in_space else {})}
    return adata, given, lambda: float(np.corrcoef(adata.layers[method][:SCORED].ravel(), expected.ravel())[0, 1])


def pairs(n_obs: int, n_vars: int, task: str, method: str) -> tuple[Any, dict[str, Any], Any]:
    """Cells with RNA and proteins; the arguments of the call, and how its result is scored."""
    mdata = sd.datasets.toy_pairs(n_obs, n_vars, PROTEINS)
    rna, prot = mdata["rna"], mdata["prot"]
    rna.X.data = np.random.default_rng(0).binomial(rna.X.data.astype(np.int64), KEPT).astype(rna.X.dtype)
    rna.X.eliminate_zeros()
    given = {"source": "rna", "target": "prot"}
    asked = np.arange(n_obs) % ASKED == 0
    truth = mdata.obs.pop("cell_type")
    if task == "joint_embed":
        return mdata, given, lambda: sd.metrics.kmeans_ari(truth, mdata.obsm[f"X_{method}"])
    if task == "predict_modality":
        rna.obs["is_train"] = ~asked
        told, given = prot[asked].copy(), {**given, "split_key": "is_train"}
        return mdata, given, lambda: sd.metrics.score(mdata, task, key=method, truth=told)["skill"].item()
    prot.obs_names = np.where(asked, "other_" + prot.obs_names, prot.obs_names)
    with unpulled():
        apart = mudata.MuData({"rna": rna, "prot": prot})
    rows = apart.obs_names.get_indexer(rna.obs_names[asked])
    partners = apart.obs_names.get_indexer("other_" + rna.obs_names[asked])
    return apart, given, lambda: float(apart.obsp[f"{method}_matching"][rows, partners].mean())


def run(task: str, method: str, n_obs: int, n_vars: int) -> list[str]:
    """The row of one call, after imports and without the simulation."""
    if task == "cluster":
        data, given, score = clusters(n_obs, n_vars, method)
    elif task == "impute":
        data, given, score = fields(n_obs, n_vars, method)
    else:
        make = batches if task in ("integrate", "transfer_labels") else pairs
        data, given, score = make(n_obs, n_vars, task, method)
    _import({"task": task, "method": method})
    held, start = resident_mb(), time.process_time()
    getattr(sd.tl, task)(data, method=method, progress=False, **given)
    cpu, mb = time.process_time() - start, peak_mb() - held
    return [task, method, str(n_obs), str(n_vars), f"{cpu:.1f}", f"{mb:.0f}", f"{score():.4f}"]


def draw(path: Path) -> None:
    """CPU seconds and memory of integration by the number of cells."""
    import matplotlib.pyplot as plt
    import pandas as pd

    table = pd.read_csv(path)
    figure, panels = plt.subplots(1, 2, figsize=(7, 3), layout="constrained")
    for method, rows in table[table["task"] == "integrate"].sort_values("n_obs").groupby("method"):
        for panel, column in zip(panels, ("cpu_seconds", "mb"), strict=True):
            panel.plot(rows["n_obs"] / 1000, rows[column], marker="o", label=method)
    for panel, text in zip(panels, ("CPU seconds", "MB above imports"), strict=True):
        panel.set(xlabel="thousand cells", title=text, xlim=(0, None), ylim=(0, None))
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    figure.savefig(path.with_name("integrate_scaling.png"), dpi=75)


def main(task: str, path: Path, methods: list[str]) -> None:
    """Add the rows that are missing."""
    rows = list(csv.reader(path.open()))[1:] if path.exists() else []
    done = {tuple(row[:4]) for row in rows}
    for n_obs, n_vars in SIZES[task]:
        for method in methods or registry.names(task):
            if (task, method, str(n_obs), str(n_vars)) in done:
                continue
            call = [sys.executable, __file__, "--one", task, method, str(n_obs), str(n_vars)]
            rows.append(subprocess.run(call, check=True, capture_output=True, text=True).stdout.split())
            with path.open("w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([COLUMNS, *sorted(rows)])
    if task == "integrate":
        draw(path)


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        sys.stdout.write(" ".join(run(*sys.argv[2:4], *map(int, sys.argv[4:]))) + "\n")
    else:
        main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
