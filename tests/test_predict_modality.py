"""The tool that predicts a modality: who teaches, what is read, units, limits, several runs, intervals."""

from __future__ import annotations

from typing import Any

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scdance as sd
from scdance._settings import unpulled

N_TEACH = 200


@pytest.fixture(scope="module")
def whole() -> mudata.MuData:
    return sd.datasets.toy_pairs(300)


def joined(**modalities: ad.AnnData) -> mudata.MuData:
    with unpulled():
        return mudata.MuData({name: each.copy() for name, each in modalities.items()})


@pytest.fixture
def mdata(whole: mudata.MuData) -> mudata.MuData:
    """Cells of which the last hundred lack their proteins."""
    return joined(rna=whole["rna"], prot=whole["prot"][:N_TEACH])


@pytest.fixture
def truth(whole: mudata.MuData) -> ad.AnnData:
    return whole["prot"][N_TEACH:].copy()


def predict(mdata: mudata.MuData, method: Any = "linear", **arguments: Any) -> np.ndarray:
    sd.tl.predict_modality(mdata, method=method, source="rna", target="prot", progress=False, **arguments)
    return mdata["rna"].obsm[f"{method if isinstance(method, str) else 'linear'}_prot"]


# Who teaches


def test_what_was_measured_of_cells_that_are_asked_changes_nothing(whole):
    whole = joined(rna=whole["rna"], prot=whole["prot"])
    whole["rna"].obs["is_train"] = np.arange(300) < N_TEACH
    noisy = joined(rna=whole["rna"], prot=whole["prot"])
    noise = np.random.default_rng(0).poisson(5, size=(100, 20))
    noisy["prot"].X = sp.csr_matrix(np.vstack([whole["prot"].X[:N_TEACH].toarray(), noise]).astype(np.int32))
    np.testing.assert_array_equal(predict(whole, split_key="is_train"), predict(noisy, split_key="is_train"))


def test_a_split_is_the_same_as_a_target_that_is_not_there(whole, mdata):
    split = joined(rna=whole["rna"], prot=whole["prot"])
    split["rna"].obs["part"] = np.where(np.arange(300) < N_TEACH, "train", "test")
    np.testing.assert_array_equal(predict(mdata), predict(split, split_key="part"))


def test_the_answer_does_not_depend_on_who_else_is_asked(mdata):
    with unpulled():
        alone = mdata[: N_TEACH + 1].copy()
    np.testing.assert_allclose(predict(alone)[-1], predict(mdata)[N_TEACH], atol=1e-5)


def test_a_split_that_says_nothing_is_refused(mdata):
    mdata["rna"].obs["part"] = "something"
    with pytest.raises(ValueError, match="'part' should say True or 'train'"):
        predict(mdata, split_key="part")


def test_too_few_cells_to_learn_from_are_refused(whole):
    few = joined(rna=whole["rna"], prot=whole["prot"][:4])
    with pytest.raises(ValueError, match="Only 4 cells are in both modalities"):
        predict(few)
    assert not few["rna"].obsm


# What is read and written


def test_a_fitted_method_reads_the_source_only(mdata, whole):
    model = sd.fit("predict_modality", mdata, method="linear", source="rna", target="prot")
    expected = predict(mdata)
    asked = joined(gex=whole["rna"])
    sd.tl.predict_modality(asked, method=model)
    np.testing.assert_allclose(asked["gex"].obsm["linear_prot"], expected, atol=1e-5)
    with pytest.raises(ValueError, match="fitted to give 'prot', not 'atac'"):
        sd.tl.predict_modality(asked, method=model, target="atac")


def test_the_record_names_the_features_and_their_means(mdata):
    predict(mdata)
    told = mdata["rna"].uns["scdance"]["predict_modality"]["linear_prot"]
    assert list(told["features"]["names"]) == list(mdata["prot"].var_names)
    x = mdata["prot"].X.toarray().astype(float)
    clr = np.log1p(x / np.exp(np.log1p(x).mean(axis=1, keepdims=True)))
    np.testing.assert_allclose(told["features"]["mean"], clr.mean(axis=0), rtol=1e-5)
    assert told["notes"]["n_teach"] == N_TEACH and told["notes"]["n_asked"] == 100


def test_runs_to_two_targets_stand_side_by_side(mdata):
    third = joined(rna=mdata["rna"], prot=mdata["prot"], atac=mdata["rna"][:, :30])
    third["atac"].var_names = [f"peak_{i}" for i in range(30)]
    for target in ("prot", "atac"):
        sd.tl.predict_modality(third, method="linear", source="rna", target=target)
    assert {"linear_prot", "linear_atac"} <= set(third["rna"].obsm)
    with pytest.raises(KeyError, match=r"2 runs 'linear'.*linear_prot, linear_atac"):
        sd.get.modality(third, "linear")
    found = sd.get.modality(third, "linear_atac")
    assert found.var_names[0] == "peak_0" and found.n_obs == 300
    assert found.X.min() >= 0 and found.X.max() <= 1  # whether a region is open


def test_a_cell_without_counts_gets_the_mean_of_the_others(mdata):
    x = mdata["rna"].X.tolil()
    x[299] = 0
    mdata["rna"].X = x.tocsr()
    with pytest.warns(UserWarning, match="1 of 300 cells have no counts"):
        found = predict(mdata)
    np.testing.assert_allclose(found[299], found[:299].mean(axis=0), rtol=1e-4)


def test_normalised_proteins_are_taken_as_they_are(mdata, truth):
    rng = np.random.default_rng(0)
    scaled = joined(rna=mdata["rna"], prot=mdata["prot"])
    scaled["prot"].X = rng.normal(size=(N_TEACH, 20)).astype(np.float32)  # as dsb leaves them
    predict(scaled)
    told = scaled["rna"].uns["scdance"]["predict_modality"]["linear_prot"]["features"]
    np.testing.assert_allclose(told["mean"], scaled["prot"].X.mean(axis=0), atol=1e-5)
    assert told["unit"] == "none"


def test_the_batch_may_stand_in_the_common_obs(mdata):
    mdata.obs["donor"] = pd.Categorical(np.arange(300) % 4)
    predict(mdata, batch_key="donor")
    given = mdata["rna"].uns["scdance"]["predict_modality"]["linear_prot"]["input"]["source"]
    assert given["batch_key"] == "donor"
    with pytest.raises(KeyError, match=r"No 'lane' in `mdata\['rna'\]\.obs`.*batch_key="):
        predict(mdata, batch_key="lane")


# Scores


def test_scores_are_those_of_the_formula(mdata, truth):
    found = predict(mdata)[N_TEACH:]
    x = truth.X.toarray().astype(float)
    true = np.log1p(x / np.exp(np.log1p(x).mean(axis=1, keepdims=True)))
    mean = mdata["rna"].uns["scdance"]["predict_modality"]["linear_prot"]["features"]["mean"]
    row = sd.metrics.score(mdata, "predict_modality", key="linear", truth=truth).loc["linear"]
    assert row["modality_rmse"] == pytest.approx(np.sqrt(np.mean((true - found) ** 2)), rel=1e-5)
    assert row["modality_mae"] == pytest.approx(np.mean(np.abs(true - found)), rel=1e-5)
    expected = 1 - ((true - found) ** 2).sum() / ((true - mean) ** 2).sum()
    assert row["skill"] == pytest.approx(expected, rel=1e-5)
    assert row["modality_pearson"] == pytest.approx(
        np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(true, found, strict=True)]), rel=1e-5
    )


def test_a_truth_in_another_order_scores_the_same(mdata, truth):
    predict(mdata)
    rng = np.random.default_rng(0)
    other = truth[rng.permutation(100)][:, rng.permutation(20)].copy()
    one, two = (sd.metrics.score(mdata, "predict_modality", key="linear", truth=each) for each in (truth, other))
    pd.testing.assert_frame_equal(one, two)


def test_a_truth_of_other_cells_is_refused(mdata, truth):
    predict(mdata)
    truth.obs_names = [f"other_{i}" for i in range(100)]
    with pytest.raises(ValueError, match="The truth shares 0 cells and 20 features"):
        sd.metrics.score(mdata, "predict_modality", key="linear", truth=truth)
    with pytest.raises(TypeError, match="pass `truth=` as an AnnData"):
        sd.metrics.score(mdata, "predict_modality", key="linear")


# Limits, ensembles, intervals


def test_answers_keep_to_the_limits_that_are_asked_for(mdata):
    teach = mdata["prot"].X.toarray()
    free, low, between = (predict(mdata, clip=clip) for clip in ("none", "auto", "range"))
    assert free.min() < 0 <= low.min()
    np.testing.assert_allclose(low, np.maximum(free, 0), atol=1e-6)
    clr = np.log1p(teach / np.exp(np.log1p(teach).mean(axis=1, keepdims=True)))
    assert (between <= clr.max(axis=0) + 1e-5).all() and (between >= clr.min(axis=0) - 1e-5).all()


def test_a_feature_that_never_changes_is_predicted_exactly(mdata):
    x = mdata["prot"].X.toarray()
    x[:, 3] = 0
    mdata["prot"].X = sp.csr_matrix(x)
    assert (predict(mdata)[:, 3] == 0).all()


def test_an_ensemble_answers_with_its_mean_and_its_spread(mdata):
    predict(mdata, n_ensemble=4)
    found = sd.get.modality(mdata, "linear")
    assert found.layers["sd"].shape == found.shape and (found.layers["sd"] > 0).any()
    assert not np.allclose(found.X, predict(mdata))
    assert "linear_prot_sd" not in mdata["rna"].obsm  # what the run before left is taken away


@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_intervals_hold_as_many_of_the_cells_that_are_asked_as_they_say(mdata, truth, coverage):
    predict(mdata, interval=coverage, valid_share=0.4)
    found = sd.get.modality(mdata, "linear")
    x = truth.X.toarray().astype(float)
    true = np.log1p(x / np.exp(np.log1p(x).mean(axis=1, keepdims=True)))
    inside = np.abs(true - found[truth.obs_names].X) <= found.var["half_width"].to_numpy()
    # 80 cells calibrate: the coverage of a feature has a standard deviation of 0.06, that of 20 features less
    assert inside.mean() == pytest.approx(coverage, abs=0.08)
    row = sd.metrics.score(mdata, "predict_modality", key="linear", truth=truth, metrics=["interval_coverage"])
    assert row["interval_coverage"].item() == pytest.approx(inside.mean(), abs=1e-3)


def test_coverage_of_a_run_without_intervals_is_refused(mdata, truth):
    predict(mdata)
    with pytest.raises(ValueError, match=r"ask for them with `interval=0\.9`"):
        sd.metrics.score(mdata, "predict_modality", key="linear", truth=truth, metrics=["interval_coverage"])


def test_an_interval_that_so_few_cells_cannot_give_is_refused(mdata):
    with pytest.raises(ValueError, match="cannot be calibrated on 30 cells"):
        predict(mdata, interval=0.99)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [({"n_ensemble": 0}, "at least 1"), ({"valid_share": 0.7}, "at most 0.5"), ({"interval": 1.5}, "between 0 and 1")],
)
def test_numbers_out_of_range_are_refused(mdata, knobs, said):
    with pytest.raises(ValueError, match=said):
        predict(mdata, **knobs)
    assert not mdata["rna"].obsm


# Which cells are held out


def held_out(batch: np.ndarray | None, **knobs: Any) -> tuple[np.ndarray, np.ndarray]:
    from scdance._core import registry

    model = registry.get("predict_modality", "linear")(**knobs)
    return model.held_out(np.arange(100), batch, "member 0")


def test_whole_batches_are_held_out_where_there_are_enough():
    batch = np.arange(100) % 5
    stay, out = held_out(batch)
    assert sorted([*stay, *out]) == list(range(100))
    assert not set(batch[stay]) & set(batch[out])
    assert len(set(batch[out])) == 1


def test_cells_at_random_are_held_out_where_batches_are_few_or_not_wanted():
    two, cells, none = held_out(np.arange(100) % 2), held_out(np.arange(100) % 5, valid_by="cells"), held_out(None)
    for stay, out in (two, cells, none):
        assert (len(stay), len(out)) == (85, 15)
    np.testing.assert_array_equal(none[1], two[1])


# Data sets and plots


@pytest.mark.parametrize("name", sd.datasets.names("predict_modality"))
def test_a_problem_keeps_the_target_of_those_who_are_asked_apart(name):
    try:
        given = sd.datasets.problem("predict_modality", name, random_state=1)
    except sd.datasets.DatasetError:
        pytest.skip("the data are not on this machine")
    source, target = (given.data[given.arguments[role]] for role in ("source", "target"))
    assert not set(given.truth.obs_names) & set(target.obs_names)
    assert {*given.truth.obs_names, *target.obs_names} == set(source.obs_names)
    assert list(given.truth.var_names) == list(target.var_names)
    assert set(given.labels.index) == set(target.obs_names)
    assert set(source.obs) <= {"batch"} and not given.data.uns and not source.uns


def test_methods_that_learn_from_labels_are_given_those_of_cells_that_teach():
    given = sd.datasets.problem("predict_modality", "cite_demo_rna_adt").partly_labelled(0.1, 0)
    labels = given.data["rna"].obs["known"]
    assert labels[given.truth.obs_names].isna().all() and labels.notna().sum() == given.data["adt"].n_obs


@pytest.mark.parametrize("interval", [None, 0.8])
def test_the_scatter_has_a_point_for_each_cell_and_a_band_for_an_interval(mdata, truth, interval):
    predict(mdata, interval=interval)
    ax = sd.pl.modality_scatter(mdata, "linear", truth, "protein_3")
    points = [each for each in ax.collections if len(each.get_offsets()) == 100]
    assert len(points) == 1 and len(ax.collections) == (1 if interval is None else 2)
    assert ax.get_title().startswith("protein_3: skill")
    with pytest.raises(ValueError, match="protein_99"):
        sd.pl.modality_scatter(mdata, "linear", truth, "protein_99")


def test_the_bars_are_the_skills_of_the_features_the_best_first(mdata, truth):
    predict(mdata)
    ax = sd.pl.modality_skill(mdata, "linear", truth)
    heights = [bar.get_height() for bar in ax.patches]
    assert len(heights) == 20 and heights == sorted(heights, reverse=True)
    assert {tick.get_text() for tick in ax.get_xticklabels()} == set(truth.var_names)
