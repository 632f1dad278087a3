"""STAGATE beyond the common checks of every method."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.special import expit
from sklearn.metrics import adjusted_rand_score

import scdance as sd
from scdance._core.read import read
from scdance._core.run import make, solve
from scdance.graph import self_loops, spatial
from scdance.train import Expression

stagate = importlib.import_module("scdance.methods.spatial_domain.stagate")
SMALL = {"hidden": 64, "n_components": 20, "epochs": 60}
TINY = {"hidden": 8, "n_latent": 3, "n_components": 5, "epochs": 5, "n_clusters": 2, "n_init": 2}


def domain_score(adata, key="stagate"):
    return adjusted_rand_score(adata.obs["domain"], adata.obs[key])


def cells_of(adata, model):
    return read(adata, model, coords=adata.obsm["spatial"])


def fitted(adata, **knobs):
    model = make("spatial_domain", "stagate", {**TINY, **knobs})
    return model, solve(model, cells=cells_of(adata, model), progress=False)[0]


def ring(n=12):
    """Each of `n` points, the one before it, the one after it and itself."""
    a = sp.eye(n, k=1) + sp.eye(n, k=-1) + sp.eye(n) + sp.csr_matrix(([1, 1], ([0, n - 1], [n - 1, 0])), shape=(n, n))
    return a.tocsr()


def example(n=12, d=6, a=None, alpha=0.0, dtype=torch.float64):
    """Untrained net, points and graph, all random."""
    generator = torch.Generator().manual_seed(0)
    net = stagate._Net(d, 5, 3, alpha).to(dtype)
    for weight in net.parameters():
        weight.data = torch.randn(weight.shape, generator=generator, dtype=dtype) / 2
    x = torch.randn(n, d, generator=generator, dtype=dtype)
    return net, x, [stagate.Graph(ring(n) if a is None else a)]


def elu(x):
    return np.where(x > 0, x, np.expm1(x))


def by_hand(net, x, a):
    """Codes and restored expression by the equations, with dense arrays; a graph of ones with its diagonal."""
    w1, w2 = net.first.detach().numpy(), net.second.detach().numpy()
    own, others = x @ w1 @ net.attention.detach().numpy()[0].T[:, :, None]
    weights = np.exp(expit(own + others.T)) * (a.toarray() > 0)
    weights /= weights.sum(axis=1, keepdims=True)
    z = elu(weights @ (x @ w1)) @ w2
    return z, elu(weights @ (z @ w2.T)) @ w1.T, weights


def pattern(graph):
    """The edges of a graph as ones, scipy CSR."""
    return sp.csr_matrix(graph.matrix(torch.ones(len(graph.rows))).to_dense().numpy())


# --- the network ----------------------------------------------------------------------------------


def test_attention_sums_to_one_over_the_neighbours_of_a_point_and_is_0_elsewhere():
    net, x, graphs = example()
    dense = graphs[0].matrix(net.attend(x, graphs)[0]).to_dense().detach().numpy()
    np.testing.assert_allclose(dense.sum(axis=1), 1)
    assert ((dense > 0) == (ring().toarray() > 0)).all()
    np.testing.assert_allclose(dense, by_hand(net, x.numpy(), ring())[2])


def test_codes_and_error_follow_the_equations():
    net, x, graphs = example()
    z, restored, _ = by_hand(net, x.numpy(), ring())
    np.testing.assert_allclose(net.encode(x, graphs)[0].detach(), z)
    assert net.loss(x, graphs, 0.0).item() == pytest.approx(((x.numpy() - restored) ** 2).mean())


def test_a_point_without_neighbours_looks_at_itself_alone():
    net, x, graphs = example(a=sp.csr_matrix(np.diag([1.0] * 12)))
    w1, w2 = net.first.detach().numpy(), net.second.detach().numpy()
    np.testing.assert_allclose(net.encode(x, graphs)[0].detach(), elu(x.numpy() @ w1) @ w2)


def test_the_code_of_constant_expression_is_constant():
    net, x, graphs = example()
    z = net.encode(x[:1].repeat(12, 1), graphs)[0].detach().numpy()
    np.testing.assert_allclose(z, z[:1].repeat(12, axis=0))


def test_permuting_the_points_permutes_the_codes():
    net, x, graphs = example(a=(ring() + sp.csr_matrix(([1], ([3], [8])), shape=(12, 12))).tocsr())
    order = np.random.default_rng(0).permutation(12)
    permuted = [stagate.Graph(pattern(graphs[0])[order][:, order])]
    np.testing.assert_allclose(net.encode(x[order], permuted)[0].detach(), net.encode(x, graphs)[0].detach()[order])


def test_what_is_restored_depends_on_two_steps_along_the_graph_only():
    n, tile = 40, np.arange(10, 20)
    halo = np.arange(8, 22)
    net, x, whole = example(n=n)
    part = [stagate.Graph(ring(n)[halo][:, halo])]

    def restored(x, graphs):
        z, weights, _ = net.encode(x, graphs)
        return torch.nn.functional.elu(net.mean(z, graphs, weights) @ net.second.T) @ net.first.T

    np.testing.assert_allclose(
        restored(x[halo], part).detach()[tile - halo[0]], restored(x, whole).detach()[tile], atol=1e-12
    )


def test_the_error_needs_neither_matrix():
    rng = np.random.default_rng(0)
    x, h, w = (torch.from_numpy(rng.normal(size=size)) for size in ((30, 9), (30, 4), (9, 4)))
    h.requires_grad_()
    w.requires_grad_()
    short, long = stagate.squared_error(float((x**2).sum()), x @ w, h, w), ((x - h @ w.T) ** 2).sum()
    assert short.item() == pytest.approx(long.item())
    for one, other in zip(torch.autograd.grad(short, (h, w)), torch.autograd.grad(long, (h, w)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


def test_sparse_expression_gives_the_codes_the_error_and_the_gradients_of_dense_one():
    adata = sd.datasets.toy_domains(n_obs=60, n_vars=30)
    cells = cells_of(adata, make("spatial_domain", "stagate", {}))
    sparse, dense = Expression(cells), torch.from_numpy(cells.dense(np.arange(60)))
    graphs = [stagate.Graph(self_loops(stagate.neighbors(cells.coords, None, None)))]
    net = example(d=30, dtype=torch.float32)[0]
    np.testing.assert_allclose(net.encode(sparse, graphs)[0].detach(), net.encode(dense, graphs)[0].detach(), atol=1e-4)
    losses = net.loss(sparse, graphs, stagate._squares(sparse)), net.loss(dense, graphs, 0.0)
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
    for one, other in zip(*(torch.autograd.grad(loss, list(net.parameters())) for loss in losses), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_gradients_are_right(alpha):
    net, x, graphs = example(n=8, alpha=alpha)
    graphs = graphs if not alpha else [*graphs, stagate.Graph(stagate.within(ring(8), np.arange(8) // 4))]

    def loss(*weights):
        names = [name for name, _ in net.named_parameters()]
        return torch.func.functional_call(net, dict(zip(names, weights, strict=True)), (x, graphs))

    net.forward = lambda x, graphs: net.loss(x, graphs, 0.0)
    weights = [weight.detach().clone().requires_grad_() for weight in net.parameters()]
    assert torch.autograd.gradcheck(loss, weights)


def test_types_change_the_weights_by_their_share():
    net, x, graphs = example(alpha=0.3)
    types = np.arange(12) // 6
    both = [*graphs, stagate.Graph(stagate.within(ring(), types))]
    weights = net.attend(x, both)
    dense = [graph.matrix(each).to_dense().detach().numpy() for graph, each in zip(both, weights, strict=True)]
    assert dense[1][5, 6] == 0
    assert dense[0][5, 6] > 0
    np.testing.assert_allclose(dense[1].sum(axis=1), 1)
    np.testing.assert_allclose(
        net.mean(x, both, weights).detach(), (0.7 * dense[0] + 0.3 * dense[1]) @ x.numpy(), atol=1e-12
    )


# --- the graph of neighbours ----------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 137])
def test_on_a_lattice_neighbours_are_the_spots_around(scale):
    columns, rows = (each.ravel().astype(float) for each in np.meshgrid(np.arange(9), np.arange(9)))
    square = scale * np.column_stack([columns, rows])
    hexagonal = scale * np.column_stack([columns + (rows % 2) / 2, rows * np.sqrt(0.75)])
    middle = 4 * 9 + 4
    assert np.diff(stagate.neighbors(square, None, None).indptr)[middle] == 4
    assert np.diff(stagate.neighbors(hexagonal, None, None).indptr)[middle] == 6


def test_elsewhere_they_are_the_nearest_ones_in_either_direction():
    coords = np.random.default_rng(0).random((100, 2))
    a, nearest = stagate.neighbors(coords, None, None), spatial(coords, n_neighbors=6)
    assert (abs(a - a.T)).nnz == 0
    assert ((a > 0) != ((nearest + nearest.T) > 0)).nnz == 0


def test_crowded_spots_are_reported():
    with pytest.warns(UserWarning, match="30 neighbours on average"):
        stagate.neighbors(np.random.default_rng(0).random((31, 2)), 40, None)


def test_slices_share_no_neighbours_but_sections_in_space_do():
    flat = np.column_stack([each.ravel() for each in np.meshgrid(np.arange(6.0), np.arange(6.0))])
    slices = np.repeat([0, 1], 36)
    apart = stagate.neighbors(np.vstack([flat, flat]), None, slices).toarray()
    assert not apart[:36, 36:].any()
    np.testing.assert_array_equal(apart[:36, :36], apart[36:, 36:])
    stacked = np.vstack([np.column_stack([flat, np.full(36, z)]) for z in (0.0, 1.0)])
    np.testing.assert_array_equal(stagate.neighbors(stacked, None, None).toarray()[:36, 36:], np.eye(36))


# --- training -------------------------------------------------------------------------------------


def test_planted_layers_are_found_and_better_so_than_without_places():
    adata = sd.datasets.toy_domains()
    sd.tl.spatial_domain(adata, method="stagate", n_clusters=4, progress=False, **SMALL)
    sd.tl.spatial_domain(adata, method="leiden", n_clusters=4, progress=False)
    assert domain_score(adata) >= 0.85
    assert domain_score(adata) > domain_score(adata, "leiden") + 0.1


def test_layers_are_found_on_two_slices_with_types_and_without_components():
    adata = sd.datasets.toy_domains(slices=2, lfc=1.5)
    knobs = SMALL | {"n_components": None, "prune": 0.2, "alpha": 0.5, "library_key": "slice"}
    sd.tl.spatial_domain(adata, method="stagate", n_clusters=4, progress=False, **knobs)
    assert domain_score(adata) >= 0.85


def test_encoder_and_decoder_are_one_parameter_that_training_moves():
    adata = sd.datasets.toy_domains(n_obs=80, n_vars=30)
    model, _ = fitted(adata, epochs=10)
    untrained, _ = fitted(adata, epochs=0)
    assert [*dict(model.net_.named_parameters())] == ["first", "second", "attention"]
    for name, weight in model.net_.named_parameters():
        assert not torch.equal(weight, untrained.net_.get_parameter(name))
    cells = cells_of(adata, model)
    x, graphs = model._features(cells), model._graphs(cells)
    restored = by_hand(model.net_, x.numpy(), pattern(graphs[0]))[1]
    assert model.net_.loss(x, graphs, 0.0).item() == pytest.approx(((x.numpy() - restored) ** 2).mean(), rel=1e-4)


def test_the_loss_falls_and_training_ends_when_it_no_longer_does():
    losses = torch.cat([torch.linspace(2, 1, 190), torch.full((60,), 1.0)])
    assert stagate._settled(losses[:195], 1e-4) is None
    assert stagate._settled(losses[:230], 1e-4) is None
    assert "less than 0.0001" in stagate._settled(losses, 1e-4)
    assert stagate._settled(losses, 0.0) is None
    model, _ = fitted(sd.datasets.toy_domains(n_obs=80, n_vars=30), epochs=30)
    assert np.diff(model.history_["training_loss"]).max() < 0


def test_training_ends_early():
    model, _ = fitted(sd.datasets.toy_domains(n_obs=40, n_vars=20), epochs=400, tol=0.5)
    assert model.epochs_ == stagate.FIRST
    assert "the loss fell by less" in model.stopped_


@pytest.mark.parametrize(
    ("knobs", "words"), [({"alpha": 1.5}, "alpha=1.5"), ({"hidden": 0}, "hidden=0"), ({"n_latent": 0}, "n_latent=0")]
)
def test_wrong_knobs_are_named(knobs, words):
    with pytest.raises(ValueError, match=words):
        make("spatial_domain", "stagate", knobs).check()
