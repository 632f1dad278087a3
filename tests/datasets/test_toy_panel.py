from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from scdance import datasets
from scdance._checks import InputError
from scdance.datasets import _load, toy_panel
from scdance.pp import sparsity, sparsity_bin


def test_a_seed_gives_the_same_counts_and_a_generator_is_not_advanced():
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    one, same, other = toy_panel(50), toy_panel(50, random_state=0), toy_panel(50, random_state=rng)
    for i in range(2):
        assert (one[i].X != same[i].X).nnz == 0
        assert sp.isspmatrix_csr(one[i].X) and one[i].X.dtype == np.int32
    assert one[0].var_names.tolist() != other[0].var_names.tolist()
    assert rng.bit_generator.state == before


def test_both_sides_have_the_same_types_but_no_cell_and_the_panel_a_part_of_the_genes():
    adata, ref = toy_panel(100, 80, 30)
    assert (adata.shape, ref.shape) == ((100, 30), (100, 80))
    assert not set(adata.obs_names) & set(ref.obs_names)
    assert set(adata.var_names) < set(ref.var_names)
    assert set(adata.obs["cell_type"].cat.categories) == set(ref.obs["cell_type"].cat.categories)
    assert adata.obsm["spatial"].shape == (100, 2) and "spatial" not in ref.obsm


def test_platforms_differ_gene_by_gene_as_far_as_asked():
    def spread(effect: float) -> float:
        adata, ref = toy_panel(2000, 50, 50, n_de=0, depth=20_000, gene_effect_sd=effect)
        ratio = np.log(ref.X.sum(axis=0).A1 / adata.X.sum(axis=0).A1)
        return float(np.std(ratio))

    assert spread(0.0) < 0.15 < 0.25 < spread(0.5) < 0.65


@pytest.mark.parametrize(
    "wrong", [{"n_panel": 201}, {"n_panel": 0}, {"n_obs": 1}, {"gene_effect_sd": -1}, {"depth": 0}, {"n_types": 1}]
)
def test_numbers_that_cannot_be_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        toy_panel(**wrong)


def test_held_out_genes_are_of_all_degrees_of_sparsity_and_no_part_of_the_object():
    one, again, other = (datasets.problem("predict_genes", "simulated_panel", seed) for seed in (0, 0, 1))
    genes = one.arguments["genes"]
    assert genes == again.arguments["genes"] == one.truth.var_names.tolist() != other.arguments["genes"]
    assert not set(genes) & set(one.data.var_names)
    assert set(genes) | set(one.data.var_names) < set(one.arguments["ref"].var_names)
    assert one.data.n_vars + len(genes) == 200 and one.data.obs_names.equals(one.truth.obs_names)
    sizes = np.bincount(sparsity_bin(sparsity(one.truth.X)), minlength=4)
    assert (sizes <= 25).all() and (sizes > 0).all()
    for each in (one.data, one.truth, one.arguments["ref"]):
        assert not (each.obs.shape[1] or each.uns or each.layers or each.varm)
    assert list(one.data.obsm) == ["spatial"]


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "panel", "ref", "n_asked"),
    [("starmap_mpfc_genes", (3190, 125), (10309, 1677), 41), ("pbmc10k_genes", (3427, 300), (3428, 4000), 100)],
)
def test_real_panels_have_the_genes_that_the_registry_says(name, panel, ref, n_asked):
    if _load._in_data_dir(datasets.info(name)) is None:
        pytest.skip(f"{name} is not in SCDANCE_DATA_DIR")
    one = datasets.problem("predict_genes", name)
    assert (one.data.shape, one.arguments["ref"].shape, one.truth.n_vars) == (panel, ref, n_asked)
    assert not set(one.data.obs_names) & set(one.arguments["ref"].obs_names)
