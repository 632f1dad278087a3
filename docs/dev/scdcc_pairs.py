"""ARI of scDCC by the number of pairs and the share of wrong ones, on the cells that no pair was drawn from.

    SCDANCE_DATA_DIR=… python docs/dev/scdcc_pairs.py docs/leaderboard/extra/scdcc_pairs.csv 10x_pbmc 2

The last two words are the data set and the number of seeds. Rows that are there are kept. Pairs have no part in the
pre-training, so the settings of a seed share one.
"""

from __future__ import annotations

import csv
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch

import scdance as sd
from scdance.methods.cluster.scdcc import ScDCC

LABELLED = 0.1  # of the cells, among which pairs are drawn
# number of pairs, share of wrong ones, and the share that the method is told to expect
SETTINGS = (
    (0, 0.0, 0.0),
    (1000, 0.0, 0.0),
    (5000, 0.0, 0.0),
    (5000, 0.05, 0.0),
    (5000, 0.05, 0.05),
    (10_000, 0.0, 0.0),
)
COLUMNS = ("dataset", "seed", "n_pairs", "share_wrong", "pair_error", "ari")


class Continued(ScDCC):
    """scDCC from the network that the last call with this seed had after its pre-training."""

    name = "scdcc"
    last = None

    def _pretrain(self, *given: Any) -> None:
        if type(self).last is None or type(self).last[0] != self.random_state:
            super()._pretrain(*given)
            type(self).last = self.random_state, deepcopy(self.net_.state_dict()), torch.get_rng_state()
        _, net, random = type(self).last
        self.net_.load_state_dict(net)
        torch.set_rng_state(random)


def aris(dataset: str, seed: int, settings: list[tuple[float, ...]]) -> dict[tuple[float, ...], float]:
    """ARI of each setting with one seed."""
    problem, k = sd.datasets.problem("cluster", dataset), sd.datasets.info(dataset)["n_classes"]
    truth, rng = problem.truth.astype(str), np.random.default_rng([seed, 7])
    given = rng.random(len(truth)) < LABELLED
    labels = truth.where(given, "").to_numpy(dtype=object)
    must, cannot = sd.pp.pairs_from_labels(labels, max(n for n, *_ in SETTINGS), random_state=seed)
    pairs, together = np.vstack([must, cannot]), np.repeat([True, False], [len(must), len(cannot)])
    order = rng.permutation(len(pairs))
    pairs, together = pairs[order], together[order]
    # drawn for every setting, so that none depends on the others
    drawn = dict.fromkeys(setting[:2] for setting in SETTINGS)
    said = {(n, wrong): together[:n] ^ (rng.random(n) < wrong) for n, wrong in drawn}
    out = {}
    for n, wrong, error in settings:
        adata, joins = problem.data.copy(), said[n, wrong]
        links = {"must_link": pairs[:n][joins], "cannot_link": pairs[:n][~joins]} if n else {}
        knobs = {"n_clusters": k, "pair_error": error, "random_state": seed}
        sd.tl.cluster(adata, method=Continued, progress=False, **knobs, **links)
        out[n, wrong, error] = sd.metrics.ari(truth[~given], adata.obs["scdcc"][~given])
    return out


def main(path: Path, dataset: str, n_seeds: int) -> None:
    """Add the rows that are missing."""
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    told = COLUMNS[3:5]
    done = {(r["dataset"], int(r["seed"]), int(r["n_pairs"]), *(float(r[name]) for name in told)) for r in rows}
    for seed in range(n_seeds):
        missing = [setting for setting in SETTINGS if (dataset, seed, *setting) not in done]
        for setting, ari in aris(dataset, seed, missing).items():
            rows.append(dict(zip(COLUMNS, (dataset, seed, *setting, round(ari, 4)), strict=True)))
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
