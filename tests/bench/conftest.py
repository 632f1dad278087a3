"""Methods of another package for the benchmark to run, and a way to run its cells without processes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from scdance._core import registry

PLUGIN = '''
"""Methods that watch, wait and die, as another package would bring them."""

import os
import time
from pathlib import Path

import numpy as np

from scdance._core.method import Method


class Spy(Method):
    """Keep what it is given; return the labels that the test has put down for each epoch, the last as the result."""

    shown = []  # what each epoch would show
    final = None
    seen = []

    def fit(self, *, cells):
        self.seen.append(cells)
        self.watched_ = self.runtime.on_epoch is not None
        for epoch, labels in enumerate(self.shown, 1):
            if self.watched_:
                self.runtime.on_epoch("training", epoch, lambda labels=labels: {"labels": labels})
        return self

    def predict(self, *, cells):
        return {"labels": np.zeros(cells.n_obs, dtype=int) if self.final is None else self.final}


class Patient(Method):
    """Print, tell its process, and wait to be ended if the environment says where to tell."""

    def fit(self, *, cells):
        print("noise on stdout")
        self.stopped_ = f"{os.environ['OMP_NUM_THREADS']} threads"
        if "BENCH_PID" in os.environ:
            Path(os.environ["BENCH_PID"]).write_text(str(os.getpid()))
            time.sleep(600)
        return self

    def predict(self, *, cells):
        return {"labels": np.arange(cells.n_obs) % 2}


class Doomed(Method):
    """Take the whole process down."""

    def fit(self, *, cells):
        os.write(2, b"last words")
        os.abort()
'''


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A package with the methods spy, patient and doomed; child processes find it too."""
    folder = tmp_path / "plugin"
    info = folder / "bench_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-plugin\nVersion: 1.0\n")
    points = "".join(f"cluster.{name.lower()} = bench_plugin:{name}\n" for name in ("Spy", "Patient", "Doomed"))
    (info / "entry_points.txt").write_text(f"[scdance.methods]\n{points}")
    (folder / "bench_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    registry._plugins.cache_clear()
    import bench_plugin

    yield bench_plugin
    del sys.modules["bench_plugin"]
    registry._plugins.cache_clear()


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Run the cells of a grid here, one by one; the list holds the jobs that have run."""
    from scdance.bench import _run
    from scdance.bench._cell import row_of

    done: list[dict[str, Any]] = []

    def solved(jobs: list[dict[str, Any]], **_: Any) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        for job in jobs:
            done.append(job)
            yield job, row_of(job)

    monkeypatch.setattr(_run, "solved", solved)
    return done
