"""One cell of the grid in a process of its own, ``python -m scdance.bench._cell``: job in, row out, as JSON.

The labels are taken off the object before the method sees it and come back to score the result.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
import threading
import time
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from scdance import _checks

from ._controls import CONTROLS, KEY

LABELLED = 0.1  # share of the cells whose labels a semi-supervised method is given; the others are scored
READ_BY = {"batch_key": "batch", "library_key": "slice"}  # arguments that some methods take, and what these read
_STATUS = Path("/proc/self/status")


def resident_mb() -> float:
    """Memory that this process holds now, in megabytes; its peak where the system does not tell."""
    return _from_status("VmRSS") or _maxrss_mb()


def peak_mb() -> float:
    """Most memory that this process has held, in megabytes."""
    return _from_status("VmHWM") or _maxrss_mb()


def _from_status(field: str) -> float:
    """A field of Linux's process status; not from getrusage, whose peak begins with that of the parent."""
    lines = _STATUS.read_text().splitlines() if _STATUS.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:")), 0.0)


def _maxrss_mb() -> float:
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


class _Picker:
    """Watches a training and notes the epoch that the labels would have picked: what an oracle would report.

    It looks at those of the task's `metrics` that are quick and compare nothing but the result with the truth.
    """

    def __init__(self, task: Any, metrics: list[Any], truth: Any, coords: Any = None):
        there = {"truth", *task.gives, *(() if coords is None else ("coords",))}
        self.metrics = [metric for metric in metrics if not metric.costly and there.issuperset(metric.needs)]
        # what is hidden or asked is in no order of cells to look at, and the first score is that which picks
        self.looks = task.truth in ("obs", "obsm") and self.metrics[:1] == metrics[:1]
        self.truth, self.coords = truth, coords
        self.best: dict[str, float] = {}
        self.epoch = self.last = ""
        self.cpu = self.wall = 0.0

    def __call__(self, stage: str, epoch: int, look: Any, rows: Any) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        given = {**look(), "truth": self.truth.iloc[rows]}
        if self.coords is not None:
            given["coords"] = self.coords[rows]
        self.last = f"{stage} {epoch}"
        self.judge({m.name: float(m.function(*(given[need] for need in m.needs))) for m in self.metrics})
        self.cpu += time.process_time() - cpu
        self.wall += time.perf_counter() - wall

    def judge(self, scores: dict[str, float]) -> None:
        """Keep the scores of the last epoch that was seen, if its first one is the best."""
        first = self.metrics[0]
        sign = 1 if first.higher_is_better else -1
        if not self.best or sign * (scores[first.name] - self.best[first.name]) > 0:
            self.best, self.epoch = scores, self.last

    def row(self, final: dict[str, float]) -> dict[str, Any]:
        """Columns of the row, the result itself counted as the last epoch; none if nobody could look."""
        if not self.last:
            return {}
        self.judge({metric.name: final[metric.name] for metric in self.metrics})
        return {"picked_epoch": self.epoch, **{f"picked_{name}": value for name, value in self.best.items()}}


def solve_cell(job: dict[str, Any]) -> dict[str, Any]:
    """Run one cell and return its row."""
    from scdance import __version__, datasets, metrics
    from scdance._core import registry
    from scdance._core.objects import apart
    from scdance._core.task import TASKS

    task = TASKS[job["task"]]
    wanted = [metrics.get(name) for name in task.metrics]
    control = job["method"] in CONTROLS
    if not control:
        _import(job)
    problem = datasets.problem(task.name, job["dataset"], random_state=job["seed"])
    if not control and registry.kind_of(registry.get(task.name, job["method"])) == "semi-supervised":
        labelled = job["knobs"].pop("labelled", LABELLED)
        problem = problem.partly_labelled(labelled, job["seed"]) if labelled else problem
    row: dict[str, Any] = {}
    in_space = {name: problem.arguments[name] for name in ("library_key",) if name in problem.arguments}
    placed = any("coords" in metric.needs for metric in wanted)
    picker = _Picker(task, wanted, problem.truth, apart(problem.data, **in_space) if placed else None)
    if control:
        holder = problem.data.mod[problem.arguments["source"]] if task.truth == "mod" else problem.data
        for where, name, value in CONTROLS[job["method"]](task, problem, job["seed"]):
            getattr(holder, where)[name] = value
    else:
        if _places_ref(registry.get(task.name, job["method"]), wanted):
            problem.arguments["write_ref"] = True
        row = _solve(problem, job, picker)
    truth: Any = problem.truth
    if not task.truth_is_apart:
        getattr(problem.data, task.truth)["truth"], truth = problem.truth, "truth"
    compared = {**in_space, "batch_key": problem.arguments.get("batch_key")}
    if problem.beside is not None:
        problem.data.obs[problem.beside.columns] = problem.beside
        compared["pseudotime"] = list(problem.beside)
    if "write_ref" in problem.arguments:
        compared["ref"] = problem.arguments["ref"]
    table = metrics.score(problem.data, task.name, key=KEY, truth=truth, **compared)
    scores = {name: float(table[name].item()) for name in task.metrics}
    row |= scores | picker.row(scores)
    row["n_clusters"] = int(problem.data.obs[KEY].nunique()) if "labels" in task.gives else ""
    row["versions"] = versions(__version__)
    return row


def _places_ref(cls: Any, metrics: list[Any]) -> bool:
    """Whether a metric asks where the reference lies, and the method can tell."""
    return hasattr(cls, "place") and any("ref_embedding" in metric.needs for metric in metrics)


def _import(job: dict[str, Any]) -> None:
    """Import what the method and its data need, before a clock starts and memory is measured."""
    import anndata  # noqa: F401
    import sklearn.cluster
    import sklearn.mixture  # noqa: F401

    from scdance._core import registry

    for name, extra in registry.get(job["task"], job["method"]).extras:
        _checks.package(name, extra=extra, why=job["method"])


def _solve(problem: Any, job: dict[str, Any], picker: _Picker) -> dict[str, Any]:
    """Call the tool on an object without its truth; what it cost."""
    from scdance import tl
    from scdance._core import registry, run
    from scdance._core.task import TASKS
    from scdance._core.write import record_of

    arguments = heard(registry.get(job["task"], job["method"]), problem.arguments)
    held = resident_mb()
    cpu, wall = time.process_time(), time.perf_counter()
    with run.watched(picker) if job["pick"] and picker.looks else nullcontext():
        getattr(tl, job["task"])(
            problem.data,
            method=job["method"],
            key_added=KEY,
            random_state=job["seed"],
            progress=False,
            **{**arguments, **job["knobs"]},
        )
    record = record_of(*_where(problem.data, TASKS[job["task"]]))
    return {
        "seconds": time.perf_counter() - wall - picker.wall,
        "cpu_seconds": time.process_time() - cpu - picker.cpu,
        "peak_mb": peak_mb() - held,
        "epochs": record["epochs"],
        "stopped": record["stopped"],
    }


def heard(cls: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a problem without those that a method would refuse, as it does not read what they name."""
    refused = {name for name, word in READ_BY.items() if word not in (*cls.needs, *cls.uses)}
    return {name: value for name, value in arguments.items() if name not in refused}


def _where(data: Any, task: Any) -> tuple[Any, Any, str]:
    """Where the record of the run stands: object, task and key."""
    from scdance._core.write import run_of

    holder, key = run_of(data, task, KEY)
    return holder, task, key


def versions(own: str) -> str:
    """Versions that a number may depend on."""
    from importlib.metadata import PackageNotFoundError, version

    told = [f"scdance {own}", f"python {platform.python_version()}"]
    for name in ("torch", "scikit-learn", "numpy", "scipy", "igraph"):
        try:
            told.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue  # an optional one
    return "; ".join(told)


def row_of(job: dict[str, Any]) -> dict[str, Any]:
    """The row of a cell, or the reason why there is none: a failure of any kind is a row of the table."""
    try:
        return solve_cell(job)
    except Exception as error:  # noqa: BLE001
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(str(error).split())
        return {"error": f"{type(error).__name__}: {reason} ({Path(where.filename).name}:{where.lineno})"}


def _end_with_parent() -> None:
    """Wait for the end of stdin, which the parent holds open, and leave: nobody is there to take the row."""
    os.read(0, 1)
    os._exit(1)


def main() -> None:
    """Read a job from stdin and write its row to stdout; what the method prints goes to stderr."""
    answer = os.dup(1)
    os.dup2(2, 1)
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with os.fdopen(answer, "w") as out:
        json.dump(row_of(job), out)


if __name__ == "__main__":
    main()
