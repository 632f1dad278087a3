"""Regression of logarithms for many rows at once, against scipy one row at a time."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from scdance.pp import log_covariance, log_regression

N, K, G = 40, 5, 150


def planted(seed: int = 0, noise: float = 0.3, n: int = N, absent: int | None = None) -> tuple[np.ndarray, ...]:
    """Rows, profiles, background of each row, amounts: b ≥ 0 with some of them 0."""
    rng = np.random.default_rng(seed)
    profiles = np.exp(rng.normal(0, 1.5, (K, G)))
    b = rng.gamma(1.0, 2.0, (n, K)) * (rng.random((n, K)) < 0.7)
    b[:, 0] += 0.5
    if absent is not None:
        b[:, absent] = 0
    background = rng.uniform(0.05, 0.5, n)
    return (b @ profiles + background[:, None]) * np.exp(rng.normal(0, noise, (n, G))), profiles, background, b


def loss_of(b: np.ndarray, y: np.ndarray, profiles: np.ndarray, background: float, w: np.ndarray) -> float:
    return float((w * (np.log(y) - np.log(background + b @ profiles)) ** 2).sum())


def by_scipy(y: np.ndarray, profiles: np.ndarray, background: float, w: np.ndarray) -> np.ndarray:
    found = scipy.optimize.minimize(
        loss_of,
        np.full(K, y.mean() / profiles.mean() / K),
        (y, profiles, background, w),
        jac=lambda b, y, p, g, w: -2 * p @ (w * np.log(y / (g + b @ p)) / (g + b @ p)),
        method="L-BFGS-B",
        bounds=[(0, None)] * K,
        options={"maxiter": 1000, "ftol": 1e-15, "gtol": 1e-10},
    )
    return found.x


@pytest.mark.parametrize("weighted", [False, True])
def test_each_row_is_at_the_optimum_that_scipy_finds(weighted: bool):
    y, profiles, background, _ = planted()
    w = np.random.default_rng(1).gamma(1.0, size=y.shape) * (np.random.default_rng(2).random(y.shape) < 0.8)
    w = w if weighted else np.ones_like(y)
    found = log_regression(y, profiles, background, weights=w if weighted else None)
    for i in range(0, N, 4):
        expected = by_scipy(y[i], profiles, background[i], w[i])
        np.testing.assert_allclose(found[i], expected, atol=2e-5)
        least, here = (loss_of(b, y[i], profiles, background[i], w[i]) for b in (expected, found[i]))
        assert here <= least * (1 + 1e-9)


def test_without_noise_the_amounts_come_back():
    y, profiles, background, b = planted(noise=0)
    np.testing.assert_allclose(log_regression(y, profiles, background), b, atol=1e-6)


def test_counts_in_another_unit_are_amounts_in_another_unit():
    y, profiles, background, _ = planted()
    one, other = log_regression(y, profiles, background), log_regression(30 * y, profiles, 30 * background)
    np.testing.assert_allclose(other, 30 * one, rtol=1e-6, atol=1e-6)


def test_a_start_and_other_rows_change_nothing():
    y, profiles, background, _ = planted()
    whole = log_regression(y, profiles, background)
    start = np.random.default_rng(0).gamma(1.0, size=whole.shape)
    np.testing.assert_allclose(log_regression(y, profiles, background, start=start), whole, atol=1e-5)
    np.testing.assert_allclose(log_regression(y[3:4], profiles, background[3:4]), whole[3:4], atol=1e-9)


def test_types_that_are_the_same_share_their_amount_and_nothing_breaks():
    y, profiles, background, _ = planted()
    found = log_regression(y, np.vstack([profiles, profiles[:1]]), background)
    expected = log_regression(y, profiles, background)
    assert np.isfinite(found).all() and (found >= 0).all()
    np.testing.assert_allclose(found[:, 0] + found[:, K], expected[:, 0], rtol=1e-3, atol=1e-3)


def test_no_background_and_rows_far_below_the_profiles_stay_finite():
    _, profiles, _, _ = planted()
    profiles[:, :20] = 0
    y = np.full((2, G), 1e-3)
    y[1] = 1e6
    found = log_regression(y, profiles, 0.0)
    assert np.isfinite(found).all() and (found >= 0).all()
    for kind in ("robust", "gn", "hessian"):
        assert np.isfinite(log_covariance(y, profiles, 0.0, found, kind=kind)).all()


@pytest.mark.parametrize("kind", ["robust", "gn"])
def test_a_type_that_is_absent_is_seldom_significant(kind: str):
    y, profiles, background, _ = planted(n=300, absent=2)
    b = log_regression(y, profiles, background)
    se = np.sqrt(np.einsum("nkk->nk", log_covariance(y, profiles, background, b, kind=kind)))
    p = 2 * scipy.stats.norm.sf(b / se)
    assert (p[:, 2] > 0.05).mean() >= 0.9
    assert (p[:, 0] < 0.05).mean() >= 0.9


@pytest.mark.parametrize("kind", ["robust", "gn"])
def test_the_covariance_is_that_of_repeated_measurements(kind: str):
    profiles = planted()[1]
    many = (2 * profiles.sum(axis=0) + 0.3) * np.exp(np.random.default_rng(0).normal(0, 0.2, (2000, G)))
    found = log_regression(many, profiles, 0.3)
    said = log_covariance(many, profiles, 0.3, found, known=0.3, kind=kind).mean(axis=0)
    np.testing.assert_allclose(np.sqrt(np.diag(said)), found.std(axis=0), rtol=0.06)
    np.testing.assert_allclose(said, np.cov(found.T), atol=0.1 * said.max())


def test_genes_of_unequal_noise_are_seen_by_the_robust_covariance_alone():
    y, profiles, background, _ = planted(noise=0, n=1)
    noise = np.where(profiles[0] > np.quantile(profiles[0], 0.9), 1.0, 0.05)
    many = y * np.exp(np.random.default_rng(0).normal(0, noise, (400, G)))
    background = np.repeat(background, 400)
    found = log_regression(many, profiles, background)
    spread = found[:, 0].std()
    robust, gn = (log_covariance(many, profiles, background, found, kind=kind)[:, 0, 0] for kind in ("robust", "gn"))
    assert np.sqrt(robust.mean()) == pytest.approx(spread, rel=0.1)
    assert np.sqrt(gn.mean()) < 0.6 * spread


def test_the_covariance_of_the_hessian_is_its_numerical_inverse():
    y, profiles, background, _ = planted(n=3)
    profiles = profiles[:3]
    b = log_regression(y, profiles, background) + 0.5
    found = log_covariance(y, profiles, background, b, kind="hessian")
    for i in range(3):

        def slope(v: np.ndarray, i: int = i) -> np.ndarray:
            design = np.vstack([profiles, np.full(G, background[i])])
            mean = v @ design
            return -2 * design @ (np.log(y[i] / mean) / mean)

        at, h = np.append(b[i], 1.0), 1e-6
        hessian = np.stack([(slope(at + h * e) - slope(at - h * e)) / (2 * h) for e in np.eye(4)])
        if np.linalg.eigvalsh(hessian[:3, :3])[0] > 0:
            np.testing.assert_allclose(found[i], np.linalg.inv(hessian)[:3, :3], rtol=1e-3, atol=1e-7)


def test_a_background_that_is_certain_leaves_the_amounts_surer():
    y, profiles, _, _ = planted()
    b = log_regression(y, profiles, 0.3)
    unsure, sure = (log_covariance(y, profiles, 0.3, b, known=known, kind="gn") for known in (0.0, 0.3))
    assert (np.einsum("nkk->nk", sure) <= np.einsum("nkk->nk", unsure) * (1 + 1e-9)).all()
    weights = 1 / (b @ profiles + 0.3)[0] ** 2
    residuals = np.log(y[0] / (b[0] @ profiles + 0.3))
    expected = np.linalg.inv((profiles * weights) @ profiles.T) * (residuals**2).sum() / (G - (b[0] > 0).sum())
    np.testing.assert_allclose(sure[0], expected, rtol=1e-5)
