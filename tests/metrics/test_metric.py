import subprocess
import sys

import pytest

from scdance import metrics
from scdance._checks import InputError
from scdance._core.beside import BESIDE
from scdance._core.counts import COMPARED
from scdance._core.task import TASKS
from scdance.metrics import _metric


def test_decorating_a_function_puts_it_on_the_list(monkeypatch):
    monkeypatch.setattr(_metric, "_METRICS", dict(_metric._METRICS))

    @metrics.metric(higher_is_better=False, range=(0.0, 2.0))
    def distance(truth, embedding, *, power=1):
        """How far off.

        More text.
        """
        return 0.0

    assert distance(1, 2) == 0.0
    assert metrics.get("distance") == metrics.Metric(
        "distance", distance, False, (0.0, 2.0), ("truth", "embedding"), "How far off."
    )
    assert "distance" in metrics.names()
    assert metrics.table().loc["distance", "needs"] == "truth, embedding"


def test_a_misspelt_metric_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="Did you mean 'silhouette'"):
        metrics.get("silhouete")


@pytest.mark.parametrize("name", metrics.names())
def test_every_metric_is_public_and_says_what_it_is(name):
    record = metrics.get(name)
    assert getattr(metrics, name) is record.function
    assert record.text.endswith(".")
    assert record.range[0] < record.range[1]


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_every_metric_of_a_task_compares_parts_that_the_task_gives(task):
    apart = {"layers": COMPARED, "mod": ("truth", "mean"), "cells": ("truth", "control", "top")}
    told = apart.get(task.truth, ("truth",))
    for name in task.metrics:
        assert set(metrics.get(name).needs) <= {
            *told,
            *task.gives,
            *BESIDE,
            *metrics.names(),
            "coords",
            "partner",
        }  # the object's own, and a row of it


def test_no_metric_is_called_like_something_that_others_compare():
    parts = {*COMPARED, *BESIDE, "coords", "partner"} | {part for task in TASKS.values() for part in task.gives}
    assert not parts & set(metrics.names())


def test_importing_metrics_loads_nothing_heavy():
    code = "import sys, scdance.metrics; print({'numpy', 'pandas', 'sklearn', 'torch'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
