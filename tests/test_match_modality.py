"""`tl.match_modality` with its floors: who is matched with whom, what is told of it, and what it refuses."""

from __future__ import annotations

from typing import Any

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest

import scdance as sd
from scdance._core.read import read_roles
from scdance._core.run import make, solve
from scdance._core.task import MATCH_MODALITY
from scdance._settings import unpulled
from scdance.methods.match_modality.cca import CCA

N, N_PAIRS = 300, 200


def apart(seed: int = 0, *, batches: int = 0) -> tuple[mudata.MuData, pd.Series]:
    """Cells of a space of ten dimensions, 100 of which go by other names in the target; who is who."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(N, 10))

    def counts(n_vars: int) -> np.ndarray:
        return rng.poisson(np.exp(1.5 + 0.6 * z @ rng.normal(size=(10, n_vars)) / np.sqrt(10))).astype(np.float32)

    names = np.array([f"cell_{i}" for i in range(N)])
    rna, prot = (
        ad.AnnData(counts(n), obs=pd.DataFrame(index=names), var=pd.DataFrame(index=[f"{kind}{i}" for i in range(n)]))
        for kind, n in (("g", 150), ("p", 40))
    )
    if batches:
        for each in (rna, prot):
            each.obs["batch"] = pd.Categorical([f"b{i % batches}" for i in range(N)])
    order = rng.permutation(N - N_PAIRS)
    others = prot[N_PAIRS:][order].copy()
    truth = pd.Series([f"query_{i}" for i in range(N - N_PAIRS)], index=others.obs_names)
    others.obs_names = truth.to_numpy()
    with unpulled():
        mdata = mudata.MuData({"rna": rna, "prot": ad.concat([prot[:N_PAIRS], others])})
    return mdata, truth


def matched(mdata: Any, method: str = "cca", **knobs: Any) -> Any:
    sd.tl.match_modality(mdata, method=method, source="rna", target="prot", progress=False, **knobs)
    return mdata


@pytest.fixture(scope="module")
def done() -> tuple[Any, pd.Series]:
    mdata, truth = apart()
    return matched(mdata), truth


@pytest.mark.parametrize("method", ["cca", "linear"])
def test_planted_partners_are_found_far_above_chance(method: str):
    mdata, truth = apart()
    matched(mdata, method)
    mdata.obs["truth"] = truth
    row = sd.metrics.score(mdata, "match_modality", key=method, truth="truth").loc[method]
    assert row["match_probability"] > 0.1 and row["match_accuracy"] > 0.3 and row["foscttm"] < 0.05


def test_the_matrix_says_of_each_cell_what_its_task_says(done: Any):
    mdata, truth = done
    links = mdata.obsp["cca_matching"].tocsr()
    sums = pd.Series(np.asarray(links.sum(axis=1)).ravel(), index=mdata.obs_names)
    np.testing.assert_allclose(sums[mdata["rna"].obs_names], 1, rtol=1e-5)
    assert (sums[truth] == 0).all()  # cells of the target only
    pairs = mdata.obs_names[:N_PAIRS].intersection(mdata["prot"].obs_names)
    at = mdata.obs_names.get_indexer(pairs)
    np.testing.assert_array_equal(links[at, at], 1)
    asked = mdata.obs.loc[truth.index]
    assert set(asked["cca_match"]) == set(truth) and asked["cca_match"].is_unique
    assert asked["cca_match_mutual"].isin(["yes", "no"]).all()
    assert asked["cca_match_score"].between(0, 1).all() and asked["cca_match_entropy"].between(0, 1).all()
    others = mdata.obs.drop(index=truth.index)
    assert others[["cca_match", "cca_match_score", "cca_match_entropy", "cca_match_mutual"]].isna().all(axis=None)


def test_an_order_of_the_query_is_followed(done: Any):
    mdata, truth = done
    rng = np.random.default_rng(5)
    other, _ = apart()
    prot = other["prot"]
    order = np.r_[np.arange(N_PAIRS), N_PAIRS + rng.permutation(N - N_PAIRS)]
    with unpulled():
        moved = mudata.MuData({"rna": other["rna"].copy(), "prot": prot[order].copy()})
    matched(moved)
    pd.testing.assert_series_equal(
        mdata.obs.loc[truth.index, "cca_match"].astype(str), moved.obs.loc[truth.index, "cca_match"].astype(str)
    )


def test_hard_output_has_one_partner_of_each_cell():
    mdata, truth = apart()
    matched(mdata, output="hard")
    links = mdata.obsp["cca_matching"].tocsr()
    rows = mdata.obs_names.get_indexer(truth.index)
    assert (np.diff(links[rows].indptr) == 1).all() and (links.data == 1).all()
    assert (mdata.obs_names[links[rows].indices] == mdata.obs.loc[truth.index, "cca_match"].astype(str)).all()


def test_cells_are_matched_within_their_batch_unless_told_otherwise():
    mdata, _ = apart(batches=4)
    batch = pd.concat([mdata["rna"].obs["batch"].astype(str), mdata["prot"].obs["batch"].astype(str)])
    batch = batch[~batch.index.duplicated()]
    matched(mdata, batch_key="batch")
    links = mdata.obsp["cca_matching"].tocoo()
    names = mdata.obs_names
    assert (batch[names[links.row]].to_numpy() == batch[names[links.col]].to_numpy()).all()
    free, _ = apart(batches=4)
    matched(free, batch_key="batch", within_batch=False)
    links = free.obsp["cca_matching"].tocoo()
    assert (batch[names[links.row]].to_numpy() != batch[names[links.col]].to_numpy()).any()


def test_cells_of_a_batch_that_the_target_lacks_are_told():
    mdata, truth = apart(batches=4)
    values = mdata["rna"].obs["batch"].astype(str)
    values[truth.index[:7]] = "elsewhere"
    mdata["rna"].obs["batch"] = pd.Categorical(values)
    with pytest.warns(UserWarning, match="7 cells of the source are of batches that the target does not have"):
        matched(mdata, batch_key="batch")
    assert mdata.obs.loc[truth.index[:7], "cca_match_score"].notna().all()


def test_a_fitted_method_matches_cells_of_which_none_is_known():
    mdata, truth = apart()
    model = sd.fit("match_modality", mdata, method="cca", source="rna", target="prot", progress=False)
    with unpulled():
        query = mudata.MuData({"rna": mdata["rna"][truth.index].copy(), "prot": mdata["prot"][truth.to_numpy()].copy()})
    sd.tl.match_modality(query, method=model, source="rna", target="prot")
    query.obs["truth"] = truth
    assert sd.metrics.score(query, "match_modality", key="cca", truth="truth").loc["cca", "match_accuracy"] > 0.3


def test_the_scale_makes_probabilities_of_the_cosines():
    """Over the cells, the probability of the partners is near the share of them that is right."""
    shares, said = [], []
    for seed in range(4):
        mdata, truth = apart(seed)
        matched(mdata)
        best = mdata.obsp["cca_matching"].tocsr()[mdata.obs_names.get_indexer(truth.index)]
        top = np.asarray(best.argmax(axis=1)).ravel()
        said.append(best.max(axis=1).toarray().mean())
        shares.append((mdata.obs_names[top] == truth.to_numpy()).mean())
    assert np.mean(said) == pytest.approx(np.mean(shares), abs=0.12)


def test_many_pairs_are_calibrated_on_some(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("scdance.methods.match_modality._matcher.CALIBRATING", 20)  # of 30 that are held out
    seen: dict[str, np.ndarray] = {}

    class Watched(CCA):
        name = "cca"

        def places(self, cells: Any, role: str) -> np.ndarray:
            seen.setdefault(role, cells.obs_names)  # the first call is that of the scale
            return super().places(cells, role)

    mdata, _ = apart()
    sd.tl.match_modality(mdata, method=Watched, source="rna", target="prot", progress=False)
    assert len(seen["source"]) == 20
    np.testing.assert_array_equal(seen["source"], seen["target"])


def test_cells_that_are_to_be_matched_teach_nothing():
    """Noise in place of the query's proteins leaves the map that was learnt as it is."""
    maps = []
    for noise in (False, True):
        mdata, _ = apart()
        if noise:
            x = mdata["prot"].X.copy()
            x[N_PAIRS:] = np.random.default_rng(9).poisson(4, x[N_PAIRS:].shape) + 1
            mdata["prot"].X = x
        model = make("match_modality", "cca", {"n_top_genes": None})
        roles = read_roles(MATCH_MODALITY, model, mdata, mdata, source="rna", target="prot")
        solve(model, progress=False, **roles)
        maps.append(model.maps_["target"])
    np.testing.assert_array_equal(*maps)


@pytest.mark.parametrize(
    ("typed", "kind", "said"),
    [
        ({"n_kept": 0}, ValueError, "n_kept"),
        ({"valid_share": 0.9}, ValueError, "valid_share=0.9"),
        ({"output": "firm"}, ValueError, "firm"),
        ({"labels_key": "type"}, ValueError, "takes no `labels_key=`"),
        ({"batch_key": "lane"}, KeyError, "lane"),
        ({"key_added": "a/b"}, ValueError, "key_added"),
    ],
)
def test_wrong_calls_leave_the_object_alone(typed: dict[str, Any], kind: type[Exception], said: str):
    mdata, _ = apart()
    with pytest.raises(kind, match=said):
        matched(mdata, **typed)
    assert not mdata.obsp and not [name for name in mdata.obs if "match" in name] and not mdata.uns


def test_nobody_to_match_is_refused():
    mdata = sd.datasets.toy_pairs(60)
    with pytest.raises(ValueError, match="0 cells are in the source only and 0 in the target only"):
        matched(mdata)


def test_the_plots_show_how_sure_it_is_and_where_the_truth_stands(done: Any):
    mdata, truth = done
    ax = sd.pl.matching(mdata, "cca")
    drawn = sum(patch.get_height() for patch in ax.patches)
    assert drawn == len(truth)
    mdata.obs["truth"] = truth
    chance, found = (line.get_ydata() for line in sd.pl.matching(mdata, "cca", "truth").lines)
    score = sd.metrics.score(mdata, "match_modality", key="cca", truth="truth", metrics=["match_top5"])
    assert found[4] == pytest.approx(score.loc["cca", "match_top5"]) and (np.diff(found) >= 0).all()
    assert chance[0] == pytest.approx(0.01)
    with pytest.raises(KeyError, match="No run 'other' of `match_modality`"):
        sd.pl.matching(mdata, "other")
    mdata.obs["nobody"] = ""
    with pytest.raises(ValueError, match="names no cell of the object"):
        sd.pl.matching(mdata, "cca", "nobody")
