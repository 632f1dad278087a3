"""Scores of a predicted modality against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

import scdance as sd
from scdance.metrics import _modality

RNG = np.random.default_rng(0)
TRUTH = RNG.poisson(0.7, (23, 6)).astype(np.float32)
SAID = (TRUTH + RNG.normal(0, 0.5, TRUTH.shape)).astype(np.float32)
MEAN = TRUTH.mean(axis=0) + 0.1
SCORES = {
    "modality_rmse": (),
    "modality_mae": (),
    "modality_pearson": (),
    "skill": (MEAN,),
    "skill_of_features": (MEAN,),
    "interval_coverage": (np.full(6, 0.4),),
}
every_score = pytest.mark.parametrize(("name", "more"), SCORES.items(), ids=SCORES.keys())


@every_score
def test_sparse_values_and_blocks_score_as_dense_ones(monkeypatch, name, more):
    score = getattr(sd.metrics, name)
    expected = score(TRUTH, SAID, *more)
    np.testing.assert_allclose(score(sp.csc_matrix(TRUTH), sp.csr_matrix(SAID), *more), expected, rtol=1e-12)
    monkeypatch.setattr(_modality, "ROWS", 5)
    np.testing.assert_allclose(score(TRUTH, SAID, *more), expected, rtol=1e-12)


@every_score
def test_other_shapes_are_refused(name, more):
    with pytest.raises(ValueError, match=r"\(23, 6\), the prediction \(22, 6\)"):
        getattr(sd.metrics, name)(TRUTH, SAID[1:], *more)
    with pytest.raises(ValueError, match="not empty"):
        getattr(sd.metrics, name)(TRUTH[:0], SAID[:0], *more)


def test_zeros_are_measured_values():
    truth = sp.csr_matrix(np.array([[0.0, 0.0, 0.0, 2.0]]))
    assert sd.metrics.modality_rmse(truth, np.ones((1, 4))) == pytest.approx(1.0)
    assert sd.metrics.modality_mae(truth, np.ones((1, 4))) == pytest.approx(1.0)


def test_a_cell_without_variance_correlates_by_0_and_counts():
    truth, said = np.array([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]]), np.array([[2.0, 4.0, 6.0], [1.0, 5.0, 2.0]])
    assert sd.metrics.modality_pearson(truth, said) == pytest.approx(0.5)
    assert sd.metrics.modality_pearson(said, truth) == pytest.approx(0.5)


def test_the_mean_has_no_skill_the_truth_all_and_what_is_worse_less_than_none():
    means = np.broadcast_to(MEAN, TRUTH.shape)
    assert sd.metrics.skill(TRUTH, means, MEAN) == pytest.approx(0)
    assert sd.metrics.skill(TRUTH, TRUTH, MEAN) == 1
    assert sd.metrics.skill(TRUTH, -TRUTH, MEAN) < 0
    assert np.isnan(sd.metrics.skill(means, means, MEAN))


def test_the_skill_of_a_feature_is_that_of_its_column():
    expected = [sd.metrics.skill(TRUTH[:, [j]], SAID[:, [j]], MEAN[[j]]) for j in range(6)]
    np.testing.assert_allclose(sd.metrics.skill_of_features(TRUTH, SAID, MEAN), expected, rtol=1e-12)
    flat = np.column_stack([TRUTH[:, 0], np.ones(23)])
    found = sd.metrics.skill_of_features(flat, flat, [0.5, 1.0])
    assert found[0] == 1
    assert np.isnan(found[1])
