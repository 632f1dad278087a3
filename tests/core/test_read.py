"""`io.read`: whatever form the counts come in, methods see the same cells."""

from __future__ import annotations

import ast
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp

import scdance
from scdance._core.method import Method
from scdance._core.read import read
from scdance._core.run import make
from scdance.pp import Recipe

TOOLS = [*Path(scdance.__file__).parent.glob("tl/_[!_]*.py"), Path(scdance.__file__).with_name("_fit.py")]
SLOTS = {"X", "raw", "layers", "obs", "obsm", "obsp", "var", "varm", "varp", "uns", "file", "chunk_X", "to_df"}


def shuffled_indices(x: sp.csr_matrix) -> sp.csr_matrix:
    out = x.copy()
    for start, end in zip(x.indptr[:-1], x.indptr[1:], strict=True):
        out.indices[start:end], out.data[start:end] = x.indices[start:end][::-1], x.data[start:end][::-1]
    out.has_sorted_indices = False
    return out


def with_duplicates(x: sp.csr_matrix) -> sp.csr_matrix:
    """Each count as two entries, 1 and the rest; the rest of a 1 is an explicit zero."""
    data = np.column_stack([np.ones_like(x.data), x.data - 1]).ravel()
    return sp.csr_matrix((data, np.repeat(x.indices, 2), 2 * x.indptr), shape=x.shape)


def with_stored_zeros(x: sp.csr_matrix) -> sp.csr_matrix:
    out = sp.csr_matrix(
        (
            np.zeros(x.shape[0] * x.shape[1], x.dtype),
            np.tile(np.arange(x.shape[1]), x.shape[0]),
            np.arange(0, x.shape[0] * x.shape[1] + 1, x.shape[1]),
        ),
        shape=x.shape,
    )
    out.data[:] = x.toarray().ravel()
    return out


def chunked(x: sp.csr_matrix) -> da.Array:
    return da.from_array(x.toarray(), chunks=(17, 23))


IN_MEMORY: dict[str, Callable[[sp.csr_matrix], Any]] = {
    "csr_matrix": lambda x: x,
    "csc_matrix": lambda x: x.tocsc(),
    "csr_array": sp.csr_array,
    "csc_array": sp.csc_array,
    "dense": lambda x: x.toarray(),
    "dense, Fortran order": lambda x: np.asfortranarray(x.toarray()),
    "dense, every other column of a larger array": lambda x: np.repeat(x.toarray(), 2, axis=1)[:, ::2],
    "float32": lambda x: x.astype(np.float32),
    "float64": lambda x: x.astype(np.float64),
    "dense float64": lambda x: x.toarray().astype(np.float64),
    "uint16": lambda x: x.astype(np.uint16),
    "int64 with int64 indices": lambda x: sp.csr_matrix(
        (x.data.astype(np.int64), x.indices.astype(np.int64), x.indptr.astype(np.int64)), shape=x.shape
    ),
    "unsorted indices": shuffled_indices,
    "duplicate entries": with_duplicates,
    "explicit zeros": with_stored_zeros,
}
LAZY: dict[str, Callable[[sp.csr_matrix], Any]] = {
    "dask, dense chunks": chunked,
    "dask, csr_matrix chunks": lambda x: chunked(x).map_blocks(sp.csr_matrix),
    "dask, csr_array chunks": lambda x: da.from_array(x.toarray(), chunks=(17, -1)).map_blocks(sp.csr_array),
}


def model(**knobs: Any) -> Method:
    return make("cluster", "kmeans", {"n_clusters": 3, "n_top_genes": 40, **knobs})


def like(adata: ad.AnnData, x: Any) -> ad.AnnData:
    return ad.AnnData(x, obs=adata.obs, var=adata.var)


def assert_equal_cells(cells: Any, expected: Any) -> None:
    everything = np.arange(expected.n_obs)
    for part in ("x", "counts"):
        found, wanted = (
            None if getattr(each, part) is None else getattr(each, part)[everything] for each in (cells, expected)
        )
        if wanted is None:
            assert found is None
            continue
        assert (type(found), found.dtype, found.indices.dtype) == (sp.csr_matrix, np.float32, np.int32)
        assert found.has_canonical_format
        for arrays in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(found, arrays), getattr(wanted, arrays))
    for part in ("depth", "rows", "obs_names", "var_names"):
        np.testing.assert_array_equal(getattr(cells, part), getattr(expected, part))


@pytest.fixture
def expected(adata):
    return read(adata, model(scale=True))


@pytest.mark.parametrize("form", [*IN_MEMORY, *LAZY])
def test_every_form_of_the_matrix_gives_the_same_cells(adata, expected, form):
    x = {**IN_MEMORY, **LAZY}[form](adata.X)
    cells = read(like(adata, x), model(scale=True))
    assert_equal_cells(cells, expected)
    np.testing.assert_array_equal(cells.dense(np.arange(5)), expected.dense(np.arange(5)))


@pytest.mark.parametrize("form", ["csr_matrix", "csc_matrix", "dense"])
def test_a_backed_object_gives_the_same_cells(adata, expected, form, tmp_path):
    like(adata, IN_MEMORY[form](adata.X)).write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    try:
        assert_equal_cells(read(backed, model(scale=True)), expected)
        assert backed.isbacked
    finally:
        backed.file.close()


@pytest.mark.parametrize("form", ["csr_matrix", "csc_matrix", "dense"])
def test_a_view_gives_the_cells_of_its_copy_and_stays_a_view(adata, form):
    whole = like(adata, IN_MEMORY[form](adata.X))
    view = whole[::-2, 5:50]
    cells = read(view, model())
    assert view.is_view
    assert_equal_cells(cells, read(view.copy(), model()))


@pytest.mark.parametrize("form", [*IN_MEMORY, *LAZY])
@pytest.mark.parametrize("recipe", ["default", None])
def test_reading_changes_nothing_in_the_object(adata, picture, form, recipe):
    x = {**IN_MEMORY, **LAZY}[form](adata.X)
    mine = like(adata, x)
    before = None if form in LAZY else picture(mine)
    cells = read(mine, model(), recipe=recipe)
    list(cells.dense_blocks())
    assert type(mine.X) is type(x)
    if form in IN_MEMORY:
        assert picture(mine) == before
    else:
        np.testing.assert_array_equal(chunked(adata.X).compute(), adata.X.toarray())


def test_a_flat_gene_does_not_blow_up_where_genes_are_scaled(adata):
    adata.X = adata.X.toarray().astype(np.float32)
    adata.X[:, 7] = 1.1
    with pytest.warns(UserWarning, match="fractions"):
        cells = read(adata, make("cluster", Scaled, {}))
    flat = cells.dense(np.arange(90))[:, 7]
    assert np.abs(flat).max() < 1e-3


class Scaled(Method):
    recipe = Recipe(center_scale={})


def test_data_on_disk_stay_there(tmp_path):
    def peak(n: int) -> int:
        """Most bytes that numpy holds at once while all cells are read and densified."""
        x = sp.random(n, 60, density=0.3, format="csr", dtype=np.float32, random_state=0)
        x.data = np.ceil(x.data * 5)
        ad.AnnData(x).write_h5ad(tmp_path / f"{n}.h5ad")
        backed = ad.read_h5ad(tmp_path / f"{n}.h5ad", backed="r")
        tracemalloc.start()
        cells = read(backed, model())
        for _ in cells.dense_blocks(256):
            pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        backed.file.close()
        assert not sp.issparse(cells.x)
        return most

    peak(100)  # what the first call imports does not count
    assert peak(20_000) < 1.3 * peak(10_000)


def test_counts_come_from_the_named_layer_else_from_counts_else_from_x(adata):
    where = {"X": adata.X, "counts": adata.X * 2, "mine": adata.X * 3}
    adata.layers["mine"] = where["mine"]
    assert read(adata, model()).depth.sum() == where["X"].sum()
    adata.layers["counts"] = where["counts"]
    assert read(adata, model()).depth.sum() == where["counts"].sum()
    cells = read(adata, model(), layer="mine")
    assert cells.depth.sum() == where["mine"].sum()
    assert cells.extra["input"]["layer"] == "layers['mine']"


def test_an_object_without_x_is_read_from_its_layer(adata, expected):
    bare = ad.AnnData(obs=adata.obs, var=adata.var, layers={"counts": adata.X})
    assert_equal_cells(read(bare, model(scale=True)), expected)


def test_rows_lead_back_to_the_cells_that_have_counts(adata):
    x = adata.X.toarray()
    x[[0, 41, 89]] = 0
    with pytest.warns(UserWarning, match="3 of 90 cells have no counts"):
        cells = read(like(adata, x), model())
    assert cells.n_obs == 87
    assert cells.n_obs_in == 90
    np.testing.assert_array_equal(cells.rows, np.setdiff1d(np.arange(90), [0, 41, 89]))
    np.testing.assert_array_equal(cells.obs_names, adata.obs_names[cells.rows])
    np.testing.assert_array_equal(cells.depth, x[cells.rows].sum(axis=1))


@pytest.mark.parametrize("form", ["csr_matrix", "dask, dense chunks"])
def test_empty_cells_teach_the_recipe_nothing(adata, form):
    x = adata.X.toarray()
    x[[0, 41, 89]] = 0
    full = sp.csr_matrix(x[x.sum(axis=1) > 0])
    with pytest.warns(UserWarning, match="no counts"):
        cells = read(like(adata, {**IN_MEMORY, **LAZY}[form](sp.csr_matrix(x))), model(scale=True))
    without = read(ad.AnnData(full, var=adata.var), model(scale=True))
    np.testing.assert_array_equal(cells.x[np.arange(87)].toarray(), without.x.toarray())
    np.testing.assert_array_equal(cells.dense(np.arange(87)), without.dense(np.arange(87)))


def test_log_values_are_taken_as_they_are_where_a_method_wants_them(adata, caplog):
    import scanpy as sc

    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    with caplog.at_level("INFO", logger="scdance"):
        cells = read(adata, model(n_top_genes=None))
    np.testing.assert_array_equal(cells.x.toarray(), adata.X.toarray())
    assert cells.extra["input"] == {"layer": "X", "kind": "log-normalised"}
    assert "log-normalised already" in caplog.text
    assert "log1p" not in cells.prep.text  # the record tells what was done, not what the method would have done


def test_a_representation_stands_for_the_expression_and_the_matrix_is_not_read(adata):
    adata.obsm["X_mine"] = np.arange(180.0).reshape(90, 2)
    adata.X = None
    cells = read(adata, model(), use_rep="X_mine")
    assert cells.x is None
    assert cells.rep.dtype == np.float32
    np.testing.assert_array_equal(cells.rep, adata.obsm["X_mine"])


def test_a_graph_comes_from_what_scanpy_wrote(adata):
    import scanpy as sc

    sc.pp.neighbors(adata, n_neighbors=5, use_rep="X", key_added="mine", transformer="sklearn", method="gauss")
    cells = read(adata, make("cluster", "leiden", {}), neighbors_key="mine")
    np.testing.assert_allclose(cells.graph.toarray(), adata.obsp["mine_connectivities"].toarray())


def test_an_input_that_a_method_does_not_use_is_not_even_looked_at(adata):
    class Blind(Method):
        needs = ("counts",)

    adata.obs["batch"] = [np.nan] * 90
    adata.obsm["X_mine"] = np.full((90, 2), np.nan)
    cells = read(adata, Blind())
    assert (cells.batch, cells.rep, cells.graph) == (None, None, None)


def test_batches_are_numbered_by_their_sorted_names(adata):
    class Batched(Method):
        needs = ("counts", "batch")

    adata.obs["batch"] = ["b", "a", "c"] * 30
    cells = read(adata, Batched(), batch_key="batch")
    assert cells.batch_names == ["a", "b", "c"]
    assert cells.batch[:3].tolist() == [1, 0, 2]


@pytest.mark.parametrize("file", TOOLS, ids=lambda file: file.stem)
def test_tools_touch_no_part_of_an_object_themselves(file):
    source = ast.parse(file.read_text())
    touched = {node.attr for node in ast.walk(source) if isinstance(node, ast.Attribute)} & SLOTS
    assert touched == set()
    taken = {alias.name for node in ast.walk(source) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert taken & {"call", "read", "read_roles", "partitions", "raw_counts", "probabilities", "mixed"}
