"""scMM: its divergence, the four ways of its bound, and expected values in the unit of each modality."""

from __future__ import annotations

import mudata
import numpy as np
import pytest
import torch
from scipy.stats import nbinom
from torch.distributions import Laplace, kl_divergence

import scdance as sd
from scdance._checks import InputError
from scdance._core.method import Runtime
from scdance._core.read import read_roles
from scdance._core.run import make
from scdance._core.task import PREDICT_MODALITY
from scdance.methods.predict_modality.scmm import Expert, Experts, ScMM, Seen, divergence, in_unit, line, scales
from scdance.nn import CountParameters

SMALL = {"n_latent": 3, "hidden_rna": 8, "hidden_other": 6, "epochs": 2, "batch_size": 40, "n_top_genes": 40}


@pytest.fixture(scope="module")
def mdata() -> mudata.MuData:
    return sd.datasets.toy_pairs(n_obs=120, n_genes=60, unpaired=0.2, random_state=4)


def fitted(mdata: mudata.MuData, source: str = "rna", target: str = "prot", **knobs):
    model = make("predict_modality", "scmm", {**SMALL, **knobs})
    pair = read_roles(PREDICT_MODALITY, model, mdata, mdata, source=source, target=target)["pair"]
    model.runtime = Runtime(progress=False)
    with model.session():
        return model.fit(pair=pair), pair


def two_experts(n_source: int = 7, n_target: int = 4, **knobs) -> tuple[ScMM, Experts, dict[str, Seen]]:
    torch.manual_seed(0)
    model = ScMM(n_latent=3, hidden_rna=8, hidden_other=6, **knobs)
    net = model.experts(
        {"source": {"n_vars": n_source, "modality": "rna"}, "target": {"n_vars": n_target, "modality": "prot"}}
    ).eval()
    seen = {
        role: Seen(torch.poisson(torch.full((9, n), 2.0)), torch.rand(9) + 0.5)
        for role, n in (("source", n_source), ("target", n_target))
    }
    return model, net, seen


@pytest.fixture
def without_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Laplace, "rsample", lambda self: self.loc)


def test_the_divergence_is_that_of_torch_and_of_many_draws():
    torch.manual_seed(0)
    q, p = Laplace(torch.randn(4), torch.rand(4) + 0.2), Laplace(torch.randn(4), torch.rand(4) + 0.2)
    found = divergence(q, p)
    np.testing.assert_allclose(found, kl_divergence(q, p), rtol=1e-5)
    z = q.sample((200_000,))
    np.testing.assert_allclose(found, (q.log_prob(z) - p.log_prob(z)).mean(dim=0), rtol=0.03)
    np.testing.assert_allclose(divergence(q, q), 0, atol=1e-6)


def test_the_scales_share_what_as_many_ones_have():
    found = scales(torch.tensor([[0.0, 40.0, -40.0], [1.0, 1.0, 1.0]]))
    np.testing.assert_allclose(found.sum(dim=1), 3, rtol=1e-4)
    np.testing.assert_allclose(found[1], 1, rtol=1e-4)
    assert (found > 0).all()


def test_every_expert_explains_both_modalities(without_draws):
    model, net, seen = two_experts(weight=1.0)
    expected = 0.0
    for of in ("source", "target"):
        z = net.experts[of].posterior(seen[of].counts).mean
        for to in ("source", "target"):
            mean, theta, _ = net.experts[to](z, seen[to].size)
            mean, theta = mean.detach().numpy().astype(float), theta.detach().numpy().astype(float)
            expected -= nbinom.logpmf(seen[to].counts.numpy(), theta, theta / (theta + mean)).sum(axis=1).mean()
    assert model.bound(net, seen, 0.0).item() == pytest.approx(expected / 2, rel=1e-4)


def test_the_prior_weighs_the_divergences_of_both_experts(without_draws):
    model, net, seen = two_experts()
    expected = sum(
        kl_divergence(net.experts[role].posterior(seen[role].counts), net.prior_now()).sum(dim=1).mean()
        for role in ("source", "target")
    )
    gained = model.bound(net, seen, 0.3) - model.bound(net, seen, 0.0)
    assert gained.item() == pytest.approx(0.3 * expected.item() / 2, rel=1e-3)


def test_swapped_modalities_have_the_same_bound(without_draws):
    model, net, seen = two_experts(weight=1.0)
    swapped = Experts({"source": net.experts["target"], "target": net.experts["source"]}, 3)
    swapped.prior = net.prior
    there = {"source": seen["target"], "target": seen["source"]}
    assert model.bound(swapped, there, 0.7).item() == pytest.approx(model.bound(net, seen, 0.7).item(), rel=1e-5)


def test_without_a_weight_both_modalities_count_alike(without_draws):
    model, net, seen = two_experts(n_source=8, n_target=2)
    assert model._weight(net, "target") == 4.0
    doubled = ScMM(n_latent=3, hidden_rna=8, hidden_other=6, weight=4.0)
    assert doubled.bound(net, seen, 0.5).item() == pytest.approx(model.bound(net, seen, 0.5).item())


def test_the_depth_of_a_cell_does_not_move_it():
    expert = Expert(5, [6], 2, likelihood="nb", dispersion="gene", log_input=True).eval()
    counts = torch.tensor([[3.0, 0.0, 1.0, 7.0, 2.0]])
    np.testing.assert_allclose(
        expert.posterior(counts).mean.detach(), expert.posterior(10 * counts).mean.detach(), rtol=1e-5
    )


def expected_of(values, mean: float, theta: float) -> float:
    x = np.arange(30_000)
    return float(nbinom.pmf(x, theta, theta / (theta + mean)) @ values(x))


def test_rna_is_answered_as_the_expected_logarithm_of_counts_per_10000():
    mean, theta, depth = [[0.1, 4.0], [30.0, 0.5]], [0.5, 2.0], np.array([1500.0, 4e4])
    found = in_unit("rna", CountParameters(torch.tensor(mean), torch.tensor(theta), None), depth)
    for i in range(2):
        for j in range(2):
            per = 1e4 / depth[i]
            expected = expected_of(lambda x, per=per: np.log1p(per * x), mean[i][j], theta[j])
            assert found[i, j] == pytest.approx(expected, rel=2e-3)


def test_proteins_are_answered_around_the_expected_logarithms_of_their_cell():
    mean, theta = [[2.0, 50.0, 9.0]], [1.0, 5.0, 2.0]
    found = in_unit("prot", CountParameters(torch.tensor(mean), torch.tensor(theta), None), np.ones(1))
    centre = np.exp(np.mean([expected_of(np.log1p, m, t) for m, t in zip(mean[0], theta, strict=True)]))
    for j in range(3):
        expected = expected_of(lambda x: np.log1p(x / centre), mean[0][j], theta[j])
        assert found[0, j] == pytest.approx(expected, rel=2e-3)


def test_peaks_are_answered_as_the_probability_of_a_count():
    mean, theta, logit = [[0.2, 3.0]], [0.7, 4.0], [[-1.0, 2.0]]
    found = in_unit("atac", CountParameters(torch.tensor(mean), torch.tensor(theta), torch.tensor(logit)), np.ones(1))
    for j in range(2):
        zero = nbinom.pmf(0, theta[j], theta[j] / (theta[j] + mean[0][j]))
        assert found[0, j] == pytest.approx((1 - zero) / (1 + np.exp(logit[0][j])), rel=1e-5)


def test_without_a_unit_mean_counts_are_answered(mdata):
    model = make("predict_modality", "scmm", SMALL)
    pair = read_roles(PREDICT_MODALITY, model, mdata, mdata, source="rna", target="prot", recipe=None)["pair"]
    model.runtime = Runtime(progress=False)
    with model.session():
        found = model.fit(pair=pair).predict(pair=pair)["prediction"]
    assert model.unit_ == "counts"
    assert found.mean() == pytest.approx(pair.target.counts.mean(), rel=0.5)


def test_the_depth_of_the_target_is_regressed_on_that_of_the_source(mdata):
    model, pair = fitted(mdata)
    model.depths_ = np.array([0.5, 1.0])
    taken = {}
    decode = model.net_[0].experts["target"].forward
    model.net_[0].experts["target"].forward = lambda z, size: taken.update(size=size) or decode(z, size)
    with model.session():
        model.answers(0, pair.source)(slice(0, 10))
    expected = np.exp(1 + 0.5 * np.log(pair.source.depth[:10])) / np.median(pair.target.depth)
    np.testing.assert_allclose(taken["size"], expected, rtol=1e-4)


def test_the_line_of_depths_is_that_of_least_squares():
    rng = np.random.default_rng(0)
    x = rng.normal(8, 1, 50)
    y = 2 + 0.6 * x + rng.normal(0, 0.3, 50)
    np.testing.assert_allclose(line(x, y), np.polyfit(x, y, 1))


def test_depths_that_say_nothing_of_each_other_leave_the_mean():
    x, y = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 1.0, 1.0, 0.0])
    np.testing.assert_allclose(line(x, y), [0, 1])
    np.testing.assert_allclose(line(np.ones(4), y), [0, 1])


def test_answers_are_means_and_not_draws(mdata):
    model, pair = fitted(mdata, source="prot", target="rna")
    with model.session():
        first = model.predict(pair=pair)["prediction"]
        torch.rand(3)
        np.testing.assert_array_equal(model.predict(pair=pair)["prediction"], first)


def test_the_prior_grows_over_the_first_epochs(mdata, monkeypatch):
    used = []
    bound = ScMM.bound
    monkeypatch.setattr(
        ScMM, "bound", lambda self, net, seen, prior: used.append(prior) or bound(self, net, seen, prior)
    )
    fitted(mdata, epochs=6, warm_up=4, batch_size=200)
    assert used == [0, 0.25, 0.5, 0.75, 1, 1]


@pytest.mark.parametrize("knobs", [{"n_layers": 0}, {"warm_up": -1}, {"weight": -1.0}])
def test_numbers_out_of_range_are_refused(mdata, knobs):
    with pytest.raises(InputError, match=next(iter(knobs))):
        fitted(mdata, **knobs)


def test_an_error_while_it_trains_reaches_the_user(mdata, monkeypatch):
    calls = []

    def bound(self, net, seen, prior):
        calls.append(prior)
        raise ArithmeticError("in the first step")

    monkeypatch.setattr(ScMM, "bound", bound)
    with pytest.raises(ArithmeticError, match="in the first step"):
        sd.tl.predict_modality(mdata, "scmm", source="rna", target="prot", progress=False, **SMALL)
    assert len(calls) == 1
    assert "scmm_prot" not in mdata["rna"].obsm
