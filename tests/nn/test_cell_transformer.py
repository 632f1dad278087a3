"""The network over cells: what its states hang on, and its likelihood against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import nbinom

from scdance.nn import CellEncoder, CellTransformer, MixtureLatent, Shape
from scdance.nn._cell_transformer import Covariate
from scdance.nn._mixture import Place

SMALL = Shape(n_vars=30, hidden=16, n_layers=2, heads=4, n_latent=5, n_components=3, decoder_hidden=16, head_hidden=8)


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def encoder() -> CellEncoder:
    made = CellEncoder(SMALL).eval()
    with torch.no_grad():
        made.genes.normal_()
        made.origin.uniform_()
    return made


def net(**sizes) -> CellTransformer:
    made = CellTransformer(Shape(**{**vars(SMALL), **sizes})).eval()
    with torch.no_grad():
        made.encoder.genes.normal_()
    return made


def counts(n: int = 12) -> torch.Tensor:
    return torch.poisson(torch.rand(n, 30) * 4)


@torch.no_grad()
def test_permuted_cells_have_permuted_states(encoder):
    x, order = torch.rand(12, 30), torch.randperm(12)
    torch.testing.assert_close(encoder(x[order]), encoder(x)[order])


@torch.no_grad()
def test_a_cell_hears_the_others(encoder):
    x = torch.rand(12, 30)
    assert (encoder(x)[:1] - encoder(x[:1])).abs().max() > 1e-3


@torch.no_grad()
def test_the_order_of_genes_does_not_matter_and_absent_ones_are_left_out(encoder):
    x, order = torch.rand(12, 30), torch.randperm(30)
    torch.testing.assert_close(encoder(x[:, order], None, order), encoder(x))
    there = torch.arange(20)
    at_origin = torch.cat([x[:, :20], encoder.origin[20:].expand(12, 10)], dim=1)
    torch.testing.assert_close(encoder(x[:, :20], None, there), encoder(at_origin))


@torch.no_grad()
def test_states_hang_on_places_where_these_are_told(encoder):
    x, places = torch.rand(12, 30), torch.rand(12, 2)
    assert not torch.allclose(encoder(x, places), encoder(x, 1 - places))
    blind = CellEncoder(Shape(**{**vars(SMALL), "has_places": False})).eval()
    assert torch.equal(blind(x, places), blind(x))


@torch.no_grad()
def test_the_mean_cell_is_at_0_before_training():
    made, x = net(), torch.rand(200, 30)
    made.start_at(x.mean(dim=0), torch.full((30,), 1 / 30), torch.ones(30))
    encoder = made.encoder
    token = x @ encoder.genes - encoder.origin @ encoder.genes
    assert token.mean(dim=0).abs().max() < 1e-4
    assert isinstance(made.latent, MixtureLatent)
    z = torch.zeros(4, 5)
    shares = made.shares(torch.zeros(len(z), 8)).exp()
    torch.testing.assert_close(shares, torch.full((4, 30), 1 / 30))


@torch.no_grad()
def test_counts_of_a_cell_add_up_and_have_the_likelihood_of_scipy():
    made, x = net(), counts()
    inner = torch.rand(12, 8)
    mean = (made.shares(inner).exp() * x.sum(dim=1, keepdim=True)).numpy()
    theta = torch.nn.functional.softplus(made.head.gene_dispersion).numpy()
    expected = -nbinom.logpmf(x.numpy(), theta, theta / (theta + mean)).sum() / 12
    assert float(made.count_loss(inner, x)) == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(mean.sum(axis=1), x.sum(dim=1), rtol=1e-5)


@torch.no_grad()
def test_hidden_counts_have_the_likelihood_of_scipy_brought_to_their_own_sum():
    made, x = net(), counts()
    inner, hidden = torch.rand(12, 8), torch.rand(12, 30) < 0.3
    hidden[0] = False
    shares, total = made.shares(inner).exp().numpy(), 0.0
    theta = torch.nn.functional.softplus(made.head.gene_dispersion).numpy()
    for i in range(1, 12):
        at = hidden[i].numpy()
        mean = shares[i, at] / shares[i, at].sum() * x[i].numpy()[at].sum()
        total -= nbinom.logpmf(x[i].numpy()[at], theta[at], theta[at] / (theta[at] + mean)).sum()
    assert float(made.count_loss(inner, x, hidden)) == pytest.approx(total / 11, rel=1e-4)


def test_what_is_not_hidden_and_genes_that_were_not_measured_have_no_gradient():
    made, x = net(), counts()
    inner, hidden = torch.rand(12, 8), torch.zeros(12, 20, dtype=torch.bool)
    hidden[:, 3:6] = True
    made.count_loss(inner, x[:, :20], hidden, torch.arange(20)).backward()
    moved = made.head.mean.bias.grad != 0
    assert moved.nonzero().ravel().tolist() == [3, 4, 5]


def test_cells_without_hidden_counts_have_no_part():
    made, x = net(), counts()
    x[:, :3] = 0
    hidden = torch.zeros(12, 30, dtype=torch.bool)
    hidden[:, :3] = True
    loss = made.count_loss(torch.rand(12, 8), x, hidden)
    assert float(loss.detach()) == 0
    loss.backward()


def test_another_sample_changes_the_decoder_only_and_an_unknown_one_is_of_all():
    made = net(covariates=(3,)).eval()
    z = torch.randn(6, 5)
    a, b = (made.decode(z, (torch.full((6,), i),)) for i in (0, 1))
    assert not torch.allclose(a, b)
    covariate = Covariate(3, 16)
    together = covariate.norm(covariate.activation(covariate.table.weight.sum(dim=0, keepdim=True)))
    torch.testing.assert_close(covariate(torch.tensor([-1])), together)
    torch.testing.assert_close(made.decode(z), made.decode(z, (torch.full((6,), -1),)))


def test_free_bits_have_no_gradient():
    made = net()
    costs = tuple(torch.tensor(value, requires_grad=True) for value in (0.2, 3.0))
    made.latent_loss(Place(torch.zeros(1), costs), 0.5).backward()
    assert [float(cost.grad) for cost in costs] == [0, 1]


@torch.no_grad()
def test_flows_are_those_by_which_each_layer_hears(encoder):
    x, places = torch.rand(12, 30), torch.rand(12, 2)
    heard: list[torch.Tensor] = []
    for block in encoder.blocks:
        block.attention.out = torch.nn.Identity()
        block.attention.register_forward_hook(lambda layer, given, out: heard.append(layer.value(given[0])))
        block.attention.register_forward_hook(lambda layer, given, out: heard.append(out))
    encoder(x, places)
    everyone = torch.cartesian_prod(torch.arange(12), torch.arange(12)).T
    for i, flow in enumerate(encoder.flows(x, places)):
        values, out = (each.view(12, 4, 4).transpose(0, 1) for each in heard[2 * i : 2 * i + 2])
        torch.testing.assert_close(flow.weights(*everyone).view(4, 12, 12) @ values, out, atol=1e-5, rtol=1e-4)
