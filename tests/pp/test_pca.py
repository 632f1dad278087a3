"""Principal components against scikit-learn's, by both engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA as SklearnPCA

from scdance.pp import PCA, project, standard_rows

engines = pytest.mark.parametrize("engine", ["covariance", "iteration"])


@pytest.fixture
def x() -> np.ndarray:
    """300 × 40 with eight strong directions, far from the origin."""
    rng = np.random.default_rng(0)
    strong = rng.normal(size=(300, 8)) * np.arange(12, 4, -1)
    return (strong @ rng.normal(size=(8, 40)) + rng.normal(size=(300, 40)) + 20).astype(np.float32)


def in_blocks(x: np.ndarray, size: int = 64) -> Callable[[], Iterator[np.ndarray]]:
    return lambda: (x[i : i + size].copy() for i in range(0, len(x), size))


def fit(
    x: np.ndarray, k: int, engine: str, monkeypatch: pytest.MonkeyPatch, seed: int = 0, *, center: bool = True
) -> PCA:
    monkeypatch.setattr("scdance.pp._pca.COVARIANCE_UP_TO", 10_000 if engine == "covariance" else 0)
    return PCA(k, center=center, random_state=seed).fit(in_blocks(x), x.shape)


@engines
def test_components_span_the_space_of_scikit_learn(x, engine, monkeypatch):
    ours, theirs = fit(x, 8, engine, monkeypatch), SklearnPCA(8).fit(x.astype(np.float64))
    assert np.rad2deg(subspace_angles(ours.components_.T.astype(np.float64), theirs.components_.T)).max() < 0.05
    np.testing.assert_allclose(ours.mean_, theirs.mean_, rtol=1e-5)


@engines
def test_scores_are_those_of_scikit_learn_up_to_sign(x, engine, monkeypatch):
    ours = fit(x, 5, engine, monkeypatch)
    found = project(in_blocks(x)(), ours.mean_, ours.components_)
    expected = SklearnPCA(5).fit_transform(x.astype(np.float64))
    sign = np.sign((found * expected).sum(axis=0))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found * sign, expected, atol=0.02)


@engines
def test_components_are_orthonormal_with_a_fixed_sign_and_type(x, engine, monkeypatch):
    found = fit(x, 8, engine, monkeypatch).components_
    assert (found.dtype, found.shape) == (np.float32, (8, 40))
    np.testing.assert_allclose(found @ found.T, np.eye(8), atol=1e-5)
    assert (found[np.arange(8), np.abs(found).argmax(axis=1)] > 0).all()


@engines
def test_the_order_of_the_rows_does_not_matter(x, engine, monkeypatch):
    order = np.random.default_rng(1).permutation(len(x))
    one, other = fit(x, 6, engine, monkeypatch), fit(x[order], 6, engine, monkeypatch)
    np.testing.assert_allclose(one.components_, other.components_, atol=1e-4)


def test_the_iteration_hardly_depends_on_its_seed(x, monkeypatch):
    one, other = fit(x, 6, "iteration", monkeypatch, 0), fit(x, 6, "iteration", monkeypatch, 1)
    np.testing.assert_allclose(one.components_, other.components_, atol=1e-4)
    np.testing.assert_array_equal(one.components_, fit(x, 6, "iteration", monkeypatch, 0).components_)


@engines
@pytest.mark.parametrize(
    ("shape", "k"), [((5, 40), 4), ((40, 5), 4), ((2, 9), 1), ((1, 9), 1), ((9, 1), 1), ((1, 1), 1)]
)
def test_there_are_no_more_components_than_the_data_have(engine, shape, k, monkeypatch):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = fit(x, 50, engine, monkeypatch)
    assert found.components_.shape == (k, shape[1])
    assert np.isfinite(found.components_).all()
    assert np.isfinite(project(in_blocks(x)(), found.mean_, found.components_)).all()


@engines
def test_without_centring_the_scores_are_those_of_the_singular_value_decomposition(x, engine, monkeypatch):
    ours = fit(x, 5, engine, monkeypatch, center=False)
    found = project(in_blocks(x)(), ours.mean_, ours.components_)
    u, s, _ = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    sign = np.sign((found * u[:, :5]).sum(axis=0))
    np.testing.assert_array_equal(ours.mean_, np.zeros(40, np.float32))
    np.testing.assert_allclose(found * sign, (u * s)[:, :5], atol=0.03)


@engines
@pytest.mark.parametrize(("shape", "k"), [((5, 40), 5), ((40, 5), 5), ((1, 9), 1)])
def test_without_centring_there_is_one_component_more(engine, shape, k, monkeypatch):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = fit(x, 50, engine, monkeypatch, center=False)
    np.testing.assert_allclose(found.components_ @ found.components_.T, np.eye(k), atol=1e-5)
    np.testing.assert_allclose(
        project(in_blocks(x)(), found.mean_, found.components_) @ found.components_, x, atol=1e-4
    )


@engines
def test_flat_data_give_finite_components(engine, monkeypatch):
    found = fit(np.full((30, 6), 3.0, np.float32), 3, engine, monkeypatch)
    assert np.isfinite(found.components_).all()


def test_standard_rows_are_z_scores_and_flat_rows_are_0(x):
    from scipy.stats import zscore

    np.testing.assert_allclose(standard_rows(x), zscore(x, axis=1), rtol=1e-4, atol=1e-5)
    flat = np.full((3, 7), 0.1, np.float32)
    assert not standard_rows(flat).any()
