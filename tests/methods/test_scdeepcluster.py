"""scDeepCluster beyond the common checks of every method."""

from __future__ import annotations

import importlib
import inspect

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.spatial.distance import cdist
from sklearn.metrics import adjusted_rand_score

import scdance as sd
from scdance._core.read import read
from scdance._core.run import make, solve
from scdance.train import mean_counts

SMALL = {"sigma": 1.0, "encoder": (64,), "pretrain_epochs": 150}
SHORT = {"sigma": 1.0, "encoder": (16,), "n_latent": 4, "pretrain_epochs": 6, "epochs": 8, "tol": 0.0}


@pytest.fixture(scope="module")
def adata():
    return sd.datasets.toy_clusters(n_obs=300, n_vars=200, k=4, n_de=30, lfc=2.0)


@pytest.fixture(scope="module")
def tiny():
    return sd.datasets.toy_clusters(n_obs=80, n_vars=40, k=3, n_de=10, lfc=2.0)


@pytest.fixture(scope="module")
def model(adata):
    """Fitted with the number of clusters known."""
    return sd.fit("cluster", adata, method="scdeepcluster", n_clusters=4, **SMALL)


def predicted(model, adata):
    return solve(model, cells=read(adata, model))[0]


def fitted(adata, **knobs):
    model = make("cluster", "scdeepcluster", knobs)
    return model, solve(model, cells=read(adata, model), progress=False)[0]


def weights(model):
    return {k: v for k, v in model.net_.state_dict().items() if not k.startswith("dec.")}


# --- what it finds ------------------------------------------------------------------------------


def test_it_finds_planted_clusters(model, adata):
    assert adjusted_rand_score(adata.obs["cell_type"], predicted(model, adata)["labels"]) > 0.95


def test_it_finds_planted_clusters_and_their_number(adata):
    found = sd.tl.cluster(adata, method="scdeepcluster", copy=True, **SMALL)
    record = found.uns["scdance"]["cluster"]["scdeepcluster"]
    assert adjusted_rand_score(adata.obs["cell_type"], found.obs["scdeepcluster"]) > 0.9
    assert record["notes"]["k_selection"]["n_clusters"].tolist() == [found.obsm["scdeepcluster_proba"].shape[1]]


def test_new_cells_are_labelled_without_training(adata):
    model = sd.fit("cluster", adata[:200].copy(), method="scdeepcluster", n_clusters=4, **SMALL)
    new = adata[200:].copy()
    sd.tl.cluster(new, method=model)
    assert adjusted_rand_score(new.obs["cell_type"], new.obs["scdeepcluster"]) > 0.9


def test_clusters_are_numbered_by_size(model, adata):
    sizes = np.bincount(predicted(model, adata)["labels"])
    assert sizes.tolist() == sorted(sizes, reverse=True)


def test_a_cluster_that_lost_its_cells_comes_last_and_is_noted(tiny):
    model, _ = fitted(tiny, n_clusters=3, **SHORT)
    far = torch.full((4,), 1e4)
    model.net_.dec.centers.data[0] = far
    model._number_by_size(read(tiny, model))
    torch.testing.assert_close(model.net_.dec.centers[-1].detach(), far)
    assert model.notes_["n_clusters_nonempty"] < 3


def test_the_score_is_the_probability_of_the_label(model, adata):
    result = predicted(model, adata)
    np.testing.assert_array_equal(result["labels"], result["proba"].argmax(axis=1))
    np.testing.assert_array_equal(result["score"], result["proba"].max(axis=1))


def test_the_embedding_forgets_the_depth_of_a_cell(model, adata):
    z = predicted(model, adata)["embedding"]
    between = cdist(z, z)
    np.fill_diagonal(between, np.inf)
    deeper = adata.copy()
    factor = np.ones(adata.n_obs)
    factor[7] = 3
    deeper.X = sp.diags(factor) @ adata.X
    moved = predicted(model, deeper)["embedding"] - z
    assert np.linalg.norm(moved[7]) < np.median(between.min(axis=1))
    np.testing.assert_allclose(np.delete(moved, 7, axis=0), 0, atol=1e-5)


# --- how it trains ------------------------------------------------------------------------------


def test_fit_takes_cells_and_nothing_else(model):
    assert list(inspect.signature(type(model).fit).parameters) == ["self", "cells"]
    assert model.uses == ("batch",)


def test_no_noise_reaches_a_prediction(tiny):
    model, before = fitted(tiny, n_clusters=3, **SHORT)
    model.sigma = 100.0
    np.testing.assert_array_equal(predicted(model, tiny)["embedding"], before["embedding"])


def test_without_noise_the_seed_of_torch_does_not_matter(tiny, monkeypatch):
    quiet = SHORT | {"sigma": 0.0}
    drawn = []
    monkeypatch.setattr(torch, "randn_like", lambda x: drawn.append(x))
    _, one = fitted(tiny, n_clusters=3, **quiet)
    _, other = fitted(tiny, n_clusters=3, **quiet)
    assert not drawn
    np.testing.assert_array_equal(one["proba"], other["proba"])


def test_without_the_clustering_loss_training_is_more_pretraining(tiny):
    knobs = SHORT | {"gamma": 0.0, "n_clusters": 3}
    whole, _ = fitted(tiny, **knobs)

    by_hand = make("cluster", "scdeepcluster", knobs)
    cells = read(tiny, by_hand)
    with by_hand.session():
        by_hand.n_vars_, by_hand.n_batches_ = cells.n_vars, 0
        by_hand.net_ = by_hand.net()
        by_hand.net_.head.start_at(mean_counts(cells))
        size = torch.as_tensor(cells.depth / np.median(cells.depth), dtype=torch.float32)
        by_hand._pretrain(cells, size)
        rng = by_hand.rng("training")
        by_hand.learn(
            lambda batch: by_hand._reconstruction(batch, size, by_hand.sigma),
            by_hand.net_,
            by_hand.training,
            batches=by_hand._batches(cells, None, by_hand.training.batch_size, rng),
            rng=rng,
        )
    expected = weights(by_hand)
    for name, value in weights(whole).items():
        assert torch.equal(value, expected[name]), name


def test_the_clustering_loss_pulls_cells_to_their_centers(tiny):
    long = SHORT | {"epochs": 30, "n_clusters": 3}
    _, plain = fitted(tiny, **long, gamma=0.0)
    _, pulled = fitted(tiny, **long, gamma=1.0)
    assert pulled["score"].mean() > plain["score"].mean()


def test_training_ends_when_the_labels_settle(tiny):
    model, _ = fitted(tiny, n_clusters=3, **SHORT | {"tol": 0.5})
    assert model.stopped_ == "pretraining: all 6 epochs; training: fewer than 0.5 of the labels changed"
    assert model.history_["training_changed"][-1] < 0.5
    assert model.epochs_ == 6 + len(model.history_["training_changed"])


def test_pretraining_with_patience_judges_by_cells_held_out(tiny):
    model, _ = fitted(
        tiny, n_clusters=3, **SHORT | {"pretrain_epochs": 400, "pretrain_patience": 2, "pretrain_lr": 0.05}
    )
    assert model.stopped_.startswith("pretraining: no better validation loss in 2 epochs")
    assert len(model.history_["pretraining_valid_loss"]) == len(model.history_["pretraining_loss"]) < 400


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
def test_the_reconstruction_improves(tiny, likelihood):
    model, _ = fitted(tiny, n_clusters=3, likelihood=likelihood, init="mixture", **SHORT | {"pretrain_epochs": 60})
    loss = model.history_["pretraining_loss"]
    assert np.mean(loss[-5:]) < np.mean(loss[:5])


def test_the_mean_starts_at_that_of_each_gene(tiny):
    model, _ = fitted(tiny, n_clusters=3, **SHORT | {"pretrain_epochs": 0, "epochs": 0})
    counts = tiny.X.toarray()
    depth = counts.sum(axis=1)
    expected = counts.sum(axis=0) / (depth / np.median(depth)).sum()
    kept = tiny.var_names.get_indexer(model.preps_["cells"].var_names)
    np.testing.assert_allclose(model.net_.head.mean.bias.exp().detach(), expected[kept], rtol=1e-5)


# --- presets and continued runs -------------------------------------------------------------------


def test_there_is_a_preset_for_the_paper_for_dance_and_for_each_data_set():
    expected = {"paper", "dance", "worm_neuron", "10x_pbmc", "mouse_bladder", "mouse_es"}
    assert set(importlib.import_module("scdance.methods.cluster.scdeepcluster").ScDeepCluster.presets) == expected


@pytest.mark.parametrize("preset", ["paper", "dance", "worm_neuron", "10x_pbmc", "mouse_bladder", "mouse_es"])
def test_presets_train(tiny, preset):
    model = make("cluster", "scdeepcluster", {"n_clusters": 3, "pretrain_epochs": 1, "epochs": 1}, preset=preset)
    result, _ = solve(model, cells=read(tiny, model), progress=False)
    assert model.likelihood == "zinb"
    assert model.n_top_genes is None
    assert result["embedding"].shape == (tiny.n_obs, 32)


def test_a_preset_of_a_data_set_has_the_published_numbers():
    model = make("cluster", "scdeepcluster", {}, preset="mouse_es")
    assert (model.sigma, model.encoder) == (1.75, (512, 256))
    assert (model.pretraining.epochs, model.training.epochs, model.training.lr) == (300, 100, 0.1)


# 6 epochs of pre-training and 8 of training; the state is written every 5 epochs and after each stage
@pytest.mark.parametrize(("killed_in", "left"), [(3, 14), (9, 8), (13, 3)])
def test_a_killed_run_that_is_continued_equals_one_that_was_not(tiny, tmp_path, monkeypatch, killed_in, left):
    def run(**checkpoint):
        found = sd.tl.cluster(tiny, method="scdeepcluster", n_clusters=3, copy=True, **checkpoint, **SHORT)
        return found.obsm["X_scdeepcluster"], found.obsm["scdeepcluster_proba"].to_numpy(), found.uns["scdance"]

    z, proba, record = run()
    loop = importlib.import_module("scdance.train._loop")
    epoch, calls = loop._epoch, []

    def counted(*args, **kwargs):
        calls.append(1)
        if len(calls) == killed_in:
            raise KeyboardInterrupt
        return epoch(*args, **kwargs)

    monkeypatch.setattr(loop, "_epoch", counted)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=tmp_path / "run")
    again = run(checkpoint=tmp_path / "run")
    assert len(calls) - killed_in == left
    np.testing.assert_array_equal(again[0], z)
    np.testing.assert_array_equal(again[1], proba)
    for name, values in record["cluster"]["scdeepcluster"]["history"].items():
        np.testing.assert_array_equal(again[2]["cluster"]["scdeepcluster"]["history"][name], values)
