"""Least squares between scores of two modalities, against numpy."""

from __future__ import annotations

import anndata
import mudata
import numpy as np
import pytest

import scdance as sd
from scdance._core.read import read_roles
from scdance._core.run import make
from scdance._core.task import PREDICT_MODALITY


def paired(source: np.ndarray, target: np.ndarray) -> mudata.MuData:
    """Normalised values of RNA and proteins of the same cells."""
    mods = {}
    for name, x in (("rna", source), ("prot", target)):
        mods[name] = anndata.AnnData(np.asarray(x, dtype=np.float32))
        mods[name].obs_names = [f"cell_{i}" for i in range(len(x))]
        mods[name].var_names = [f"{name}_{i}" for i in range(x.shape[1])]
        mods[name].uns["log1p"] = {}
    with mudata.set_options(pull_on_update=False):
        return mudata.MuData(mods)


@pytest.fixture(scope="module")
def rank_5() -> mudata.MuData:
    """Values without noise: five hidden numbers of each cell make both modalities."""
    rng = np.random.default_rng(0)
    z = rng.uniform(0.1, 1, (120, 5))
    return paired(z @ rng.uniform(0, 1, (5, 40)), z @ rng.uniform(0, 1, (5, 12)))


def fitted(mdata: mudata.MuData, **knobs):
    model = make("predict_modality", "linear", knobs)
    pair = read_roles(PREDICT_MODALITY, model, mdata, mdata, source="rna", target="prot")["pair"]
    return model.fit(pair=pair), pair


def test_without_noise_a_low_rank_is_found_exactly(rank_5):
    model, pair = fitted(rank_5, n_source=5, n_target=5)
    np.testing.assert_allclose(model.predict(pair=pair)["prediction"], rank_5["prot"].X, atol=1e-4)


def test_the_answer_is_the_least_squares_of_numpy_between_scores():
    mdata = sd.datasets.toy_pairs(n_obs=150)
    model, pair = fitted(mdata, n_source=8, n_target=6)
    x, y = (np.vstack(list(side.dense_blocks())).astype(float) for side in (pair.source, pair.target))
    scores = np.column_stack([x @ np.linalg.svd(x, full_matrices=False)[2][:8].T, np.ones(len(x))])
    loadings = np.linalg.svd(y, full_matrices=False)[2][:6]
    mean = y.mean(axis=0)  # of which the loadings hold a part only
    expected = mean + scores @ np.linalg.lstsq(scores, (y - mean) @ loadings.T, rcond=None)[0] @ loadings
    np.testing.assert_allclose(model.predict(pair=pair)["prediction"], np.maximum(expected, 0), atol=2e-3)


def test_more_features_than_cells_have_the_solution_of_smallest_norm():
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 1, (20, 60)), rng.uniform(0, 1, (20, 4))
    model, pair = fitted(paired(x, y), n_source=None, n_target=None)
    assert model.coefficients_[0].shape == (61, 4)
    np.testing.assert_allclose(model.predict(pair=pair)["prediction"], y, atol=1e-3)


def test_a_decomposition_of_all_features_changes_nothing(rank_5):
    (all_features, pair), (turned, _) = fitted(rank_5, n_target=None), fitted(rank_5, n_target=11)
    said = [model.predict(pair=pair)["prediction"] for model in (all_features, turned)]
    assert all_features.loadings_["target"].shape == (12, 12)
    np.testing.assert_allclose(*said, atol=1e-3)
