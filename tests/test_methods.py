"""Every method against every common check and its toy floor; a method is listed by its file alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

import scdance as sd
from scdance._core import registry
from scdance._core.knobs import knobs
from scdance._core.task import TASKS
from scdance.testing import CHECKS, Trial, check_method
from scdance.train import TorchMethod

METHODS = [(task, name) for task in TASKS for name in registry.names(task)]
NETS = [(task, name) for task, name in METHODS if issubclass(registry.get(task, name), TorchMethod)]

Trials = Callable[[str, str], Trial]


def cases(methods: list[tuple[str, str]], checks: list[str] | None = None) -> list[Any]:
    """One case per method (and check); xdist keeps those of a method on one worker, where they share fits."""
    return [
        pytest.param(task, name, *([] if check is None else [check]), marks=pytest.mark.xdist_group(f"{task}-{name}"))
        for task, name in methods
        for check in (checks or [None])
    ]


def small(golden: dict[str, Any], task: str, name: str) -> dict[str, Any]:
    """Knobs of the golden row but the epochs: the common checks ask nothing of the quality."""
    row = golden.get(task, {}).get(name, {})
    return {knob: value for knob, value in row.get("knobs", {}).items() if not knob.endswith("epochs")}


@pytest.fixture(scope="module")
def trials(golden: dict[str, Any]) -> Trials:
    """The trial of a method, with fits that its checks share."""
    return cache(lambda task, name: Trial(name, task, knobs=small(golden, task, name)))


@pytest.mark.parametrize(("task", "name", "check"), cases(METHODS, list(CHECKS)))
def test_common_check(trials: Trials, task: str, name: str, check: str):
    trials(task, name).run(check)


@pytest.mark.parametrize(("task", "name"), cases(METHODS))
def test_toy_score_reaches_its_floor(golden: dict[str, Any], task: str, name: str):
    row, wanted = golden[task][name], {"n_clusters": 4}
    there = knobs(registry.get(task, name))
    chosen = {knob: value for knob, value in wanted.items() if knob in there} | row.get("knobs", {})
    adata = sd.datasets.toy_clusters(k=wanted["n_clusters"])
    getattr(sd.tl, task)(adata, method=name, progress=False, device="cpu", **chosen)
    score = sd.metrics.score(adata, task, key=name, truth="cell_type")[TASKS[task].metrics[0]]
    assert score.item() >= row["toy"]


@pytest.mark.gpu
@pytest.mark.parametrize(("task", "name"), cases(NETS))
def test_nets_pass_the_common_checks_on_a_gpu(golden: dict[str, Any], task: str, name: str):
    check_method(name, task, knobs=small(golden, task, name), device="cuda")
