import numpy as np
import pytest

from scdance._checks import InputError, MissingKeyError
from scdance.datasets import split_reference, toy_clusters

CELLS = toy_clusters(n_obs=300, n_vars=80, k=4, n_de=15, lfc=2.0)


def test_the_parts_share_no_cell_and_lose_none():
    mixing, ref = split_reference(CELLS, fraction=0.3)
    assert sorted([*mixing.obs_names, *ref.obs_names]) == sorted(CELLS.obs_names)
    assert mixing.n_obs == 90
    assert (mixing.X != CELLS[mixing.obs_names].X).nnz == 0


def test_a_donor_goes_to_one_side_as_a_whole():
    cells = toy_clusters(n_obs=200, n_vars=20, n_de=3, batches=5)
    mixing, ref = split_reference(cells, by="batch", fraction=0.4)
    assert set(mixing.obs["batch"]).isdisjoint(ref.obs["batch"])
    assert mixing.n_obs == pytest.approx(80, abs=25)  # a batch has about 40


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_no_part_is_empty(fraction):
    parts = split_reference(toy_clusters(n_obs=60, n_vars=20, n_de=3, batches=2), by="batch", fraction=fraction)
    assert min(part.n_obs for part in parts) > 0


def test_a_split_is_seeded():
    one, same_again, other = (split_reference(CELLS, random_state=seed)[0].obs_names for seed in (0, 0, 1))
    assert one.equals(same_again) and not one.equals(other)


def test_splits_that_cannot_be_are_refused():
    cells = CELLS.copy()
    cells.obs["donor"] = [np.nan, *["d"] * 299]
    with pytest.raises(InputError, match="1 of 300 cells have no 'donor'"):
        split_reference(cells, by="donor")
    with pytest.raises(InputError, match="has 1 "):
        split_reference(cells[1:], by="donor")
    with pytest.raises(MissingKeyError, match=r"No 'donr' in `ref.obs`; it has cell_type, donor"):
        split_reference(cells, by="donr")
    with pytest.raises(InputError, match=r"fraction is 1\.0"):
        split_reference(cells, fraction=1.0)
