"""Positional encodings of nodes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from scdance import graph
from scdance._checks import InputError
from scdance.graph import _positions


def weighted(n, density, seed=0):
    a = sp.random(n, n, density=density, random_state=seed, format="csr", dtype=np.float32)
    return graph.symmetric(sp.triu(a, k=1))


def cycle(n):
    eye = sp.eye_array(n, format="csr", dtype=np.float32)
    return graph.symmetric(eye[np.roll(np.arange(n), 1)])


@pytest.mark.parametrize("n", [60, 400])  # all eigenvectors at once, and by iteration
def test_columns_are_eigenvectors_of_the_smallest_eigenvalues_above_0(n):
    a = weighted(n, 0.1)
    assert connected_components(a)[0] == 1
    found = graph.laplacian_positions(a, 6).astype(float)
    degrees = a.toarray().sum(axis=1).astype(float)
    laplacian = np.eye(n) - a.toarray() / np.sqrt(np.outer(degrees, degrees))
    values = np.linalg.eigvalsh(laplacian)[1:7]
    np.testing.assert_allclose(laplacian @ found, found * values, atol=1e-5)
    np.testing.assert_allclose(found.T @ found, np.eye(6), atol=1e-5)
    assert (found[np.abs(found).argmax(axis=0), np.arange(6)] > 0).all()


def test_each_component_lacks_its_own_trivial_vector_and_isolated_nodes_are_0():
    parts = [weighted(30, 0.3, 1), sp.csr_matrix((1, 1)), cycle(4), weighted(25, 0.4, 2), sp.csr_matrix((1, 1))]
    a = sp.block_diag(parts, format="csr")
    found = graph.laplacian_positions(a, 5)
    start = 0
    for part in parts:
        rows = slice(start, start + part.shape[0])
        start = rows.stop
        if part.nnz == 0:
            np.testing.assert_array_equal(found[rows], 0)
            continue
        np.testing.assert_allclose(found[rows], graph.laplacian_positions(part, 5), atol=1e-5)
        trivial = np.sqrt(np.asarray(part.sum(axis=1)).ravel())
        np.testing.assert_allclose(trivial @ found[rows], 0, atol=1e-5)
    np.testing.assert_array_equal(found[31:35, 3:], 0)  # four nodes have three such vectors


def test_the_encoding_is_that_of_pytorch_geometric():
    transforms = pytest.importorskip("torch_geometric.transforms")
    a = weighted(150, 0.1)
    data = graph.to_pyg(a)
    start = np.random.default_rng(0).standard_normal(150)
    expected = transforms.AddLaplacianEigenvectorPE(4, is_undirected=True, v0=start)(data).laplacian_eigenvector_pe
    np.testing.assert_allclose(np.abs(graph.laplacian_positions(a, 4)), np.abs(expected.numpy()), atol=1e-4)


def test_the_order_of_the_nodes_changes_nothing_but_the_order():
    a, order = weighted(300, 0.05), np.random.default_rng(0).permutation(300)
    moved = a[order][:, order]
    np.testing.assert_allclose(graph.laplacian_positions(moved, 4), graph.laplacian_positions(a, 4)[order], atol=1e-4)
    np.testing.assert_allclose(graph.walk_positions(moved, 4), graph.walk_positions(a, 4)[order], atol=1e-6)


def test_a_walk_on_a_triangle_is_back_after_two_steps_in_half_of_the_cases():
    np.testing.assert_allclose(graph.walk_positions(cycle(3), 4), np.tile([0, 1 / 2, 1 / 4, 3 / 8], (3, 1)), atol=1e-7)


@pytest.mark.parametrize("k", [1, 4, 5])
def test_walks_are_the_diagonals_of_powers(monkeypatch, k):
    monkeypatch.setattr(_positions, "COLUMNS", 7)
    a = sp.block_diag([weighted(25, 0.2), sp.csr_matrix((1, 1))], format="csr")
    degrees = np.asarray(a.sum(axis=1)).ravel()
    step = a.toarray() / np.where(degrees > 0, degrees, 1)[:, None]
    powers = np.array([np.diag(np.linalg.matrix_power(step.astype(float), t + 1)) for t in range(k)]).T
    np.testing.assert_allclose(graph.walk_positions(a, k), powers, atol=1e-6)


def test_walks_in_large_graphs_are_estimated_within_the_stated_error(monkeypatch):
    a = weighted(600, 0.02)
    exact = graph.walk_positions(a, 8).astype(float)
    monkeypatch.setattr(_positions, "EXACT", 10)
    found = graph.walk_positions(a, 4)
    error = np.sqrt(((found - exact[:, :4]) ** 2).mean(axis=0))
    assert (error > 0)[1:].all()
    assert (error <= 1.1 * np.sqrt(exact[:, 1:8:2].mean(axis=0)) / 16).all()
    np.testing.assert_array_equal(found, graph.walk_positions(a, 4))


@pytest.mark.parametrize("encode", [graph.laplacian_positions, graph.walk_positions])
def test_graphs_without_places_are_refused(encode):
    with pytest.raises(InputError, match="negative"):
        encode(-cycle(4))
    with pytest.raises(InputError, match="symmetric"):
        encode(sp.csr_matrix(np.array([[0.0, 1.0], [0.0, 0.0]])))
    assert encode(sp.csr_matrix((3, 3)), 2).tolist() == [[0, 0]] * 3
