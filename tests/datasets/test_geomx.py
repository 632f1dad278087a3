import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import nnls

from scdance._checks import InputError, MissingKeyError
from scdance.datasets import simulate_geomx, split_reference, toy_clusters

CELLS = toy_clusters(n_obs=300, n_vars=80, k=4, n_de=15, lfc=2.0)
PLAIN = {"gene_effect_sd": 0.0, "noise_sd": 0.0, "background": 0.0}


def geomx(n_regions=100, **more):
    return simulate_geomx(CELLS, "cell_type", n_regions, **more)


def genes_of(regions):
    """Counts without negative probes, dense."""
    return regions.X[:, ~regions.var["is_negative"].to_numpy()].toarray()


def profiles(ref):
    """Mean counts of each type, in the order of the names."""
    labels = ref.obs["cell_type"].to_numpy()
    return np.stack([ref.X[labels == name].mean(axis=0).A1 for name in sorted(set(labels))])


def test_regions_have_no_place_and_negative_probes_stand_behind_the_genes():
    regions = geomx(12, n_negative=7)
    assert "spatial" not in regions.obsm
    assert regions.shape == (12, 87)
    assert regions.var_names[:80].equals(CELLS.var_names)
    assert regions.var["is_negative"].tolist() == [False] * 80 + [True] * 7
    assert regions.var_names.is_unique


def test_the_background_is_recovered_from_negative_probes():
    regions = geomx(30, n_negative=2000)
    found = regions.X[:, regions.var["is_negative"].to_numpy()].mean(axis=1).A1
    # log-normal around the background, and Poisson around that
    error = np.sqrt((np.expm1(0.3**2) + 1 / regions.obs["background"]) / 2000)
    assert (abs(found / regions.obs["background"] - 1) < 4 * error).all()
    assert regions.obs["background"].std() > 0.1 * regions.obs["background"].mean()


def test_genes_that_no_cell_has_count_the_background():
    ref = CELLS.copy()
    ref.X = sp.csr_matrix(ref.X @ sp.diags(np.r_[np.zeros(30), np.ones(50)]))
    regions = simulate_geomx(ref, "cell_type", 200, noise_sd=0.0)
    ratio = genes_of(regions)[:, :30].mean(axis=1) / regions.obs["background"]
    assert ratio.mean() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_share_of_the_background_is_as_wanted(share):
    regions = geomx(background=share)
    assert (80 * regions.obs["background"]).sum() == pytest.approx(share * regions.obs["expected_counts"].sum())
    assert (regions.X[:, regions.var["is_negative"].to_numpy()].nnz == 0) == (share == 0)


@pytest.mark.parametrize("expression", ["cells", "profiles"])
def test_total_counts_lie_within_poisson_bounds_without_noise(expression):
    regions = geomx(400, expression=expression, noise_sd=0.0, depth=20_000)
    expected = regions.obs["expected_counts"].to_numpy()
    assert expected.mean() == pytest.approx(20_000)
    z = (genes_of(regions).sum(axis=1) - expected) / np.sqrt(expected)
    assert abs(z.mean()) < 4 / np.sqrt(400)
    assert z.std() == pytest.approx(1, abs=0.15)  # 4 standard errors


def test_counts_vary_by_log_normal_noise_around_what_is_expected():
    """The same seed without noise draws the same regions, so the ratio of the counts is the noise."""
    more = {"depth": 1e7, "n_negative": 0}
    noisy, plain = (genes_of(geomx(60, noise_sd=sd, **more)) for sd in (0.3, 0.0))
    ratio = np.log(noisy[plain > 10_000] / plain[plain > 10_000])
    assert len(ratio) > 3_000
    assert ratio.std() == pytest.approx(0.3, rel=0.05)
    assert ratio.mean() == pytest.approx(-(0.3**2) / 2, abs=0.02)  # mean 1 before the logarithm


def test_pure_regions_are_of_one_type_and_the_last():
    regions = geomx(20, pure_type="type3", n_pure=5)
    assert regions.obs["is_pure"].tolist() == [False] * 15 + [True] * 5
    assert (regions.obsm["true_prop"]["type3"][15:] == 1).all()
    assert (regions.obsm["true_prop"]["type3"][:15] < 1).all()
    assert not geomx(20).obs["is_pure"].any()


def test_expected_genes_are_those_of_the_mixed_types():
    regions = geomx(**PLAIN, expression="profiles")
    expected = regions.obsm["true_prop"].to_numpy() @ profiles(CELLS)
    expected *= (regions.obs["expected_counts"].to_numpy() / expected.sum(axis=1))[:, None]
    z = (genes_of(regions) - expected) / np.sqrt(np.maximum(expected, 1))
    assert z.std() == pytest.approx(1, abs=0.05)


def test_shares_are_found_by_least_squares_once_the_negative_probes_are_taken_off():
    mixing, ref = split_reference(CELLS)
    assert set(mixing.obs_names).isdisjoint(ref.obs_names)
    regions = simulate_geomx(mixing, "cell_type", 40, gene_effect_sd=0.0, background=0.5)
    types, truth = profiles(ref), regions.obsm["true_prop"].to_numpy()
    weight = 1 / np.sqrt(types.mean(axis=0))

    def error(counts):
        found = np.stack([nnls((types * weight).T, y * weight)[0] for y in counts])
        return np.sqrt(np.mean((found / found.sum(axis=1, keepdims=True) - truth) ** 2))

    background = regions.X[:, regions.var["is_negative"].to_numpy()].mean(axis=1).A1[:, None]
    assert error(genes_of(regions) - background) < 0.1
    assert error(genes_of(regions) - background) < 0.8 * error(genes_of(regions))


def test_regions_are_purer_at_lower_concentration():
    pure, mixed = (geomx(concentration=c).obsm["true_prop"].max(axis=1).mean() for c in (0.1, 10.0))
    assert pure > mixed + 0.3


def test_regions_have_the_wanted_number_of_cells():
    n_cells = geomx(400, n_cells_per_region=50.0).obs["n_cells"]
    assert n_cells.mean() == pytest.approx(50, abs=4 * np.sqrt(50 / 400))
    assert geomx(50, n_cells_per_region=0.1).obs["n_cells"].min() == 1


def test_dropped_types_occur_nowhere():
    regions = geomx(drop_types=["type2"])
    assert (regions.obsm["true_prop"]["type2"] == 0).all()
    assert (regions.obsm["true_prop"].drop(columns="type2").sum() > 0).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_regions": 0},
        {"concentration": 0},
        {"n_cells_per_region": 0},
        {"depth": np.inf},
        {"capture_sd": -1},
        {"gene_effect_sd": -1},
        {"noise_sd": np.nan},
        {"background": 1.0},
        {"n_negative": -1},
        {"n_pure": 0, "pure_type": "type1"},
        {"n_pure": 101, "pure_type": "type1"},
        {"drop_types": ["type1", "type2", "type3"]},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        geomx(**wrong)


def test_a_pure_type_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(InputError, match=r"pure_type is 'typ1'.*Did you mean 'type1'"):
        geomx(pure_type="typ1")
    with pytest.raises(InputError, match=r"pure_type is 'type2'"):
        geomx(pure_type="type2", drop_types=["type2"])


def test_a_gene_that_is_called_like_a_negative_probe_is_refused():
    ref = CELLS.copy()
    ref.var_names = ["NegProbe_3", *ref.var_names[1:]]
    with pytest.raises(InputError, match=r"NegProbe_3.*n_negative=0"):
        simulate_geomx(ref, "cell_type")
    assert simulate_geomx(ref, "cell_type", n_negative=0).n_vars == 80


def test_a_missing_layer_is_named():
    with pytest.raises(MissingKeyError, match="No layer 'raw'"):
        geomx(layer="raw")
