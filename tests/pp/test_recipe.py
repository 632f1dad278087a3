"""Each step of a recipe against scanpy, scikit-learn or a loop by hand."""

from __future__ import annotations

import json
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
from sklearn.preprocessing import StandardScaler

from scdance._checks import InputError
from scdance.datasets import toy_clusters
from scdance.pp import FittedRecipe, OnDisk, Recipe


@pytest.fixture(scope="module")
def counts() -> sp.csr_matrix:
    return toy_clusters(n_obs=80, n_vars=50, k=3, n_de=10, depth=300).X.astype(np.float32)


@pytest.fixture(scope="module")
def names() -> np.ndarray:
    return np.array([f"g{i}" for i in range(50)])


def depth_of(counts: sp.csr_matrix) -> np.ndarray:
    return np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()


def fitted(counts: sp.csr_matrix, recipe: Recipe, **how: Any) -> FittedRecipe:
    return recipe.fit(counts, depth_of(counts), [f"g{i}" for i in range(counts.shape[1])], **how)


def applied(counts: sp.csr_matrix, **steps: Any) -> np.ndarray:
    """Dense values after the whole recipe."""
    recipe = fitted(counts, Recipe(**steps))
    x, _ = recipe.apply(counts, np.arange(counts.shape[0]), depth_of(counts), recipe.columns)
    return recipe.dense(x)


def kept(counts: sp.csr_matrix, **steps: Any) -> list[str]:
    return fitted(counts, Recipe(**steps)).var_names.tolist()


# ------------------------------------------------------------------ steps


@pytest.mark.parametrize("target", [None, 1e4])
def test_normalize_total_and_log1p_are_those_of_scanpy(counts, target):
    theirs = ad.AnnData(counts.copy())
    sc.pp.normalize_total(theirs, target_sum=target)
    np.testing.assert_allclose(applied(counts, normalize_total={"target": target}), theirs.X.toarray(), rtol=1e-6)
    sc.pp.log1p(theirs)
    found = applied(counts, normalize_total={"target": target}, log1p={})
    np.testing.assert_allclose(found, theirs.X.toarray(), rtol=1e-6)


def test_depth_is_that_of_all_genes_also_where_some_are_kept(counts):
    found = applied(counts, select_genes={"n_top": 10}, normalize_total={"target": 100})
    columns = fitted(counts, Recipe(select_genes={"n_top": 10})).columns
    expected = counts.toarray()[:, columns] / depth_of(counts)[:, None] * 100
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_row_share_adds_up_to_one_and_leaves_empty_rows_empty(counts):
    x = counts.toarray()
    x[4] = 0
    found = applied(sp.csr_matrix(x), row_share={})
    np.testing.assert_allclose(found, x / np.maximum(x.sum(axis=1, keepdims=True), 1), rtol=1e-6)


def test_tfidf_is_the_formula(counts):
    x = counts.toarray().astype(np.float64)
    weights = x * len(x) / x.sum(axis=0)
    expected = np.log1p(1e4 * weights / weights.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(applied(counts, tfidf={}), expected, rtol=1e-6)


def test_tfidf_of_a_cell_does_not_depend_on_its_depth(counts):
    recipe = fitted(counts, Recipe(tfidf={}))
    rows = np.arange(80)
    once, _ = recipe.apply(counts, rows, depth_of(counts), recipe.columns)
    deeper, _ = recipe.apply(counts * 10, rows, depth_of(counts) * 10, recipe.columns)
    np.testing.assert_allclose(deeper.toarray(), once.toarray(), rtol=1e-6)


def test_tfidf_gives_nothing_to_features_that_no_training_cell_has(counts):
    training = counts.toarray()
    training[:, 7] = 0
    recipe = fitted(sp.csr_matrix(training), Recipe(tfidf={}))
    assert counts[:, 7].sum() > 0
    found, _ = recipe.apply(counts, np.arange(80), depth_of(counts), recipe.columns)
    expected, _ = recipe.apply(sp.csr_matrix(training), np.arange(80), depth_of(counts), recipe.columns)
    np.testing.assert_allclose(found.toarray(), expected.toarray(), rtol=1e-6)


def test_clr_is_the_formula_over_all_features(counts):
    x = counts.toarray().astype(np.float64)
    expected = [[np.log1p(value / np.exp(sum(np.log1p(v) for v in cell) / 50)) for value in cell] for cell in x]
    np.testing.assert_allclose(applied(counts, clr={}), expected, rtol=1e-6)


@pytest.mark.parametrize("step", ["tfidf", "clr"])
def test_whole_row_steps_of_counts_stay_sparse_and_leave_empty_rows_empty(counts, step):
    x = counts.toarray()
    x[4] = 0
    x = sp.csr_matrix(x)
    recipe = fitted(x, Recipe(**{step: {}}))
    found, raw = recipe.apply(x, np.arange(80), depth_of(x), recipe.columns)
    assert sp.isspmatrix_csr(found) and found.dtype == np.float32
    np.testing.assert_array_equal(found.indices, raw.indices)
    assert found[4].nnz == 0


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("clip", [None, 1.5])
def test_center_scale_is_the_standard_scaler_with_the_unbiased_variance(counts, scale, clip):
    theirs = StandardScaler(with_std=scale).fit(counts.toarray().astype(np.float64))
    expected = theirs.transform(counts.toarray()) * (np.sqrt(79 / 80) if scale else 1)
    expected = expected if clip is None else expected.clip(-clip, clip)
    np.testing.assert_allclose(applied(counts, center_scale={"scale": scale, "clip": clip}), expected, atol=2e-5)


@pytest.mark.parametrize("value", [0.0, 1.1, 3.0, 1234.5])
def test_center_scale_makes_a_flat_gene_zero(counts, value):
    x = counts.toarray()
    x[:, 7] = value
    assert np.abs(applied(sp.csr_matrix(x), center_scale={})[:, 7]).max() < 1e-3 * max(value, 1)


@pytest.mark.parametrize("theta", [100.0, 3.0])
def test_pearson_residuals_are_those_of_scanpy(counts, theta):
    theirs = ad.AnnData(counts.astype(np.float64))
    sc.experimental.pp.normalize_pearson_residuals(theirs, theta=theta)
    np.testing.assert_allclose(applied(counts, pearson_residuals={"theta": theta}), theirs.X, rtol=1e-4, atol=1e-5)


def test_pearson_residuals_of_chosen_genes_are_those_of_scanpy_on_these_genes(counts):
    columns = fitted(counts, Recipe(select_genes={"n_top": 20})).columns
    theirs = ad.AnnData(counts[:, columns].astype(np.float64))
    sc.experimental.pp.normalize_pearson_residuals(theirs)
    found = applied(counts, select_genes={"n_top": 20}, pearson_residuals={})
    np.testing.assert_allclose(found, theirs.X, rtol=1e-4, atol=1e-5)


def test_pearson_residuals_of_genes_and_cells_without_counts_are_zero(counts):
    x = counts.toarray()
    x[:, 3] = 0
    x[5] = 0
    x[5, 3] = 0
    found = applied(sp.csr_matrix(x), pearson_residuals={})
    assert (found[:, 3] == 0).all()
    assert (found[5] == 0).all()


def test_filter_genes_keeps_what_has_enough_counts(counts):
    total = counts.toarray().sum(axis=0)
    least = float(np.sort(total)[10])
    assert kept(counts, filter_genes={"min_counts": least}) == [f"g{i}" for i in np.flatnonzero(total >= least)]


# ------------------------------------------------------------------ choosing genes


def poisson_deviance(x: np.ndarray, depth: np.ndarray) -> list[float]:
    """2 Σ [x log(x/μ) − (x − μ)] with μ = depth × share of the gene, cell by cell."""
    found = []
    for gene in range(x.shape[1]):
        share, total = x[:, gene].sum() / depth.sum(), 0.0
        for value, n in zip(x[:, gene], depth, strict=True):
            mu = n * share
            total += 2 * ((value * np.log(value / mu) if value else 0.0) - (value - mu))
        found.append(total)
    return found


def binomial_deviance(x: np.ndarray, depth: np.ndarray) -> list[float]:
    """2 Σ [x log(x/(nπ)) + (n−x) log((n−x)/(n(1−π)))], what the Poisson formula is the limit of."""
    found = []
    for gene in range(x.shape[1]):
        share = x[:, gene].sum() / depth.sum()
        hit, miss = x[:, gene], depth - x[:, gene]
        one = np.where(hit > 0, hit * np.log(np.maximum(hit, 1) / (depth * share)), 0)
        other = miss * np.log(miss / (depth * (1 - share)))
        found.append(2 * (one + other).sum())
    return found


@pytest.mark.parametrize("before", [{}, {"filter_genes": {"min_counts": 100}}])
def test_genes_are_ranked_by_poisson_deviance(counts, before):
    x = counts.toarray().astype(np.float64)
    there = np.flatnonzero(x.sum(axis=0) >= 100) if before else np.arange(50)
    deviance = poisson_deviance(x[:, there], x.sum(axis=1))
    for n in (1, 5, 20):
        best = np.sort(there[np.argsort(deviance)[::-1][:n]])
        assert kept(counts, **before, select_genes={"n_top": n}) == [f"g{i}" for i in best]


def test_the_deviance_is_that_of_the_formula_and_close_to_the_binomial(counts):
    from scdance.pp._recipe import _Block, _deviance

    x = counts.toarray().astype(np.float64)
    found = _deviance(lambda: iter([_Block(counts, counts, depth_of(counts))]))
    np.testing.assert_allclose(found, poisson_deviance(x, x.sum(axis=1)), rtol=1e-9)
    binomial = np.argsort(binomial_deviance(x, x.sum(axis=1)))[-15:]
    assert len(set(binomial) & set(np.argsort(found)[-15:])) >= 13


def test_the_variance_flavour_ranks_the_values_so_far(counts):
    x = np.log1p(counts.toarray())
    best = np.sort(np.argsort(x.var(axis=0))[-12:])
    assert kept(counts, log1p={}, select_genes={"n_top": 12, "flavor": "variance"}) == [f"g{i}" for i in best]


@pytest.mark.parametrize("flavor", ["seurat_v3", "seurat", "cell_ranger"])
def test_flavours_of_scanpy_choose_the_genes_of_scanpy(flavor):
    counts = toy_clusters(n_obs=80, n_vars=300, k=3, n_de=40, depth=3000).X.astype(np.float32)
    theirs = ad.AnnData(counts.copy())
    steps = {} if flavor == "seurat_v3" else {"normalize_total": {}, "log1p": {}}
    if steps:
        sc.pp.normalize_total(theirs)
        sc.pp.log1p(theirs)
    sc.pp.highly_variable_genes(theirs, n_top_genes=15, flavor=flavor)
    found = kept(counts, **steps, select_genes={"n_top": 15, "flavor": flavor})
    assert found == [f"g{i}" for i in np.flatnonzero(theirs.var["highly_variable"])]


@pytest.mark.parametrize("n_top", [None, 50, 2000])
def test_all_genes_are_kept_where_that_is_asked(counts, n_top):
    assert kept(counts, select_genes={"n_top": n_top}) == [f"g{i}" for i in range(50)]


def test_genes_are_kept_in_their_order(counts):
    columns = fitted(counts, Recipe(normalize_total={}, log1p={}, select_genes={"n_top": 17})).columns
    assert len(columns) == 17
    assert (np.diff(columns) > 0).all()


def test_the_data_may_come_in_blocks(counts, monkeypatch):
    steps = {"filter_genes": {"min_counts": 30}, "normalize_total": {}, "log1p": {}, "select_genes": {"n_top": 20}}
    whole = applied(counts, **steps, center_scale={})
    monkeypatch.setattr(
        "scdance.pp._recipe.blocks", lambda x: [(slice(i, i + 7), x[i : i + 7]) for i in range(0, 80, 7)]
    )
    np.testing.assert_allclose(applied(counts, **steps, center_scale={}), whole, atol=1e-5)


# ------------------------------------------------------------------ log-normalised input


def test_on_log_values_the_steps_that_would_make_them_are_left_out(counts):
    log = sp.csr_matrix(np.log1p(counts.toarray() / depth_of(counts)[:, None] * 1e4, dtype=np.float32))
    recipe = Recipe(normalize_total={}, log1p={}, select_genes={"n_top": 10})
    found = recipe.fit(log, depth_of(log), [f"g{i}" for i in range(50)], log_input=True)
    assert found.log_input
    assert found.states == []
    assert found.text == "select_genes(n_top=10)"
    best = np.sort(np.argsort(log.toarray().var(axis=0))[-10:])
    assert found.columns.tolist() == best.tolist()


@pytest.mark.parametrize("step", ["tfidf", "clr"])
def test_steps_that_need_counts_let_log_values_pass(counts, step):
    log = sp.csr_matrix(np.log1p(counts.toarray(), dtype=np.float32))
    recipe = fitted(log, Recipe(**{step: {}}), log_input=True)
    found, _ = recipe.apply(log, np.arange(80), depth_of(log), recipe.columns)
    assert recipe.text == "none"
    np.testing.assert_array_equal(found.toarray(), log.toarray())


# ------------------------------------------------------------------ a recipe as such


def test_a_recipe_prints_as_one_line():
    recipe = Recipe(normalize_total={"target": None}, log1p={}, select_genes={"n_top": 20, "flavor": "variance"})
    assert repr(recipe) == "normalize_total → log1p → select_genes(n_top=20, flavor='variance')"
    assert repr(Recipe()) == "none"


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ({"normalise_total": {}}, r"no step 'normalise_total'.*Did you mean 'normalize_total'"),
        (
            {"center_scale": {}, "select_genes": {}},
            r"choice of genes comes before 'center_scale'; move 'select_genes' up",
        ),
        ({"row_share": {}, "filter_genes": {}}, r"choice of genes comes before 'row_share'; move 'filter_genes' up"),
        ({"tfidf": {}, "select_genes": {}}, r"choice of genes comes before 'tfidf'; move 'select_genes' up"),
        ({"clr": {}, "select_genes": {}}, r"choice of genes comes before 'clr'; move 'select_genes' up"),
        ({"center_scale": {}, "log1p": {}}, r"'center_scale', which fills the matrix, comes last; move 'log1p' up"),
        ({"pearson_residuals": {}, "center_scale": {}}, r"'pearson_residuals', which fills the matrix, comes last"),
    ],
    ids=str,
)
def test_a_recipe_that_cannot_run_in_its_order_is_refused(steps, says):
    with pytest.raises(InputError, match=says):
        Recipe(**steps)


# ------------------------------------------------------------------ new cells, disk, json

STEPS = {
    "log": {"normalize_total": {}, "log1p": {}, "select_genes": {"n_top": 20}, "center_scale": {"clip": 3.0}},
    "pearson": {"select_genes": {"n_top": 20}, "pearson_residuals": {"theta": 10.0}},
    "share": {"filter_genes": {"min_counts": 50}, "row_share": {}},
    "tfidf": {"filter_genes": {"min_counts": 50}, "tfidf": {}, "center_scale": {"scale": False}},
    "clr": {"select_genes": {"n_top": 20}, "clr": {}},
    "none": {},
}
every = pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS.keys())


@every
def test_new_cells_get_the_numbers_of_the_training_cells(counts, steps):
    recipe, depth = fitted(counts, Recipe(**steps)), depth_of(counts)
    rows = np.array([5, 3, 70])
    x, _ = recipe.apply(counts, np.arange(80), depth, recipe.columns)
    new, _ = recipe.apply(counts[rows], np.arange(3), depth[rows], recipe.columns)
    np.testing.assert_array_equal(recipe.dense(new), recipe.dense(x)[rows])


@every
def test_genes_in_another_order_and_missing_ones_are_handled_by_name(counts, names, steps):
    recipe, depth = fitted(counts, Recipe(**steps)), depth_of(counts)
    order = np.random.default_rng(0).permutation(50)
    columns = recipe.find(names[order])
    found, raw = recipe.apply(sp.csr_matrix(counts[:, order]), np.arange(80), depth, columns)
    expected, expected_raw = recipe.apply(counts, np.arange(80), depth, recipe.columns)
    np.testing.assert_array_equal(found.toarray(), expected.toarray())
    np.testing.assert_array_equal(raw.toarray(), expected_raw.toarray())

    columns = recipe.find(names)
    columns = np.where(np.arange(len(columns)) == 2, -1, columns)
    found, raw = recipe.apply(counts, np.arange(80), depth, columns)
    assert (raw.toarray()[:, 2] == 0).all()
    np.testing.assert_array_equal(np.delete(raw.toarray(), 2, 1), np.delete(expected_raw.toarray(), 2, 1))


@every
def test_on_disk_gives_what_memory_gives(counts, steps, tmp_path):
    rows = np.setdiff1d(np.arange(80), [0, 1, 33])
    depth = depth_of(counts)
    recipe = Recipe(**steps).fit(counts[rows], depth[rows], [f"g{i}" for i in range(50)])
    x, raw = recipe.apply(counts, rows, depth, recipe.columns)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        disk = OnDisk(file.create_dataset("x", data=counts.toarray()))
        on_disk, raw_on_disk = recipe.apply(disk, rows, depth, recipe.columns)
        assert on_disk.shape == x.shape
        for take in (slice(None), slice(5, 40), np.array([3, 3, 76, 0, 12, 3]), rows[:-3] % 2 == 0, np.array([], int)):
            if isinstance(take, np.ndarray) and take.dtype == bool:
                take = np.resize(take, len(rows))
            np.testing.assert_array_equal(on_disk[take].toarray(), x[take].toarray())
            np.testing.assert_array_equal(raw_on_disk[take].toarray(), raw[take].toarray())


@every
def test_a_fitted_recipe_survives_json(counts, names, steps):
    recipe = fitted(counts, Recipe(**steps))
    told, arrays = recipe.to_json()
    again = FittedRecipe.from_json(json.loads(json.dumps(told)), {k: v.copy() for k, v in arrays.items()})
    assert (again.text, again.log_input) == (recipe.text, recipe.log_input)
    x, _ = recipe.apply(counts, np.arange(80), depth_of(counts), recipe.columns)
    found, _ = again.apply(counts, np.arange(80), depth_of(counts), again.find(names))
    np.testing.assert_array_equal(again.dense(found), recipe.dense(x))


@every
def test_applying_changes_neither_counts_nor_recipe(counts, steps):
    before = counts.copy()
    recipe = fitted(counts, Recipe(**steps))
    told, arrays = recipe.to_json()
    kept = {name: value.copy() for name, value in arrays.items()}
    x, _ = recipe.apply(counts, np.arange(80), depth_of(counts), recipe.columns)
    once = x.copy()
    recipe.dense(x)
    np.testing.assert_array_equal(x.toarray(), once.toarray())
    np.testing.assert_array_equal(counts.toarray(), before.toarray())
    assert recipe.to_json()[0] == told
    for name, value in recipe.to_json()[1].items():
        np.testing.assert_array_equal(value, kept[name])


def test_values_and_counts_share_their_index_arrays(counts):
    recipe = fitted(counts, Recipe(normalize_total={}, log1p={}, select_genes={"n_top": 20}))
    x, raw = recipe.apply(counts, np.arange(80), depth_of(counts), recipe.columns)
    assert np.shares_memory(x.indices, raw.indices)
    assert not np.shares_memory(x.data, raw.data)
