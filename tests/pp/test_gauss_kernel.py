"""Products with the Gaussian kernel, against the matrix itself."""

from __future__ import annotations

import numpy as np
import pytest

from scdance._checks import InputError, ScdanceError
from scdance.pp import GaussKernel, _gauss_kernel

SIGMA = 0.1


def matrix(coords: np.ndarray, sigma: float = SIGMA) -> np.ndarray:
    """W by its definition."""
    square = ((coords[:, None] - coords[None]) ** 2).sum(axis=-1)
    w = np.exp(-square / (2 * sigma**2))
    np.fill_diagonal(w, 0)
    return w


def scattered(n: int = 400, n_axes: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, n_axes)) * ([1, 0.7, 0.2][:n_axes])


def lattice() -> np.ndarray:
    row, column = np.mgrid[:20, :20]
    hexagonal = np.column_stack([(2 * column + row % 2).ravel(), row.ravel() * np.sqrt(3)]).astype(float)
    return (hexagonal / hexagonal.max())[np.random.default_rng(1).permutation(400)[:350]]


@pytest.mark.parametrize(
    ("coords", "backend"),
    [
        (scattered(), "dense"),
        (scattered(), "grid"),
        (scattered(n_axes=3), "grid"),
        (lattice(), "lattice"),
        (lattice(), "grid"),
        (np.vstack([scattered(50), scattered(50)]), "grid"),
        (np.repeat(lattice()[:60], 2, axis=0), "lattice"),
    ],
    ids=["dense", "grid", "three axes", "lattice", "lattice by grid", "places twice", "nodes twice"],
)
def test_every_backend_is_the_matrix_to_a_millionth(coords: np.ndarray, backend):
    kernel, w = GaussKernel(coords, SIGMA, backend=backend), matrix(coords)
    v = np.random.default_rng(2).normal(size=(len(coords), 3))
    np.testing.assert_allclose(kernel.matmul(v), w @ v, atol=1e-6 * w.sum(axis=1).max())
    np.testing.assert_allclose(kernel.degree, w.sum(axis=1), rtol=1e-6)


def test_a_lattice_is_exact():
    coords = lattice()
    v = np.random.default_rng(0).normal(size=(len(coords), 2))
    np.testing.assert_allclose(GaussKernel(coords, SIGMA, backend="lattice").matmul(v), matrix(coords) @ v, atol=1e-9)


@pytest.mark.parametrize("backend", ["dense", "grid"])
def test_slices_do_not_see_each_other(backend):
    coords, groups = scattered(200), np.random.default_rng(3).integers(2, size=200)
    w = matrix(coords) * (groups[:, None] == groups)
    v = np.random.default_rng(4).normal(size=(200, 2))
    kernel = GaussKernel(coords, SIGMA, groups=groups, backend=backend)
    np.testing.assert_allclose(kernel.matmul(v), w @ v, atol=1e-5)
    expected = np.linalg.slogdet(np.diag(w.sum(axis=1)) - 0.9 * w)[1]
    assert kernel.logdet(0.9) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(("coords", "backend"), [(scattered(), "grid"), (lattice(), "lattice"), (lattice(), "dense")])
@pytest.mark.parametrize("phi", [0.0, 0.5, 0.99])
def test_the_determinant_is_that_of_the_matrix(coords: np.ndarray, backend, phi: float):
    w = matrix(coords)
    expected = np.linalg.slogdet(np.diag(w.sum(axis=1)) - phi * w)[1]
    assert GaussKernel(coords, SIGMA, backend=backend).logdet(phi) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("backend", ["dense", "grid"])
def test_the_operator_is_symmetric_and_indifferent_to_shifts_and_units(backend):
    coords, rng = scattered(), np.random.default_rng(5)
    u, v = rng.normal(size=(2, 400, 1))
    kernel = GaussKernel(coords, SIGMA, backend=backend)
    assert (u.T @ kernel.matmul(v)).item() == pytest.approx((v.T @ kernel.matmul(u)).item())
    moved = GaussKernel(1000 * coords[:, ::-1] - [7, 5], 1000 * SIGMA, backend=backend)
    np.testing.assert_allclose(moved.matmul(v), kernel.matmul(v), atol=1e-5)


def test_a_place_without_neighbours_has_degree_zero_and_no_part_in_the_determinant():
    coords = np.vstack([scattered(30), [[50.0, 50.0]]])
    kernel, w = GaussKernel(coords, SIGMA), matrix(scattered(30))
    assert kernel.degree[-1] == 0
    assert kernel.logdet(0.5) == pytest.approx(np.linalg.slogdet(np.diag(w.sum(axis=1)) - 0.5 * w)[1])


def test_large_sets_of_places_hold_no_matrix(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_gauss_kernel, "DENSE", 300)
    assert isinstance(GaussKernel(scattered(300), SIGMA)._parts[0][1], _gauss_kernel._Dense)
    for coords, n_stored in ((scattered(), 64), (lattice(), 1)):
        part = GaussKernel(coords, SIGMA)._parts[0][1]
        assert part.p.nnz == n_stored * len(coords)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"sigma": 0.0}, InputError, "sigma is 0.0, but must be above 0"),
        ({"sigma": 1e-5, "backend": "grid"}, InputError, "too wide for a grid"),
        ({"sigma": 1.0, "backend": "tree"}, ScdanceError, "must be one of: auto, dense"),
    ],
    ids=["sigma", "grid", "backend"],
)
def test_wrong_arguments_are_refused(arguments, error, says):
    with pytest.raises(error, match=says):
        GaussKernel(scattered(20), **arguments)
