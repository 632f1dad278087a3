"""The grid: what runs, what is kept, and what happens when it is stopped."""

from __future__ import annotations

import csv
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from scdance import bench, datasets
from scdance._checks import InputError
from scdance.bench import _processes, _run
from scdance.bench._cell import solve_cell

COSTS = ["seconds", "cpu_seconds", "peak_mb"]
Jobs = list[dict[str, Any]]


def grid(out: Path, methods: Any = ("kmeans",), seeds: Any = (0,), **given: Any) -> pd.DataFrame:
    return bench.run("cluster", methods, ["pbmc_demo"], seeds, out=out, **given)


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not yet collected does not."""
    status = Path(f"/proc/{pid}/stat")
    if Path("/proc").is_dir():
        return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"
    return subprocess.run(["ps", "-p", str(pid)], capture_output=True, check=False).returncode == 0


def until(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def framed(tmp_path: Path) -> Path:
    """A table that holds the controls of seed 0 already."""
    out = tmp_path / "framed.csv"
    jobs = _run._plan(_run.registry.task_of("cluster"), ["kmeans"], ["pbmc_demo"], [0], ["known"], True)
    table = _run._Table(out, _run.registry.task_of("cluster"))
    for job in jobs:
        if job["kind"] == "control":
            table.add({**job, **solve_cell(job)})
    return out


# In processes


def test_a_killed_benchmark_continues_and_leaves_no_process(
    plugin: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    out, pid = tmp_path / "deep" / "rows.csv", tmp_path / "pid"
    code = """
import sys, scdance as sd
sd.bench.run("cluster", ["kmeans", "patient"], ["pbmc_demo"], [0], out=sys.argv[1], jobs=2)
"""
    with subprocess.Popen([sys.executable, "-c", code, out], env={**os.environ, "BENCH_PID": str(pid)}) as parent:
        until(lambda: out.exists() and len(lines(out)) == 3 and pid.exists() and pid.read_text())
        child = int(pid.read_text())
        assert is_alive(child)
        parent.send_signal(signal.SIGKILL)
    until(lambda: not is_alive(child), 20)

    before = bench.read(out)
    assert set(before["variant"]) == {"shuffled truth", "the truth", "kmeans"}
    with caplog.at_level(logging.INFO, logger="scdance"):
        rows = grid(out, ["kmeans", "patient"], threads=2)
    assert "1 of 4 cells to run" in caplog.text
    assert list(rows["variant"]) == ["kmeans", "patient", "shuffled truth", "the truth"]
    assert (rows["error"] == "").all()
    pd.testing.assert_frame_equal(rows[rows["variant"] != "patient"].reset_index(drop=True), before)
    assert rows.loc[1, "stopped"] == "2 threads"

    here = solve_cell({"method": "kmeans", "dataset": "pbmc_demo", "task": "cluster", "seed": 0, "pick": True,
                       "knobs": {"n_clusters": 8}})  # fmt: skip
    assert rows.loc[0, ["ari", "nmi"]].tolist() == [round(here["ari"], 4), round(here["nmi"], 4)]
    assert (rows.loc[0, COSTS] > 0).all()
    assert rows.loc[0, "peak_mb"] < 500
    assert sorted(path.name for path in out.parent.iterdir()) == [out.name]

    finished = out.read_bytes()
    grid(out, ["kmeans", "patient"])
    assert out.read_bytes() == finished


def test_a_process_that_dies_is_a_row(plugin: ModuleType, framed: Path):
    rows = grid(framed, ["doomed"]).set_index("variant")
    assert rows.loc["doomed", "error"].startswith("the process died with SIGABRT: ")
    assert "last words" in rows.loc["doomed", "error"]
    assert rows.loc["the truth", "error"] == ""


def test_a_run_that_takes_too_long_is_a_row(framed: Path):
    rows = grid(framed, timeout=0.1).set_index("variant")
    assert rows.loc["kmeans", "error"] == "ended after 0.1 s"
    assert pd.isna(rows.loc["kmeans", "ari"])


def test_ctrl_c_ends_the_processes_and_leaves_the_table(
    plugin: ModuleType, framed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pid, before, sleep = tmp_path / "pid", framed.read_bytes(), time.sleep
    monkeypatch.setenv("BENCH_PID", str(pid))

    def interrupted(seconds: float) -> None:
        sleep(seconds)
        if pid.exists() and pid.read_text():
            raise KeyboardInterrupt

    monkeypatch.setattr(_processes.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        grid(framed, ["patient"])
    assert not is_alive(int(pid.read_text()))
    assert framed.read_bytes() == before


# What runs, and what is kept


def test_controls_frame_every_data_set_and_seed(tmp_path: Path, in_process: Jobs):
    rows = grid(tmp_path / "rows.csv", seeds=[0, 1])
    by = rows.set_index(["variant", "seed"])["ari"]
    assert by["the truth"].tolist() == [1, 1]
    assert by["shuffled truth"].abs().max() < 0.03
    assert rows.set_index("variant")["kind"].to_dict() == {
        "kmeans": "floor", "shuffled truth": "control", "the truth": "control",
    }  # fmt: skip


def test_the_first_seed_of_everything_runs_first(tmp_path: Path, in_process: Jobs):
    grid(tmp_path / "rows.csv", seeds=[3, 1])
    assert [job["seed"] for job in in_process] == [3, 3, 3, 1, 1, 1]


def test_number_of_clusters_is_known_or_estimated_for_methods_that_take_one(tmp_path: Path, in_process: Jobs):
    methods = {"kmeans": {}, "coarse": {"method": "leiden", "resolution": 0.1}}
    rows = grid(tmp_path / "rows.csv", methods, k=["known", "estimated"])
    by = rows[rows["kind"] == "floor"].set_index(["variant", "k"])
    assert sorted(by.index) == [("coarse", "estimated"), ("kmeans", "estimated"), ("kmeans", "known")]
    assert by.loc[("kmeans", "known"), "knobs"] == '{"n_clusters": 8}'
    assert by.loc[("kmeans", "known"), "n_clusters"] == datasets.info("pbmc_demo")["n_classes"]
    assert by.loc[("kmeans", "estimated"), "knobs"] == "{}"
    assert by.loc[("coarse", "estimated"), "n_clusters"] < 8


def test_an_interrupted_run_is_completed_to_the_same_table(
    tmp_path: Path, in_process: Jobs, monkeypatch: pytest.MonkeyPatch
):
    whole = grid(tmp_path / "whole.csv", seeds=[0, 1])
    out, solved = tmp_path / "rows.csv", _run.solved

    def interrupted(jobs: Jobs, **given: Any) -> Any:
        yield from list(solved(jobs[:4], **given))
        raise KeyboardInterrupt

    monkeypatch.setattr(_run, "solved", interrupted)
    with pytest.raises(KeyboardInterrupt):
        grid(out, seeds=[0, 1])
    assert len(lines(out)) == 4
    monkeypatch.setattr(_run, "solved", solved)
    in_process.clear()
    again = grid(out, seeds=[0, 1])
    assert len(in_process) == 2
    pd.testing.assert_frame_equal(again.drop(columns=COSTS), whole.drop(columns=COSTS))


def test_a_table_is_replaced_at_once_or_not_at_all(framed: Path, in_process: Jobs, monkeypatch: pytest.MonkeyPatch):
    before = framed.read_bytes()

    def full(writer: Any, rows: Any) -> None:
        writer.writerow(next(iter(rows)))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(csv.DictWriter, "writerows", full)
    with pytest.raises(OSError, match="No space left"):
        grid(framed)
    assert framed.read_bytes() == before


def test_seeds_stand_in_the_order_of_numbers(tmp_path: Path, in_process: Jobs):
    rows = grid(tmp_path / "rows.csv", seeds=[10, 9, 2])
    assert rows.loc[rows["variant"] == "kmeans", "seed"].tolist() == [2, 9, 10]


def test_changed_knobs_run_again_and_replace_their_row(framed: Path, in_process: Jobs):
    grid(framed, {"v": {"method": "kmeans", "n_init": 1}})
    grid(framed, {"v": {"method": "kmeans", "n_init": 1}})
    assert len(in_process) == 1
    rows = grid(framed, {"v": {"method": "kmeans", "n_init": 2}})
    assert len(in_process) == 2
    assert rows.loc[rows["variant"] == "v", "knobs"].tolist() == ['{"n_clusters": 8, "n_init": 2}']


def test_changed_data_run_again(framed: Path, in_process: Jobs):
    grid(framed)
    framed.write_text(framed.read_text().replace(datasets.info("pbmc_demo")["sha256"], "of old"))
    rows = grid(framed)
    assert len(in_process) == 1 + 3
    assert (rows["data_sha256"] == datasets.info("pbmc_demo")["sha256"]).all()


def test_a_preset_is_a_knob_and_a_tuple_is_the_same_when_read_back(framed: Path, in_process: Jobs):
    for _ in range(2):
        rows = grid(framed, {"v": {"method": "kmeans", "preset": "of nobody", "n_init": (1, 2)}})
    assert len(in_process) == 1
    assert rows.loc[rows["variant"] == "v", "knobs"].item() == (
        '{"n_clusters": 8, "n_init": [1, 2], "preset": "of nobody"}'
    )


def test_a_failure_is_kept_until_its_row_is_deleted(framed: Path, in_process: Jobs):
    bad = {"bad": {"method": "kmeans", "n_components": "many"}}
    rows = grid(framed, bad)
    assert rows.loc[rows["variant"] == "bad", "error"].item().startswith("InputError: KMeans: n_components='many'")
    grid(framed, bad)
    assert len(in_process) == 1
    framed.write_text("\n".join(line for line in framed.read_text().splitlines() if ",bad," not in line) + "\n")
    assert len(lines(framed)) == 2
    grid(framed, bad)
    assert len(in_process) == 2


def test_rows_that_are_no_longer_asked_for_stay(framed: Path, in_process: Jobs):
    grid(framed, ["kmeans"])
    rows = grid(framed, ["leiden"])
    assert list(rows["variant"]) == ["kmeans", "leiden", "shuffled truth", "the truth"]


# Wrong input


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"", b"\xff\xfe\x00", b"task,dataset,method,variant,k,seed\n"])
def test_a_foreign_file_is_refused_and_left_alone(tmp_path: Path, in_process: Jobs, content: bytes):
    out = tmp_path / "mine.csv"
    out.write_bytes(content)
    with pytest.raises(InputError, match=r"mine.csv is not a table of this benchmark: expected the columns task, "):
        grid(out)
    assert out.read_bytes() == content
    assert in_process == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"task": "clutser"}, "Did you mean 'cluster'"),
        ({"methods": ["kmean"]}, "Did you mean 'kmeans'"),
        ({"methods": {"fast": {"n_init": 1}}}, "no method 'fast'"),
        ({"methods": {"eight": {"method": "kmeans", "n_clusters": 8}}}, "leave it out, and pass `k=`"),
        ({"methods": []}, "The grid is empty: 0 methods"),
        ({"datasets": ["pbmc_dem"]}, "Did you mean 'pbmc_demo'"),
        ({"datasets": []}, "The grid is empty"),
        ({"seeds": range(0)}, "0 seeds"),
        ({"seeds": [-1]}, "seed must be a whole number"),
        ({"k": ["guessed"]}, "k is 'guessed', but must be one of: known, estimated"),
        ({"k": []}, "The grid is empty"),
        ({"jobs": 0}, "jobs must be a whole number of at least 1"),
        ({"threads": 1.5}, "threads must be a whole number"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_runs(
    tmp_path: Path, in_process: Jobs, given: dict[str, Any], said: str
):
    right = {"task": "cluster", "methods": ["kmeans"], "datasets": ["pbmc_demo"], "seeds": [0]}
    with pytest.raises(InputError, match=said):
        bench.run(**{**right, **given}, out=tmp_path / "rows.csv")
    assert in_process == []
    assert list(tmp_path.iterdir()) == []
