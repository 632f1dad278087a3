"""Latent spaces against closed forms and averages over many draws."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from scdance.nn import MixtureLatent, NormalLatent
from scdance.nn._mixture import choice_cost, log_normal


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_the_divergence_from_drawn_places_is_that_of_the_closed_form():
    mean, variance = torch.randn(1, 4, dtype=torch.double), torch.rand(1, 4, dtype=torch.double) + 0.2
    other, wide = torch.randn(1, 4, dtype=torch.double), torch.rand(1, 4, dtype=torch.double) + 0.5
    z = mean + variance.sqrt() * torch.randn(400_000, 4, dtype=torch.double)
    drawn = (log_normal(z, mean, variance) - log_normal(z, other, wide)).mean()
    exact = kl_divergence(Normal(mean, variance.sqrt()), Normal(other, wide.sqrt())).sum()
    assert float(drawn) == pytest.approx(float(exact), rel=0.01)


def test_the_choice_costs_nothing_where_it_is_even_and_log_k_where_it_is_certain():
    costs = choice_cost(torch.tensor([[0.0] * 16, [60.0] + [0.0] * 15]))
    assert costs.tolist() == pytest.approx([0, math.log(16)], abs=1e-5)


def test_the_likeliest_component_places_a_trained_cell_and_nothing_is_drawn():
    latent, h = MixtureLatent(8, 3, 4).eval(), torch.randn(5, 8)
    first = latent(h)
    assert torch.equal(first.z, latent(h).z)
    best = torch.nn.functional.one_hot(latent.component(h).argmax(dim=1), 4).float()
    torch.testing.assert_close(first.z, latent.place(h, best)[0])
    latent.train()
    assert not torch.equal(latent(h).z, latent(h).z)


def test_the_components_learn_by_their_soft_draw():
    latent = MixtureLatent(8, 3, 4).train()
    latent(torch.randn(20, 8)).z.square().sum().backward()
    assert latent.component.weight.grad.abs().sum() > 0


def test_one_normal_prior_has_one_cost():
    latent = NormalLatent(8, 3).eval()
    with torch.no_grad():
        latent.mean.weight.zero_()
        latent.mean.bias.fill_(2.0)
        latent.log_variance.weight.zero_()
        latent.log_variance.bias.zero_()
    place = latent(torch.randn(5, 8))
    assert [float(cost.detach()) for cost in place.costs] == pytest.approx([3 * 2.0])  # ½ · 2² in each dimension
    assert torch.equal(place.z, torch.full((5, 3), 2.0))
