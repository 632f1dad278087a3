import numpy as np
import pytest
from scipy.sparse import csr_matrix

import scdance as sd
from scdance._checks import InputError
from scdance.pp import canonical, group_moments, unexplained


@pytest.fixture
def fit():
    """Counts that are Poisson around mixtures of known profiles."""
    rng = np.random.default_rng(0)
    profiles = rng.gamma(1, size=(4, 150)) * 8
    amounts = rng.dirichlet(np.ones(4), 300)
    return profiles, amounts, amounts @ profiles, rng


def test_noise_of_counting_is_explained(fit):
    profiles, amounts, mean, rng = fit
    found = unexplained(csr_matrix(rng.poisson(mean)), amounts, profiles)
    assert np.median(found.share) < 0.01
    assert (found.share > found.limit).mean() < 0.02


def test_a_gene_that_is_seen_more_everywhere_is_no_missing_type(fit):
    profiles, amounts, mean, rng = fit
    factor = rng.lognormal(0, 0.5, 150)
    found = unexplained(csr_matrix(rng.poisson(mean * factor)), amounts, profiles)
    assert np.median(found.share) < 0.02


def test_the_unit_of_the_amounts_is_free(fit):
    profiles, amounts, mean, rng = fit
    counts = csr_matrix(rng.poisson(mean))
    one, other = unexplained(counts, amounts, profiles), unexplained(counts, 7 * amounts, profiles / 3)
    np.testing.assert_allclose(one.share, other.share, atol=1e-9)


def test_cells_with_a_profile_that_is_missing_stand_out_with_its_genes(fit):
    profiles, amounts, mean, rng = fit
    new = np.zeros(150)
    new[[3, 14, 15]] = 150
    mean[:12] = 0.5 * mean[:12] + 0.5 * new
    found = unexplained(csr_matrix(rng.poisson(mean)), amounts, profiles)
    assert set(np.flatnonzero(found.share > found.limit)) >= set(range(12))
    assert (found.share > found.limit).sum() < 16
    assert set(found.genes[:3]) == {3, 14, 15}


def test_blocks_and_shapes(fit):
    profiles, amounts, mean, rng = fit
    counts = csr_matrix(rng.poisson(np.tile(mean, (5, 1))))
    found = unexplained(counts, np.tile(amounts, (5, 1)), profiles)  # more rows than one block
    assert found.share.shape == (1500,)
    with pytest.raises(InputError, match="do not go together"):
        unexplained(counts, amounts, profiles)


def test_cells_without_counts_have_nothing_unexplained(fit):
    profiles, amounts, mean, rng = fit
    counts = rng.poisson(mean)
    counts[0] = 0
    assert unexplained(csr_matrix(counts), amounts, profiles).share[0] == 0


def test_a_type_left_out_of_the_reference_is_noticed_where_it_is():
    spots, ref = sd.datasets.toy_mixtures(n_obs=300, n_vars=200, k=4, n_ref=400, depth=1000)
    kept = ref[ref.obs["cell_type"] != "type3"].copy()
    kept.obs["cell_type"] = kept.obs["cell_type"].cat.remove_unused_categories()
    sd.tl.deconvolve(spots, kept, method="nnls", labels_key="cell_type", n_boot=0)
    codes = kept.obs["cell_type"].cat.codes.to_numpy()
    profiles = group_moments(canonical(kept.X), codes, 3).mean
    found = unexplained(canonical(spots.X), spots.obsm["nnls_abundance"].to_numpy(np.float64), profiles)
    assert np.corrcoef(found.share, spots.obsm["true_prop"]["type3"])[0, 1] > 0.6
