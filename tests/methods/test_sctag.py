"""scTAG beyond the common checks of every method."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.metrics import adjusted_rand_score, homogeneity_score

import scdance as sd
from scdance._core.read import read
from scdance._core.run import make, solve
from scdance.graph import Sparse, normalize

sctag = importlib.import_module("scdance.methods.cluster.sctag")
SMALL = {"hidden": 64, "decoder": (64,)}
SHORT = {"hidden": 16, "n_latent": 4, "decoder": (8,), "pretrain_epochs": 6, "epochs": 8, "tol": 0.0}


@pytest.fixture(scope="module")
def adata():
    return sd.datasets.toy_clusters(n_obs=300, n_vars=200, k=4, n_de=30, lfc=2.0)


@pytest.fixture(scope="module")
def tiny():
    return sd.datasets.toy_clusters(n_obs=80, n_vars=40, k=3, n_de=10, lfc=2.0)


def fitted(adata, **knobs):
    model = make("cluster", "sctag", knobs)
    return model, solve(model, cells=read(adata, model), progress=False)[0]


def prepared(adata, **knobs):
    """An untrained model with its net, the cells, and what each step needs of all of them."""
    model = make("cluster", "sctag", {"n_clusters": 3, **SHORT, **knobs})
    cells = read(adata, model)
    with model.session():
        model.n_vars_ = cells.n_vars
        model.net_ = model.net()
    return model, cells, sctag._Whole.of(cells, model._graph(cells), model.target)


# --- the network ----------------------------------------------------------------------------------


@pytest.mark.parametrize("hops", [0, 1, 3])
def test_the_convolution_is_the_polynomial_of_the_paper(hops):
    rng = np.random.default_rng(0)
    a = normalize(sp.random(20, 20, 0.2, random_state=0) + sp.eye(20))
    x = torch.from_numpy(rng.normal(size=(20, 7)).astype(np.float32))
    conv = sctag.TAGConv(7, 5, hops)
    weights = conv.linear.weight.detach().numpy().reshape(hops + 1, 5, 7)
    expected = sum(np.linalg.matrix_power(a.toarray(), k) @ x.numpy() @ weights[k].T for k in range(hops + 1))
    np.testing.assert_allclose(conv(x, Sparse(a)).detach(), expected, atol=1e-5)


def test_permuting_the_cells_permutes_the_latent_space(tiny):
    model, cells, whole = prepared(tiny)
    order = np.random.default_rng(0).permutation(tiny.n_obs)
    graph = model._graph(cells)
    x = torch.from_numpy(cells.dense(order))
    moved = sctag._Whole(x, whole.size[order], Sparse(normalize(graph[order][:, order])), whole.links)
    torch.testing.assert_close(model._latent(moved), model._latent(whole)[order], rtol=1e-4, atol=1e-5)


def test_cells_lie_on_a_sphere_unless_they_are_free(tiny):
    model, _, whole = prepared(tiny, radius=2.0)
    torch.testing.assert_close(model._latent(whole).norm(dim=1), torch.full((tiny.n_obs,), 2.0))
    model.net_.radius = None
    assert model._latent(whole).norm(dim=1).std() > 0


def test_the_graph_is_symmetric_and_each_cell_has_its_neighbours(tiny):
    model, cells, _ = prepared(tiny, n_neighbors=7)
    graph = model._graph(cells)
    assert (graph != graph.T).nnz == 0
    assert np.diff(graph.indptr).min() >= 7 + 1
    assert set(graph.data) == {1.0}
    assert (graph.diagonal() == 1).all()


# --- how it trains --------------------------------------------------------------------------------


def test_the_clustering_loss_reaches_the_encoder(tiny):
    model, _, whole = prepared(tiny)
    z = model.net_.encode(whole)
    log_q = sctag.DEC(z[:3].detach())(z)
    sctag.dec_loss(log_q, sctag.target_distribution(log_q.exp())).backward()
    assert all(conv.linear.weight.grad.abs().sum() > 0 for conv in (model.net_.conv1, model.net_.conv2))


def test_no_dropout_outside_of_training(tiny):
    model, _, whole = prepared(tiny, dropout=0.5)
    model.net_.train()
    torch.testing.assert_close(model._latent(whole), model._latent(whole), rtol=0, atol=0)
    model.net_.train()
    assert not torch.equal(model.net_.encode(whole), model.net_.encode(whole))


def test_the_first_centers_come_from_the_forward_pass_of_training(tiny, monkeypatch):
    seen = {}
    first = sctag.ScTAG._first_centers

    def spy(self, z):
        seen["z"] = z
        return first(self, z)

    monkeypatch.setattr(sctag.ScTAG, "_first_centers", spy)
    model, _ = fitted(tiny, n_clusters=3, **SHORT | {"epochs": 0, "dropout": 0.0})
    cells = read(tiny, model)
    model.net_.train()
    z = model.net_.encode(sctag._Whole.of(cells, model._graph(cells), model.target))
    np.testing.assert_allclose(seen["z"], z.detach(), atol=1e-5)


def test_the_clustering_loss_pulls_cells_to_their_centers(tiny):
    _, free = fitted(tiny, n_clusters=3, cluster_weight=0.0, **SHORT | {"epochs": 30})
    _, pulled = fitted(tiny, n_clusters=3, cluster_weight=3.0, **SHORT | {"epochs": 30})
    assert pulled["score"].mean() > free["score"].mean()


def test_training_ends_when_the_labels_settle(tiny):
    model, _ = fitted(tiny, n_clusters=3, **SHORT | {"tol": 0.5})
    assert model.stopped_ == "pretraining: all 6 epochs; training: fewer than 0.5 of the labels changed"


def test_the_target_is_refreshed_as_often_as_asked(tiny):
    model, _ = fitted(tiny, n_clusters=3, refresh=3, **SHORT)
    assert len(model.history_["training_changed"]) == 2  # before epochs 3 and 6 of 8


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
def test_the_reconstruction_improves(tiny, likelihood):
    model, _ = fitted(tiny, n_clusters=3, likelihood=likelihood, **SHORT | {"pretrain_epochs": 60})
    loss = model.history_["pretraining_loss"]
    assert np.mean(loss[-5:]) < np.mean(loss[:5])


def test_batches_of_cells_have_the_loss_of_all_cells_on_average(tiny):
    model, cells, whole = prepared(tiny)
    z = model._latent(whole)
    parts = [model._reconstruction(z, batch, whole).item() for batch in sctag._Counts(cells, 20)]
    (every,) = [model._reconstruction(z, batch, whole).item() for batch in sctag._Counts(cells, sctag.WHOLE)]
    assert np.mean(parts) == pytest.approx(every, rel=1e-5)


# --- what it finds --------------------------------------------------------------------------------


def test_it_finds_planted_clusters(adata):
    _, found = fitted(adata, n_clusters=4, **SMALL)
    assert adjusted_rand_score(adata.obs["cell_type"], found["labels"]) > 0.9


def test_clusters_whose_number_is_estimated_each_hold_one_planted_cluster(adata):
    model, found = fitted(adata, **SMALL)
    assert homogeneity_score(adata.obs["cell_type"], found["labels"]) > 0.9
    assert model.notes_["k_selection"]["n_clusters"].tolist() == [found["proba"].shape[1]]


def test_a_graph_of_the_user_is_used(tiny):
    given = tiny.copy()
    ring = sp.csr_matrix(np.roll(np.eye(tiny.n_obs, dtype=np.float32), 1, axis=1))
    given.obsp["ring_connectivities"] = ring + ring.T
    given.uns["ring"] = {"connectivities_key": "ring_connectivities", "distances_key": "ring_connectivities"}
    model = make("cluster", "sctag", {"n_clusters": 3, **SHORT})
    graph = model._graph(read(given, model, neighbors_key="ring"))
    assert (graph != ring + ring.T + sp.eye(tiny.n_obs)).nnz == 0


def test_a_cluster_that_lost_its_cells_comes_last_and_is_noted(tiny):
    model, _ = fitted(tiny, n_clusters=3, **SHORT)
    far = torch.full((4,), 1e4)
    model.net_.dec.centers.data[0] = far
    model._number_by_size(torch.from_numpy(model.embedding_))
    torch.testing.assert_close(model.net_.dec.centers[-1].detach(), far)
    assert model.notes_["n_clusters_nonempty"] < 3


# --- presets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["paper", "dance", "worm_neuron", "10x_pbmc", "mouse_bladder", "mouse_es"])
def test_presets_train_on_all_cells_at_once(tiny, preset):
    model = make("cluster", "sctag", {"n_clusters": 3, "pretrain_epochs": 1, "epochs": 1}, preset=preset)
    result, _ = solve(model, cells=read(tiny, model), progress=False)
    assert (model.likelihood, model.radius, model.refresh) == ("zinb", None, 8)
    assert result["embedding"].shape == (tiny.n_obs, 15)


def test_a_preset_of_a_data_set_has_the_published_numbers():
    model = make("cluster", "sctag", {}, preset="worm_neuron")
    weights = (model.graph_weight, model.counts_weight, model.cluster_weight)
    assert (model.pretraining.epochs, weights, model.hops) == (200, (0.01, 2.0, 0.25), 1)


def test_the_users_own_graph_is_taken_beside_the_counts():
    import scanpy as sc

    adata = sd.datasets.toy_clusters(n_obs=120, n_vars=60, k=3, n_de=15)
    x = adata.X.tolil()
    x[7] = 0
    adata.X = x.tocsr().astype(np.float32)
    sc.pp.neighbors(adata, n_neighbors=8, use_rep="X", key_added="mine", transformer="sklearn", method="gauss")
    with pytest.warns(UserWarning, match="1 of 120 cells have no counts"):
        sd.tl.cluster(adata, method="sctag", n_clusters=3, neighbors_key="mine", pretrain_steps=5, steps=2)
    assert adata.obs["sctag"].isna().sum() == 1


def test_no_more_steps_than_asked_for_however_many_cells(tiny):
    model = make("cluster", "sctag", {"steps": 5, "batch_size": 2})
    counts = model._counts(read(tiny, model), model.training, np.random.default_rng(0))
    assert (len(counts), counts.size) == (5, 16)
    model = make("cluster", "sctag", {"epochs": 5, "batch_size": 2})
    assert model._counts(read(tiny, model), model.training, np.random.default_rng(0)).size == 2
