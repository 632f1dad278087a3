"""Real data: one seed of every method stays within what the benchmark measured. Slow; needs SCDANCE_DATA_DIR."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import scdance as sd
from scdance._core.knobs import knobs
from scdance._core.registry import get, kind_of
from scdance._core.task import TASKS
from scdance.bench._cell import LABELLED, heard

GOLDEN = tomllib.loads((Path(__file__).parent / "golden.toml").read_text())
LEAST_SPREAD = 0.02  # of one seed, where five agreed by chance


def first_variant(name, method):
    """Knobs of the row that was measured: the defaults, but for methods that cannot run with them on these data."""
    return next(iter(method.get("variants", {name: {}}).values()))


MEASURED = [
    pytest.param(task, name, dataset, row, first_variant(name, method), id=f"{task}-{name}-{dataset}")
    for task, methods in GOLDEN.items()
    for name, method in methods.items()
    for dataset, row in method.get("real", {}).items()
    if "score" in row
]


@pytest.mark.real
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of names and fractions of real files
@pytest.mark.parametrize(("task", "name", "dataset", "row", "chosen"), MEASURED)
def test_a_seed_scores_what_was_measured(task, name, dataset, row, chosen):
    given = sd.datasets.problem(task, dataset)
    if kind_of(get(task, name)) == "semi-supervised":
        given = given.partly_labelled(LABELLED, 0)
    counted = "labels" in TASKS[task].gives and "n_clusters" in knobs(get(task, name))
    known = {"n_clusters": sd.datasets.info(dataset)["n_classes"]} if counted else {}
    arguments = heard(get(task, name), given.arguments)
    getattr(sd.tl, task)(given.data, method=name, **arguments, **known, **chosen)
    truth = given.truth
    if not TASKS[task].truth_is_apart:
        getattr(given.data, TASKS[task].truth)["truth"], truth = given.truth, "truth"
    in_space = {key: given.arguments[key] for key in ("library_key",) if key in given.arguments}
    found = sd.metrics.score(given.data, task, key=name, truth=truth, **in_space)[TASKS[task].metrics[0]].item()
    assert found == pytest.approx(row["score"], abs=3 * max(row["spread"], LEAST_SPREAD))
