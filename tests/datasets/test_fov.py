import tracemalloc

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.spatial.distance import cdist

from scdance._checks import InputError
from scdance.datasets import _mixing, simulate_fov


def fov(**more):
    return simulate_fov(**{"n_obs": 600, "n_vars": 80} | more)


def expected(adata):
    """Expected molecules, (n_obs, n_vars)."""
    return (adata.obsm["expected"] @ adata.varm["expected"].T).to_numpy()


def is_near_sender(adata, radius):
    """Whether a cell of type1 lies within the radius in the same field, by all distances."""
    distance = cdist(adata.obsm["spatial"], adata.obsm["spatial"])
    field, kind = adata.obs["fov"].to_numpy(), adata.obs["cell_type"].to_numpy()
    reached = (distance <= radius) & (field[:, None] == field) & (kind == "type1")
    return reached.any(axis=1) & (kind != "type1")


def test_a_seed_gives_the_same_field():
    one, again, other = (fov(random_state=seed) for seed in (0, 0, 1))
    assert (one.X != again.X).nnz == 0 and (one.layers["molecules"] != again.layers["molecules"]).nnz == 0
    pd.testing.assert_frame_equal(one.obs, again.obs)
    np.testing.assert_array_equal(one.obsm["spatial"], again.obsm["spatial"])
    assert (one.X != other.X).nnz > 0


def test_a_generator_is_not_advanced():
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    fov(random_state=rng)
    assert rng.bit_generator.state == before


def test_counts_are_sparse_integers_without_stored_zeros():
    adata = fov()
    for x in (adata.X, adata.layers["molecules"]):
        assert sp.isspmatrix_csr(x) and x.dtype == np.int32 and x.has_canonical_format
        assert x.data.min() > 0


def test_a_field_passes_through_a_file(tmp_path):
    adata = fov()
    adata.write_h5ad(tmp_path / "fov.h5ad")
    again = anndata.read_h5ad(tmp_path / "fov.h5ad")
    assert (adata.X != again.X).nnz == 0
    pd.testing.assert_frame_equal(adata.obs, again.obs)
    np.testing.assert_array_equal(expected(adata), expected(again))


def test_cells_respond_within_the_radius_of_a_sender_of_their_field():
    for radius in (5.0, 15.0, 30.0):
        adata = fov(radius=radius)
        assert adata.obs["is_responding"].tolist() == is_near_sender(adata, radius).tolist()
    assert 0.2 < fov().obs["is_responding"].mean() < 0.8


def test_response_genes_are_raised_beside_senders_and_in_no_other_way():
    adata = fov(n_obs=2000, lfc=3.0)
    near, response = adata.obs["is_responding"].to_numpy(), adata.var["is_response"].to_numpy()
    share = expected(adata) / adata.obsm["expected"].drop(columns="response").sum(axis=1).to_numpy()[:, None]
    np.testing.assert_allclose(
        share[near][:, response], np.exp(1.5) * np.broadcast_to(share[~near][:1, response], (near.sum(), 5))
    )
    # seen in the counts, too, in every type but that of the sender
    x = adata.X[:, response].toarray().sum(axis=1)
    for kind in adata.obs["cell_type"].cat.categories[1:]:
        mine = (adata.obs["cell_type"] == kind).to_numpy()
        assert x[mine & near].mean() > 3 * x[mine & ~near].mean()


def test_without_a_response_nothing_depends_on_the_neighbours():
    adata = fov(response_lfc=0.0)
    assert (adata.varm["expected"]["response"] == 0).all()


def test_only_senders_have_the_ligand():
    adata = fov(n_obs=2000)
    ligand = adata.X[:, adata.var["is_ligand"].to_numpy()].toarray().ravel()
    sends = (adata.obs["cell_type"] == "type1").to_numpy()
    assert adata.var["is_ligand"].sum() == 1
    assert ligand[sends].mean() > 10 * ligand[~sends].mean()


def test_counts_lie_within_poisson_bounds_of_what_is_expected():
    adata = fov(n_obs=2000, depth=1000.0)
    mean = adata.obs["expected_counts"].to_numpy()
    np.testing.assert_allclose(mean, 0.15 * expected(adata).sum(axis=1))
    assert mean.mean() == pytest.approx(150)
    z = (adata.X.sum(axis=1).A1 - mean) / np.sqrt(mean)
    assert abs(z.mean()) < 4 / np.sqrt(2000)
    assert z.std() == pytest.approx(1, abs=4 / np.sqrt(2 * 2000))


def test_the_detected_counts_are_a_part_of_the_molecules():
    adata = fov(detection=0.4)
    molecules = adata.layers["molecules"]
    assert (molecules - adata.X).min() >= 0
    assert adata.X.sum() / molecules.sum() == pytest.approx(0.4, abs=4 * np.sqrt(0.24 / molecules.sum()))
    assert (molecules != fov(detection=1.0).X).nnz == 0  # the same seed, and nothing is lost


def test_theta_gives_the_variance_of_a_negative_binomial():
    adata = fov(n_obs=3000, n_vars=40, theta=2.0)
    mean = expected(adata)
    square = (adata.layers["molecules"].toarray() - mean) ** 2
    assert (square / (mean + mean**2 / 2)).mean() == pytest.approx(1, abs=0.05)


def test_niches_are_patches_with_types_of_their_own():
    adata = fov(n_obs=2000, n_fovs=1, n_niches=4)
    distance = cdist(adata.obsm["spatial"], adata.obsm["spatial"])
    np.fill_diagonal(distance, np.inf)
    niche = adata.obs["niche"].to_numpy()
    assert (niche[distance.argmin(axis=1)] == niche).mean() > 0.8
    table = pd.crosstab(adata.obs["niche"], adata.obs["cell_type"], normalize="index")
    assert abs(table.iloc[0] - table.iloc[1]).sum() > 0.3


def test_niches_are_larger_for_longer_lengthscales():
    def same_as_next(adata):
        distance = cdist(adata.obsm["spatial"], adata.obsm["spatial"])
        np.fill_diagonal(distance, np.inf)
        niche = adata.obs["niche"].to_numpy()
        return (niche[distance.argmin(axis=1)] == niche).mean()

    rough, smooth = (same_as_next(fov(n_fovs=1, lengthscale=lengthscale)) for lengthscale in (0.3, 10.0))
    assert rough < 0.7 < smooth


def test_each_field_has_its_own_origin_and_cells_that_keep_their_distance():
    adata = fov(n_obs=601, n_fovs=3)
    assert adata.obs["fov"].value_counts().between(200, 201).all()
    for name in adata.obs["fov"].cat.categories:
        xy = adata.obsm["spatial"][adata.obs["fov"] == name]
        np.testing.assert_array_equal(xy.min(axis=0), 0)
        distance = cdist(xy, xy)[~np.eye(len(xy), dtype=bool)].reshape(len(xy), -1).min(axis=1)
        assert distance.min() > 3 and 6 < np.median(distance) < 10


def test_memory_grows_with_the_counts_not_with_the_matrix(monkeypatch):
    monkeypatch.setattr(_mixing, "ENTRIES_PER_BLOCK", 20_000)
    tracemalloc.start()
    adata = simulate_fov(2000, 2000, depth=50.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < adata.n_obs * adata.n_vars * 4  # one dense float32 copy


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_obs": 3},
        {"n_vars": 6},
        {"n_types": 1},
        {"n_niches": 0},
        {"n_fovs": 0},
        {"lengthscale": 0},
        {"n_de": 75},
        {"n_de": -1},
        {"lfc": -1},
        {"radius": -1},
        {"n_response": 0},
        {"response_lfc": np.nan},
        {"depth": 0},
        {"detection": 0},
        {"detection": 1.1},
        {"theta": 0},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        fov(**wrong)
