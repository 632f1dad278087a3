"""The six scores of joint spaces against computations by hand, scikit-learn, and planted trajectories."""

import doctest
import random
import sys

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.metrics import silhouette_samples

from scdance import metrics
from scdance._checks import InputError
from scdance.metrics import _clustering, _conservation, _mixing, _overall

RNG = np.random.default_rng(0)
TRUTH = np.array(list("abcd"))[RNG.integers(4, size=120)]
BATCH = np.array(["one", "two", "three"])[RNG.integers(3, size=120)]
X = (RNG.normal(size=(120, 3)) + 12 * RNG.normal(size=(4, 3))[np.unique(TRUTH, return_inverse=True)[1]]).astype(
    "float32"
)
ORDER = np.random.default_rng(5).permutation(120)
TIME = np.linspace(0, 1, 120)
LINE = np.column_stack([30 * TIME, RNG.normal(size=120), RNG.normal(size=120)])
STAGES = np.array(["stem", "young", "grown", "old"])[(4 * TIME).clip(max=3).astype(int)]
NAN = float("nan")


@pytest.fixture
def rng():
    return np.random.default_rng(1)


# What types keep


def test_types_that_lie_apart_have_a_partition_that_is_theirs(rng):
    assert metrics.nmi_cluster_label(TRUTH, X) == pytest.approx(1)
    assert metrics.nmi_cluster_label(TRUTH, rng.normal(size=(120, 3))) < 0.3


def test_the_best_of_the_resolutions_counts(monkeypatch):
    best, found = metrics.nmi_cluster_label(TRUTH, X / 8), []
    for resolution in _conservation.RESOLUTIONS:
        monkeypatch.setattr(_conservation, "RESOLUTIONS", [resolution])
        found.append(metrics.nmi_cluster_label(TRUTH, X / 8))
    assert len(found) == 20 and min(found) < max(found) == best


def test_louvain_without_igraph_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "igraph", None)
    with pytest.raises(ImportError, match=r"Louvain clustering needs.*pip install 'scdance\[leiden\]'"):
        metrics.nmi_cluster_label(TRUTH, X)


# The cell cycle


def regressed(matrix, cycle):
    """Σ wᵢ R²ᵢ by an SVD and a least-squares fit of each component."""
    u, s, _ = np.linalg.svd(matrix - matrix.mean(axis=0), full_matrices=False)
    u, s = u[:, :50], s[:50]
    given, total = np.column_stack([np.ones(len(cycle)), cycle]), 0.0
    for component, weight in zip(u.T, s**2 / (s**2).sum(), strict=True):
        rest = component - given @ np.linalg.lstsq(given, component, rcond=None)[0]
        total += weight * max(0, 1 - rest @ rest / (component @ component))
    return total


def kept(before, after):
    return max(0, 1 - abs(after - before) / before)


@pytest.mark.parametrize("storage", [np.asarray, sp.csr_matrix])
@pytest.mark.parametrize("n_genes", [8, 70])
def test_cell_cycle_conservation_is_that_of_regressions_on_each_component_by_batch(storage, n_genes, rng):
    cycle = rng.normal(size=(120, 2))
    expression = rng.normal(size=(120, n_genes)) + cycle @ rng.normal(size=(2, n_genes)) / 3
    z = expression @ rng.normal(size=(n_genes, 60)) + rng.normal(size=(120, 60))
    one = kept(regressed(expression, cycle), regressed(z, cycle))
    assert metrics.cell_cycle_conservation(z, storage(expression), cycle) == pytest.approx(one, abs=1e-5)
    rows = [np.flatnonzero(np.equal(BATCH, name)) for name in np.unique(BATCH)]
    each = [kept(*(regressed(part[own], cycle[own]) for part in (expression, z))) for own in rows]
    found = metrics.cell_cycle_conservation(z, storage(expression), cycle, BATCH)
    assert found == pytest.approx(np.mean(each), abs=1e-5) != pytest.approx(one, abs=1e-3)


def test_a_space_that_is_the_rna_keeps_its_cycle_and_one_without_it_does_not(rng):
    cycle = rng.normal(size=(120, 2))
    expression = np.column_stack([cycle, rng.normal(size=(120, 6))])
    assert metrics.cell_cycle_conservation(expression @ np.diag([3] * 8), expression, cycle) == pytest.approx(1)
    assert metrics.cell_cycle_conservation(expression[:, 2:], expression, cycle) < 0.3
    for n_dims in (2, 60):
        assert metrics.cell_cycle_conservation(np.full((120, n_dims), 0.1), expression, cycle) == 0


def test_cell_cycle_conservation_is_not_defined_without_rna_scores_or_cells(rng):
    cycle = rng.normal(size=(120, 2))
    assert np.isnan(metrics.cell_cycle_conservation(X, None, cycle))
    assert np.isnan(metrics.cell_cycle_conservation(X, X, None))
    for n_genes in (4, 70):  # the RNA says nothing
        for silent in (np.ones((120, n_genes)), sp.csr_matrix((120, n_genes))):
            assert np.isnan(metrics.cell_cycle_conservation(X, silent, cycle))
    assert np.isnan(metrics.cell_cycle_conservation(X[:6], X[:6], cycle[:6], ["a", "b"] * 3))  # three cells each


def test_cells_without_scores_of_the_cycle_or_without_a_batch_take_no_part(rng):
    cycle, few = rng.normal(size=(120, 2)), np.arange(120) % 5 == 0
    expected = metrics.cell_cycle_conservation(X[~few], X[~few] + 1, cycle[~few], BATCH[~few])
    holes = np.where(few[:, None], np.nan, cycle)
    assert metrics.cell_cycle_conservation(X, X + 1, holes, BATCH) == expected
    assert metrics.cell_cycle_conservation(X, X + 1, cycle, np.where(few, "", BATCH)) == expected


# Trajectories


def test_a_line_is_followed_from_its_first_type():
    assert metrics.trajectory_conservation(STAGES, LINE, TIME) > 0.97
    assert metrics.trajectory_conservation(STAGES, LINE, 1 - TIME) > 0.97  # the other end is the root then
    turned = np.where(TIME > 0.5, 1 - TIME, TIME + 0.01)  # nothing increases along the line
    assert metrics.trajectory_conservation(STAGES, LINE, turned) < 0.7


def test_a_root_at_the_wrong_end_scores_low():
    # a few cells of the first type lie at the far end of a line that all others climb
    last = np.arange(120) >= 115
    found = metrics.trajectory_conservation(np.where(last, "first", STAGES), LINE, np.where(last, -1.0, TIME))
    assert found < 0.2


def test_a_space_without_order_scores_by_chance():
    scores = [
        metrics.trajectory_conservation(STAGES, np.random.default_rng(i).normal(size=(120, 3)), TIME) for i in range(8)
    ]
    assert np.mean(scores) == pytest.approx(0.5, abs=0.15)


def test_times_are_compared_within_batches():
    # within each batch the space runs with time; between them the later one lies earlier: DANCE mixes both
    batch = np.arange(120) % 2
    time = TIME + 2 * batch
    within = metrics.trajectory_conservation(STAGES, LINE, time, batch)
    assert within > 0.95
    assert metrics.trajectory_conservation(STAGES, LINE, time) < within - 0.1
    assert metrics.trajectory_conservation(STAGES, LINE, TIME, batch) == pytest.approx(within, abs=1e-12)


def test_the_mean_over_the_trajectories_is_taken_and_cells_off_them_are_left_out():
    off = np.where(np.arange(120) % 3 == 0, np.nan, TIME)
    shuffled = TIME[ORDER]
    one, two = (metrics.trajectory_conservation(STAGES, LINE, time) for time in (off, shuffled))
    both = np.column_stack([off, shuffled])
    assert metrics.trajectory_conservation(STAGES, LINE, both) == pytest.approx((one + two) / 2)
    on = ~np.isnan(off)
    assert one == metrics.trajectory_conservation(STAGES[on], LINE[on], off[on])


def test_a_first_type_that_is_cut_off_scores_0_and_other_cells_that_are_count_as_first():
    apart = LINE + 1000 * (STAGES == "stem")[:, None]
    assert metrics.trajectory_conservation(STAGES, apart, TIME) == 0
    apart = LINE + 1000 * (STAGES == "old")[:, None]
    assert 0 < metrics.trajectory_conservation(STAGES, apart, TIME) < 0.8


def test_trajectory_conservation_is_not_defined_without_times():
    nothing = np.full(120, np.nan)
    assert np.isnan(metrics.trajectory_conservation(STAGES, LINE, None))
    assert np.isnan(metrics.trajectory_conservation(STAGES, LINE, nothing))
    assert np.isnan(metrics.trajectory_conservation(STAGES[:9], LINE[:9], TIME[:9]))
    assert np.isnan(metrics.trajectory_conservation(STAGES, LINE, np.ones(120)))
    score = metrics.trajectory_conservation(STAGES, LINE, TIME)
    assert metrics.trajectory_conservation(STAGES, LINE, np.column_stack([TIME, nothing])) == score


def test_global_states_stay_as_they_were():
    numbers = np.random.get_state()[1].copy()  # noqa: NPY002, only looked at
    printed, python = np.get_printoptions(), random.getstate()
    metrics.trajectory_conservation(STAGES, LINE, TIME)
    metrics.nmi_cluster_label(TRUTH, X)
    np.testing.assert_array_equal(np.random.get_state()[1], numbers)  # noqa: NPY002
    assert np.get_printoptions() == printed
    assert random.getstate() == python


# Batches


def test_batch_asw_is_one_less_the_absolute_widths_of_the_batches_within_types():
    expected = [
        1 - np.abs(silhouette_samples(X[rows], BATCH[rows])).mean()
        for rows in (np.flatnonzero(np.equal(TRUTH, each)) for each in "abcd")
    ]
    assert metrics.batch_asw(TRUTH, X, BATCH) == pytest.approx(np.mean(expected))


def test_batch_asw_by_hand():
    # widths of cells at 0, 1 | 3: 1 − 1/3, 1 − 1/2, and 0 of the one that is alone; at 0 | 0 a width of 0 each
    types, batch, x = list("TTTBB"), list("ppqpq"), np.array([[0.0], [1.0], [3.0], [0.0], [0.0]])
    assert metrics.batch_asw(types, x, batch) == pytest.approx(1 - (2 / 3 + 1 / 2) / 3)  # B: every cell its own
    assert np.isnan(metrics.batch_asw(types[3:], x[3:], batch[3:]))


def test_batch_asw_is_not_defined_for_one_batch_and_skips_types_of_one():
    assert np.isnan(metrics.batch_asw(TRUTH, X, None))
    assert np.isnan(metrics.batch_asw(TRUTH, X, ["one"] * 120))
    lone = np.where(TRUTH == "a", "one", BATCH)
    others = TRUTH != "a"
    assert metrics.batch_asw(TRUTH, X, lone) == metrics.batch_asw(TRUTH[others], X[others], BATCH[others])


def test_batch_asw_of_many_cells_is_that_of_a_fixed_sample(monkeypatch):
    whole = metrics.batch_asw(TRUTH, X, BATCH)
    monkeypatch.setattr(_clustering, "MOST_CELLS", 20)
    sampled = metrics.batch_asw(TRUTH, X, BATCH)
    assert sampled == metrics.batch_asw(TRUTH, X, BATCH) != metrics.batch_asw(TRUTH, X, BATCH, random_state=1)
    assert sampled == pytest.approx(whole, abs=0.1)


def test_a_type_in_two_clumps_is_half_connected(rng):
    clumps = np.repeat([0.0, 100.0], 30)[:, None] + rng.normal(size=(60, 2))
    assert metrics.graph_connectivity(["T"] * 60, clumps) == 0.5
    assert metrics.graph_connectivity(["T"] * 30 + ["B"] * 30, clumps) == 1
    assert metrics.graph_connectivity(["T"] * 45 + ["B"] * 15, clumps) == pytest.approx((30 / 45 + 1) / 2)


# All of them


SIX = {
    "nmi_cluster_label": lambda truth, x, rows: metrics.nmi_cluster_label(truth, x),
    "cell_cycle_conservation": lambda truth, x, rows: metrics.cell_cycle_conservation(
        x, sp.csr_matrix(LINE)[rows], LINE[rows, 1:], BATCH[rows]
    ),
    "trajectory_conservation": lambda truth, x, rows: metrics.trajectory_conservation(
        truth, x, TIME[rows], BATCH[rows]
    ),
    "batch_asw": lambda truth, x, rows: metrics.batch_asw(truth, x, BATCH[rows]),
    "graph_connectivity": lambda truth, x, rows: metrics.graph_connectivity(truth, x),
}
ALL = np.arange(120)
each = pytest.mark.parametrize("score", SIX.values(), ids=SIX)


@pytest.mark.parametrize("name", SIX)
def test_the_order_of_the_cells_does_not_matter(name, rng):
    blurred = (LINE + rng.normal(size=LINE.shape)).astype(np.float32)
    turned, straight = SIX[name](STAGES[ORDER], blurred[ORDER], ORDER), SIX[name](STAGES, blurred, ALL)
    # Louvain visits the cells in an order that is drawn
    assert turned == pytest.approx(straight, abs=0.06 if name == "nmi_cluster_label" else 1e-4)


@each
def test_a_score_lies_in_its_range_and_does_not_depend_on_the_unit_of_the_space(score):
    found = score(STAGES, X, ALL)
    assert 0 <= found <= 1
    assert score(STAGES, 8 * X, ALL) == pytest.approx(found, abs=1e-4)


@pytest.mark.parametrize("name", [name for name in SIX if name != "cell_cycle_conservation"])
def test_cells_without_truth_take_no_part(name):
    score, known = SIX[name], STAGES != "young"
    assert score(np.where(known, STAGES, ""), LINE, ALL) == score(STAGES[known], LINE[known], ALL[known])


@each
def test_a_space_that_is_not_finite_is_refused(score):
    x = X.copy()
    x[[3, 7], 1] = np.nan
    with pytest.raises(InputError, match=r"finite numbers.*2 of 120 rows"):
        score(TRUTH, x, ALL)


def test_values_of_other_cells_are_refused():
    with pytest.raises(InputError, match="batch has 119 cells and truth has 120"):
        metrics.batch_asw(TRUTH, X, BATCH[1:])
    with pytest.raises(InputError, match="pseudotime has 119 cells and embedding has 120"):
        metrics.trajectory_conservation(TRUTH, X, TIME[1:])
    with pytest.raises(InputError, match="cycle has 119 cells and embedding has 120"):
        metrics.cell_cycle_conservation(X, X, X[1:, :2])


def test_cells_that_lie_on_one_another_are_no_trouble():
    same = np.eye(4)[np.unique(STAGES, return_inverse=True)[1]]
    assert metrics.nmi_cluster_label(STAGES, same) == pytest.approx(1)
    assert metrics.graph_connectivity(STAGES, same) == 1
    assert metrics.batch_asw(STAGES, same, BATCH) == 1
    assert 0 <= metrics.trajectory_conservation(STAGES, same, TIME, BATCH) <= 1


def test_the_mean_of_six_is_that_of_those_that_are_defined():
    assert metrics.mean_of_six(0.1, 0.2, 0.3, 0.4, 0.5, 0.6) == pytest.approx(0.35)
    assert metrics.mean_of_six(0.1, 0.2, NAN, NAN, NAN, 0.6) == pytest.approx(0.3)
    assert np.isnan(metrics.mean_of_six(*[NAN] * 6))


def test_biology_counts_more_than_batches_and_neither_stands_for_the_other():
    assert metrics.bio_and_batch(0.1, 0.2, 0.3, 0.4, 0.5, 0.7) == pytest.approx(0.6 * 0.25 + 0.4 * 0.6)
    assert metrics.bio_and_batch(0.1, NAN, NAN, 0.3, NAN, 0.7) == pytest.approx(0.6 * 0.2 + 0.4 * 0.7)
    assert np.isnan(metrics.bio_and_batch(NAN, NAN, NAN, NAN, 0.5, 0.7))
    assert np.isnan(metrics.bio_and_batch(0.1, 0.2, 0.3, 0.4, NAN, NAN))


@pytest.mark.parametrize("module", [_conservation, _mixing, _overall], ids=lambda module: module.__name__)
def test_the_examples_run_as_printed(module):
    assert doctest.testmod(module).failed == 0
