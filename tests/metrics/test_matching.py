"""Scores of a matching against what the definitions give by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

import scdance as sd
from scdance._checks import InputError
from scdance.metrics import foscttm, match_accuracy, match_probability, match_top5


def test_the_transposed_truth_is_another_question():
    """A perfect matching, judged by the inverse permutation, is at chance: the trap of the reference's tables."""
    n = 500
    partner = np.random.default_rng(0).permutation(n)
    links = csr_matrix((np.ones(n), (np.arange(n), partner)), shape=(n, n))
    assert match_probability(partner, links) == 1
    assert match_probability(np.argsort(partner), links) < 0.02


def test_rows_are_divided_by_their_sum_and_unknown_partners_left_out():
    links = np.array([[2.0, 2.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert match_probability([0, 1, -1], links) == pytest.approx((0.5 + 0) / 2)
    assert np.isnan(match_probability([-1, -1, -1], links))


def test_five_partners_have_five_places():
    links = np.array([[0.3, 0.25, 0.2, 0.15, 0.06, 0.04]])
    found = [match_top5([column], links) for column in range(6)]
    assert found == [1, 1, 1, 1, 1, 0]
    assert match_top5([3], np.zeros((1, 6))) == 0


def test_names_are_compared_where_a_true_one_is_known():
    assert match_accuracy(["a", None, "", "b"], ["a", "x", "y", None]) == 0.5


def test_foscttm_is_the_share_that_is_closer_by_a_loop():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(40, 5))
    b = a + rng.normal(size=a.shape)
    z = np.vstack([a, b])
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    cosine = unit[:40] @ unit[40:].T
    expected = np.mean(
        [(cosine[i] > cosine[i, i]).sum() / 39 for i in range(40)]
        + [(cosine[:, i] > cosine[i, i]).sum() / 39 for i in range(40)]
    )
    partner = np.r_[np.arange(40, 80), np.full(40, -1)]
    assert foscttm(partner, z) == pytest.approx(expected)
    assert foscttm(np.r_[np.arange(40, 80), np.full(40, -1)], np.vstack([a, a])) == 0


def test_shapes_that_do_not_agree_are_refused():
    with pytest.raises(InputError, match="partner has shape"):
        match_probability([0, 1], np.eye(3))
    with pytest.raises(InputError, match="partner has shape"):
        foscttm([0, 1], np.eye(3))


def test_chance_scores_one_over_the_candidates():
    n = 200
    links = np.full((n, n), 1 / n)
    assert match_probability(np.random.default_rng(0).permutation(n), links) == pytest.approx(1 / n)
    z = np.random.default_rng(1).normal(size=(2 * n, 10))
    assert foscttm(np.r_[np.arange(n, 2 * n), np.full(n, -1)], z) == pytest.approx(0.5, abs=0.05)
    assert sd.metrics.get("foscttm").higher_is_better is False


def test_ranks_count_the_partners_that_are_likelier_than_the_true_one():
    matching = np.array([[0.5, 0.3, 0.2, 0.0], [0.1, 0.2, 0.3, 0.4], [0.0, 1.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    ranks = sd.metrics.partner_ranks([1, 0, 2, -1], matching)
    np.testing.assert_array_equal(ranks, [2, 4, np.inf])
