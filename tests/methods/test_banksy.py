"""BANKSY against explicit loops, invariances and planted layers."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

import scdance as sd
from scdance.methods.spatial_domain._mixed import mixed_rows, scaled_components
from scdance.methods.spatial_domain.banksy import block_weights, moments


@pytest.fixture(scope="module")
def scattered() -> np.ndarray:
    """Places without a lattice, whose nearest neighbours are no matter of rounding."""
    return np.random.default_rng(0).uniform(0, 100, size=(150, 2))


@pytest.fixture
def tissue(scattered: np.ndarray):
    adata = sd.datasets.toy_domains(n_obs=150, n_vars=40)
    adata.obsm["spatial"] = scattered
    return adata


def by_loops(x: np.ndarray, coords: np.ndarray, k: int, m: int, *, gaussian: bool = True) -> np.ndarray:
    """Magnitude of the m-th moment of each gene, written out; the mean for m = 0."""
    distances = np.linalg.norm(coords[:, None] - coords[None], axis=2)
    near = [np.argsort(row)[1 : k + 1] for row in distances]
    width = np.median([distances[i, j] for i in range(len(x)) for j in near[i]])
    out = np.zeros_like(x)
    for i in range(len(x)):
        w = [np.exp(-(distances[i, j] ** 2) / (2 * width**2)) if gaussian else 1.0 for j in near[i]]
        w = np.array(w) / np.sum(w)
        mean = sum(w[a] * x[j] for a, j in enumerate(near[i]))
        total = np.zeros(x.shape[1], dtype=complex)
        for a, j in enumerate(near[i]):
            phi = np.arctan2(coords[j, 1] - coords[i, 1], coords[j, 0] - coords[i, 0])
            total += w[a] * np.exp(1j * m * phi) * (x[j] - mean)
        out[i] = mean if m == 0 else np.abs(total)
    return out


def found(x: np.ndarray, operators: tuple[sp.csr_matrix, ...]) -> np.ndarray:
    return np.sqrt(sum((operator @ x) ** 2 for operator in operators))


@pytest.mark.parametrize("decay", ["gaussian", "uniform"])
def test_mean_and_moments_are_those_of_explicit_loops(scattered: np.ndarray, decay: str):
    x = np.random.default_rng(1).gamma(2.0, size=(150, 4))
    operators = moments(scattered, 7, harmonics=2, decay=decay)
    for m, each in enumerate(operators[1:]):
        expected = by_loops(x, scattered, 7, m, gaussian=decay == "gaussian")
        np.testing.assert_allclose(found(x, each), expected, atol=1e-5)


def test_a_moment_is_0_where_a_gene_is_the_same_everywhere(scattered: np.ndarray):
    np.testing.assert_allclose(found(np.full((150, 1), 5.0), moments(scattered, 9)[2]), 0, atol=1e-5)


def test_a_moment_points_out_the_border_of_two_regions():
    coords = np.stack(np.meshgrid(np.arange(20.0), np.arange(10.0)), axis=-1).reshape(-1, 2)
    x = (coords[:, :1] >= 10).astype(float)
    moment = found(x, moments(coords, 8)[2])[:, 0].reshape(10, 20)
    assert moment[1:-1, 9:11].min() > 0.1
    assert np.abs(moment[:, :8]).max() < 1e-6


def test_points_on_the_same_place_have_no_direction_and_slices_do_not_mix():
    coords = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    own, (mean,), (real, imaginary) = moments(coords, 3, slices=np.array([0, 0, 0, 1]))
    assert own[0].toarray().tolist() == np.eye(4).tolist()
    np.testing.assert_allclose(mean.toarray()[3], 0)  # alone on its slice
    np.testing.assert_allclose(mean.toarray()[:3].sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(real.toarray()[:, 3], 0)
    assert np.isfinite(real.toarray()).all() and np.isfinite(imaginary.toarray()).all()


def test_a_spot_far_from_all_others_keeps_its_neighbours():
    coords = np.vstack([np.random.default_rng(0).uniform(size=(50, 2)), [[1e6, 0]]])
    mean = moments(coords, 5)[1][0]
    np.testing.assert_allclose(np.asarray(mean.sum(axis=1)).ravel(), 1, atol=1e-5)


def test_blocks_weigh_what_the_paper_says():
    np.testing.assert_allclose(block_weights(0.8, 1), [0.2, 1.6 / 3, 0.8 / 3])
    np.testing.assert_allclose(block_weights(0.2, 0), [0.8, 0.2])
    of_three = block_weights(0.7, 3)
    np.testing.assert_allclose(of_three[2:] / of_three[1:-1], 0.5)
    assert of_three.sum() == pytest.approx(1)


def test_components_are_those_of_weighted_z_scores():
    rng = np.random.default_rng(0)
    x = rng.gamma(2.0, size=(300, 6)).astype(np.float32)
    x[:, 2] = 3.7  # constant
    weights = np.repeat([2.0, 0.5], 3)
    z = scaled_components(lambda: iter([x[:99].copy(), x[99:].copy()]), x.shape, 3, weights=weights)
    expected = PCA(3).fit_transform(StandardScaler().fit_transform(x.astype(float)) * weights)
    np.testing.assert_allclose(np.abs(z), np.abs(expected), atol=2e-4)


def test_rows_are_mixed_alike_in_memory_and_on_disk():
    class Stored:
        def __init__(self, x):
            self.x, self.shape = x, x.shape

        def __getitem__(self, rows):
            return self.x[rows]

    x = sp.random(1100, 5, density=0.4, format="csr", random_state=0, dtype=np.float32)
    a = sp.random(1100, 1100, density=0.01, format="csr", random_state=1, dtype=np.float32)
    for kind in (x, Stored(x)):
        twice = np.vstack([np.hstack(block) for block in mixed_rows(kind, [a, 2 * a])])
        np.testing.assert_allclose(twice, np.hstack([(a @ x).toarray(), 2 * (a @ x).toarray()]), rtol=1e-5)


def test_without_neighbours_it_is_pca_of_z_scored_expression(tissue):
    sd.tl.spatial_domain(tissue, "banksy", n_clusters=4, spatial_weight=0.0, n_components=5, n_top_genes=None)
    x = tissue.X.toarray().astype(float)
    depth = x.sum(axis=1, keepdims=True)
    z = StandardScaler().fit_transform(np.log1p(x / depth * np.median(depth)))
    expected = PCA(5, svd_solver="full").fit_transform(z)
    np.testing.assert_allclose(np.abs(tissue.obsm["X_banksy"]), np.abs(expected), atol=1e-3)


def test_turning_and_moving_the_tissue_changes_nothing(tissue):
    turned = tissue.copy()
    turn = np.array([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]])
    turned.obsm["spatial"] = 3.5 * tissue.obsm["spatial"] @ turn.T + [1000, -50]
    for adata in (tissue, turned):
        sd.tl.spatial_domain(adata, "banksy", n_clusters=4, n_components=5, n_neighbors=8, harmonics=2)
    np.testing.assert_allclose(turned.obsm["X_banksy"], tissue.obsm["X_banksy"], atol=1e-3)


def test_it_finds_planted_layers_that_expression_alone_does_not_show():
    adata = sd.datasets.toy_domains(lfc=0.7)
    sd.tl.spatial_domain(adata, "banksy", n_clusters=4)
    sd.tl.spatial_domain(adata, "banksy", n_clusters=4, spatial_weight=0.0, key_added="alone")
    ari = [
        sd.metrics.score(adata, "spatial_domain", key=key, truth="domain")["ari"].item() for key in ("banksy", "alone")
    ]
    assert ari[0] > 0.6
    assert ari[0] > ari[1] + 0.2


def test_slices_do_not_see_each_other(scattered: np.ndarray):
    adata = sd.datasets.toy_domains(n_obs=150, n_vars=40, slices=2)
    adata.obsm["spatial"] = scattered
    moved = adata.copy()
    second = (adata.obs["slice"] == "slice_1").to_numpy()
    moved.obsm["spatial"][second] += 1e5
    for each in (adata, moved):
        sd.tl.spatial_domain(each, "banksy", n_clusters=4, library_key="slice")
    np.testing.assert_allclose(moved.obsm["X_banksy"], adata.obsm["X_banksy"], atol=1e-3)


def test_leiden_searches_the_number_of_domains():
    adata = sd.datasets.toy_domains(n_obs=300, n_vars=100, lfc=1.5)
    sd.tl.spatial_domain(adata, "banksy", n_clusters=4, preset="paper")
    assert adata.obs["banksy"].nunique() == 4
    assert "banksy_refined" not in adata.obs
    assert sd.metrics.score(adata, "spatial_domain", key="banksy", truth="domain")["ari"].item() > 0.2


@pytest.mark.parametrize("knobs", [{"spatial_weight": 1.5}, {"n_neighbors": 0}, {"harmonics": -1}])
def test_what_makes_no_sense_is_refused(tissue, knobs):
    with pytest.raises(ValueError, match=next(iter(knobs))):
        sd.tl.spatial_domain(tissue, "banksy", n_clusters=4, **knobs)
    assert "banksy" not in tissue.obs
