"""The base of methods with a net: device, seeds, and a world left as it was."""

from __future__ import annotations

import logging
import random
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
from torch import nn

import scdance as sd
from scdance._checks import InputError
from scdance.datasets import toy_clusters
from scdance.pp import Recipe
from scdance.train import TorchMethod, Train


class Tiny(TorchMethod):
    """A linear map and two stages of training."""

    pretraining: Train = Train(epochs=2)
    training: Train = Train(epochs=3)

    recipe = Recipe(normalize_total={}, log1p={})
    fails = False

    def net(self) -> nn.Module:
        return nn.Linear(self.n_genes_, 2)

    def fit(self, *, cells):
        self.n_genes_, self.drawn_ = cells.n_vars, float(torch.rand(1))
        self.threads_ = torch.get_num_threads()
        self.net_ = self.net().to(self.target)
        x = torch.from_numpy(cells.dense(np.arange(cells.n_obs))).to(self.target)
        step = lambda batch: self.net_(batch).square().mean()  # noqa: E731
        random.random()
        np.random.random()  # noqa: NPY002
        torch.set_num_threads(2)
        self.learn(step, self.net_, self.pretraining, stage="pretraining", batches=[x])
        if self.fails:
            raise RuntimeError
        self.learn(step, self.net_, self.training, batches=[x])
        return self

    def predict(self, *, cells):
        assert not self.net_.training
        z = self.map(lambda batch: self.net_(batch.x), cells, size=16)
        return {"labels": (z[:, 0] > 0).astype(int), "embedding": z}


@pytest.fixture
def toy() -> ad.AnnData:
    return toy_clusters(n_obs=50, n_vars=20, k=2, n_de=5)


def world() -> Any:
    return (
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        logging.getLogger().level,
    )


@pytest.mark.parametrize("fails", [False, True])
def test_the_world_is_left_as_it_was(toy, monkeypatch, fails):
    monkeypatch.setattr(Tiny, "fails", fails)
    before = world()
    if fails:
        with pytest.raises(RuntimeError):
            sd.tl.cluster(toy, Tiny)
    else:
        sd.tl.cluster(toy, Tiny)
    assert world() == before


def test_a_user_may_set_the_threads_of_a_call(toy, monkeypatch):
    before = torch.get_num_threads()
    assert sd.fit("cluster", toy, Tiny).threads_ == before
    monkeypatch.setattr(sd.settings, "n_threads", before + 1)
    assert sd.fit("cluster", toy, Tiny).threads_ == before + 1
    assert torch.get_num_threads() == before
    monkeypatch.setattr(sd.settings, "n_threads", 0)
    with pytest.raises(InputError, match=r"scdance\.settings\.n_threads must be a whole number of at least 1"):
        sd.fit("cluster", toy, Tiny)


def test_a_result_depends_on_its_seed_only(toy):
    def embedding(seed: int) -> np.ndarray:
        torch.rand(3)  # what the user did before
        return sd.tl.cluster(toy, Tiny, random_state=seed, device="cpu", copy=True).obsm["X_tiny"]

    np.testing.assert_array_equal(embedding(0), embedding(0))
    assert not np.array_equal(embedding(0), embedding(1))


def test_the_first_draw_is_that_of_the_seed(toy):
    model = sd.fit("cluster", toy, Tiny, random_state=5)
    assert model.drawn_ == float(torch.rand(1, generator=torch.Generator().manual_seed(5)))


def test_generators_differ_by_purpose_and_agree_by_seed():
    one, other = Tiny(random_state=1), Tiny(random_state=2)
    assert one.rng("a").random() == Tiny(random_state=1).rng("a").random()
    assert len({one.rng("a").random(), one.rng("b").random(), other.rng("a").random()}) == 3


def test_history_epochs_and_the_end_of_both_stages_are_told(toy):
    sd.tl.cluster(toy, Tiny, epochs=4)
    record = toy.uns["scdance"]["cluster"]["tiny"]
    assert {name: len(values) for name, values in record["history"].items()} == {
        "pretraining_loss": 2,
        "training_loss": 4,
    }
    assert record["epochs"] == 6
    assert record["stopped"] == "pretraining: all 2 epochs; training: all 4 epochs"
    assert (record["params"]["pretrain_epochs"], record["params"]["epochs"]) == (2, 4)


def test_numbers_of_a_stage_are_typed_flat_and_precede_the_preset(toy):
    class Preset(Tiny):
        presets = {"paper": {"epochs": 7, "pretrain_lr": 0.5}}

    model = sd.fit("cluster", toy, Preset, preset="paper", epochs=1)
    assert (model.training.epochs, model.pretraining.lr, model.pretraining.epochs) == (1, 0.5, 2)


def test_map_goes_through_all_cells_in_order_without_gradients(toy):
    model = sd.fit("cluster", toy, Tiny, device="cpu")
    from scdance._core.read import read

    cells = read(toy, model)
    found = model.map(lambda batch: batch.x.requires_grad_() if torch.is_grad_enabled() else batch.x, cells, size=7)
    np.testing.assert_array_equal(found, cells.dense(np.arange(50)))


# ------------------------------------------------------------------ device


def test_auto_is_cuda_where_there_is_one_else_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Tiny().target == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert Tiny().target == torch.device("cuda")


def test_mps_is_taken_only_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert Tiny().target == torch.device("cpu")
    assert Tiny(device="mps").target == torch.device("mps")


def test_the_settings_say_what_auto_means_and_a_name_precedes_them(monkeypatch):
    monkeypatch.setattr(sd.settings, "device", "meta")
    assert Tiny().target == torch.device("meta")
    assert Tiny(device="cpu").target == torch.device("cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "", "tpu"])
def test_a_device_that_torch_does_not_know_is_refused(device):
    with pytest.raises(InputError, match=r"is not a device of PyTorch; pass 'auto', 'cpu', 'cuda' or 'mps'"):
        _ = Tiny(device=device).target


def test_a_device_that_is_not_here_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InputError, match=r"device='cuda', but PyTorch .* finds no such device here"):
        _ = Tiny(device="cuda").target
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Tiny(device="cuda:1").target == torch.device("cuda:1")
    with pytest.raises(InputError, match="finds no such device here"):
        _ = Tiny(device="cuda:2").target


def test_one_line_of_the_log_says_where_it_runs(toy, caplog):
    with caplog.at_level("INFO", logger="scdance"):
        sd.tl.cluster(toy, Tiny, device="cpu")
    assert [record.message for record in caplog.records if "running on" in record.message] == ["tiny: running on cpu"]


def test_a_fitted_method_runs_where_the_call_says(toy):
    model = sd.fit("cluster", toy, Tiny, device="cpu")
    model.device = "no such device"  # the one it was fitted on is gone
    sd.tl.cluster(toy, model, device="cpu")
    assert model.device == "no such device"


@pytest.mark.gpu
def test_on_a_gpu_the_result_is_close_and_the_states_stay(toy):
    torch.rand(1, device="cuda")
    before = world(), torch.cuda.get_rng_state().tolist()
    sd.tl.cluster(toy, Tiny, device="cuda", key_added="gpu")
    sd.tl.cluster(toy, Tiny, device="cpu", key_added="cpu")
    assert (world(), torch.cuda.get_rng_state().tolist()) == before
    np.testing.assert_allclose(toy.obsm["X_gpu"], toy.obsm["X_cpu"], atol=1e-3)
    model = sd.fit("cluster", toy, Tiny, device="cuda")
    sd.tl.cluster(toy, model, device="cpu", key_added="moved")
    np.testing.assert_allclose(toy.obsm["X_gpu"], toy.obsm["X_moved"], atol=1e-4)
