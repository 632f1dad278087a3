"""What all simulators that mix the cells of a reference promise."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scdance._checks import InputError, MissingKeyError
from scdance.datasets import simulate_geomx, simulate_pseudospots, simulate_visium, toy_clusters, toy_mixtures

CELLS = toy_clusters(n_obs=300, n_vars=80, k=4, n_de=15, lfc=2.0)
SIMULATORS = {
    "cells": lambda ref, key="cell_type", **more: simulate_visium(ref, key, n_rows=8, n_cols=7, **more),
    "profiles": lambda ref, key="cell_type", **more: simulate_visium(
        ref, key, n_rows=8, n_cols=7, expression="profiles", **more
    ),
    "pseudospots": lambda ref, key="cell_type", **more: simulate_pseudospots(ref, key, 56, **more),
    "geomx": lambda ref, key="cell_type", **more: simulate_geomx(ref, key, 12, **more),
    "toy": lambda ref, **more: toy_mixtures(**more)[0],
}
each_simulator = pytest.mark.parametrize("simulate", SIMULATORS.values(), ids=SIMULATORS)
of_cells = pytest.mark.parametrize(
    "simulate", [s for name, s in SIMULATORS.items() if name != "toy"], ids=[n for n in SIMULATORS if n != "toy"]
)


def same(a, b):
    return (a.X != b.X).nnz == 0 and all(a.obsm[key].equals(b.obsm[key]) for key in ("true_prop", "true_prop_rna"))


@each_simulator
def test_a_seed_gives_the_same_spots(simulate):
    assert same(simulate(CELLS), simulate(CELLS, random_state=0))
    assert not same(simulate(CELLS), simulate(CELLS, random_state=1))


@each_simulator
def test_a_generator_is_not_advanced(simulate):
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    simulate(CELLS, random_state=rng)
    assert rng.bit_generator.state == before


@each_simulator
def test_counts_are_sparse_integers_without_stored_zeros(simulate):
    x = simulate(CELLS).X
    assert sp.isspmatrix_csr(x) and x.dtype == np.int32 and x.has_canonical_format
    assert x.data.min() > 0


@each_simulator
@pytest.mark.parametrize("truth", ["true_prop", "true_prop_rna"])
def test_the_truth_lies_on_the_simplex(simulate, truth):
    found = simulate(CELLS).obsm[truth]
    assert found.to_numpy().min() >= 0
    np.testing.assert_allclose(found.sum(axis=1), 1)


@each_simulator
def test_spots_pass_through_a_file(simulate, tmp_path):
    spots = simulate(CELLS)
    spots.write_h5ad(tmp_path / "spots.h5ad")
    again = anndata.read_h5ad(tmp_path / "spots.h5ad")
    assert same(spots, again)
    pd.testing.assert_frame_equal(spots.obs, again.obs)
    assert spots.uns["simulation"].keys() == again.uns["simulation"].keys()


@of_cells
def test_a_stroke_in_the_name_of_a_type_becomes_a_bar_that_files_take(simulate, tmp_path):
    ref = CELLS.copy()
    ref.obs["cell_type"] = ref.obs["cell_type"].cat.rename_categories({"type1": "T/NK"})
    spots = simulate(ref)
    assert spots.obsm["true_prop"].columns.tolist() == ["T|NK", "type2", "type3", "type4"]
    spots.write_h5ad(tmp_path / "spots.h5ad")


@of_cells
def test_layout_of_the_counts_does_not_matter(simulate):
    dense, csc = CELLS.copy(), CELLS.copy()
    dense.X, csc.X = dense.X.toarray().astype(np.float64), csc.X.tocsc()
    assert same(simulate(CELLS), simulate(dense)) and same(simulate(CELLS), simulate(csc))


@of_cells
def test_counts_are_read_from_the_layer(simulate):
    logs = CELLS.copy()
    logs.layers["counts"], logs.layers["raw"] = CELLS.X.copy(), CELLS.X.copy()
    logs.X = CELLS.X.log1p()
    assert same(simulate(CELLS), simulate(logs)) and same(simulate(CELLS), simulate(logs, layer="raw"))


@of_cells
def test_cells_without_type_or_counts_are_not_mixed(simulate):
    few = CELLS[50:]
    more = CELLS.copy()
    labels = more.obs["cell_type"].astype(object)
    labels.iloc[:20], labels.iloc[20:40] = np.nan, ""
    more.obs["cell_type"] = labels
    x = more.X.tolil()
    x[40:50] = 0
    more.X = x.tocsr()
    assert same(simulate(few), simulate(more))


@of_cells
def test_a_missing_column_is_named_with_those_there(simulate):
    with pytest.raises(MissingKeyError, match=r"No 'celltype' in `ref.obs`; it has cell_type.*Did you mean"):
        simulate(CELLS, "celltype")


@of_cells
def test_a_single_type_is_refused(simulate):
    with pytest.raises(InputError, match=r"has 1 types in .* cells with counts \(type1\)"):
        simulate(CELLS[CELLS.obs["cell_type"] == "type1"])


@of_cells
def test_what_is_no_counts_is_refused(simulate):
    logs = CELLS.copy()
    logs.X = CELLS.X.log1p()
    with pytest.raises(InputError, match=r"`ref.X` must hold raw counts.*layer="):
        simulate(logs)
    with pytest.raises(MissingKeyError, match=r"No layer 'raw' in `ref.layers`; it has nothing"):
        simulate(CELLS, layer="raw")
