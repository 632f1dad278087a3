"""Scores of predicted responses against numpy."""

from __future__ import annotations

import numpy as np
import pytest

import scdance as sd

RNG = np.random.default_rng(0)
TRUTH = RNG.gamma(1, 1, (4, 30))
SAID = TRUTH + RNG.normal(0, 0.5, TRUTH.shape)
CONTROL = TRUTH.mean(axis=0) + 0.1
TOP = np.array([RNG.permutation(30)[:5] for _ in range(4)])
SCORES = {
    "perturbation_skill": (CONTROL,),
    "perturbation_rmse": (),
    "perturbation_rmse_top": (TOP,),
    "change_pearson": (CONTROL,),
}
every_score = pytest.mark.parametrize(("name", "more"), SCORES.items(), ids=SCORES.keys())


def test_errors_are_those_of_each_perturbation_and_then_their_mean():
    by_hand = [np.sqrt(np.mean((t - s) ** 2)) for t, s in zip(TRUTH, SAID, strict=True)]
    assert sd.metrics.perturbation_rmse(TRUTH, SAID) == pytest.approx(np.mean(by_hand))
    of_top = [np.sqrt(np.mean((t[i] - s[i]) ** 2)) for t, s, i in zip(TRUTH, SAID, TOP, strict=True)]
    assert sd.metrics.perturbation_rmse_top(TRUTH, SAID, TOP) == pytest.approx(np.mean(of_top))


def test_skill_is_counted_from_no_change():
    error, change = ((TRUTH - SAID) ** 2).sum(), ((TRUTH - CONTROL) ** 2).sum()
    assert sd.metrics.perturbation_skill(TRUTH, SAID, CONTROL) == pytest.approx(1 - error / change)
    assert sd.metrics.perturbation_skill(TRUTH, np.tile(CONTROL, (4, 1)), CONTROL) == 0
    assert np.isnan(sd.metrics.perturbation_skill(np.tile(CONTROL, (4, 1)), SAID, CONTROL))


def test_the_correlation_is_that_of_the_changes_and_0_where_there_is_none():
    change = SAID - CONTROL
    by_hand = [np.corrcoef(t - CONTROL, c)[0, 1] for t, c in zip(TRUTH, change, strict=True)]
    assert sd.metrics.change_pearson(TRUTH, change, CONTROL) == pytest.approx(np.mean(by_hand))
    change[0] = 0
    assert sd.metrics.change_pearson(TRUTH, change, CONTROL) == pytest.approx(np.sum(by_hand[1:]) / 4)


@every_score
def test_the_truth_scores_the_best_value(name, more):
    record = sd.metrics.get(name)
    best = record.range[1] if record.higher_is_better else record.range[0]
    said = TRUTH - CONTROL if name == "change_pearson" else TRUTH
    assert record.function(TRUTH, said, *more) == pytest.approx(best)


@every_score
def test_other_shapes_are_refused(name, more):
    with pytest.raises(ValueError, match=r"\(4, 30\), the prediction \(3, 30\)"):
        getattr(sd.metrics, name)(TRUTH, SAID[1:], *more)
    with pytest.raises(ValueError, match="not empty"):
        getattr(sd.metrics, name)(TRUTH[:0], SAID[:0], *more)
