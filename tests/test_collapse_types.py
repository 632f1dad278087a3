"""The tool that merges types of a reference with nearly the same profile, as a user calls it."""

from __future__ import annotations

import html

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scdance as sd
from scdance._checks import InputError, MissingKeyError, WrongTypeError

KEY = "cell_type_collapsed"


@pytest.fixture(scope="module")
def _ref() -> ad.AnnData:
    """Four planted types; the cells of type1 have two labels, given by chance."""
    ref = sd.datasets.toy_clusters(n_obs=600, n_vars=300, k=4, n_de=25, lfc=2.0, theta=20.0)
    labels = ref.obs["cell_type"].astype(str)
    first = np.flatnonzero(labels == "type1")
    labels.iloc[first] = np.where(np.random.default_rng(0).random(len(first)) < 0.5, "one", "uno")
    ref.obs["cell_type"] = labels.astype("category")
    return ref


@pytest.fixture
def ref(_ref) -> ad.AnnData:
    return _ref.copy()


def notes(ref: ad.AnnData, key: str = KEY) -> dict:
    return ref.uns["scdance"]["annotate"][key]["notes"]


def by_hand(ref: ad.AnnData) -> pd.DataFrame:
    """Mean log-normalised profile of each type, (types, genes)."""
    x = ref.X.toarray().astype(float)
    logs = np.log1p(1e4 * x / x.sum(axis=1, keepdims=True))
    return pd.DataFrame(logs, columns=ref.var_names).groupby(ref.obs["cell_type"].to_numpy()).mean()


def test_labels_given_by_chance_are_merged_and_planted_types_are_not(ref):
    sd.tl.collapse_types(ref, "cell_type")
    assert ref.obs[KEY].cat.categories.tolist() == ["one+uno", "type2", "type3", "type4"]
    old = ref.obs["cell_type"].astype(str)
    assert (ref.obs[KEY] == old.where(~old.isin(["one", "uno"]), "one+uno")).all()


def test_the_record_tells_what_was_merged_and_what_stays_apart(ref):
    sd.tl.collapse_types(ref, "cell_type")
    told = notes(ref)
    assert told["n_types"].tolist() == [5, 4]
    assert told["types"]["type"].tolist() == ["one", "type2", "type3", "type4", "uno"]
    assert told["types"]["collapsed"].tolist() == ["one+uno", "type2", "type3", "type4", "one+uno"]
    assert told["types"]["n_cells"].tolist() == ref.obs["cell_type"].value_counts().sort_index().tolist()
    assert told["merges"][["first", "second"]].to_numpy().tolist() == [["one", "uno"]]
    assert told["merges"]["correlation"].item() > 0.95
    assert len(told["apart"]) == 9 and told["apart"]["correlation"].is_monotonic_decreasing
    assert told["apart"]["correlation"].max() < 0.8


def test_the_correlation_is_that_over_the_genes_that_differ_twofold(ref):
    sd.tl.collapse_types(ref, "cell_type")
    mean = by_hand(ref)
    mean = mean.loc[:, mean.max() - mean.min() >= np.log(2)]
    assert notes(ref)["n_genes"] == mean.shape[1] < 500
    pairs = pd.concat([notes(ref)["merges"], notes(ref)["apart"]])
    expected = [
        np.corrcoef(mean.loc[a], mean.loc[b])[0, 1] for a, b in zip(pairs["first"], pairs["second"], strict=True)
    ]
    np.testing.assert_allclose(pairs["correlation"], expected, rtol=1e-5)


def test_genes_that_every_cell_needs_merge_nothing(ref):
    """With as many strong genes that are alike in all types, whole profiles correlate, and the types stay apart."""
    rng = np.random.default_rng(0)
    shared = rng.poisson(rng.gamma(1, 20, 300), (ref.n_obs, 300))
    names = [*ref.var_names, *(f"shared_{i}" for i in range(300))]
    whole = ad.AnnData(sp.hstack([ref.X, shared], format="csr"), obs=ref.obs, var=pd.DataFrame(index=names))
    closest = np.corrcoef(by_hand(whole).loc[["type2", "type3", "type4"]])[np.triu_indices(3, 1)]
    assert closest.min() > 0.9
    sd.tl.collapse_types(whole, "cell_type", threshold=0.9)
    assert whole.obs[KEY].cat.categories.tolist() == ["one+uno", "type2", "type3", "type4"]


def test_a_chain_of_pairs_makes_one_type():
    """Three types in a row, of which only the neighbours are alike enough."""
    rng = np.random.default_rng(0)
    a, b, far = rng.gamma(1, 10, (3, 200))
    profiles = np.stack([a, (a + b) / 2, b, far])
    ref = ad.AnnData(rng.poisson(np.repeat(profiles, 50, axis=0)).astype(np.float32))
    ref.obs["kind"] = np.repeat(["a", "b", "c", "d"], 50)
    sd.tl.collapse_types(ref, "kind", threshold=0.5)
    assert set(ref.obs["kind_collapsed"]) == {"a+b+c", "d"}
    merges = notes(ref, "kind_collapsed")["merges"]
    assert {*zip(merges["first"], merges["second"], strict=True)} == {("a", "b"), ("b", "c")}
    sd.tl.collapse_types(ref, "kind", threshold=0.99)
    assert set(ref.obs["kind_collapsed"]) == {"a", "b", "c", "d"}
    assert len(notes(ref, "kind_collapsed")["merges"]) == 0


def test_the_order_of_cells_and_genes_has_no_say(ref):
    rng = np.random.default_rng(1)
    order = rng.permutation(ref.n_obs)
    other = ref[order][:, rng.permutation(ref.n_vars)].copy()
    for each in (ref, other):
        sd.tl.collapse_types(each, "cell_type")
    assert other.obs[KEY].tolist() == ref.obs[KEY].iloc[order].tolist()
    np.testing.assert_allclose(notes(other)["apart"]["correlation"], notes(ref)["apart"]["correlation"])


def test_cells_without_a_type_stay_without_one(ref):
    labels = ref.obs["cell_type"].astype(object)
    labels.iloc[:7], labels.iloc[7:9] = np.nan, ""
    ref.obs["cell_type"] = labels
    sd.tl.collapse_types(ref, "cell_type")
    assert ref.obs[KEY].isna().tolist() == [True] * 9 + [False] * 591
    assert notes(ref)["types"]["n_cells"].sum() == 591


def test_cells_without_counts_keep_their_type_and_count_for_nothing(ref):
    sd.tl.collapse_types(ref, "cell_type")
    empty = ad.AnnData(sp.csr_matrix((5, ref.n_vars), dtype=ref.X.dtype), var=ref.var)
    empty.obs["cell_type"] = "type2"
    more = ad.concat([ref, empty], index_unique="-")
    sd.tl.collapse_types(more, "cell_type", key_added="again")
    assert more.obs["again"].iloc[-5:].tolist() == ["type2"] * 5
    np.testing.assert_allclose(notes(more, "again")["apart"]["correlation"], notes(ref)["apart"]["correlation"])


def test_a_name_that_is_taken_gets_a_stroke(ref):
    ref.obs["cell_type"] = ref.obs["cell_type"].cat.rename_categories({"type2": "one+uno"})
    sd.tl.collapse_types(ref, "cell_type")
    assert set(ref.obs[KEY]) == {"one+uno_", "one+uno", "type3", "type4"}


def test_counts_are_read_from_the_layer(ref):
    logs = ref.copy()
    logs.layers["raw"] = logs.X.copy()
    logs.X = sp.csr_matrix(sp.diags(1e4 / logs.X.sum(axis=1).A1) @ logs.X).log1p()
    with pytest.raises(InputError, match="collapse_types needs raw counts"):
        sd.tl.collapse_types(logs, "cell_type")
    sd.tl.collapse_types(logs, "cell_type", layer="raw")
    sd.tl.collapse_types(ref, "cell_type")
    assert logs.obs[KEY].tolist() == ref.obs[KEY].tolist()


def test_a_copy_leaves_the_object_and_a_second_run_replaces_the_first(ref):
    new = sd.tl.collapse_types(ref, "cell_type", key_added="fewer", copy=True)
    assert "fewer" in new.obs and "fewer" not in ref.obs and not ref.uns
    sd.tl.collapse_types(new, "cell_type", key_added="fewer", threshold=1.0)
    assert new.obs["fewer"].nunique() == 5


def test_a_report_says_how_it_was_made(ref):
    sd.tl.collapse_types(ref, "cell_type", threshold=0.9)
    page = html.unescape(sd.report(ref))
    assert "sd.tl.collapse_types(" in page and "threshold=0.9" in page


def test_the_result_passes_through_a_file(ref, tmp_path):
    ref.obs["cell_type"] = ref.obs["cell_type"].cat.rename_categories({"one": "T/NK"})
    sd.tl.collapse_types(ref, "cell_type")
    ref.write_h5ad(tmp_path / "ref.h5ad")
    again = ad.read_h5ad(tmp_path / "ref.h5ad")
    assert again.obs[KEY].tolist() == ref.obs[KEY].tolist()
    for table in ("types", "merges", "apart"):
        pd.testing.assert_frame_equal(notes(again)[table], notes(ref)[table], check_names=False)


def test_the_collapsed_types_serve_a_deconvolution():
    mixing, ref = sd.datasets.split_reference(sd.datasets.toy_clusters(n_obs=400, n_vars=100, k=3, n_de=20, theta=20.0))
    labels = ref.obs["cell_type"].astype(str).to_numpy()
    labels[np.flatnonzero(labels == "type1")[::2]] = "type1b"
    ref.obs["cell_type"] = labels
    sd.tl.collapse_types(ref, "cell_type")
    spots = sd.datasets.simulate_visium(mixing, "cell_type", n_rows=5, n_cols=5)
    sd.tl.deconvolve(spots, ref, method="nnls", labels_key=KEY)
    assert spots.obsm["nnls"].columns.tolist() == ["type1+type1b", "type2", "type3"]


def test_a_warning_says_that_all_types_became_one(ref):
    with pytest.warns(UserWarning, match=r"All 5 types .* threshold of 1e-06.*higher `threshold=`"):
        sd.tl.collapse_types(_similar(ref), "cell_type", threshold=1e-6)


def _similar(ref: ad.AnnData) -> ad.AnnData:
    """The same with a few genes that all types have and that differ a little: any two types correlate."""
    ref = ref.copy()
    strong = np.random.default_rng(0).poisson(500, (ref.n_obs, 20))
    x = ref.X.toarray()
    x[:, :20] = strong * (1 + 2 * (ref.obs["cell_type"] == "type2").to_numpy()[:, None])
    ref.X = sp.csr_matrix(x)
    return ref


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"labels_key": "celltype"}, MissingKeyError, r"No 'celltype' in `ref.obs`; it has cell_type.*Did you mean"),
        ({"labels_key": 3}, WrongTypeError, "labels_key must be the name of a column"),
        ({"labels_key": "only"}, InputError, r"holds 1 type \(same\)"),
        ({"labels_key": "chance"}, InputError, r"Only \d genes differ twofold between types of `ref.obs\['chance'\]`"),
        ({"threshold": 0}, InputError, "threshold is 0"),
        ({"threshold": 1.1}, InputError, r"threshold is 1\.1"),
        ({"threshold": np.nan}, InputError, "threshold is nan"),
        ({"layer": "raw"}, MissingKeyError, "'raw'"),
        ({"key_added": "other"}, InputError, r"`adata.obs\['other'\]` exists"),
        ({"key_added": "a/b"}, InputError, "key_added must be a name"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_and_changes_nothing(ref, arguments, error, message):
    ref.obs["only"], ref.obs["other"] = "same", "x"
    ref.obs["chance"] = np.where(np.random.default_rng(0).random(ref.n_obs) < 0.5, "a", "b")
    before = ref.obs.copy()
    with pytest.raises(error, match=message):
        sd.tl.collapse_types(ref, **{"labels_key": "cell_type", **arguments})
    pd.testing.assert_frame_equal(ref.obs, before)
    assert not ref.uns


def test_the_column_that_is_read_is_never_overwritten(ref):
    sd.tl.collapse_types(ref, "cell_type", key_added="fewer")
    with pytest.raises(InputError, match="key_added is 'fewer', the column that is read"):
        sd.tl.collapse_types(ref, "fewer", key_added="fewer")


@pytest.mark.real
def test_subtypes_of_a_real_reference_are_merged_before_unrelated_types():
    ref = sd.datasets.load("pdac_indrop")
    sd.tl.collapse_types(ref, "cell_type")
    merges = notes(ref)["merges"]
    assert merges["first"].str[:4].tolist() == merges["second"].str[:4].tolist()
    assert set(merges["first"].str[:4]) == {"Duct", "mDCs"}
