"""The tool that splits counts, as a user calls it."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

import scdance as sd
from scdance._checks import InputError, MissingKeyError, WrongTypeError


@pytest.fixture
def adata() -> ad.AnnData:
    return sd.datasets.toy_clusters(n_obs=60, n_vars=40, k=2, n_de=10)


def test_the_parts_are_layers_that_sum_to_the_counts(adata):
    sd.tl.split_counts(adata, 0.7)
    fit, test = adata.layers["counts_fit"], adata.layers["counts_test"]
    for part in (fit, test):
        assert (part.format, part.dtype, part.data.min()) == ("csr", np.float32, 1)
    assert abs(fit + test - adata.X).sum() == 0
    assert fit.sum() / adata.X.sum() == pytest.approx(0.7, abs=0.02)
    record = adata.uns["scdance"]["split_counts"]["counts_test"]
    assert record["params"] == {"share": 0.7, "fit_layer": "counts_fit", "test_layer": "counts_test"}
    assert record["input"]["layer"] == "X"


def test_the_seed_decides_and_the_form_of_the_matrix_does_not(adata):
    one, again, other = (sd.tl.split_counts(adata, random_state=seed, copy=True) for seed in (1, 1, 2))
    assert abs(one.layers["counts_fit"] - again.layers["counts_fit"]).sum() == 0
    assert abs(one.layers["counts_fit"] - other.layers["counts_fit"]).sum() > 0
    dense = ad.AnnData(adata.X.toarray())
    sd.tl.split_counts(dense, random_state=1)
    assert abs(one.layers["counts_fit"] - dense.layers["counts_fit"]).sum() == 0


def test_a_copy_leaves_the_object_alone(adata):
    new = sd.tl.split_counts(adata, copy=True)
    assert set(new.layers) == {"counts_fit", "counts_test"}
    assert (len(adata.layers), dict(adata.uns)) == (0, {})


def test_a_view_and_a_file_can_be_split(adata, tmp_path):
    view = adata[10:30]
    sd.tl.split_counts(view, random_state=3)
    assert abs(view.layers["counts_fit"] + view.layers["counts_test"] - adata.X[10:30]).sum() == 0
    assert len(adata.layers) == 0
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    new = sd.tl.split_counts(backed, copy=True)
    backed.file.close()
    assert abs(new.layers["counts_fit"] - sd.tl.split_counts(adata, copy=True).layers["counts_fit"]).sum() == 0


def test_the_layers_survive_a_file(adata, tmp_path):
    sd.tl.split_counts(adata)
    adata.write_h5ad(tmp_path / "a.h5ad")
    found = ad.read_h5ad(tmp_path / "a.h5ad")
    assert abs(found.layers["counts_fit"] - adata.layers["counts_fit"]).sum() == 0
    assert found.uns["scdance"]["split_counts"]["counts_test"]["params"]["share"] == 0.5


def test_counts_are_read_where_the_other_tools_read_them(adata):
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.log1p(adata.X.toarray())
    sd.tl.split_counts(adata)
    assert abs(adata.layers["counts_fit"] + adata.layers["counts_test"] - adata.layers["counts"]).sum() == 0
    with pytest.raises(InputError, match=r"`layers\['logs'\]` has \d+ values with fractions .* whole counts"):
        sd.tl.split_counts(ad.AnnData(adata.X, layers={"logs": adata.X}), layer="logs")


def test_layers_are_replaced_only_when_told_so(adata):
    adata.layers["counts_test"] = sp.csr_matrix(adata.shape)
    with pytest.raises(InputError, match=r"layers\['counts_test'\]` exists.*`test_layer=`.*`overwrite=True`"):
        sd.tl.split_counts(adata)
    assert (list(adata.layers), adata.layers["counts_test"].nnz, dict(adata.uns)) == (["counts_test"], 0, {})
    sd.tl.split_counts(adata, fit_layer="one", test_layer="two")
    assert adata.layers["counts_test"].nnz == 0
    sd.tl.split_counts(adata, overwrite=True)
    assert adata.layers["counts_test"].nnz > 0


def negative(adata):
    adata.X = adata.X.astype(float)
    adata.X.data[0] = -1


def missing(adata):
    adata.X = adata.X.astype(float)
    adata.X.data[0] = np.nan


def infinite(adata):
    adata.X = adata.X.astype(float)
    adata.X.data[0] = np.inf


def corrected(adata):
    adata.X = adata.X.astype(float) * 1.1


@pytest.mark.parametrize(
    ("change", "arguments", "error", "said"),
    [
        (None, {"share": 1.0}, InputError, "above 0 and below 1"),
        (None, {"layer": "raw"}, MissingKeyError, r"No 'raw' in `adata.layers`"),
        (None, {"fit_layer": "a/b"}, InputError, "fit_layer must be a name that HDF5"),
        (None, {"fit_layer": "a", "test_layer": "a"}, InputError, "are the same, 'a'"),
        (None, {"fit_layer": "counts", "overwrite": True}, InputError, "the layer that is read"),
        (None, {"random_state": -1}, InputError, "random_state must be a whole number"),
        (negative, {}, InputError, "negative values"),
        (missing, {}, InputError, "NaN or infinite"),
        (infinite, {}, InputError, "NaN or infinite"),
        (corrected, {}, InputError, "split_counts needs whole counts"),
    ],
)
def test_wrong_calls_say_what_to_pass_and_leave_the_object_alone(adata, change, arguments, error, said):
    if change is not None:
        change(adata)
    with pytest.raises(error, match=said):
        sd.tl.split_counts(adata, **arguments)
    assert (len(adata.layers), dict(adata.uns)) == (0, {})


def test_something_else_than_an_anndata_is_refused(adata):
    with pytest.raises(WrongTypeError, match="Expected AnnData, found ndarray"):
        sd.tl.split_counts(adata.X.toarray())
