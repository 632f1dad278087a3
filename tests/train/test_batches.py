"""Row batches and the split into training and validation."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
import torch

from scdance._core.cells import Cells
from scdance.pp import OnDisk, Recipe
from scdance.train import Batches, split


def cells_of(n: int, *, lazy: bool = False) -> Cells:
    """n cells × 5 genes; the first gene is the number of the cell."""
    counts = np.random.default_rng(0).poisson(2, (n, 5)).astype(np.float32)
    counts[:, 0] = np.arange(n) + 1
    x = OnDisk(da.from_array(counts, chunks=(4, 5))) if lazy else sp.csr_matrix(counts)
    depth = counts.sum(axis=1).astype(np.float64)
    names = np.array([f"g{i}" for i in range(5)])
    recipe = Recipe(log1p={}, center_scale={}).fit(x, depth, names)
    values, raw = recipe.apply(x, np.arange(n), depth, np.arange(5))
    rows = np.arange(n)
    return Cells(recipe, rows, n, 5, rows.astype(str), names, x=values, counts=raw, depth=depth)


@pytest.mark.parametrize("shuffled", [True, False])
@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 15, 16, 17, 18])
@pytest.mark.parametrize("size", [1, 2, 8, 100])
def test_an_epoch_covers_every_row_once(n, size, shuffled):
    batches = Batches(cells_of(n), size, rng=np.random.default_rng(0) if shuffled else None)
    parts = [batch.rows for batch in batches]
    assert sorted(np.concatenate(parts)) == list(range(n))
    assert len(parts) == len(batches)
    if not shuffled:
        assert np.concatenate(parts).tolist() == list(range(n))


@pytest.mark.parametrize(
    ("n", "size", "sizes"),
    [(16, 8, [8, 8]), (18, 8, [8, 8, 2]), (17, 8, [8, 9]), (9, 8, [9]), (8, 8, [8]), (1, 8, [1]), (3, 8, [3])],
)
def test_one_cell_left_over_joins_the_batch_before_it(n, size, sizes):
    assert [len(batch.rows) for batch in Batches(cells_of(n), size)] == sizes


def test_batches_of_one_stay_batches_of_one():
    assert [len(batch.rows) for batch in Batches(cells_of(4), 1)] == [1, 1, 1, 1]


def test_each_pass_is_shuffled_anew_and_by_the_generator_only():
    def passes(seed: int) -> list[list[int]]:
        batches = Batches(cells_of(20), 8, rng=np.random.default_rng(seed))
        return [np.concatenate([b.rows for b in batches]).tolist() for _ in range(3)]

    assert passes(0) == passes(0)
    assert passes(0) != passes(1)
    assert len({tuple(order) for order in passes(0)}) == 3


def test_only_the_given_rows_are_drawn():
    rows = np.array([9, 2, 5, 14])
    batches = Batches(cells_of(20), 3, rows=rows, rng=np.random.default_rng(0))
    assert sorted(np.concatenate([batch.rows for batch in batches])) == [2, 5, 9, 14]
    assert [batch.rows.tolist() for batch in Batches(cells_of(20), 3, rows=rows)] == [[9, 2, 5, 14]]


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("counts", [False, True])
def test_a_batch_holds_the_whole_recipe_and_the_counts_of_its_rows(lazy, counts):
    cells, memory = cells_of(20, lazy=lazy), cells_of(20)
    expected = memory.dense(np.arange(20))
    for batch in Batches(cells, 6, rng=np.random.default_rng(0), counts=counts):
        assert (batch.x.dtype, batch.x.shape) == (torch.float32, (len(batch.rows), 5))
        np.testing.assert_array_equal(batch.x.numpy(), expected[batch.rows])
        if counts:
            assert batch.counts[:, 0].tolist() == (batch.rows + 1).tolist()
        else:
            assert batch.counts is None


@pytest.mark.parametrize(
    ("n", "share", "n_valid"), [(100, 0.1, 10), (10, 0.01, 1), (10, 0.99, 9), (2, 0.5, 1), (7, 0.2, 1)]
)
def test_a_split_has_its_share_on_both_sides(n, share, n_valid):
    train, valid = split(n, share, np.random.default_rng(0))
    assert (len(train), len(valid)) == (n - n_valid, n_valid)
    assert sorted([*train, *valid]) == list(range(n))
    assert (np.diff(train) > 0).all()
    assert (np.diff(valid) > 0).all()


def test_a_split_is_drawn_by_its_seed_and_not_from_the_end():
    one, again, other = (split(200, 0.1, np.random.default_rng(seed))[1].tolist() for seed in (0, 0, 1))
    assert one == again
    assert one != other
    assert min(one) < 100
