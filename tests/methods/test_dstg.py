"""Deconvolution by a graph of spots and mixtures: directions, edges, the convolution, and what spots get."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch

import scdance as sd
from scdance._checks import InputError
from scdance.graph import Sparse, normalize, spmm
from scdance.methods.deconvolve.dstg import GCN, Standardised, directions, leading_genes, link, mutual, refined
from scdance.pp import canonical, draw_mixtures, mix_cells

SMALL = {"n_mixtures": 300, "epochs": 60, "n_components": 10, "lr": 0.03}


@pytest.fixture(scope="module")
def toys() -> tuple[ad.AnnData, ad.AnnData]:
    return sd.datasets.toy_mixtures(random_state=0)


@pytest.fixture
def spots(toys: Any) -> ad.AnnData:
    return toys[0].copy()


@pytest.fixture
def ref(toys: Any) -> ad.AnnData:
    return toys[1].copy()


def logs(n: int, seed: int, g: int = 40) -> sp.csr_matrix:
    rng = np.random.default_rng(seed)
    return canonical(np.log1p(rng.poisson(rng.gamma(0.4, 3, (3, g))[rng.integers(3, size=n)])))


def standardised(x: np.ndarray) -> np.ndarray:
    """Genes, then rows, with mean 0 and variance 1, by hand."""
    sd_ = x.std(axis=0, ddof=1)
    z = np.clip((x - x.mean(axis=0)) / np.where(sd_ > 0, sd_, 1), -10, 10)
    return (z - z.mean(axis=1, keepdims=True)) / z.std(axis=1, keepdims=True)


def test_products_with_standardised_rows_are_those_of_the_dense_matrix():
    x, rng = logs(300, 0), np.random.default_rng(1)
    x = x.tolil()
    x[0, 5] = 90.0  # so far out that it is clipped
    x = x.tocsr()
    z, dense = Standardised(x), standardised(x.toarray().astype(float))
    v, u = rng.normal(size=(40, 3)), rng.normal(size=(300, 3))
    np.testing.assert_allclose(z.of(v), dense @ v, atol=1e-5)
    np.testing.assert_allclose(z.back(u), dense.T @ u, atol=1e-4)
    np.testing.assert_allclose(z.of(v[:, 0]), dense @ v[:, 0], atol=1e-5)


def test_directions_are_those_of_the_dense_product_up_to_sign():
    one, other = logs(60, 0), logs(90, 1)
    dense = standardised(one.toarray()) @ standardised(other.toarray()).T
    u, s, vt = np.linalg.svd(dense)
    found_u, found_v = directions(Standardised(one), Standardised(other), 4, np.random.default_rng(0))
    np.testing.assert_allclose(np.abs(np.sum(found_u * u[:, :4], axis=0)), 1, atol=1e-4)
    np.testing.assert_allclose(np.abs(np.sum(found_v * vt[:4].T, axis=0)), 1, atol=1e-4)
    assert (found_u[0] >= 0).all()
    np.testing.assert_allclose(np.sum(found_u * (dense @ found_v), axis=0), s[:4], rtol=1e-4)


def test_pairs_are_among_the_nearest_of_each_other():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(30, 4)), rng.normal(size=(50, 4))
    distance = np.linalg.norm(one[:, None] - other, axis=2)
    rank_other, rank_one = (np.argsort(np.argsort(distance, axis=axis), axis=axis) for axis in (1, 0))
    i, j = mutual(one, other, 3)
    assert set(zip(i, j, strict=True)) == set(zip(*np.nonzero((rank_other < 3) & (rank_one < 3)), strict=True))
    j2, i2 = mutual(other, one, 3)
    assert set(zip(i2, j2, strict=True)) == set(zip(i, j, strict=True))


def test_a_pair_stays_if_it_is_near_in_the_leading_genes_too():
    rng = np.random.default_rng(0)
    one, other = rng.random((70, 5)), rng.random((40, 5))
    one, other = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (one, other))
    i, j = (each.ravel() for each in np.indices((70, 40)))
    kept = refined(i, j, sp.csr_matrix(one), sp.csr_matrix(other), 6)
    near = np.argsort(np.linalg.norm(one[:, None] - other, axis=2), axis=1)[:, :6]
    assert set(zip(*kept, strict=True)) == {(a, b) for a in range(70) for b in near[a]}


def test_leading_genes_stay_below_their_number():
    loadings = np.random.default_rng(0).normal(size=(500, 6))
    found = leading_genes(loadings, 50)
    assert 38 < len(found) < 50
    assert set(loadings.argmax(axis=0)) | set(loadings.argmin(axis=0)) <= set(found)


@pytest.mark.parametrize("between_spots", [False, True])
def test_the_graph_is_undirected_and_between_what_it_should(between_spots: bool):
    rng = np.random.default_rng(0)
    counts = [sp.csr_matrix(rng.poisson(2, (n, 40)).astype(np.float32)) for n in (50, 80)]
    edges, joined = link(*counts, 8, 5, 200, np.random.default_rng(0), between_spots=between_spots)
    assert (edges != edges.T).nnz == 0
    assert set(edges.data) == {1.0}
    assert edges[:50, :50].nnz == 0
    assert edges.diagonal().sum() == 0
    assert (edges[50:, 50:].nnz > 0) == between_spots
    np.testing.assert_array_equal(joined, np.diff(edges[50:, :50].indptr) > 0)


def test_the_loss_of_shares_has_the_gradient_of_the_formula():
    rng = np.random.default_rng(0)
    a = normalize(canonical(rng.random((6, 6)) < 0.5) + 2 * sp.eye_array(6, format="csr"))
    logits = torch.tensor(rng.normal(size=(6, 3)), dtype=torch.float32, requires_grad=True)
    truth = torch.tensor(rng.dirichlet(np.ones(3), 6), dtype=torch.float32)
    into = Sparse(a)
    torch.nn.functional.cross_entropy(spmm(into, logits), truth).backward()
    z = a @ logits.detach().numpy()
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(logits.grad, a.T @ (p - truth.numpy()) / 6, atol=1e-6)


def test_features_that_were_propagated_once_give_the_same_as_the_graph_in_each_layer():
    rng = np.random.default_rng(0)
    a = normalize(canonical(rng.random((8, 8)) < 0.4) + 2 * sp.eye_array(8, format="csr")).toarray()
    x, net = rng.random((8, 5)).astype(np.float32), GCN(5, 4, 3)
    w0, w1 = (each.weight.detach().numpy().T for each in (net.first, net.second))
    expected = a @ np.maximum(a @ (x @ w0), 0) @ w1
    found = a @ net(torch.from_numpy(a.astype(np.float32) @ x)).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_without_edges_it_is_a_net_on_each_spot_alone(spots: ad.AnnData, ref: ad.AnnData, monkeypatch: Any):
    def no_edges(mixed: Any, spots: Any, *_: Any, **__: Any) -> Any:
        n = mixed.shape[0] + spots.shape[0]
        return sp.csr_matrix((n, n), dtype=np.float32), np.zeros(spots.shape[0], dtype=bool)

    monkeypatch.setattr("scdance.methods.deconvolve.dstg.link", no_edges)
    sd.tl.deconvolve(spots, ref, method="dstg", labels_key="cell_type", **SMALL)
    half = spots[:40].copy()
    del half.obsm["dstg"], half.obs["dstg_top"]
    half.uns.clear()
    sd.tl.deconvolve(half, ref, method="dstg", labels_key="cell_type", **SMALL)
    np.testing.assert_allclose(half.obsm["dstg"], spots.obsm["dstg"][:40], atol=1e-5)


def test_it_is_nearer_to_the_truth_than_the_mean_composition(spots: ad.AnnData, ref: ad.AnnData):
    sd.tl.deconvolve(spots, ref, method="dstg", labels_key="cell_type", **SMALL)
    truth = spots.obsm["true_prop"].to_numpy()
    found = spots.obsm["dstg"].to_numpy()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert np.mean((found - truth) ** 2) < 0.7 * np.mean((truth.mean(axis=0) - truth) ** 2)
    assert len(spots.uns["scdance"]["deconvolve"]["dstg"]["history"]["training_valid_loss"])


def test_a_spot_that_is_there_twice_gets_nearly_the_same_shares(ref: ad.AnnData, spots: ad.AnnData):
    twice = ad.concat([spots, spots[:5]], index_unique="-")
    sd.tl.deconvolve(twice, ref, method="dstg", labels_key="cell_type", **SMALL)
    sd.tl.deconvolve(twice, ref, method="dstg", labels_key="cell_type", key_added="other", n_filter=1, **SMALL)
    shares = twice.obsm["dstg"].to_numpy()
    same = np.abs(shares[:5] - shares[-5:]).max(axis=1)
    assert same.max() < 0.15  # they stand at the same place, but each place takes a bounded number of edges
    assert np.median(same) < 0.05


def test_a_spot_alone_is_deconvolved(ref: ad.AnnData, spots: ad.AnnData):
    alone = spots[:1].copy()
    sd.tl.deconvolve(alone, ref, method="dstg", labels_key="cell_type", **SMALL)
    assert alone.obsm["dstg"].to_numpy().sum() == pytest.approx(1, abs=1e-5)


def test_mixtures_are_sums_of_the_cells_that_were_drawn():
    rng = np.random.default_rng(0)
    cells = canonical(rng.poisson(1, (20, 6)))
    mixture = draw_mixtures(20, 50, (2, 8), rng)
    sizes = np.asarray(mixture.sum(axis=1)).ravel()
    assert set(sizes) == set(range(2, 9))
    np.testing.assert_array_equal(mix_cells(cells, mixture, rng).toarray(), mixture.toarray() @ cells.toarray())


def test_deep_mixtures_are_thinned():
    rng = np.random.default_rng(0)
    cells, mixture = canonical(np.full((4, 50), 1000)), draw_mixtures(4, 30, (2, 4), rng)
    depth = np.asarray(mix_cells(cells, mixture, rng, max_umi=120_000, target_umi=50_000).sum(axis=1)).ravel()
    thinned = np.asarray(mixture.sum(axis=1)).ravel() > 2
    np.testing.assert_allclose(depth[~thinned], 100_000)
    np.testing.assert_allclose(depth[thinned], 50_000, rtol=0.02)
    fractions = mix_cells(canonical(np.full((4, 50), 1000.5)), mixture, rng, max_umi=120_000, target_umi=50_000)
    np.testing.assert_allclose(fractions.sum(axis=1).A1[thinned], 50_000, rtol=1e-5)


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"n_mixtures": 3}, "n_mixtures=3, but it must be at least 10"),
        ({"n_cells": (5, 2)}, "the fewest and then the most cells"),
        ({"n_neighbors": 0}, "n_neighbors=0, but it must be at least 1"),
    ],
)
def test_wrong_calls_say_what_to_do(spots: ad.AnnData, ref: ad.AnnData, knobs: dict[str, Any], says: str):
    with pytest.raises(InputError, match=says):
        sd.tl.deconvolve(spots, ref, method="dstg", labels_key="cell_type", **knobs)
    assert "dstg" not in spots.obsm
