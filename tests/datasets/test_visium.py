import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.spatial.distance import cdist

from scdance._checks import InputError
from scdance.datasets import _mixing, _tissue, simulate_visium, toy_clusters

CELLS = toy_clusters(n_obs=300, n_vars=80, k=4, n_de=15, lfc=2.0)
PLAIN = {"gene_effect_sd": 0.0, "ambient": 0.0, "bleed": 0.0, "capture_sd": 0.0}


def visium(**more):
    return simulate_visium(CELLS, "cell_type", **{"n_rows": 20, "n_cols": 20} | more)


def profiles(ref):
    """Mean counts of each type, in the order of the names."""
    labels = ref.obs["cell_type"].to_numpy()
    return np.stack([ref.X[labels == name].mean(axis=0).A1 for name in sorted(set(labels))])


def morans_i(spots):
    """Moran's I of the proportions by its definition, mean over types; weight 1 up to 1.3 pitches."""
    distance = cdist(spots.obsm["spatial"], spots.obsm["spatial"])
    w = (distance > 0) & (distance < 1.3 * _tissue.PITCH)
    z = spots.obsm["true_prop"].to_numpy()
    z = z - z.mean(axis=0)
    return np.mean(len(z) / w.sum() * np.diag(z.T @ w @ z) / (z**2).sum(axis=0))


def test_neighbours_on_the_hexagonal_lattice_are_six_at_one_distance():
    spots = visium(n_rows=5, n_cols=5)
    distance = np.sort(np.linalg.norm(spots.obsm["spatial"] - spots.obsm["spatial"][12], axis=1))
    np.testing.assert_allclose(distance[1:7], spots.uns["simulation"]["pitch"])
    assert distance[7] > 1.7 * distance[1]


def test_neighbours_on_the_square_lattice_are_four_at_one_distance():
    distance = cdist(visium(lattice="square", n_rows=5, n_cols=5).obsm["spatial"], [[200.0, 200.0]])
    assert np.isclose(distance, _tissue.PITCH).sum() == 4


def test_array_rows_and_columns_are_numbered_as_visium_does():
    spots = visium(n_rows=4, n_cols=3)
    assert spots.obs["array_row"].tolist() == np.repeat(range(4), 3).tolist()
    assert spots.obs["array_col"].tolist() == [0, 2, 4, 1, 3, 5] * 2


def test_spots_lie_where_they_are_given():
    xy = np.random.default_rng(0).uniform(0, 9, (50, 2))
    spots = visium(lattice=xy)
    np.testing.assert_array_equal(spots.obsm["spatial"], xy)
    assert "array_row" not in spots.obs


@pytest.mark.parametrize("expression", ["cells", "profiles"])
@pytest.mark.parametrize("depth", [300, 5000])
def test_total_counts_lie_within_poisson_bounds_of_what_is_expected(expression, depth):
    spots = visium(expression=expression, depth=depth)
    expected = spots.obs["expected_counts"].to_numpy()
    assert expected.mean() == pytest.approx(depth)
    z = (spots.X.sum(axis=1).A1 - expected) / np.sqrt(expected)
    assert abs(z.mean()) < 4 / np.sqrt(400)
    assert z.std() == pytest.approx(1, abs=0.15)  # 4 standard errors


def test_theta_gives_the_variance_of_a_negative_binomial():
    # mean profiles of very many cells, without pattern: every spot has nearly the same mean
    more = PLAIN | {"expression": "profiles", "n_cells_per_spot": 1e5, "temperature": 1e3}
    x = visium(n_rows=40, n_cols=50, theta=2.0, **more).X.toarray()
    mean = x.mean(axis=0)
    np.testing.assert_allclose(np.median(x.var(axis=0) / (mean + mean**2 / 2)), 1, rtol=0.05)


@pytest.mark.parametrize("expression", ["cells", "profiles"])
def test_expected_genes_are_those_of_the_mixed_types(expression):
    spots = visium(expression=expression, depth=50_000, n_cells_per_spot=200, **PLAIN)
    expected = (spots.obsm["true_prop"].to_numpy() @ profiles(CELLS)).sum(axis=0)
    found = spots.X.sum(axis=0).A1
    np.testing.assert_allclose(found / found.sum(), expected / expected.sum(), rtol=0.1)


def test_both_truths_differ_by_the_rna_of_the_types():
    ref = CELLS.copy()
    ref.X = sp.csr_matrix(sp.diags(np.where(ref.obs["cell_type"] == "type1", 3.0, 1.0)) @ ref.X)
    spots = simulate_visium(ref, "cell_type", n_rows=9, n_cols=9, expression="profiles")
    expected = spots.obsm["true_prop"].to_numpy() * profiles(ref).sum(axis=1)
    np.testing.assert_allclose(spots.obsm["true_prop_rna"], expected / expected.sum(axis=1, keepdims=True))


def test_the_platform_changes_genes_by_factors_of_the_wanted_spread():
    more = PLAIN | {"expression": "profiles", "depth": 1e5}
    plain, changed = (visium(**more | {"gene_effect_sd": sd}).X.sum(axis=0).A1 for sd in (0.0, 0.3))
    assert np.log(changed / plain).std() == pytest.approx(0.3, abs=0.1)


def test_proportions_are_smoother_for_longer_lengthscales():
    rough, middle, smooth = (
        morans_i(visium(pattern="gp", lengthscale=lengthscale, n_cells_per_spot=100)) for lengthscale in (0.2, 2.0, 6.0)
    )
    assert abs(rough) < 0.1 and rough + 0.3 < middle < smooth - 0.1


def test_all_patterns_but_random_are_spatial():
    found = {pattern: morans_i(visium(pattern=pattern)) for pattern in _tissue.PATTERNS}
    assert abs(found.pop("random")) < 0.1
    assert min(found.values()) > 0.4


def test_layers_follow_one_another_down_the_tissue():
    top = visium(pattern="layers", temperature=0.05, lengthscale=1.0).obsm["true_prop"].idxmax(axis=1)
    runs = top.to_numpy().reshape(20, 20)
    assert (runs == runs[:, :1]).mean() > 0.9
    first = runs[:, 0]
    assert (first[1:] != first[:-1]).sum() == 3


def test_spots_are_purer_at_lower_temperature():
    pure, mixed = (visium(temperature=t).obsm["true_prop"].max(axis=1).mean() for t in (0.1, 10.0))
    assert pure > mixed + 0.3


def test_spots_have_the_wanted_number_of_cells_and_at_least_one():
    n_cells = visium(n_rows=40, n_cols=40, n_cells_per_spot=1.0).obs["n_cells"]
    assert n_cells.min() == 1
    assert n_cells.mean() == pytest.approx(1 + np.exp(-1), abs=0.1)  # a Poisson number, 1 instead of 0
    truth = visium().obsm["true_prop"].mul(visium().obs["n_cells"], axis=0).to_numpy()
    np.testing.assert_allclose(truth, truth.round(), atol=1e-9)


def test_dropped_types_occur_nowhere():
    spots = visium(drop_types=["type2"])
    for truth in ("true_prop", "true_prop_rna"):
        assert (spots.obsm[truth]["type2"] == 0).all()
        assert (spots.obsm[truth].drop(columns="type2").sum() > 0).all()


def test_rna_bleeds_into_the_ring_around_a_spot_and_none_is_lost():
    spots = _tissue.layout("hex", 5, 5)
    moved = _tissue.bleeding(spots, 0.12).toarray()
    np.testing.assert_allclose(moved.sum(axis=0), 1)
    distance = np.linalg.norm(spots.xy - spots.xy[12], axis=1)
    np.testing.assert_allclose(moved[:, 12], np.where(distance == 0, 0.88, np.where(distance < 110, 0.02, 0)))


def test_ambient_counts_have_the_mean_profile():
    """With nearly all counts ambient, the genes of pure spots are those of the whole slice."""
    more = {"temperature": 0.01, "depth": 20_000, "bleed": 0.0}
    x = {share: visium(ambient=share, **more).X.toarray() for share in (0.0, 0.99)}
    spread = {share: (y / y.sum(axis=1, keepdims=True)).std(axis=0).mean() for share, y in x.items()}
    assert spread[0.99] < spread[0.0] / 5


def test_blocks_do_not_change_the_counts(monkeypatch):
    whole = visium(n_rows=6, n_cols=6)
    monkeypatch.setattr(_mixing, "ENTRIES_PER_BLOCK", 400)
    assert (whole.X != visium(n_rows=6, n_cols=6).X).nnz == 0


def test_memory_grows_with_the_counts_not_with_the_matrix(monkeypatch):
    monkeypatch.setattr(_mixing, "ENTRIES_PER_BLOCK", 20_000)
    ref = toy_clusters(200, 2000, k=3, depth=200)
    tracemalloc.start()
    spots = simulate_visium(ref, "cell_type", n_rows=50, n_cols=40, depth=20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < spots.shape[0] * spots.shape[1] * 4  # one dense float32 copy


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_rows": 0},
        {"n_cols": -1},
        {"lengthscale": 0},
        {"temperature": 0},
        {"n_cells_per_spot": 0},
        {"depth": np.nan},
        {"theta": 0},
        {"capture_sd": -1},
        {"gene_effect_sd": -1},
        {"ambient": 1.0},
        {"bleed": -0.1},
        {"lattice": np.zeros((3, 3))},
        {"lattice": np.zeros((3, 2))},
        {"drop_types": ["type1", "type2", "type3"]},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        visium(**wrong)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [({"pattern": "layer"}, "layers"), ({"lattice": "hexx"}, "hex"), ({"drop_types": ["Type3"]}, "type3")],
)
def test_a_misspelt_choice_is_refused_with_the_nearest(wrong, right):
    with pytest.raises(InputError, match=f"{next(iter(wrong))} is .*Did you mean '{right}'"):
        visium(**wrong)
