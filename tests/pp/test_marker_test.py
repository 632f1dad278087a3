"""Comparisons of clusters from their sums, against scipy on the cells themselves."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_ind

from scdance._checks import InputError
from scdance.pp import Moments, canonical, cluster_sums, marker_test, merge_by_markers


def data(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Counts of four clusters, the last two of the same rates, and the clusters."""
    rng = np.random.default_rng(seed)
    rates = rng.gamma(2, 1, 50)
    rates[30:] = 40  # so that the raised genes take little of the depth from the others
    profiles = np.tile(rates, (4, 1))
    profiles[0, :10] *= 6
    profiles[1, 10:20] *= 6
    codes = np.repeat([0, 1, 2, 3], [60, 50, 40, 30])
    return rng.poisson(profiles[codes]), codes


def sums_of(x: np.ndarray, codes: np.ndarray) -> Moments:
    return cluster_sums(canonical(x), codes, x.sum(axis=1))


def test_sums_are_those_of_the_cells_of_each_cluster_and_blocks_change_nothing(monkeypatch):
    from scdance.pp import _rows

    x, codes = data()
    codes[:5], x[7] = -1, 0
    linear = x[8:60] / x[8:60].sum(axis=1, keepdims=True) * 1e4
    linear = np.vstack([linear, x[5:7] / x[5:7].sum(axis=1, keepdims=True) * 1e4])
    found = sums_of(x, codes)
    assert found.n.tolist() == [54, 50, 40, 30]
    np.testing.assert_allclose(found.total[0], np.log1p(linear).sum(axis=0))
    np.testing.assert_allclose(found.square[0], (np.log1p(linear) ** 2).sum(axis=0))
    np.testing.assert_array_equal(found.filled[0], (linear > 0).sum(axis=0))
    monkeypatch.setattr(_rows, "MOST", 17)
    for whole, parts in zip(found, sums_of(x, codes), strict=True):
        np.testing.assert_allclose(whole, parts)


def test_the_test_is_that_of_welch_and_the_rates_are_those_of_benjamini_and_hochberg():
    x, codes = data()
    found = marker_test(sums_of(x, codes), 0, 2)
    linear = x / x.sum(axis=1, keepdims=True) * 1e4
    one, other = linear[codes == 0], linear[codes == 2]
    expected = ttest_ind(np.log1p(one), np.log1p(other), equal_var=False)
    np.testing.assert_allclose(found.t, expected.statistic, rtol=1e-6)
    order = np.argsort(expected.pvalue)
    steps = expected.pvalue[order] * 50 / np.arange(1, 51)
    np.testing.assert_allclose(found.fdr[order], np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1), rtol=1e-5)
    ratio = np.subtract(*(np.log2(np.expm1(np.log1p(part).mean(axis=0))) for part in (one, other)))
    np.testing.assert_allclose(found.log2_fold_change, ratio, rtol=1e-5)
    np.testing.assert_allclose(found.share, np.where(ratio > 0, (one > 0).mean(axis=0), (other > 0).mean(axis=0)))


def test_the_other_way_round_only_signs_change():
    sums = sums_of(*data())
    one, other = marker_test(sums, 0, 1), marker_test(sums, 1, 0)
    np.testing.assert_array_equal(one.t, -other.t)
    np.testing.assert_array_equal(one.fdr, other.fdr)
    np.testing.assert_array_equal(one.log2_fold_change, -other.log2_fold_change)
    np.testing.assert_array_equal(one.share, other.share)


def test_clusters_of_the_same_rates_are_merged_and_the_planted_genes_keep_the_others_apart():
    found = merge_by_markers(sums_of(*data()))
    assert found.groups == [[0], [1], [2, 3]]
    assert found.steps == [([2], [3], 0)]
    genes = {(a, b): (set(first.tolist()), set(second.tolist())) for a, b, first, second in found.apart}
    assert set(genes) == {(0, 1), (0, 2), (1, 2)}
    assert genes[0, 2] == (set(range(10)), set())
    assert genes[1, 2] == (set(range(10, 20)), set())
    assert genes[0, 1] == (set(range(10)), set(range(10, 20)))
    assert [len(first) + len(second) for _, _, first, second in found.apart] == [10, 10, 20]


def test_a_merged_cluster_is_the_cluster_of_the_cells_of_both():
    x, codes = data()
    found = merge_by_markers(sums_of(x, codes))
    together = merge_by_markers(sums_of(x, np.minimum(codes, 2)))
    assert together.steps == []
    for one, other in zip(found.apart, together.apart, strict=True):
        assert one[:2] == other[:2]
        np.testing.assert_array_equal(one[2], other[2])


@pytest.mark.parametrize(
    "knob",
    [{"min_genes": 21}, {"min_log2_fold_change": 6.0}, {"max_fdr": 1e-200}],
    ids=lambda knob: next(iter(knob)),
)
def test_each_threshold_can_merge_all(knob):
    assert merge_by_markers(sums_of(*data()), **knob).groups == [[0, 1, 2, 3]]


def test_a_gene_of_few_cells_counts_only_below_the_share():
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.poisson(50, (400, 3)), np.zeros((400, 6), dtype=int)])
    x[:30, 3:] = 5  # 15 % of the cells of the first
    sums = sums_of(x, np.repeat([0, 1], 200))
    assert merge_by_markers(sums, min_share=0.1).groups == [[0], [1]]
    assert merge_by_markers(sums, min_share=0.2).groups == [[0, 1]]


def test_a_cluster_of_one_cell_and_one_without_counts_are_merged_without_a_warning():
    x, codes = data()
    x[0], codes[0], codes[1] = 0, 4, 5  # no counts; alone
    found = merge_by_markers(sums_of(x, codes))
    assert len(found.groups) == 3


def test_one_cluster_has_nothing_to_merge():
    x, codes = data()
    found = merge_by_markers(sums_of(x, np.zeros_like(codes)))
    assert (found.groups, found.steps, found.apart) == ([[0]], [], [])


def test_the_sums_are_left_as_they_were():
    sums = sums_of(*data())
    kept = [part.copy() for part in sums]
    merge_by_markers(sums, min_genes=50)
    for part, before in zip(sums, kept, strict=True):
        np.testing.assert_array_equal(part, before)


@pytest.mark.parametrize(
    ("knob", "said"),
    [
        ({"min_genes": 0}, "min_genes must be a whole number of at least 1"),
        ({"min_genes": 2.5}, "min_genes must be a whole number of at least 1"),
        ({"min_log2_fold_change": -1.0}, "must be at least 0"),
        ({"max_fdr": 0.0}, "above 0 and at most 1"),
        ({"max_fdr": float("nan")}, "above 0 and at most 1"),
        ({"min_share": 1.5}, "from 0 to 1"),
    ],
)
def test_numbers_out_of_range_are_refused(knob, said):
    with pytest.raises(InputError, match=said):
        merge_by_markers(sums_of(*data()), **knob)
