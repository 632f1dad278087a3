"""`write`: results land where the contract says, nothing else moves, and files read back equal."""

from __future__ import annotations

import warnings
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scdance as sd
from scdance._core import write as writing
from scdance._core.method import Method
from scdance._core.read import read
from scdance._core.run import make
from scdance._core.task import CLUSTER
from scdance.pp import Recipe

RECORD = {
    "method", "params", "preset", "random_state", "version", "input", "history", "epochs", "stopped", "seconds",
    "notes", "slots",
}  # fmt: skip


class Full(Method):
    """Gives every part that the task has, and keeps all that a record may hold.

    Parameters
    ----------
    sizes, share, words, none, flag
        Knobs of every kind.
    """

    n_clusters: int | None = None
    sizes: tuple[int, ...] = (3, 4)
    share: float = 0.5
    words: tuple[str, ...] = ("a", "b")
    none: int | None = None
    nothing: tuple[float, ...] = ()
    flag: bool = True

    recipe = Recipe(normalize_total={}, log1p={})

    def fit(self, *, cells):
        self.history_ = {"training_loss": np.array([2.0, 1.0])}
        self.epochs_, self.stopped_ = 2, "training: all 2 epochs"
        self.notes_ = {
            "k_selection": {"resolution": np.array([0.5, 1.0]), "n_clusters": np.array([2, 3])},
            "table": pd.DataFrame({"gene": ["a", "b"], "weight": [0.5, 1.5]}, index=["x", "y"]),
            "a/b": (1, 2.5),
            "none": None,
            "pairs": [(1, 2), (3, 4)],
            "size": np.int64(3),
        }
        return self

    def predict(self, *, cells):
        labels = np.arange(cells.n_obs) % 3
        proba = np.eye(3)[labels]
        embedding = cells.dense(np.arange(cells.n_obs))[:, :2]
        return {"labels": labels, "embedding": embedding, "proba": proba, "score": proba.max(axis=1)}


class Bare(Method):
    """Gives labels only."""

    def fit(self, *, cells):
        return self

    def predict(self, *, cells):
        return {"labels": np.arange(cells.n_obs) % 2}


def others(adata: ad.AnnData, picture: Any, *, key: str) -> Any:
    """The picture without what a run of this key may write."""
    seen = picture(adata)
    columns, values, index = seen["obs"]
    mine = {key, f"{key}_score"}
    seen["obs"] = [c for c in columns if c not in mine], {c: v for c, v in values.items() if c not in mine}, index
    seen["obsm"] = {name: v for name, v in seen["obsm"].items() if name not in {f"X_{key}", f"{key}_proba"}}
    seen["uns"].pop("scdance", None)
    return seen


# ------------------------------------------------------------------ slots


def test_each_part_lands_in_its_slot_in_the_type_of_the_contract(adata):
    sd.tl.cluster(adata, Full, key_added="k")
    assert adata.obs["k"].cat.categories.tolist() == ["0", "1", "2"]
    assert adata.obs["k"].tolist() == ["0", "1", "2"] * 30
    assert adata.obs["k_score"].dtype == np.float32
    assert isinstance(adata.obsm["X_k"], np.ndarray)
    assert (adata.obsm["X_k"].dtype, adata.obsm["X_k"].shape) == (np.float32, (90, 2))
    proba = adata.obsm["k_proba"]
    assert isinstance(proba, pd.DataFrame)
    assert proba.index.equals(adata.obs_names)
    assert proba.columns.tolist() == ["0", "1", "2"]
    assert {str(dtype) for dtype in proba.dtypes} == {"float32"}
    assert set(adata.uns["scdance"]["cluster"]["k"]) == RECORD


@pytest.mark.parametrize("method", ["kmeans", "gmm", "leiden"])
def test_clusters_are_numbered_by_size(adata, method):
    sd.tl.cluster(adata, method, **({} if method == "leiden" else {"n_clusters": 3}))
    sizes = adata.obs[method].value_counts(sort=False)
    assert sizes.index.tolist() == [str(i) for i in range(len(sizes))]
    assert sizes.is_monotonic_decreasing


def test_nothing_else_of_the_object_is_touched(adata, picture):
    adata.raw = adata.copy()
    adata.layers["more"] = adata.X * 2
    adata.obsm["X_pca"] = np.ones((90, 2))
    adata.uns["mine"] = {"a": 1}
    adata.obs["z"], adata.obs["a"] = np.arange(90), ["x"] * 90
    before = others(adata, picture, key="full")
    assert sd.tl.cluster(adata, Full) is None
    assert others(adata, picture, key="full") == before


def test_a_copy_holds_the_results_and_the_original_does_not(adata, picture):
    before = picture(adata)
    copy = sd.tl.cluster(adata, Full, copy=True)
    assert picture(adata) == before
    sd.tl.cluster(adata, Full)
    seconds = [each.uns["scdance"]["cluster"]["full"].pop("seconds") for each in (adata, copy)]
    assert all(s >= 0 for s in seconds)
    assert picture(copy) == picture(adata)


def test_a_view_becomes_an_object_of_its_own_and_its_parent_stays_as_it_was(adata, picture):
    before = picture(adata)
    view = adata[10:60]
    sd.tl.cluster(view, Full)
    assert not view.is_view
    assert view.obs["full"].tolist() == (["0", "1", "2"] * 17)[:50]
    assert picture(adata) == before


def test_a_copy_of_a_view_leaves_the_view_a_view(adata):
    view = adata[10:60]
    copy = sd.tl.cluster(view, Full, copy=True)
    assert view.is_view
    assert "full" not in view.obs
    assert not copy.is_view


@pytest.fixture
def backed(adata, tmp_path):
    adata.write_h5ad(tmp_path / "backed.h5ad")
    opened = ad.read_h5ad(tmp_path / "backed.h5ad", backed="r")
    yield opened
    opened.file.close()


def test_a_backed_object_gets_the_same_results_and_stays_backed(adata, backed):
    sd.tl.cluster(adata, "kmeans", n_clusters=3)
    sd.tl.cluster(backed, "kmeans", n_clusters=3)
    assert backed.isbacked
    assert backed.obs["kmeans"].tolist() == adata.obs["kmeans"].tolist()
    np.testing.assert_allclose(backed.obsm["X_kmeans"], adata.obsm["X_kmeans"], atol=1e-4)
    assert "kmeans" not in ad.read_h5ad(backed.filename).obs


def test_a_copy_of_a_backed_object_is_in_memory(backed):
    copy = sd.tl.cluster(backed, Bare, copy=True)
    assert not copy.isbacked
    assert "bare" in copy.obs
    assert "bare" not in backed.obs


def test_a_view_of_a_backed_object_is_refused_before_anything_runs(backed, monkeypatch):
    monkeypatch.setattr(Bare, "fit", None)
    with pytest.raises(ValueError, match=r"view of a backed AnnData takes no results.*adata.to_memory\(\)"):
        sd.tl.cluster(backed[:50], Bare)


# ------------------------------------------------------------------ whose slot it is


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        ("obs", "full", ["theirs"] * 90),
        ("obs", "full_score", np.zeros(90)),
        ("obsm", "X_full", np.zeros((90, 2))),
        ("obsm", "full_proba", np.zeros((90, 2))),
    ],
)
def test_a_slot_of_somebody_else_stops_the_call_before_anything_runs(adata, picture, monkeypatch, where, name, value):
    getattr(adata, where)[name] = value
    before = picture(adata)
    monkeypatch.setattr(Full, "fit", None)
    monkeypatch.setattr("scdance._core.read.scan", None)
    with pytest.raises(ValueError) as raised:
        sd.tl.cluster(adata, Full)
    assert f"`adata.{where}[{name!r}]` exists" in str(raised.value)
    assert "`key_added='full_cluster'`" in str(raised.value)
    assert picture(adata) == before


def test_what_scanpy_called_leiden_is_left_alone(adata):
    import scanpy as sc

    sc.pp.neighbors(adata, use_rep="X", transformer="sklearn", method="gauss")
    sc.tl.leiden(adata, flavor="igraph", n_iterations=2, directed=False)
    theirs = adata.obs["leiden"].copy()
    with pytest.raises(ValueError, match=r"obs\['leiden'\].*key_added='leiden_cluster'"):
        sd.tl.cluster(adata, "leiden")
    sd.tl.cluster(adata, "leiden", key_added="leiden_cluster")
    pd.testing.assert_series_equal(adata.obs["leiden"], theirs)


def test_a_column_is_not_called_like_the_index(adata):
    adata.obs.index.name = "full"  # anndata could not write both
    with pytest.raises(ValueError, match=r"index of `adata.obs` is called 'full'"):
        sd.tl.cluster(adata, Full)
    sd.tl.cluster(adata, Full, key_added="k")


def test_running_twice_just_works_and_keeps_the_order_of_the_columns(adata, picture):
    sd.tl.cluster(adata, Full)
    adata.obs["after"] = 1
    adata.uns["scdance"]["cluster"]["full"]["seconds"] = 0.0
    before = picture(adata)
    sd.tl.cluster(adata, Full)
    adata.uns["scdance"]["cluster"]["full"]["seconds"] = 0.0
    assert picture(adata) == before


def test_slots_of_the_run_before_are_removed_with_it(adata):
    sd.tl.cluster(adata, Full, key_added="k")
    sd.tl.cluster(adata, Bare, key_added="k")
    assert "k" in adata.obs
    assert "k_score" not in adata.obs
    assert list(adata.obsm) == []
    assert adata.uns["scdance"]["cluster"]["k"]["slots"].tolist() == ["obs/k"]
    sd.tl.cluster(adata, Full, key_added="k")
    assert sorted(adata.obsm) == ["X_k", "k_proba"]


def test_a_slot_that_the_user_removed_is_not_missed(adata):
    sd.tl.cluster(adata, Full, key_added="k")
    del adata.obsm["X_k"], adata.obs["k_score"]
    sd.tl.cluster(adata, Bare, key_added="k")
    assert list(adata.obsm) == []


def test_runs_under_other_keys_stand_side_by_side(adata):
    sd.tl.cluster(adata, Full, key_added="one")
    sd.tl.cluster(adata, Bare, key_added="two")
    assert list(adata.uns["scdance"]["cluster"]) == ["one", "two"]
    assert {"one", "two"} <= set(adata.obs)


def test_a_key_does_not_take_the_score_of_another(adata):
    sd.tl.cluster(adata, Full, key_added="k")
    with pytest.raises(ValueError, match=r"obs\['k_score'\]"):
        sd.tl.cluster(adata, Bare, key_added="k_score")


@pytest.mark.parametrize("theirs", ["a word", {"cluster": "a word"}, {"cluster": {"full": "a word"}}], ids=str)
def test_an_odd_entry_in_uns_claims_nothing(adata, theirs):
    adata.uns["scdance"] = theirs
    adata.obs["full"] = 1
    with pytest.raises(ValueError, match=r"obs\['full'\]"):
        sd.tl.cluster(adata, Full)


# ------------------------------------------------------------------ all or nothing


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("fails_at", ["k", "k_score"])
@pytest.mark.parametrize("before", ["nothing", "the same", "more", "another task's record"])
def test_if_assigning_fails_half_way_the_object_is_as_it_was(adata, picture, monkeypatch, before, fails_at, error):
    if before == "the same":
        sd.tl.cluster(adata, "kmeans", n_clusters=3, key_added="k")
    elif before == "more":
        sd.tl.cluster(adata, Full, key_added="k")
    elif before == "another task's record":
        adata.uns["scdance"] = {"annotate": {"k": {"method": "svm"}}}
    adata.obs["last"] = 1
    seen = picture(adata)
    assign, failed = pd.DataFrame.__setitem__, []

    def broken(self: pd.DataFrame, name: Any, value: Any) -> None:
        if name == fails_at and not failed:
            failed.append(name)
            raise error
        assign(self, name, value)

    monkeypatch.setattr(pd.DataFrame, "__setitem__", broken)
    with pytest.raises(error):
        sd.tl.cluster(adata, "kmeans", n_clusters=4, key_added="k")
    assert failed
    assert picture(adata) == seen


# ------------------------------------------------------------------ files


def through_h5ad(adata: ad.AnnData, folder: Any) -> ad.AnnData:
    adata.write_h5ad(folder / "a.h5ad")
    return ad.read_h5ad(folder / "a.h5ad")


def through_zarr(adata: ad.AnnData, folder: Any) -> ad.AnnData:
    with warnings.catch_warnings(), ad.settings.override(zarr_write_format=2):
        warnings.filterwarnings("ignore", "Writing zarr v2 data", UserWarning)
        adata.write_zarr(folder / "a.zarr")
    return ad.read_zarr(folder / "a.zarr")


through = pytest.mark.parametrize("through", [through_h5ad, through_zarr])


def assert_equal_values(found: Any, wanted: Any) -> None:
    if isinstance(wanted, dict):
        assert set(found) == set(wanted)
        for name in wanted:
            assert_equal_values(found[name], wanted[name])
    elif isinstance(wanted, pd.DataFrame):
        pd.testing.assert_frame_equal(found, wanted)
    elif isinstance(wanted, np.ndarray) and wanted.dtype.kind in "OUST":
        assert found.tolist() == wanted.tolist()
    elif isinstance(wanted, np.ndarray):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)
    else:
        assert found == wanted
        assert isinstance(found, np.generic | str | type(wanted))


@through
@pytest.mark.parametrize("key", ["full", "α-β", "a key", "index", "0", "CD4+"])
def test_results_and_record_read_back_equal_and_the_record_keeps_its_claim(adata, tmp_path, through, key):
    sd.tl.cluster(adata, Full, key_added=key)
    back = through(adata, tmp_path)
    pd.testing.assert_frame_equal(back.obs, adata.obs)
    np.testing.assert_array_equal(back.obsm[f"X_{key}"], adata.obsm[f"X_{key}"])
    pd.testing.assert_frame_equal(back.obsm[f"{key}_proba"], adata.obsm[f"{key}_proba"])
    assert_equal_values(back.uns["scdance"], adata.uns["scdance"])
    sd.tl.cluster(back, Bare, key_added=key)
    assert f"{key}_score" not in back.obs


@through
@pytest.mark.parametrize("method", ["kmeans", "gmm", "leiden"])
def test_what_our_own_methods_write_reads_back_equal(adata, tmp_path, through, method):
    sd.tl.cluster(adata, method)
    back = through(adata, tmp_path)
    pd.testing.assert_frame_equal(back.obs, adata.obs)
    assert_equal_values(dict(back.obsm), dict(adata.obsm))
    assert_equal_values(back.uns["scdance"], adata.uns["scdance"])


def test_a_record_holds_plain_values_only(adata):
    sd.tl.cluster(adata, Full, sizes=(1, 2, 3))
    record = adata.uns["scdance"]["cluster"]["full"]
    params = record["params"]
    assert params["sizes"].tolist() == [1, 2, 3]
    assert params["words"].tolist() == ["a", "b"]
    assert params["nothing"].shape == (0,)
    assert (params["share"], params["flag"]) == (0.5, True)
    assert "none" not in params  # None is what is not there
    assert record["notes"]["a|b"].tolist() == [1, 2.5]
    assert record["notes"]["size"] == 3
    assert record["history"]["training_loss"].tolist() == [2.0, 1.0]
    assert (record["epochs"], record["stopped"]) == (2, "training: all 2 epochs")
    assert record["input"]["recipe"] == "normalize_total → log1p"
    assert (record["input"]["layer"], record["input"]["kind"]) == ("X", "counts")
    assert (record["input"]["n_obs"], record["input"]["n_vars"]) == (90, 60)
    assert record["random_state"] == 0


def test_the_record_tells_the_seed_that_a_generator_gave(adata):
    rng = np.random.default_rng(3)
    sd.tl.cluster(adata, "kmeans", n_clusters=3, random_state=rng, key_added="a")
    seed = adata.uns["scdance"]["cluster"]["a"]["random_state"]
    sd.tl.cluster(adata, "kmeans", n_clusters=3, random_state=seed, key_added="b")
    np.testing.assert_array_equal(adata.obsm["X_a"], adata.obsm["X_b"])
    assert rng.random() == np.random.default_rng(3).random()


def test_the_record_of_a_call_without_recipe_says_none(adata):
    sd.tl.cluster(adata, "kmeans", n_clusters=3, recipe=None)
    assert adata.uns["scdance"]["cluster"]["kmeans"]["input"]["recipe"] == "none"
    model = sd.fit("cluster", adata, "kmeans", n_clusters=3, recipe=None)
    sd.tl.cluster(adata, model)
    assert adata.uns["scdance"]["cluster"]["kmeans"]["input"]["recipe"] == "none"


NAMES = ["T", "T/NK", "CD4+/CD25 T Reg", "_index", "3", "α-β", "nobody", "", ".", "T|NK"]


def write_named(adata: ad.AnnData, names: list[str]) -> None:
    """Write a result whose categories have these names; the last but three has no cell."""
    cells = read(adata, make("cluster", Full, {}))
    codes = np.arange(adata.n_obs) % len(names)
    codes[codes == names.index("nobody")] = 0
    result = {"labels": codes, "proba": np.eye(len(names), dtype=np.float32)[codes]}
    writing.write(adata, CLUSTER, "k", cells, result, names, {"method": "full"})


@through
def test_any_name_of_a_cell_type_can_be_written(adata, tmp_path, through):
    with pytest.warns(UserWarning, match="HDF5 does not take 6 of the names") as warned:
        write_named(adata, NAMES)
    assert len(warned) == 1
    back = through(adata, tmp_path)
    assert back.obs["k"].cat.categories.tolist() == NAMES
    assert back.obs["k"].tolist() == adata.obs["k"].tolist()
    assert back.obsm["k_proba"].columns.tolist() == [
        "T", "T|NK", "CD4+|CD25 T Reg", "_index|", "3", "α-β", "nobody", "|", ".|", "T|NK|",
    ]  # fmt: skip
    np.testing.assert_array_equal(back.obsm["k_proba"].to_numpy(), adata.obsm["k_proba"].to_numpy())
    assert back.uns["scdance"]["cluster"]["k"]["categories"].tolist() == NAMES


@through
def test_numbers_for_cells_and_genes_can_be_written(adata, tmp_path, through):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata turns them into text, with a warning
        adata.obs_names, adata.var_names = range(90), range(60)
    sd.tl.cluster(adata, Full)
    back = through(adata, tmp_path)
    pd.testing.assert_frame_equal(back.obs, adata.obs)
    pd.testing.assert_frame_equal(back.obsm["full_proba"], adata.obsm["full_proba"])


@through
def test_missing_labels_read_back_missing(adata, tmp_path, through):
    x = adata.X.toarray()
    x[[0, 5]] = 0
    adata.X = x
    with pytest.warns(UserWarning, match="2 of 90 cells have no counts"):
        sd.tl.cluster(adata, Full)
    back = through(adata, tmp_path)
    assert np.flatnonzero(back.obs["full"].isna()).tolist() == [0, 5]
    np.testing.assert_allclose(back.obsm["full_proba"].iloc[0], 1 / 3)
    assert back.obs["full_score"].iloc[0] == 0
