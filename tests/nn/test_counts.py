import itertools

import numpy as np
import pytest
import scipy.stats
import torch
from torch.nn import functional

from scdance.nn import CountHead, log_nb, log_zinb, nb_loss, zinb_loss

MEANS = [1e-5, 1e-3, 0.3, 5.0, 300.0, 1e6]
DISPERSIONS = [1e-4, 1e-2, 1.0, 29.9, 30.1, 1e4]
COUNTS = [0.0, 1.0, 3.0, 100.0, 5000.0]


def grid(dtype):
    x, mean, theta = zip(*itertools.product(COUNTS, MEANS, DISPERSIONS), strict=True)
    return tuple(torch.tensor(v, dtype=dtype) for v in (x, mean, theta))


def outputs(n_obs=5, n_vars=4, seed=0, dtype=torch.float64):
    """Counts, the three outputs of a layer, and size factors."""
    rng = torch.Generator().manual_seed(seed)
    mean, theta, logit = (torch.randn(n_obs, n_vars, generator=rng, dtype=dtype) for _ in range(3))
    x = torch.poisson(torch.full((n_obs, n_vars), 1.5, dtype=dtype), generator=rng)
    size = torch.rand(n_obs, generator=rng, dtype=dtype) + 0.5
    return x, mean, theta, logit, size


def by_hand(x, a, b, logit, size):
    """The loss from the elementwise functions, differentiated by torch."""
    mean = a.clamp(np.log(1e-5), np.log(1e6)).exp() * size[:, None]
    theta = functional.softplus(b).clamp(1e-4, 1e4)
    return -(log_nb(x, mean, theta) if logit is None else log_zinb(x, mean, theta, logit)).mean()


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-8), (torch.float32, 2e-3)])
def test_log_nb_is_scipys_logpmf(dtype, rtol):
    x, mean, theta = grid(dtype)
    n, m = theta.double().numpy(), mean.double().numpy()
    expected = scipy.stats.nbinom.logpmf(x.numpy(), n, n / (n + m))
    found = log_nb(x, mean, theta).double().numpy()
    usable = np.isfinite(expected) & (np.abs(expected) > 1e-12)  # scipy itself rounds n / (n + m) to 1
    np.testing.assert_allclose(found[usable], expected[usable], rtol=rtol, atol=1e-4 * rtol)
    assert np.isfinite(found).all()


def test_log_nb_at_large_dispersion_is_poisson():
    x = torch.arange(20, dtype=torch.float32)
    expected = scipy.stats.poisson.logpmf(x.numpy(), 4.0)
    np.testing.assert_allclose(log_nb(x, torch.tensor(4.0), torch.tensor(1e6)), expected, rtol=1e-4)


def test_zinb_without_zero_inflation_is_nb():
    x, mean, theta = torch.tensor([0.0, 3.0, 50.0]), torch.tensor(4.0), torch.tensor(2.0)
    expected = scipy.stats.nbinom.logpmf(x, 2, 2 / (2 + 4))
    np.testing.assert_allclose(log_zinb(x, mean, theta, logit=torch.tensor(-40.0)), expected, rtol=1e-5)


@pytest.mark.parametrize("mean", [0.1, 2.0, 20.0])
@pytest.mark.parametrize("theta", [0.3, 5.0, 100.0])
@pytest.mark.parametrize("logit", [-3.0, 0.0, 3.0])
def test_zinb_sums_to_one(mean, theta, logit):
    x = torch.arange(2001, dtype=torch.float64)
    log_p = log_zinb(x, *(torch.tensor(v, dtype=torch.float64) for v in (mean, theta, logit)))
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-9)


def test_leaving_out_the_inflation_of_non_zeros_would_not_sum_to_one():
    x = torch.arange(2001, dtype=torch.float64)
    mean, theta, logit = (torch.tensor(v, dtype=torch.float64) for v in (2.0, 5.0, 0.0))
    broken = torch.where(x > 0, log_nb(x, mean, theta), log_zinb(x, mean, theta, logit))
    assert abs(broken.exp().sum().item() - 1) > 0.1


@pytest.mark.parametrize("per_gene", [True, False])
@pytest.mark.parametrize("inflated", [True, False])
def test_losses_are_the_mean_of_the_elementwise_functions(inflated, per_gene):
    x, a, b, logit, size = outputs()
    b = b[0] if per_gene else b
    logit = logit if inflated else None
    free = [v.requires_grad_() for v in (a, b, logit) if v is not None]
    found = zinb_loss(x, a, b, logit, size) if inflated else nb_loss(x, a, b, size)
    expected = by_hand(x, a, b, logit, size)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    for got, want in zip(torch.autograd.grad(found, free), torch.autograd.grad(expected, free), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("per_gene", [True, False])
def test_gradients_agree_with_finite_differences(per_gene):
    x, a, b, logit, size = outputs()
    b = b[0] if per_gene else b
    free = tuple(v.detach().requires_grad_() for v in (a, b, logit))
    assert torch.autograd.gradcheck(lambda a, b, r: zinb_loss(x, a, b, r, size), free)
    assert torch.autograd.gradcheck(lambda a, b: nb_loss(x, a, b, size), free[:2])


def test_blocks_do_not_change_the_loss(monkeypatch):
    import sys

    x, a, b, logit, size = outputs(n_obs=9)
    b = b[0].requires_grad_()
    whole = zinb_loss(x, a, b, logit, size)
    slope = torch.autograd.grad(whole, b)[0]
    monkeypatch.setattr(sys.modules["scdance.nn._counts"], "_BLOCK", 8)
    parts = zinb_loss(x, a, b, logit, size)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts, b)[0], slope)


def test_loss_in_float32_agrees_with_float64():
    doubles = outputs(40, 50)
    singles = [v.float() for v in doubles]
    assert zinb_loss(*singles).item() == pytest.approx(zinb_loss(*doubles).item(), rel=1e-6)


def test_loss_and_gradients_are_finite_at_the_extremes():
    x, a, b, logit = zip(
        *itertools.product(
            [0.0, 1.0, 1e5], [-100.0, 0.0, 13.8, 100.0], [-100.0, -9.2, 0.0, 1e4, 1e6], [-100.0, 0.0, 100.0]
        ),
        strict=True,
    )
    free = [torch.tensor([v], requires_grad=True) for v in (a, b, logit)]
    loss = zinb_loss(torch.tensor([x]), *free)
    assert all(v.isfinite().all() for v in (loss, *torch.autograd.grad(loss, free)))


def test_outputs_beyond_the_bounds_get_no_gradient():
    a = torch.tensor([[-20.0, 0.0, 20.0]], requires_grad=True)
    b = torch.tensor([[-20.0, 0.0, 2e4]], requires_grad=True)
    slopes = torch.autograd.grad(nb_loss(torch.tensor([[3.0, 3.0, 3.0]]), a, b), [a, b])
    for slope in slopes:
        assert (slope != 0).tolist() == [[False, True, False]]


def test_backward_twice_gives_the_same_gradient():
    x, a, b, logit, size = outputs()
    a.requires_grad_()
    loss = zinb_loss(x, a, b, logit, size)
    first = torch.autograd.grad(loss, a, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(loss, a)[0], first)


def test_ridge_adds_the_squared_inflation():
    x, a, b, logit, size = outputs()
    extra = zinb_loss(x, a, b, logit, size, ridge=0.5) - zinb_loss(x, a, b, logit, size)
    assert extra.item() == pytest.approx(0.5 * logit.sigmoid().square().mean().item())


def test_loss_leaves_its_inputs_as_they_are():
    before = outputs()
    after = [v.clone() for v in before]
    zinb_loss(after[0], *(v.requires_grad_() for v in after[1:4]), after[4]).backward()
    for got, want in zip(after, before, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("dispersion", ["entry", "gene"])
@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
def test_head_loss_is_the_likelihood_of_what_it_predicts(likelihood, dispersion):
    x, *_, size = outputs(6, 7, dtype=torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = CountHead(3, 7, likelihood=likelihood, dispersion=dispersion)
        h = torch.randn(6, 3)
    mean, theta, logit = head(h, size)
    log_p = log_nb(x, mean, theta) if logit is None else log_zinb(x, mean, theta, logit)
    assert (logit is None) == (likelihood == "nb")
    torch.testing.assert_close(head.loss(h, x, size), -log_p.mean())
    torch.testing.assert_close(mean, head(h).mean * size[:, None])


def test_head_learns_the_parameters_that_made_the_counts():
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.negative_binomial(2, 2 / (2 + 5), size=(4000, 1)), dtype=torch.float32)
    a, b = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    steps = torch.optim.LBFGS([a, b], max_iter=50)

    def closure():
        steps.zero_grad()
        loss = nb_loss(x, a.expand(4000, 1), b)
        loss.backward()
        return loss

    steps.step(closure)
    assert a.exp().item() == pytest.approx(5, rel=0.05)
    assert functional.softplus(b).item() == pytest.approx(2, rel=0.1)
