"""Novel: what enters its net, where the net starts, and the scores of the target that it learns."""

from __future__ import annotations

import mudata
import numpy as np
import pytest

import scdance as sd
from scdance._checks import InputError
from scdance._core.method import Runtime
from scdance._core.read import read_roles
from scdance._core.run import make
from scdance._core.task import PREDICT_MODALITY

SMALL = {
    "n_source": 8,
    "n_target": 5,
    "hidden": (16, 12),
    "dropout": (0.1, 0.0),
    "epochs": 3,
    "batch_size": 40,
    "lr": 0.03,
}


@pytest.fixture(scope="module")
def mdata() -> mudata.MuData:
    return sd.datasets.toy_pairs(n_obs=120, n_genes=60, unpaired=0.2, random_state=4)


def fitted(mdata: mudata.MuData, **knobs):
    model = make("predict_modality", "novel", {**SMALL, **knobs})
    pair = read_roles(PREDICT_MODALITY, model, mdata, mdata, source="rna", target="prot")["pair"]
    model.runtime = Runtime(progress=False)
    with model.session():
        model.fit(pair=pair)
        return model, pair, model.predict(pair=pair)["prediction"]


def test_an_untrained_net_answers_the_mean_of_each_feature(mdata):
    _, pair, said = fitted(mdata, epochs=0)
    mean = pair.target.dense(pair.both[:, 1]).mean(axis=0)
    np.testing.assert_allclose(said, np.tile(mean, (pair.source.n_obs, 1)), rtol=1e-5)


def test_answers_lie_in_the_span_of_the_components_around_the_mean(mdata):
    _, pair, said = fitted(mdata, clip="none")
    y = pair.target.dense(pair.both[:, 1]).astype(float)
    loadings = np.linalg.svd(y, full_matrices=False)[2][:5]
    off = said - y.mean(axis=0)
    assert np.abs(off).max() > 0.01
    np.testing.assert_allclose(off @ loadings.T @ loadings, off, atol=1e-4)


def test_the_net_learns_scores_of_the_target_around_its_mean(mdata):
    model, pair, _ = fitted(mdata)
    rows = pair.both[:30]
    with model.session():
        batch = list(model.batches(pair, rows, 64, "training"))
    assert len(batch) == 1
    x, y = batch[0]
    values = pair.target.dense(pair.both[:, 1]).astype(float)
    loadings = np.linalg.svd(values, full_matrices=False)[2][:5]
    expected = (pair.target.dense(rows[:, 1]) - values.mean(axis=0)) @ loadings.T
    # the order is drawn and signs of components are free: lengths of the rows are neither
    np.testing.assert_allclose(np.sort((y**2).sum(dim=1)), np.sort((expected**2).sum(axis=1)), rtol=1e-3)
    np.testing.assert_allclose(x.mean(dim=1), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(dim=1, unbiased=False), 1, atol=1e-4)


def test_by_frequencies_the_depth_of_a_cell_changes_nothing(mdata):
    with mudata.set_options(pull_on_update=False):
        deeper = mdata.copy()
    deeper["rna"].X = deeper["rna"].X * 3
    model, _, said = fitted(mdata, weighting="tfidf")
    pair = read_roles(PREDICT_MODALITY, model_with_preps(model, mdata), deeper, deeper, source="rna")["pair"]
    with model.session():
        np.testing.assert_allclose(model.predict(pair=pair)["prediction"], said, atol=1e-4)


def model_with_preps(model, mdata):
    """The model as `sd.fit` leaves it, which applies the recipe that it was fitted with."""
    pair = read_roles(PREDICT_MODALITY, model, mdata, mdata, source="rna", target="prot")["pair"]
    model.preps_ = {"source": pair.source.prep, "target": pair.target.prep}
    model.modalities_ = ["rna", "prot"]
    return model


def test_a_target_that_is_0_or_more_may_end_in_a_gelu(mdata):
    _, _, said = fitted(mdata, n_target=None, output="gelu", start_at_mean=False, clip="none", epochs=1)
    assert said.min() >= -0.1701
    with pytest.raises(InputError, match="n_target=None"):
        fitted(mdata, output="gelu")


def test_each_layer_has_its_dropout(mdata):
    with pytest.raises(InputError, match="2 layers, but dropout 1"):
        fitted(mdata, dropout=(0.1,))
    with pytest.raises(InputError, match="below 1"):
        fitted(mdata, dropout=(0.1, 1.0))


def test_proteins_enter_as_they_are(mdata):
    model = make("predict_modality", "novel", {**SMALL, "epochs": 1})
    pair = read_roles(PREDICT_MODALITY, model, mdata, mdata, source="prot", target="rna")["pair"]
    model.runtime = Runtime(progress=False)
    with model.session():
        model.fit(pair=pair)
    np.testing.assert_array_equal(model.loadings_["source"], np.eye(pair.source.n_vars))
