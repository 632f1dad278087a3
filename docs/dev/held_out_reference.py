"""Calibration and conformal sets on cells like those of the reference: one row per data set, method and split.

    SCDANCE_DATA_DIR=… python docs/dev/held_out_reference.py docs/leaderboard/extra/annotate_held_out.csv

A fifth of each reference is held out at random and annotated with the rest. Rows that are there are kept.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from anndata import AnnData

import scdance as sd

SETS = ("baron_mouse_1_to_2", "baron_mouse_2_to_1", "worm_neuron", "lung_lines")
METHODS = ("knn", "svm", "celltypist", "singlecellnet", "actinn", "scdeepsort")
SCORES = ("accuracy", "macro_f1", "ece", "brier", "set_coverage")
COLUMNS = ("dataset", "method", "split", "n_cells", *SCORES, "set_size")
SPLITS, SHARE = 3, 0.2


def row(ref: AnnData, key: str, method: str, split: int) -> dict[str, object]:
    """Scores of one split of a reference."""
    held = np.random.default_rng(split).random(ref.n_obs) < SHARE
    query = ref[held].copy()
    truth = query.obs.pop(key)
    sd.tl.annotate(query, ref[~held].copy(), method=method, labels_key=key, random_state=split)
    query.obs["truth"] = truth
    names = [*SCORES, "set_size"]
    scores = sd.metrics.score(query, "annotate", key=method, truth="truth", metrics=names).iloc[0]
    return {
        "method": method,
        "split": split,
        "n_cells": query.n_obs,
        **{name: round(scores[name], 4) for name in names},
    }


def main(path: Path) -> None:
    """Add the rows that are missing."""
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    done = {(each["dataset"], each["method"], int(each["split"])) for each in rows}
    for split in range(SPLITS):
        for dataset in SETS:
            given = sd.datasets.problem("annotate", dataset).arguments
            for method in METHODS:
                if (dataset, method, split) not in done:
                    rows.append({"dataset": dataset, **row(given["ref"], given["labels_key"], method, split)})
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("w", newline="") as file:
                        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                        writer.writeheader()
                        writer.writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
