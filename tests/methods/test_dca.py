"""DCA beyond the common checks of every method."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.special import gammaln
from scipy.stats import nbinom, poisson, spearmanr
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from torch.nn.functional import softplus

import scdance as sd
from scdance._checks import InputError
from scdance._core.read import read
from scdance._core.run import make, solve
from scdance.methods.impute._count_net import PACE, drawn
from scdance.train import Batches

FEW = {"encoder": (32,), "n_latent": 8, "steps": 150, "batch_size": 64}
SHORT = {"encoder": (8,), "n_latent": 4, "steps": 12, "batch_size": 32}
PARTS = {"hide": 0.0, "likelihood": "nb", "n_parts": 4, "shown": (0.5, 1.0)}  # genes are hidden instead of entries


class Given:
    """A generator whose random numbers are known: below 0.5 an entry is hidden."""

    def __init__(self, hidden):
        self.hidden = hidden

    def random(self, shape, dtype):
        assert shape == self.hidden.shape
        return np.where(self.hidden, 0.2, 0.8).astype(dtype)


@pytest.fixture(scope="module")
def adata():
    return sd.datasets.toy_clusters(n_obs=300, n_vars=150, k=4, n_de=30, lfc=2.0)


@pytest.fixture(scope="module")
def tiny():
    return sd.datasets.toy_clusters(n_obs=80, n_vars=40, k=3, n_de=10, lfc=2.0)


def fitted(adata, preset=None, **knobs):
    model = make("impute", "dca", knobs, preset=preset)
    cells = read(adata, model)
    return model, solve(model, cells=cells, progress=False)[0], cells


@pytest.fixture(scope="module")
def denoised(adata):
    """Counts of which a tenth was hidden, and a run on what is left."""
    counts = sp.csr_matrix(adata.X)
    kept = sd.pp.mask(counts, "thinning", 0.1, np.random.default_rng(0))
    model, result, cells = fitted(ad.AnnData(kept), output="counts", **FEW)
    return counts, kept, model, result, cells


def test_held_out_molecules_are_predicted_better_than_by_the_mean_of_each_gene(denoised):
    counts, kept, _, result, _ = denoised
    assert sd.metrics.poisson_gain(counts, kept, result["expression"]) < -0.03


def test_the_depth_of_cells_is_in_the_estimate(denoised):
    _, kept, _, result, cells = denoised
    assert np.corrcoef(result["expression"].sum(axis=1), cells.depth)[0, 1] > 0.95
    assert result["expression"].sum() == pytest.approx(kept.sum(), rel=0.1)


def test_the_narrow_layer_holds_planted_clusters(adata, denoised):
    labels = KMeans(4, n_init=5, random_state=0).fit_predict(denoised[3]["embedding"])
    assert adjusted_rand_score(adata.obs["cell_type"], labels) > 0.9


@pytest.fixture(scope="module")
def half_hidden(tiny):
    """A fitted model, its cells, a batch of them, and which of its entries are hidden."""
    model, _, cells = fitted(tiny, **SHORT)
    hidden = np.random.default_rng(3).random((20, cells.n_vars)) < 0.5
    hidden[:, :3] = False  # genes that are never hidden
    return model, cells, Batches(cells, 20).take(np.arange(20)), hidden


def test_entries_that_are_not_hidden_have_no_gradient(half_hidden):
    model, cells, batch, hidden = half_hidden
    model.net_.zero_grad()
    model.loss(cells, batch, Given(hidden)).backward()
    gradient = model.net_.head.mean.bias.grad.numpy()
    assert (gradient[:3] == 0).all()
    assert (gradient[3:] != 0).all()


def test_the_network_is_not_shown_what_is_hidden(half_hidden, monkeypatch):
    model, cells, batch, hidden = half_hidden
    seen = []
    monkeypatch.setattr(model, "_of_entries", lambda h, counts, size: seen.append(h) or torch.zeros_like(counts))
    other = type(batch)(batch.rows, batch.x + 7 * torch.from_numpy(hidden), batch.counts, batch.batch)
    visible = type(batch)(batch.rows, batch.x + 7 * torch.from_numpy(~hidden), batch.counts, batch.batch)
    for each in (batch, other, visible):
        model.loss(cells, each, Given(hidden))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


@pytest.mark.parametrize("likelihood", ["poisson", "nb"])
def test_the_loss_is_that_of_the_hidden_counts(tiny, likelihood):
    model, _, cells = fitted(tiny, likelihood=likelihood, hide=0.5, **SHORT)
    everything = np.ones((20, cells.n_vars), dtype=bool)  # so the network sees the mean of nothing
    batch = Batches(cells, 20).take(np.arange(20))
    with torch.no_grad():
        loss = float(model.loss(cells, batch, Given(everything)))
        mean, theta, _ = model.net_.head(model.net_.hidden(torch.zeros_like(batch.x), None), model._size(cells)[:20])
    counts, mean, theta = cells.counts[:20].toarray(), mean.numpy(), theta.numpy()
    if likelihood == "nb":
        assert loss == pytest.approx(-nbinom.logpmf(counts, theta, theta / (theta + mean)).mean(), rel=1e-4)
        return
    full = -poisson.logpmf(counts, mean).mean()  # of which the net cannot change lgΓ(x + 1) and x log(size)
    size = model._size(cells)[:20, None].numpy()
    assert loss == pytest.approx(full - (gammaln(counts + 1) - counts * np.log(size)).mean(), rel=1e-4)


def test_a_gene_is_predicted_without_its_own_part(adata):
    kept = sp.csr_matrix(adata.X)
    model, _, cells = fitted(ad.AnnData(kept), output="counts", **FEW, **PARTS)
    before = model.rates(cells)(slice(0, 50))
    gene = 7
    same_part = model.part_ == model.part_[gene]
    other = kept.toarray()
    other[:50, same_part] += np.random.default_rng(1).poisson(5, (50, same_part.sum()))
    changed = read(ad.AnnData(sp.csr_matrix(other)), model)
    changed = type(cells)(**{**vars(changed), "depth": cells.depth})
    after = model.rates(changed)(slice(0, 50))
    np.testing.assert_array_equal(after[:, same_part], before[:, same_part])
    assert not np.allclose(after[:, ~same_part], before[:, ~same_part])


def test_with_one_part_a_gene_is_predicted_from_itself(tiny):
    model, _, cells = fitted(tiny, **{**PARTS, "n_parts": 1}, **SHORT)
    counts = sp.csr_matrix(tiny.X).toarray()
    counts[:, 3] += 20
    changed = read(ad.AnnData(sp.csr_matrix(counts), var=tiny.var), model)
    changed = type(cells)(**{**vars(changed), "depth": cells.depth})
    assert not np.allclose(model.rates(changed)(slice(0, 80))[:, 3], model.rates(cells)(slice(0, 80))[:, 3])


def test_every_gene_is_in_one_part_of_about_the_same_size(tiny):
    model, _, cells = fitted(tiny, **{**PARTS, "n_parts": 3}, **SHORT)
    sizes = np.bincount(model.part_)
    assert len(model.part_) == cells.n_vars
    assert len(sizes) == 3
    assert np.ptp(sizes) <= 1


def test_the_loss_is_that_of_a_negative_binomial_on_the_hidden_genes(tiny):
    model, _, cells = fitted(tiny, **PARTS | {"n_parts": 1, "shown": (1.0, 1.0)}, **SHORT)
    batch = Batches(cells, 20).take(np.arange(20))
    with torch.no_grad():
        loss = model.loss(cells, batch, np.random.default_rng(0))
    mean = model.rates(cells)(slice(0, 20))
    theta = softplus(PACE * model.net_.head.gene_dispersion.detach()).numpy()
    expected = -nbinom.logpmf(cells.counts[:20].toarray(), theta, theta / (theta + mean)).mean()
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_expression_is_standardised_over_all_cells(tiny):
    model, _, cells = fitted(tiny, **PARTS, **SHORT)
    size = model._size(cells)
    x = model.expression(torch.from_numpy(cells.counts.toarray()), size).numpy()
    inside = x.max(axis=0) < 5
    assert inside.sum() > 20
    np.testing.assert_allclose(x.mean(axis=0)[inside], 0, atol=1e-4)
    np.testing.assert_allclose(x.std(axis=0)[inside], 1, atol=1e-3)


def test_molecules_are_drawn_in_the_share_of_each_cell():
    counts = sp.csr_matrix(np.full((2, 5000), 3.0, dtype=np.float32))
    some = drawn(counts, np.array([0.2, 0.8]), np.random.default_rng(0))
    np.testing.assert_allclose(some.mean(axis=1), [0.6, 2.4], rtol=0.05)
    assert some.max() <= 3
    np.testing.assert_array_equal(some, np.round(some))
    assert some[0].var() == pytest.approx(3 * 0.2 * 0.8, rel=0.1)


def test_fractions_of_molecules_are_divided():
    counts = sp.csr_matrix(np.array([[0.5, 0.25]], dtype=np.float32))
    np.testing.assert_allclose(drawn(counts, np.array([0.4]), np.random.default_rng(0)), [[0.2, 0.1]])


def test_new_cells_are_measured_by_the_depth_of_the_training_cells(tiny):
    model, _, _ = fitted(tiny, **SHORT)
    deep = tiny[:20].copy()
    deep.X = sp.csr_matrix(deep.X) * 3
    cells = read(deep, model)
    assert np.median(model._size(cells).numpy()) == pytest.approx(
        np.median(cells.depth) / model.median_depth_, rel=1e-5
    )
    assert np.median(model._size(cells).numpy()) > 2


def test_dispersion_follows_the_data():
    rng = np.random.default_rng(0)
    mean, theta = rng.uniform(5, 20, 20), np.repeat([0.5, 50.0], 10)
    counts = rng.poisson(rng.gamma(theta, mean / theta, (200, 20)))
    _, result, _ = fitted(
        ad.AnnData(sp.csr_matrix(counts, dtype=np.float32)), output="log1p", steps=150, lr=1e-2, batch_size=64
    )
    assert np.median(result["dispersion"][:10]) * 3 < np.median(result["dispersion"][10:])


def test_what_is_published_can_be_had(tiny):
    model, result, _ = fitted(tiny, preset="paper", epochs=2)
    assert (model.n_parts, model.likelihood, model.theta) == (1, "zinb", "entry")
    assert model.net_.head.logit is not None
    assert "valid_loss" in "".join(model.history_)
    assert np.isfinite(result["expression"]).all()


@pytest.mark.parametrize(("n_parts", "hide"), [(1, 0.0), (4, 0.0), (1, 0.5)])
@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
@pytest.mark.parametrize("theta", ["gene", "entry"])
def test_all_likelihoods_can_be_trained(tiny, n_parts, hide, likelihood, theta):
    _, result, _ = fitted(tiny, n_parts=n_parts, hide=hide, likelihood=likelihood, theta=theta, **SHORT)
    assert (result["expression"] >= 0).all()


def test_validation_is_the_same_each_time_and_draws_nothing_from_training(tiny):
    model, _, cells = fitted(tiny, **SHORT)
    judge = model._judge(cells, np.arange(20))
    with torch.no_grad():
        assert judge() == judge()


def test_batches_are_told_to_the_network(tiny):
    adata = tiny.copy()
    adata.obs["batch"] = np.where(np.arange(adata.n_obs) % 2, "a", "b")
    sd.tl.impute(adata, method="dca", batch_key="batch", progress=False, **SHORT)
    model = sd.fit("impute", adata, method="dca", batch_key="batch", progress=False, **SHORT)
    assert model.n_batches_ == 2
    assert model.net_.encoder.layers[0].in_features == model.n_vars_ + 2


def test_the_posterior_is_nearer_to_the_counts_of_the_cell(denoised, adata):
    _, kept, model, result, cells = denoised
    model.policy = "posterior"
    moved = model.predict(cells=cells)["expression"]
    model.policy = "replace"
    assert np.abs(moved - kept.toarray()).mean() < np.abs(result["expression"] - kept.toarray()).mean()
    assert spearmanr(moved.ravel(), result["expression"].ravel())[0] > 0.8


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"shown": (0.0, 1.0)}, "shown"),
        ({"shown": (0.9, 0.5)}, "smaller one first"),
        ({"n_parts": 0}, "n_parts"),
        ({"likelihood": "normal"}, "likelihood"),
        ({"hide": 0.0}, "poisson"),
        ({"hide": 1.0}, "hide"),
        ({"theta": "cell"}, "theta"),
    ],
)
def test_wrong_knobs_are_refused(tiny, knobs, said):
    with pytest.raises(InputError, match=said):
        sd.tl.impute(tiny.copy(), method="dca", **knobs)
