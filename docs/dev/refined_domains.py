"""ARI of domains before and after the vote of the neighbours, one row per data set and seed.

    SCDANCE_DATA_DIR=… python docs/dev/refined_domains.py rows.csv spagcn dlpfc_151673 10

The first word is the table, docs/leaderboard/extra/refined_domains.csv; the last are the method, the data set and the
number of seeds. Rows that are there are kept.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import scdance as sd

COLUMNS = ("method", "dataset", "seed", "ari", "ari_refined")


def main(path: Path, method: str, dataset: str, n_seeds: int) -> None:
    """Add the rows that are missing."""
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    done = {(each["method"], each["dataset"], int(each["seed"])) for each in rows}
    k = sd.datasets.info(dataset)["n_classes"]
    for seed in range(n_seeds):
        if (method, dataset, seed) in done:
            continue
        given = sd.datasets.problem("spatial_domain", dataset)
        adata = given.data
        sd.tl.spatial_domain(
            adata, method=method, n_clusters=k, random_state=seed, progress=False, key_added="found", **given.arguments
        )
        scores = [sd.metrics.ari(given.truth, adata.obs[key]) for key in ("found", "found_refined")]
        told = [method, dataset, seed, *(round(float(score), 4) for score in scores)]
        rows.append(dict(zip(COLUMNS, told, strict=True)))
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
