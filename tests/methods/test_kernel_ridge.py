"""Kernel ridge regression: its formulas against scikit-learn's, its landmarks, halves and choice of a weight."""

from __future__ import annotations

import anndata
import mudata
import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge as SklearnKernelRidge

import scdance as sd
from scdance._core.read import read_roles
from scdance._core.run import make
from scdance._core.task import PREDICT_MODALITY

SMALL = {"n_source": 10, "n_target": 6, "length": 1.5, "alpha": 0.2}


def with_batches(mdata: mudata.MuData, names: str) -> mudata.MuData:
    """The same cells in batches of these names, in turn."""
    mdata["rna"].obs["batch"] = np.resize(list(names), mdata["rna"].n_obs)
    return mdata


@pytest.fixture
def mdata() -> mudata.MuData:
    return sd.datasets.toy_pairs(n_obs=160, n_genes=100, random_state=3)


def fitted(mdata: mudata.MuData, *, batch_key: str | None = None, target: str = "prot", **knobs):
    model = make("predict_modality", "kernel_ridge", knobs)
    pair = read_roles(PREDICT_MODALITY, model, mdata, mdata, source="rna", target=target, batch_key=batch_key)["pair"]
    return model.fit(pair=pair), pair


def said(mdata: mudata.MuData, **knobs) -> np.ndarray:
    model, pair = fitted(mdata, **knobs)
    return model.predict(pair=pair)["prediction"]


def test_the_exact_solver_is_scikit_learns(mdata):
    model, pair = fitted(mdata, **SMALL, solver="exact")
    x, y = (np.vstack(list(side.dense_blocks())).astype(float) for side in (pair.source, pair.target))
    z = x @ model.loadings_["source"].T
    z = (z - z.mean(axis=1, keepdims=True)) / z.std(axis=1, keepdims=True)
    loadings = np.linalg.svd(y, full_matrices=False)[2][:6]
    mean = y.mean(axis=0)
    ridge = SklearnKernelRidge(kernel="rbf", gamma=1 / (2 * 1.5**2), alpha=0.2).fit(z, (y - mean) @ loadings.T)
    expected = np.maximum(mean + ridge.predict(z) @ loadings, 0)
    np.testing.assert_allclose(model.predict(pair=pair)["prediction"], expected, atol=1e-4)


def test_with_all_cells_as_landmarks_nystrom_is_exact(mdata):
    exact = said(mdata, **SMALL, solver="exact")
    np.testing.assert_allclose(said(mdata, **SMALL, solver="nystrom", n_landmarks=160), exact, atol=1e-5)
    some = said(mdata, **SMALL, solver="nystrom", n_landmarks=40)
    assert 1e-3 < np.abs(some - exact).mean() < 0.05


def test_up_to_the_landmarks_auto_is_exact_and_above_it_is_nystrom(mdata):
    np.testing.assert_array_equal(said(mdata, **SMALL), said(mdata, **SMALL, solver="exact"))
    several = {**SMALL, "n_landmarks": 40}
    np.testing.assert_array_equal(said(mdata, **several), said(mdata, **several, solver="nystrom"))


def test_landmarks_are_a_like_share_of_each_batch(mdata):
    mdata["rna"].obs["batch"] = np.repeat(["a", "b", "c"], [120, 20, 20])
    model, pair = fitted(mdata, **SMALL, batch_key="batch", n_landmarks=16)
    places = model._landmarks(pair.source, np.arange(160), 16)
    np.testing.assert_allclose(np.bincount(pair.source.batch[places]), [12, 2, 2], atol=1)
    assert len(np.unique(places)) == 16


def test_each_two_members_share_the_batches_between_them(mdata):
    model, pair = fitted(with_batches(mdata, "abcde"), **SMALL, batch_key="batch", halves=True, n_ensemble=4)
    teach, batch = np.arange(160), pair.source.batch
    halves = [model.divide(member, teach, batch)[0] for member in range(4)]
    for first, second in (halves[:2], halves[2:]):
        assert not set(batch[first]) & set(batch[second])
        np.testing.assert_array_equal(np.sort(np.concatenate([first, second])), teach)
    assert set(batch[halves[0]]) != set(batch[halves[2]])
    with pytest.raises(ValueError, match="odd"):
        fitted(mdata, halves=True, n_ensemble=5)


def test_without_batches_halves_are_of_the_cells(mdata):
    model, _ = fitted(mdata, **SMALL, halves=True, n_ensemble=2)
    first, second = (model.divide(member, np.arange(160), None)[0] for member in (0, 1))
    assert len(first) == 80
    np.testing.assert_array_equal(np.sort(np.concatenate([first, second])), np.arange(160))


def test_other_names_of_the_batches_change_nothing(mdata):
    knobs = {"batch_key": "batch", "halves": True, "n_ensemble": 4, "n_landmarks": 40}
    said_of = [said(with_batches(mdata, names), **SMALL | knobs | {"alpha": None}) for names in ("abcd", "cadb")]
    np.testing.assert_array_equal(*said_of)


def test_the_ensemble_is_averaged_before_it_is_limited(mdata):
    open_ = np.random.default_rng(0).random((160, 30)) < 0.9  # a limited sum of ten would leave a tenth
    peaks = anndata.AnnData(open_.astype(np.float32), obs=mdata["prot"].obs[[]])
    with mudata.set_options(pull_on_update=False):
        both = mudata.MuData({"rna": mdata["rna"], "atac": peaks})
    out = said(both, **SMALL, target="atac", halves=True, n_ensemble=10)
    assert 0.8 < out.mean() <= 1
    assert out.min() >= 0
    assert out.max() <= 1


def test_what_the_source_says_nothing_of_is_answered_with_little_but_its_mean(mdata):
    y = {}
    for name in ("known", "shuffled"):
        model, pair = fitted(mdata)
        truth = pair.target.dense(np.arange(160))
        y[name] = (model.predict(pair=pair)["prediction"].std(axis=0) / truth.std(axis=0)).mean()
        mdata["prot"].X = mdata["prot"].X[np.random.default_rng(0).permutation(160)]
    assert model.alpha_ >= 30
    assert y["shuffled"] < 0.2
    assert y["known"] > 0.5


def test_cells_without_a_neighbour_are_answered_with_the_mean(mdata):
    model, _ = fitted(mdata, **SMALL | {"length": 1e-3})
    _, new = fitted(sd.datasets.toy_pairs(n_obs=50, n_genes=100, random_state=8), **SMALL)
    out = model.answers(0, new.source)(slice(0, 50))
    np.testing.assert_allclose(out, np.tile(model.features_["mean"], (50, 1)), atol=1e-5)
