"""Parts of a set of cells: every array is cut where it belongs to cells or genes, and nothing else changes."""

import numpy as np
import pytest
import scipy.sparse as sp

from scdance._core.cells import Cells
from scdance.pp import Recipe, canonical

N, M = 30, 12
ROWS = np.array([2, 3, 11, 29])
COLUMNS = np.array([0, 5, 6, 11])


class OnDisk:
    """A matrix that gives rows only."""

    def __init__(self, matrix):
        self.matrix, self.shape, self.nnz = matrix, matrix.shape, matrix.nnz

    def __getitem__(self, rows):
        return self.matrix[rows]


def cells_of(recipe=None, **other):
    rng = np.random.default_rng(0)
    x = canonical(rng.poisson(1, (N, M)))
    names = np.array([f"g{i}" for i in range(M)])
    graph = sp.random(N, N, 0.3, format="csr", random_state=0)
    prep = (recipe or Recipe()).fit(x, np.asarray(x.sum(axis=1)).ravel(), names, log_input=False)
    given = {
        "x": x,
        "counts": x * 2,
        "depth": np.arange(N) * 10.0,
        "present": np.arange(M) % 3 > 0,
        "labels": np.arange(N, dtype=np.int32) % 4,
        "categories": ["a", "b", "c", "d"],
        "coords": rng.random((N, 2)),
        "batch": np.arange(N, dtype=np.int32) % 2,
        "batch_names": ["one", "two"],
        "graph": graph,
        "rep": rng.random((N, 5)).astype(np.float32),
    }
    place = {"rows": np.arange(N) + 100, "n_obs_in": 500, "n_vars_in": 99}
    return Cells(prep, obs_names=np.array([f"c{i}" for i in range(N)]), var_names=names, **place, **(given | other))


@pytest.mark.parametrize("kind", ["positions", "mask"])
def test_all_that_belongs_to_cells_is_cut(kind):
    cells = cells_of()
    rows = ROWS if kind == "positions" else np.isin(np.arange(N), ROWS)
    part = cells.part(rows)
    assert (part.n_obs, part.n_vars) == (4, M)
    for name in ("rows", "obs_names", "depth", "labels", "coords", "batch", "rep"):
        np.testing.assert_array_equal(getattr(part, name), getattr(cells, name)[ROWS])
    np.testing.assert_array_equal(part.x.toarray(), cells.x.toarray()[ROWS])
    np.testing.assert_array_equal(part.counts.toarray(), cells.counts.toarray()[ROWS])
    np.testing.assert_array_equal(part.graph.toarray(), cells.graph.toarray()[np.ix_(ROWS, ROWS)])
    np.testing.assert_array_equal(part.var_names, cells.var_names)
    np.testing.assert_array_equal(part.present, cells.present)


def test_all_that_belongs_to_genes_is_cut():
    cells = cells_of()
    part = cells.part(columns=COLUMNS)
    assert (part.n_obs, part.n_vars) == (N, 4)
    np.testing.assert_array_equal(part.x.toarray(), cells.x.toarray()[:, COLUMNS])
    np.testing.assert_array_equal(part.counts.toarray(), cells.counts.toarray()[:, COLUMNS])
    np.testing.assert_array_equal(part.var_names, cells.var_names[COLUMNS])
    np.testing.assert_array_equal(part.present, cells.present[COLUMNS])
    assert part.depth is cells.depth and part.graph is cells.graph and part.labels is cells.labels


def test_cells_and_genes_can_be_cut_at_once_and_one_after_the_other():
    cells = cells_of()
    at_once, then = cells.part(ROWS, COLUMNS), cells.part(columns=COLUMNS).part(ROWS)
    np.testing.assert_array_equal(at_once.x.toarray(), cells.x.toarray()[np.ix_(ROWS, COLUMNS)])
    np.testing.assert_array_equal(at_once.x.toarray(), then.x.toarray())
    np.testing.assert_array_equal(at_once.rows, then.rows)


def test_what_belongs_to_the_object_stays():
    part = cells_of().part(ROWS, COLUMNS)
    assert (part.n_obs_in, part.n_vars_in) == (500, 99)
    assert part.categories == ["a", "b", "c", "d"] and part.batch_names == ["one", "two"]


def test_what_is_absent_stays_absent():
    absent = dict.fromkeys(("counts", "depth", "present", "labels", "coords", "batch", "graph", "rep"))
    part = cells_of(**absent).part(ROWS, COLUMNS)
    assert all(getattr(part, name) is None for name in absent)


def test_the_original_is_left_as_it_was():
    cells = cells_of()
    before = cells.x.toarray()
    part = cells.part(ROWS, COLUMNS)
    part.x.data[:] = 7
    np.testing.assert_array_equal(cells.x.toarray(), before)


@pytest.mark.parametrize(("rows", "columns"), [(ROWS, COLUMNS), (None, COLUMNS), (ROWS, None), (None, None)])
def test_a_matrix_on_disk_is_read_into_memory(rows, columns):
    memory = cells_of()
    part = cells_of(x=OnDisk(memory.x), counts=OnDisk(memory.counts)).part(rows, columns)
    expected = memory.part(rows, columns)
    for name in ("x", "counts"):
        found = getattr(part, name)
        assert sp.issparse(found) and found.format == "csr" and found.dtype == np.float32
        np.testing.assert_array_equal(found.toarray(), getattr(expected, name).toarray())


def test_the_part_is_canonical_whatever_the_order_of_the_genes():
    part = cells_of().part(columns=COLUMNS[::-1])
    assert part.x.has_canonical_format and part.var_names.tolist() == ["g11", "g6", "g5", "g0"]


def test_no_cell_is_a_part_too():
    part = cells_of().part(np.zeros(N, dtype=bool), COLUMNS)
    assert part.x.shape == (0, 4) and part.graph.shape == (0, 0) and part.n_obs == 0


def test_a_recipe_that_fills_the_matrix_is_not_cut_by_genes():
    cells = cells_of(Recipe(center_scale={}))
    with pytest.raises(TypeError, match="all of its genes"):
        cells.part(columns=COLUMNS)
    np.testing.assert_allclose(cells.part(ROWS).dense(slice(None)), cells.dense(ROWS))
