import numpy as np
import pytest
from scipy.spatial import cKDTree

from scdance._checks import InputError
from scdance.graph import majority, pitch, spatial, tiles


def hexagons(side, constant=1.0):
    row, column = (each.ravel() for each in np.indices((side, side)))
    return np.column_stack([column + row % 2 / 2, row * np.sqrt(0.75)]) * constant


@pytest.fixture
def coords():
    return np.random.default_rng(0).random((80, 2))


def test_within_a_radius_are_the_pairs_that_a_tree_of_points_finds(coords):
    found = spatial(coords, radius=0.2).tocoo()
    assert set(zip(found.row, found.col, strict=True)) == {
        pair for a, b in cKDTree(coords).query_pairs(0.2) for pair in ((a, b), (b, a))
    }
    np.testing.assert_allclose(found.data, np.linalg.norm(coords[found.row] - coords[found.col], axis=1), rtol=1e-6)


def test_a_radius_counts_in_three_dimensions():
    coords = np.array([[0.0, 0, 0], [0, 0, 3], [0, 1, 0]])
    assert spatial(coords, radius=2).nnz == 2


def test_the_nearest_are_as_many_as_asked_and_never_the_point_itself(coords):
    found = spatial(coords, n_neighbors=6)
    assert (np.diff(found.indptr) == 6).all()
    assert not found.diagonal().any()
    expected = cKDTree(coords).query(coords, k=7)[1][:, 1:]
    np.testing.assert_array_equal(np.sort(found.indices.reshape(-1, 6)), np.sort(expected))


def test_a_triangulation_joins_the_six_around_a_spot_of_a_hexagonal_lattice():
    coords = hexagons(9)
    degree = np.diff(spatial(coords).indptr)
    middle = ((coords > 1.5) & (coords < 6)).all(axis=1)
    assert (degree[middle] == 6).all()


def test_points_on_one_place_are_neighbours_at_no_distance():
    found = spatial(np.array([[0.0, 0], [0, 0], [9, 9], [9, 7]]), radius=1)
    assert found.nnz == 2
    assert not found.data.any()


@pytest.mark.parametrize("how", [{"radius": 5.0}, {"n_neighbors": 4}, {}])
def test_no_edge_joins_two_slices(coords, how):
    slices = np.arange(80) % 2
    found = spatial(coords, slices=slices, **how).tocoo()
    assert (slices[found.row] == slices[found.col]).all()
    alone = spatial(coords[slices == 1], **how)
    assert (abs(found.tocsr()[slices == 1][:, slices == 1] - alone)).nnz == 0


def test_a_slice_of_one_point_has_no_neighbours():
    assert spatial(np.zeros((1, 2)), n_neighbors=3).nnz == 0
    assert spatial(np.array([[0.0, 0], [1, 0], [0, 0]]), n_neighbors=3, slices=np.array([0, 0, 1])).nnz == 2


def test_neighbours_are_asked_for_in_one_way(coords):
    with pytest.raises(InputError, match="both given"):
        spatial(coords, radius=1, n_neighbors=3)
    with pytest.raises(InputError, match="radius=0"):
        spatial(coords, radius=0)


def test_the_pitch_is_the_constant_of_a_lattice_also_where_places_repeat_and_slices_overlap():
    one = hexagons(6, 137.0)
    assert pitch(one) == pytest.approx(137)
    both, slices = np.vstack([one, one + 3, one[:4]]), np.repeat([0, 1, 0], [36, 36, 4])
    assert pitch(both, slices) == pytest.approx(137)
    with pytest.raises(InputError, match="one place"):
        pitch(np.ones((5, 2)))


def test_a_flipped_spot_is_outvoted_and_a_straight_border_stays():
    coords = hexagons(10)
    labels = (coords[:, 1] > 4).astype(int)
    near = spatial(coords, n_neighbors=6)
    np.testing.assert_array_equal(majority(labels, near), labels)
    flipped = labels.copy()
    inner = np.flatnonzero((coords[:, 1] < 2) & (coords[:, 0] > 3) & (coords[:, 0] < 6))[4]
    flipped[inner] = 1
    np.testing.assert_array_equal(majority(flipped, near), labels)


def test_the_vote_follows_the_rule_spot_by_spot(coords):
    labels, near = np.random.default_rng(1).integers(0, 3, 80), spatial(coords, n_neighbors=6)
    for i, found in enumerate(majority(labels, near)):
        votes = np.bincount([*labels[near[i].indices], labels[i]], minlength=3)
        changes = votes[labels[i]] < 3 and votes.max() > 3
        assert found == (votes.argmax() if changes else labels[i])


def test_tiles_are_compact_and_of_one_slice():
    coords, slices = np.random.default_rng(0).uniform(0, [4, 1], (300, 2)), np.repeat([0, 1, 2], [200, 90, 10])
    made = tiles(coords, 40, slices)
    assert np.array_equal(np.sort(np.concatenate(made)), np.arange(300))
    assert all(len(np.unique(slices[each])) == 1 for each in made)
    assert max(map(len, made)) <= 40
    assert sorted(map(len, made)) == [10, *[22, 22, 23, 23], *[25] * 8]
    assert np.mean([np.ptp(coords[each], axis=0).max() for each in made[:8]]) < 1
    assert [each.tolist() for each in tiles(coords, 300)] == [list(range(300))]


def test_many_points_on_one_place_are_divided_too():
    assert sorted(map(len, tiles(np.zeros((10, 2)), 3))) == [2, 2, 3, 3]
