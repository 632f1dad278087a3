"""The tool that merges clusters which markers do not tell apart, as a user calls it."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scdance as sd
from scdance._checks import InputError, MissingKeyError, WrongTypeError

NO_RECORD = pytest.warns(UserWarning, match="has no run record")


@pytest.fixture(scope="module")
def _split() -> ad.AnnData:
    adata = sd.datasets.toy_clusters(n_obs=400, n_vars=150, k=4, n_de=20, theta=20.0)
    sd.tl.split_counts(adata)
    sd.tl.cluster(adata, method="kmeans", n_clusters=9, layer="counts_fit")
    return adata


@pytest.fixture
def adata(_split) -> ad.AnnData:
    """Four planted clusters, cut into nine in one part of the counts."""
    return _split.copy()


@pytest.fixture(scope="module")
def alike() -> ad.AnnData:
    """Poisson counts of cells that are all alike, split."""
    rng = np.random.default_rng(0)
    adata = ad.AnnData(rng.poisson(rng.gamma(2, 2, 60), (300, 60)).astype(np.float32))
    sd.tl.split_counts(adata)
    return adata


def notes(adata: ad.AnnData, key: str) -> dict:
    return adata.uns["scdance"]["cluster"][key]["notes"]


def test_too_many_clusters_are_merged_back_to_the_planted_ones(adata):
    before = sd.metrics.ari(adata.obs["cell_type"], adata.obs["kmeans"])
    sd.tl.suggest_merges(adata, "kmeans")
    assert before < 0.8
    assert sd.metrics.ari(adata.obs["cell_type"], adata.obs["kmeans_merged"]) > 0.95
    assert adata.obs["kmeans_merged"].cat.categories.tolist() == ["0", "1", "2", "3"]
    assert adata.obs["kmeans_merged"].value_counts(sort=False).is_monotonic_decreasing


def test_the_record_tells_what_was_merged_and_what_stays_apart(adata):
    sd.tl.suggest_merges(adata, "kmeans")
    told = notes(adata, "kmeans_merged")
    assert told["n_clusters"].tolist() == [9, 4]
    assert (len(told["merges"]), told["merges"]["n_genes"].max()) == (5, 0)
    for new, members in enumerate(told["members"]):
        old = adata.obs["kmeans"][adata.obs["kmeans_merged"] == str(new)]
        assert set(members.split("+")) == set(old)
    apart = told["apart"]
    assert len(apart) == 6
    assert apart["n_genes"].is_monotonic_increasing
    raised = pd.DataFrame(adata.varm["lfc"] > 0, index=adata.var_names)
    for _, pair in apart.iterrows():
        for side in ("first", "second"):
            type_ = adata.obs["cell_type"][adata.obs["kmeans_merged"] == pair[side]].mode()[0]
            top = pair[f"higher_in_{side}"].split(", ")
            assert len(top) == 5
            # a raised gene takes depth from the others, so a gene that no type raises may be among the last
            assert raised.loc[top[:3], int(type_[-1]) - 1].all()


def test_planted_clusters_are_never_merged(adata):
    adata.obs["truth"] = adata.obs["cell_type"]
    with NO_RECORD:
        sd.tl.suggest_merges(adata, "truth")
    assert sd.metrics.ari(adata.obs["cell_type"], adata.obs["truth_merged"]) == 1
    assert len(notes(adata, "truth_merged")["merges"]) == 0


def test_clusters_of_noise_have_markers_in_their_own_counts_and_none_in_the_other_part(alike):
    sd.tl.cluster(alike, method="kmeans", n_clusters=2, layer="counts_fit", key_added="halves")
    sd.tl.suggest_merges(alike, "halves", min_log2_fold_change=0.0)
    assert set(alike.obs["halves_merged"]) == {"0"}
    assert notes(alike, "halves_merged")["merges"]["n_genes"].tolist() == [0]
    alike.obs["twice"] = alike.obs["halves"]  # without the record, which would be refused
    with NO_RECORD:
        sd.tl.suggest_merges(alike, "twice", layer="counts_fit", min_log2_fold_change=0.0)
    assert set(alike.obs["twice_merged"]) == {"0", "1"}
    assert notes(alike, "twice_merged")["apart"]["n_genes"].item() > 10


def test_the_names_of_the_clusters_have_no_say(adata):
    sd.tl.suggest_merges(adata, "kmeans")
    names = dict(zip("012345678", "hgacbfdie", strict=True))
    adata.obs["letters"] = adata.obs["kmeans"].map(names).astype("category")
    with NO_RECORD:
        sd.tl.suggest_merges(adata, "letters")
    assert adata.obs["letters_merged"].tolist() == adata.obs["kmeans_merged"].tolist()
    merges = notes(adata, "kmeans_merged")["merges"]
    renamed = merges["first"].map(lambda group: "+".join(names[each] for each in group.split("+")))
    assert notes(adata, "letters_merged")["merges"]["first"].tolist() == renamed.tolist()


def test_the_order_of_the_cells_permutes_the_result(adata):
    order = np.random.default_rng(0).permutation(adata.n_obs)
    other = adata[order].copy()
    for each in (adata, other):
        sd.tl.suggest_merges(each, "kmeans")
    assert other.obs["kmeans_merged"].tolist() == adata.obs["kmeans_merged"].iloc[order].tolist()


def test_cells_without_a_cluster_stay_without_one(adata):
    adata.obs.loc[adata.obs_names[:7], "kmeans"] = np.nan
    sd.tl.suggest_merges(adata, "kmeans")
    assert adata.obs["kmeans_merged"].isna().tolist() == [True] * 7 + [False] * 393


def test_cells_without_counts_to_test_keep_the_company_of_their_cluster(adata):
    test = adata.layers["counts_test"].tolil()
    test[:5] = 0
    adata.layers["counts_test"] = test.tocsr()
    sd.tl.suggest_merges(adata, "kmeans")
    assert adata.obs["kmeans_merged"].notna().all()
    assert adata.uns["scdance"]["cluster"]["kmeans_merged"]["input"]["n_obs"] == 395


def test_one_cluster_is_written_as_it_is(adata):
    adata.obs["one"] = 3
    with NO_RECORD:
        sd.tl.suggest_merges(adata, "one")
    assert adata.obs["one_merged"].tolist() == ["0"] * 400
    assert notes(adata, "one_merged")["members"].tolist() == ["3"]


# ------------------------------------------------------------------ what the clusters were made from


def test_clusters_of_the_tested_counts_are_refused(adata):
    sd.tl.cluster(adata, method="kmeans", n_clusters=3, layer="counts_test", key_added="own")
    with pytest.raises(InputError, match=r"'own' was clustered on `layers\['counts_test'\]`.*sd.tl.split_counts"):
        sd.tl.suggest_merges(adata, "own")
    assert "own_merged" not in adata.obs


@pytest.mark.parametrize("rep", [False, True])
def test_clusters_of_counts_that_may_hold_the_tested_ones_bring_a_warning(adata, rep):
    adata.obsm["X_any"] = adata.obsm["X_kmeans"]
    told, arguments = (r"obsm\['X_any'\]", {"use_rep": "X_any"}) if rep else ("X", {})
    sd.tl.cluster(adata, method="kmeans", n_clusters=3, key_added="whole", **arguments)
    with pytest.warns(UserWarning, match=rf"'whole' was clustered on `{told}`.*sd.tl.split_counts\(adata\)"):
        sd.tl.suggest_merges(adata, "whole")
    assert "whole_merged" in adata.obs


def test_the_way_back_goes_through_a_consensus_and_a_former_merge(adata):
    sd.tl.cluster(adata, method="kmeans", n_clusters=7, layer="counts_fit", key_added="second")
    sd.tl.consensus(adata, ["kmeans", "second"], key_added="both")
    sd.tl.suggest_merges(adata, "both")
    sd.tl.suggest_merges(adata, "both_merged", min_genes=8)
    sd.tl.cluster(adata, method="kmeans", n_clusters=7, layer="counts_test", key_added="second")
    with pytest.raises(InputError, match="'both_merged' was clustered on"):
        sd.tl.suggest_merges(adata, "both_merged")


def test_other_names_of_the_two_layers_are_known_from_the_split(adata):
    sd.tl.split_counts(adata, fit_layer="one", test_layer="two")
    sd.tl.cluster(adata, method="kmeans", n_clusters=9, layer="one", key_added="k")
    sd.tl.suggest_merges(adata, "k", layer="two")
    with pytest.warns(UserWarning, match=r"'k' was clustered on `layers\['one'\]`"):
        sd.tl.suggest_merges(adata, "k")


# ------------------------------------------------------------------ the contract


def test_it_runs_twice_and_survives_a_file(adata, tmp_path):
    sd.tl.suggest_merges(adata, "kmeans", min_genes=1000)
    assert len(notes(adata, "kmeans_merged")["apart"]) == 0
    sd.tl.suggest_merges(adata, "kmeans")
    adata.write_h5ad(tmp_path / "a.h5ad")
    found = ad.read_h5ad(tmp_path / "a.h5ad")
    assert found.obs["kmeans_merged"].tolist() == adata.obs["kmeans_merged"].tolist()
    assert notes(found, "kmeans_merged")["apart"].to_numpy().tolist() == (
        notes(adata, "kmeans_merged")["apart"].to_numpy().tolist()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sd.tl.suggest_merges(found, "kmeans")  # the records still say what was split and clustered


@pytest.mark.parametrize("min_genes", [1, 1000])
def test_tables_without_a_row_can_be_written(adata, tmp_path, min_genes):
    adata.obs["truth"] = adata.obs["cell_type"]
    with NO_RECORD:
        sd.tl.suggest_merges(adata, "truth", min_genes=min_genes)
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert len(notes(ad.read_h5ad(tmp_path / "a.h5ad"), "truth_merged")["members"]) in (1, 4)


def test_a_copy_leaves_the_object_alone(adata):
    new = sd.tl.suggest_merges(adata, "kmeans", copy=True, key_added="fewer")
    assert "fewer" in new.obs and "fewer" not in adata.obs
    assert set(adata.uns["scdance"]["cluster"]) == {"kmeans"}


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"key": "leiden"}, MissingKeyError, r"No 'leiden' in `adata.obs`.*`key=`"),
        ({"key": 3}, WrongTypeError, "key must be the name of a column"),
        ({"key": "depth"}, InputError, "has 400 values for 400 cells, so it holds no clusters"),
        ({"key": "none"}, InputError, "No cell has a cluster"),
        ({"layer": "counts"}, MissingKeyError, r"No 'counts' in `adata.layers`"),
        ({"layer": "logs"}, InputError, "suggest_merges needs raw counts"),
        ({"key_added": "cell_type"}, InputError, r"`adata.obs\['cell_type'\]` exists"),
        ({"key_added": "kmeans"}, InputError, "the column that is read"),
        ({"min_genes": 0}, InputError, "min_genes must be a whole number"),
        ({"max_fdr": 0}, InputError, "max_fdr is 0"),
        ({"max_fdr": None}, InputError, "max_fdr is None, but must be a number"),
        ({"min_share": "half"}, InputError, "min_share is 'half', but must be a number"),
        ({"min_share": 5}, InputError, "min_share is 5, but must be a share of the cells"),
        ({"min_log2_fold_change": float("nan")}, InputError, "min_log2_fold_change is nan, but must be a number"),
        ({"min_log2_fold_change": -1}, InputError, "min_log2_fold_change is -1, but must be at least 0"),
        ({"min_genes": True}, InputError, "min_genes is True"),
    ],
)
def test_wrong_calls_say_what_to_pass_and_leave_the_object_alone(adata, arguments, error, said):
    adata.obs["depth"], adata.obs["none"] = np.arange(400), pd.Categorical([None] * 400)
    logs = adata.X.astype(np.float32)
    logs.data = np.log1p(logs.data * np.repeat(1e4 / np.asarray(adata.X.sum(axis=1)).ravel(), np.diff(logs.indptr)))
    adata.layers["logs"] = logs
    before = adata.copy()
    with pytest.raises(error, match=said):
        sd.tl.suggest_merges(adata, **{"key": "kmeans", **arguments})
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert list(adata.uns["scdance"]["cluster"]) == ["kmeans"]
    assert list(adata.obsm) == list(before.obsm)
