"""What every method of `tl.transfer_labels` must keep to: no hidden label, and both sides in one space."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scdance as sd
from scdance import metrics
from scdance._checks import InputError, MissingKeyError
from scdance._core import registry
from scdance._core.method import Method
from scdance.methods.transfer_labels.knn import KNN

METHODS = registry.names("transfer_labels")
TRUE = "cell_type"
Knobs = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def knobs(golden: dict[str, Any]) -> Knobs:
    """Small knobs of each method."""
    return {name: row.get("knobs", {}) for name, row in golden["transfer_labels"].items()}


@pytest.fixture
def given() -> tuple[Any, Any]:
    """Cells that are asked, and a reference of which a quarter has labels in "known"; both have all in "cell_type"."""
    whole = sd.datasets.toy_clusters(n_obs=320, n_vars=80, k=3, batches=2)
    first = (whole.obs["batch"] == "batch1").to_numpy()
    cells, ref = whole[~first].copy(), whole[first].copy()
    ref.obs["known"] = ref.obs[TRUE].where(np.arange(ref.n_obs) % 4 == 0)
    return cells, ref


def transfer(method: Any, given: tuple[Any, Any], **more: Any) -> tuple[Any, Any]:
    cells, ref = (each.copy() for each in given)
    more = {"labels_key": "known", "key_added": "mine", "device": "cpu"} | more
    sd.tl.transfer_labels(cells, ref, method, progress=False, **more)
    return cells, ref


def outputs(cells: Any, ref: Any = None) -> dict[str, np.ndarray]:
    found = {
        "labels": cells.obs["mine"].astype(str).to_numpy(),
        "score": cells.obs["mine_score"].to_numpy(),
        "proba": cells.obsm["mine_proba"].to_numpy(),
        "embedding": cells.obsm["X_mine"],
    }
    return found if ref is None else found | {"ref_embedding": ref.obsm["X_mine"]}


# Hidden labels


@pytest.mark.parametrize("method", METHODS)
def test_hidden_labels_replaced_by_noise_change_no_bit(given: tuple[Any, Any], knobs: Knobs, method: str):
    one = outputs(*transfer(method, given, write_ref=True, **knobs[method]))
    for seed, each in enumerate(given):
        each.obs[TRUE] = np.random.default_rng(seed).permutation(each.obs[TRUE])
    other = outputs(*transfer(method, given, write_ref=True, **knobs[method]))
    for part, value in one.items():
        np.testing.assert_array_equal(value, other[part], err_msg=part)


@pytest.mark.parametrize("method", METHODS)
def test_labels_that_are_given_do_change_the_result(given: tuple[Any, Any], knobs: Knobs, method: str):
    one = outputs(*transfer(method, given, **knobs[method])[:1])
    ref = given[1]
    there = ref.obs["known"].notna().to_numpy()
    ref.obs.loc[there, "known"] = np.random.default_rng(0).permutation(ref.obs.loc[there, "known"].to_numpy())
    other = outputs(*transfer(method, given, **knobs[method])[:1])
    assert (one["labels"] != other["labels"]).mean() > 0.1


# The reference in the space of the cells


@pytest.mark.parametrize("method", METHODS)
def test_the_reference_is_placed_among_the_cells_of_its_types(given: tuple[Any, Any], knobs: Knobs, method: str):
    cells, ref = transfer(method, given, write_ref=True, **knobs[method])
    z, z_ref = cells.obsm["X_mine"], ref.obsm["X_mine"]
    assert (z_ref.dtype, z_ref.shape) == (np.float32, (ref.n_obs, z.shape[1]))
    nearest = ((z[:, None] - z_ref) ** 2).sum(axis=-1).argmin(axis=1)
    right = ref.obs[TRUE].to_numpy()[nearest] == cells.obs[TRUE].to_numpy()
    assert right.mean() > 0.8
    assert list(ref.uns["scdance"]["transfer_labels"]["mine"]["slots"]) == ["obsm/X_mine"]


@pytest.mark.parametrize("method", METHODS)
def test_writing_the_reference_changes_nothing_for_the_cells(given: tuple[Any, Any], knobs: Knobs, method: str):
    plain, ref = transfer(method, given, **knobs[method])
    assert "X_mine" not in ref.obsm and "scdance" not in ref.uns
    one, other = outputs(plain), outputs(transfer(method, given, write_ref=True, **knobs[method])[0])
    for part, value in one.items():
        np.testing.assert_array_equal(value, other[part], err_msg=part)


def test_cells_of_the_reference_without_counts_have_no_place(given: tuple[Any, Any]):
    x = given[1].X.toarray()
    x[1] = 0
    given[1].X = sp.csr_matrix(x)
    with pytest.warns(UserWarning, match="have no counts"):
        _, ref = transfer("knn", given, write_ref=True)
    assert not ref.obsm["X_mine"][1].any() and ref.obsm["X_mine"][[0, 2]].any()


def test_a_reference_that_cannot_be_written_is_refused_before_the_fit(given: tuple[Any, Any]):
    class Nowhere(Method):
        """Knows no space."""

        needs = ("counts", "ref.labels")

        def fit(self, **roles: Any) -> Any:
            raise AssertionError("fitted")

    cells, ref = given
    with pytest.raises(InputError, match="no common space in which to place the reference"):
        transfer(Nowhere, given, write_ref=True)
    ref.obsm["X_mine"] = np.ones((ref.n_obs, 2))
    with pytest.raises(InputError, match=r"obsm\['X_mine'\]` exists and was not written by"):
        transfer("knn", given, write_ref=True)
    model = KNN()
    transfer(model, given, key_added="other")
    with pytest.raises(InputError, match="needs one: pass `ref=` and a method to train"):
        sd.tl.transfer_labels(cells, method=model, write_ref=True)
    assert "X_knn" not in cells.obsm


# Scores


def test_a_score_compares_the_cells_with_where_the_run_put_the_reference(given: tuple[Any, Any]):
    cells, ref = transfer("knn", given, write_ref=True)
    z, z_ref = cells.obsm["X_mine"], ref.obsm["X_mine"] + np.float32(3)
    ref.obsm["X_mine"] = z_ref
    row = metrics.score(cells, "transfer_labels", key="mine", truth=TRUE, ref=ref).loc["mine"]
    assert row["a_distance_to_ref"] == metrics.a_distance_to_ref(z, z_ref) > 1
    assert row["accuracy"] == (cells.obs["mine"].astype(str) == cells.obs[TRUE].astype(str)).mean()
    bare = metrics.score(cells, "transfer_labels", key="mine", truth=TRUE).loc["mine"]
    assert np.isnan(bare["a_distance_to_ref"])
    pd.testing.assert_series_equal(bare.drop("a_distance_to_ref"), row.drop("a_distance_to_ref"))


def test_a_reference_that_the_run_did_not_write_says_how_it_is_written(given: tuple[Any, Any]):
    cells, ref = transfer("knn", given)
    with pytest.raises(MissingKeyError, match=r"No 'X_mine' in `ref.obsm`.*`write_ref=True`"):
        metrics.score(cells, "transfer_labels", key="mine", truth=TRUE, ref=ref)
