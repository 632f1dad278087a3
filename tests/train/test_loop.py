"""The one training loop, against loops written out by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from scdance._checks import InputError, ScdanceError
from scdance._core.method import Runtime
from scdance.train import Train, half_cosine, loop


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        yield


@pytest.fixture
def x() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(37, 3)).astype(np.float32))


def a_net(dropout: float = 0.3) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 1))


def squares(net: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """A step: the net shall tell the sum of its input."""
    return lambda batch: (net(batch)[:, 0] - batch.sum(dim=1)).square().mean()


def weights(net: nn.Module) -> list[list[float]]:
    return [value.flatten().tolist() for value in net.state_dict().values()]


def by_hand(net: nn.Module, optimizer: torch.optim.Optimizer, batches: list[torch.Tensor], epochs: int) -> list[float]:
    losses, step = [], squares(net)
    net.train()
    for _ in range(epochs):
        total = 0.0
        for batch in batches:
            optimizer.zero_grad()
            loss = step(batch)
            loss.backward()
            optimizer.step()
            total += loss.item()
        losses.append(total / len(batches))
    return losses


# ------------------------------------------------------------------ four shapes


@pytest.mark.parametrize("n_batches", [1, 4], ids=["full batch", "mini-batches"])
@pytest.mark.parametrize(
    ("name", "make"),
    {
        "adam": lambda p, how: torch.optim.Adam(p, lr=how.lr, weight_decay=how.weight_decay),
        "amsgrad": lambda p, how: torch.optim.Adam(p, lr=how.lr, weight_decay=how.weight_decay, amsgrad=True),
        "adamw": lambda p, how: torch.optim.AdamW(p, lr=how.lr, weight_decay=how.weight_decay),
        "adadelta": lambda p, how: torch.optim.Adadelta(p, lr=how.lr, rho=0.95, weight_decay=how.weight_decay),
        "sgd": lambda p, how: torch.optim.SGD(p, lr=how.lr, weight_decay=how.weight_decay),
    }.items(),
)
def test_the_loop_is_the_one_that_everybody_writes(x, n_batches, name, make):
    net, how = a_net(), Train(epochs=6, lr=0.01, weight_decay=0.02, optimizer=name)
    hand, batches = copy.deepcopy(net), list(x.chunk(n_batches))
    state = torch.get_rng_state()
    log = loop(squares(net), net, how, batches=batches)
    torch.set_rng_state(state)  # dropout draws the same again
    losses = by_hand(hand, make(hand.parameters(), how), batches, 6)
    assert weights(net) == weights(hand)
    assert log.history == {"loss": losses}
    assert (log.epochs, log.stopped) == (6, "all 6 epochs")


def test_batches_are_drawn_anew_in_each_epoch(x):
    class Counted:
        passes = 0

        def __iter__(self):
            self.passes += 1
            yield from x.chunk(3)

    net, batches, seen = a_net(), Counted(), []
    loop(lambda batch: seen.append(len(batch)) or squares(net)(batch), net, Train(epochs=4), batches=batches)
    assert batches.passes == 4
    assert seen == 4 * [13, 13, 11]


def test_pretraining_then_refining_towards_a_target_of_each_epoch(x):
    net, target, told = a_net(), {}, []
    loop(squares(net), net, Train(epochs=2), batches=[x], stage="pretraining")

    def refresh(epoch: int) -> str | None:
        told.append((epoch, net.training))
        target["y"] = net(x).detach() + 1
        return "the target stands still" if epoch == 3 else None

    def step(batch: torch.Tensor) -> torch.Tensor:
        assert net.training
        return (net(batch) - target["y"]).square().mean()

    log = loop(step, net, Train(epochs=9), batches=[x], each_epoch=refresh)
    assert told == [(0, False), (1, False), (2, False), (3, False)]
    assert (log.epochs, log.stopped, len(log.history["loss"])) == (3, "the target stands still", 3)
    assert not net.training


def test_steps_that_take_turns_move_their_own_parameters_only(x):
    generator, critic = nn.Linear(3, 3), nn.Linear(3, 1)
    both = nn.ModuleList([generator, critic])
    fool = lambda batch: critic(generator(batch)).square().mean()  # noqa: E731
    judge = lambda batch: (critic(batch) - critic(generator(batch)) - 1).square().mean()  # noqa: E731
    hand = copy.deepcopy(both)
    turns = [(fool, generator.parameters()), (judge, critic.parameters())]
    log = loop(turns, both, Train(epochs=3, lr=0.1), batches=list(x.chunk(2)))

    generator, critic = hand
    optimizers = [torch.optim.Adam(part.parameters(), lr=0.1) for part in hand]
    losses: list[list[float]] = [[], []]
    for _ in range(3):
        total = [0.0, 0.0]
        for batch in x.chunk(2):
            for i, step in enumerate((fool, judge)):
                hand.zero_grad()
                loss = step(batch)
                loss.backward()
                optimizers[i].step()
                total[i] += loss.item()
        for i in range(2):
            losses[i].append(total[i] / 2)
    assert weights(both) == weights(hand)
    assert log.history == {"loss_1": losses[0], "loss_2": losses[1]}


def test_no_epochs_leave_the_net_as_it_was_made(x):
    net = a_net()
    before = weights(net)
    log = loop(squares(net), net, Train(epochs=0), batches=[x])
    assert weights(net) == before
    assert (log.epochs, log.history, log.stopped) == (0, {"loss": []}, "all 0 epochs")


def test_the_gradient_is_clipped(x):
    net = nn.Linear(3, 1)
    before = torch.cat([p.detach().flatten() for p in net.parameters()])
    loop(lambda batch: 1e4 * squares(net)(batch), net, Train(epochs=1, lr=1, clip=0.5, optimizer="sgd"), batches=[x])
    after = torch.cat([p.detach().flatten() for p in net.parameters()])
    assert (after - before).norm().item() == pytest.approx(0.5, rel=1e-4)


# ------------------------------------------------------------------ early stopping


def scripted(x: torch.Tensor, curve: list[float], **numbers: Any) -> tuple[nn.Module, list[Any], Any]:
    """Train with validation losses that were written beforehand; also the weights that each of them saw."""
    net, seen = a_net(), []

    def valid() -> float:
        assert not net.training
        assert not torch.is_grad_enabled()
        seen.append(weights(net))
        return curve[len(seen) - 1]

    how = Train(**{"epochs": len(curve), "lr": 0.05, **numbers})
    return net, seen, loop(squares(net), net, how, batches=list(x.chunk(2)), valid=valid)


@pytest.mark.parametrize(
    ("curve", "numbers", "n_epochs", "best"),
    [
        ([5, 4, 3, 3.5, 3.2, 3.1, 2], {"patience": 3}, 6, 2),
        ([5, 4, 3, 3.5, 3.2, 2.9, 3, 3, 3, 9], {"patience": 3}, 9, 5),
        ([5, 6, 7, 8], {"patience": 1}, 2, 0),
        ([5, 4, 3, 2], {"patience": 2}, 4, 3),
        ([5, 4.9, 4.8, 4.7, 1], {"patience": 2, "min_delta": 0.5}, 3, 0),
        ([5, 4.9, 4.4, 4.3, 4.2, 1], {"patience": 2, "min_delta": 0.5}, 5, 2),
        ([5, 5, 5, 5], {"patience": 3}, 4, 0),
        ([5, 3, 4, 6], {"patience": None}, 4, 1),
        ([5, math.nan, math.nan, 1], {"patience": 2}, 3, 0),
    ],
    ids=str,
)
def test_training_stops_by_the_curve_and_ends_with_the_best_weights(x, curve, numbers, n_epochs, best):
    net, seen, log = scripted(x, curve, **numbers)
    assert log.epochs == n_epochs
    assert weights(net) == seen[best]
    np.testing.assert_array_equal(log.history["valid_loss"], curve[:n_epochs])
    assert len(log.history["loss"]) == n_epochs
    if n_epochs < len(curve):
        assert log.stopped == f"no better validation loss in {numbers['patience']} epochs"


def test_validation_steers_nothing_but_the_stop(x):
    state = torch.get_rng_state()
    net, _, _ = scripted(x, [5, 4, 3])
    torch.set_rng_state(state)
    plain = a_net()
    loop(squares(plain), plain, Train(epochs=3, lr=0.05), batches=list(x.chunk(2)))
    assert weights(net) == weights(plain)


# ------------------------------------------------------------------ trouble


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_training_with_advice(x, bad):
    net, calls = a_net(), []

    def step(batch: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return squares(net)(batch) * (bad if len(calls) == 4 else 1)

    with pytest.raises(ScdanceError, match=r"no longer finite in epoch 2.*`lr` \(now 0.003\).*clip=1.0"):
        loop(step, net, Train(epochs=5, lr=0.003), batches=list(x.chunk(2)))


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ({"lr": 0}, "lr=0, but it must be above 0"),
        ({"lr": -1.0}, "lr=-1.0"),
        ({"epochs": -1}, "epochs=-1, but it must be at least 0"),
        ({"batch_size": 0}, "batch_size=0, but it must be at least 1"),
        ({"patience": 0}, "patience=0"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"min_delta": -0.1}, "min_delta"),
        ({"clip": -1.0}, "clip"),
    ],
    ids=str,
)
def test_numbers_that_make_no_sense_are_refused(numbers, says):
    with pytest.raises(InputError, match=says):
        Train(**numbers)


# ------------------------------------------------------------------ looking on


def test_on_epoch_is_told_the_stage_and_the_epoch_and_may_look(x):
    net, told = a_net(), []
    runtime = Runtime(on_epoch=lambda stage, epoch, look: told.append((stage, epoch, look(), torch.is_grad_enabled())))
    loop(squares(net), net, Train(epochs=2), batches=[x], stage="s", look=lambda: {"on": net.training}, runtime=runtime)
    assert told == [("s", 1, {"on": False}, False), ("s", 2, {"on": False}, False)]


def test_on_epoch_looks_and_never_steers(x):
    def nosy(stage: str, epoch: int, look: Callable[[], dict[str, Any]]) -> str:
        look()
        torch.rand(3)
        torch.default_generator.manual_seed(epoch)
        return "stop"

    def train(runtime: Runtime) -> list[list[float]]:
        torch.default_generator.manual_seed(3)
        net, rng = a_net(), np.random.default_rng(0)

        def look() -> dict[str, Any]:
            net.train()
            return {"z": net(x)}

        def valid() -> float:
            return float(squares(net)(x))

        loop(
            squares(net), net, Train(epochs=7, patience=3), batches=list(x.chunk(3)),
            valid=valid, look=look, rng=rng, runtime=runtime,
        )  # fmt: skip
        return weights(net)

    assert train(Runtime(on_epoch=nosy)) == train(Runtime())


def test_the_bar_is_shown_only_when_asked(x, capsys):
    net = a_net()
    loop(squares(net), net, Train(epochs=2), batches=[x], runtime=Runtime(progress=False))
    loop(squares(net), net, Train(epochs=2), batches=[x], runtime=Runtime(progress=None))
    assert capsys.readouterr().err == ""  # no terminal here
    loop(squares(net), net, Train(epochs=2), batches=[x], stage="refining", runtime=Runtime(progress=True))
    assert "refining" in capsys.readouterr().err


# ------------------------------------------------------------------ pace


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_pace_is_a_schedule_of_the_learning_rate(x, optimizer):
    net, batches = a_net(dropout=0), [x[:20], x[20:]]
    theirs, n_steps = copy.deepcopy(net), 2 * 5
    made = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer](theirs.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(made, lambda n: half_cosine(n, n_steps, warm_up=0.3))
    step = squares(theirs)
    for batch in batches * 5:
        made.zero_grad()
        step(batch).backward()
        made.step()
        schedule.step()
    how = Train(epochs=5, lr=0.05, optimizer=optimizer)
    loop(squares(net), net, how, batches=batches, pace=lambda n, total: half_cosine(n, total, warm_up=0.3))
    torch.testing.assert_close(net.state_dict(), theirs.state_dict())


def test_half_a_cosine_rises_to_1_and_falls_towards_0():
    rates = [half_cosine(n, 100, warm_up=0.1) for n in range(100)]
    assert np.argmax(rates) == 9
    assert rates[9] == 1
    assert np.all(np.diff(rates[:10]) > 0)
    assert np.all(np.diff(rates[10:]) < 0)
    assert 0 < rates[-1] < 1e-3
