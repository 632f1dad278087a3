"""`tl.predict_perturbation`: what is read and never read, what the floors answer, errors, files, scores."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scdance as sd
from scdance import metrics
from scdance._checks import InputError, MissingKeyError, ScdanceError, WrongTypeError
from scdance._core import registry
from scdance._core.cells import Cells
from scdance._core.method import Method
from scdance.datasets import toy_perturbed
from scdance.pp import Recipe

TASK = "predict_perturbation"
METHODS = registry.names(TASK)
TARGETS = ["gene_1+gene_0", "gene_3"]
ASKED = ["gene_0+gene_1", "gene_3"]  # as the column has them
every_method = pytest.mark.parametrize("method", METHODS)
every_floor = pytest.mark.parametrize("method", [name for name in METHODS if registry.get(TASK, name).control])


@pytest.fixture(scope="module")
def _screen() -> ad.AnnData:
    return toy_perturbed(400, 60, 4, 3, n_de=15)


@pytest.fixture
def adata(_screen: ad.AnnData) -> ad.AnnData:
    return _screen.copy()


def predicted(adata: ad.AnnData, method: Any = "additive", **more: Any) -> pd.DataFrame:
    given = {"perturbation_key": "perturbation", "targets": TARGETS, "key_added": "mine"}
    small = {"hidden": 32, "n_layers": 1, "steps": 20, "progress": False} if method == "cellplm" else {}
    sd.tl.predict_perturbation(adata, method, **given | small | more)
    return adata.varm["mine_change"]


def asked(adata: ad.AnnData) -> np.ndarray:
    return adata.obs["perturbation"].isin(ASKED).to_numpy()


def means(adata: ad.AnnData) -> pd.DataFrame:
    """Mean log-normalised expression by perturbation, by hand."""
    x = adata.X.toarray().astype(float)
    logs = pd.DataFrame(np.log1p(1e4 * x / x.sum(axis=1, keepdims=True)), columns=adata.var_names)
    return logs.groupby(adata.obs["perturbation"].to_numpy()).mean()


# ------------------------------------------------------------------ what the floors answer


def test_the_floors_are_what_they_say(adata: ad.AnnData):
    mean = means(adata)
    change = mean.sub(mean.loc["control"]).drop(index=["control", *ASKED])
    singles = change.loc[[name for name in change.index if "+" not in name]]
    expected = {
        "no_change": [0 * change.mean(), 0 * change.mean()],
        "mean_perturbed": [change.mean(), change.mean()],
        "additive": [change.loc["gene_0"] + change.loc["gene_1"], singles.mean()],
    }
    for method, columns in expected.items():
        found = predicted(adata, method)
        assert list(found.columns) == TARGETS
        np.testing.assert_allclose(found, np.column_stack(columns), atol=1e-5, err_msg=method)
        profile = np.column_stack(columns) + mean.loc["control"].to_numpy()[:, None]
        np.testing.assert_allclose(adata.varm["mine"], profile, atol=1e-5, err_msg=method)
        assert adata.varm["mine"].dtypes.eq(np.float32).all() and found.index.equals(adata.var_names)


def test_each_perturbation_weighs_the_same_however_many_cells_it_has(adata: ad.AnnData):
    rare = np.flatnonzero(adata.obs["perturbation"] == "gene_2")[10:]
    few = adata[np.setdiff1d(np.arange(adata.n_obs), rare)].copy()
    mean = means(few)
    change = mean.sub(mean.loc["control"]).drop(index=["control", *ASKED])
    np.testing.assert_allclose(predicted(few, "mean_perturbed")["gene_3"], change.mean(), atol=1e-5)


def test_planted_pairs_are_recovered_from_their_genes_alone():
    adata = toy_perturbed(4000, 100, 4, 4, n_de=20, lfc=0.5, theta=50, depth=10_000)
    pairs = [name for name in adata.varm["lfc"] if "+" in name]
    said = predicted(adata, targets=pairs)
    mean = means(adata)
    for pair in pairs:
        true = mean.loc[pair] - mean.loc["control"]
        assert np.corrcoef(said[pair], true)[0, 1] > 0.95
    scores = {}
    for method in METHODS:
        predicted(adata, method, targets=pairs)
        scores[method] = metrics.score(adata, TASK, key="mine").loc["mine", "perturbation_skill"]
    assert scores["additive"] > 0.85 > scores["mean_perturbed"] > scores["no_change"]


def test_a_gene_that_was_never_perturbed_alone_counts_with_the_mean_of_those_that_were(adata: ad.AnnData):
    with pytest.warns(UserWarning, match=r"1 of the 4 targets \(gene_00\): .*Did you mean 'gene_0'?"):
        found = predicted(adata, targets=["gene_0+gene_3", "gene_3", "gene_0", "gene_00"])
    np.testing.assert_allclose(found["gene_0"], found["gene_00"], atol=1e-6)
    np.testing.assert_allclose(found["gene_0+gene_3"], found["gene_0"] + found["gene_3"], atol=1e-5)


# ------------------------------------------------------------------ what is never read


@every_method
@pytest.mark.parametrize("spoilt", ["noise", "NaN", "removed"])
def test_cells_of_the_targets_are_never_read(adata: ad.AnnData, method: str, spoilt: str):
    one, profile = predicted(adata, method), adata.varm["mine"]
    x, hidden = adata.X.toarray().astype(np.float32), asked(adata)
    x[hidden] = np.nan if spoilt == "NaN" else np.random.default_rng(0).normal(0, 50, (int(hidden.sum()), 60))
    adata.X = sp.csr_matrix(x)
    adata = adata[~hidden].copy() if spoilt == "removed" else adata
    pd.testing.assert_frame_equal(predicted(adata, method), one, check_exact=True)
    pd.testing.assert_frame_equal(adata.varm["mine"], profile, check_exact=True)
    assert adata.uns["scdance"][TASK]["mine"]["input"]["n_obs"] == int((~hidden).sum())


def test_a_method_sees_all_other_cells_with_what_is_perturbed_and_then_the_targets(adata: ad.AnnData):
    seen: dict[str, Cells] = {}

    class Spy(Method):
        """Looks."""

        needs, recipe = ("counts", "perturbation"), Recipe()

        def fit(self, *, cells: Cells) -> Any:
            seen["fit"] = cells
            return self

        def predict(self, *, cells: Cells) -> dict[str, Any]:
            seen["predict"] = cells
            zero = np.zeros((cells.n_vars, len(cells.screen.targets)))
            return {"profile": zero, "change": zero}

    given = {"perturbation_key": "perturbation", "targets": TARGETS}
    model = Spy()
    sd.tl.predict_perturbation(adata, model, **given)
    cells, hidden = seen["fit"], asked(adata)
    np.testing.assert_array_equal(cells.rows, np.flatnonzero(~hidden))
    np.testing.assert_array_equal(cells.counts.toarray(), adata.X[~hidden].toarray())
    names = np.array(cells.screen.names)
    assert names[0] == "control" and len(names) == 6
    np.testing.assert_array_equal(names[cells.screen.codes], adata.obs["perturbation"][~hidden].astype(str))
    assert cells.screen.targets == TARGETS
    assert cells.screen.genes(TARGETS[0]) == ("gene_0", "gene_1") and cells.screen.genes("control") == ()
    few = cells.part(np.array([3, 5]))
    np.testing.assert_array_equal(few.screen.codes, cells.screen.codes[[3, 5]])
    fitted = sd.fit(TASK, adata[~hidden].copy(), Spy, perturbation_key="perturbation")
    assert seen["fit"].screen.targets == [] and fitted.taught_ == list(names[1:])
    sd.tl.predict_perturbation(adata, fitted, **given)
    assert set(adata.obs["perturbation"].iloc[seen["predict"].rows]) == {"control"}


def test_a_column_may_say_which_cells_teach(adata: ad.AnnData):
    one = predicted(adata)
    adata.obs["split"] = np.where(asked(adata), "test", "train")
    other = predicted(adata, targets=None, split_key="split")
    assert list(other.columns) == ASKED
    np.testing.assert_array_equal(one, other)
    adata.obs["split"] = True
    with pytest.raises(InputError, match=r"'split' should say True or 'train'"):
        predicted(adata, targets=None, split_key="split")


@pytest.mark.parametrize("control", ["ctrl", "non-targeting"])
def test_the_control_within_a_name_is_no_gene(adata: ad.AnnData, control: str):
    one = predicted(adata)
    names = adata.obs["perturbation"].astype(str).replace("control", control)
    adata.obs["perturbation"] = names.where(names.str.contains(r"\+") | (names == control), names + f"+{control}")
    np.testing.assert_array_equal(one, predicted(adata, control=control))


def test_cells_without_a_perturbation_take_no_part(adata: ad.AnnData):
    adata.obs["perturbation"] = adata.obs["perturbation"].astype(object)
    without = np.flatnonzero(~asked(adata))[:7]
    few = adata[np.setdiff1d(np.arange(adata.n_obs), without)].copy()
    adata.obs.iloc[without[:4], 0] = np.nan
    adata.obs.iloc[without[4:], 0] = ""
    with pytest.warns(UserWarning, match="7 of 400 cells have no perturbation"):
        found = predicted(adata)
    np.testing.assert_array_equal(found, predicted(few))


# ------------------------------------------------------------------ fitted methods, kinds of input, files


@every_floor
def test_a_fitted_method_changes_the_control_cells_of_another_object(adata: ad.AnnData, tmp_path: Any, method: str):
    model = sd.fit(TASK, adata[~asked(adata)].copy(), method, perturbation_key="perturbation")
    model.save(tmp_path / "model")
    one = predicted(adata, method)
    np.testing.assert_array_equal(one, predicted(adata, tmp_path / "model"))
    other = toy_perturbed(100, 60, 4, 3, n_de=15, random_state=1)
    np.testing.assert_allclose(one, predicted(other, model), atol=1e-6)
    base = means(other).loc["control"]
    np.testing.assert_allclose(other.varm["mine"].sub(one).iloc[:, 0], base, atol=1e-5)
    controls = other[other.obs["perturbation"] == "control"].copy()
    del controls.obs["perturbation"]
    np.testing.assert_allclose(predicted(controls, model, perturbation_key=None), one, atol=1e-6)
    np.testing.assert_allclose(controls.varm["mine"].sub(one).iloc[:, 0], base, atol=1e-5)


def test_genes_that_the_method_does_not_know_are_missing_in_the_result(adata: ad.AnnData):
    model = sd.fit(TASK, adata[~asked(adata), :50].copy(), "additive", perturbation_key="perturbation")
    found = predicted(adata, model)
    assert found.notna().all(axis=1).tolist() == [True] * 50 + [False] * 10
    assert metrics.score(adata, TASK, key="mine").notna().all(axis=None)


def test_dense_log_normalised_and_backed_input_give_the_same(adata: ad.AnnData, tmp_path: Any):
    one = predicted(adata.copy())
    adata.write_h5ad(tmp_path / "x.h5ad")
    backed = ad.read_h5ad(tmp_path / "x.h5ad", backed="r")
    np.testing.assert_allclose(predicted(backed, copy=False), one, atol=1e-6)
    x = adata.X.toarray().astype(np.float32)
    dense, logged = adata.copy(), adata.copy()
    dense.X, logged.X = x, np.log1p(1e4 * x / x.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(predicted(dense), one, atol=1e-6)
    np.testing.assert_allclose(predicted(logged), one, atol=1e-5)


def test_names_that_files_cannot_hold_come_back_from_the_record(adata: ad.AnnData, tmp_path: Any):
    adata.obs["perturbation"] = adata.obs["perturbation"].astype(str).replace({"gene_3": "T/NK", "gene_2": "_index"})
    with pytest.warns(UserWarning, match="HDF5 does not take 2 of the names"):
        found = predicted(adata, targets=["T/NK", "_index"])
    assert list(found.columns) == ["T|NK", "_index|"]
    score = metrics.score(adata, TASK, key="mine")
    adata.write_h5ad(tmp_path / "x.h5ad")
    back = ad.read_h5ad(tmp_path / "x.h5ad")
    pd.testing.assert_frame_equal(back.varm["mine_change"], found)
    pd.testing.assert_frame_equal(metrics.score(back, TASK, key="mine"), score)


# ------------------------------------------------------------------ errors

WRONG = {
    "no column named": ({"perturbation_key": None}, InputError, ["perturbation_key=", "hold names: perturbation."]),
    "no such column": ({"perturbation_key": "pertubation"}, MissingKeyError, ["Did you mean 'perturbation'"]),
    "no control": ({"control": "contol"}, InputError, ["'contol'", "gene_2", "Did you mean 'control'", "control="]),
    "nothing asked": ({"targets": None}, InputError, ["targets=", "split_key="]),
    "an empty list": ({"targets": []}, InputError, ["targets="]),
    "the control asked": ({"targets": ["gene_1", "control"]}, InputError, ["'control' in `targets`", "control="]),
    "one asked twice": ({"targets": ["gene_0+gene_1", "gene_1+gene_0"]}, InputError, ["gene_1+gene_0", "once"]),
    "no names": ({"targets": [1, 2]}, WrongTypeError, ["names of perturbations", "[1, 2]"]),
    "a number": ({"targets": 3}, WrongTypeError, ["names of perturbations"]),
    "all asked": (
        {"targets": ["gene_0", "gene_1", "gene_2", "gene_3", "gene_0+gene_1", "gene_1+gene_2", "gene_2+gene_3"]},
        InputError,
        ["no perturbed cells to learn from", "Ask for fewer"],
    ),
    "no such split": ({"split_key": "splt"}, MissingKeyError, ["split_key="]),
    "a slot that is taken": ({"key_added": "lfc"}, InputError, ["varm['lfc']", "key_added="]),
}


@pytest.mark.parametrize(("typed", "error", "says"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_and_nothing_is_changed(adata: ad.AnnData, typed: Any, error: Any, says: list[str]):
    adata.obs["n_counts"] = 1.0
    before = adata.copy()
    with pytest.raises(error) as found:
        predicted(adata, **typed)
    assert isinstance(found.value, ScdanceError)
    for words in says:
        assert words in str(found.value)
    assert list(adata.varm) == list(before.varm) and adata.uns == before.uns
    pd.testing.assert_frame_equal(adata.obs, before.obs)


def test_other_tasks_know_no_perturbations(adata: ad.AnnData):
    with pytest.raises(InputError, match="KMeans takes no `perturbation_key=`"):
        sd.fit("cluster", adata, "kmeans", n_clusters=3, perturbation_key="perturbation")


# ------------------------------------------------------------------ scores


def test_a_score_compares_with_the_measured_cells_of_the_object_or_of_another(adata: ad.AnnData):
    predicted(adata)
    own = metrics.score(adata, TASK, key="mine")
    mean = means(adata)
    true, control = mean.loc[ASKED].to_numpy(), mean.loc["control"].to_numpy()
    said = adata.varm["mine"].to_numpy().T
    skill = 1 - ((true - said) ** 2).sum() / ((true - control) ** 2).sum()
    assert own.loc["mine", "perturbation_skill"] == pytest.approx(skill, abs=1e-5)
    pearson = np.mean([np.corrcoef(t - control, s - control)[0, 1] for t, s in zip(true, said, strict=True)])
    assert own.loc["mine", "change_pearson"] == pytest.approx(pearson, abs=1e-5)
    hidden = asked(adata)
    rest, truth = adata[~hidden].copy(), adata[hidden][:, adata.var_names[::-1]].copy()
    pd.testing.assert_frame_equal(metrics.score(rest, TASK, key="mine", truth=truth), own, atol=1e-9)
    with pytest.raises(InputError, match="no measured cell of what the run 'mine' predicted"):
        metrics.score(rest, TASK, key="mine")
    with pytest.raises(MissingKeyError, match=r"No 'other' in `adata\.varm`"):
        metrics.score(adata, TASK, key="other")


def test_the_top_genes_are_those_of_welchs_test(adata: ad.AnnData):
    from scipy.stats import ttest_ind

    predicted(adata)
    x = adata.X.toarray().astype(float)
    logs = np.log1p(1e4 * x / x.sum(axis=1, keepdims=True))
    errors = []
    for true, said in zip(ASKED, TARGETS, strict=True):
        one, control = (logs[adata.obs["perturbation"] == name] for name in (true, "control"))
        t = ttest_ind(one, control, equal_var=False).statistic
        top = np.argsort(-np.abs(t))[:20]
        errors.append(np.sqrt(((one.mean(axis=0) - adata.varm["mine"][said]).to_numpy()[top] ** 2).mean()))
    found = metrics.score(adata, TASK, key="mine").loc["mine", "perturbation_rmse_top"]
    assert found == pytest.approx(np.mean(errors), abs=1e-5)


def test_a_perturbation_that_taught_is_not_scored(adata: ad.AnnData):
    model = sd.fit(TASK, adata[~asked(adata)].copy(), "additive", perturbation_key="perturbation")
    predicted(adata, model)
    one = metrics.score(adata, TASK, key="mine")
    predicted(adata, model, targets=[*TARGETS, "gene_2"])
    with pytest.warns(UserWarning, match=r"1 of the perturbations \(gene_2\) taught this run"):
        pd.testing.assert_frame_equal(metrics.score(adata, TASK, key="mine"), one)


def test_a_run_that_does_not_say_what_is_perturbed_cannot_be_scored(adata: ad.AnnData):
    model = sd.fit(TASK, adata, "additive", perturbation_key="perturbation")
    predicted(adata, model, perturbation_key=None)
    with pytest.raises(InputError, match="perturbation_key="):
        metrics.score(adata, TASK, key="mine")
