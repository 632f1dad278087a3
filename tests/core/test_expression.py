"""Layers of expression: units, genes without an estimate, cells without counts, and what is refused beforehand."""

from __future__ import annotations

import re
import warnings
from typing import Any, Self

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp

import scdance as sd
from scdance._checks import InputError, ScdanceError
from scdance._core.expression import in_unit, out_of_unit
from scdance._core.method import Method
from scdance.methods.impute._imputer import Imputer
from scdance.pp import Recipe, canonical

EMPTY = 4  # a cell without counts, where a test makes one


class Seven(Imputer):
    """Expect 7 of every gene that is modelled."""

    task = "impute"
    every: int = 1
    recipe = Recipe()

    def fit(self, *, cells: Any) -> Self:
        type(self).fits.append(cells)
        return self

    def modelled(self, cells: Any) -> np.ndarray:
        return np.arange(0, cells.n_vars, self.every)

    def rates(self, cells: Any) -> Any:
        n = len(self.modelled(cells))
        return lambda rows: np.full((rows.stop - rows.start, n), 7.0, dtype=np.float32)


class Raw(Method):
    """Return what a test tells it to: a method that is no Imputer."""

    task = "impute"
    result: Any = None

    def fit(self, *, cells: Any) -> Self:
        return self

    def predict(self, *, cells: Any) -> dict[str, Any]:
        return type(self).result


@pytest.fixture(autouse=True)
def _forget() -> None:
    Seven.fits = []


def dense(layer: Any) -> np.ndarray:
    return layer.toarray() if sp.issparse(layer) else np.asarray(layer)


def lognorm(counts: Any) -> np.ndarray:
    """As scanpy does it."""
    adata = ad.AnnData(sp.csr_matrix(counts, dtype=np.float32))
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return adata.X.toarray()


# Units


def test_log_normalised_values_are_those_of_scanpy(adata):
    depth = np.asarray(adata.X.sum(axis=1), dtype=float).ravel()
    for counts in (canonical(adata.X), adata.X.toarray().astype(np.float32)):
        found = in_unit(counts, depth, "lognorm")
        assert sp.issparse(found) == sp.issparse(counts)
        np.testing.assert_allclose(dense(found), lognorm(adata.X), rtol=1e-5)


@pytest.mark.parametrize("unit", ["lognorm", "counts", "log1p"])
def test_a_unit_can_be_taken_off_again(adata, unit):
    depth = np.asarray(adata.X.sum(axis=1), dtype=float).ravel()
    counts = adata.X.toarray().astype(np.float32)
    np.testing.assert_allclose(out_of_unit(in_unit(counts, depth, unit), depth, unit), counts, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dense(in_unit(canonical(counts), depth, unit)), in_unit(counts, depth, unit), rtol=1e-6)


def test_log1p_does_not_know_of_depth_and_counts_stay(adata):
    counts = canonical(adata.X)
    np.testing.assert_allclose(dense(in_unit(counts, np.ones(90), "log1p")), np.log1p(adata.X.toarray()), rtol=1e-6)
    assert in_unit(counts, np.ones(90), "counts") is counts


# Which genes and cells


@pytest.mark.parametrize("output", ["lognorm", "counts", "log1p"])
@pytest.mark.parametrize(("every", "is_sparse"), [(1, False), (2, False), (3, True)])
def test_genes_without_an_estimate_keep_their_values_in_the_same_unit(adata, output, every, is_sparse):
    sd.tl.impute(adata, Seven(every=every, output=output), key_added="x")
    layer, flags = adata.layers["x"], adata.var["x_imputed"].to_numpy()
    assert sp.issparse(layer) == is_sparse
    assert (layer.dtype, layer.shape) == (np.float32, adata.shape)
    assert flags.dtype == bool
    assert (np.flatnonzero(flags) == np.arange(0, 60, every)).all()
    depth = np.asarray(adata.X.sum(axis=1), dtype=float).ravel()
    expected = dense(in_unit(canonical(adata.X), depth, output))
    assert (dense(layer)[:, ~flags] == expected[:, ~flags]).all()
    rates = out_of_unit(dense(layer), depth, output)[:, flags]
    if output != "log1p":
        np.testing.assert_allclose(rates, 7, rtol=1e-4)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("output", ["lognorm", "counts"])
def test_cells_without_counts_stay_empty(adata, every, output):
    counts = adata.X.toarray()
    counts[EMPTY] = 0
    adata.X = sp.csr_matrix(counts)
    with pytest.warns(UserWarning, match="1 of 90 cells have no counts"):
        sd.tl.impute(adata, Seven(every=every, uncertainty=True), output=output, key_added="x")
    for name in ("x", "x_sd"):
        values = dense(adata.layers[name])
        assert (values[EMPTY] == 0).all()
        assert (np.delete(values, EMPTY, axis=0)[:, 0] > 0).all()


def test_the_standard_deviation_is_zero_where_nothing_was_estimated(adata):
    sd.tl.impute(adata, Seven(every=3, uncertainty=True), key_added="x")
    found = dense(adata.layers["x_sd"])
    flags = adata.var["x_imputed"].to_numpy()
    assert (found[:, flags] > 0).all()
    assert (found[:, ~flags] == 0).all()
    theta = adata.var["x_dispersion"].to_numpy()
    assert (np.isnan(theta) == ~flags).all()
    assert theta.dtype == np.float32


@pytest.mark.parametrize("genes", [["gene_3", "gene_50"], [f"gene_{i}" for i in range(40)]])
def test_only_the_genes_that_were_asked_for_are_written(adata, genes):
    adata.var_names = [f"gene_{i}" for i in range(60)]
    sd.tl.impute(adata, Seven(), output="counts", genes=genes, key_added="x")
    asked = adata.var_names.isin(genes)
    assert (adata.var["x_imputed"].to_numpy() == asked).all()
    assert sp.issparse(adata.layers["x"]) == (len(genes) < 30)
    values = dense(adata.layers["x"])
    assert (values[:, asked] == 7).all()
    assert (values[:, ~asked] == adata.X.toarray()[:, ~asked]).all()


def test_names_of_genes_may_come_in_any_order_twice_and_from_an_index(adata):
    names = adata.var_names[[9, 2, 9, 5]]
    sd.tl.impute(adata, Seven(), output="counts", genes=names, key_added="x")
    assert (np.flatnonzero(adata.var["x_imputed"]) == [2, 5, 9]).all()
    record = adata.uns["scdance"]["impute"]["x"]["params"]
    assert list(record["genes"]) == list(names)


def test_an_object_on_disk_gives_the_same_layer(adata, tmp_path):
    adata.X = adata.X.astype(np.float32)
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    for every in (1, 2, 3):
        for each in (adata, backed):
            sd.tl.impute(each, Seven(every=every), key_added="x")
        assert (dense(backed.layers["x"]) == dense(adata.layers["x"])).all()
    backed.file.close()


def test_a_fitted_method_aligns_genes_by_name(adata):
    model = sd.fit("impute", adata, Seven(every=3))
    other = adata[:, ::-1].copy()
    sd.tl.impute(adata, model, key_added="x")
    sd.tl.impute(other, model, key_added="x")
    assert (dense(other.layers["x"]) == dense(adata.layers["x"])[:, ::-1]).all()
    assert (other.var["x_imputed"] == adata.var["x_imputed"].reindex(other.var_names)).all()


def test_genes_that_new_cells_lack_are_left_out(adata):
    model = sd.fit("impute", adata, Seven())
    fewer = adata[:, 10:].copy()
    with pytest.warns(UserWarning, match="10 of the 60 genes of the model are not in the object"):
        sd.tl.impute(fewer, model, output="counts", key_added="x")
    assert (fewer.layers["x"] == 7).all() and fewer.layers["x"].shape == (90, 50)


# A method that is none of ours


def test_a_result_of_the_wrong_shape_is_a_fault_of_the_method(adata):
    Raw.result = {"expression": np.ones((90, 59)), "modelled": np.ones(60, dtype=bool)}
    with pytest.raises(ScdanceError, match=r"'expression' has shape \(90, 59\), expected \(90, 60\)"):
        sd.tl.impute(adata, Raw())
    Raw.result = {"expression": np.ones((90, 60)), "modelled": np.ones(59, dtype=bool)}
    with pytest.raises(ScdanceError, match=r"'modelled' has shape \(59,\), expected \(60,\)"):
        sd.tl.impute(adata, Raw())
    Raw.result = {"expression": np.full((90, 60), np.nan), "modelled": np.ones(60, dtype=bool)}
    with pytest.raises(ScdanceError, match="'expression' has values that are not finite"):
        sd.tl.impute(adata, Raw())
    assert not adata.layers and "scdance" not in adata.uns


def test_without_a_unit_of_its_own_a_layer_is_log_normalised(adata):
    flags = np.arange(60) < 10
    Raw.result = {"expression": np.ones((90, 10), dtype=np.float32), "modelled": flags}
    sd.tl.impute(adata, Raw(), key_added="x")
    np.testing.assert_allclose(dense(adata.layers["x"])[:, 10:], lognorm(adata.X)[:, 10:], rtol=1e-5)


# What is refused before the fit


def test_a_gene_that_is_not_there_is_refused_before_the_fit(adata):
    with pytest.raises(InputError, match=r"1 of the 2 genes asked for were not modelled: CD3D"):
        sd.tl.impute(adata, Seven(), genes=["CD3D", adata.var_names[0]])
    with pytest.raises(InputError, match="CD3D"):
        sd.tl.impute(adata, Seven(), genes=["CD3D"], evaluate=True)
    with pytest.raises(InputError, match="CD3D"):
        sd.fit("impute", adata, Seven(genes=("CD3D",)))
    assert Seven.fits == []


def test_a_gene_that_is_there_and_not_modelled_says_so(adata):
    with pytest.raises(InputError, match="were not modelled"):
        sd.tl.impute(adata, Seven(every=3), genes=[adata.var_names[1]])
    assert not adata.layers


@pytest.mark.parametrize("genes", ["CD3D", []])
def test_no_genes_and_a_single_name_are_refused(adata, genes):
    with pytest.raises(InputError, match="genes"):
        sd.tl.impute(adata, Seven(), genes=genes)
    assert Seven.fits == []


@pytest.mark.parametrize(
    ("asked", "said"),
    [({"output": "counts"}, "output='counts'"), ({"policy": "restore"}, "policy='restore'"),
     ({"output": "log1p"}, "output='log1p'")],
)  # fmt: skip
def test_log_normalised_values_give_no_counts(adata, asked, said):
    class Logs(Seven):
        needs, uses = ("lognorm",), ("counts",)

    adata.X = lognorm(adata.X)
    with pytest.raises(InputError, match=rf"{said} needs counts, but `X` holds log-normalised.*`layer=`"):
        sd.tl.impute(adata, Logs(), **asked)
    assert Seven.fits == []
    sd.tl.impute(adata, Logs(every=3), key_added="x")
    flags = adata.var["x_imputed"].to_numpy()
    assert (dense(adata.layers["x"])[:, ~flags] == np.asarray(adata.X)[:, ~flags]).all()
    with pytest.raises(InputError, match=r"with fractions.*evaluate=True\) needs whole counts"):
        sd.tl.impute(adata, Logs(), evaluate=True)


@pytest.mark.parametrize("uncertainty", [False, True])
def test_a_result_that_is_too_large_is_refused_with_a_number_of_genes_that_fits(adata, monkeypatch, uncertainty):
    monkeypatch.setattr(sd.settings, "max_result_gb", 1.1e-5)
    model = Seven(uncertainty=uncertainty)
    with pytest.raises(InputError, match=r"max_result_gb` is 1.1e-05.*some (\d+) at most, as `genes=") as caught:
        sd.tl.impute(adata, model, key_added="x")
    assert Seven.fits == []
    fitting = int(str(caught.value).partition("some ")[2].partition(" at")[0])
    sd.tl.impute(adata, model, genes=adata.var_names[:fitting], key_added="x")
    assert adata.var["x_imputed"].sum() == fitting
    with pytest.raises(InputError, match="max_result_gb"):
        sd.tl.impute(adata, model, genes=adata.var_names[: fitting + 2], key_added="y")


# What is there already


@pytest.mark.parametrize("where", ["layers", "var"])
def test_what_somebody_else_wrote_is_left_alone(adata, where):
    if where == "layers":
        adata.layers["x"] = adata.X.copy()
    else:
        adata.var["x_imputed"] = "mine"
    with pytest.raises(InputError, match=r"exists and was not written by scdance's 'impute'.*key_added="):
        sd.tl.impute(adata, Seven(), key_added="x")
    assert Seven.fits == []


def test_a_second_run_replaces_the_first_with_all_its_parts(adata):
    sd.tl.impute(adata, Seven(uncertainty=True), key_added="x")
    assert {"x", "x_sd"} <= set(adata.layers)
    sd.tl.impute(adata, Seven(), key_added="x")
    assert set(adata.layers) == {"x"}
    assert list(adata.var) == ["x_imputed"]


def test_estimates_are_never_put_where_tools_look_for_counts(adata):
    with pytest.raises(InputError, match=r"layers\['counts'\]` is where every tool looks for raw counts"):
        sd.tl.impute(adata, Seven(), key_added="counts")


def test_a_column_that_would_be_named_like_the_index_is_refused(adata):
    adata.var.index.name = "x_imputed"
    with pytest.raises(InputError, match=r"index of `adata.var` is called 'x_imputed'"):
        sd.tl.impute(adata, Seven(), key_added="x")


def test_an_interrupt_while_writing_leaves_the_object_as_it_was(adata, picture):
    sd.tl.impute(adata, Seven(every=2, uncertainty=True), key_added="x")
    before = picture(adata)

    class Bomb(dict):
        def __setitem__(self, *_: Any) -> None:
            raise KeyboardInterrupt

    adata.uns["scdance"]["impute"] = Bomb(adata.uns["scdance"]["impute"])
    with pytest.raises(KeyboardInterrupt):
        sd.tl.impute(adata, Seven(), output="counts", key_added="x")
    assert picture(adata) == before


def test_all_parts_survive_a_file(adata, tmp_path):
    sd.tl.impute(adata, Seven(every=3, uncertainty=True), genes=adata.var_names[:10:3], evaluate=True, key_added="x")
    adata.write_h5ad(tmp_path / "a.h5ad")
    found = ad.read_h5ad(tmp_path / "a.h5ad")
    for name in ("x", "x_sd"):
        assert (dense(found.layers[name]) == dense(adata.layers[name])).all()
    for name in ("x_imputed", "x_dispersion", "x_imputability"):
        assert found.var[name].equals(adata.var[name])
    record = found.uns["scdance"]["impute"]["x"]
    assert set(record["slots"]) == {
        "layers/x", "layers/x_sd", "var/x_imputed", "var/x_dispersion", "var/x_imputability"
    }  # fmt: skip
    assert record["notes"]["evaluation"]["poisson_loss"] > 0


# Estimates in the place of counts


@pytest.fixture
def estimated(adata) -> ad.AnnData:
    rng = np.random.default_rng(0)
    sd.tl.impute(adata, Seven(uncertainty=True), output="counts", key_added="x")
    for name in ("x", "x_sd"):  # as a method does whose estimates are no constant
        adata.layers[name] = adata.layers[name] * rng.gamma(5, 0.2, adata.shape).astype(np.float32)
    return adata


@pytest.mark.parametrize("layer", ["x", "x_sd"])
def test_a_tool_that_needs_counts_warns_of_estimates_once(estimated, layer):
    said = rf"`layers\['{layer}'\]` was written by scdance's 'impute'.*gmm needs raw counts.*`X`, by leaving `layer=`"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sd.tl.cluster(estimated, "gmm", n_clusters=3, layer=layer)
    assert len(caught) == 1
    assert re.search(said, str(caught[0].message))


def test_the_warning_names_the_layer_that_was_imputed(adata):
    adata.layers["mine"] = adata.X.copy()
    adata.layers["other"] = adata.X.copy()
    sd.tl.impute(adata, Seven(), output="counts", layer="mine", key_added="x")
    scatter = np.random.default_rng(0).gamma(5, 0.2, adata.shape)  # as a method does whose estimates are no constant
    adata.layers["x"] = adata.layers["x"] * scatter.astype(np.float32)
    with pytest.warns(UserWarning, match=r"estimates were made from, `layers\['mine'\]`\."):
        sd.tl.cluster(adata, "gmm", n_clusters=3, layer="x")


def test_a_reference_of_estimates_is_warned_of_too(estimated):
    with pytest.warns(UserWarning, match=r"`ref.layers\['x'\]` was written by scdance's 'impute'.*`X`"):
        sd.tl.deconvolve(estimated, estimated.copy(), "nnls", labels_key="cell_type", ref_layer="x")


def test_methods_of_log_values_and_layers_of_others_are_not_warned_of(estimated, recwarn):
    sd.tl.cluster(estimated, "kmeans", n_clusters=3)
    assert not recwarn.list
    estimated.layers["mine"] = estimated.layers["x"]
    for layer, method in (("mine", "gmm"), ("x", "kmeans")):
        with pytest.warns(UserWarning, match="have fractions") as caught:
            sd.tl.cluster(estimated, method, n_clusters=3, layer=layer, key_added=layer + method)
        assert "impute" not in str(caught[0].message)


def test_logarithms_of_estimates_are_known_as_such_though_cells_differ_in_their_sum(estimated, recwarn):
    sd.tl.impute(estimated, "knn", genes=tuple(estimated.var_names[:20]), key_added="few")
    estimated.layers["few"] = estimated.layers["few"] * 1.01  # as a net's estimates, which do not sum to 10,000
    recwarn.clear()
    sd.tl.cluster(estimated, "kmeans", n_clusters=3, layer="few")
    assert not recwarn.list
    assert estimated.uns["scdance"]["cluster"]["kmeans"]["input"]["kind"] == "log-normalised"
    with pytest.raises(InputError, match="looks log-normalised"):
        sd.tl.cluster(estimated, "gmm", n_clusters=3, layer="few")
