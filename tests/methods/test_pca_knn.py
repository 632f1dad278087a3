"""Nearest cells among scores: against scikit-learn, its folds, and what it answers where the source says nothing."""

from __future__ import annotations

import mudata
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsRegressor

import scdance as sd
from scdance._core.read import read_roles
from scdance._core.run import make
from scdance._core.task import PREDICT_MODALITY

PLAIN = {"n_source": 8, "n_target": 6, "shrink": False}


@pytest.fixture
def mdata() -> mudata.MuData:
    return sd.datasets.toy_pairs(n_obs=160, n_genes=100, random_state=3)


def fitted(mdata: mudata.MuData, batch_key: str | None = None, **knobs):
    model = make("predict_modality", "pca_knn", knobs)
    pair = read_roles(PREDICT_MODALITY, model, mdata, mdata, source="rna", target="prot", batch_key=batch_key)["pair"]
    return model.fit(pair=pair), pair


def sides(pair) -> list[np.ndarray]:
    return [np.vstack(list(side.dense_blocks())).astype(float) for side in (pair.source, pair.target)]


def test_one_neighbour_of_a_training_cell_is_itself(mdata):
    model, pair = fitted(mdata, **PLAIN, n_neighbors=1)
    _, y = sides(pair)
    loadings = np.linalg.svd(y, full_matrices=False)[2][:6]
    mean = y.mean(axis=0)
    expected = np.maximum(mean + (y - mean) @ loadings.T @ loadings, 0)
    np.testing.assert_allclose(model.predict(pair=pair)["prediction"], expected, atol=1e-3)


def test_neighbours_and_their_mean_are_those_of_scikit_learn(mdata):
    model, pair = fitted(mdata, **PLAIN, unit_rows=False, n_neighbors=7)
    x, y = sides(pair)
    z = x @ np.linalg.svd(x, full_matrices=False)[2][:8].T
    loadings = np.linalg.svd(y, full_matrices=False)[2][:6]
    mean = y.mean(axis=0)
    said = KNeighborsRegressor(7).fit(z, (y - mean) @ loadings.T).predict(z)
    found = model.predict(pair=pair)["prediction"]
    np.testing.assert_allclose(found, np.maximum(mean + said @ loadings, 0), atol=1e-3)


def test_more_neighbours_than_cells_are_refused(mdata):
    with pytest.raises(ValueError, match="only 160 cells"):
        fitted(mdata, **PLAIN, n_neighbors=161)


def test_each_member_lacks_one_fold_and_folds_share_the_batches(mdata):
    mdata["rna"].obs["batch"] = np.repeat(["a", "b", "c"], [100, 40, 20])
    model, pair = fitted(mdata, "batch", **PLAIN, n_neighbors=5, n_ensemble=5)
    teach, batch = np.arange(160), pair.source.batch
    folds = [np.setdiff1d(teach, model.divide(member, teach, batch)[0]) for member in range(5)]
    np.testing.assert_array_equal(np.sort(np.concatenate(folds)), teach)
    for fold in folds:
        np.testing.assert_array_equal(np.bincount(batch[fold]), [20, 8, 4])
    assert set(model.predict(pair=pair)) == {"prediction", "sd"}


def test_the_part_that_holds_is_the_least_squares_of_held_out_cells(mdata):
    model, pair = fitted(mdata, n_neighbors=10, n_source=8, n_target=6)
    rows = pair.both
    inside, outside = model.hold_out(pair, rows, "neighbors")
    known, wanted = model.given(pair.source, inside[:, 0]), model.wanted(pair, outside)
    near = KNeighborsRegressor(10).fit(known, model.wanted(pair, inside))
    said = near.predict(model.given(pair.source, outside[:, 0]))
    expected = [np.linalg.lstsq(said[:, [i]], wanted[:, i], rcond=None)[0][0] for i in range(6)]
    np.testing.assert_allclose(model.part_, np.clip(expected, 0, 1), atol=1e-3)


def test_what_the_source_says_nothing_of_is_answered_with_its_mean(mdata):
    mdata["prot"].X = mdata["prot"].X[np.random.default_rng(0).permutation(160)]
    spread = []
    for shrink in (True, False):
        model, pair = fitted(mdata, shrink=shrink, n_neighbors=10, valid_share=0.5)
        truth = pair.target.dense(np.arange(160))
        spread.append((model.predict(pair=pair)["prediction"].std(axis=0) / truth.std(axis=0)).mean())
    assert spread[0] < 0.5 * spread[1]


def test_the_published_folds_are_five():
    model = make("predict_modality", "pca_knn", {}, preset="paper")
    teach = np.arange(100)
    folds = [np.setdiff1d(teach, model.divide(member, teach, None)[0]) for member in range(model.n_ensemble)]
    assert [len(fold) for fold in folds] == [20] * 5
    np.testing.assert_array_equal(np.sort(np.concatenate(folds)), teach)
