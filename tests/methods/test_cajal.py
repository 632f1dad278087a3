"""Cajal: which features it keeps, what it says of depth, and whose labels it may see."""

from __future__ import annotations

from dataclasses import replace

import mudata
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import mannwhitneyu, ttest_ind

import scdance as sd
from scdance._checks import InputError
from scdance._core.cells import Pair
from scdance._core.method import Runtime
from scdance._core.read import read_roles
from scdance._core.run import make
from scdance._core.task import PREDICT_MODALITY
from scdance.methods.predict_modality.cajal import by_means, by_ranks

SMALL = {"n_markers": 5, "n_types": 3, "hidden": (8,), "epochs": 2, "batch_size": 40, "repeat": 2}


@pytest.fixture(scope="module")
def whole() -> mudata.MuData:
    mdata = sd.datasets.toy_pairs(n_obs=150, n_genes=60, unpaired=0.2, random_state=4)
    mdata["rna"].obs["batch"] = np.resize(["a", "b"], mdata["rna"].n_obs)
    mdata["rna"].obs.loc[mdata["rna"].obs_names[:9], "batch"] = "c"  # of cells without proteins only
    return mdata


@pytest.fixture
def mdata(whole: mudata.MuData) -> mudata.MuData:
    with mudata.set_options(pull_on_update=False):
        return whole.copy()


def pair_of(model, mdata: mudata.MuData, source: str = "rna", **given) -> Pair:
    target = "prot" if source == "rna" else "rna"
    return read_roles(PREDICT_MODALITY, model, mdata, mdata, source=source, target=target, **given)["pair"]


def fitted(mdata: mudata.MuData, knobs=None, **given):
    model = make("predict_modality", "cajal", {**SMALL, **(knobs or {})})
    pair = pair_of(model, mdata, **given)
    return fit(model, pair), pair


def fit(model, pair: Pair):
    model.runtime = Runtime(progress=False)
    with model.session():
        return model.fit(pair=pair)


def said(model, pair: Pair) -> np.ndarray:
    with model.session():
        return model.predict(pair=pair)["prediction"]


def test_ranks_of_a_type_are_those_of_wilcoxon():
    rng = np.random.default_rng(0)
    x, codes = rng.poisson(1.0, (60, 7)).astype(float), np.repeat([0, 1, 2], [30, 20, 10])
    found = by_ranks(sp.csr_matrix(x), codes)
    for i in range(3):
        n_in, n_out = (codes == i).sum(), (codes != i).sum()
        u = mannwhitneyu(x[codes == i], x[codes != i]).statistic
        expected = (u - n_in * n_out / 2) / np.sqrt(n_in * n_out * 61 / 12)
        np.testing.assert_allclose(found[i], expected, rtol=1e-9, atol=1e-12)


def test_means_of_a_type_are_compared_as_welch_did():
    rng = np.random.default_rng(0)
    x, codes = (rng.random((60, 7)) < 0.4).astype(float), np.repeat([0, 1, 2], [30, 20, 10])
    found = by_means(sp.csr_matrix(x), codes)
    for i in range(3):
        expected = ttest_ind(x[codes == i], x[codes != i], equal_var=False).statistic
        np.testing.assert_allclose(found[i], expected, rtol=1e-6)


def test_the_features_are_the_same_in_any_order_of_the_cells(mdata):
    model, pair = fitted(mdata, labels_key="cell_type")
    again = make("predict_modality", "cajal", SMALL)
    again.notes_ = {}
    rows = np.random.default_rng(1).permutation(pair.both)
    np.testing.assert_array_equal(again._columns(pair, rows), model.columns_)
    assert 5 <= len(model.columns_) <= 20


def test_markers_of_a_type_are_higher_in_it(mdata):
    model, pair = fitted(mdata, {"n_markers": 1}, labels_key="cell_type")
    x, labels = pair.source.dense(pair.both[:, 0]), pair.source.labels[pair.both[:, 0]]
    mean = np.stack([x[labels == i].mean(axis=0) for i in range(4)])
    highest = mean.argmax(axis=0)[model.columns_]
    assert set(highest) == {0, 1, 2, 3}


def test_labels_of_asked_cells_are_never_looked_at(mdata):
    model, pair = fitted(mdata, labels_key="cell_type", batch_key="batch")
    labels = pair.source.labels.copy()
    asked = np.setdiff1d(np.arange(pair.source.n_obs), pair.both[:, 0])
    assert len(asked) > 5
    labels[asked] = np.random.default_rng(0).integers(-1, 4, len(asked))
    garbled = replace(pair, source=replace(pair.source, labels=labels))
    again = fit(make("predict_modality", "cajal", SMALL), garbled)
    np.testing.assert_array_equal(said(again, garbled), said(model, pair))


def test_without_labels_groups_of_like_cells_stand_for_types(mdata):
    model, _ = fitted(mdata)
    assert model.notes_["types"] == "3 groups of like cells"
    unlabelled = mdata
    unlabelled.obs["cell_type"] = unlabelled.obs["cell_type"].where(np.arange(mdata.n_obs) < 2).astype(object)
    unlabelled.obs.loc[unlabelled.obs_names[:2], "cell_type"] = ["x", "y"]
    alone, _ = fitted(unlabelled, labels_key="cell_type")
    np.testing.assert_array_equal(alone.columns_, model.columns_)
    assert "types" not in fitted(sd.datasets.toy_pairs(n_obs=80), labels_key="cell_type")[0].notes_


def test_depth_enters_as_that_of_the_cell_and_of_its_batch(mdata):
    model, pair = fitted(mdata, batch_key="batch")
    at = pair.both[:, 0]
    depth, batch = np.log1p(pair.source.depth[at]), pair.source.batch[at]
    beside = np.column_stack([depth] + [np.zeros(len(at))] * 2)
    for code in np.unique(batch):
        inside = batch == code
        beside[inside, 1:] = np.median(depth[inside]), depth[inside].std()
    expected = (beside - beside.mean(axis=0)) / beside.std(axis=0)
    x = model.inputs(pair.source, at)
    np.testing.assert_allclose(x[:, -3:], expected, atol=1e-4)
    np.testing.assert_allclose(x[:, -6:-3], x[:, -3:])
    assert x.shape[1] == len(model.columns_) + 6
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-4)


def test_a_batch_that_was_not_seen_is_the_average_one_or_that_of_the_asked_cells(mdata):
    model, pair = fitted(mdata, batch_key="batch")
    source = pair.source
    unseen = np.flatnonzero(source.batch == source.batch_names.index("c"))
    assert len(unseen) == 9
    np.testing.assert_array_equal(model.inputs(source, unseen)[:, -2:], 0)
    model.unseen = "asked"
    depth = np.log1p(source.depth[unseen])
    expected = (np.array([np.median(depth), depth.std()]) - model.mean_[-2:]) / model.sd_[-2:]
    np.testing.assert_allclose(model.inputs(source, unseen[:4])[:, -2:], np.tile(expected, (4, 1)), rtol=1e-4)


def test_a_batch_is_known_by_its_name(mdata):
    model, pair = fitted(mdata, batch_key="batch")
    other = replace(pair.source, batch=2 - pair.source.batch, batch_names=pair.source.batch_names[::-1])
    rows = np.arange(20)
    np.testing.assert_array_equal(model.inputs(other, rows), model.inputs(pair.source, rows))


def test_answers_stay_within_what_was_seen(mdata):
    model, pair = fitted(mdata, {"start_at_mean": False, "lr": 0.5, "shrink": False})
    y = pair.target.dense(pair.both[:, 1])
    found = said(model, pair)
    assert (found >= y.min(axis=0)).all() and (found <= y.max(axis=0)).all()
    assert (found == y.max(axis=0)).any()


def test_genes_of_measured_proteins_are_kept(mdata):
    mdata["prot"].var_names = ["Gene_7", *mdata["prot"].var_names[1:]]
    names = list(mdata["rna"].var_names)
    names[33] = "GENE_7"
    mdata["rna"].var_names = names
    model, pair = fitted(mdata, {"n_markers": 1, "n_types": 2})
    at = list(pair.source.var_names).index("GENE_7")
    assert at in model.columns_
    linked = sp.lil_matrix((pair.source.n_vars + pair.target.n_vars,) * 2, dtype=np.float32)
    free = np.setdiff1d(np.arange(pair.source.n_vars), model.columns_)[0]
    linked[free, pair.source.n_vars + 3] = linked[pair.source.n_vars + 3, free] = 1.0
    again = fit(
        make("predict_modality", "cajal", {**SMALL, "n_markers": 1, "n_types": 2}), replace(pair, prior=linked.tocsr())
    )
    np.testing.assert_array_equal(again.columns_, np.sort(np.r_[model.columns_, free]))


def test_proteins_are_all_kept(mdata):
    model, pair = fitted(mdata, source="prot")
    assert len(model.columns_) == pair.source.n_vars == 20


@pytest.mark.parametrize("knobs", [{"n_markers": 0}, {"n_types": 1}, {"repeat": -1}, {"dropout": 1.0}])
def test_numbers_out_of_range_are_refused(mdata, knobs):
    with pytest.raises(InputError, match=next(iter(knobs))):
        fitted(mdata, knobs)
