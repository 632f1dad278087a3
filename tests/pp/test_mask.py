"""What is hidden, how much of it, and by which law."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import binomtest, chi2_contingency, chisquare

from scdance import pp
from scdance._checks import InputError

PROTOCOLS = ("uniform", "exponential", "entries", "thinning")
WHOLE_ENTRIES = PROTOCOLS[:2]


@pytest.fixture
def counts() -> sp.csr_matrix:
    """200 cells × 50 genes of all depths, some of them nearly empty, one of them empty."""
    rng = np.random.default_rng(0)
    rates = rng.gamma(0.5, 4, (200, 50)) * rng.gamma(0.5, 1, (200, 1))
    rates[7] = 0
    return pp.canonical(rng.poisson(rates))


def masked(counts: sp.csr_matrix, protocol: str, rate: float = 0.1, seed: int = 0, **how: str) -> sp.csr_matrix:
    return pp.mask(counts, protocol, rate, np.random.default_rng(seed), **how)


@pytest.mark.parametrize("protocol", WHOLE_ENTRIES)
@pytest.mark.parametrize("rate", [0.1, 0.29, 0.5, 0.95])
def test_an_entry_is_gone_or_as_it_was_and_each_cell_loses_the_exact_number(counts, protocol, rate):
    kept = masked(counts, protocol, rate)
    hidden = (counts - kept).toarray()
    assert (kept.toarray()[hidden != 0] == 0).all()
    assert (kept.toarray()[hidden == 0] == counts.toarray()[hidden == 0]).all()
    n = np.diff(counts.indptr)
    percent = round(100 * rate)
    assert ((hidden != 0).sum(axis=1) == np.where(n > 5, percent * n // 100, 0)).all()  # whole numbers do not round
    assert (n <= 5).any() and (n > 20).any()


def test_a_share_that_a_float_holds_a_little_too_small_loses_nothing_by_it():
    row = pp.canonical(np.ones((1, 100)))
    assert 0.29 * 100 < 29
    assert masked(row, "uniform", 0.29).nnz == 71


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_left_is_canonical_and_the_input_is_not_touched(counts, protocol):
    before = counts.copy()
    kept = masked(counts, protocol)
    assert isinstance(kept, sp.csr_matrix)
    assert (kept.dtype, kept.shape, kept.has_canonical_format) == (np.float32, counts.shape, True)
    assert kept.data.min() >= 1
    assert (counts.data == before.data).all() and (counts.indices == before.indices).all()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_seed_decides(counts, protocol):
    one, again, other = (masked(counts, protocol, seed=seed).toarray() for seed in (1, 1, 2))
    assert (one == again).all()
    assert (one != other).any()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_dense_integer_and_unsorted_input_is_masked_in_the_same_way(counts, protocol):
    wanted = masked(counts, protocol).toarray()
    other_way = sp.csc_matrix(counts).tocsr()[:, ::-1][:, ::-1].astype(np.int64)
    for each in (counts.toarray(), other_way):
        assert (masked(each, protocol).toarray() == wanted).all()


# The laws


def times_hidden(row: np.ndarray, n_draws: int, protocol: str, rate: float, **how: str) -> np.ndarray:
    """How often each entry of a cell is hidden: `n_draws` cells that are all alike are as many draws."""
    many = pp.canonical(np.tile(row, (n_draws, 1)))
    return (masked(many, protocol, rate, **how).toarray() == 0).sum(axis=0)


def drawn_one_by_one(weights: np.ndarray, n: int, n_draws: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    out = np.zeros(len(weights))
    for _ in range(n_draws):
        out[rng.choice(len(weights), n, replace=False, p=weights / weights.sum())] += 1
    return out


def test_uniform_hides_all_entries_equally_often_whatever_their_value():
    found = times_hidden(np.array([1, 1, 2, 5, 20, 100, 1000, 3]), 4000, "uniform", 0.25)
    assert found.sum() == 2 * 4000
    assert chisquare(found).pvalue > 1e-3


def test_exponential_prefers_low_values_just_as_draws_one_by_one_without_replacement():
    row = np.array([1, 4, 8, 15, 25, 40, 60, 90], dtype=float)
    found = times_hidden(row, 4000, "exponential", 0.38)
    assert found.sum() == 3 * 4000
    assert (np.diff(found) < 0).all()
    # the order of the draws of one cell does not matter, but inclusion is not proportional to the weight
    expected = drawn_one_by_one(np.exp(-row / 20), 3, 4000)
    assert chi2_contingency(np.stack([found, expected])).pvalue > 1e-3
    naive = np.exp(-row / 20) / np.exp(-row / 20).sum() * 3 * 4000
    assert chisquare(found, naive).pvalue < 1e-6


def test_a_single_draw_has_probabilities_proportional_to_the_weights():
    row = np.array([1, 5, 10, 20, 30, 50], dtype=float)
    found = times_hidden(row, 6000, "exponential", 0.2)
    weights = np.exp(-row / 20)
    assert chisquare(found, weights / weights.sum() * 6000).pvalue > 1e-3


def test_weights_of_logarithms_are_nearly_equal():
    row = np.array([1, 5, 10, 20, 30, 50], dtype=float)
    found = times_hidden(row, 6000, "exponential", 0.2, value_space="log1p")
    weights = np.exp(-np.log1p(row) / 20)
    assert weights.min() / weights.max() > 0.8
    assert chisquare(found, weights / weights.sum() * 6000).pvalue > 1e-3


def test_thinning_takes_each_molecule_with_the_same_probability():
    counts = pp.canonical(np.tile(np.array([1, 3, 10, 200]), (2000, 1)))
    kept = masked(counts, "thinning", 0.3)
    left = kept.toarray()
    assert (left <= counts.toarray()).all()
    for j, count in enumerate((1, 3, 10, 200)):
        assert binomtest(int(left[:, j].sum()), 2000 * count, 0.7).pvalue > 1e-3
        assert left[:, j].var() == pytest.approx(count * 0.21, rel=0.15)
    assert abs(np.corrcoef(left, rowvar=False)[np.triu_indices(4, 1)]).max() < 0.1
    assert ((kept > 0).toarray() & (left < counts.toarray())).any()  # entries become smaller, they do not vanish


def test_parts_of_poisson_counts_are_independent():
    rng = np.random.default_rng(0)
    counts = pp.canonical(rng.poisson(5, (20_000, 1)))
    kept = masked(counts, "thinning", 0.2)
    both = np.column_stack([kept.toarray(), (counts - kept).toarray()])
    assert abs(np.corrcoef(both, rowvar=False)[0, 1]) < 0.03


# Wrong calls


@pytest.mark.parametrize("rate", [0, 1, 2, -0.1, float("nan"), True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_rate_that_is_no_share_is_refused(counts, protocol, rate):
    with pytest.raises(InputError, match=r"rate is .* above 0 and below 1"):
        masked(counts, protocol, rate)


def test_an_unknown_protocol_is_refused_with_the_nearest(counts):
    with pytest.raises(InputError, match="Did you mean 'uniform'"):
        masked(counts, "unifrom")
    with pytest.raises(InputError, match="value_space is 'log'"):
        masked(counts, "exponential", value_space="log")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("wrong", [0.5, -1.0, np.nan, np.inf])
def test_values_that_are_no_counts_are_refused(counts, protocol, wrong):
    counts.data[3] = wrong
    if (protocol, wrong) == ("entries", 0.5):  # amounts by the volume of a cell, say
        assert masked(counts, protocol).nnz
        return
    with pytest.raises(InputError, match="1 values are no counts"):
        masked(counts, protocol)


def test_entries_are_hidden_each_by_itself_and_may_have_fractions(counts):
    given = counts * np.float32(0.3)
    kept = masked(given, "entries", 0.3)
    hidden = (given - kept).toarray()
    assert (kept.toarray()[hidden != 0] == 0).all()
    large = np.diff(given.indptr) > 20
    shares = (hidden != 0).sum(axis=1)[large] / np.diff(given.indptr)[large]
    n = np.diff(given.indptr)[large].mean()
    assert shares.mean() == pytest.approx(0.3, abs=0.02)
    assert shares.std() == pytest.approx(np.sqrt(0.3 * 0.7 / n), rel=0.2)  # not the same number in each


def test_cells_of_which_no_entry_would_be_left_keep_them_all():
    counts = pp.canonical(np.eye(300)[:, :40] + np.eye(300, 40, -1))
    kept = masked(counts, "entries", 0.6)
    n, left = np.diff(counts.indptr), np.diff(kept.indptr)
    assert (left[n > 0] > 0).all()
    assert (left[n == 1] == 1).all()


def test_entries_that_are_no_amounts_are_refused():
    with pytest.raises(InputError, match="no counts: negative or not finite"):
        masked(sp.csr_matrix([[1.0, -1.0]]), "entries", 0.5)
