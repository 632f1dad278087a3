"""What all annotators share, and CellTypist, the support vector machine and the floors."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import LinearSVC
from sklearn.utils.class_weight import compute_sample_weight

import scdance as sd
from scdance._checks import InputError
from scdance._core.read import read_roles
from scdance._core.run import make, solve
from scdance._core.task import TASKS
from scdance.methods.annotate._annotator import NEW

METHODS = ("celltypist", "svm", "knn", "majority")
each = pytest.mark.parametrize("method", METHODS)
learning = pytest.mark.parametrize("method", METHODS[:3])


@pytest.fixture(scope="module")
def parts():
    adata = sd.datasets.toy_clusters(n_obs=420, n_vars=120, k=4, n_de=15, lfc=1.0, depth=800)
    return adata[:280].copy(), adata[280:].copy()


FLOOR = {"knn": 0.8, "majority": 0.5}  # accuracy on the toy data that the floors reach


def fitted(ref, method, **knobs):
    return sd.fit("annotate", ref, method=method, labels_key="cell_type", **knobs)


@pytest.fixture(scope="module")
def models(parts):
    return {method: fitted(parts[0], method) for method in METHODS}


def roles_of(model, query, ref=None):
    return read_roles(TASKS["annotate"], model, query, query, ref=ref, labels_key=None if ref is None else "cell_type")


def answer(model, query):
    return solve(model, **roles_of(model, query))[0]


def equal(one, other, rows=slice(None)):
    assert set(one) == set(other)
    for part in one:
        np.testing.assert_allclose(one[part][rows], other[part], atol=1e-5, err_msg=part)


def only(adata, **sizes):
    """The first so many cells of each type, in which types that are not named are whole."""
    place = adata.obs.groupby("cell_type", observed=True).cumcount()
    most = adata.obs["cell_type"].astype(str).map(sizes).fillna(len(adata))
    return adata[(place < most).to_numpy()].copy()


# CellTypist


def dense(ref, query):
    """Log-normalised expression of both, by the cells of the reference z-scored and cut off at 10."""
    x = [np.log1p(1e4 * part.X.toarray() / part.X.sum(axis=1).A1[:, None].astype(float)) for part in (ref, query)]
    mean, sd_ = x[0].mean(axis=0), x[0].std(axis=0)
    return [np.minimum((part - mean) / sd_, 10) for part in x]


@pytest.mark.parametrize("balanced", [False, True])
def test_celltypist_is_the_logistic_regression_of_scikit_learn(parts, balanced):
    ref, query = parts
    model = fitted(ref, "celltypist", balanced=balanced, n_top_genes=None, level=None)
    x, new = dense(ref, query)
    y = ref.obs["cell_type"].astype(str).to_numpy()
    names = np.unique(y)
    if balanced:  # each type counts the same, in the regressions of the others too
        weight = compute_sample_weight("balanced", y)
        machines = [LogisticRegression(tol=1e-8, max_iter=5000).fit(x, y == name, weight) for name in names]
    else:
        machines = OneVsRestClassifier(LogisticRegression(C=1.0, tol=1e-8, max_iter=5000)).fit(x, y).estimators_
    coef = np.vstack([machine.coef_[0] for machine in machines])
    score = np.column_stack([machine.decision_function(new) for machine in machines])
    assert model.categories_ == names.tolist() and len(model.genes_) == ref.n_vars
    assert np.corrcoef(model.coef_.T.ravel(), coef.ravel())[0, 1] > 0.999
    found = model.logits(roles_of(model, query)["cells"].part(columns=model.genes_))
    assert (found.argmax(axis=1) == score.argmax(axis=1)).mean() >= 0.999
    assert np.abs(found - score).max() < 0.05 * score.std()


def test_a_stronger_penalty_gives_smaller_weights(parts):
    sizes = [np.linalg.norm(fitted(parts[0], "celltypist", C=c, level=None).coef_) for c in (0.01, 1.0)]
    assert sizes[0] < sizes[1] / 2


def test_expression_is_cut_off_above_the_mean_only(parts):
    ref, _ = parts
    model = fitted(ref, "celltypist", clip=0.5, n_top_genes=None)
    cells = roles_of(model, ref)["cells"]
    z = model._clipped(cells).toarray() - model.mean_ / model.sd_
    x, _ = dense(ref, ref)
    np.testing.assert_allclose(z, np.minimum(x, 0.5), atol=1e-4)


# The support vector machine


@pytest.mark.parametrize("balanced", [False, True])
def test_the_support_vector_machine_is_that_of_scikit_learn(parts, balanced):
    ref, query = parts
    model = fitted(ref, "svm", n_top_genes=None, balanced=balanced)
    scale = [np.log1p(1e4 * part.X.toarray() / part.X.sum(axis=1).A1[:, None].astype(float)) for part in parts]
    x, new = (part / scale[0].std(axis=0) for part in scale)
    machine = LinearSVC(C=0.01, class_weight="balanced" if balanced else None, max_iter=5000)
    machine.fit(x, ref.obs["cell_type"].astype(str))
    expected = machine.decision_function(new)
    found = model.logits(roles_of(model, query)["cells"].part(columns=model.genes_))
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.98


# What a query may look like


@learning
def test_dense_and_sparse_expression_give_the_same(parts, models, method):
    ref, query = parts
    other_ref, other = ref.copy(), query.copy()
    other_ref.X, other.X = ref.X.toarray(), np.asfortranarray(query.X.toarray().astype(np.float64))
    model = fitted(other_ref, method)
    np.testing.assert_array_equal(model.genes_, models[method].genes_)
    one, again = answer(models[method], query), answer(model, other)
    for part in one:
        np.testing.assert_array_equal(one[part], again[part])


@each
def test_shuffled_genes_more_genes_and_one_cell_alone_give_the_same(parts, models, method):
    query, rng = parts[1], np.random.default_rng(0)
    expected = answer(models[method], query)
    equal(expected, answer(models[method], query[:, rng.permutation(query.n_vars)].copy()))
    for i in (0, 17, 60):
        equal(expected, answer(models[method], query[[i]].copy()), [i])
    order = rng.permutation(query.n_obs)
    equal(expected, answer(models[method], query[order].copy()), order)


@learning
def test_genes_that_the_model_does_not_know_are_no_evidence(parts, models, method):
    query = parts[1]
    wide = sd.datasets.toy_clusters(n_obs=query.n_obs, n_vars=30, k=2, n_de=3)
    wide.var_names = [f"extra_{i}" for i in range(30)]
    wide.X = wide.X * 0  # they would count in the depth of a cell
    both = np.hstack([wide.X.toarray(), query.X.toarray()])
    made = type(query)(both, var=pd.DataFrame(index=[*wide.var_names, *query.var_names]))
    equal(answer(models[method], query), answer(models[method], made))


@learning
def test_labels_stand_where_a_tenth_of_the_genes_is_missing(parts, models, method):
    query = parts[1]
    keep = np.random.default_rng(0).random(query.n_vars) > 0.1
    with pytest.warns(UserWarning, match="genes of the model are not in the object"):
        found = answer(models[method], query[:, keep].copy())
    assert (found["labels"] == answer(models[method], query)["labels"]).mean() > 0.8


def test_a_gene_that_is_missing_counts_as_the_mean_of_the_reference(parts, models):
    model, query = models["celltypist"], parts[1]
    with pytest.warns(UserWarning, match="not in the object"):
        cells = roles_of(model, query[:, 1:].copy())["cells"].part(columns=model.genes_)
    z = cells.x.toarray() / model.sd_ - model.mean_ / model.sd_
    z[:, ~cells.present] = 0
    np.testing.assert_allclose(model.logits(cells), np.minimum(z, 10) @ model.coef_ + model.intercept_, atol=1e-4)
    assert (~cells.present).sum() == 1


def test_a_gene_that_is_missing_makes_no_cell_distant(parts):
    model, query = fitted(parts[0], "celltypist", detector="distance", n_top_genes=30), parts[1]
    gone = parts[0].var_names.isin(np.array(parts[0].var_names)[model.genes_[:3]])
    with pytest.warns(UserWarning, match="not in the object"):
        cells = roles_of(model, query[:, ~gone].copy())["cells"].part(columns=model.genes_)
    (z,) = model._standard(cells)
    assert (z[:, :3] == 0).all()
    np.testing.assert_allclose(
        z[:, 3:], np.minimum((cells.x.toarray() - model.gene_mean_) / model.gene_sd_, 10)[:, 3:], atol=1e-5
    )


@each
def test_nothing_is_learnt_from_the_query(parts, method):
    ref, query = parts
    other = query[:20].copy()
    other.X = other.X * 3
    fits = []
    for given in (query, other):
        model = make("annotate", method, {})
        solve(model, **roles_of(model, given, ref))
        fits.append(model)
    for name, value in vars(fits[0]).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, getattr(fits[1], name), err_msg=name)
    assert fits[0].temperature_ == fits[1].temperature_


@learning
def test_types_are_found_and_probabilities_are_shares(parts, models, method):
    found = answer(models[method], parts[1])
    truth = parts[1].obs["cell_type"].cat.codes.to_numpy()
    assert (found["labels"] == truth).mean() > FLOOR.get(method, 0.9)
    np.testing.assert_allclose(found["proba"].sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(found["score"], found["proba"].max(axis=1))
    assert found["sets"][np.arange(len(truth)), truth].mean() > 0.8


def test_the_floor_gives_the_commonest_type_and_the_shares(parts, models):
    found = answer(models["majority"], parts[1])
    shares = parts[0].obs["cell_type"].value_counts(normalize=True, sort=False).to_numpy()
    assert (found["labels"] == shares.argmax()).all() and "sets" not in found
    untouched = answer(fitted(parts[0], "majority", calibration="none"), parts[1])
    np.testing.assert_allclose(untouched["proba"], np.tile(shares, (parts[1].n_obs, 1)), rtol=1e-5)


# Rejection, sets and novelty


@learning
def test_without_rejection_every_cell_has_a_type(parts, models, method):
    assert answer(models[method], parts[1])["labels"].max() < 4


@learning
def test_a_number_rejects_the_improbable(parts, models, method):
    all_of_them = answer(models[method], parts[1])
    found = answer(fitted(parts[0], method, reject=0.9), parts[1])
    expected = np.where(all_of_them["score"] < 0.9, 4, all_of_them["labels"])
    np.testing.assert_array_equal(found["labels"], expected)
    np.testing.assert_array_equal(found["proba"], all_of_them["proba"])


@learning
def test_auto_rejects_the_new(parts, models, method):
    all_of_them = answer(models[method], parts[1])
    found = answer(fitted(parts[0], method, reject="auto"), parts[1])
    expected = np.where(all_of_them["novelty"] > NEW, 4, all_of_them["labels"])
    np.testing.assert_array_equal(found["labels"], expected)


def test_rejected_cells_are_called_unknown(parts):
    query = parts[1].copy()
    sd.tl.annotate(query, parts[0], method="svm", labels_key="cell_type", reject=0.999999)
    assert (query.obs["svm"] == "unknown").sum() == (query.obs["svm_score"] < 0.999999).sum() > 0


@pytest.mark.parametrize("knob", ["level", "reject"])
@pytest.mark.parametrize("value", [0, 1, -0.1, 1.5])
def test_levels_and_probabilities_out_of_range_are_refused(parts, knob, value):
    query = parts[1].copy()
    with pytest.raises(InputError, match=rf"{knob}=.*between 0 and 1.*None switches it off"):
        sd.tl.annotate(query, parts[0], method="svm", labels_key="cell_type", **{knob: value})
    assert list(query.obs) == list(parts[1].obs)


@pytest.mark.parametrize(
    "wrong", [{"reject": "yes"}, {"level": float("nan")}, {"detector": "far"}, {"n_top_genes": 0}, {"n_top_genes": -3}]
)
def test_other_words_and_numbers_are_refused(parts, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        fitted(parts[0], "svm", **wrong)


@each
def test_where_nothing_can_be_held_out_there_are_no_sets_and_no_novelty(parts, method):
    ref = only(parts[0], type1=4, type2=4, type3=4, type4=4)
    with pytest.warns(UserWarning, match="not calibrated"):
        model = fitted(ref, method)
    assert model.temperature_ == 1
    assert model.card["n_held_out"] == 0 and "accuracy_held_out" not in model.card
    query = parts[1].copy()
    sd.tl.annotate(query, method=model)
    assert f"{method}_score" in query.obs
    assert not {f"{method}_novelty", f"{method}_set"} & set(query.obs)


def test_level_none_gives_no_sets(parts):
    assert set(answer(fitted(parts[0], "svm", level=None), parts[1])) == {"labels", "proba", "score", "novelty"}


@pytest.mark.parametrize("detector", ["both", "distance", "entropy"])
@learning
def test_a_type_that_the_reference_lacks_looks_new(method, detector):
    adata = sd.datasets.toy_clusters(n_obs=500, n_vars=200, k=5, n_de=25)
    ref = adata[:300][adata.obs["cell_type"][:300] != "type2"].copy()
    query = adata[300:].copy()
    sd.tl.annotate(query, ref, method=method, labels_key="cell_type", detector=detector)
    proba, novelty = query.obsm[f"{method}_proba"], query.obs[f"{method}_novelty"]
    assert list(proba) == ["type1", "type3", "type4", "type5"]
    assert sd.metrics.novelty_auroc(query.obs["cell_type"], proba, novelty) > (0.9 if detector != "entropy" else 0.7)


@pytest.mark.parametrize("detector", ["both", "distance", "entropy"])
def test_few_cells_of_the_types_of_the_reference_look_new(parts, detector):
    found = answer(fitted(parts[0], "celltypist", detector=detector), parts[1])
    assert (found["novelty"] > NEW).mean() < 0.06
    assert found["novelty"].min() >= 0 and found["novelty"].max() < 1


def test_sets_cover_the_share_that_was_asked_for():
    adata = sd.datasets.toy_clusters(n_obs=1600, n_vars=80, k=3, n_de=6, lfc=0.7, depth=250)
    ref, query = adata[:800].copy(), adata[800:].copy()
    truth = query.obs["cell_type"].cat.codes.to_numpy()
    for level in (0.1, 0.3):
        found = answer(fitted(ref, "celltypist", level=level), query)
        hit = found["sets"][np.arange(800), truth]
        for code in range(3):  # about 50 cells of each type were held out
            assert abs(hit[truth == code].mean() - (1 - level)) < 4 * np.sqrt(level * (1 - level) / 45)
        assert (found["labels"] == truth).mean() < 0.95


# References of few cells and types


@learning
def test_a_type_of_one_cell_is_learnt_and_takes_no_others(parts, method):
    ref = only(parts[0], type3=1)
    with pytest.warns(UserWarning, match="fewer than"):
        model = fitted(ref, method)
    assert model.categories_ == ["type1", "type2", "type3", "type4"]
    assert model.card["types"]["type3"] == 1
    query = parts[1][(parts[1].obs["cell_type"] != "type3").to_numpy()].copy()
    found = answer(model, query)
    truth = query.obs["cell_type"].map({f"type{i + 1}": i for i in range(4)}).to_numpy().astype(int)
    assert (found["labels"] == truth).mean() > FLOOR.get(method, 0.9)
    assert np.isfinite(found["proba"]).all() and (found["labels"] == 2).mean() < 0.1


@each
def test_two_types_are_told_apart(parts, method):
    ref, query = (part[part.obs["cell_type"].isin(["type1", "type4"]).to_numpy()].copy() for part in parts)
    found = answer(fitted(ref, method), query)
    assert found["proba"].shape == (query.n_obs, 2)
    truth = (query.obs["cell_type"].astype(str) == "type4").to_numpy().astype(int)
    assert (found["labels"] == truth).mean() > FLOOR.get(method, 0.95)


@pytest.mark.parametrize("method", ["celltypist", "svm"])
def test_equal_weights_help_a_rare_type(method):
    adata = sd.datasets.toy_clusters(n_obs=900, n_vars=100, k=3, n_de=6, lfc=0.8, depth=300)
    ref, query = only(adata[:500].copy(), type3=6), adata[500:].copy()
    recall = {}
    for balanced in (False, True):
        model = fitted(ref, method, balanced=balanced)
        recall[balanced] = (answer(model, query)["labels"] == 2)[(query.obs["cell_type"] == "type3").to_numpy()].mean()
    assert recall[True] > recall[False]


def test_cells_without_a_type_are_not_learnt(parts):
    ref, query = parts[0].copy(), parts[1]
    ref.obs["cell_type"] = ref.obs["cell_type"].astype(object).where(np.arange(ref.n_obs) >= 40, None)
    with pytest.warns(UserWarning, match="40 of 280 cells of the reference have no label"):
        model = fitted(ref, "celltypist")
    equal(answer(fitted(parts[0][40:].copy(), "celltypist"), query), answer(model, query))


def test_a_reference_whose_genes_do_not_vary_is_refused():
    flat = sd.datasets.toy_clusters(n_obs=40, n_vars=20, k=2, n_de=3)
    flat.X = np.ones(flat.shape, dtype=np.float32)
    with pytest.raises(InputError, match="No gene of the reference varies"):
        fitted(flat, "svm")


# Genes, markers, the card


def test_genes_are_as_many_as_asked_for_and_those_that_tell_types_apart(parts):
    model = fitted(parts[0], "celltypist", n_top_genes=25)
    planted = np.abs(parts[0].varm["lfc"]).max(axis=1) > 0
    assert len(model.genes_) == 25 and planted[model.genes_].mean() > 0.9


@learning
def test_markers_of_a_type_are_genes_that_were_raised_in_it(parts, models, method):
    told = pd.DataFrame(models[method].notes_["markers"])
    raised = pd.DataFrame(
        parts[0].varm["lfc"] > 0, index=parts[0].var_names, columns=[f"type{i + 1}" for i in range(4)]
    )
    top = told[told["rank"] <= 5]
    assert np.mean([raised.loc[gene, name] for name, gene in zip(top["type"], top["gene"], strict=True)]) > 0.8
    assert told.groupby("type")["weight"].apply(lambda weights: weights.is_monotonic_decreasing).all()
    assert (told.groupby("type")["rank"].max() == 25).all()


def test_markers_of_a_method_without_weights_are_correlations_with_its_probability(parts, models):
    model = models["knn"]
    cells = roles_of(model, parts[0])["cells"].part(columns=model.genes_)
    proba, x = model._proba(cells), cells.x.toarray()
    told = pd.DataFrame(model.notes_["markers"])
    for name, gene, weight in told[told["rank"] <= 3][["type", "gene", "weight"]].itertuples(index=False):
        j = model.categories_.index(name)
        expected = np.corrcoef(proba[:, j], x[:, list(cells.var_names).index(gene)])[0, 1]
        assert weight == pytest.approx(expected, abs=1e-4)


def test_the_floor_explains_nothing_and_has_no_weights(models):
    assert (pd.DataFrame(models["majority"].notes_["markers"])["weight"] == 0).all()


@each
def test_the_card_tells_types_data_and_calibration(parts, method):
    card = fitted(parts[0], method, about="toy cells").card
    sizes = parts[0].obs["cell_type"].value_counts(sort=False)
    assert card["method"] == method and card["about"] == "toy cells"
    assert card["types"] == {str(name): int(n) for name, n in sizes.items()}
    assert card["n_genes"] == 120 and card["version"] == sd.__version__
    assert card["n_held_out"] == sum(round(0.2 * n) for n in sizes)
    assert 0 <= card["accuracy_held_out"] <= 1 and card["temperature"] > 0


@each
def test_a_saved_annotator_says_the_same_and_has_its_card(parts, models, method, tmp_path):
    models[method].save(tmp_path / "model")
    again = sd.load(tmp_path / "model")
    assert again.card == models[method].card
    one, other = answer(models[method], parts[1]), answer(again, parts[1])
    for part in one:
        np.testing.assert_array_equal(one[part], other[part])


def test_a_saved_annotator_says_the_same_in_another_process(parts, models, tmp_path):
    query = parts[1].copy()
    models["celltypist"].save(tmp_path / "model")
    query.write_h5ad(tmp_path / "query.h5ad")
    code = """
import sys, anndata, scdance as sd
query = anndata.read_h5ad(f"{sys.argv[1]}/query.h5ad")
sd.tl.annotate(query, method=f"{sys.argv[1]}/model", key_added="there")
query.write_h5ad(f"{sys.argv[1]}/done.h5ad")
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True)
    import anndata

    done = anndata.read_h5ad(tmp_path / "done.h5ad")
    sd.tl.annotate(query, method=models["celltypist"], key_added="there")
    for column in ("there", "there_set"):
        assert done.obs[column].astype(str).tolist() == query.obs[column].astype(str).tolist()
    for column in ("there_score", "there_novelty"):
        np.testing.assert_allclose(done.obs[column], query.obs[column], atol=1e-6)
    np.testing.assert_allclose(done.obsm["there_proba"], query.obsm["there_proba"], atol=1e-6)


@learning
def test_the_seed_decides_what_is_held_out_and_nothing_is_left_to_chance(parts, method):
    one, again, other = (fitted(parts[0], method, random_state=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.known_, again.known_)
    assert one.known_.shape == other.known_.shape and not np.array_equal(one.known_, other.known_)
