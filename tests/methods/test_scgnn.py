"""scGNN beyond the common checks of every method."""

from __future__ import annotations

import importlib

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.metrics import adjusted_rand_score

import scdance as sd
from scdance._core.read import read
from scdance._core.run import make, solve
from scdance.graph import Sparse, self_loops

autoencoder = importlib.import_module("scdance.methods.impute._autoencoder")
links = importlib.import_module("scdance.methods.impute._links")
SHORT = {"hidden": 16, "n_latent": 8, "n_clusters": 3, "pretrain_epochs": 2, "loop_epochs": 1, "link_epochs": 3}
SHORT |= {"epochs": 2, "batch_size": 32, "output": "counts"}
FAST = {"n_clusters": 3, "hidden": 64, "n_latent": 16, "pretrain_steps": 150, "steps": 10, "iterations": 2}


@pytest.fixture(scope="module")
def adata():
    return sd.datasets.toy_clusters(n_obs=300, n_vars=150, k=3, n_de=30, lfc=2.0)


@pytest.fixture(scope="module")
def tiny():
    return sd.datasets.toy_clusters(n_obs=83, n_vars=40, k=3, n_de=10, lfc=2.0)


def fitted(adata, **knobs):
    model = make("impute", "scgnn", knobs)
    cells = read(adata, model)
    return model, solve(model, cells=cells, progress=False)[0], cells


# --- the regularisers -----------------------------------------------------------------------------


def random_links(n, rng):
    a = sp.random(n, n, 0.1, random_state=0, data_rvs=np.ones)
    return sp.csr_matrix(((a + a.T) > 0).astype(np.float32))


def test_weights_of_version_1_are_the_products_of_matrices():
    rng, n = np.random.default_rng(0), 50
    a, labels, errors = random_links(n, rng), rng.integers(3, size=n), rng.random((n, 7))
    same = (labels[:, None] == labels[None, :]).astype(float)
    expected = 0.3 * (a.toarray() @ errors).sum() + 0.1 * (same @ errors).sum()
    weights = links.cell_weights(a, labels, 1, 0.3, 0.1)
    assert weights @ errors.sum(axis=1) == pytest.approx(expected, rel=1e-5)


def test_weights_of_version_2_are_the_products_of_matrices_within_each_cluster():
    rng, n = np.random.default_rng(0), 50
    a, labels, errors = random_links(n, rng), rng.integers(3, size=n), rng.random((n, 7))
    expected = 0.0
    for cluster in range(3):
        rows = np.flatnonzero(labels == cluster)
        part, e = a.toarray()[np.ix_(rows, rows)], errors[rows]
        part = part / np.maximum(part.sum(axis=1, keepdims=True), 1)
        same = np.full((len(rows), len(rows)), 1 / len(rows))
        expected += 0.3 * e.sum() + 0.3 * (part @ e).sum() + 0.1 * (same @ e).sum()
    weights = links.cell_weights(a, labels, 2, 0.3, 0.1)
    assert weights @ errors.sum(axis=1) == pytest.approx(expected, rel=1e-5)


def test_the_cell_type_term_of_version_2_is_a_tenth_of_the_squared_errors():
    rng = np.random.default_rng(0)
    a, labels = random_links(50, rng), rng.integers(3, size=50)
    with_it, without = (links.cell_weights(a, labels, 2, 0.3, weight) for weight in (0.1, 0.0))
    np.testing.assert_allclose(with_it - without, 0.1, rtol=1e-5)


# --- the graph ------------------------------------------------------------------------------------


def test_no_link_is_longer_than_the_mean_and_one_standard_deviation():
    z = np.random.default_rng(0).standard_t(2, size=(200, 4)).astype(np.float32)
    d = np.linalg.norm(z[:, None].astype(float) - z[None], axis=2)
    np.fill_diagonal(d, np.inf)
    nearest = np.sort(d, axis=1)[:, :10]
    within = d <= (nearest.mean(axis=1) + nearest.std(axis=1))[:, None] * (1 + 1e-5)
    within &= d <= nearest[:, [-1]] * (1 + 1e-5)
    found = links.linked(z, 10).toarray()
    np.testing.assert_array_equal(found > 0, within | within.T)
    assert found.sum() < (d <= nearest[:, [-1]]).sum() * 2  # some were dropped
    assert set(np.unique(found)) == {0.0, 1.0}


def test_equal_distances_are_all_kept():
    corners = np.eye(5, dtype=np.float32) * 0.1
    assert links.linked(corners, 4).nnz == 20


def dense_link_loss(z, a):
    n, n_links = len(z), float(a.sum())
    weight = torch.tensor((n * n - n_links) / n_links)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(z @ z.T, a, pos_weight=weight)
    return n * n / (2 * (n * n - n_links)) * loss


def test_the_loss_of_links_is_the_dense_cross_entropy(monkeypatch):
    monkeypatch.setattr(links, "PAIRS", 130)  # several blocks
    rng = np.random.default_rng(0)
    a = self_loops(random_links(60, rng))
    z = torch.from_numpy(rng.normal(size=(60, 4)).astype(np.float32)).requires_grad_()
    expected = dense_link_loss(z, torch.from_numpy(a.toarray()))
    (slopes,) = torch.autograd.grad(expected, z)
    found = links.link_loss(z, Sparse(a).forward)
    (found_slopes,) = torch.autograd.grad(3 * found, z)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(found_slopes, 3 * slopes, rtol=1e-4, atol=1e-7)


def test_the_sampled_loss_of_links_is_right_on_average():
    rng = np.random.default_rng(0)
    a = self_loops(random_links(60, rng))
    z = torch.from_numpy(rng.normal(size=(60, 4)).astype(np.float32))
    expected = dense_link_loss(z, torch.from_numpy(a.toarray())).item()
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        found = [links.link_loss(z, Sparse(a).forward, exact_up_to=10).item() for _ in range(200)]
    assert np.std(found) > 0
    assert abs(np.mean(found) - expected) < 3 * np.std(found) / np.sqrt(200)


# --- the networks ---------------------------------------------------------------------------------


def test_batches_hold_one_group_each_and_all_cells():
    groups = np.array([0, 1, 0, 2, 0, 1, 0, 0])
    batches = autoencoder.Groups(groups, 2, np.random.default_rng(0))
    found = list(batches)
    assert len(found) == len(batches) == 5
    assert all((groups[rows] == group).all() for group, rows in found)
    assert sorted(np.concatenate([rows for _, rows in found])) == list(range(8))


def test_rates_start_at_those_of_the_genes():
    net = autoencoder.Autoencoder(3, 4, 2, positive=True)
    rates = np.array([0.01, 1.0, 30.0])
    net.start_at(rates)
    torch.nn.init.zeros_(net.decoder.layers[-1].weight)
    np.testing.assert_allclose(net(torch.ones(2, 3)).expm1().detach(), np.tile(rates, (2, 1)), rtol=1e-4)


def test_the_loss_of_counts_is_that_of_poisson():
    net = autoencoder.Autoencoder(5, 4, 2, positive=True)
    counts = torch.tensor([[0.0, 1, 2, 7, 0], [3, 0, 0, 1, 1]])
    size = torch.tensor([[0.5], [2.0]])
    target = (counts / size).log1p()
    rate = size * net(target).expm1()
    expected = rate - counts * rate.log() + counts * size.log()
    torch.testing.assert_close(net.errors(target, target, size), expected, rtol=1e-4, atol=1e-5)


def test_hidden_entries_are_neither_shown_nor_are_shown_ones_compared(tiny):
    model, _, cells = fitted(tiny, **SHORT, hide=0.7)
    seen = []

    class Spy(autoencoder.Autoencoder):
        def errors(self, shown, target, size):
            out = super().errors(shown, target, size)
            out.retain_grad()
            seen.append((shown, target, out))
            return out

    net = Spy(model.n_vars_, 16, 8, positive=True)
    with model.session():
        one = np.zeros(cells.n_obs, dtype=int)
        model._learn(torch.nn.ModuleList([net]), one, cells, cells, model.training, "spy")
    for shown, target, out in seen:
        assert (shown[out.grad != 0] == 0).all()
        told = (target > 0) & (out.grad == 0)
        torch.testing.assert_close(shown[told], target[told] / 0.3)
        assert 0.6 < (out.grad != 0).float().mean() < 0.8


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("preset", [{}, {"learn_from": "imputed", "loss": "squared", "hide": 0.0, "l1": 0.01}])
def test_estimates_of_a_gene_sum_to_its_counts(tiny, version, preset):
    _, result, cells = fitted(tiny, **SHORT, **preset, version=version)
    expected = np.asarray(cells.counts.sum(axis=0)).ravel()
    total = result["expression"].sum(axis=0)
    np.testing.assert_allclose(total[total > 0], expected[total > 0], rtol=1e-3)
    assert (total > 0).mean() > 0.3  # a ReLU may give up genes
    assert result["embedding"].shape == (cells.n_obs, 16)


def test_each_cluster_has_a_network_in_version_2_only(tiny):
    one, _, _ = fitted(tiny, **SHORT, version=1)
    several, result, _ = fitted(tiny, **SHORT, version=2)
    assert len(one.net_) == 1
    assert len(several.net_) == result["clusters"].max() + 1 == 3
    first, second = (several.net_[i].decoder.layers[-1].weight for i in (0, 1))
    assert not torch.equal(first, second)


def test_active_entries_can_weigh_more_at_first(tiny):
    _, plain, _ = fitted(tiny, **SHORT)
    _, weighed, _ = fitted(tiny, **SHORT, ltmg=True)
    assert not np.allclose(plain["expression"], weighed["expression"])


def test_what_was_observed_can_weigh_more_in_version_2(tiny):
    knobs = SHORT | {"loss": "squared", "hide": 0.0}
    _, plain, _ = fitted(tiny, **knobs)
    _, weighed, _ = fitted(tiny, **knobs, nonzero_weight=100.0)
    assert not np.allclose(plain["expression"], weighed["expression"])


@pytest.mark.parametrize("preset", ["paper", "paper2", "dance"])
def test_presets_run(tiny, preset):
    knobs = {name: value for name, value in SHORT.items() if name not in ("hidden", "n_latent", "batch_size")}
    adata = tiny.copy()
    sd.tl.impute(adata, "scgnn", preset=preset, **knobs, iterations=2)
    assert np.isfinite(adata.layers["scgnn"]).all()


@pytest.mark.parametrize("size", [9, 82, 83, 500])
def test_any_batch_size_works(tiny, size):
    _, result, _ = fitted(tiny, **(SHORT | {"batch_size": size, "pretrain_batch_size": size, "epochs": 1}))
    assert np.isfinite(result["expression"]).all()


def test_rounds_end_when_clusters_agree(tiny):
    always, _, _ = fitted(tiny, **SHORT, iterations=5, agree=-1.0)
    never, _, _ = fitted(tiny, **SHORT, iterations=5, agree=1.1)
    assert (always.n_rounds_, never.n_rounds_) == (2, 5)


# --- results --------------------------------------------------------------------------------------


def test_planted_clusters_are_found(adata):
    _, result, _ = fitted(adata, **FAST)
    assert adjusted_rand_score(adata.obs["cell_type"], result["clusters"]) > 0.9
    assert (np.diff(np.bincount(result["clusters"])) <= 0).all()


def test_planted_signal_is_recovered_better_than_by_the_mean_of_genes(adata):
    kept = sd.pp.mask(adata.X, "uniform", 0.1, np.random.default_rng(0))
    found = {}
    for name, knobs in {"scgnn": FAST, "gene_mean": {}}.items():
        given = ad.AnnData(kept.copy())
        sd.tl.impute(given, name, output="log1p", **knobs)
        found[name] = sd.metrics.rmse_both(adata.X, kept, given.layers[name])
    assert found["scgnn"] < 0.9 * found["gene_mean"]


def test_held_out_molecules_are_predicted_better_than_by_the_mean_of_genes(adata):
    kept = sd.pp.mask(adata.X, "thinning", 0.1, np.random.default_rng(0))
    given = ad.AnnData(kept)
    sd.tl.impute(given, "scgnn", output="counts", **FAST)
    assert sd.metrics.poisson_gain(adata.X, kept, given.layers["scgnn"]) < -0.05


def test_what_was_held_out_changes_nothing(tiny):
    rng = np.random.default_rng(0)
    kept = sd.pp.mask(tiny.X, "uniform", 0.1, rng)
    first, second = tiny.copy(), tiny.copy()
    for each, noise in ((first, 0), (second, 5)):
        each.layers["kept"] = kept
        each.X = sp.csr_matrix(each.X.toarray() + noise)
        sd.tl.impute(each, "scgnn", layer="kept", **SHORT)
    np.testing.assert_array_equal(first.layers["scgnn"], second.layers["scgnn"])


@pytest.mark.parametrize("knobs", [{"version": 3}, {"hide": 1.0}, {"iterations": 0}, {"n_neighbors": 0}])
def test_unusable_knobs_are_refused(tiny, knobs):
    with pytest.raises(ValueError, match=next(iter(knobs))):
        sd.tl.impute(tiny, "scgnn", **knobs)
