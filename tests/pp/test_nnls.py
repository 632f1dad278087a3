"""Non-negative least squares for many rows, against scipy's active sets."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize

from scdance.pp import _nnls, gram_nnls


def problem(n: int = 300, k: int = 8, g: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Profiles (g, k) and rows (n, g), some of them far from any sum of profiles."""
    rng = np.random.default_rng(seed)
    a = rng.gamma(1.0, size=(g, k))
    b = rng.gamma(0.3, size=(n, k)) * (rng.random((n, k)) < 0.5)
    return a, b @ a.T + rng.normal(0, 0.5, (n, g))


def test_every_row_is_the_solution_of_active_sets():
    a, y = problem()
    expected = np.stack([scipy.optimize.nnls(a, row)[0] for row in y])
    np.testing.assert_allclose(gram_nnls(a.T @ a, y @ a), expected, atol=1e-7)


def test_a_start_changes_the_way_and_not_the_solution():
    a, y = problem()
    h, c = a.T @ a, y @ a
    start = np.random.default_rng(1).gamma(1.0, size=c.shape)
    np.testing.assert_allclose(gram_nnls(h, c, start=start), gram_nnls(h, c), atol=1e-7)


def test_types_that_are_nearly_the_same_are_solved_row_by_row():
    a, y = problem(n=20)
    a = np.column_stack([a, a[:, 0] * (1 + 1e-9)])
    h = a.T @ a
    assert np.linalg.cond(h) > _nnls.ILL
    b = gram_nnls(h, y @ a)
    best = [scipy.optimize.nnls(a, row)[1] for row in y]
    np.testing.assert_allclose(np.linalg.norm(y - b @ a.T, axis=1), best, rtol=1e-6)
    assert (b >= 0).all()


def test_blocks_of_rows_are_solved_as_one(monkeypatch: pytest.MonkeyPatch):
    a, y = problem()
    whole = gram_nnls(a.T @ a, y @ a)
    monkeypatch.setattr(_nnls, "ROWS", 7)
    np.testing.assert_allclose(gram_nnls(a.T @ a, y @ a), whole, atol=1e-9)


def test_a_row_without_any_product_is_zero():
    a, y = problem(n=3)
    y[1] = 0
    assert (gram_nnls(a.T @ a, y @ a)[1] == 0).all()


def test_rows_with_problems_of_their_own_are_each_solved():
    rng = np.random.default_rng(0)
    a, y = rng.gamma(1.0, size=(200, 30, 6)), rng.normal(1, 3, (200, 30))
    h, c = np.einsum("ngk,ngl->nkl", a, a), np.einsum("ngk,ng->nk", a, y)
    expected = np.stack([scipy.optimize.nnls(each, row)[0] for each, row in zip(a, y, strict=True)])
    assert (expected == 0).any() and (expected > 0).any()
    np.testing.assert_allclose(gram_nnls(h, c), expected, atol=1e-10)
    np.testing.assert_allclose(gram_nnls(h, c, start=np.zeros_like(c)), expected, atol=1e-10)
    np.testing.assert_allclose(gram_nnls(1e12 * h, 1e12 * c), expected, atol=1e-10)


def test_rows_whose_exchanges_do_not_end_are_solved_by_active_sets(monkeypatch: pytest.MonkeyPatch):
    a, y = problem()
    h = np.repeat((a.T @ a)[None], len(y), axis=0)
    expected = gram_nnls(h, y @ a)
    monkeypatch.setattr(_nnls, "MOST_PIVOTS", 1)
    np.testing.assert_allclose(gram_nnls(h, y @ a), expected, atol=1e-7)


@pytest.mark.parametrize("trusted", [0, 3])
def test_exchanges_of_one_value_at_a_time_end_at_the_same(monkeypatch: pytest.MonkeyPatch, trusted: int):
    monkeypatch.setattr(_nnls, "TRUSTED", trusted)
    monkeypatch.setattr(_nnls, "_one_by_one", None)
    a, y = problem(k=12)
    h = np.repeat((a.T @ a)[None], len(y), axis=0)
    expected = np.stack([scipy.optimize.nnls(a, row)[0] for row in y])
    np.testing.assert_allclose(gram_nnls(h, y @ a), expected, atol=1e-7)
