"""The transformer over cells as a method of several tasks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import scdance as sd
from scdance._checks import InputError

SMALL = {"hidden": 32, "n_layers": 1, "n_latent": 8, "n_components": 0, "batch_size": 64, "progress": False}


@pytest.fixture(scope="module")
def toy():
    return sd.datasets.toy_clusters(n_obs=300, n_vars=80, k=3, batches=2)


def test_places_are_the_mean_over_divisions_of_a_sample(toy):
    model = sd.fit("embed", toy, method="cellplm", steps=5, **SMALL)
    one, many, again = (sd.tl.embed(toy, method=model, copy=True).obsm["X_cellplm"] for _ in range(3))
    np.testing.assert_array_equal(one, again)
    model.n_contexts = 8
    many = sd.tl.embed(toy, method=model, copy=True).obsm["X_cellplm"]
    assert not np.array_equal(one, many)
    model.random_state = 1
    others = sd.tl.embed(toy, method=model, copy=True).obsm["X_cellplm"]
    assert np.abs(others - many).mean() < np.abs(one - many).mean()


def test_a_sample_that_was_not_trained_on_is_read_by_itself(toy):
    first = toy[toy.obs["batch"] == "batch1"].copy()
    model = sd.fit("embed", first, method="cellplm", batch_key="batch", steps=5, **SMALL)
    whole = sd.tl.embed(toy, method=model, batch_key="batch", copy=True)
    alone = sd.tl.embed(first, method=model, batch_key="batch", copy=True)
    np.testing.assert_allclose(
        whole[first.obs_names].obsm["X_cellplm"].mean(axis=0), alone.obsm["X_cellplm"].mean(axis=0), atol=0.1
    )
    large = {**SMALL, "batch_size": 512}
    model = sd.fit("embed", first, method="cellplm", batch_key="batch", steps=5, **large)
    whole = sd.tl.embed(toy, method=model, batch_key="batch", copy=True)
    alone = sd.tl.embed(first, method=model, batch_key="batch", copy=True)
    np.testing.assert_allclose(whole[first.obs_names].obsm["X_cellplm"], alone.obsm["X_cellplm"], atol=1e-5)


def test_imputation_begins_with_a_model_and_ends_nearer_to_held_out_counts(toy, tmp_path):
    adata = toy.copy()
    sd.fit("embed", adata, method="cellplm", steps=300, lr=3e-3, **SMALL).save(tmp_path / "model")
    sd.tl.hold_out(adata)
    told = {"layer": "counts_kept", "output": "counts", "method": "cellplm", "steps": 5, "lr": 1e-4, **SMALL}
    sd.tl.impute(adata, key_added="begun", init=str(tmp_path / "model"), **told)
    sd.tl.impute(adata, key_added="fresh", **told)
    gain = {key: sd.metrics.score(adata, "impute", key=key)["poisson_gain"].item() for key in ("begun", "fresh")}
    assert gain["begun"] < gain["fresh"] - 0.05  # a loss, less that of the gene means


def test_expected_counts_of_a_cell_add_up_to_its_own(toy):
    adata = toy.copy()
    sd.tl.impute(adata, method="cellplm", output="counts", steps=5, **SMALL)
    np.testing.assert_allclose(adata.layers["cellplm"].sum(axis=1), np.asarray(adata.X.sum(axis=1)).ravel(), rtol=1e-4)


def test_expected_counts_add_up_where_the_object_lacks_genes(toy):
    model = sd.fit("impute", toy, method="cellplm", steps=20, **SMALL)
    with pytest.warns(UserWarning, match="20 of the 80 genes of the model are not in the object"):
        found = sd.tl.impute(toy[:, :60].copy(), model, copy=True).layers["cellplm"]
    np.testing.assert_allclose(np.expm1(found).sum(axis=1), 1e4, rtol=1e-3)


def test_a_cell_without_counts_of_the_genes_has_no_part_in_the_loss():
    net = sd.fit("embed", sd.datasets.toy_clusters(60, 20, k=2, n_de=5), method="cellplm", steps=2, **SMALL).net_
    inner = torch.zeros(1, net.head.mean.in_features)
    assert net.count_loss(inner, torch.zeros(1, 20)).item() == 0


def test_pairs_of_perturbations_are_told_from_single_ones():
    screen = sd.datasets.toy_perturbed()
    names = screen.obs["perturbation"].unique()
    pair = next(name for name in names if "+" in name and set(name.split("+")) <= set(names))
    given = {"perturbation_key": "perturbation", "targets": [pair]}
    sd.tl.predict_perturbation(screen, method="cellplm", steps=200, lr=3e-3, **given, **SMALL)
    sd.tl.predict_perturbation(screen, method="mean_perturbed", **given)
    x = screen.X.toarray()
    x = np.log1p(x / x.sum(axis=1, keepdims=True) * 1e4)
    here = (screen.obs["perturbation"] == pair).to_numpy()
    true = x[here].mean(axis=0) - x[(screen.obs["perturbation"] == "control").to_numpy()].mean(axis=0)
    off = {key: np.square(screen.varm[f"{key}_change"][pair] - true).mean() for key in ("cellplm", "mean_perturbed")}
    assert off["cellplm"] < 0.8 * off["mean_perturbed"]


def test_of_genes_that_are_not_there_the_same_is_said():
    screen = sd.datasets.toy_perturbed()
    asked = {"perturbation_key": "perturbation", "targets": ["absent", "another"]}
    with pytest.warns(UserWarning, match="Nothing tells of the genes of 2 of the 2 targets"):
        sd.tl.predict_perturbation(screen, method="cellplm", steps=3, **asked, **SMALL)
    change = screen.varm["cellplm_change"]
    np.testing.assert_array_equal(change["absent"], change["another"])


@pytest.mark.parametrize(
    ("task", "knobs", "said"),
    [
        ("embed", {"hidden": 30}, "multiple of heads"),
        ("embed", {"masked_genes": 1.0}, "above 0 and below 1"),
        ("embed", {"init": "absent"}, "no folder"),
        ("annotate", {"masked_cells": 1.0}, "below 1"),
        ("predict_perturbation", {"mark": 1.0}, "below 0"),
    ],
)
def test_wrong_knobs_are_refused(toy, task, knobs, said):
    given = {"annotate": {"labels_key": "cell_type"}, "predict_perturbation": {"perturbation_key": "batch"}}
    if task == "predict_perturbation":
        given[task]["control"] = "batch0"
    with pytest.raises(InputError, match=said):
        sd.fit(task, toy, method="cellplm", progress=False, **given.get(task, {}), **knobs)
