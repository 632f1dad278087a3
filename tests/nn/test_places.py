"""Positional encodings of cells: their formulas, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scdance.graph import laplacian_positions, spatial, symmetric
from scdance.nn import NeighborPlaces, PatchPlaces, SignNet, bilevel_mask, sinusoid


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_a_sinusoid_is_that_of_its_formula():
    places, d = np.array([[3.0, 70.0], [41.5, 0.0]]), 16
    found = sinusoid(torch.tensor(places), d).numpy()
    for i in range(d // 4):
        wave = 10000 ** (4 * i / d)
        np.testing.assert_allclose(found[:, i], np.sin(places[:, 0] / wave), atol=1e-6)
        np.testing.assert_allclose(found[:, d // 4 + i], np.cos(places[:, 0] / wave), atol=1e-6)
        np.testing.assert_allclose(found[:, d // 2 + i], np.sin(places[:, 1] / wave), atol=1e-6)
        np.testing.assert_allclose(found[:, 3 * d // 4 + i], np.cos(places[:, 1] / wave), atol=1e-6)
    np.testing.assert_allclose((found**2).sum(axis=1), d / 2, rtol=1e-6)


@torch.no_grad()
def test_a_patch_has_one_vector():
    made = PatchPlaces(8)
    found = made(torch.tensor([[0.501, 0.2], [0.509, 0.209], [0.511, 0.2], [1.0, 1.0], [0.991, 0.999]]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert torch.equal(found[3], found[4])


@pytest.fixture
def tissue():
    """Edges among 60 cells, and eigenvectors of their graph."""
    a = symmetric(spatial(np.random.default_rng(0).uniform(0, 8, (60, 2)), n_neighbors=5))
    a.data[:] = 1
    edges = torch.from_numpy(np.stack(a.nonzero()).astype(np.int64))
    return edges, torch.from_numpy(laplacian_positions(a, 6) * np.float32(60**0.5))


@torch.no_grad()
def test_signnet_ignores_the_signs_of_eigenvectors_and_follows_the_order_of_cells(tissue):
    edges, v = tissue
    made = SignNet(6, 16).eval()
    flips = torch.tensor([1.0, -1, -1, 1, -1, 1])
    torch.testing.assert_close(made(v * flips, edges), made(v, edges))
    assert not torch.allclose(made(v.abs(), edges), made(v, edges))
    order = torch.randperm(60)
    place = torch.argsort(order)
    torch.testing.assert_close(made(v[order], place[edges]), made(v, edges)[order], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_signnet_is_a_net_on_the_graph_of_each_eigenvector(tissue):
    edges, v = tissue
    made = SignNet(6, 16).eval()
    for norm in made.norms:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    a = torch.zeros(60, 60)
    a[edges[1], edges[0]] = 1

    def phi(one):
        h = one[:, None]
        for layer, norm in zip(made.layers, made.norms, strict=True):
            h = norm(layer.nn(h + a @ h)).relu()
        return h

    by_hand = made.rho(torch.cat([phi(one) + phi(-one) for one in v.T], dim=1))
    torch.testing.assert_close(made(v, edges), by_hand, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_neighbours_are_heard_by_a_softmax_of_both_states(tissue):
    edges, _ = tissue
    made, h = NeighborPlaces(16, heads=2), torch.randn(60, 16)
    a = torch.eye(60, dtype=torch.bool)
    a[edges[1], edges[0]] = True
    values = made.attention.lin(h).view(60, 2, 8)
    by_source, by_target = ((values * getattr(made.attention, name)).sum(2) for name in ("att_src", "att_dst"))
    scores = torch.nn.functional.leaky_relu(by_target[:, None] + by_source[None], 0.2)
    weights = scores.masked_fill(~a[..., None], -torch.inf).softmax(dim=1)
    expected = torch.einsum("ijh,jhd->ihd", weights, values).flatten(1) + made.attention.bias
    torch.testing.assert_close(made(h, edges), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("cells", "genes"), [(0.5, 0.5), (1.0, 0.3), (0.25, 1.0)])
def test_masks_hide_so_many_cells_and_their_entries(cells, genes):
    hidden = bilevel_mask((200, 400), cells, genes, np.random.default_rng(0))
    chosen = hidden.any(axis=1)
    assert chosen.sum() == int(cells * 200)
    assert hidden[chosen].mean() == pytest.approx(genes, abs=0.01)
    assert hidden.mean() == pytest.approx(cells * genes, abs=0.01)


def test_each_cell_may_have_a_rate_of_its_own():
    rates = np.linspace(0.1, 0.9, 50)
    hidden = bilevel_mask((50, 5000), 1.0, rates, np.random.default_rng(0))
    np.testing.assert_allclose(hidden.mean(axis=1), rates, atol=0.03)


def test_one_cell_at_least_is_masked():
    assert bilevel_mask((1, 10), 0.5, 1.0, np.random.default_rng(0)).all()
