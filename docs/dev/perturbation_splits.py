"""How the floors of perturbation prediction, and the cells themselves, do on many splits of a screen.

    SCDANCE_DATA_DIR=… python docs/dev/perturbation_splits.py docs/leaderboard/extra/perturbation_splits.csv

Beside the floors stands what a replicate would reach: the mean of one half of the cells of each perturbation, as a
prediction of the mean of the other half. It is no bound, as both halves are noisy, but says how much noise there is.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

import scdance as sd
from scdance._core import registry
from scdance._core.responses import responses
from scdance._core.task import PREDICT_PERTURBATION

TASK, SEEDS = PREDICT_PERTURBATION.name, range(60)


def scores(dataset: str, seed: int) -> pd.DataFrame:
    """Scores of the floors and of half of the cells, one row each."""
    given = sd.datasets.problem(TASK, dataset, seed)
    names = [name for name in registry.names(TASK) if registry.get(TASK, name).control]
    rows = []
    for name in names:
        sd.tl.predict_perturbation(given.data, name, **given.arguments)
        rows.append(sd.metrics.score(given.data, TASK, key=name, truth=given.truth))
    first = np.random.default_rng(seed).random(given.truth.n_obs) < 0.5
    said, true = (responses(given.data, PREDICT_PERTURBATION, names[0], given.truth[some]) for some in (first, ~first))
    known = {**true, "profile": said["truth"], "change": said["truth"] - true["control"]}
    metrics = [sd.metrics.get(name) for name in PREDICT_PERTURBATION.metrics]
    half = {each.name: each.function(*(known[need] for need in each.needs)) for each in metrics}
    return pd.concat([*rows, pd.DataFrame([half], index=["half of the cells"])])


def main(path: Path) -> None:
    """Write mean, standard deviation, and the share of the splits with a better value than that of no change."""
    tables = []
    for dataset in sd.datasets.names(TASK):
        wide = pd.concat({seed: scores(dataset, seed) for seed in SEEDS}, names=["seed", "what"])
        long = wide.melt(var_name="score", ignore_index=False).set_index("score", append=True)
        found = long["value"].sort_index()
        gain = found - found.xs("no_change", level="what").reindex(found.index.droplevel("what")).to_numpy()
        sign = [1 if sd.metrics.get(name).higher_is_better else -1 for name in found.index.get_level_values("score")]
        by = ["what", "score"]
        table = found.groupby(by).agg(["mean", "std"]).assign(better=(gain * sign > 0).groupby(by).mean())
        tables.append(table.reset_index().assign(dataset=dataset))
    columns = ["dataset", "what", "score", "mean", "std", "better"]
    pd.concat(tables)[columns].to_csv(path, index=False, float_format="%.3f", lineterminator="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
