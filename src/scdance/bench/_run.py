"""Run a grid of methods, data sets and seeds; kill it, run it again, and only what is missing runs."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scdance._checks import InputError, one_of
from scdance._core import registry
from scdance._core.knobs import knobs
from scdance._settings import logger

from ._controls import CONTROLS

if TYPE_CHECKING:
    import pandas as pd

KEY = ("task", "dataset", "method", "variant", "k", "seed")
COLUMNS = (
    *KEY, "knobs", "n_clusters", "ari", "nmi", "picked_ari", "picked_nmi", "picked_epoch", "seconds", "cpu_seconds",
    "peak_mb", "epochs", "stopped", "threads", "data_sha256", "versions", "error",
)  # fmt: skip


def run(
    task: str,
    methods: Sequence[str] | Mapping[str, Mapping[str, Any]],
    datasets: Sequence[str],
    seeds: Iterable[int] = range(5),
    *,
    out: str | Path,
    k: Sequence[str] = ("known",),
    pick: bool = True,
    jobs: int = 1,
    threads: int = 1,
    timeout: float | None = None,
) -> pd.DataFrame:
    """Run every method on every data set with every seed, each in a process of its own.

    Floor (shuffled truth) and ceiling (the truth) stand in every table. Rows are appended to `out` as they come,
    each time by replacing the file at once; rows that are there are not run again, failures included: delete a
    row to repeat it.

    Parameters
    ----------
    task
        Name of the task.
    methods
        Names of methods, or ``{variant: {"method": name, knob: value, …}}`` to run one with other knobs;
        ``"preset"`` may stand among the knobs.
    datasets
        Names of :func:`scdance.datasets.names`.
    seeds
        Seeds of the methods.
    out
        The CSV file; made if need be, continued if there.
    k
        For methods that take a number of clusters: ``"known"`` (that of the labels), ``"estimated"``, or both.
        A method without that knob runs once and counts as estimated.
    pick
        Also note the epoch that the labels would have picked (columns ``picked_…``), for comparison with
        benchmarks that report it. It costs time that is not counted, and steers nothing.
    jobs
        Processes at once.
    threads
        Threads of each.
    timeout
        Seconds after which a process is ended and counts as failed; None: never.

    Returns
    -------
    All rows of `out`, one per task × data set × method × variant × k × seed: the scores that the task names,
    wall and CPU seconds of the call (imports and loading apart), peak memory above what was held before it in
    megabytes, versions, sha256 of the data, and the error of a run that failed.

    Raises
    ------
    ValueError
        An unknown task, method, data set or mode of `k`, or a file `out` with other columns.

    Examples
    --------
    >>> import scdance as sd
    >>> rows = sd.bench.run("cluster", ["kmeans"], ["pbmc_demo"], [0], out="demo.csv")  # doctest: +SKIP
    """
    from scdance import datasets as data

    for mode in k:
        one_of(mode, ("known", "estimated"), "k")
    for name in datasets:
        one_of(name, data.names(task), "dataset")
    plan = list(_plan(task, methods, datasets, list(seeds), k, pick))
    out = Path(out)
    table = _Table(out)
    todo = [job for job in plan if table.key(job) not in table.done]
    logger.info("bench: %d of %d cells to run", len(todo), len(plan))

    def one(job: dict[str, Any]) -> None:
        row = _in_a_process(job, threads, timeout)
        table.add({**job, "knobs": json.dumps(job["knobs"]), "threads": threads, **row})
        scores = ", ".join(f"{name} {row[name]:.3f}" for name in registry.task_of(task).metrics if name in row)
        told = row.get("error") or f"{scores}, {row.get('cpu_seconds', 0):.0f} CPU s"
        logger.info("bench: %s: %s", " · ".join(table.key(job)), told)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, todo))
    from ._board import read

    return read(out)


def _plan(
    task: str, methods: Any, names: Sequence[str], seeds: list[int], modes: Sequence[str], pick: bool
) -> Iterable[dict[str, Any]]:
    """The jobs of the grid, cheap to list and complete."""
    from scdance import datasets as data

    variants = methods if isinstance(methods, Mapping) else {name: {"method": name} for name in methods}
    for seed in seeds:
        for dataset in names:
            common = {"task": task, "dataset": dataset, "seed": seed, "pick": pick}
            for control in CONTROLS:
                yield {**common, "method": control, "variant": control, "k": "", "knobs": {}}
            for variant, settings in variants.items():
                settings = dict(settings)
                method, preset = settings.pop("method"), settings.pop("preset", None)
                takes_k = "n_clusters" in knobs(registry.get(task, method)) and "n_clusters" not in settings
                for mode in modes if takes_k else ["estimated"]:
                    known = {"n_clusters": data.info(dataset)["n_classes"]} if takes_k and mode == "known" else {}
                    job = {**common, "method": method, "variant": variant, "k": mode, "knobs": {**settings, **known}}
                    yield {**job, "preset": preset}


def _in_a_process(job: dict[str, Any], threads: int, timeout: float | None) -> dict[str, Any]:
    limits = dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads)
    )
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "job.json", Path(folder) / "result.json"
        asked.write_text(json.dumps(job))
        command = [sys.executable, "-m", "scdance.bench._cell", str(asked), str(answered)]
        try:
            done = subprocess.run(
                command, env={**os.environ, **limits}, timeout=timeout, capture_output=True, text=True, check=False
            )
        except subprocess.TimeoutExpired:
            return {"error": f"ended after {timeout:g} s"}
        if not answered.exists():
            return {"error": f"the process died with code {done.returncode}: {done.stderr.strip()[-300:]}"}
        return json.loads(answered.read_text())  # type: ignore[no-any-return]


class _Table:
    """The CSV file with the rows so far."""

    def __init__(self, path: Path):
        self.path, self.lock = path, threading.Lock()
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            with path.open(newline="") as file:
                reader = csv.DictReader(file)
                if not set(KEY) <= set(reader.fieldnames or ()):
                    msg = f"{path} is not a table of this benchmark (columns {KEY}); pass another file as `out=`."
                    raise InputError(msg)
                self.rows = list(reader)
        self.done = {self.key(row) for row in self.rows}

    @staticmethod
    def key(row: dict[str, Any]) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in KEY)

    def add(self, row: dict[str, Any]) -> None:
        with self.lock:
            self.rows.append({name: _short(row.get(name, "")) for name in COLUMNS})
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new = self.path.with_suffix(".part")
            with new.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(sorted(self.rows, key=self.key))
            new.replace(self.path)


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
