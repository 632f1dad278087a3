"""The published presets of the clustering methods on the worm neurons: what an epoch costs, and what they score.

    SCDANCE_DATA_DIR=… python docs/dev/cluster_presets.py cost docs/leaderboard/extra/preset_costs.csv
    SCDANCE_DATA_DIR=… python docs/dev/cluster_presets.py run docs/leaderboard/extra/cluster_presets.csv "sctag paper"

``cost`` times an epoch of either stage in CPU seconds and multiplies by the number of epochs that the preset has; a run
whose labels settle earlier takes less. ``run`` runs presets to their end, as the benchmark does, one seed. Either takes
the presets to look at as further words, all of them without; rows that are there are kept.
"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import scdance as sd
from scdance._core import registry

DATASET, LABELLED = "worm_neuron", 0.1  # the labels that the benchmark gives to scDCC
COLUMNS = (
    "dataset", "method", "preset", "pretrain_epochs", "pretrain_epoch_cpu_seconds", "epochs", "epoch_cpu_seconds",
    "cpu_hours",
)  # fmt: skip


class _Timed:
    """Batches that note the CPU time at which each pass over them begins and ends."""

    def __init__(self, batches: Any, marks: list[tuple[float, float]]):
        self.batches, self.marks = batches, marks

    def __iter__(self) -> Iterator[Any]:
        start = time.process_time()
        yield from self.batches
        self.marks.append((start, time.process_time()))


def cost(method: str, preset: str) -> dict[str, Any]:
    """The row of a preset."""
    cls, marks = registry.get("cluster", method), []

    def learn(self: Any, *given: Any, batches: Any, **knobs: Any) -> Any:
        return cls.learn(self, *given, batches=_Timed(batches, marks), **knobs)

    timed = type(cls.__name__, (cls,), {"name": method, "learn": learn})
    problem = sd.datasets.problem("cluster", DATASET)
    if registry.kind_of(cls) == "semi-supervised":
        problem = problem.partly_labelled(LABELLED, 0)
    knobs = {"n_clusters": sd.datasets.info(DATASET)["n_classes"], "pretrain_epochs": 1, "epochs": 2}
    sd.tl.cluster(problem.data, timed, preset=preset, progress=False, **knobs, **problem.arguments)
    first, second, third = marks
    # from the end of one epoch to that of the next: the target set between them counts
    seconds = first[1] - first[0], third[1] - second[1]
    n = cls.presets[preset]["pretrain_epochs"], cls.presets[preset]["epochs"]
    total = n[0] * seconds[0] + n[1] * seconds[1]
    values = (DATASET, method, preset, n[0], round(seconds[0], 2), n[1], round(seconds[1], 2), round(total / 3600, 2))
    return dict(zip(COLUMNS, values, strict=True))


def costs(path: Path, wanted: list[tuple[str, str]]) -> None:
    """Add the rows that are missing."""
    torch.set_num_threads(1)
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    for each in wanted:
        if each in {(row["method"], row["preset"]) for row in rows}:
            continue
        rows.append(cost(*each))
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def main(mode: str, path: Path, named: list[str]) -> None:
    """Cost or scores of the presets, by default of all that have two stages of training."""
    grids = sd.bench.plan("tests/golden.toml", datasets=[DATASET], presets=True)
    variants = {key: value for grid in grids if grid["task"] == "cluster" for key, value in grid["methods"].items()}
    chosen = {name: variants[name] for name in named} if named else variants
    if mode == "run":
        sd.bench.run("cluster", chosen, [DATASET], [0], out=path)
        return
    staged = [v for v in chosen.values() if hasattr(registry.get("cluster", v["method"]), "pretraining")]
    costs(path, [(v["method"], v["preset"]) for v in staged])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
