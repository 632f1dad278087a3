"""What a user can get wrong: each message says what to do, and the object is left as it was."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scdance as sd
from scdance._checks import ScdanceError
from scdance._core.method import Method
from scdance.pp import Recipe
from scdance.train import TorchMethod


class Case(NamedTuple):
    """What is done to the toy data, what is typed, and what the error must say."""

    typed: dict[str, Any]
    error: type[Exception]
    says: list[str]
    spoil: Callable[[ad.AnnData], Any] = lambda adata: None


def put(row: int, column: int, value: float) -> Callable[[ad.AnnData], None]:
    def spoil(adata: ad.AnnData) -> None:
        x = adata.X.toarray().astype(np.float64)
        x[row, column] = value
        adata.X = x

    return spoil


def logged(adata: ad.AnnData, *, keep: str = "") -> None:
    import scanpy as sc

    if keep == "layer":
        adata.layers["raw_counts"] = adata.X.copy()
    if keep == "raw":
        adata.raw = adata.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)


def logged_without_trace(adata: ad.AnnData) -> None:
    logged(adata)
    del adata.uns["log1p"]


def logged_and_selected(adata: ad.AnnData) -> None:
    adata.X = (adata.X / 8).floor()  # shallow, as cells are: the smallest count of each is 1
    logged_without_trace(adata)
    adata._inplace_subset_var(np.arange(adata.n_vars) < 30)


def logged_by_two(adata: ad.AnnData) -> None:
    logged_and_selected(adata)
    adata.X = adata.X / np.log(2)


def scaled(adata: ad.AnnData) -> None:
    adata.layers["counts_"] = adata.X.copy()
    adata.raw = adata.copy()
    x = adata.X.toarray().astype(np.float32)
    adata.X = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1)


def empty(adata: ad.AnnData) -> None:
    adata.X = sp.csr_matrix(adata.shape, dtype=np.float32)


def twice(adata: ad.AnnData) -> None:
    adata.var_names = ["gene_0", "gene_0", "gene_1", "gene_1", *adata.var_names[4:]]


def slots(adata: ad.AnnData) -> None:
    adata.obs["batch"] = ["a", "b", None] * 30
    adata.obsm["X_pca"] = np.zeros((90, 2))
    adata.obsm["X_nan"] = np.full((90, 2), np.nan)
    adata.layers["raw_counts"] = adata.X.copy()
    adata.uns["neighbors"] = {"connectivities_key": "connectivities"}


class Batched(Method):
    """Needs batches.

    Parameters
    ----------
    n_rounds
        Number of rounds.
    """

    n_rounds: int = 3
    needs = ("counts", "batch")
    presets = {"paper": {"n_rounds": 5}, "dance": {"n_rounds": 7}}


class Netted(TorchMethod):
    """Has a net."""

    def fit(self, *, cells):
        raise AssertionError("a check came too late")


K = {"n_clusters": 3}
CASES = {
    # the matrix
    "NaN": Case(K, ValueError, ["`X`", "1 values", "NaN or infinite", "1 genes (gene_7)"], put(3, 7, np.nan)),
    "infinite": Case(K, ValueError, ["`X`", "infinite", "gene_7"], put(3, 7, np.inf)),
    "larger than float32": Case(K, ValueError, ["`X`", "infinite", "gene_7"], put(3, 7, 1e300)),
    "negative": Case(K, ValueError, ["`X`", "negative values (down to -2)", "layer="], put(3, 7, -2)),
    "scaled": Case(
        {"method": "gmm", **K},
        ValueError,
        ["looks scaled", "gmm needs counts", "raw", "adata.raw[:, adata.var_names].X", "layer="],
        scaled,
    ),
    "above 2**24": Case(K, ValueError, ["`X`", "2**24", "layer="], put(3, 7, 2**24 + 1)),
    "log values where counts are needed": Case(
        {"method": "gmm", **K}, ValueError, ["`X` looks log-normalised", "gmm needs raw counts", "layer="], logged
    ),
    "log values, uns says nothing": Case(
        {"method": "gmm", **K}, ValueError, ["`X` looks log-normalised"], logged_without_trace
    ),
    "log values of some genes": Case(
        {"method": "gmm", **K}, ValueError, ["`X` looks log-normalised"], logged_and_selected
    ),
    "log values to base 2": Case({"method": "gmm", **K}, ValueError, ["`X` looks log-normalised"], logged_by_two),
    "log values, raw is there": Case(
        {"method": "gmm", **K},
        ValueError,
        ["also holds raw", "adata.layers['counts'] = adata.raw[:, adata.var_names].X"],
        lambda adata: logged(adata, keep="raw"),
    ),
    "log values, counts in another layer": Case(
        {"method": "gmm", **K},
        ValueError,
        ["also holds", "layers['raw_counts']"],
        lambda adata: logged(adata, keep="layer"),
    ),
    "nothing but zeros": Case(K, ValueError, ["All 90 cells of `X` are empty", "layer="], empty),
    "repeated gene names": Case(K, ValueError, ["gene_0, gene_1", "adata.var_names_make_unique()"], twice),
    # slots
    "missing layer": Case(
        {"layer": "raw_count"},
        KeyError,
        ["No 'raw_count' in `adata.layers`", "it has raw_counts", "Did you mean 'raw_counts'?", "`layer=`"],
        slots,
    ),
    "missing layer, none there": Case({"layer": "counts"}, KeyError, ["it has nothing"]),
    "missing representation": Case(
        {"use_rep": "X_pc"},
        KeyError,
        ["No 'X_pc' in `adata.obsm`", "X_pca, X_nan", "Did you mean 'X_pca'?", "`use_rep=`"],
        slots,
    ),
    "representation with NaN": Case({"use_rep": "X_nan"}, ValueError, ["adata.obsm['X_nan']", "180 values"], slots),
    "missing graph": Case(
        {"method": "leiden", "neighbors_key": "neighbours"},
        KeyError,
        ["No 'neighbours' in `adata.uns`", "Did you mean 'neighbors'?", "`neighbors_key=`"],
        slots,
    ),
    "graph that was removed": Case(
        {"method": "leiden", "neighbors_key": "neighbors"}, KeyError, ["No 'connectivities' in `adata.obsp`"], slots
    ),
    "missing batches": Case(
        {"method": Batched, "batch_key": "btch"},
        KeyError,
        ["No 'btch' in `adata.obs`", "cell_type, batch", "Did you mean 'batch'?", "`batch_key=`"],
        slots,
    ),
    "batch unknown": Case({"method": Batched, "batch_key": "batch"}, ValueError, ["30 missing values"], slots),
    "batches not given": Case({"method": Batched}, ValueError, ["Batched needs the batch of each cell", "batch_key="]),
    "batches that the method does not use": Case(
        {"batch_key": "batch"}, ValueError, ["KMeans takes no `batch_key=`", "Leave it out"], slots
    ),
    "graph that the method does not use": Case(
        {"neighbors_key": "neighbors"}, ValueError, ["KMeans takes no `neighbors_key=`"], slots
    ),
    "layer that is no name": Case({"layer": 3}, TypeError, ["layer must be the name", "3"], slots),
    # words
    "unknown keyword": Case(
        {"n_cluster": 3},
        TypeError,
        ["KMeans has no parameter 'n_cluster'", "n_top_genes", "Did you mean 'n_clusters'?"],
    ),
    "number of clusters where none is taken": Case(
        {"method": "leiden", "n_clusters": 3}, TypeError, ["Leiden has no parameter 'n_clusters'", "resolution"]
    ),
    "unknown method": Case(
        {"method": "kmean"}, ValueError, ["no method 'kmean'", "gmm", "leiden", "Did you mean 'kmeans'?"]
    ),
    "method in other letters": Case({"method": "KMeans"}, ValueError, ["Did you mean 'kmeans'?"]),
    "method that is no method": Case({"method": 3}, TypeError, ["method must be a name", "kmeans", "3"]),
    "class that is no method": Case({"method": dict}, TypeError, ["method must be a name"]),
    "unknown preset": Case(
        {"method": Batched, "preset": "papr"}, ValueError, ["no preset 'papr'", "paper, dance", "Did you mean 'paper'?"]
    ),
    "preset where there is none": Case({"preset": "paper"}, ValueError, ["kmeans has no preset 'paper'", "nothing"]),
    "unknown recipe": Case(
        {"recipe": "defaul"}, ValueError, ["recipe is 'defaul'", "default, None", "Did you mean 'default'?"]
    ),
    "word for a number of clusters": Case({"n_clusters": "eight"}, ValueError, ["n_clusters='eight'", "int or None"]),
    "truth for a number of clusters": Case({"n_clusters": True}, ValueError, ["n_clusters=True", "int or None"]),
    "fraction of a cluster": Case({"n_clusters": 2.5}, ValueError, ["n_clusters=2.5", "int or None"]),
    "None where a number is needed": Case({"n_init": None}, ValueError, ["n_init=None", "int (default 20)"]),
    "one cluster": Case(
        {"n_clusters": 1}, ValueError, ["n_clusters=1", "between 2 and half", "None to have it estimated"]
    ),
    "clusters below zero": Case({"n_clusters": -3}, ValueError, ["n_clusters=-3"]),
    "more clusters than half the cells": Case({"n_clusters": 46}, ValueError, ["n_clusters=46", "90 // 2 = 45"]),
    "more clusters than half the rows of a representation": Case(
        {"n_clusters": 46, "use_rep": "X_pca"}, ValueError, ["90 // 2 = 45"], slots
    ),
    "seed below zero": Case({"random_state": -1}, ValueError, ["random_state", "-1"]),
    "fraction of a seed": Case({"random_state": 1.5}, ValueError, ["random_state", "1.5"]),
    "word for a seed": Case({"random_state": "x"}, ValueError, ["random_state", "'x'"]),
    "truth for a seed": Case({"random_state": True}, ValueError, ["random_state", "True"]),
    "array of seeds": Case({"random_state": np.arange(2)}, ValueError, ["random_state"]),
    "old kind of generator": Case(
        {"random_state": np.random.RandomState(0)}, ValueError, ["random_state", "numpy Generator"]
    ),
    "no such device": Case({"method": Netted, "device": "gpu"}, ValueError, ["device='gpu'", "'cuda'"]),
    "device that is not here": Case(
        {"method": Netted, "device": "cuda:99"}, ValueError, ["device='cuda:99'", "device='cpu'"]
    ),
    "number for a device": Case({"device": 0}, ValueError, ["device=0", "str"]),
    "key with a slash": Case({"key_added": "T/NK"}, ValueError, ["key_added", "'T/NK'", "'/'"]),
    "key that anndata keeps for itself": Case({"key_added": "_index"}, ValueError, ["key_added", "'_index'"]),
    "empty key": Case({"key_added": ""}, ValueError, ["key_added", "''"]),
    "dots for a key": Case({"key_added": ".."}, ValueError, ["key_added", "'..'"]),
    "number for a key": Case({"key_added": 3}, ValueError, ["key_added", "3"]),
    "learning rate of zero": Case({"method": Netted, "lr": 0}, ValueError, ["lr=0", "above 0"]),
    "no cells in a batch": Case({"method": Netted, "batch_size": 0}, ValueError, ["batch_size=0", "at least 1"]),
    "unknown optimiser": Case({"method": Netted, "optimizer": "adm"}, ValueError, ["'adm'", "'adam'"]),
    "NaN for a number": Case({"method": Netted, "lr": float("nan")}, ValueError, ["lr=nan", "float"]),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_message_says_what_to_do_and_the_object_is_as_it_was(adata, picture, case):
    case.spoil(adata)
    before = picture(adata)
    with pytest.raises(case.error) as raised, warnings.catch_warnings():
        warnings.simplefilter("error")
        sd.tl.cluster(adata, **{"method": "kmeans", **case.typed})
    said = str(raised.value)
    assert [phrase for phrase in case.says if phrase not in said] == [], said
    assert said.rstrip()[-1] in ".?)", said
    assert isinstance(raised.value, ScdanceError)
    assert picture(adata) == before


def test_a_key_error_shows_as_a_plain_sentence(adata):
    with pytest.raises(KeyError) as raised:
        sd.tl.cluster(adata, "kmeans", layer="mine")
    assert str(raised.value).startswith("No 'mine' in `adata.layers`; it has nothing.")


def mudata(adata: ad.AnnData) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mudata

        other = adata[:, :5].copy()
        other.var_names = [f"p{i}" for i in range(5)]
        return mudata.MuData({"rna": adata, "prot": other})


def spatialdata(adata: ad.AnnData) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import spatialdata

        return spatialdata.SpatialData(tables={"spots": adata, "bins": adata.copy()})


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda a: a.to_df(), TypeError, ["found DataFrame", "anndata.AnnData(data)"]),
        (lambda a: a.X.toarray(), TypeError, ["found ndarray", "anndata.AnnData(data)"]),
        (lambda a: a.X, TypeError, ["found csr_matrix", "anndata.AnnData(data)"]),
        (lambda a: "pbmc.h5ad", TypeError, ["found str", "anndata.read_h5ad(path)"]),
        (lambda a: None, TypeError, ["found NoneType"]),
        (mudata, TypeError, ["found MuData", "mdata['rna'], mdata['prot']"]),
        (spatialdata, TypeError, ["found SpatialData", "sdata.tables['spots']", "sdata.tables['bins']"]),
        (lambda a: a[:0].copy(), ValueError, ["0 cells × 60 genes"]),
        (lambda a: a[:, :0].copy(), ValueError, ["90 cells × 0 genes"]),
        (lambda a: ad.AnnData(obs=a.obs, var=a.var), KeyError, ["no X", "layer="]),
    ],
    ids=["DataFrame", "ndarray", "sparse", "str", "None", "MuData", "SpatialData", "no cells", "no genes", "no X"],
)
def test_what_is_no_usable_anndata_is_named(adata, make, error, says):
    for call in (lambda data: sd.tl.cluster(data, "kmeans"), lambda data: sd.fit("cluster", data, "kmeans")):
        with pytest.raises(error) as raised:
            call(make(adata))
        assert isinstance(raised.value, ScdanceError)
        assert [phrase for phrase in says if phrase not in str(raised.value)] == [], str(raised.value)


def test_a_missing_package_comes_with_the_line_that_installs_it(adata, picture, monkeypatch):
    monkeypatch.setitem(sys.modules, "igraph", None)
    before = picture(adata)
    with pytest.raises(
        ImportError, match=r"leiden needs the package 'igraph': pip install 'scdance\[leiden\]'"
    ) as raised:
        sd.tl.cluster(adata, "leiden")
    assert isinstance(raised.value, ScdanceError)
    assert picture(adata) == before


def test_a_task_that_is_not_there_is_named(adata):
    with pytest.raises(ValueError, match=r"no task 'clster'.*Did you mean 'cluster'"):
        sd.fit("clster", adata)


# ------------------------------------------------------------------ warnings


def only(warned: Any) -> str:
    """The text of the one warning, which points at the line of the user."""
    assert len(warned) == 1
    assert warned[0].filename == __file__
    assert warned[0].category is UserWarning
    return str(warned[0].message)


@pytest.mark.parametrize(
    "corrected",
    [
        lambda x, _: x + 0.25,
        lambda x, _: x / 7,
        lambda x, rng: x * rng.uniform(0.001, 0.01, (len(x), 1)),  # by the volume of a cell
        lambda x, rng: np.maximum(x - rng.gamma(1, 0.2, x.shape), 0),  # less what is around
    ],
    ids=["added", "divided", "by volume", "ambient"],
)
def test_fractional_counts_are_taken_with_one_warning(adata, corrected):
    adata.X = corrected(adata.X.toarray().astype(np.float64), np.random.default_rng(0))
    with pytest.warns() as warned:
        sd.tl.cluster(adata, "kmeans", n_clusters=3)
    n_fractions = int((np.abs(adata.X - np.rint(adata.X)) > 1e-6).sum())
    assert f"{n_fractions} values of `X` have fractions" in only(warned)
    assert adata.uns["scdance"]["cluster"]["kmeans"]["input"]["kind"] == "fractional counts"


def test_counts_that_made_a_detour_over_floats_are_counts(adata):
    adata.X = np.exp(np.log(adata.X.toarray().astype(np.float64) + 1)) - 1
    sd.tl.cluster(adata, "kmeans", n_clusters=3)
    assert adata.uns["scdance"]["cluster"]["kmeans"]["input"]["kind"] == "counts"


@pytest.mark.parametrize("method", ["kmeans", "gmm", "leiden"])
def test_empty_cells_get_no_label_and_one_warning(adata, method):
    x = adata.X.toarray()
    x[[0, 41, 89]] = 0
    adata.X = sp.csr_matrix(x)
    with pytest.warns() as warned:
        sd.tl.cluster(adata, method, **({} if method == "leiden" else K))
    said = only(warned)
    assert "3 of 90 cells have no counts in `X`" in said
    assert said.endswith("`sc.pp.filter_cells(adata, min_counts=1)`.")
    assert np.flatnonzero(adata.obs[method].isna()).tolist() == [0, 41, 89]
    assert np.isfinite(adata.obsm[f"X_{method}"]).all()
    assert (adata.obsm[f"X_{method}"][[0, 41, 89]] == 0).all()
    if method == "gmm":
        np.testing.assert_allclose(adata.obsm["gmm_proba"].sum(axis=1), 1, rtol=1e-5)
    if method != "leiden":
        assert (adata.obs[f"{method}_score"].to_numpy()[[0, 41, 89]] == 0).all() or method == "gmm"


@pytest.mark.parametrize("method", ["kmeans", "gmm", "leiden"])
def test_genes_without_counts_and_flat_genes_do_no_harm(adata, method):
    x = adata.X.toarray()
    x[:, :3] = 0
    x[:, 3] = 1
    adata.X = sp.csr_matrix(x)
    sd.tl.cluster(
        adata,
        method,
        n_top_genes=None,
        **({"scale": True} if method == "kmeans" else {}),
        **({} if method == "leiden" else K),
    )
    assert np.isfinite(adata.obsm[f"X_{method}"]).all()
    assert adata.obs[method].notna().all()


# ------------------------------------------------------------------ fitted methods


@pytest.fixture
def fitted(adata):
    return sd.fit("cluster", adata, "kmeans", n_clusters=3)


@pytest.mark.parametrize(
    ("typed", "error", "says"),
    [
        ({"n_clusters": 4}, TypeError, ["KMeans is fitted already", "n_clusters"]),
        ({"n_init": 4, "scale": True}, TypeError, ["fitted already", "n_init, scale"]),
        ({"preset": "paper"}, TypeError, ["fitted already", "preset"]),
        ({"random_state": 1}, TypeError, ["fitted already", "random_state"]),
        ({"random_state": None}, TypeError, ["fitted already", "random_state"]),
        ({"recipe": None}, ValueError, ["fitted already", "recipe"]),
        ({"use_rep": "X_mine"}, ValueError, ["fitted on expression", "use_rep='X_mine'"]),
    ],
    ids=str,
)
def test_a_fitted_method_takes_no_training_parameters(adata, picture, fitted, typed, error, says):
    adata.obsm["X_mine"] = np.zeros((90, 5))
    before = picture(adata)
    with pytest.raises(error) as raised:
        sd.tl.cluster(adata, fitted, **typed)
    assert isinstance(raised.value, ScdanceError)
    assert [phrase for phrase in says if phrase not in str(raised.value)] == [], str(raised.value)
    assert picture(adata) == before


def test_fitting_what_is_fitted_is_refused(adata, fitted):
    with pytest.raises(ValueError, match=r"fitted already.*model.unfitted\(\)"):
        sd.fit("cluster", adata, fitted)
    again = sd.fit("cluster", adata, fitted.unfitted())
    np.testing.assert_array_equal(again.centers_, fitted.centers_)


def test_a_method_fitted_on_a_representation_wants_one_of_that_width(adata):
    rng = np.random.default_rng(0)
    adata.obsm["X_mine"], adata.obsm["X_wide"] = rng.normal(size=(90, 5)), rng.normal(size=(90, 6))
    model = sd.fit("cluster", adata, "kmeans", n_clusters=3, use_rep="X_mine")
    with pytest.raises(ValueError, match="representation of 5 dimensions; pass its key in obsm as `use_rep=`"):
        sd.tl.cluster(adata, model)
    with pytest.raises(ValueError, match=r"adata.obsm\['X_wide'\]` has shape \(90, 6\), but \(90, 5\)"):
        sd.tl.cluster(adata, model, use_rep="X_wide")
    sd.tl.cluster(adata, model, use_rep="X_mine")


@pytest.mark.parametrize("trained", ["counts", "log-normalised"])
def test_a_method_answers_only_for_values_of_the_kind_it_was_fitted_on(adata, trained):
    log = adata.copy()
    logged(log)
    train, other = (adata, log) if trained == "counts" else (log, adata)
    model = sd.fit("cluster", train, "kmeans", n_clusters=3)
    with pytest.raises(ValueError, match=rf"was fitted on {trained}.*`X` holds.*`layer=`"):
        sd.tl.cluster(other, model)
    other.layers["the other kind"] = train.X
    sd.tl.cluster(other, model, layer="the other kind")
    sd.tl.cluster(train, model)
    np.testing.assert_array_equal(other.obs["kmeans"], train.obs["kmeans"])


def test_a_method_that_cannot_label_new_cells_says_so_and_names_those_that_can(adata):
    model = sd.fit("cluster", adata, "leiden")
    sd.tl.cluster(adata, model)
    for other in (adata[::-1].copy(), adata[:50].copy()):
        with pytest.raises(ValueError, match=r"only for the cells it was fitted on.*gmm.*kmeans"):
            sd.tl.cluster(other, model)


def renamed(adata: ad.AnnData, how: Callable[[str], str]) -> ad.AnnData:
    new = adata.copy()
    new.var_names = [how(name) for name in adata.var_names]
    return new


ENSEMBL = "ENSG{:011d}".format


@pytest.mark.parametrize(
    ("train", "query", "says"),
    [
        (str.upper, str.lower, ["upper and lower case", "adata.var_names.str.upper()"]),
        (str.capitalize, str.upper, ["upper and lower case", "adata.var_names.str.capitalize()"]),
        (
            lambda name: ENSEMBL(int(name[5:])),
            lambda name: ENSEMBL(int(name[5:])) + ".7",
            ["version suffix", "adata.var_names.str.split('.').str[0]"],
        ),
        (
            lambda name: ENSEMBL(int(name[5:])) + ".7",
            lambda name: ENSEMBL(int(name[5:])),
            ["version suffix", "fit it on"],
        ),
        (lambda name: ENSEMBL(int(name[5:])), str, ["Ensembl ids (human)", "gene symbols", "0 are the same"]),
        (lambda name: "GENE" + name[5:], lambda name: "OTHER" + name[5:], ["GENE0", "OTHER0", "0 are the same"]),
    ],
    ids=["lower case", "capitals", "suffix in the object", "suffix in the model", "other identifier", "other genes"],
)
def test_genes_that_do_not_match_are_explained(adata, train, query, says):
    model = sd.fit("cluster", renamed(adata, train), "kmeans", n_clusters=3)
    with pytest.raises(ValueError) as raised:
        sd.tl.cluster(renamed(adata, query), model)
    assert isinstance(raised.value, ScdanceError)
    assert [phrase for phrase in says if phrase not in str(raised.value)] == [], str(raised.value)


def test_a_few_missing_genes_count_as_zero_with_one_warning(adata, fitted):
    with pytest.warns() as warned:
        sd.tl.cluster(adata[:, 5:].copy(), fitted)
    assert "5 of the 60 genes of the model" in only(warned)


def test_genes_are_found_by_name_in_any_order(adata, fitted):
    shuffled = adata[:, np.random.default_rng(0).permutation(60)].copy()
    sd.tl.cluster(shuffled, fitted)
    sd.tl.cluster(adata, fitted)
    assert shuffled.obs["kmeans"].tolist() == adata.obs["kmeans"].tolist()


# ------------------------------------------------------------------ instances


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"n_clusters": "eight"}, "int or None"),
        ({"scale": "no"}, "bool"),
        ({"random_state": "x"}, "int"),
        ({"n_clusters": 60}, "45"),
    ],
    ids=str,
)
def test_the_knobs_of_an_instance_are_looked_at_too(adata, knobs, says):
    kmeans = type(sd.fit("cluster", adata, "kmeans", n_clusters=3))
    with pytest.raises(ValueError, match=says):
        sd.tl.cluster(adata, kmeans(**knobs))


def test_an_instance_is_not_fitted_in_place(adata, fitted):
    mine = type(fitted)(n_clusters=3)
    sd.tl.cluster(adata, mine)
    assert not mine.is_fitted
    assert sd.fit("cluster", adata, mine) is not mine
    assert not mine.is_fitted


# ------------------------------------------------------------------ checkpoints and interrupts


def test_a_file_for_a_checkpoint_folder_is_refused(adata, picture, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    before = picture(adata)
    with pytest.raises(ValueError, match="is a file; pass a folder"):
        sd.tl.cluster(adata, "kmeans", n_clusters=3, checkpoint=file)
    assert picture(adata) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError])
@pytest.mark.parametrize("when", ["fit", "predict"])
def test_an_interrupt_while_a_method_works_leaves_no_trace(adata, picture, error, when):
    class Broken(Method):
        recipe = Recipe(normalize_total={}, log1p={})

        def fit(self, *, cells):
            self.half_ = True
            np.random.random()  # noqa: NPY002
            if when == "fit":
                raise error
            return self

        def predict(self, *, cells):
            raise error

    sd.tl.cluster(adata, "kmeans", key_added="broken", n_clusters=3)
    before, state = picture(adata), np.random.get_state()[1].tolist()  # noqa: NPY002
    mine = Broken()
    with pytest.raises(error):
        sd.tl.cluster(adata, mine, key_added="broken")
    assert picture(adata) == before
    assert mine.state == {}
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002


@pytest.mark.parametrize(
    ("result", "says"),
    [
        ({}, "'labels' is missing"),
        ({"labels": np.zeros(90, int), "extra": 1}, "'extra' is not a part"),
        ({"labels": np.zeros(89, int)}, "shape (89,)"),
        ({"labels": np.zeros((90, 1), int)}, "shape (90, 1)"),
        ({"labels": np.full(90, 0.5)}, "whole numbers"),
        ({"labels": np.full(90, -1)}, "negative codes"),
        ({"labels": np.zeros(90, int), "embedding": np.full((90, 2), np.nan)}, "not finite"),
        ({"labels": np.zeros(90, int), "proba": np.ones((90, 2))}, "do not sum to 1"),
        ({"labels": np.zeros(90, int), "score": np.full(90, 1.5)}, "leaves [0, 1]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_result_that_the_task_does_not_allow_is_not_written(adata, picture, result, says):
    class Wrong(Method):
        def fit(self, *, cells):
            return self

        def predict(self, *, cells):
            return result

    before = picture(adata)
    with pytest.raises(ScdanceError) as raised:
        sd.tl.cluster(adata, Wrong)
    assert says in str(raised.value)
    assert picture(adata) == before


def test_a_table_of_names_in_a_message_is_shortened():
    wide = ad.AnnData(
        np.ones((10, 3), np.float32),
        obs=pd.DataFrame({f"c{i}": [0] * 10 for i in range(40)}, index=[str(i) for i in range(10)]),
    )
    with pytest.raises(KeyError) as raised:
        sd.tl.cluster(wide, Batched, batch_key="batch")
    assert "and 28 more" in str(raised.value)
