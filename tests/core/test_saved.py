"""Saved methods: the same answers in a fresh process, and nothing executed on the way."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import scdance as sd
from scdance._checks import ScdanceError
from scdance._core.method import FORMAT, Method
from scdance._core.read import read
from scdance.pp import Recipe
from scdance.train import TorchMethod, Train


class Own(Method):
    """A method of a user, with state of every kind.

    Parameters
    ----------
    n_parts, sizes, word
        Knobs.
    """

    n_parts: int = 2
    sizes: tuple[int, ...] = (1,)
    word: str | None = None

    recipe = Recipe(normalize_total={}, log1p={}, select_genes={"n_top": 20}, center_scale={"clip": 5.0})

    def fit(self, *, cells):
        self.cuts_ = np.quantile(cells.depth, np.arange(1, self.n_parts) / self.n_parts)
        self.wide_ = np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3))
        self.scalar_, self.number_, self.text_, self.nothing_ = np.float32(1.5), 3, "α", None
        self.zero_d_ = np.array(2.5)
        self.names_ = np.array(["a", "β", ""])
        self.flags_ = np.array([True, False])
        self.empty_ = np.zeros((0, 3), np.float32)
        self.tree_ = {"x": [np.arange(2), {"y": np.ones(1, np.float32)}], "z": [1, "two", 3.0]}
        return self

    def predict(self, *, cells):
        return {"labels": np.searchsorted(self.cuts_, cells.depth), "embedding": cells.dense(np.arange(cells.n_obs))}


class Netted(TorchMethod):
    """A method with a net that has buffers without dimensions.

    Parameters
    ----------
    n_hidden
        Width.
    """

    n_hidden: int = 4
    training: Train = Train(epochs=2)

    recipe = Recipe(normalize_total={}, log1p={})

    def net(self) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(self.n_genes_, self.n_hidden), torch.nn.BatchNorm1d(self.n_hidden))

    def fit(self, *, cells):
        self.n_genes_ = cells.n_vars
        self.net_ = self.net().to(self.target)
        x = torch.from_numpy(cells.dense(np.arange(cells.n_obs)))
        self.learn(lambda batch: self.net_(batch).square().mean(), self.net_, self.training, batches=[x])
        return self

    def predict(self, *, cells):
        z = self.map(lambda batch: self.net_(batch.x), cells)
        return {"labels": (z[:, 0] > 0).astype(int), "embedding": z}


def answer(model: Method, adata: ad.AnnData) -> dict[str, np.ndarray]:
    return model.predict(cells=read(adata, model))


@pytest.fixture(params=["kmeans", "gmm"])
def fitted(request, adata):
    return sd.fit("cluster", adata, request.param, n_clusters=3, n_top_genes=40)


def test_a_loaded_method_predicts_bit_for_bit_the_same(adata, fitted, tmp_path):
    fitted.save(tmp_path / "m")
    loaded = sd.load(tmp_path / "m")
    assert type(loaded) is type(fitted)
    assert repr(loaded) == repr(fitted)
    for part, value in answer(fitted, adata).items():
        np.testing.assert_array_equal(answer(loaded, adata)[part], value)


def test_a_fresh_process_reads_it_and_answers_the_same(adata, fitted, tmp_path):
    fitted.save(tmp_path / "m")
    adata.write_h5ad(tmp_path / "a.h5ad")
    code = (
        "import anndata, numpy, scdance\n"
        "adata = anndata.read_h5ad('a.h5ad')\n"
        "scdance.tl.cluster(adata, 'm', key_added='k')\n"
        "numpy.save('z.npy', adata.obsm['X_k'])\n"
        "print(*adata.obs['k'])"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    sd.tl.cluster(adata, fitted, key_added="k")
    assert ran.stdout.split() == adata.obs["k"].tolist()
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), adata.obsm["X_k"])


def test_new_cells_are_labelled_as_they_would_be_among_the_old(adata, fitted, tmp_path):
    fitted.save(tmp_path / "m")
    sd.tl.cluster(adata, fitted, key_added="k")
    some = adata[30:50, ::-1].copy()
    sd.tl.cluster(some, tmp_path / "m", key_added="new")
    assert some.obs["new"].astype(str).tolist() == some.obs["k"].astype(str).tolist()
    assert some.obs["new"].cat.categories.tolist() == ["0", "1", "2"]
    np.testing.assert_allclose(some.obsm["X_new"], some.obsm["X_k"], atol=1e-4)


def test_the_folder_holds_json_and_safetensors_and_no_cell(adata, fitted, tmp_path):
    fitted.save(tmp_path / "m")
    assert sorted(file.name for file in (tmp_path / "m").iterdir()) == ["arrays.safetensors", "method.json"]
    card = json.loads((tmp_path / "m" / "method.json").read_text())
    assert (card["task"], card["name"], card["format"]) == ("cluster", fitted.name, FORMAT)
    assert not any(name in json.dumps(card) for name in adata.obs_names)
    assert all(90 not in array.shape for array in load_file(tmp_path / "m" / "arrays.safetensors").values())
    assert [file.name for file in tmp_path.iterdir()] == ["m"]


def test_state_of_every_kind_comes_back(adata, tmp_path):
    model = sd.fit("cluster", adata, Own, n_parts=3, sizes=(1, 2), word="w", random_state=7)
    model.save(tmp_path / "m")
    loaded = Own.load(tmp_path / "m")
    assert (loaded.n_parts, loaded.sizes, loaded.word, loaded.random_state) == (3, (1, 2), "w", 7)
    assert set(loaded.state) == set(model.state)
    for name in ("cuts_", "wide_", "zero_d_", "names_", "flags_", "empty_"):
        found, wanted = getattr(loaded, name), getattr(model, name)
        assert found.shape == wanted.shape
        assert found.dtype.kind == wanted.dtype.kind
        np.testing.assert_array_equal(found, wanted)
    assert (loaded.scalar_, loaded.number_, loaded.text_, loaded.nothing_) == (1.5, 3, "α", None)
    assert loaded.tree_["z"] == [1, "two", 3.0]
    assert loaded.tree_["x"][0].tolist() == [0, 1]
    assert loaded.tree_["x"][1]["y"].dtype == np.float32
    np.testing.assert_array_equal(answer(loaded, adata)["embedding"], answer(model, adata)["embedding"])


def test_a_method_of_ones_own_is_loaded_by_its_class(adata, tmp_path):
    sd.fit("cluster", adata, Own).save(tmp_path / "m")
    with pytest.raises(ValueError, match=r"holds 'own' of task 'cluster', which is not in scdance.*YourMethod.load\("):
        sd.load(tmp_path / "m")
    sd.tl.cluster(adata, Own.load(tmp_path / "m"))
    assert "own" in adata.obs


def test_a_subclass_of_a_method_of_ours_is_another_method(adata, tmp_path):
    class Finer(type(sd.fit("cluster", adata, "kmeans", n_clusters=3))):
        """Looks twice as closely."""

        def predict(self, *, cells):
            found = super().predict(cells=cells)
            return found | {"labels": 2 * found["labels"] + (found["score"] > 0.5)}

    model = sd.fit("cluster", adata, Finer, n_clusters=3)
    assert (model.task, model.name) == ("cluster", "finer")
    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match="holds 'finer'"):
        sd.load(tmp_path / "m")
    sd.tl.cluster(adata, Finer.load(tmp_path / "m"))
    assert adata.obs["finer"].cat.categories.size > 3


def test_a_net_comes_back_with_its_buffers(adata, tmp_path):
    model = sd.fit("cluster", adata, Netted, epochs=3, device="cpu")
    model.save(tmp_path / "m")
    loaded = Netted.load(tmp_path / "m")
    assert loaded.training.epochs == 3
    assert not loaded.net_.training
    for name, value in model.net_.state_dict().items():
        assert loaded.net_.state_dict()[name].shape == value.shape
        assert torch.equal(loaded.net_.state_dict()[name], value)
    sd.tl.cluster(adata, model, key_added="a", device="cpu")
    sd.tl.cluster(adata, loaded, key_added="b", device="cpu")
    np.testing.assert_array_equal(adata.obsm["X_a"], adata.obsm["X_b"])
    assert adata.uns["scdance"]["cluster"]["b"]["history"]["training_loss"].shape == (3,)


# ------------------------------------------------------------------ what is refused


def test_an_unfitted_method_has_nothing_to_save(tmp_path):
    with pytest.raises(ValueError, match=r"has not been fitted.*scdance.fit") as raised:
        Own().save(tmp_path / "m")
    assert isinstance(raised.value, ScdanceError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["a file", "a folder with notes", "a saved method and notes"])
def test_saving_destroys_nothing_else(adata, tmp_path, there):
    model, path = sd.fit("cluster", adata, Own), tmp_path / "m"
    if there == "a file":
        path.write_text("notes")
    else:
        if there == "a saved method and notes":
            model.save(path)
        path.mkdir(exist_ok=True)
        (path / "notes.txt").write_text("notes")
    with pytest.raises(ValueError, match=r"exists and is not a saved method.*pass a new folder"):
        model.save(path)
    assert (path if path.is_file() else path / "notes.txt").read_text() == "notes"


def test_saving_again_replaces_what_was_saved(adata, tmp_path):
    sd.fit("cluster", adata, Own, n_parts=2).save(tmp_path / "m")
    sd.fit("cluster", adata, Own, n_parts=4).save(tmp_path / "m")
    assert Own.load(tmp_path / "m").n_parts == 4
    (tmp_path / "empty").mkdir()
    sd.fit("cluster", adata, Own).save(tmp_path / "empty")
    sd.fit("cluster", adata, Own).save(tmp_path / "new" / "deep")
    assert Own.load(tmp_path / "new" / "deep").is_fitted


def test_state_that_cannot_be_saved_leaves_no_file(adata, tmp_path):
    model = sd.fit("cluster", adata, Own)
    model.odd_ = object()
    with pytest.raises(TypeError):
        model.save(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def edit(path: Path, **changes: Any) -> None:
    card = json.loads((path / "method.json").read_text()) | changes
    (path / "method.json").write_text(json.dumps({k: v for k, v in card.items() if v is not None}))


def drop_array(path: Path) -> None:
    arrays = load_file(path / "arrays.safetensors")
    arrays.pop("state/centers_")
    save_file(arrays, path / "arrays.safetensors")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        pytest.param(lambda path: cut(path / "method.json"), "damaged", id="json cut off"),
        pytest.param(lambda path: cut(path / "arrays.safetensors"), "damaged", id="arrays cut off"),
        pytest.param(lambda path: (path / "arrays.safetensors").write_bytes(b""), "damaged", id="arrays empty"),
        pytest.param(lambda path: (path / "method.json").write_text("[1, 2]"), "damaged", id="json of something else"),
        pytest.param(lambda path: (path / "method.json").write_bytes(b"\xff\xfe\x00"), "damaged", id="not text"),
        pytest.param(lambda path: edit(path, format="x"), "damaged", id="word for a format"),
        pytest.param(lambda path: edit(path, format=None), "damaged", id="no format"),
        pytest.param(lambda path: edit(path, task=None), "damaged", id="no task"),
        pytest.param(lambda path: edit(path, knobs=None), "damaged", id="no knobs"),
        pytest.param(
            lambda path: edit(path, state={"centers_": {"$array": "nowhere"}}), "damaged", id="array that is not there"
        ),
        pytest.param(lambda path: edit(path, preps={"cells": {}}), "damaged", id="no recipe"),
        pytest.param(drop_array, "damaged", id="array removed"),
        pytest.param(
            lambda path: edit(path, format=FORMAT + 1),
            f"in format {FORMAT + 1}; this version reads up to {FORMAT}: pip",
            id="newer format",
        ),
        pytest.param(lambda path: edit(path, knobs={"n_knots": 3}), "no parameter 'n_knots'", id="unknown knob"),
        pytest.param(lambda path: edit(path, name="nowhere"), "not in scdance", id="unknown method"),
        pytest.param(lambda path: edit(path, task="nowhere"), "not in scdance", id="unknown task"),
        pytest.param(lambda path: (path / "method.json").unlink(), "holds no saved method", id="no json"),
        pytest.param(lambda path: (path / "arrays.safetensors").unlink(), "holds no saved method", id="no arrays"),
        pytest.param(shutil.rmtree, "holds no saved method", id="no folder"),
    ],
)
def test_a_folder_that_cannot_be_read_says_why(adata, tmp_path, harm, says):
    path = tmp_path / "m"
    sd.fit("cluster", adata, "kmeans", n_clusters=3).save(path)
    harm(path)
    with pytest.raises(ScdanceError) as raised:
        sd.load(path)
    assert says in str(raised.value)
    assert str(path) in str(raised.value) or "n_knots" in says


def test_a_class_refuses_what_another_class_saved(adata, tmp_path):
    kmeans, gmm = (sd.fit("cluster", adata, name, n_clusters=3) for name in ("kmeans", "gmm"))
    gmm.save(tmp_path / "m")
    with pytest.raises(ValueError, match=r"holds 'gmm' of task 'cluster', not 'kmeans'"):
        type(kmeans).load(tmp_path / "m")


def test_a_net_of_another_width_is_damage(adata, tmp_path):
    sd.fit("cluster", adata, Netted, epochs=1, device="cpu").save(tmp_path / "m")
    card = json.loads((tmp_path / "m" / "method.json").read_text())
    edit(tmp_path / "m", knobs=card["knobs"] | {"n_hidden": 5})
    with pytest.raises(ValueError, match="damaged"):
        Netted.load(tmp_path / "m")


def test_a_tool_refuses_a_folder_that_is_no_method(adata, tmp_path):
    with pytest.raises(ValueError, match="holds no saved method"):
        sd.tl.cluster(adata, tmp_path)
    with pytest.raises(TypeError, match="method must be a name"):
        sd.tl.cluster(adata, tmp_path / "nowhere")
