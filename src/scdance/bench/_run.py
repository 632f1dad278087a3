"""Run a grid of methods, data sets and seeds; kill it, run it again, and only what is missing runs."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scdance._checks import InputError, listed, one_of, whole_number
from scdance._core import registry
from scdance._core.knobs import knobs
from scdance._core.task import Task
from scdance._settings import logger

from ._board import read
from ._controls import CONTROLS
from ._processes import solved

if TYPE_CHECKING:
    import pandas as pd

KEY = ("task", "dataset", "method", "variant", "k", "seed")
MODES = ("known", "estimated")


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

    Floor (shuffled truth) and ceiling (the truth) stand in every table. Each row is added by replacing `out` at
    once, so a run that is killed can be continued: rows that are there are not run again, failures included
    (delete a row to repeat it), unless their knobs or data have changed since.

    Parameters
    ----------
    task
        Name of the task.
    methods
        Names of methods, or ``{variant: {"method": name, knob: value, …}}`` to run one with other knobs;
        ``"preset"`` may stand among the knobs, and ``"method"`` may be left out where the variant is called so.
        A semi-supervised method is given a tenth of the labels and scored by the other cells; ``"labelled"`` among
        its knobs is another share, 0 for none.
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
    All rows of `out`, one per task × data set × method × variant × k × seed: ``kind`` (control, floor, method or
    route), the scores that the task names, wall and CPU seconds of the call (imports and loading apart), peak
    memory above imports in megabytes, versions, sha256 of the data, and the error of a run that failed.

    Raises
    ------
    ValueError
        An unknown task, method, data set or mode of `k`, an empty grid, or a file `out` that is no such table.

    Examples
    --------
    >>> import scdance as sd
    >>> rows = sd.bench.run("cluster", ["kmeans"], ["pbmc_demo"], [0], out="demo.csv")  # doctest: +SKIP
    """
    whole_number(jobs, "jobs", least=1)
    whole_number(threads, "threads", least=1)
    declared = registry.task_of(task)
    plan = list(_plan(declared, methods, datasets, list(seeds), k, pick))
    table = _Table(Path(out), declared)
    missing = [job for job in plan if not table.has(job)]
    logger.info("bench: %d of %d cells to run", len(missing), len(plan))
    with closing(solved(missing, at_once=jobs, threads=threads, timeout=timeout)) as rows:
        for i, (job, row) in enumerate(rows, 1):
            table.add({**job, "threads": threads, **row})
            told = row.get("error") or ", ".join(f"{name} {row[name]:.3f}" for name in declared.metrics)
            if "cpu_seconds" in row:
                told += f", {row['cpu_seconds']:.0f} CPU s"
            logger.info("bench: %d/%d %s: %s", i, len(missing), _named(job), told)
    return read(out)


def _plan(
    task: Task, methods: Any, names: Sequence[str], seeds: list[int], modes: Sequence[str], pick: bool
) -> Iterator[dict[str, Any]]:
    """The jobs of the grid, the first seed of everything first."""
    from scdance import datasets as data

    given = methods if isinstance(methods, Mapping) else {name: {"method": name} for name in methods}
    variants = {name: _variant(task, name, settings, modes) for name, settings in given.items()}
    if not (variants and names and seeds and modes):
        msg = f"The grid is empty: {len(variants)} methods, {len(names)} data sets, {len(seeds)} seeds, k {modes!r}."
        raise InputError(msg)
    for seed in seeds:
        whole_number(seed, "seed")
        for dataset in names:
            entry = data.info(one_of(dataset, data.names(task.name), "dataset"))
            common = {"task": task.name, "dataset": dataset, "seed": seed, "data_sha256": _identity(entry)}
            for control in CONTROLS:
                yield {**common, "method": control, "variant": control, "kind": "control", "k": "", "knobs": {}}
            for variant, (method, kind, settings, runs) in variants.items():
                for mode in runs:
                    known = {"n_clusters": entry["n_classes"]} if mode == "known" else {}
                    job = {**common, "method": method, "variant": variant, "kind": kind, "k": mode, "pick": pick}
                    yield {**job, "knobs": {**settings, **known}}


def _identity(entry: Mapping[str, Any]) -> str:
    """What tells that the data are the same: the hash of the file, or what they are simulated with."""
    return str(entry["sha256"]) if "sha256" in entry else _text(entry["toy"])


def _variant(
    task: Task, variant: str, settings: Mapping[str, Any], modes: Sequence[str]
) -> tuple[str, str, dict[str, Any], Sequence[str]]:
    """Method, kind and knobs of a variant, and the modes of k that it runs in."""
    for mode in modes:
        one_of(mode, MODES, "k")
    own = dict(settings)
    method = own.pop("method", variant)
    cls = registry.get(task.name, method)
    kind = registry.kind_of(cls)
    if kind == "semi-supervised" and own.get("labelled") == 0:
        kind = "method"
    if "n_clusters" in own:
        msg = (
            f"Variant {variant!r} sets n_clusters={own['n_clusters']!r}, but the benchmark takes it from each data set "
            "or has it estimated: leave it out, and pass `k=`."
        )
        raise InputError(msg)
    # as the file will hold them: a tuple comes back as a list
    counted = "labels" in task.gives and "n_clusters" in knobs(cls)  # elsewhere nobody is told the number of types
    return method, kind, json.loads(json.dumps(own)), modes if counted else ["estimated"]


class _Table:
    """The CSV file with the rows so far."""

    def __init__(self, path: Path, task: Task):
        self.path = path
        self.columns = [
            *KEY, "kind", "knobs", "n_clusters", *task.metrics, *(f"picked_{name}" for name in task.metrics),
            "picked_epoch", "seconds", "cpu_seconds", "peak_mb", "epochs", "stopped", "threads", "data_sha256",
            "versions", "error",
        ]  # fmt: skip
        self.rows = {self.key(row): row for row in self._read()} if path.exists() else {}

    def _read(self) -> list[dict[str, Any]]:
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                found, rows = list(reader.fieldnames or []), list(reader)
        except (UnicodeDecodeError, csv.Error):
            found, rows = [], []
        if set(found) != set(self.columns):
            msg = (
                f"{self.path} is not a table of this benchmark: expected the columns {listed(self.columns, 30)}; "
                f"found {listed(found)}. Pass another file as `out=`."
            )
            raise InputError(msg)
        return rows

    @staticmethod
    def key(row: dict[str, Any]) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in KEY)

    def has(self, job: dict[str, Any]) -> bool:
        """Whether the row of this job is there, with these knobs and these data."""
        row = self.rows.get(self.key(job))
        return row is not None and (row["knobs"], row["data_sha256"]) == (_text(job["knobs"]), job["data_sha256"])

    def add(self, row: dict[str, Any]) -> None:
        """Put in a row, in place of an older one of its key, and replace the file."""
        self.rows[self.key(row)] = {name: _text(row.get(name, "")) for name in self.columns}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_name(f".{self.path.name}.part")
        with new.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows[key] for key in sorted(self.rows, key=lambda key: (*key[:-1], int(key[-1]))))
        new.replace(self.path)


def _named(job: dict[str, Any]) -> str:
    """A job for the log: data set, variant, mode of k and seed."""
    return " · ".join(filter(None, (job["dataset"], job["variant"], job["k"], f"seed {job['seed']}")))


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True)
    return str(round(value, 4)) if isinstance(value, float) else str(value)
