from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from scdance import datasets
from scdance._checks import InputError
from scdance.datasets import _load, toy_perturbed


def test_a_seed_gives_the_same_counts_and_a_generator_is_not_advanced():
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    one, same, other = toy_perturbed(100), toy_perturbed(100, random_state=0), toy_perturbed(100, random_state=rng)
    assert (one.X != same.X).nnz == 0 and (one.X != other.X).nnz > 0
    assert rng.bit_generator.state == before
    assert sp.isspmatrix_csr(one.X) and one.X.dtype == np.int32


def test_planted_changes_are_in_the_counts_and_pairs_add_up():
    adata = toy_perturbed(6000, 100, 3, 2, n_de=20, theta=50, depth=10_000)
    lfc = adata.varm["lfc"]
    np.testing.assert_allclose(lfc["gene_0+gene_1"], lfc["gene_0"] + lfc["gene_1"], atol=1e-6)
    assert lfc.loc["gene_1", "gene_1"] == pytest.approx(-np.log(4))
    names = adata.obs["perturbation"].to_numpy()
    share = {name: adata.X[names == name].mean(axis=0).A1 for name in np.unique(names)}
    for name in lfc:
        found = np.log(share[name] / share[name].sum()) - np.log(share["control"] / share["control"].sum())
        assert np.std(found - lfc[name]) < 0.1  # all shares move a little where the sum does
    sizes = adata.obs["perturbation"].value_counts()
    assert sizes["control"] == 1200 and sizes.drop("control").nunique() == 1


@pytest.mark.parametrize("wrong", [{"n_singles": 1}, {"n_doubles": 29}, {"n_de": 201}, {"n_obs": 20}, {"theta": 0}])
def test_numbers_that_cannot_be_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        toy_perturbed(**wrong)


@pytest.fixture
def given(monkeypatch):
    """The problem of a seed."""
    return lambda seed=0: datasets.problem("predict_perturbation", "simulated_screen", seed)


def test_some_perturbations_are_asked_and_their_cells_are_the_truth(given):
    one, again, other = given(), given(), given(1)
    targets, key = one.arguments["targets"], one.arguments["perturbation_key"]
    assert len(targets) == 5 == len(set(targets)) and targets == again.arguments["targets"]
    assert targets != other.arguments["targets"]
    assert set(one.truth.obs[key]) == set(targets) and not set(one.data.obs[key]) & set(targets)
    assert "control" in set(one.data.obs[key])
    assert one.data.n_obs + one.truth.n_obs == 2000 and not set(one.data.obs_names) & set(one.truth.obs_names)
    for each in (one.data, one.truth):
        assert list(each.obs) == [key]
        assert not (each.uns or each.obsm or each.varm or each.layers)
    assert set(one.data.obs[key].cat.categories) <= {*one.data.obs[key]}


@pytest.mark.real
def test_the_screen_is_asked_for_a_quarter_of_its_perturbations():
    entry = datasets.info("papalexi_screen")
    if _load._in_data_dir(entry) is None:
        pytest.skip(f"{entry['file']} is not in SCDANCE_DATA_DIR")
    one = datasets.problem("predict_perturbation", "papalexi_screen")
    assert one.data.n_vars == 299 and len(one.arguments["targets"]) == 6
    assert one.truth.obs["perturbation"].value_counts().min() >= 20
