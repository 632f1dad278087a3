"""A run that was killed and continued equals the run that was left alone, bit for bit."""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
from torch import nn

import scdance as sd
from scdance._checks import ScdanceError
from scdance.datasets import toy_clusters
from scdance.pp import Recipe
from scdance.train import Batches, TorchMethod, Train, half_cosine, split

N_CELLS, N_EPOCHS = 60, 18


class Killed(Exception):
    """Stands for a power cut."""


class Bomb:
    """Counts what happens in a run, and goes off at the n-th time."""

    def __init__(self, at: int | None = None) -> None:
        self.at, self.n = at, 0

    def tick(self) -> None:
        self.n += 1
        if self.n == self.at:
            raise Killed


class Deep(TorchMethod):
    """Two stages with everything that a run can hold: dropout, validation, patience, a target, two optimisers."""

    n_latent: int = 2
    pretraining: Train = Train(epochs=N_EPOCHS, batch_size=16, patience=7, optimizer="adam")
    training: Train = Train(epochs=N_EPOCHS, batch_size=16, lr=0.5, optimizer="adadelta", clip=5.0)

    recipe = Recipe(normalize_total={}, log1p={}, center_scale={})
    bomb = Bomb()

    def net(self) -> nn.Module:
        return nn.ModuleDict(
            {
                "encoder": nn.Sequential(
                    nn.Linear(20, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2)
                ),
                "decoder": nn.Linear(2, 20),
                "critic": nn.Linear(2, 1),
            }
        )

    def fit(self, *, cells):
        net, rng = self.net(), self.rng("batches")
        train, held = split(cells.n_obs, 0.2, self.rng("split"))
        batches = Batches(cells, self.pretraining.batch_size, rows=train, rng=rng)
        x_held = torch.from_numpy(cells.dense(held))

        def rebuild(batch: Any) -> torch.Tensor:
            self.bomb.tick()
            return (net["decoder"](net["encoder"](batch.x)) - batch.x).square().mean()

        def valid() -> float:
            self.bomb.tick()
            n_steps = float(net["encoder"][1].num_batches_tracked)  # so that the curve turns upwards again
            return float((net["decoder"](net["encoder"](x_held)) - x_held).square().mean()) + 0.01 * n_steps

        self.net_ = net
        look = lambda: self.predict(cells=cells)  # noqa: E731
        self.learn(
            rebuild, net, self.pretraining, stage="pretraining", batches=batches, valid=valid, rng=rng, look=look
        )
        self.bomb.tick()
        noise = torch.randn(2)  # drawn between the stages
        memory: dict[str, torch.Tensor] = {"last": torch.zeros(cells.n_obs, 2)}
        rng = self.rng("refining")

        def refresh(epoch: int) -> None:
            self.bomb.tick()
            with torch.no_grad():
                z = torch.cat([net["encoder"](batch.x) for batch in Batches(cells, 64)])
            memory["last"] = 0.5 * memory["last"] + z + noise  # the whole past is in it

        def refine(batch: Any) -> torch.Tensor:
            self.bomb.tick()
            z = net["encoder"](batch.x)
            return (z - memory["last"][batch.rows]).square().mean() + net["critic"](z).square().mean()

        def judge(batch: Any) -> torch.Tensor:
            z = net["encoder"](batch.x).detach()
            return (net["critic"](z) - 1).square().mean()

        turns = [(refine, [*net["encoder"].parameters()]), (judge, [*net["critic"].parameters()])]
        batches = Batches(cells, self.training.batch_size, rng=rng)
        self.learn(
            turns, net, self.training, batches=batches, each_epoch=refresh, memory=memory, rng=rng, look=look,
            pace=half_cosine,
        )  # fmt: skip
        self.bomb.tick()
        return self

    def predict(self, *, cells):
        z = self.map(lambda batch: self.net_["encoder"](batch.x), cells)
        return {"labels": (z[:, 0] > z[:, 0].mean()).astype(int), "embedding": z}


@pytest.fixture(scope="module")
def toy() -> ad.AnnData:
    return toy_clusters(n_obs=N_CELLS, n_vars=20, k=2, n_de=5)


def run(toy: ad.AnnData, monkeypatch: pytest.MonkeyPatch, *, at: int | None = None, **typed: Any) -> tuple[Any, int]:
    """Result of a run, weights included, and how many things happened in it."""
    bomb = Bomb(at)
    monkeypatch.setattr(Deep, "bomb", bomb)
    model = sd.fit("cluster", toy, Deep, device="cpu", **typed)
    net = {name: value.numpy().tobytes() for name, value in model.net_.state_dict().items()}
    history = {name: values.tolist() for name, values in model.history_.items()}
    return (net, history, model.epochs_, model.stopped_), bomb.n


@pytest.fixture(scope="module")
def whole(toy: ad.AnnData) -> dict[str, Any]:
    """The run that was left alone, per optimiser of its stages."""
    with pytest.MonkeyPatch.context() as patch:
        return {optimizer: run(toy, patch, **knobs(optimizer)) for optimizer in ("adam", "adadelta", "sgd", "amsgrad")}


def knobs(optimizer: str) -> dict[str, Any]:
    other = {"adam": "adadelta", "adadelta": "adam", "sgd": "adamw", "amsgrad": "sgd"}[optimizer]
    lr = {"adam": 0.1, "adadelta": 5.0, "sgd": 0.3, "amsgrad": 0.1, "adamw": 0.1}
    return {
        "pretrain_optimizer": optimizer, "pretrain_lr": lr[optimizer], "optimizer": other, "lr": lr[other],
    }  # fmt: skip


def test_the_runs_that_are_compared_go_back_to_their_best_weights(whole):
    """Else nothing below would tell whether best weights and patience survive."""
    curves = {name: expected[1]["pretraining_valid_loss"] for name, (expected, _) in whole.items()}
    assert all(np.argmin(curve) < 5 < 5 + 2 < len(curve) < N_EPOCHS for curve in curves.values())


@pytest.mark.parametrize("optimizer", ["adam", "adadelta", "sgd", "amsgrad"])
@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_a_run_that_is_killed_anywhere_and_continued_ends_the_same(toy, whole, monkeypatch, tmp_path, optimizer, seed):
    expected, n_ticks = whole[optimizer]
    rng = np.random.default_rng([seed or 0, len(optimizer)])
    first = 27 if seed is None else int(rng.integers(1, n_ticks))  # 27: in epoch 7, while patience runs
    with pytest.raises(Killed):
        run(toy, monkeypatch, at=first, checkpoint=tmp_path, **knobs(optimizer))
    with contextlib.suppress(Killed):  # and a second time, wherever that hits
        run(toy, monkeypatch, at=int(rng.integers(1, n_ticks)), checkpoint=tmp_path, **knobs(optimizer))
    found, _ = run(toy, monkeypatch, checkpoint=tmp_path, **knobs(optimizer))
    assert found == expected


@pytest.mark.parametrize("where", ["first step", "between the stages", "after the last epoch"])
def test_a_run_that_is_killed_at_a_seam_and_continued_ends_the_same(toy, whole, monkeypatch, tmp_path, where):
    expected, n_ticks = whole["adam"]
    n_first = len(expected[1]["pretraining_loss"]) * (3 + 1) + 1  # three batches and a validation per epoch, one seam
    at = {"first step": 1, "between the stages": n_first, "after the last epoch": n_ticks}[where]
    with pytest.raises(Killed):
        run(toy, monkeypatch, at=at, checkpoint=tmp_path, **knobs("adam"))
    found, n = run(toy, monkeypatch, checkpoint=tmp_path, **knobs("adam"))
    assert found == expected
    assert n == {"first step": n_ticks, "between the stages": n_ticks - n_first + 1, "after the last epoch": 2}[where]


def test_a_run_that_continues_does_not_begin_anew(toy, whole, monkeypatch, tmp_path):
    _, n_ticks = whole["adam"]
    with pytest.raises(Killed):
        run(toy, monkeypatch, at=n_ticks - 1, checkpoint=tmp_path, **knobs("adam"))
    _, n = run(toy, monkeypatch, checkpoint=tmp_path, **knobs("adam"))
    assert n < 5 * 5 + 5  # at most the epochs since the last checkpoint, and the seams


def test_a_finished_run_is_read_and_not_repeated(toy, whole, monkeypatch, tmp_path):
    for _ in range(2):
        found, n = run(toy, monkeypatch, checkpoint=tmp_path, **knobs("adam"))
        assert found == whole["adam"][0]
    assert n == 2  # the two seams; no step
    assert sorted(file.name for file in tmp_path.iterdir()) == ["pretraining.safetensors", "training.safetensors"]


def test_checkpoints_change_no_number(toy, whole, monkeypatch, tmp_path):
    found, n = run(toy, monkeypatch, checkpoint=tmp_path / "deep" / "folder", **knobs("adam"))
    assert (found, n) == whole["adam"]


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(toy, whole, monkeypatch, tmp_path):
    import safetensors.torch

    save, n_written = safetensors.torch.save_file, []

    def dies(tensors: Any, path: Path, told: Any) -> None:
        save(tensors, path, told)
        n_written.append(path)
        if len(n_written) == 2:
            path.write_bytes(path.read_bytes()[:1000])
            raise Killed

    monkeypatch.setattr(safetensors.torch, "save_file", dies)
    with pytest.raises(Killed):
        run(toy, monkeypatch, checkpoint=tmp_path, **knobs("adam"))
    found, n = run(toy, monkeypatch, checkpoint=tmp_path, **knobs("adam"))
    assert found == whole["adam"][0]
    assert n < whole["adam"][1]


def test_looking_on_while_it_runs_changes_no_number(toy, whole, monkeypatch):
    from scdance._core.read import read
    from scdance._core.run import make, solve, watched

    monkeypatch.setattr(Deep, "bomb", Bomb())
    looked = []

    def nosy(stage: str, epoch: int, look: Any, rows: Any) -> None:
        looked.append((stage, epoch, look()["embedding"].shape))
        torch.rand(5)
        np.random.random(5)  # noqa: NPY002

    model = make("cluster", Deep, knobs("adam"), device="cpu")
    with watched(nosy):
        solve(model, cells=read(toy, model))
    net = {name: value.numpy().tobytes() for name, value in model.net_.state_dict().items()}
    assert net == whole["adam"][0][0]
    assert len(looked) == model.epochs_
    assert {shape for _, _, shape in looked} == {(N_CELLS, 2)}


# ------------------------------------------------------------------ what is refused


@pytest.fixture
def halfway(toy: ad.AnnData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    with pytest.raises(Killed):
        run(toy, monkeypatch, at=30, checkpoint=tmp_path)
    return tmp_path / "pretraining.safetensors"


def counted_otherwise(toy: ad.AnnData) -> ad.AnnData:
    """Two genes of one cell changed places: depth, names and shape are the same."""
    other = toy.copy()
    x = other.X.toarray()
    x[3, [0, 1]] = x[3, [1, 0]] if x[3, 0] != x[3, 1] else x[3, [0, 1]] + [1, -1]
    other.X = x
    return other


@pytest.mark.parametrize(
    ("typed", "change"),
    [
        ({"random_state": 1}, copy.copy),
        ({"epochs": 5}, copy.copy),
        ({"pretrain_lr": 0.1}, copy.copy),
        ({"recipe": None}, copy.copy),
        ({}, lambda toy: toy[:-1].copy()),
        ({}, lambda toy: toy[::-1].copy()),
        ({}, counted_otherwise),
        ({}, lambda toy: ad.AnnData(toy.X, var={"names": list(range(20))})),
    ],
    ids=["seed", "epochs", "rate", "recipe", "fewer cells", "other order", "other counts", "other genes"],
)
def test_the_checkpoint_of_another_call_is_refused_and_kept(toy, monkeypatch, halfway, typed, change):
    before = halfway.read_bytes()
    with pytest.raises(ValueError, match=r"checkpoint of another call.*another folder as `checkpoint=`") as raised:
        run(change(toy), monkeypatch, checkpoint=halfway.parent, **typed)
    assert isinstance(raised.value, ScdanceError)
    assert halfway.read_bytes() == before


@pytest.mark.parametrize(
    "harm", [lambda b: b[:-30], lambda b: b[:100], lambda b: b"", lambda b: b"x" * 500], ids="abcd"
)
def test_a_damaged_checkpoint_is_refused_by_its_name(toy, monkeypatch, halfway, harm):
    halfway.write_bytes(harm(halfway.read_bytes()))
    with pytest.raises(ValueError, match=r"pretraining.safetensors is damaged .*remove it to start anew"):
        run(toy, monkeypatch, checkpoint=halfway.parent)


def test_a_checkpoint_holds_no_pickle(halfway):
    from safetensors import safe_open

    with safe_open(halfway, framework="np") as opened:
        assert set(opened.metadata()) == {"state"}
        assert any(name.startswith("optimizer/0/") for name in opened.keys())  # noqa: SIM118
