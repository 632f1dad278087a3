"""Leave one type out of the reference and ask each annotator which cells of the query are new: one row per type.

    SCDANCE_DATA_DIR=… python docs/dev/leave_one_type_out.py docs/leaderboard/extra/annotate_unknown.csv

Rows that are there are kept, so it can be stopped and run again.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

import scdance as sd

SETS = ("baron_mouse_1_to_2", "baron_mouse_2_to_1", "worm_neuron")
METHODS = ("knn", "svm", "celltypist", "singlecellnet", "actinn", "scdeepsort")
DETECTORS = ("entropy", "distance", "both")
FEWEST = 3  # cells of the type in the query
COLUMNS = ("dataset", "method", "left_out", "n_new", "n_known", "probability", *DETECTORS, "rejected", "kept")


def row(problem: sd.datasets.Problem, method: str, left_out: str) -> dict[str, object]:
    """AUROC of each detector for the cells of the type that was left out."""
    key = problem.arguments["labels_key"]
    ref, truth = problem.arguments["ref"], problem.truth.astype(str)
    model = sd.fit("annotate", ref[ref.obs[key].astype(str) != left_out].copy(), method=method, labels_key=key)
    new, out = (truth == left_out).to_numpy(), {}
    for detector in DETECTORS:
        model.detector = detector
        sd.tl.annotate(problem.data, method=model, key_added="got")
        novelty = problem.data.obs["got_novelty"].to_numpy()
        out[detector] = roc_auc_score(new, novelty)
        if detector == "entropy":  # the default, and what reject="auto" would do with it
            out |= {"rejected": np.mean(novelty[new] > 0.5), "kept": np.mean(novelty[~new] <= 0.5)}
    out["probability"] = roc_auc_score(new, 1 - problem.data.obs["got_score"].to_numpy())
    return {"method": method, "left_out": left_out, "n_new": int(new.sum()), "n_known": int((~new).sum())} | {
        name: round(float(value), 4) for name, value in out.items()
    }


def main(path: Path) -> None:
    """Add the rows that are missing."""
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    done = {(each["dataset"], each["method"], each["left_out"]) for each in rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    for dataset in SETS:
        problem = sd.datasets.problem("annotate", dataset)
        sizes = problem.truth.astype(str).value_counts()
        for left_out in sorted(sizes.index[sizes >= FEWEST]):
            for method in METHODS:
                if (dataset, method, left_out) not in done:
                    rows.append({"dataset": dataset, **row(problem, method, left_out)})
                    with path.open("w", newline="") as file:
                        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                        writer.writeheader()
                        writer.writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
