"""stLearn's average over similar neighbours, against written-out formulas and planted borders."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

import scdance as sd
from scdance.graph import pitch, spatial
from scdance.methods.spatial_domain.stlearn import StLearn, mean_of_best, pieces, similarity

NO_IMAGE = {"use": ("expr", "space")}


def lattice(width: int, height: int) -> np.ndarray:
    """A hexagonal lattice of constant 10, slightly shaken."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    places = np.column_stack([10 * (x + 0.5 * (y % 2)).ravel(), 10 * np.sqrt(0.75) * y.ravel()])
    return places + np.random.default_rng(0).normal(scale=1e-3, size=places.shape)


def pictured(image: np.ndarray, n_vars: int = 30, seed: int = 0):
    """A tissue of 400 spots with this picture under it, a pixel being a unit of the coordinates."""
    adata = sd.datasets.toy_domains(n_obs=400, n_vars=n_vars, random_state=seed)
    adata.obsm["spatial"] = lattice(20, 20) + 5
    adata.uns["spatial"] = {"tissue": {"images": {"hires": image}, "scalefactors": {"tissue_hires_scalef": 1.0}}}
    return adata


def average_of(adata, **knobs) -> sp.csr_matrix:
    """The operator that the method averages with."""
    seen = {}

    class Watched(StLearn):
        """Keep the operator.

        When to use
        -----------
        In tests.

        When not
        --------
        Elsewhere.

        Differs from the paper
        ----------------------
        In nothing else.
        """

        def _average(self, cells, step):
            seen["average"] = super()._average(cells, step)
            return seen["average"]

    sd.fit("spatial_domain", adata, method=Watched, n_clusters=4, **knobs)
    return seen["average"]


def logged(adata) -> np.ndarray:
    x = adata.X.toarray().astype(float)
    depth = x.sum(axis=1, keepdims=True)
    return np.log1p(x / depth * np.median(depth))


def by_loops(adata, n_similar: int, radius: float = 3.0, n_mean: int = 3) -> np.ndarray:
    """The average, (n, n), from a dense matrix of weights."""
    x, coords = logged(adata), adata.obsm["spatial"]
    u, s, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    z = u[:, :n_similar] * s[:n_similar]
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    w = z @ z.T
    distances = np.linalg.norm(coords[:, None] - coords[None], axis=2)
    step = np.median(np.where(distances > 0, distances, np.inf).min(axis=1))
    w[distances >= 0.99 * radius * step] = 0
    out = np.zeros_like(w)
    for i, row in enumerate(w):
        best = np.argsort(-row)[:n_mean]
        out[i, best] = np.maximum(row[best], 0)
    return out / out.sum(axis=1, keepdims=True)


def test_the_sparse_average_is_the_dense_one():
    adata = sd.datasets.toy_domains(n_obs=400, n_vars=30)
    found = average_of(adata, use=("expr", "space"), n_similar=8)
    np.testing.assert_allclose(found.toarray(), by_loops(adata, 8), atol=1e-4)
    np.testing.assert_allclose(np.asarray(found.sum(axis=1)).ravel(), 1, atol=1e-6)
    assert found.nnz <= 3 * 400


def test_the_embedding_is_that_of_half_the_spot_and_half_the_average():
    adata = sd.datasets.toy_domains(n_obs=400, n_vars=30)
    sd.tl.spatial_domain(adata, "stlearn", n_clusters=4, n_similar=8, n_components=4, **NO_IMAGE)
    sme = 0.5 * (logged(adata) + by_loops(adata, 8) @ logged(adata))
    z = (sme - sme.mean(axis=0)) / sme.std(axis=0)
    u, s, _ = np.linalg.svd(z, full_matrices=False)
    np.testing.assert_allclose(np.abs(adata.obsm["X_stlearn"]), np.abs(u[:, :4] * s[:4]), atol=2e-2)


def test_with_zeros_only_counted_genes_keep_their_values():
    adata = sd.datasets.toy_domains(n_obs=400, n_vars=30)
    sd.tl.spatial_domain(adata, "stlearn", n_clusters=4, n_similar=8, n_components=4, zeros_only=True, **NO_IMAGE)
    x = logged(adata)
    filled = np.where(x == 0, by_loops(adata, 8) @ x, x)
    z = (filled - filled.mean(axis=0)) / filled.std(axis=0)
    u, s, _ = np.linalg.svd(z, full_matrices=False)
    np.testing.assert_allclose(np.abs(adata.obsm["X_stlearn"]), np.abs(u[:, :4] * s[:4]), atol=2e-2)


@pytest.mark.parametrize(("use", "n_mean"), [(("space",), 6), (("space", "image"), 3)])
def test_places_alone_or_a_blank_image_give_the_plain_mean_of_the_nearest(use, n_mean):
    adata = pictured(np.full((220, 220, 3), 130, dtype=np.uint8))
    found = average_of(adata, use=use)
    near = spatial(adata.obsm["spatial"], n_neighbors=n_mean - 1).toarray() > 0
    np.testing.assert_allclose(found.toarray(), (near + np.eye(400)) / n_mean, atol=1e-6)


def test_nothing_is_averaged_across_the_border_of_two_tissues():
    image = np.zeros((220, 240, 3), dtype=np.uint8)
    image[:, 115:] = 255
    adata = pictured(image)
    adata.obsm["spatial"][:, 0] += np.where(adata.obsm["spatial"][:, 0] > 104, 15, 0)  # no square has both colours
    found = average_of(adata, use=("space", "image")).tocoo()
    right = adata.obsm["spatial"][:, 0] > 115
    assert 100 < right.sum() < 300
    assert (right[found.row] == right[found.col]).all()
    assert found.nnz == 3 * 400


def test_without_a_radius_the_spots_stay_as_they_are():
    adata = sd.datasets.toy_domains(n_obs=400, n_vars=30)
    assert (average_of(adata, radius=0.0, **NO_IMAGE) != sp.identity(400)).nnz == 0


def test_the_unit_of_the_coordinates_changes_nothing():
    adata = sd.datasets.toy_domains(n_obs=400, n_vars=30)
    other = adata.copy()
    other.obsm["spatial"] = adata.obsm["spatial"] * 0.125
    for each in (adata, other):
        sd.tl.spatial_domain(each, "stlearn", n_clusters=4, **NO_IMAGE)
    np.testing.assert_array_equal(other.obsm["X_stlearn"], adata.obsm["X_stlearn"])


def test_a_missing_image_is_refused_with_what_to_type():
    adata = sd.datasets.toy_domains(n_obs=100)
    with pytest.raises(ValueError, match=r"use=\('expr', 'space'\)"):
        sd.tl.spatial_domain(adata, "stlearn", n_clusters=4)
    assert "stlearn" not in adata.obs


@pytest.mark.parametrize("knobs", [{"use": ("expr",)}, {"radius": -1.0}, {"patch": 0.0}, {"n_mean": 0}])
def test_what_makes_no_sense_is_refused(knobs):
    adata = sd.datasets.toy_domains(n_obs=100)
    with pytest.raises(ValueError, match=next(iter(knobs))):
        sd.tl.spatial_domain(adata, "stlearn", n_clusters=4, **{**NO_IMAGE, **knobs})


def test_features_of_ones_own_are_a_subclass_that_is_saved_and_loaded(tmp_path):
    rng = np.random.default_rng(0)
    adata = pictured(rng.integers(0, 255, size=(220, 220, 3), dtype=np.uint8))
    sizes = []

    class Reddish(StLearn):
        """See red alone.

        When to use
        -----------
        In tests.

        When not
        --------
        Elsewhere.

        Differs from the paper
        ----------------------
        It sees red alone.
        """

        def features(self, patches):
            sizes.append(patches.shape)
            return patches[:, :, :, 0].reshape(len(patches), -1)

    sd.tl.spatial_domain(adata, Reddish, n_clusters=4, patch=1.2)
    assert sum(shape[0] for shape in sizes) == 400
    assert {shape[1:] for shape in sizes} == {(12, 12, 3)}
    model = sd.fit("spatial_domain", adata, method=Reddish, n_clusters=4)
    model.save(tmp_path / "saved")
    loaded = Reddish.load(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.pieces_, model.pieces_)
    assert loaded.use == ("expr", "space", "image")


def test_unlike_in_two_views_is_not_alike():
    near = spatial(np.array([[0.0, 0.0], [1.0, 0.0]]), n_neighbors=1)
    view = np.array([[1.0, 0.0], [-1.0, 0.0]])
    assert similarity(near, [view, view]).tolist() == [0, 0]
    assert similarity(near, [np.zeros((2, 3))]).tolist() == [1, 1]
    assert similarity(near, [np.array([[0.0], [1.0]])]).tolist() == [0, 0]


def test_of_equal_weights_the_nearer_neighbour_comes_first():
    near = spatial(np.array([[0.0, 0.0], [2.0, 0.0], [-1.0, 0.0]]), radius=5)
    mean = mean_of_best(near, np.ones(near.nnz), 2).toarray()
    np.testing.assert_allclose(mean[0], [0.5, 0, 0.5])
    near.data[:] = 1
    weighted = mean_of_best(near, np.array([0.5, 0.25, 0.0, 0.0, 0.0, 0.0]), 3).toarray()
    np.testing.assert_allclose(weighted, [[4 / 7, 2 / 7, 1 / 7], [0, 1, 0], [0, 0, 1]], atol=1e-6)


def test_two_separate_blobs_of_a_domain_are_two_pieces():
    left, right, stray = lattice(6, 6), lattice(5, 5) + np.array([200, 0]), np.array([[-30.0, 0.0], [-40.0, 0.0]])
    coords = np.vstack([left, right, stray])
    labels = np.zeros(len(coords), dtype=int)
    found = pieces(labels, coords, 1.5 * pitch(coords))
    assert found.tolist() == [0] * 36 + [1] * 25 + [0, 0]  # the stray spots go to the nearest large piece
    alone = pieces(np.repeat([0, 1], [36, 27]), coords, 15.0, slices=np.repeat([0, 1, 2], [36, 25, 2]))
    assert alone.tolist() == [0] * 36 + [1] * 25 + [2, 2]  # on another slice there is no larger one to go to


@pytest.mark.parametrize("partition", ["mixture", "kmeans", "louvain"])
@pytest.mark.parametrize("n_clusters", [4, None])
def test_every_partition_finds_planted_layers(partition, n_clusters):
    adata = sd.datasets.toy_domains(lfc=1.5, n_obs=300, n_vars=100)
    sd.tl.spatial_domain(adata, "stlearn", n_clusters=n_clusters, partition=partition, n_components=10, **NO_IMAGE)
    score = sd.metrics.score(adata, "spatial_domain", key="stlearn", truth="domain")["ari"].item()
    assert score > (0.8 if n_clusters else 0.4)
    if n_clusters:
        assert adata.obs["stlearn"].nunique() == 4


def test_the_pieces_of_a_domain_are_told_beside_it():
    """Two islands of one type in a sea of another: two domains, of which one has two pieces."""
    rng = np.random.default_rng(0)
    row, column = (each.ravel() for each in np.indices((24, 24)))
    island = ((row < 8) & (column < 8)) | ((row > 15) & (column > 15))
    profile = rng.gamma(2, 3, (2, 60))
    adata = anndata.AnnData(rng.poisson(profile[island.astype(int)]).astype(np.float32))
    adata.obsm["spatial"] = np.column_stack([column, row]).astype(float)
    sd.tl.spatial_domain(adata, method="stlearn", n_clusters=2, use=("expr", "space"), refine=0)
    small = adata.obs["stlearn"] == "1"
    np.testing.assert_array_equal(small, island)
    assert adata.obs["stlearn_piece"][small].nunique() == 2
    assert set(adata.obs["stlearn_piece"]) == {"0_0", "1_0", "1_1"}
