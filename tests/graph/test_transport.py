"""Entropic transport: its sums, and the plan against another algorithm and what theory says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog, minimize

from scdance._checks import InputError
from scdance.graph import sinkhorn

N, K = 200, 5


@pytest.fixture
def given():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(K, 0.3), N)
    return -np.log(np.maximum(p, 1e-12)), rng.dirichlet(np.full(N, 50.0)), rng.dirichlet(np.ones(K))


def test_rows_and_columns_have_their_sums(given):
    cost, rows, columns = given
    plan = sinkhorn(cost, rows, columns)
    assert (plan >= 0).all()
    np.testing.assert_allclose(plan.sum(axis=1), rows, rtol=1e-12)
    np.testing.assert_allclose(plan.sum(axis=0), columns, atol=1e-6)


def test_the_plan_is_the_kernel_with_factors_of_rows_and_columns(given):
    cost, rows, columns = given
    log_factors = np.log(sinkhorn(cost, rows, columns, reg=0.5)) + cost / 0.5
    centred = log_factors - log_factors.mean(axis=0) - log_factors.mean(axis=1, keepdims=True) + log_factors.mean()
    np.testing.assert_allclose(centred, 0, atol=1e-9)


def test_it_solves_the_dual_that_another_optimiser_solves(given):
    cost, rows, columns = given
    reg = 0.2

    def dual(g):  # the semi-dual, which needs a number for each column only
        z = (g - cost) / reg
        top = z.max(axis=1, keepdims=True)
        log_sum = top[:, 0] + np.log(np.exp(z - top).sum(axis=1))
        return reg * (rows @ log_sum) - g @ columns

    g = minimize(dual, np.zeros(K), method="BFGS", options={"gtol": 1e-9}).x
    expected = np.exp((g - cost) / reg - ((g - cost) / reg).max(axis=1, keepdims=True))
    expected *= (rows / expected.sum(axis=1))[:, None]
    np.testing.assert_allclose(sinkhorn(cost, rows, columns, reg=reg), expected, atol=1e-6)


def test_with_little_entropy_it_is_the_cheapest_plan():
    rng = np.random.default_rng(1)
    cost, rows, columns = rng.random((12, 4)), np.full(12, 1 / 12), np.full(4, 1 / 4)
    sums = np.vstack([np.kron(np.eye(12), np.ones(4)), np.kron(np.ones(12), np.eye(4))])
    cheapest = linprog(cost.ravel(), A_eq=sums, b_eq=np.concatenate([rows, columns]))
    plan = sinkhorn(cost, rows, columns, reg=1e-3)
    assert (plan * cost).sum() == pytest.approx(cheapest.fun, abs=2e-3)


def test_large_costs_do_no_harm():
    cost = np.random.default_rng(0).uniform(0, 1e4, (50, 3))
    plan = sinkhorn(cost, np.full(50, 0.02), np.array([0.5, 0.3, 0.2]), reg=100.0)
    np.testing.assert_allclose(plan.sum(axis=0), [0.5, 0.3, 0.2], atol=1e-6)
    assert np.isfinite(sinkhorn(cost, np.full(50, 0.02), np.array([0.5, 0.3, 0.2]), reg=1e-3, max_iter=5)).all()


@pytest.mark.parametrize("columns", [[0.6, 0.3, 0.05, 0.03, 0.02], [0.202, 0.199, 0.2, 0.2, 0.199]])
def test_sums_are_met_where_the_kernel_is_sharp(columns):
    """Far from them, and where they are nearly met and hardly anything changes with the factors."""
    rng = np.random.default_rng(3)
    cost = rng.uniform(5, 60, (1000, 5))
    cost[np.arange(1000), np.arange(1000) % 5] = 0
    plan = sinkhorn(cost, np.full(1000, 1e-3), np.array(columns), max_iter=40)
    np.testing.assert_allclose(plan.sum(axis=0), columns, atol=1e-6)


def test_permuting_rows_and_columns_permutes_the_plan(given):
    cost, rows, columns = given
    rng = np.random.default_rng(2)
    i, j = rng.permutation(N), rng.permutation(K)
    permuted = sinkhorn(cost[i][:, j], rows[i], columns[j])
    np.testing.assert_allclose(permuted, sinkhorn(cost, rows, columns)[i][:, j], atol=1e-9)


def test_columns_that_are_held_less_lie_between_those_wanted_and_those_of_the_softmax(given):
    cost, rows, columns = given
    free = np.exp(-cost / 0.1)
    free *= (rows / free.sum(axis=1))[:, None]
    sums = {hold: sinkhorn(cost, rows, columns, hold=hold).sum(axis=0) for hold in (1e-6, 0.1, 1e6)}
    np.testing.assert_allclose(sums[1e-6], free.sum(axis=0), atol=1e-4)
    np.testing.assert_allclose(sums[1e6], columns, atol=1e-4)
    assert np.abs(sums[0.1] - columns).sum() < np.abs(sums[1e-6] - columns).sum()


def test_columns_that_are_held_less_fulfil_the_condition_of_the_optimum(given):
    cost, rows, columns = given
    reg, hold = 0.1, 0.3
    plan = sinkhorn(cost, rows, columns, reg=reg, hold=hold, tol=1e-10)
    # of Σ Q C + reg Σ Q log Q + hold KL(Qᵀ1 ‖ b) the derivative is the same for all columns of a row
    slope = cost + reg * np.log(plan) + hold * np.log(plan.sum(axis=0) / columns)
    np.testing.assert_allclose(slope - slope.mean(axis=1, keepdims=True), 0, atol=1e-6)


@pytest.mark.parametrize("hold", [None, 0.3])
def test_it_agrees_with_pot(given, hold):
    ot = pytest.importorskip("ot")
    cost, rows, columns = given
    if hold is None:
        expected = ot.sinkhorn(rows, columns, cost, reg=0.1, numItermax=100_000, stopThr=1e-12)
    else:
        knobs = {"reg_m": (float("inf"), hold), "numItermax": 100_000, "stopThr": 1e-12}
        expected = ot.unbalanced.sinkhorn_unbalanced(rows, columns, cost, reg=0.1, **knobs)
    np.testing.assert_allclose(sinkhorn(cost, rows, columns, hold=hold), expected, atol=1e-6)


@pytest.mark.parametrize(("wrong", "words"), [
    ({"rows": np.ones(3) / 3}, r"rows \(3,\)"),
    ({"columns": np.zeros(K)}, "above 0"),
    ({"columns": np.ones(K)}, "Rows sum to 1 in all, columns to 5"),
    ({"cost": np.full((N, K), np.inf)}, "finite"),
    ({"reg": 0}, "reg=0"),
    ({"hold": -1.0}, "hold=-1"),
])  # fmt: skip
def test_what_has_no_plan_is_refused(given, wrong, words):
    names = dict(zip(("cost", "rows", "columns"), given, strict=True))
    with pytest.raises(InputError, match=words):
        sinkhorn(**{**names, **wrong})
