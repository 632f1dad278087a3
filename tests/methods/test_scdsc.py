"""scDSC beyond the common checks of every method."""

from __future__ import annotations

import importlib
import inspect

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

import scdance as sd
from scdance._checks import InputError
from scdance._core.read import read
from scdance._core.run import make, solve
from scdance.graph import Sparse
from scdance.train import Expression

FEW = {"encoder": (64,), "pretrain_steps": 150}
SHORT = {"encoder": (16, 12), "latent": (6, 4), "pretrain_epochs": 6, "epochs": 8, "pretrain_batch_size": 16}
PRESETS = ["paper", "dance", "worm_neuron", "10x_pbmc", "mouse_bladder", "mouse_es"]


@pytest.fixture(scope="module")
def adata():
    return sd.datasets.toy_clusters(n_obs=300, n_vars=200, k=4, n_de=30, lfc=2.0)


@pytest.fixture(scope="module")
def tiny():
    return sd.datasets.toy_clusters(n_obs=80, n_vars=40, k=3, n_de=10, lfc=2.0)


@pytest.fixture(scope="module")
def fit(tiny):
    """A short run."""
    return fitted(tiny, n_clusters=3, **SHORT)


def fitted(adata, preset=None, **knobs):
    model = make("cluster", "scdsc", knobs, preset=preset)
    cells = read(adata, model)
    return model, solve(model, cells=cells, progress=False)[0], cells


def inputs(model, cells):
    """Sparse expression and graph of the cells, as in training."""
    return Expression(cells), Sparse(model._graph(cells))


def standard(cells):
    """Expression with mean 0 and standard deviation 1 of each gene, by numpy."""
    x = cells.x.toarray().astype(np.float64)
    sd = x.std(axis=0, ddof=1)
    return (x - x.mean(axis=0)) / np.where(sd > 0, sd, 1)


def log_proba(model, cells, hidden, sigma):
    model.net_.sigma, before = sigma, model.net_.sigma
    x, a = inputs(model, cells)
    with torch.no_grad():
        out = model.net_.convolve(a, x, hidden)
    model.net_.sigma = before
    return out


def hidden_of(model, cells):
    model.net_.eval()
    with torch.no_grad():
        return model.net_.encode(Expression(cells))


# --- what it finds ------------------------------------------------------------------------------


def test_it_finds_planted_clusters(adata):
    _, result, _ = fitted(adata, n_clusters=4, **FEW)
    assert adjusted_rand_score(adata.obs["cell_type"], result["labels"]) > 0.9


def test_it_finds_planted_clusters_and_their_number(adata):
    model, result, _ = fitted(adata, **FEW)
    assert adjusted_rand_score(adata.obs["cell_type"], result["labels"]) > 0.9
    assert model.notes_["k_selection"]["n_clusters"].tolist() == [result["proba"].shape[1]]


def test_the_score_is_the_probability_of_the_label(fit):
    _, result, _ = fit
    np.testing.assert_array_equal(result["labels"], result["proba"].argmax(axis=1))
    np.testing.assert_array_equal(result["score"], result["proba"].max(axis=1))


def test_labels_probabilities_and_centers_are_numbered_by_size(tiny, monkeypatch):
    model, sorted_, _ = fitted(tiny, n_clusters=3, **SHORT)
    monkeypatch.setattr(type(model), "_number_by_size", lambda *args: None)
    raw, found, _ = fitted(tiny, n_clusters=3, **SHORT)
    order = np.argsort(-np.bincount(found["labels"], minlength=3), kind="stable")
    np.testing.assert_allclose(sorted_["proba"], found["proba"][:, order], atol=1e-6)
    torch.testing.assert_close(model.net_.dec.centers, raw.net_.dec.centers[order])
    assert np.all(np.diff(np.bincount(sorted_["labels"])) <= 0)


def test_a_cluster_that_lost_its_cells_comes_last_and_is_noted(tiny):
    model, _, cells = fitted(tiny, n_clusters=3, **SHORT)
    far = torch.full((4,), 1e4)
    model.net_.dec.centers.data[0] = far
    model._assigned = lambda x, a: (np.array([[0.0, 1.0, 0.0]] * 50 + [[0.0, 0.0, 1.0]] * 30), None)
    model._number_by_size(*inputs(model, cells))
    torch.testing.assert_close(model.net_.dec.centers[-1].detach(), far)
    assert model.notes_["n_clusters_nonempty"] == 2


# --- graph and layers -----------------------------------------------------------------------------


def test_the_graph_joins_the_most_correlated_cells(tiny):
    model, _, cells = fitted(tiny, n_clusters=3, n_neighbors=4, **SHORT)  # 40 genes: the components lose nothing
    x = standard(cells)
    x -= x.mean(axis=1, keepdims=True)  # its columns still add up to 0
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    correlation = x @ x.T
    np.fill_diagonal(correlation, -np.inf)
    joined = np.zeros_like(correlation)
    np.put_along_axis(joined, np.argsort(-correlation, axis=1)[:, :4], 1, axis=1)
    joined = np.maximum(joined, joined.T) + np.eye(tiny.n_obs)
    root = 1 / np.sqrt(joined.sum(axis=1))
    np.testing.assert_allclose(model._graph(cells).toarray(), root[:, None] * joined * root, atol=1e-6)


def test_the_graph_is_symmetric_and_amplifies_nothing(fit):
    model, _, cells = fit
    a = model._graph(cells)
    assert abs(a - a.T).max() == 0
    assert np.diff(a.indptr).min() >= model.n_neighbors + 1
    assert np.abs(np.linalg.eigvalsh(a.toarray())).max() <= 1 + 1e-6


def test_sparse_expression_passes_the_encoder_like_dense_standard_expression(fit):
    model, _, cells = fit
    model.net_.eval()
    with torch.no_grad():
        dense = model.net_.encode(torch.from_numpy(standard(cells)).float())
    for one, other in zip(hidden_of(model, cells), dense, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_with_sigma_0_it_is_a_plain_graph_convolution(fit):
    model, _, cells = fit
    a = model._graph(cells).toarray()
    h = standard(cells)
    *inner, last = [layer.weight.detach().numpy().T for layer in model.net_.graph]
    for w in inner:
        h = np.maximum(a @ h @ w, 0)
    expected = torch.from_numpy(a @ h @ last).log_softmax(dim=1).float()
    nothing = [torch.full_like(each, 1e3) for each in hidden_of(model, cells)]
    torch.testing.assert_close(log_proba(model, cells, nothing, sigma=0.0), expected, atol=1e-4, rtol=1e-4)


def test_with_sigma_1_it_sees_only_the_autoencoder(fit):
    model, _, cells = fit
    a, z = model._graph(cells).toarray(), hidden_of(model, cells)
    expected = torch.from_numpy(a) @ z[-1] @ model.net_.graph[-1].weight.detach().T
    torch.testing.assert_close(log_proba(model, cells, z, sigma=1.0), expected.log_softmax(dim=1), atol=1e-5, rtol=1e-4)


def test_prediction_uses_running_statistics(fit):
    model, result, cells = fit
    x, a = inputs(model, cells)
    with torch.no_grad():
        alone = model.net_.eval().encode(torch.from_numpy(cells.dense(np.arange(7))))[-1]
    model.net_.train()
    _, z = model._assigned(x, a)
    np.testing.assert_allclose(z, result["embedding"], atol=1e-6)
    np.testing.assert_allclose(z[:7], alone, atol=1e-5)


# --- how it trains ------------------------------------------------------------------------------


def test_fit_takes_cells_and_nothing_else(fit):
    model, *_ = fit
    assert list(inspect.signature(type(model).fit).parameters) == ["self", "cells"]
    assert model.uses == ()


def test_the_first_centers_are_those_of_kmeans(tiny):
    model, result, _ = fitted(tiny, n_clusters=3, shrink=0.0, **SHORT | {"epochs": 0})
    expected = KMeans(3, n_init=20, random_state=0).fit(result["embedding"]).cluster_centers_
    found = model.net_.dec.centers.detach().numpy()
    for center in expected:
        assert np.linalg.norm(found - center, axis=1).min() < 1e-4


def test_the_second_stage_moves_the_autoencoder_and_the_centers(tiny):
    before, *_ = fitted(tiny, n_clusters=3, **SHORT | {"epochs": 0})
    after, *_ = fitted(tiny, n_clusters=3, **SHORT)
    moved = dict(after.net_.named_parameters())
    still = [name for name, value in before.net_.named_parameters() if torch.equal(value, moved[name])]
    assert not still


def test_pretraining_leaves_the_counts_alone_when_they_weigh_nothing(tiny):
    def head(pretrain_epochs):
        knobs = SHORT | {"pretrain_counts_weight": 0.0, "epochs": 0, "pretrain_epochs": pretrain_epochs}
        return fitted(tiny, n_clusters=3, **knobs)[0].net_.head.mean.weight

    assert torch.equal(head(0), head(4))


def test_assignment_target_and_probabilities_sum_to_1(tiny, monkeypatch):
    module, seen = importlib.import_module("scdance.methods.cluster.scdsc"), []

    def watched(q):
        p = sd.nn.target_distribution(q)
        seen.extend([q, p])
        return p

    monkeypatch.setattr(module, "target_distribution", watched)
    _, result, _ = fitted(tiny, n_clusters=3, **SHORT)
    assert len(seen) == 2 * SHORT["epochs"]
    for each in [*seen, torch.from_numpy(result["proba"])]:
        torch.testing.assert_close(each.sum(dim=1), torch.ones(tiny.n_obs))


@pytest.mark.parametrize(
    "weights", [(1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.5, 2.0, 3.0, 0.0)]
)
def test_the_loss_is_the_weighted_sum_of_the_paper(tiny, weights):
    """b · BCE(q, p) + c · KL(p‖Z) + r · MSE of the first step, with q, p and Z of the state before it."""
    names = ("assignment_weight", "graph_weight", "expression_weight", "counts_weight")
    knobs = SHORT | dict(zip(names, weights, strict=True))
    trained, *_ = fitted(tiny, n_clusters=3, **knobs | {"epochs": 1})
    model, result, cells = fitted(tiny, n_clusters=3, **knobs | {"epochs": 0})
    q = model.net_.dec(torch.from_numpy(result["embedding"])).detach().exp().numpy().astype(float)
    p = q**2 / q.sum(axis=0)
    p /= p.sum(axis=1, keepdims=True)
    model.net_.train()
    x, a = inputs(model, cells)
    with torch.no_grad():
        hidden = model.net_.encode(x)
        q = model.net_.dec(hidden[-1]).exp().numpy().astype(float)
        proba = model.net_.convolve(a, x, hidden).exp().numpy().astype(float)
        restored = model.net_.expression(model.net_.decoder(hidden[-1])).numpy()
    b, c, r, _ = weights
    expected = -b * (p * np.log(q) + (1 - p) * np.log(1 - q)).mean()
    expected += c * (p * np.log(p / proba)).sum(axis=1).mean()
    expected += r * ((restored - standard(cells)) ** 2).mean()
    assert trained.history_["training_loss"][0] == pytest.approx(expected, rel=1e-4)


def test_the_target_comes_from_the_state_that_predicts(tiny, monkeypatch):
    module, seen = importlib.import_module("scdance.methods.cluster.scdsc"), []
    monkeypatch.setattr(module, "target_distribution", lambda q: seen.append(q) or sd.nn.target_distribution(q))
    fitted(tiny, n_clusters=3, **SHORT | {"epochs": 1})
    untrained, result, _ = fitted(tiny, n_clusters=3, **SHORT | {"epochs": 0})
    with torch.no_grad():
        expected = untrained.net_.dec(torch.from_numpy(result["embedding"])).exp()
    torch.testing.assert_close(seen[0].sort(dim=1).values, expected.sort(dim=1).values)


def test_each_step_restores_no_more_cells_than_the_batch(tiny, monkeypatch):
    module, seen = importlib.import_module("scdance.methods.cluster.scdsc"), []
    take = module._Sample.take
    monkeypatch.setattr(module._Sample, "take", lambda self, rows: seen.append(rows) or take(self, rows))
    fitted(tiny, n_clusters=3, **SHORT, batch_size=20)
    assert [len(np.unique(rows)) for rows in seen] == [20] * SHORT["epochs"]
    assert len(np.unique(np.concatenate(seen))) > 60


def test_the_reconstruction_improves(tiny):
    model, *_ = fitted(tiny, n_clusters=3, **SHORT | {"pretrain_epochs": 30})
    loss = model.history_["pretraining_loss"]
    assert np.mean(loss[-5:]) < np.mean(loss[:5])


def test_genes_that_do_not_vary_stay_finite(tiny):
    flat = tiny.copy()
    counts = tiny.X.toarray()
    counts[:, 0], counts[:, 1] = 4, 0
    counts[:, 1] = counts.sum(axis=1).max() + 1 - counts.sum(axis=1)  # all depths equal, so gene 0 never varies
    flat.X = sp.csr_matrix(counts)
    _, result, cells = fitted(flat, n_clusters=3, **SHORT)
    assert dict(cells.prep.filling)["center_scale"]["sd"][cells.var_names.tolist().index(tiny.var_names[0])] == 1
    assert np.isfinite(result["embedding"]).all()


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"latent": ()}, "latent"),
        ({"sigma": 1.5}, "sigma"),
        ({"alpha": 0.0}, "alpha"),
        ({"batch_size": 1}, "batch_size"),
        ({"pretrain_batch_size": 1}, "pretrain_batch_size"),
    ],
)
def test_knobs_that_cannot_work_are_refused(tiny, knobs, said):
    with pytest.raises(InputError, match=said):
        fitted(tiny, n_clusters=3, **SHORT | knobs)


# --- presets and continued runs -------------------------------------------------------------------


def test_there_is_a_preset_for_the_paper_for_dance_and_for_each_data_set():
    module = importlib.import_module("scdance.methods.cluster.scdsc")
    assert sorted(module.ScDSC.presets) == sorted(PRESETS)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_train(tiny, preset):
    model, result, _ = fitted(tiny, preset, n_clusters=3, pretrain_epochs=1, epochs=1)
    assert (model.likelihood, model.pretrain_counts_weight) == ("zinb", 0.0)
    assert result["embedding"].shape == (tiny.n_obs, 10 if preset == "paper" else 32)


def test_a_preset_of_a_data_set_has_the_published_numbers():
    model = make("cluster", "scdsc", {}, preset="10x_pbmc")
    assert (model.encoder, model.latent, model.alpha, model.sigma) == ((1024, 256, 64), (64, 128, 32), 3.0, 0.5)
    weights = model.assignment_weight, model.graph_weight, model.expression_weight, model.counts_weight
    assert weights == (1.0, 0.01, 0.1, 0.1)
    assert (model.pretraining.epochs, model.training.epochs, model.training.lr) == (100, 1000, 0.01)


# 6 epochs of pre-training and 8 of training; the state is written every 5 epochs and after each stage
@pytest.mark.parametrize(("killed_in", "left"), [(3, 14), (9, 8), (13, 3)])
def test_a_killed_run_that_is_continued_equals_one_that_was_not(tiny, tmp_path, monkeypatch, killed_in, left):
    def run(**checkpoint):
        found = sd.tl.cluster(tiny, method="scdsc", n_clusters=3, copy=True, **checkpoint, **SHORT)
        return found.obsm["X_scdsc"], found.obsm["scdsc_proba"].to_numpy()

    z, proba = run()
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
