"""What `score` finds for the scores of joint spaces: batches, times, the RNA and its cell cycle."""

from dataclasses import replace

import mudata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

import scdance as sd
from scdance import metrics, pp
from scdance._checks import InputError, MissingKeyError
from scdance._core.task import TASKS
from scdance._settings import unpulled
from scdance.metrics import _metric
from scdance.pp._cell_cycle import G2M_GENES, S_GENES

SIX = (
    *("nmi_cluster_label", "asw", "cell_cycle_conservation", "trajectory_conservation"),
    *("batch_asw", "graph_connectivity"),
)
CYCLE = "cell_cycle_conservation"


@pytest.fixture(scope="module")
def whole():
    """Cells of four types along a line, with genes of the cell cycle, in two batches."""
    mdata, rng = sd.datasets.toy_pairs(160), np.random.default_rng(0)
    genes = [*S_GENES[:12], *G2M_GENES[:12]]
    mdata["rna"].var_names = [*genes, *mdata["rna"].var_names[24:]]
    codes = mdata.obs["cell_type"].cat.codes.to_numpy()
    time = codes + rng.random(160)
    mdata.obsm["X_mine"] = np.column_stack([10 * time, rng.normal(size=(160, 3))]).astype(np.float32)
    mdata.obs["time"], mdata.obs["batch"] = np.where(rng.random(160) < 0.8, time, np.nan), rng.choice(["x", "y"], 160)
    return mdata


@pytest.fixture
def mdata(whole):
    with unpulled():
        return whole.copy()


def score(mdata, **given):
    return metrics.score(mdata, "joint_embed", key="mine", truth="cell_type", **given).iloc[0]


def lognormalised(counts):
    adata = sc.AnnData(counts.astype(np.float32))
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return adata.X


def test_all_scores_are_those_of_the_arrays(mdata):
    found = score(mdata, batch_key="batch", pseudotime="time")
    assert list(found.index) == list(TASKS["joint_embed"].metrics)
    types, z = mdata.obs["cell_type"], mdata.obsm["X_mine"]
    rna, time, batch = lognormalised(mdata["rna"].X), mdata.obs["time"], mdata.obs["batch"]
    expected = {
        "nmi_cluster_label": metrics.nmi_cluster_label(types, z),
        "asw": metrics.asw(types, z),
        "cell_cycle_conservation": metrics.cell_cycle_conservation(
            z, rna, pp.cell_cycle_scores(rna, mdata["rna"].var_names), batch
        ),
        "trajectory_conservation": metrics.trajectory_conservation(types, z, time, batch),
        "batch_asw": metrics.batch_asw(types, z, batch),
        "graph_connectivity": metrics.graph_connectivity(types, z),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-5), name
    assert found["mean_of_six"] == pytest.approx(np.mean(list(expected.values())), abs=1e-5)
    assert found["bio_and_batch"] == pytest.approx(metrics.bio_and_batch(*expected.values()), abs=1e-5)
    assert found["trajectory_conservation"] > 0.9


def test_what_is_not_given_leaves_its_score_undefined_and_the_others_as_they_are(mdata):
    bare, told = score(mdata), score(mdata, batch_key="batch", pseudotime=["time"])
    assert bare[["batch_asw", "trajectory_conservation"]].isna().all()
    same = ["kmeans_ari", "kmeans_nmi", "asw", "nmi_cluster_label", "graph_connectivity"]
    pd.testing.assert_series_equal(bare[same], told[same])
    assert bare["mean_of_six"] == pytest.approx(bare[list(SIX)].mean())


def test_a_score_that_is_made_of_others_computes_each_once_and_shows_itself_only(mdata, monkeypatch):
    calls = []

    def counted(metric):
        return replace(metric, function=lambda *given: (calls.append(metric.name), metric.function(*given))[1])

    watched = {name: counted(metrics.get(name)) for name in SIX}
    monkeypatch.setattr(_metric, "_METRICS", {**_metric._METRICS, **watched})
    row = metrics.score(mdata, "joint_embed", key="mine", truth="cell_type", metrics=["bio_and_batch", "mean_of_six"])
    assert list(row) == ["bio_and_batch", "mean_of_six"]
    assert sorted(calls) == sorted(SIX)


def test_scoring_leaves_the_object_as_it_was(mdata, whole):
    score(mdata, batch_key="batch", pseudotime="time")
    pd.testing.assert_frame_equal(mdata.obs, whole.obs)
    assert list(mdata.obsm) == list(whole.obsm) and list(mdata.uns) == list(whole.uns)
    for name in mdata.mod:
        assert (mdata[name].X != whole[name].X).nnz == 0
        assert list(mdata[name].obs) == list(whole[name].obs) and not mdata[name].layers


def test_columns_may_stand_in_the_modalities(mdata):
    expected = score(mdata, batch_key="batch", pseudotime="time")
    for name in ("batch", "time"):
        values = mdata.obs.pop(name)
        mdata["rna"].obs[name], mdata["prot"].obs[name] = values, values
    pd.testing.assert_series_equal(score(mdata, batch_key="batch", pseudotime="time"), expected)


def test_cells_of_one_modality_are_scored_where_they_can_be(mdata):
    some = mdata.obs_names[30:]
    with unpulled():
        new = mudata.MuData({"rna": mdata["rna"][some].copy(), "prot": mdata["prot"].copy()})[mdata.obs_names].copy()
    new.obsm["X_mine"], new.obs["cell_type"] = mdata.obsm["X_mine"], mdata.obs["cell_type"]
    rna = lognormalised(mdata["rna"][some].X)
    cycle = pp.cell_cycle_scores(rna, mdata["rna"].var_names)
    expected = metrics.cell_cycle_conservation(mdata.obsm["X_mine"][30:], rna, cycle)
    assert score(new)[CYCLE] == pytest.approx(expected, abs=1e-5)


def test_counts_in_a_layer_and_log_normalised_values_give_the_same(mdata):
    expected = score(mdata, metrics=[CYCLE])[CYCLE]
    rna = mdata["rna"]
    counts, logged = rna.X.copy(), lognormalised(rna.X)
    rna.X = logged
    assert score(mdata, metrics=[CYCLE])[CYCLE] == pytest.approx(expected, abs=1e-5)
    rna.X, rna.layers["counts"] = logged * 2, counts
    assert score(mdata, metrics=[CYCLE])[CYCLE] == pytest.approx(expected, abs=1e-5)


def test_the_rna_is_the_modality_and_layer_that_the_run_read():
    mdata = sd.datasets.toy_pairs(120)
    rna = mdata["rna"]
    rna.var_names = [*S_GENES[:12], *G2M_GENES[:12], *rna.var_names[24:]]
    rna.layers["mine"] = rna.X.copy()
    rna.X = rna.X[:, ::-1].tocsr()
    sd.tl.joint_embed(mdata, n_source=4, n_target=4, layer={"rna": "mine"})
    found = metrics.score(mdata, "joint_embed", key="svd_concat", truth="cell_type", metrics=[CYCLE])[CYCLE].item()
    values = lognormalised(rna.layers["mine"])
    cycle = pp.cell_cycle_scores(values, rna.var_names)
    assert found == pytest.approx(metrics.cell_cycle_conservation(mdata.obsm["X_svd_concat"], values, cycle), abs=1e-5)


def test_without_rna_there_is_no_cell_cycle(mdata):
    with unpulled():
        new = mudata.MuData({"atac": mdata["rna"].copy(), "prot": mdata["prot"].copy()})
    new.obsm["X_mine"], new.obs["cell_type"] = mdata.obsm["X_mine"], mdata.obs["cell_type"]
    assert np.isnan(score(new, metrics=[CYCLE])[CYCLE])


def test_a_missing_column_names_those_that_are_there(mdata):
    with pytest.raises(MissingKeyError, match=r"No column 'donor'.*there are cell_type, time, batch.*`batch_key=`"):
        score(mdata, batch_key="donor")
    with pytest.raises(MissingKeyError, match=r"No column 'tim'.*`pseudotime=`. Did you mean 'time'"):
        score(mdata, pseudotime=["tim"])
    with pytest.raises(InputError, match="'batch' must hold times as numbers"):
        score(mdata, pseudotime="batch")


def test_a_space_of_an_anndata_can_be_scored_too(mdata):
    adata = mdata["rna"].copy()
    adata.obs, adata.obsm["X_mine"] = mdata.obs.copy(), mdata.obsm["X_mine"]
    wanted = ["batch_asw", CYCLE]
    found = metrics.score(adata, "cluster", key="mine", truth="cell_type", metrics=wanted, batch_key="batch").iloc[0]
    pd.testing.assert_series_equal(found, score(mdata, metrics=wanted, batch_key="batch"))
