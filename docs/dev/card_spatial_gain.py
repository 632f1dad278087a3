"""What places add to deconvolution: RMSE of `card` beside `nnls`, by the counts of a spot and how smooth the tissue is.

    SCDANCE_DATA_DIR=… python docs/dev/card_spatial_gain.py docs/leaderboard/extra/card_spatial_gain.csv 5

The last word is the number of seeds; a figure of all rows is put beside the table, with the same name. Spots are
mixed from one half of the pancreas' cells, the other half is the reference; "smooth" shares are Gaussian random fields
of range 10 spots, "rough" ones have no pattern. Rows:

nnls                   each spot by itself
nnls_smoothed          its shares, averaged with the kernel of `card`
card                   the default
card_shuffled          with the places of the spots exchanged: what it gains without any true place
card_location_free     without places

Rows that are there are kept.
"""

from __future__ import annotations

import csv
import sys
from itertools import product
from pathlib import Path

import numpy as np

import scdance as sd

TRUTHS = {"smooth": {"pattern": "gp", "lengthscale": 10.0}, "rough": {"pattern": "random"}}
DEPTHS = (50, 100, 300, 1000, 5000)
COLUMNS = ("truth", "depth", "seed", "method", "rmse")
SIGMA = 0.1  # of the kernel, as part of the longest side


def scores(truth: str, depth: int, seed: int) -> dict[str, float]:
    """RMSE of every method on one simulated slice."""
    mixing, ref = sd.datasets.split_reference(sd.datasets.load("pdac_indrop"), random_state=seed)
    spots = sd.datasets.simulate_visium(mixing, "cell_type", depth=depth, random_state=seed, **TRUTHS[truth])
    given = {"ref": ref, "labels_key": "cell_type", "n_boot": 0}
    shuffled = np.random.default_rng([seed, 1]).permutation(spots.obsm["spatial"])
    spots.obsm["shuffled"] = shuffled
    sd.tl.deconvolve(spots, method="nnls", **given)
    sd.tl.deconvolve(spots, method="card", **given)
    sd.tl.deconvolve(spots, method="card", key_added="card_shuffled", spatial_key="shuffled", **given)
    sd.tl.deconvolve(spots, method="card", key_added="card_location_free", location_free=True, **given)
    spots.obsm["nnls_smoothed"] = smoothed(spots)
    found = ("nnls", "nnls_smoothed", "card", "card_shuffled", "card_location_free")
    return {key: sd.metrics.score(spots, "deconvolve", key=key, truth="true_prop")["rmse"].item() for key in found}


def smoothed(spots):
    """Shares of `nnls`, each spot's averaged with those around it."""
    places = spots.obsm["spatial"] - spots.obsm["spatial"].min(axis=0)
    kernel, shares = sd.pp.GaussKernel(places / places.max(), SIGMA), spots.obsm["nnls"]
    seen = shares.notna().all(axis=1).to_numpy()[:, None]
    weighted = np.where(seen, shares, 0)
    total, weight = kernel.matmul(weighted) + weighted, kernel.matmul(seen * 1.0) + seen
    out = shares.copy()
    out[:] = np.where(seen, total / weight, np.nan)
    return out


def main(path: Path, n_seeds: int) -> None:
    """Add the rows that are missing."""
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    done = {(r["truth"], int(r["depth"]), int(r["seed"])) for r in rows}
    for seed, truth, depth in product(range(n_seeds), TRUTHS, DEPTHS):
        if (truth, depth, seed) in done:
            continue
        for method, rmse in scores(truth, depth, seed).items():
            rows.append(dict(zip(COLUMNS, (truth, depth, seed, method, round(rmse, 5)), strict=True)))
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


NAMES = {
    "card": "CARD",
    "card_shuffled": "CARD, places shuffled",
    "card_location_free": "CARD without places",
    "nnls_smoothed": "nnls averaged by the kernel",
}


def draw(path: Path) -> None:
    """RMSE relative to `nnls` on the same spots, mean and standard deviation over the seeds."""
    import matplotlib.pyplot as plt
    import pandas as pd

    wide = pd.read_csv(path).pivot_table(index=["truth", "depth", "seed"], columns="method", values="rmse")
    relative = wide.div(wide["nnls"], axis=0)
    figure, panels = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
    for panel, truth in zip(panels, TRUTHS, strict=True):
        for method, name in NAMES.items():
            found = relative.loc[truth][method].groupby("depth")
            mean = found.mean()
            panel.errorbar(mean.index, mean, yerr=found.std(), label=name, marker="o", markersize=4, capsize=2)
        panel.axhline(1, color="0.6", linewidth=1)
        panel.set(xscale="log", title=f"{truth} truth", xlabel="counts of a spot", ylim=(0.8, 1.35))
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("RMSE relative to nnls")
    panels[1].legend(frameon=False, fontsize="small")
    figure.savefig(path.with_suffix(".png"), dpi=75)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
    draw(Path(sys.argv[1]))
