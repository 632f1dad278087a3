"""The tool that predicts a modality: who teaches, what is read, units, limits, several runs, intervals."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scdance as sd
from scdance._checks import ScdanceError
from scdance._core import registry
from scdance._core.knobs import knobs
from scdance._core.run import make
from scdance._settings import unpulled

N_TEACH = 200
METHODS = registry.names("predict_modality")
every_method = pytest.mark.parametrize("method", METHODS)


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


@pytest.fixture
def brief(golden) -> Callable[[str], dict[str, Any]]:
    """Small knobs of a method, and a single epoch where it counts epochs: enough for an answer that is not the mean."""

    def of(method: str) -> dict[str, Any]:
        there = knobs(registry.get("predict_modality", method))
        row = golden["predict_modality"][method].get("knobs", {})
        return row | ({"epochs": 1} if "epochs" in there else {})

    return of


# Who teaches


@pytest.mark.parametrize(
    ("method", "more"),
    [(method, {}) for method in METHODS]
    + [("scmogcn", {"transductive": True}), ("linear", {"n_ensemble": 2}), ("linear", {"interval": 0.8})],
)
def test_what_was_measured_of_cells_that_are_asked_changes_nothing(whole, brief, method, more):
    rng = np.random.default_rng(0)
    split = joined(rna=whole["rna"], prot=whole["prot"])
    split["rna"].obs["is_train"] = rng.permutation(300) < N_TEACH
    split["rna"].obs["batch"] = np.resize(list("abcd"), 300)
    noisy = joined(rna=split["rna"], prot=split["prot"])
    x = noisy["prot"].X.toarray()
    asked = ~split["rna"].obs["is_train"].to_numpy()
    x[asked] = rng.poisson(5, size=(asked.sum(), 20))
    noisy["prot"].X = sp.csr_matrix(x)
    for mdata in (split, noisy):
        arguments = {"split_key": "is_train", "batch_key": "batch", **brief(method), **more}
        sd.tl.predict_modality(mdata, method, source="rna", target="prot", progress=False, key_added="it", **arguments)
    found = [sd.get.modality(mdata, "it") for mdata in (split, noisy)]
    np.testing.assert_array_equal(found[0].X, found[1].X)
    pd.testing.assert_frame_equal(found[0].var, found[1].var)
    assert method == "mean" or (found[0].X.std(axis=0) > 0).any()


@every_method
def test_a_batch_in_which_nobody_taught_is_answered(mdata, brief, method):
    mdata["rna"].obs["batch"] = np.where(np.arange(300) < N_TEACH, np.resize(list("abc"), 300), "of another site")
    sd.tl.predict_modality(
        mdata, method, source="rna", target="prot", batch_key="batch", progress=False, **brief(method)
    )
    assert np.isfinite(sd.get.modality(mdata, method).X).all()


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


def test_the_truth_is_read_from_the_layer_that_taught(mdata, truth):
    for each in (mdata["prot"], truth):
        each.layers["mine"] = each.X.log1p()
    predicted = {"source": "rna", "target": "prot", "layer": {"prot": "mine"}}
    sd.tl.predict_modality(mdata, method="linear", **predicted)
    found = sd.metrics.score(mdata, "predict_modality", key="linear", truth=truth, metrics=["modality_rmse"])
    off = sd.get.modality(mdata, "linear")[truth.obs_names].X - truth.layers["mine"].toarray()
    assert found.loc["linear", "modality_rmse"] == pytest.approx(np.sqrt((off**2).mean()), rel=1e-5)
    in_x = ad.AnnData(truth.layers["mine"], obs=truth.obs, var=truth.var)
    again = sd.metrics.score(mdata, "predict_modality", key="linear", truth=in_x, metrics=["modality_rmse"])
    pd.testing.assert_frame_equal(found, again)
    counts = ad.AnnData(truth.X, obs=truth.obs, var=truth.var)
    with pytest.raises(ValueError, match=r"learnt from `mdata\['prot'\].layers\['mine'\]`.*the truth holds counts"):
        sd.metrics.score(mdata, "predict_modality", key="linear", truth=counts)


def test_a_truth_in_another_order_scores_the_same(mdata, truth):
    predict(mdata)
    rng = np.random.default_rng(0)
    other = truth[rng.permutation(100)][:, rng.permutation(20)].copy()
    one, two = (sd.metrics.score(mdata, "predict_modality", key="linear", truth=each) for each in (truth, other))
    pd.testing.assert_frame_equal(one, two)


def test_cells_that_taught_are_no_truth(mdata, truth):
    mdata = joined(rna=mdata["rna"], prot=ad.concat([mdata["prot"], truth], merge="same"))
    mdata["rna"].obs["teaches"] = np.arange(mdata["rna"].n_obs) < N_TEACH
    predict(mdata, split_key="teaches")
    with pytest.warns(UserWarning, match=f"{N_TEACH} of {N_TEACH + 100} cells of the truth taught this run"):
        whole = sd.metrics.score(mdata, "predict_modality", key="linear", truth="prot")
    pd.testing.assert_frame_equal(whole, sd.metrics.score(mdata, "predict_modality", key="linear", truth=truth))
    predict(mdata)
    with pytest.raises(ValueError, match=r"All 100 cells .* fits and no predictions.*`split_key=`"):
        sd.metrics.score(mdata, "predict_modality", key="linear", truth=truth)


def test_a_fitted_method_answers_for_all_cells_that_it_did_not_see(mdata, truth):
    model = sd.fit("predict_modality", mdata, method="linear", source="rna", target="prot")
    later = joined(rna=mdata["rna"][N_TEACH:], prot=truth)
    sd.tl.predict_modality(later, method=model)
    predict(mdata)
    new, old = (sd.metrics.score(each, "predict_modality", key="linear", truth=truth) for each in (later, mdata))
    pd.testing.assert_frame_equal(new, old)


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


@every_method
def test_a_feature_that_never_changes_is_predicted_exactly(mdata, brief, method):
    x = mdata["prot"].X.toarray()
    x[:, 3] = 0
    mdata["prot"].X = sp.csr_matrix(x)
    sd.tl.predict_modality(mdata, method, source="rna", target="prot", clip="none", progress=False, **brief(method))
    assert (sd.get.modality(mdata, method).X[:, 3] == 0).all()


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


def test_intervals_are_calibrated_on_whole_batches(mdata):
    sizes = {"a": 90, "b": 60, "c": 37, "d": 13}  # 15 % of the cells are 30
    batch = np.concatenate([np.repeat(list(sizes), list(sizes.values())), np.full(100, "e")])
    mdata["rna"].obs["batch"] = batch
    predict(mdata, interval=0.5, batch_key="batch")
    n_out = N_TEACH - mdata["rna"].uns["scdance"]["predict_modality"]["linear_prot"]["notes"]["n_teach"]
    assert n_out in (90, 60, 37, 90 + 13, 60 + 13, 37 + 13)


@pytest.mark.parametrize(
    ("typed", "said"),
    [({"n_ensemble": 0}, "at least 1"), ({"valid_share": 0.7}, "at most 0.5"), ({"interval": 1.5}, "between 0 and 1")],
)
def test_numbers_out_of_range_are_refused(mdata, typed, said):
    with pytest.raises(ValueError, match=said):
        predict(mdata, **typed)
    assert not mdata["rna"].obsm


@pytest.mark.parametrize(
    ("method", "preset"),
    [(method, preset) for method in METHODS for preset in registry.get("predict_modality", method).presets],
)
def test_presets_lie_within_the_limits(method, preset):
    make("predict_modality", method, {}, preset=preset).check()


# Which cells are held out


def held_out(batch: np.ndarray | None, **typed: Any) -> tuple[np.ndarray, np.ndarray]:
    model = registry.get("predict_modality", "linear")(**typed)
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


def test_each_member_holds_out_as_many_cells_as_the_first():
    model = registry.get("predict_modality", "scmoformer")(n_ensemble=5)
    parts = [model.divide(member, np.arange(100), None) for member in range(5)]
    assert {(len(stay), len(out)) for stay, out in parts} == {(85, 15)}
    assert len({tuple(out) for _, out in parts}) == 5


# What a beginner types


class Wrong(NamedTuple):
    """A call that cannot be answered, its error and what the message must say."""

    typed: dict[str, Any]
    error: type[Exception]
    says: list[str]
    spoil: Callable[[mudata.MuData], Any] = lambda mdata: None


def holding(column: str, values: Any) -> Callable[[mudata.MuData], Any]:
    """Give the RNA a column."""

    def spoil(mdata: mudata.MuData) -> None:
        mdata["rna"].obs[column] = np.resize(np.array(values, dtype=object), 300)

    return spoil


def renamed(mdata: mudata.MuData) -> None:
    """Let the proteins be of other cells."""
    mdata["prot"].obs_names = [f"other_{i}" for i in range(mdata["prot"].n_obs)]


def negative(name: str) -> Callable[[mudata.MuData], Any]:
    def spoil(mdata: mudata.MuData) -> None:
        x = mdata[name].X.toarray().astype(float)
        x[3, 2] = -4
        mdata[name].X = x

    return spoil


def logged(mdata: mudata.MuData) -> None:
    for each in mdata.mod.values():
        x = each.X.toarray().astype(float)
        each.layers["normalized"] = np.log1p(1e4 * x / x.sum(axis=1, keepdims=True))


NORMALISED = {"layer": {"rna": "normalized", "prot": "normalized"}}
WRONG = {
    "symbols for no prior": Wrong({"symbols": {"a": "b"}}, ValueError, ["`symbols=`", "`prior=`"]),
    "no cell in both": Wrong({}, ValueError, ["No cell is in both modalities", "same name in both"], renamed),
    "source misspelt": Wrong({"source": "rnaa"}, KeyError, ["'rnaa'", "rna, prot", "Did you mean 'rna'?", "source="]),
    "target misspelt": Wrong({"target": "pro"}, KeyError, ["'pro'", "rna, prot", "target="]),
    "source and target the same": Wrong({"target": "gex"}, ValueError, ["both 'rna'", "pass two of rna, prot"]),
    "no such split": Wrong({"split_key": "part"}, KeyError, ["'part'", "split_key="]),
    "a split of numbers": Wrong(
        {"split_key": "part"},
        ValueError,
        ["'part' should say True or 'train'", "holds 0, 1, 2"],
        holding("part", range(3)),
    ),
    "nobody for training": Wrong(
        {"split_key": "part"},
        ValueError,
        ["'part' should say True or 'train'", "holds test"],
        holding("part", ["test"]),
    ),
    "negative values": Wrong({}, ValueError, ["mdata['rna'].X", "negative values", "-4", "layer="], negative("rna")),
    "negative counts of proteins": Wrong(
        {"method": "scmm"},
        ValueError,
        ["mdata['prot'].X", "negative values", "needs counts", "layer="],
        negative("prot"),
    ),
    "a layer that is not there": Wrong(NORMALISED, KeyError, ["'normalized'", "mdata['rna'].layers", "layer="]),
    "a layer of another modality": Wrong(
        {"layer": {"rnaa": "counts"}}, ValueError, ["'rnaa'", "rna, prot", "Did you mean 'rna'?"]
    ),
    "normalised values for a model of counts": Wrong(
        {"method": "scmm"} | NORMALISED,
        ValueError,
        ["layers['normalized']", "log-normalised", "counts", "layer="],
        logged,
    ),
    "a batch that is missing": Wrong(
        {"batch_key": "lane"}, ValueError, ["'lane' has 150 missing", "needs a batch"], holding("lane", ["a", None])
    ),
    "a method misspelt": Wrong(
        {"method": "scmogn"}, ValueError, ["'scmogn'", "kernel_ridge", "Did you mean 'scmogcn'?"]
    ),
    "a knob misspelt": Wrong(
        {"method": "babel", "n_latents": 3}, TypeError, ["'n_latents'", "Did you mean 'n_latent'?"]
    ),
    "a knob of another kind": Wrong({"method": "babel", "n_latent": "3"}, ValueError, ["n_latent='3'", "int", "64"]),
    "a preset misspelt": Wrong({"method": "babel", "preset": "papers"}, ValueError, ["'papers'", "paper, dance"]),
    "a number as prior": Wrong({"method": "scmogcn", "prior": 3}, TypeError, ["`prior` is a int", "GMT", "DataFrame"]),
    "a prior that is no file": Wrong({"method": "scmogcn", "prior": "no.gmt"}, ValueError, ["no file 'no.gmt'", "GMT"]),
    "a prior of strangers": Wrong(
        {"method": "scmogcn", "prior": {"a": ["X", "Y"]}}, ValueError, ["none of the", "X, Y", "symbols"]
    ),
    "a prior for a method without": Wrong(
        {"prior": {"a": ["X"]}}, ValueError, ["Linear takes no `prior=`", "Leave it out"]
    ),
    "symbols that are a list": Wrong(
        {"method": "scmogcn", "prior": {"a": ["X", "Y"]}, "symbols": ["X"]},
        TypeError,
        ["`symbols` is a list", "a dict"],
    ),
}


def contents(mdata: mudata.MuData) -> dict[str, Any]:
    """All that a tool could change."""
    names = ("obs", "obsm", "obsp", "var", "varm", "uns", "layers")
    found: dict[str, Any] = {f"mdata.{part}": sorted(getattr(mdata, part).keys()) for part in names[:-1]}
    for name, each in mdata.mod.items():
        found |= {f"{name}.{part}": sorted(getattr(each, part).keys()) for part in names}
        values = {"X": each.X, **each.layers}
        found |= {f"{name} {part}": sp.csr_matrix(x).toarray().tobytes() for part, x in values.items()}
    return found


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_call_that_cannot_be_answered_says_what_to_type_and_changes_nothing(mdata, wrong):
    wrong.spoil(mdata)
    before = contents(mdata)
    with pytest.raises(wrong.error) as raised, warnings.catch_warnings():
        warnings.simplefilter("error")
        sd.tl.predict_modality(mdata, **{"method": "linear", "source": "rna", "target": "prot", **wrong.typed})
    said = str(raised.value)
    assert [phrase for phrase in wrong.says if phrase not in said] == [], said
    assert isinstance(raised.value, ScdanceError)
    assert contents(mdata) == before


def test_an_anndata_is_no_mudata(mdata):
    with pytest.raises(TypeError, match=r"Expected MuData, found AnnData.*MuData\(\{'rna'"):
        sd.tl.predict_modality(mdata["rna"], "linear")
    predict(mdata)
    with pytest.raises(TypeError, match="Expected MuData, found AnnData"):
        sd.get.modality(mdata["rna"], "linear")


def test_a_run_that_is_not_there_is_named_beside_those_that_are(mdata):
    predict(mdata)
    with pytest.raises(KeyError, match=r"no run 'babel'.*there are: linear_prot.*`key=`"):
        sd.get.modality(mdata, "babel")


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
    with pytest.raises(ValueError, match=r"'protein_99'.*protein_0, .*Did you mean 'protein_9'\?"):
        sd.pl.modality_scatter(mdata, "linear", truth, "protein_99")


def test_the_bars_are_the_skills_of_the_features_the_best_first(mdata, truth):
    predict(mdata)
    ax = sd.pl.modality_skill(mdata, "linear", truth)
    heights = [bar.get_height() for bar in ax.patches]
    assert len(heights) == 20 and heights == sorted(heights, reverse=True)
    assert {tick.get_text() for tick in ax.get_xticklabels()} == set(truth.var_names)
