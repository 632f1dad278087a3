"""One cell of the grid in a process of its own: ``python -m scdance.bench._cell JOB.json RESULT.json``.

The labels are taken off the object before the method sees it and come back to score the result.
"""

from __future__ import annotations

import json
import platform
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from ._controls import CONTROLS


def resident_mb() -> float:
    """Memory that this process holds now, in megabytes; its peak where the system does not tell."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20
    return peak_mb()


def peak_mb() -> float:
    """Most memory that this process has held, in megabytes."""
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


class _Picker:
    """Watches a training and notes the epoch that the labels would have picked: what an oracle would report."""

    def __init__(self, truth: Any, metrics: list[Any]):
        self.truth, self.metrics = truth, metrics
        self.best: dict[str, float] = {}
        self.epoch, self.cpu, self.wall = 0, 0.0, 0.0

    def __call__(self, stage: str, epoch: int, look: Any) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        found = look()
        scores = {
            m.name: m.function(*(self.truth if need == "truth" else found[need] for need in m.needs))
            for m in self.metrics
        }
        first = self.metrics[0].name
        if not self.best or scores[first] > self.best[first]:
            self.best, self.epoch = scores, epoch
        self.cpu += time.process_time() - cpu
        self.wall += time.perf_counter() - wall


def solve_cell(job: dict[str, Any]) -> dict[str, Any]:
    """Run one cell and return its row."""
    import scdance
    from scdance import datasets, metrics
    from scdance._core import io, registry, run
    from scdance._core.task import TASKS

    task = TASKS[job["task"]]
    entry = datasets.info(job["dataset"])
    control = job["method"] in CONTROLS
    if not control:
        registry.get(task.name, job["method"])
    adata = datasets.load(job["dataset"])
    truth = adata.obs[entry["labels_key"]].copy()
    adata.obs = adata.obs[[]]
    adata.uns.clear()
    wanted = [metrics.get(name) for name in task.metrics]
    before = resident_mb()
    row: dict[str, Any] = {"data_sha256": entry["sha256"]}
    if control:
        adata.obs["result"] = CONTROLS[job["method"]](truth, job["seed"])
    else:
        picker = _Picker(truth.to_numpy(), wanted)
        cpu, wall = time.process_time(), time.perf_counter()
        model = run.make(
            task.name,
            job["method"],
            job["knobs"],
            preset=job.get("preset"),
            random_state=job["seed"],
            device=job.get("device", "auto"),
        )
        cells = io.read(adata, model)
        result, seconds = run.solve(model, cells=cells, progress=False, on_epoch=picker if job.get("pick") else None)
        io.write(
            adata,
            task,
            "result",
            cells,
            result,
            model.categories_,
            run.record(model, preset=job.get("preset"), seconds=seconds, cells=cells, recipe="default"),
        )
        row |= {
            "seconds": time.perf_counter() - wall - picker.wall,
            "cpu_seconds": time.process_time() - cpu - picker.cpu,
            "peak_mb": peak_mb() - before,
            "epochs": int(getattr(model, "epochs_", 0)),
            "stopped": str(getattr(model, "stopped_", "")),
            "picked_epoch": picker.epoch or "",
            **{f"picked_{name}": value for name, value in picker.best.items()},
        }
    adata.obs["truth"] = truth
    row |= metrics.score(adata, task.name, key="result", truth="truth").iloc[0].to_dict()
    row["n_clusters"] = int(adata.obs["result"].nunique())
    row["versions"] = versions(scdance.__version__)
    return row


def versions(own: str) -> str:
    """Versions that a number may depend on."""
    from importlib.metadata import version

    names = ("torch", "scikit-learn", "numpy", "scipy", "igraph")
    return "; ".join(
        [f"scdance {own}", f"python {platform.python_version()}", *(f"{name} {version(name)}" for name in names)]
    )


def main(job_file: str, result_file: str) -> None:
    """Run the job of one file and write its row, or the reason why there is none, to another."""
    job = json.loads(Path(job_file).read_text())
    try:
        row = solve_cell(job)
    except Exception as error:  # noqa: BLE001, a failure of any kind is a row of the table
        where = traceback.extract_tb(error.__traceback__)[-1]
        row = {"error": f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"}
    Path(result_file).write_text(json.dumps(row))


if __name__ == "__main__":
    main(*sys.argv[1:])
