"""GraphSCI beyond the common checks of every method."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.nn import functional

import scdance as sd
from scdance._checks import InputError
from scdance._core.read import read
from scdance._core.run import make, solve
from scdance.methods.impute.graphsci import SAMPLE, _Gates

SHORT = {"hidden": (12, 8), "n_components": 10, "threshold": 0.1, "steps": 12, "batch_size": 32}


def modules(n_obs=300, n_modules=6, size=12, seed=0):
    """Counts of genes in modules: in each, all follow one factor of the cell."""
    rng = np.random.default_rng(seed)
    factors = np.exp(rng.normal(0, 0.8, (n_obs, n_modules)))
    rates = np.repeat(factors, size, axis=1) * rng.uniform(1, 4, n_modules * size)
    return ad.AnnData(sp.csr_matrix(rng.poisson(rates), dtype=np.float32))


@pytest.fixture(scope="module")
def tiny():
    return modules(n_obs=80, n_modules=4, size=8)


def fitted(adata, preset=None, **knobs):
    model = make("impute", "graphsci", knobs, preset=preset)
    cells = read(adata, model)
    return model, solve(model, cells=cells, progress=False)[0], cells


def gates(n=30, *, edges_only, seed=0):
    rng = np.random.default_rng(seed)
    links = sp.csr_matrix((rng.random((n, n)) < 0.1).astype(np.float32))
    links = ((links + links.T + sp.eye_array(n)) > 0).astype(np.float32).tocsr()
    torch.manual_seed(seed)
    net = _Gates(links, 5, (6, 4), edges_only=edges_only)
    net.describe(torch.randn(n, 5))
    return net, links.toarray()


def same_weights(sparse, dense, links):
    """Give the dense net, on the edges, the weights of the sparse one, and none elsewhere."""
    state = {name: value for name, value in sparse.state_dict().items() if name != "weight"}
    dense.load_state_dict(state, strict=False)
    weight = torch.zeros(len(links), len(links))
    weight[sparse.rows, sparse.columns] = sparse.weight.detach()
    with torch.no_grad():
        dense.weight.copy_(weight)


def test_modules_are_predicted_better_than_by_the_mean_of_each_gene():
    adata = modules()
    kept = sd.pp.mask(adata.X, "thinning", 0.1, np.random.default_rng(0))
    _, result, _ = fitted(ad.AnnData(kept), output="counts", hidden=(32, 16), n_components=20, steps=200, batch_size=64)
    assert sd.metrics.poisson_gain(adata.X, kept, result["expression"]) < -0.03


def test_linked_are_the_genes_that_correlate(tiny):
    model, _, cells = fitted(tiny, **{**SHORT, "threshold": 0.3})
    x = np.log1p(cells.counts.toarray() * (np.median(cells.depth) / cells.depth)[:, None])
    expected = np.abs(np.corrcoef(x.T)) >= 0.3
    np.fill_diagonal(expected, val=True)
    found = np.zeros_like(expected)
    found[tuple(model.links_)] = True
    np.testing.assert_array_equal(found, expected)


def test_on_edges_only_equals_all_pairs_where_the_others_have_no_weight():
    sparse, links = gates(edges_only=True)
    dense, _ = gates(edges_only=False)
    same_weights(sparse, dense, links)
    x = torch.randn(7, 30)
    for net in (sparse, dense):
        net.eval()
    torch.testing.assert_close(sparse(x), dense(x), atol=1e-5, rtol=1e-4)


def test_slopes_on_edges_only_equal_those_of_all_pairs():
    sparse, links = gates(edges_only=True)
    dense, _ = gates(edges_only=False)
    same_weights(sparse, dense, links)
    x = torch.randn(7, 30)
    for net in (sparse, dense):
        net.eval()
        net(x).square().sum().backward()
    torch.testing.assert_close(sparse.weight.grad, dense.weight.grad[sparse.rows, sparse.columns], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(sparse.mean.weight.grad, dense.mean.weight.grad, atol=1e-4, rtol=1e-3)


def test_weights_and_gates_are_multiplied_entry_by_entry():
    net, _ = gates(edges_only=False)
    net.eval()
    with torch.no_grad():
        gate = net.mean(net.nodes())
        net.weight.copy_(torch.where(gate.abs() > 0, torch.eye(30) / gate, 0))  # the product is the identity
        x = torch.randn(4, 30)
        torch.testing.assert_close(net(x), x)


def test_the_spread_of_the_gates_has_weights_of_its_own():
    net, _ = gates(edges_only=True)
    mean, log_sd = net.on_edges(net.nodes())
    assert not torch.allclose(mean, log_sd)
    assert net.mean.weight is not net.log_sd.weight


def test_links_cost_the_weighted_cross_entropy():
    net, links = gates(edges_only=False)
    net(torch.randn(3, 30))
    n, n_links = links.shape[0], links.sum()
    weight = (n**2 - n_links) / n_links
    expected = functional.binary_cross_entropy_with_logits(
        net.recent.gates, torch.from_numpy(links), pos_weight=torch.tensor(weight)
    )
    expected = expected * n**2 / (2 * (n**2 - n_links))
    assert net.loss(1.0, 0.0).item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_divergence_is_that_of_normal_distributions():
    net, _ = gates(edges_only=False)
    net(torch.randn(3, 30))
    mean, log_sd = net.recent.mean, net.recent.log_sd
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, log_sd.exp()), torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    ).mean()
    assert net.loss(0.0, 1.0).item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_sampled_loss_is_that_of_all_pairs():
    sparse, links = gates(n=SAMPLE, edges_only=True)  # as many as are sampled: without noise it is exact
    dense, _ = gates(n=SAMPLE, edges_only=False)
    same_weights(sparse, dense, links)
    with torch.no_grad():
        sparse.train()
        dense.train()
        sparse(torch.zeros(1, SAMPLE))
        dense(torch.zeros(1, SAMPLE))
        assert float(sparse.loss(0.0, 1.0)) == pytest.approx(float(dense.loss(0.0, 1.0)), rel=1e-4)
        losses = []
        for _ in range(20):
            sparse(torch.zeros(1, SAMPLE))
            dense(torch.zeros(1, SAMPLE))
            losses.append([float(sparse.loss(1.0, 0.0)), float(dense.loss(1.0, 0.0))])
    assert np.ptp(np.mean(losses, axis=0)) < 0.02 * np.mean(losses)


def test_without_links_genes_hear_themselves_only_and_the_user_is_told():
    rng = np.random.default_rng(0)
    adata = ad.AnnData(sp.csr_matrix(rng.poisson(3, (60, 30)), dtype=np.float32))
    with pytest.warns(UserWarning, match="no graph is left"):
        model, result, _ = fitted(adata, **{**SHORT, "threshold": 0.95})
    np.testing.assert_array_equal(*model.links_)
    assert np.isfinite(result["expression"]).all()


def test_too_many_genes_are_refused_with_a_way_out(monkeypatch, tiny):
    monkeypatch.setattr("scdance.methods.impute.graphsci.MOST_GENES", {True: 20, False: 10})
    adata = tiny.copy()
    with pytest.raises(InputError, match="smaller `n_top_genes`"):
        sd.tl.impute(adata, method="graphsci", **SHORT)
    assert not adata.layers
    sd.tl.impute(adata, method="graphsci", n_top_genes=15, progress=False, **SHORT)
    with pytest.raises(InputError, match="at most 10"):
        sd.tl.impute(adata, method="graphsci", n_top_genes=15, edges_only=False, **SHORT)


@pytest.mark.parametrize("knobs", [{}, {"edges_only": False}, {"n_components": None}, {"likelihood": "zinb"}])
def test_new_cells_are_imputed_without_training_again(tiny, knobs):
    model, _, _ = fitted(tiny[:60].copy(), **{**SHORT, **knobs})
    result = model.predict(cells=read(tiny[60:].copy(), model))
    assert result["expression"].shape == (20, 32)
    assert np.isfinite(result["expression"]).all()


def test_what_is_published_can_be_had(tiny):
    model, result, _ = fitted(tiny, preset="paper", epochs=2)
    assert (model.likelihood, model.n_parts, model.edges_only) == ("zinb", 1, False)
    assert np.isfinite(result["expression"]).all()


def test_a_share_of_dropped_units_is_below_one(tiny):
    with pytest.raises(InputError, match="dropout"):
        sd.tl.impute(tiny.copy(), method="graphsci", dropout=1.0)
