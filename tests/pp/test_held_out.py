"""Scores of expected counts on held-out ones, against sums by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr, poisson

from scdance import pp


@pytest.fixture
def rates() -> np.ndarray:
    """Two kinds of cells of all depths, 300 × 20."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(20), 2)[rng.integers(2, size=300)]
    return shares * rng.gamma(4, 50, (300, 1))


@pytest.fixture
def parts(rates):
    rng = np.random.default_rng(1)
    counts = pp.canonical(rng.poisson(rates))
    kept = pp.thin(counts, 0.9, rng)
    return kept, pp.canonical(counts - kept)


def scored(parts, expected: np.ndarray, size: int = 300) -> pp.HeldOut:
    scores = pp.HeldOut(*parts)
    for start in range(0, 300, size):
        scores.add(slice(start, min(start + size, 300)), expected[start : start + size])
    return scores


def test_the_loss_is_the_negative_log_likelihood(rates):
    counts = pp.canonical(np.random.default_rng(0).poisson(rates))
    expected = -poisson.logpmf(counts.toarray(), rates).sum()
    assert pp.poisson_loss(counts, rates) == pytest.approx(expected, rel=1e-6)


def test_an_expectation_of_zero_costs_much_but_not_infinity():
    counts = pp.canonical(np.array([[1.0, 0.0]]))
    assert pp.poisson_loss(counts, np.zeros((1, 2))) == pytest.approx(-np.log(1e-8), rel=1e-6)


def test_both_losses_are_means_over_entries(parts, rates):
    kept, held_out = (part.toarray() for part in parts)
    scores = scored(parts, rates)
    ratio = held_out.sum() / kept.sum()
    assert scores.loss == pytest.approx(-poisson.logpmf(held_out, rates * ratio).mean(), rel=1e-5)
    floor = kept.sum(axis=1, keepdims=True) * (kept.sum(axis=0) / kept.sum()) * ratio
    assert scores.floor == pytest.approx(-poisson.logpmf(held_out, floor).mean(), rel=1e-5)
    assert scores.gain == pytest.approx(scores.loss / scores.floor - 1)


def test_blocks_change_nothing(parts, rates):
    once, often = scored(parts, rates), scored(parts, rates, size=37)
    assert once.loss == pytest.approx(often.loss)
    assert once.gain == pytest.approx(often.gain)
    np.testing.assert_allclose(once.per_gene(), often.per_gene())


def test_the_truth_beats_the_floor_and_the_floor_itself_gains_nothing(parts, rates):
    kept = parts[0].toarray()
    floor = np.outer(kept.sum(axis=1), kept.sum(axis=0)) / kept.sum()
    assert scored(parts, rates).gain < -0.1
    assert scored(parts, floor).gain == pytest.approx(0, abs=1e-6)
    assert scored(parts, rates).gain < scored(parts, kept).gain  # the cell's own counts are noise in part


def test_a_gene_is_judged_by_the_correlation_of_its_shares(parts, rates):
    kept, held_out = (part.toarray() for part in parts)
    depth = kept.sum(axis=1, keepdims=True)
    found = scored(parts, rates).per_gene()
    expected = [pearsonr((held_out / depth)[:, j], (rates / depth)[:, j]).statistic for j in range(20)]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_gene_with_few_held_out_molecules_or_a_constant_prediction_has_no_score(parts):
    kept, held_out = parts
    few = held_out.toarray()
    few[:, 0] = 0
    few[:9, 0] = 1
    expected = np.random.default_rng(0).random((300, 20)) * kept.sum(axis=1).A
    expected[:, 1] = kept.sum(axis=1).A.ravel() * 0.05
    found = scored((kept, pp.canonical(few)), expected).per_gene()
    assert np.isnan(found[:2]).all()
    assert np.isfinite(found[2:]).all()
    few[9, 0] = 1
    assert np.isfinite(scored((kept, pp.canonical(few)), expected).per_gene()[0])


def test_cells_without_counts_break_nothing():
    kept = pp.canonical(np.array([[5.0, 0.0], [0.0, 0.0], [3.0, 2.0]]))
    held_out = pp.canonical(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
    scores = pp.HeldOut(kept, held_out)
    scores.add(slice(0, 3), np.ones((3, 2)))
    assert np.isfinite([scores.loss, scores.floor, scores.gain]).all()
    assert np.isnan(scores.per_gene()).all()
