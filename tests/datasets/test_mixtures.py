import tracemalloc

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.spatial.distance import cdist

from scdance._checks import InputError, MissingKeyError
from scdance.datasets import (
    _mixtures,
    simulate_pseudospots,
    simulate_visium,
    split_reference,
    toy_clusters,
    toy_mixtures,
)

CELLS = toy_clusters(n_obs=300, n_vars=80, k=4, n_de=15, lfc=2.0)
PLAIN = {"gene_effect_sd": 0.0, "ambient": 0.0, "bleed": 0.0, "capture_sd": 0.0}
SIMULATORS = {
    "cells": lambda ref, key="cell_type", **more: simulate_visium(ref, key, n_rows=8, n_cols=7, **more),
    "profiles": lambda ref, key="cell_type", **more: simulate_visium(
        ref, key, n_rows=8, n_cols=7, expression="profiles", **more
    ),
    "pseudospots": lambda ref, key="cell_type", **more: simulate_pseudospots(ref, key, 56, **more),
    "toy": lambda ref, **more: toy_mixtures(**more)[0],
}
each_simulator = pytest.mark.parametrize("simulate", SIMULATORS.values(), ids=SIMULATORS)
of_cells = pytest.mark.parametrize(
    "simulate", [s for name, s in SIMULATORS.items() if name != "toy"], ids=[n for n in SIMULATORS if n != "toy"]
)


def visium(**more):
    return simulate_visium(CELLS, "cell_type", **{"n_rows": 20, "n_cols": 20} | more)


def same(a, b):
    return (a.X != b.X).nnz == 0 and all(a.obsm[key].equals(b.obsm[key]) for key in ("true_prop", "true_prop_rna"))


def profiles(ref):
    """Mean counts of each type, in the order of the names."""
    labels = ref.obs["cell_type"].to_numpy()
    return np.stack([ref.X[labels == name].mean(axis=0).A1 for name in sorted(set(labels))])


def morans_i(spots):
    """Moran's I of the proportions by its definition, mean over types; weight 1 up to 1.3 pitches."""
    distance = cdist(spots.obsm["spatial"], spots.obsm["spatial"])
    w = (distance > 0) & (distance < 1.3 * _mixtures.PITCH)
    z = spots.obsm["true_prop"].to_numpy()
    z = z - z.mean(axis=0)
    return np.mean(len(z) / w.sum() * np.diag(z.T @ w @ z) / (z**2).sum(axis=0))


# All simulators


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


# simulate_visium


def test_neighbours_on_the_hexagonal_lattice_are_six_at_one_distance():
    spots = visium(n_rows=5, n_cols=5)
    distance = np.sort(np.linalg.norm(spots.obsm["spatial"] - spots.obsm["spatial"][12], axis=1))
    np.testing.assert_allclose(distance[1:7], spots.uns["simulation"]["pitch"])
    assert distance[7] > 1.7 * distance[1]


def test_neighbours_on_the_square_lattice_are_four_at_one_distance():
    distance = cdist(visium(lattice="square", n_rows=5, n_cols=5).obsm["spatial"], [[200.0, 200.0]])
    assert np.isclose(distance, _mixtures.PITCH).sum() == 4


def test_array_rows_and_columns_are_numbered_as_visium_does():
    spots = visium(n_rows=4, n_cols=3)
    assert spots.obs["array_row"].tolist() == np.repeat(range(4), 3).tolist()
    assert spots.obs["array_col"].tolist() == [0, 2, 4, 1, 3, 5] * 2


def test_spots_lie_where_they_are_given():
    xy = np.random.default_rng(0).uniform(0, 9, (50, 2))
    spots = visium(lattice=xy)
    np.testing.assert_array_equal(spots.obsm["spatial"], xy)
    assert "array_row" not in spots.obs


@pytest.mark.parametrize("expression", ["cells", "profiles"])
@pytest.mark.parametrize("depth", [300, 5000])
def test_total_counts_lie_within_poisson_bounds_of_what_is_expected(expression, depth):
    spots = visium(expression=expression, depth=depth)
    expected = spots.obs["expected_counts"].to_numpy()
    assert expected.mean() == pytest.approx(depth)
    z = (spots.X.sum(axis=1).A1 - expected) / np.sqrt(expected)
    assert abs(z.mean()) < 4 / np.sqrt(400)
    assert z.std() == pytest.approx(1, abs=0.15)  # 4 standard errors


def test_theta_gives_the_variance_of_a_negative_binomial():
    # mean profiles of very many cells, without pattern: every spot has nearly the same mean
    more = PLAIN | {"expression": "profiles", "n_cells_per_spot": 1e5, "temperature": 1e3}
    x = visium(n_rows=40, n_cols=50, theta=2.0, **more).X.toarray()
    mean = x.mean(axis=0)
    np.testing.assert_allclose(np.median(x.var(axis=0) / (mean + mean**2 / 2)), 1, rtol=0.05)


@pytest.mark.parametrize("expression", ["cells", "profiles"])
def test_expected_genes_are_those_of_the_mixed_types(expression):
    spots = visium(expression=expression, depth=50_000, n_cells_per_spot=200, **PLAIN)
    expected = (spots.obsm["true_prop"].to_numpy() @ profiles(CELLS)).sum(axis=0)
    found = spots.X.sum(axis=0).A1
    np.testing.assert_allclose(found / found.sum(), expected / expected.sum(), rtol=0.1)


def test_both_truths_differ_by_the_rna_of_the_types():
    ref = CELLS.copy()
    ref.X = sp.csr_matrix(sp.diags(np.where(ref.obs["cell_type"] == "type1", 3.0, 1.0)) @ ref.X)
    spots = simulate_visium(ref, "cell_type", n_rows=9, n_cols=9, expression="profiles")
    expected = spots.obsm["true_prop"].to_numpy() * profiles(ref).sum(axis=1)
    np.testing.assert_allclose(spots.obsm["true_prop_rna"], expected / expected.sum(axis=1, keepdims=True))


def test_the_platform_changes_genes_by_factors_of_the_wanted_spread():
    more = PLAIN | {"expression": "profiles", "depth": 1e5}
    plain, changed = (visium(**more | {"gene_effect_sd": sd}).X.sum(axis=0).A1 for sd in (0.0, 0.3))
    assert np.log(changed / plain).std() == pytest.approx(0.3, abs=0.1)


def test_proportions_are_smoother_for_longer_lengthscales():
    rough, middle, smooth = (
        morans_i(visium(pattern="gp", lengthscale=lengthscale, n_cells_per_spot=100)) for lengthscale in (0.2, 2.0, 6.0)
    )
    assert abs(rough) < 0.1 and rough + 0.3 < middle < smooth - 0.1


def test_all_patterns_but_random_are_spatial():
    found = {pattern: morans_i(visium(pattern=pattern)) for pattern in _mixtures.PATTERNS}
    assert abs(found.pop("random")) < 0.1
    assert min(found.values()) > 0.4


def test_layers_follow_one_another_down_the_tissue():
    top = visium(pattern="layers", temperature=0.05, lengthscale=1.0).obsm["true_prop"].idxmax(axis=1)
    runs = top.to_numpy().reshape(20, 20)
    assert (runs == runs[:, :1]).mean() > 0.9
    first = runs[:, 0]
    assert (first[1:] != first[:-1]).sum() == 3


def test_spots_are_purer_at_lower_temperature():
    pure, mixed = (visium(temperature=t).obsm["true_prop"].max(axis=1).mean() for t in (0.1, 10.0))
    assert pure > mixed + 0.3


def test_spots_have_the_wanted_number_of_cells_and_at_least_one():
    n_cells = visium(n_rows=40, n_cols=40, n_cells_per_spot=1.0).obs["n_cells"]
    assert n_cells.min() == 1
    assert n_cells.mean() == pytest.approx(1 + np.exp(-1), abs=0.1)  # a Poisson number, 1 instead of 0
    truth = visium().obsm["true_prop"].mul(visium().obs["n_cells"], axis=0).to_numpy()
    np.testing.assert_allclose(truth, truth.round(), atol=1e-9)


def test_dropped_types_occur_nowhere():
    spots = visium(drop_types=["type2"])
    for truth in ("true_prop", "true_prop_rna"):
        assert (spots.obsm[truth]["type2"] == 0).all()
        assert (spots.obsm[truth].drop(columns="type2").sum() > 0).all()


def test_rna_bleeds_into_the_ring_around_a_spot_and_none_is_lost():
    spots = _mixtures._layout("hex", 5, 5)
    moved = _mixtures._bleeding(spots, 0.12).toarray()
    np.testing.assert_allclose(moved.sum(axis=0), 1)
    distance = np.linalg.norm(spots.xy - spots.xy[12], axis=1)
    np.testing.assert_allclose(moved[:, 12], np.where(distance == 0, 0.88, np.where(distance < 110, 0.02, 0)))


def test_ambient_counts_have_the_mean_profile():
    """With nearly all counts ambient, the genes of pure spots are those of the whole slice."""
    more = {"temperature": 0.01, "depth": 20_000, "bleed": 0.0}
    x = {share: visium(ambient=share, **more).X.toarray() for share in (0.0, 0.99)}
    spread = {share: (y / y.sum(axis=1, keepdims=True)).std(axis=0).mean() for share, y in x.items()}
    assert spread[0.99] < spread[0.0] / 5


def test_blocks_do_not_change_the_counts(monkeypatch):
    whole = visium(n_rows=6, n_cols=6)
    monkeypatch.setattr(_mixtures, "ENTRIES_PER_BLOCK", 400)
    assert same(whole, visium(n_rows=6, n_cols=6))


def test_memory_grows_with_the_counts_not_with_the_matrix(monkeypatch):
    monkeypatch.setattr(_mixtures, "ENTRIES_PER_BLOCK", 20_000)
    ref = toy_clusters(200, 2000, k=3, depth=200)
    tracemalloc.start()
    spots = simulate_visium(ref, "cell_type", n_rows=50, n_cols=40, depth=20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < spots.shape[0] * spots.shape[1] * 4  # one dense float32 copy


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_rows": 0},
        {"n_cols": -1},
        {"lengthscale": 0},
        {"temperature": 0},
        {"n_cells_per_spot": 0},
        {"depth": np.nan},
        {"theta": 0},
        {"capture_sd": -1},
        {"gene_effect_sd": -1},
        {"ambient": 1.0},
        {"bleed": -0.1},
        {"lattice": np.zeros((3, 3))},
        {"lattice": np.zeros((3, 2))},
        {"drop_types": ["type1", "type2", "type3"]},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        visium(**wrong)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [({"pattern": "layer"}, "layers"), ({"lattice": "hexx"}, "hex"), ({"drop_types": ["Type3"]}, "type3")],
)
def test_a_misspelt_choice_is_refused_with_the_nearest(wrong, right):
    with pytest.raises(InputError, match=f"{next(iter(wrong))} is .*Did you mean '{right}'"):
        visium(**wrong)


# simulate_pseudospots


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


# split_reference and toy_mixtures


def test_the_parts_share_no_cell_and_lose_none():
    mixing, ref = split_reference(CELLS, fraction=0.3)
    assert sorted([*mixing.obs_names, *ref.obs_names]) == sorted(CELLS.obs_names)
    assert mixing.n_obs == 90
    assert (mixing.X != CELLS[mixing.obs_names].X).nnz == 0


def test_a_donor_goes_to_one_side_as_a_whole():
    cells = toy_clusters(n_obs=200, n_vars=20, n_de=3, batches=5)
    mixing, ref = split_reference(cells, by="batch", fraction=0.4)
    assert set(mixing.obs["batch"]).isdisjoint(ref.obs["batch"])
    assert mixing.n_obs == pytest.approx(80, abs=25)  # a batch has about 40


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_no_part_is_empty(fraction):
    parts = split_reference(toy_clusters(n_obs=60, n_vars=20, n_de=3, batches=2), by="batch", fraction=fraction)
    assert min(part.n_obs for part in parts) > 0


def test_a_split_is_seeded():
    one, same_again, other = (split_reference(CELLS, random_state=seed)[0].obs_names for seed in (0, 0, 1))
    assert one.equals(same_again) and not one.equals(other)


def test_splits_that_cannot_be_are_refused():
    cells = CELLS.copy()
    cells.obs["donor"] = [np.nan, *["d"] * 299]
    with pytest.raises(InputError, match="1 of 300 cells have no 'donor'"):
        split_reference(cells, by="donor")
    with pytest.raises(InputError, match="has 1 "):
        split_reference(cells[1:], by="donor")
    with pytest.raises(MissingKeyError, match=r"No 'donr' in `ref.obs`; it has cell_type, donor"):
        split_reference(cells, by="donr")
    with pytest.raises(InputError, match=r"fraction is 1\.0"):
        split_reference(cells, fraction=1.0)


def test_toy_spots_and_reference_share_genes_and_types():
    spots, ref = toy_mixtures(n_obs=50, n_vars=40, k=5, n_ref=60)
    assert spots.shape == (50, 40) and ref.n_vars == 40 and abs(ref.n_obs - 60) <= 5
    assert spots.var_names.equals(ref.var_names)
    assert sorted(ref.obs["cell_type"].unique()) == spots.obsm["true_prop"].columns.tolist()
    assert spots.obsm["spatial"].shape == (50, 2)


def test_toy_spots_are_mixed_from_other_cells_than_the_reference(monkeypatch):
    mixed = []
    simulate = _mixtures.simulate_visium
    monkeypatch.setattr(_mixtures, "simulate_visium", lambda ref, *a, **k: mixed.append(ref) or simulate(ref, *a, **k))
    _, ref = toy_mixtures()
    assert set(mixed[0].obs_names).isdisjoint(ref.obs_names)


def test_toy_spots_can_be_told_apart_by_least_squares():
    from scipy.optimize import nnls

    spots, ref = toy_mixtures()
    weight = np.stack([nnls(profiles(ref).T, y)[0] for y in spots.X.toarray().astype(float)])
    error = weight / weight.sum(axis=1, keepdims=True) - spots.obsm["true_prop"].to_numpy()
    assert np.sqrt(np.mean(error**2)) < 0.15


@pytest.mark.parametrize("wrong", [{"n_obs": 1}, {"k": 1}, {"n_ref": 5}, {"n_vars": 0}], ids=str)
def test_toys_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        toy_mixtures(**wrong)
