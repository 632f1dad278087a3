"""The tool that makes clusters agree, as a user calls it."""

from __future__ import annotations

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

import scdance as sd
from scdance._checks import InputError, MissingKeyError, WrongTypeError

mpl.use("Agg")


@pytest.fixture
def adata():
    adata = sd.datasets.toy_clusters(n_obs=150, n_vars=80, k=3, n_de=20)
    for seed in range(3):
        sd.tl.cluster(adata, method="kmeans", n_clusters=3 + seed, random_state=seed, key_added=f"s{seed}")
    return adata


def test_runs_agree_on_the_planted_clusters(adata):
    sd.tl.consensus(adata, ["s0", "s1", "s2"])
    assert sd.metrics.score(adata, "cluster", key="consensus", truth="cell_type")["ari"].item() > 0.9
    assert adata.obs["consensus_score"].between(0, 1).all()
    record = adata.uns["scdance"]["cluster"]["consensus"]
    assert record["notes"]["n_clusters"].tolist() == [3, 4, 5]
    assert record["params"]["keys"].tolist() == ["s0", "s1", "s2"]


def test_it_runs_twice_and_survives_a_file(adata, tmp_path):
    sd.tl.consensus(adata, ["s0", "s1"])
    first = adata.obs["consensus"].copy()
    sd.tl.consensus(adata, ["s0", "s1"])
    assert (adata.obs["consensus"] == first).all()
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert (ad.read_h5ad(tmp_path / "a.h5ad").obs["consensus"] == first).all()


def test_a_copy_leaves_the_object_alone(adata):
    new = sd.tl.consensus(adata, ["s0", "s1"], copy=True, key_added="agreed")
    assert "agreed" in new.obs and "agreed" not in adata.obs


def test_cells_without_any_partition_have_no_cluster(adata):
    for key in ("s0", "s1"):
        adata.obs.loc[adata.obs_names[:4], key] = np.nan
    adata.obs.loc[adata.obs_names[4], "s0"] = np.nan
    sd.tl.consensus(adata, ["s0", "s1"])
    assert adata.obs["consensus"].isna().tolist() == [True] * 4 + [False] * 146


def test_wrong_calls_say_what_to_pass(adata):
    with pytest.raises(InputError, match="at least two partitions; found s0"):
        sd.tl.consensus(adata, ["s0"])
    with pytest.raises(MissingKeyError, match=r"No 's9' in `adata.obs`"):
        sd.tl.consensus(adata, ["s0", "s9"])
    with pytest.raises(InputError, match=r"`adata.obs\['cell_type'\]` exists and was not written by scdance"):
        sd.tl.consensus(adata, ["s0", "s1"], key_added="cell_type")


@pytest.mark.parametrize(
    ("typed", "error", "said"),
    [
        ({"keys": "s0"}, InputError, "at least two partitions; found s0"),
        ({"keys": []}, InputError, "at least two partitions; found nothing"),
        ({"keys": None}, WrongTypeError, "keys must be names of columns of `adata.obs`, but is None"),
        ({"keys": [0, 1]}, WrongTypeError, "keys must be the name of a column of `adata.obs`, but is 0"),
        ({"keys": ["s0", "s1", "s0"]}, InputError, "keys has s0 more than once; each partition has one vote"),
        ({"keys": ["s0", "depth"]}, InputError, r"`adata.obs\['depth'\]` has 150 values for 150 cells"),
        ({"keys": ["s0", "none"]}, InputError, r"`adata.obs\['none'\]` has 0 values for 0 cells.*`keys=`"),
        ({"key_added": "s0"}, InputError, "would go to 's0', one of the columns that are read"),
        ({"resolution": -1}, InputError, "resolution is -1, but must be at least 0"),
        ({"resolution": "1"}, InputError, "resolution is '1', but must be at least 0"),
        ({"resolution": float("inf")}, InputError, "resolution is inf"),
        ({"together": 5}, InputError, "together is 5, but must be a share of the partitions, from 0 to 1"),
        ({"together": float("nan")}, InputError, "together is nan"),
        ({"together": "half"}, InputError, "together is 'half'"),
        ({"together": True}, InputError, "together is True"),
        ({"random_state": "x"}, InputError, "random_state must be a whole number"),
    ],
)
def test_wrong_calls_leave_the_object_alone(adata, typed, error, said):
    adata.obs["depth"], adata.obs["none"] = np.arange(150) * 1.5, pd.Categorical([None] * 150)
    before = adata.copy()
    with pytest.raises(error, match=said):
        sd.tl.consensus(adata, **{"keys": ["s0", "s1"], **typed})
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert list(adata.uns["scdance"]["cluster"]) == ["s0", "s1", "s2"]


def test_the_curve_of_stability_shows_each_candidate_and_marks_the_chosen(adata):
    sd.tl.cluster(adata, method="kmeans", k_method="stability", key_added="own")
    table = adata.uns["scdance"]["cluster"]["own"]["notes"]["k_selection"]
    ax = sd.pl.cluster_stability(adata, "own")
    shown = ax.collections[0].get_offsets()
    np.testing.assert_allclose(np.sort(shown[:, 0]), np.sort(table["n_clusters"]))
    with pytest.raises(InputError, match='`n_clusters=None, k_method="stability"`'):
        sd.pl.cluster_stability(adata, "s0")
    with pytest.raises(MissingKeyError, match="No run 'nothing' of `cluster`"):
        sd.pl.cluster_stability(adata, "nothing")


def test_the_curve_of_stability_marks_the_one_candidate_that_was_taken(adata):
    sd.tl.cluster(adata, method="kmeans", k_method="stability", key_added="own")
    table = adata.uns["scdance"]["cluster"]["own"]["notes"]["k_selection"]
    taken = int(np.flatnonzero(table["taken"]).item())
    assert table["n_clusters"][taken] == adata.obs["own"].nunique()
    del adata.obs["own"]  # the record is enough
    points = sd.pl.cluster_stability(adata, "own").collections[0]
    red = [mpl.colors.same_color(color, "tab:red") for color in points.get_facecolor()]
    assert np.flatnonzero(red).tolist() == [taken]
