"""Held-out cells, temperatures and conformal sets against searches, simulations and counts by hand."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from scipy.stats import binom

from scdance.train import conformal_sets, hold_out, temperature


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def drawn(rng, n, n_types=4, spread=2.0):
    """Log-odds, and types that have just these probabilities."""
    logits = rng.normal(0, spread, (n, n_types))
    proba = softmax(logits, axis=1)
    codes = (proba.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(max=n_types - 1)
    return logits, proba, codes


# hold_out


def test_each_type_gives_its_share(rng):
    codes = rng.permutation(np.repeat([0, 1, 2], [100, 10, 5]))
    out = hold_out(codes, 0.2, rng)
    assert np.bincount(codes[out], minlength=3).tolist() == [20, 2, 1]


def test_a_small_share_still_takes_one_cell_of_each_type_and_a_large_one_leaves_one(rng):
    codes = np.repeat([0, 1], [6, 200])
    assert np.bincount(codes[hold_out(codes, 0.01, rng)]).tolist() == [1, 2]
    assert np.bincount(codes[hold_out(codes, 0.99, rng)]).tolist() == [5, 198]


@pytest.mark.parametrize(("least", "expected"), [(5, [0, 2]), (4, [1, 2]), (1, [1, 2])])
def test_rare_types_give_none(rng, least, expected):
    out = hold_out(np.repeat([0, 1], [4, 10]), 0.2, rng, least=least)
    assert [out[:4].sum(), out[4:].sum()] == expected


def test_a_type_of_one_cell_keeps_it(rng):
    assert not hold_out(np.array([0, 1, 1]), 0.5, rng, least=1)[0]


def test_which_cells_are_held_out_depends_on_the_generator_only():
    codes = np.repeat([0, 1], 50)
    one, again, other = (hold_out(codes, 0.2, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert (one == again).all() and (one != other).any()


# temperature


def test_the_temperature_is_the_best_of_a_grid(rng):
    logits, _, codes = drawn(rng, 500)
    logits = logits * 1.7 + rng.normal(0, 1, logits.shape)
    grid = np.exp(np.linspace(-3, 3, 3001))
    loss = [-log_softmax(logits / t, axis=1)[np.arange(500), codes].mean() for t in grid]
    assert temperature(logits, codes) == pytest.approx(grid[np.argmin(loss)], rel=0.004)


@pytest.mark.parametrize("factor", [0.2, 1.0, 5.0])
def test_the_factor_by_which_true_log_odds_were_multiplied_is_recovered(rng, factor):
    logits, _, codes = drawn(rng, 20_000)
    assert temperature(factor * logits, codes) == pytest.approx(factor, rel=0.05)


def test_a_constant_added_to_all_scores_of_a_cell_changes_nothing(rng):
    logits, _, codes = drawn(rng, 300)
    assert temperature(logits + rng.normal(0, 100, (300, 1)), codes) == pytest.approx(temperature(logits, codes))


def test_without_cells_nothing_is_scaled():
    assert temperature(np.empty((0, 3)), np.empty(0, dtype=int)) == 1


def test_scores_that_say_nothing_get_a_temperature_within_the_bounds(rng):
    for logits in (np.zeros((50, 3)), rng.normal(size=(50, 3)) * 1e4):
        assert 1 / 50 <= temperature(logits, rng.integers(3, size=50)) <= 50


# conformal_sets


@pytest.mark.parametrize("level", [0.05, 0.1, 0.3])
def test_the_true_type_of_exchangeable_cells_is_in_the_set_in_every_class(rng, level):
    _, proba, codes = drawn(rng, 24_000)
    sets = conformal_sets(proba[4000:], proba[:4000], codes[:4000], level)
    hit = sets[np.arange(20_000), codes[4000:]]
    for code in range(4):
        n, n_known = (codes[4000:] == code).sum(), (codes[:4000] == code).sum()
        # coverage is that of n new cells and of the known ones, which are drawn as well
        off = 4 * np.sqrt(level * (1 - level) * (1 / n + 1 / n_known))
        assert abs(hit[codes[4000:] == code].mean() - (1 - level)) < off + 1 / n_known


def test_coverage_holds_for_few_known_cells_over_many_repetitions(rng):
    hits, n = 0, 3000
    for _ in range(n):
        _, proba, codes = drawn(rng, 80, n_types=2)
        hits += conformal_sets(proba[:1], proba[1:], codes[1:], 0.2)[0, codes[0]]
    assert hits >= binom.ppf(1e-4, n, 0.8)


def test_a_set_is_what_counting_by_hand_says():
    known = np.array([[0.1, 0.9], [0.5, 0.5], [0.6, 0.4], [0.9, 0.1]])
    new = np.array([[0.05, 0.95], [0.1, 0.9], [0.55, 0.45]])
    # of type 0: p = (cells as improbable + 1) / 5 = 0.2, 0.4, 0.6; of type 1, without a cell: with all four
    sets = conformal_sets(new, known, np.zeros(4, dtype=int), 0.4)
    assert sets.tolist() == [[False, True], [False, True], [True, False]]
    own = known[:, 0]
    by_hand = [[(np.sum(own <= row[j]) + 1) / 5 > 0.4 for j in range(2)] for row in new]
    assert sets.tolist() == by_hand


def test_rare_types_are_compared_with_each_other(rng):
    codes = np.repeat([0, 1, 2], [100, 6, 6])
    known = rng.dirichlet(np.ones(3), 112)
    known[100:] = known[100:] * [1, 0.3, 0.3]  # rare types are less probable where they are true
    new = rng.dirichlet(np.ones(3), 60)
    pooled = np.round(known[np.arange(112), codes][100:], 4)
    expected = (np.sum(pooled <= np.round(new, 4)[:, 1:, None], axis=2) + 1) / 13 > 0.1
    sets = conformal_sets(new, known, codes, 0.1)
    np.testing.assert_array_equal(sets[:, 1:], expected)
    whole = np.sort(np.round(known[:100, 0], 4))
    assert sets[:, 0].tolist() == [(np.sum(whole <= round(p, 4)) + 1) / 101 > 0.1 for p in new[:, 0]]


def test_the_true_type_of_rare_cells_is_in_the_set_over_the_rare_types_together(rng):
    hits, n = [], 400
    for _ in range(n):
        codes = np.repeat(np.arange(6), [300, 4, 4, 4, 4, 4])
        new = np.concatenate([codes, np.arange(1, 6)])
        proba = softmax(rng.normal(0, 1, (len(new), 6)) + np.eye(6)[new] * np.where(new == 0, 8, 2)[:, None], axis=1)
        sets = conformal_sets(proba[320:], proba[:320], codes, 0.1)
        hits.append(sets[np.arange(5), new[320:]].mean())
    assert np.mean(hits) > 0.9 - 4 * np.std(hits) / np.sqrt(n)


def test_where_all_rare_types_are_too_few_they_are_compared_with_all_known_cells():
    codes = np.repeat([0, 1], [100, 8])
    known = np.column_stack([np.linspace(0.5, 1, 108), np.linspace(0.5, 0, 108)])
    pooled = np.sort(known[np.arange(108), codes])
    new = np.column_stack([np.linspace(0, 1, 50), np.linspace(1, 0, 50)])
    rare = conformal_sets(new, known, codes, 0.1)[:, 1]  # 8 < 1 / 0.1 - 1
    expected = [(np.sum(pooled <= round(p, 4)) + 1) / 109 > 0.1 for p in new[:, 1]]
    assert rare.tolist() == expected
    own = known[100:, 1]
    enough = conformal_sets(new, known, codes, 0.2)[:, 1]
    assert enough.tolist() == [(np.sum(np.round(own, 4) <= round(p, 4)) + 1) / 9 > 0.2 for p in new[:, 1]]


def test_ties_count_as_as_small():
    known, codes = np.full((19, 2), 0.5), np.zeros(19, dtype=int)
    sets = conformal_sets(np.array([[0.5, 0.5], [0.5 - 1e-6, 0.5], [0.49, 0.51]]), known, codes, 0.1)
    assert sets[:, 0].tolist() == [True, True, False]  # a difference of rounding is none


def test_with_too_few_known_cells_no_type_is_ruled_out():
    known = np.array([[0.9, 0.1], [0.1, 0.9]])
    assert conformal_sets(np.array([[1.0, 0.0]]), known, np.array([0, 1]), 0.1).all()


def test_a_smaller_level_never_gives_smaller_sets(rng):
    _, proba, codes = drawn(rng, 400)
    strict, loose = (conformal_sets(proba[200:], proba[:200], codes[:200], level) for level in (0.05, 0.2))
    assert (strict | ~loose).all() and strict.sum() > loose.sum()


def test_the_order_of_the_known_cells_does_not_matter(rng):
    _, proba, codes = drawn(rng, 300)
    order = rng.permutation(200)
    one = conformal_sets(proba[200:], proba[:200], codes[:200], 0.1)
    np.testing.assert_array_equal(one, conformal_sets(proba[200:], proba[order], codes[order], 0.1))


def test_cells_without_an_error_do_not_make_probabilities_certain():
    codes = np.repeat([0, 1], 20)
    logits = 3.0 * np.eye(2)[codes]
    t = temperature(logits, codes)
    assert softmax(logits / t, axis=1).max(axis=1).mean() == pytest.approx(41 / 42, abs=1e-6)
