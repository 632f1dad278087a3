"""Every method against every common check and its toy floor; a method is listed by its file alone."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest

import scdance as sd
from scdance._core import registry
from scdance._core.knobs import knobs
from scdance._core.task import TASKS
from scdance._settings import unpulled
from scdance.testing import CHECKS, Trial, check_method
from scdance.train import TorchMethod

METHODS = [(task, name) for task in TASKS for name in registry.names(task)]
NETS = [(task, name) for task, name in METHODS if issubclass(registry.get(task, name), TorchMethod)]
ROUTE_SECONDS = 900  # of a test of an adapter: other packages compile, which tracing of the memory makes slower
N_CLUSTERS = 4  # of the toy data whose score has a floor

Trials = Callable[[str, str], Trial]


def cases(methods: list[tuple[str, str]], checks: list[str] | None = None) -> list[Any]:
    """One case per method (and check); xdist keeps those of a method on one worker, where they share fits."""
    return [
        pytest.param(task, name, *([] if check is None else [check]), marks=marks(task, name))
        for task, name in methods
        for check in (checks or [None])
    ]


def marks(task: str, name: str) -> list[Any]:
    """The group of a method; the reason to skip it where it lacks a package; time for one that compiles first."""
    cls = registry.get(task, name)
    absent = [(package, extra) for package, extra in cls.extras if find_spec(package) is None]
    skips = [pytest.mark.skip(reason=f"needs {package}: pip install 'scdance[{extra}]'") for package, extra in absent]
    time = [pytest.mark.timeout(ROUTE_SECONDS)] if cls.route else []
    return [pytest.mark.xdist_group(f"{task}-{name}"), *skips, *time]


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


def toy_problem(task: str) -> tuple[Any, str | None, dict[str, Any]]:
    """Toy data of a task, the name of what is known of it, and what goes with it."""
    if task == "deconvolve":
        spots, ref = sd.datasets.toy_mixtures()
        return spots, "true_prop", {"ref": ref, "labels_key": "cell_type"}
    if task == "annotate":
        both = sd.datasets.toy_clusters(k=N_CLUSTERS)
        return both[400:].copy(), "cell_type", {"ref": both[:400].copy(), "labels_key": "cell_type"}
    if task == "transfer_labels":
        return half_labelled()
    if task == "integrate":
        return sd.datasets.toy_clusters(k=N_CLUSTERS, batches=2), "cell_type", {"batch_key": "batch"}
    if task == "impute":
        adata = sd.datasets.toy_clusters(k=N_CLUSTERS)
        adata.obsm["spatial"] = np.random.default_rng(0).uniform(0, 1, (adata.n_obs, 2))
        sd.tl.hold_out(adata)
        return adata, None, {"layer": "counts_kept", "output": "counts"}
    if task == "joint_embed":
        return sd.datasets.toy_pairs(unpaired=0.1), "cell_type", {}
    if task == "predict_modality":
        return asked_pairs()
    if task == "match_modality":
        return pairs_apart()
    if task == "predict_perturbation":
        return screen_without_targets()
    if task == "predict_genes":
        panel, ref = sd.datasets.toy_panel()
        return panel, None, {"ref": ref, "genes": list(panel.var_names[:20])}
    if task == "spatial_domain":
        return sd.datasets.toy_domains(k=N_CLUSTERS), "domain", {}
    return sd.datasets.toy_clusters(k=N_CLUSTERS), "cell_type", {}


def half_labelled() -> tuple[Any, str, dict[str, Any]]:
    """Cells of one batch, and those of another of which a third have types."""
    both = sd.datasets.toy_clusters(k=N_CLUSTERS, batches=2)
    first = (both.obs["batch"] == both.obs["batch"].iloc[0]).to_numpy()
    cells, ref = both[~first].copy(), both[first].copy()
    ref.obs["known"] = ref.obs["cell_type"].where(np.arange(ref.n_obs) % 3 == 0)
    return cells, "cell_type", {"ref": ref, "labels_key": "known"}


def asked_pairs() -> tuple[Any, Any, dict[str, Any]]:
    """Pairs of which a third lacks its proteins, these proteins, and what the tool is told."""
    whole = sd.datasets.toy_pairs(600)
    proteins = whole["prot"]
    with unpulled():
        data = mudata.MuData({"rna": whole["rna"].copy(), "prot": proteins[:400].copy()})
    return data, proteins[400:].copy(), {"source": "rna", "target": "prot"}


def pairs_apart() -> tuple[Any, Any, dict[str, Any]]:
    """Pairs of which a third go by other names in the proteins, the column that says by which, and the modalities."""
    whole, order = sd.datasets.toy_pairs(600), np.random.default_rng(0).permutation(200)
    known, apart = whole["prot"][:400].copy(), whole["prot"][400:][order].copy()
    truth = pd.Series([f"query_{i}" for i in range(200)], index=apart.obs_names)
    apart.obs_names = truth.to_numpy()
    with unpulled():
        data = mudata.MuData({"rna": whole["rna"].copy(), "prot": ad.concat([known, apart])})
    data.obs["partner"] = truth
    return data, "partner", {"source": "rna", "target": "prot"}


def screen_without_targets() -> tuple[Any, Any, dict[str, Any]]:
    """A screen without the cells of three perturbations, two of them pairs; these cells, and what the tool is told."""
    whole, targets = sd.datasets.toy_perturbed(), ["gene_0+gene_1", "gene_2+gene_3", "gene_7"]
    asked = whole.obs["perturbation"].isin(targets).to_numpy()
    return whole[~asked].copy(), whole[asked].copy(), {"perturbation_key": "perturbation", "targets": targets}


@pytest.mark.parametrize(("task", "name"), cases(METHODS))
def test_toy_score_reaches_its_floor(golden: dict[str, Any], task: str, name: str):
    row, wanted = golden[task][name], {"n_clusters": N_CLUSTERS}
    there = knobs(registry.get(task, name))
    chosen = {knob: value for knob, value in wanted.items() if knob in there} | row.get("knobs", {})
    data, truth, arguments = toy_problem(task)
    getattr(sd.tl, task)(data, method=name, progress=False, device="cpu", **arguments, **chosen)
    metric = sd.metrics.get(TASKS[task].metrics[0])
    score = sd.metrics.score(data, task, key=name, truth=truth)[metric.name].item()
    reaches = operator.ge if metric.higher_is_better else operator.le
    assert reaches(score, row["toy"])


@pytest.mark.gpu
@pytest.mark.parametrize(("task", "name"), cases(NETS))
def test_nets_pass_the_common_checks_on_a_gpu(golden: dict[str, Any], task: str, name: str):
    check_method(name, task, knobs=small(golden, task, name), device="cuda")
