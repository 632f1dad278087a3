from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse as sp
from sklearn.ensemble import RandomForestClassifier

import scdance as sd
from scdance._core.read import read_roles
from scdance._core.run import make, solve
from scdance._core.task import TASKS
from scdance.methods.annotate import singlecellnet
from scdance.pp import group_moments

KNOBS = {"n_trees": 30, "n_type_genes": 10, "n_type_pairs": 25, "n_rand": 60}


def roles_of(query, ref, **knobs):
    model = make("annotate", "singlecellnet", KNOBS | knobs)
    return model, read_roles(TASKS["annotate"], model, query, query, ref=ref, labels_key="cell_type")


@pytest.fixture(scope="module")
def parts():
    adata = sd.datasets.toy_clusters(n_obs=500, n_vars=150, k=4, n_de=20)
    return adata[:300].copy(), adata[300:].copy()


@pytest.fixture(scope="module")
def fitted(parts):
    ref, query = parts
    model, roles = roles_of(query, ref)
    result, _ = solve(model, **roles)
    return model, roles, result


def chosen(model, cells):
    return cells.part(columns=model.genes_)


def test_planted_types_are_found(parts, fitted):
    model, _, result = fitted
    truth = parts[1].obs["cell_type"].astype(str).to_numpy()
    assert (np.array(model.categories_)[result["labels"]] == truth).mean() > 0.95


def test_correlations_are_those_of_numpy(fitted):
    _, roles, _ = fitted
    ref = roles["ref"]
    found = singlecellnet._correlations(group_moments(ref.x, ref.labels, 4))
    x = ref.x.toarray().astype(float)
    for code in range(4):
        indicator = ref.labels == code
        for gene in range(0, ref.n_vars, 17):
            assert found[code, gene] == pytest.approx(np.corrcoef(x[:, gene], indicator)[0, 1], abs=1e-6)


def test_scores_of_pairs_are_correlations_and_constant_pairs_have_none(fitted):
    ref = fitted[1]["ref"]
    genes = np.array([3, 8, 20, 41])
    found = singlecellnet._pair_scores(ref, genes, 2)
    x = ref.x[:, genes].toarray()
    for a in range(4):
        assert np.isnan(found[a, a])
        for b in set(range(4)) - {a}:
            expected = np.corrcoef(x[:, a] > x[:, b], ref.labels == 2)[0, 1]
            assert found[a, b] == pytest.approx(expected, abs=1e-9)


def test_genes_of_a_type_go_up_and_down_and_are_seen(fitted):
    ref = fitted[1]["ref"]
    x = ref.x.toarray()
    x[:, 5] = (ref.labels == 0) & (np.cumsum(ref.labels == 0) == 1)  # perfect in its sign, in one cell of low value
    moments = group_moments(sp.csr_matrix(x), ref.labels, 4)
    r = singlecellnet._correlations(moments)
    for code, genes in enumerate(singlecellnet._type_genes(moments, 10)):
        assert len(genes) == 20
        assert 5 not in genes
        assert np.delete(r[code], [*genes, 5]).max() <= np.sort(r[code, genes])[-10]
        assert np.delete(r[code], [*genes, 5]).min() >= np.sort(r[code, genes])[9]


def test_greedy_pairs_use_a_gene_at_most_three_times():
    score = np.random.default_rng(0).random((9, 9))
    np.fill_diagonal(score, np.nan)
    found = singlecellnet._greedy_pairs(score, 12)
    assert np.bincount(found.ravel()).max() == 3
    assert tuple(found[0]) == np.unravel_index(np.nanargmax(score), score.shape)
    values = score[found[:, 0], found[:, 1]]
    assert (np.diff(values) <= 0).all()


def test_greedy_pairs_take_none_that_speak_against_the_type():
    assert singlecellnet._greedy_pairs(np.array([[np.nan, -0.2], [0.3, np.nan]]), 5).tolist() == [[1, 0]]


def test_flat_forest_equals_that_of_sklearn(fitted):
    model, roles, _ = fitted
    query = chosen(model, roles["cells"])
    rng = np.random.default_rng(0)
    x, y = rng.random((200, len(model.pairs_))) < 0.5, rng.choice([0, 1, 3, 4], 200)  # type 2 has no cell
    forest = RandomForestClassifier(15, random_state=0, class_weight="balanced").fit(x, y)
    other = model.unfitted()
    other.pairs_ = model.pairs_
    other._flatten(forest, 5)
    expected = forest.predict_proba(other._higher(query.x))
    found = other._shares(query)
    np.testing.assert_allclose(found[:, [0, 1, 3, 4]], expected, atol=1e-6)
    assert (found[:, 2] == 0).all()


def test_an_increasing_transform_of_a_cell_changes_nothing(fitted):
    model, roles, _ = fitted
    query = chosen(model, roles["cells"])
    scaled = query.x.astype(np.float64)
    scale = np.random.default_rng(0).uniform(0.1, 9, query.n_obs)
    scaled.data = np.expm1(scaled.data) ** 0.7 * np.repeat(scale, np.diff(scaled.indptr))
    np.testing.assert_array_equal(model.logits(replace(query, x=scaled)), model.logits(query))


def test_permuted_cells_go_to_the_class_of_permuted_cells(parts):
    ref, query = parts
    model, roles = roles_of(query, ref, n_rand=150)
    solve(model, **roles)
    cells = chosen(model, roles["cells"])
    permuted = np.random.default_rng(1).permuted(cells.x.toarray(), axis=1)
    found = model._shares(replace(cells, x=sp.csr_matrix(permuted)))
    assert (found.argmax(axis=1) == 4).mean() >= 0.8
    assert (model._shares(cells).argmax(axis=1) == 4).mean() < 0.1


def test_scrambled_cells_keep_the_answers_of_pairs_but_not_of_cells():
    higher = np.zeros((40, 30), dtype=bool)
    higher[:20] = True
    found = singlecellnet._scrambled(higher, 500, np.random.default_rng(0))
    assert found.shape == (500, 30)
    assert 0.4 < found.mean() < 0.6
    assert (found.any(axis=1) & ~found.all(axis=1)).mean() > 0.99  # before, each cell was all yes or all no


def test_a_cell_alone_is_annotated_as_among_others_and_genes_may_come_in_any_order(parts, fitted):
    model, _, result = fitted
    some = parts[1][7:8, ::-1].copy()
    sd.tl.annotate(some, method=model)
    np.testing.assert_allclose(some.obsm["singlecellnet_proba"].to_numpy()[0], result["proba"][7], atol=1e-6)


def test_saved_and_loaded_it_answers_the_same(tmp_path, parts, fitted):
    model, _, result = fitted
    model.save(tmp_path / "model")
    query = parts[1].copy()
    sd.tl.annotate(query, method=sd.load(tmp_path / "model"))
    np.testing.assert_array_equal(query.obsm["singlecellnet_proba"].to_numpy(), result["proba"])


def test_genes_that_the_query_lacks_count_as_zero(parts, fitted):
    model, _, _ = fitted
    query = parts[1]
    lost = np.unique(model.pairs_)[:5]
    without = query[:, np.delete(np.arange(query.n_vars), lost)].copy()
    empty = query.copy()
    empty.X = sp.csr_matrix(empty.X.multiply(~np.isin(np.arange(query.n_vars), lost)))
    sd.tl.annotate(empty, method=model, key_added="found")
    with pytest.warns(UserWarning, match="count as 0"):
        sd.tl.annotate(without, method=model, key_added="found")
    np.testing.assert_allclose(without.obsm["found_proba"], empty.obsm["found_proba"], atol=1e-6)


def test_labels_that_no_pair_tells_apart_are_refused():
    adata = sd.datasets.toy_clusters(n_obs=60, n_vars=60, k=2, n_de=5)
    power = 1 + np.arange(60) % 2  # the genes of all cells have the same order
    adata.X = sp.csr_matrix(np.arange(1, 61)[None] ** power[:, None])
    with pytest.raises(ValueError, match="None of the"):
        sd.tl.annotate(adata.copy(), adata, method="singlecellnet", labels_key="cell_type")


@pytest.mark.parametrize("knobs", [{"n_trees": 0}, {"n_type_pairs": 0}, {"n_type_genes": 0}, {"n_rand": -1}])
def test_numbers_out_of_range_are_refused_by_name(parts, knobs):
    ref, query = parts
    with pytest.raises(ValueError, match=next(iter(knobs))):
        sd.tl.annotate(query.copy(), ref, method="singlecellnet", labels_key="cell_type", **knobs)
