import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scdance._checks import InputError
from scdance.datasets import simulate_pseudospots, toy_clusters

CELLS = toy_clusters(n_obs=300, n_vars=80, k=4, n_de=15, lfc=2.0)


def test_a_pseudospot_is_the_sum_of_its_cells():
    """Every cell has a gene of its own, so that the counts say which cells were drawn."""
    labels = pd.DataFrame({"kind": np.repeat(["a", "b", "c"], 4)}, index=[f"c{i}" for i in range(12)])
    ref = anndata.AnnData(sp.csr_matrix(np.diag(np.arange(1, 13))), obs=labels)
    spots = simulate_pseudospots(ref, "kind", 30)
    drawn = spots.X.toarray() / np.arange(1, 13)
    np.testing.assert_array_equal(drawn.sum(axis=1), spots.obs["n_cells"])
    by_type = drawn.reshape(30, 3, 4).sum(axis=2)
    np.testing.assert_allclose(spots.obsm["true_prop"], by_type / by_type.sum(axis=1, keepdims=True))
    rna = spots.X.toarray().reshape(30, 3, 4).sum(axis=2)
    np.testing.assert_allclose(spots.obsm["true_prop_rna"], rna / rna.sum(axis=1, keepdims=True))


def test_every_number_of_cells_in_the_range_is_drawn():
    n_cells = simulate_pseudospots(CELLS, "cell_type", 500, n_cells=(3, 6)).obs["n_cells"]
    assert set(n_cells) == {3, 4, 5, 6}


def test_spots_above_the_limit_are_thinned_to_the_target():
    whole = simulate_pseudospots(CELLS, "cell_type", 400, max_umi=1e9)
    thinned = simulate_pseudospots(CELLS, "cell_type", 400, max_umi=10_000, target_umi=8_000)
    before, after = whole.X.sum(axis=1).A1, thinned.X.sum(axis=1).A1
    deep = before > 10_000
    assert 0.2 < deep.mean() < 0.9
    assert (whole.X[~deep] != thinned.X[~deep]).nnz == 0
    assert (thinned.X > whole.X).nnz == 0
    # binomial: mean 8,000 and variance 8,000 (1 - 8,000 / before)
    z = (after[deep] - 8_000) / np.sqrt(8_000 * (1 - 8_000 / before[deep]))
    assert abs(z.mean()) < 4 / np.sqrt(deep.sum()) and z.std() == pytest.approx(1, abs=0.25)


def test_spots_have_at_least_the_wanted_number_of_types():
    truth = simulate_pseudospots(CELLS, "cell_type", 100, n_cells=(3, 5), min_types=3).obsm["true_prop"]
    assert (truth > 0).sum(axis=1).min() == 3


def test_without_replacement_no_cell_is_in_a_spot_twice():
    few = CELLS[:6].copy()
    spots = simulate_pseudospots(few, "cell_type", 20, n_cells=(6, 6), replace=False)
    np.testing.assert_array_equal(spots.X.toarray(), np.tile(few.X.sum(axis=0).A1, (20, 1)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"n": 0},
        {"n_cells": (0, 3)},
        {"n_cells": (5, 3)},
        {"min_types": 3},
        {"min_types": 5, "n_cells": (6, 8)},
        {"target_umi": 30_000},
        {"max_umi": 0},
        {"n_cells": (2, 301), "replace": False},
    ],
    ids=str,
)
def test_numbers_that_do_not_fit_are_refused_by_name(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        simulate_pseudospots(CELLS, "cell_type", **wrong)


def test_types_that_never_meet_are_reported():
    labels = pd.DataFrame({"kind": ["a"] * 20_000 + ["b"]}, index=[f"c{i}" for i in range(20_001)])
    ref = anndata.AnnData(sp.csr_matrix(np.ones((20_001, 1))), obs=labels)
    with pytest.raises(InputError, match="min_types=2"):
        simulate_pseudospots(ref, "kind", 20, n_cells=(2, 2), min_types=2)
