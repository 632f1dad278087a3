"""SpaGCN: its kernel, its colours, its assignment and what it finds."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

import scdance as sd
from scdance._checks import InputError
from scdance._core.cells import Image
from scdance.graph import majority, spatial
from scdance.methods.spatial_domain.spagcn import SpaGCN, _Net, kernel_length, smoothed, with_colors
from scdance.metrics import ari

QUICK = {"method": "spagcn", "n_clusters": 4, "n_init": 2, "progress": False}


@pytest.fixture(scope="module")
def _tissue() -> ad.AnnData:
    return sd.datasets.toy_domains(n_obs=400, n_vars=100)


@pytest.fixture
def tissue(_tissue) -> ad.AnnData:
    """400 spots in four layers."""
    return _tissue.copy()


@pytest.fixture
def coords() -> np.ndarray:
    """A hexagonal lattice of 256 spots, 100 apart."""
    row, column = (each.ravel() for each in np.indices((16, 16)))
    return np.column_stack([column + row % 2 / 2, row * np.sqrt(0.75)]) * 100


def gaussian(coords: np.ndarray, length: float) -> np.ndarray:
    return np.exp(-cdist(coords, coords, "sqeuclidean") / (2 * length**2))


def solved(tissue: ad.AnnData, **knobs) -> ad.AnnData:
    return sd.tl.spatial_domain(tissue, copy=True, **(QUICK | knobs))


def picture(tissue: ad.AnnData, pixels: np.ndarray) -> None:
    """Put a picture into the object that covers all spots."""
    tissue.obsm["spatial"] = tissue.obsm["spatial"] - tissue.obsm["spatial"].min(axis=0)
    scale = (np.array(pixels.shape[1::-1]) - 1).min() / tissue.obsm["spatial"].max()
    tissue.uns["spatial"] = {"a": {"images": {"hires": pixels}, "scalefactors": {"tissue_hires_scalef": scale}}}


# ------------------------------------------------------------------ kernel


@pytest.mark.parametrize("weight", [0.05, 0.5, 1.0, 4.0])
def test_the_length_gives_the_weight_that_the_whole_matrix_has(coords, weight):
    length = kernel_length(coords, weight)
    assert gaussian(coords, length).sum(axis=1).mean() - 1 == pytest.approx(weight, rel=1e-3)


def test_the_length_grows_with_the_weight_and_with_the_coordinates(coords):
    lengths = [kernel_length(coords, weight) for weight in (0.05, 0.5, 1.0, 4.0)]
    assert (np.diff(lengths) > 0).all()
    assert kernel_length(1e-3 * coords, 0.5) == pytest.approx(1e-3 * lengths[1], rel=1e-5)


def test_known_lengths_on_an_endless_hexagonal_lattice():
    row, column = (each.ravel() for each in np.indices((40, 40)))
    coords = np.column_stack([column + row % 2 / 2, row * np.sqrt(0.75)])
    lengths = [kernel_length(coords, weight) for weight in (0.05, 0.5, 1.0)]
    np.testing.assert_allclose(lengths, [0.324, 0.450, 0.527], atol=0.006)  # the border raises them


def test_a_weight_that_no_length_gives_is_refused(coords):
    with pytest.raises(InputError, match="neighbor_weight=300"):
        kernel_length(coords, 300)
    with pytest.raises(InputError, match="on one place"):
        kernel_length(np.repeat(coords, 3, axis=0), 1.5)


def test_smoothing_is_the_product_with_the_whole_matrix(coords):
    x = np.random.default_rng(0).normal(size=(len(coords), 5)).astype(np.float32)
    whole = gaussian(coords, 45) @ x
    np.testing.assert_allclose(smoothed(x, coords, 45), whole, atol=1e-4)
    np.testing.assert_allclose(smoothed(x, coords, 45, cutoff=np.inf), whole, atol=1e-5)


def test_slices_do_not_see_each_other(coords):
    x = np.random.default_rng(0).normal(size=(len(coords), 5)).astype(np.float32)
    slices = np.arange(len(coords)) % 2
    for cutoff in (5.26, np.inf):
        both = smoothed(x, coords, 90, slices=slices, cutoff=cutoff)
        one = smoothed(x[slices == 1], coords[slices == 1], 90, cutoff=cutoff)
        np.testing.assert_allclose(both[slices == 1], one, rtol=1e-5, atol=1e-6)


def test_a_linear_layer_of_sums_is_the_sum_of_its_values(coords):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(len(coords), 5)).astype(np.float32), rng.normal(size=(5, 5))
    np.testing.assert_allclose(smoothed(x, coords, 45) @ w, gaussian(coords, 45) @ (x @ w), atol=1e-4)


def test_leaving_small_weights_out_changes_no_domain(tissue):
    some, all_ = solved(tissue), solved(tissue, cutoff=float("inf"))
    assert (some.obs["spagcn"] == all_.obs["spagcn"]).all()
    # single values move by 3e-4 by rounding alone on some machines, since Adam divides small gradients by themselves
    assert np.sqrt(np.mean((some.obsm["X_spagcn"] - all_.obsm["X_spagcn"]) ** 2)) < 1e-4


def test_the_layer_gives_the_same_of_sums_without_small_weights(tissue):
    model = sd.fit("spatial_domain", tissue, method="spagcn", n_clusters=4, n_init=2)
    coords, x = tissue.obsm["spatial"], np.random.default_rng(0).normal(size=(400, model.n_inputs_))
    length = model.notes_["kernel_length"]
    (z, log_q), (all_z, all_log_q) = (
        model._assigned(torch.from_numpy(smoothed(x.astype(np.float32), coords, length, cutoff=cutoff)))
        for cutoff in (model.cutoff, np.inf)
    )
    assert (z - all_z).abs().max() < 1e-4
    assert (log_q.argmax(dim=1) == all_log_q.argmax(dim=1)).all()


def test_sums_without_small_weights_are_those_of_all_pairs(coords):
    x = np.random.default_rng(0).normal(size=(len(coords), 30)).astype(np.float32)
    some, all_ = smoothed(x, coords, 150.0), smoothed(x, coords, 150.0, cutoff=np.inf)
    np.testing.assert_allclose(some, all_, atol=1e-4)


# ------------------------------------------------------------------ assignment


def test_the_assignment_has_the_exponent_of_the_authors():
    torch.manual_seed(0)
    net, s = _Net(3, 4, False), torch.randn(20, 3)
    net.centers.data = torch.randn(4, 3)
    z, log_q = net(s)
    kernel = (1 + torch.cdist(z, net.centers) ** 2 / 0.2) ** -1.2
    torch.testing.assert_close(log_q.exp(), kernel / kernel.sum(dim=1, keepdim=True), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(log_q.exp().sum(dim=1), torch.ones(20))


def test_the_assignment_depends_on_distances_only():
    torch.manual_seed(0)
    net, moved = _Net(3, 4, False), _Net(3, 4, False)
    net.centers.data = torch.randn(4, 3)
    turn = torch.linalg.qr(torch.randn(3, 3))[0]
    moved.linear.load_state_dict({"weight": turn @ net.linear.weight, "bias": net.linear.bias @ turn.T + 5})
    moved.centers.data = net.centers @ turn.T + 5
    s = torch.randn(50, 3)
    torch.testing.assert_close(net(s)[1], moved(s)[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("trained", [False, True])
def test_centers_move_only_where_they_are_trained(tissue, trained):
    knobs = {"n_clusters": 4, "n_init": 2, "train_centers": trained, "tol": 0.0}
    none = sd.fit("spatial_domain", tissue, method="spagcn", epochs=0, **knobs)
    some = sd.fit("spatial_domain", tissue, method="spagcn", epochs=6, **knobs)
    one, other = (np.sort(model.net_.centers.detach().numpy(), axis=0) for model in (none, some))
    assert np.allclose(one, other, atol=1e-5) == (not trained)
    assert not np.allclose(none.net_.linear.weight.detach(), some.net_.linear.weight.detach(), atol=1e-3)


# ------------------------------------------------------------------ what it finds


def test_planted_layers_are_found_and_better_than_by_expression_alone():
    tissue = sd.datasets.toy_domains(n_obs=500, n_vars=120, k=5, lfc=0.8)
    found = solved(tissue, n_clusters=5)
    sd.tl.spatial_domain(tissue, "leiden", n_clusters=5)
    score = ari(tissue.obs["domain"], found.obs["spagcn"])
    assert score > 0.8
    assert score > ari(tissue.obs["domain"], tissue.obs["leiden"]) + 0.05


@pytest.mark.parametrize("preset", ["paper", "dance", "dlpfc_151673"])
def test_published_settings_find_the_layers_too(tissue, preset):
    assert ari(tissue.obs["domain"], solved(tissue, preset=preset).obs["spagcn_refined"]) > 0.75


@pytest.mark.parametrize("init", ["kmeans", "mixture"])
def test_other_first_centers_find_the_layers_too(tissue, init):
    assert ari(tissue.obs["domain"], solved(tissue, init=init).obs["spagcn_refined"]) > 0.75


def test_moving_turning_and_scaling_the_tissue_changes_no_domain(tissue):
    before = solved(tissue)
    moved, angle = tissue.copy(), np.deg2rad(30)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved.obsm["spatial"] = 0.01 * tissue.obsm["spatial"] @ turn + 7
    after = solved(moved)
    assert (before.obs["spagcn"] == after.obs["spagcn"]).all()
    lengths = [each.uns["scdance"]["spatial_domain"]["spagcn"]["notes"]["kernel_length"] for each in (before, after)]
    assert lengths[1] == pytest.approx(0.01 * lengths[0], rel=1e-4)


def test_probabilities_belong_to_the_domains(tissue):
    found = solved(tissue)
    proba = found.obsm["spagcn_proba"].to_numpy()
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-5)
    assert (proba.argmax(axis=1) == found.obs["spagcn"].cat.codes).all()
    assert found.obs["spagcn"].value_counts(sort=False).is_monotonic_decreasing


def test_where_training_leaves_a_center_empty_it_is_repeated_with_one_more(tissue):
    asked = []

    class Losing(SpaGCN):
        def _first_centers(self, s, z, k):
            asked.append(k)
            centers = super()._first_centers(s, z, k)
            centers[-1] += 1e3  # where no spot is
            return centers

    found = sd.tl.spatial_domain(tissue, Losing, n_clusters=4, init="kmeans", n_init=1, progress=False, copy=True)
    assert asked == [4, 5]
    assert found.obs["losing"].nunique() == found.obsm["losing_proba"].shape[1] == 4


def test_named_and_rare_genes_are_left_out_of_the_components(tissue):
    tissue.var_names = ["MT-1", "ERCC-2", *tissue.var_names[2:]]
    x = tissue.X.tolil()
    x[:, 2] = 0
    x[:2, 2] = 50
    tissue.X = x.tocsr()
    seen = {}

    class Watched(SpaGCN):
        def _without_dropped(self, cells):
            seen["kept"] = super()._without_dropped(cells).var_names
            return super()._without_dropped(cells)

    sd.tl.spatial_domain(tissue, Watched, n_clusters=4, n_init=1, epochs=1, progress=False)
    assert list(seen["kept"]) == list(tissue.var_names[3:])


def test_refining_mends_a_spot_and_leaves_a_straight_border(coords):
    near = spatial(coords, n_neighbors=6)
    halves = (coords[:, 1] > 600).astype(int)
    flipped = halves.copy()
    flipped[36] = 1 - flipped[36]
    inside = ((coords > 150) & (coords < 1250)).all(axis=1)
    assert (majority(flipped, near) == halves)[inside].all()
    assert (majority(np.zeros(256, dtype=int), near) == 0).all()


# ------------------------------------------------------------------ the picture


def test_red_on_the_left_is_told_from_the_right_and_not_from_below(coords):
    pixels = np.zeros((200, 300, 3))
    pixels[:, :150, 0] = 1
    image = Image(lambda: pixels, np.arange(256), coords / 1550 * [299, 199], scale=199 / 1550)
    found = with_colors(coords, (image,), width=0.36, weight=1.0)
    left = coords[:, 0] < 770
    assert found[left, 2].min() > 0 > found[~left, 2].max()
    assert found[:, 2].std() == pytest.approx(coords.std(axis=0).max())
    np.testing.assert_array_equal(found[:, :2], coords)


def test_brightness_does_not_change_the_colours(coords):
    pixels = np.random.default_rng(0).integers(0, 100, (160, 160, 3))
    of = [
        with_colors(coords, (Image(lambda p=p: p, np.arange(256), coords / 10, 0.1),), width=0.36, weight=0.5)
        for p in (pixels, pixels + 100, (pixels * 2).astype(np.uint8))
    ]
    np.testing.assert_allclose(of[0], of[1], atol=1e-6)
    np.testing.assert_allclose(of[0], of[2], atol=1e-6)


def test_a_picture_that_shows_the_layers_helps_where_expression_hardly_does():
    tissue = sd.datasets.toy_domains(n_obs=400, n_vars=60, lfc=0.5)
    pixels = np.zeros((80, 70, 3), dtype=np.uint8)
    picture(tissue, pixels)
    scale = tissue.uns["spatial"]["a"]["scalefactors"]["tissue_hires_scalef"]
    rows, columns = np.indices(pixels.shape[:2])
    nearest = cdist(np.column_stack([columns.ravel(), rows.ravel()]), tissue.obsm["spatial"] * scale).argmin(axis=1)
    pixels[:, :, 1] = 60 * tissue.obs["domain"].cat.codes.to_numpy()[nearest].reshape(rows.shape)
    with_, without = (solved(tissue, neighbor_weight=2.0, histology=each, init="leiden") for each in (True, False))
    truth = tissue.obs["domain"]
    assert ari(truth, with_.obs["spagcn"]) > ari(truth, without.obs["spagcn"]) + 0.2


def test_a_blank_picture_is_refused(tissue):
    picture(tissue, np.full((50, 50, 3), 200, dtype=np.uint8))
    with pytest.raises(InputError, match="one colour"):
        solved(tissue, histology=True)


def test_without_a_picture_the_message_says_what_to_pass(tissue):
    with pytest.raises(InputError, match="histology=False"):
        solved(tissue, histology=True)


def test_a_wrong_picture_does_not_matter_where_none_is_wanted(tissue):
    before = solved(tissue)
    tissue.uns["spatial"] = {"a": {"images": {}}, "b": {"images": {}}}
    assert (solved(tissue).obs["spagcn"] == before.obs["spagcn"]).all()


@pytest.mark.parametrize(
    ("knobs", "match"),
    [
        ({"neighbor_weight": 0.0}, "neighbor_weight"),
        ({"cutoff": -1.0}, "cutoff"),
        ({"window": -1.0}, "window"),
        ({"drop_genes": ("",)}, "begin with"),
    ],
)
def test_numbers_out_of_range_are_refused(tissue, knobs, match):
    with pytest.raises(InputError, match=match):
        solved(tissue, **knobs)
