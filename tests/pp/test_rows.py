"""Matrices read row by row: the same canonical CSR, wherever they lie."""

from __future__ import annotations

from typing import Any

import dask.array as da
import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from scdance.pp import OnDisk, Transformed, blocks, canonical, is_on_disk


@pytest.fixture
def dense() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.poisson(1.0, (30, 12)) * (rng.random((30, 12)) < 0.5)).astype(np.float32)


@pytest.fixture(params=["hdf5", "dask", "dask of sparse"])
def on_disk(request, dense, tmp_path):
    if request.param == "hdf5":
        with h5py.File(tmp_path / "a.h5", "w") as file:
            yield OnDisk(file.create_dataset("x", data=dense))
        return
    lazy = da.from_array(dense, chunks=(7, 5))
    yield OnDisk(lazy if request.param == "dask" else lazy.map_blocks(sp.csr_matrix))


TAKES: dict[str, Any] = {
    "all": slice(None),
    "a slice": slice(4, 19),
    "an open slice": slice(20, None),
    "ascending": np.array([1, 5, 29]),
    "unsorted": np.array([29, 1, 5, 0]),
    "with repeats": np.array([3, 3, 28, 3, 28, 0]),
    "all the same": np.array([4, 4, 4]),
    "a list": [7, 2, 7],
    "a mask": np.arange(30) % 3 == 0,
    "one": np.array([11]),
    "none": np.array([], dtype=int),
}
takes = pytest.mark.parametrize("rows", TAKES.values(), ids=TAKES.keys())


@takes
def test_rows_on_disk_come_as_numpy_would_take_them(on_disk, dense, rows):
    found = on_disk[rows]
    assert (type(found), found.dtype) == (sp.csr_matrix, np.float32)
    assert found.has_canonical_format
    np.testing.assert_array_equal(found.toarray(), dense[rows])


@takes
def test_some_rows_passed_through_a_function(on_disk, dense, rows):
    some = np.r_[np.arange(2, 29), 0, 1, 29]
    twice = Transformed(
        on_disk, some, lambda block, there: block * 2 + sp.csr_matrix(np.diag(there) @ np.ones((len(there), 12))), 12
    )
    np.testing.assert_array_equal(twice[rows].toarray(), dense[some][rows] * 2 + some[rows][:, None])


def test_blocks_go_once_through_all_rows_in_order(on_disk, dense):
    for size in (1, 7, 30, 100):
        parts = list(blocks(on_disk, size))
        np.testing.assert_array_equal(np.concatenate([block.toarray() for _, block in parts]), dense)
        assert [here.start for here, _ in parts] == list(range(0, 30, size))


def test_what_is_in_memory_is_told_from_what_is_not(dense):
    assert not is_on_disk(dense)
    assert not is_on_disk(sp.csr_array(dense))
    assert is_on_disk(da.from_array(dense))


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int32, np.int64, np.float64])
@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_matrix, sp.coo_matrix, sp.csr_array, sp.lil_matrix])
def test_every_kind_of_number_in_every_form_becomes_the_same(dense, kind, form):
    values = dense.astype(kind)
    found, wanted = canonical(form(values)), sp.csr_matrix(values.astype(np.float32))
    assert (type(found), found.dtype, found.indices.dtype, found.indptr.dtype) == (
        sp.csr_matrix, np.float32, np.int32, np.int32,
    )  # fmt: skip
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(found, part), getattr(wanted, part))


def test_canonical_leaves_the_arrays_of_the_user_alone(dense):
    messy = sp.csr_matrix((np.array([1.0, 2, 0, 3, 4]), np.array([2, 0, 1, 2, 2]), np.array([0, 3, 5])), shape=(2, 4))
    before = [part.copy() for part in (messy.data, messy.indices, messy.indptr)]
    found = canonical(messy)
    assert found.toarray().tolist() == [[2, 0, 1, 0], [0, 0, 7, 0]]
    assert found.nnz == 3
    for part, was in zip((messy.data, messy.indices, messy.indptr), before, strict=True):
        np.testing.assert_array_equal(part, was)
    clean = sp.csr_matrix(dense)
    assert np.shares_memory(canonical(clean).data, clean.data)  # no copy without need
