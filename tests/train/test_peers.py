"""Several processes that train one net, here threads that stand for them, against one that does it by hand."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from scdance._checks import InputError, ScdanceError
from scdance._core.method import Runtime
from scdance.train import Log, Peers, Together, Train, loop


def meet(n: int, do: Callable[[Together], Any]) -> list[Any]:
    """What `do` gives in each of `n` threads, which hear each other as processes under Lightning Fabric do."""
    barrier, told = threading.Barrier(n, timeout=20), [None] * n

    def exchange(rank: int, value: Any) -> list[Any]:
        told[rank] = value
        barrier.wait()
        found = list(told)
        barrier.wait()
        return found

    def reduce(rank: int, data: torch.Tensor, reduce_op: str) -> torch.Tensor:
        return getattr(torch.stack(exchange(rank, data)), reduce_op)(dim=0)

    def run(rank: int) -> Any:
        fabric = SimpleNamespace(
            global_rank=rank,
            world_size=n,
            all_reduce=lambda data, reduce_op: reduce(rank, data, reduce_op),
            broadcast=lambda value: exchange(rank, value)[0],
        )
        return do(Together(fabric))

    with ThreadPoolExecutor(n) as pool:
        runs = [pool.submit(run, rank) for rank in range(n)]
        for each in runs:
            each.add_done_callback(lambda each: each.exception() and barrier.abort())  # the others wait in vain
    errors = [error for each in runs if (error := each.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [each.result() for each in runs]


class Parts(nn.Module):
    """A number that all batches move, one that those of some move, and one that nothing moves."""

    def __init__(self) -> None:
        super().__init__()
        self.all, self.some, self.none = (nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(3))

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        moved = self.all * batch + (self.some * batch if batch[0] > 0 else 0)
        return (moved - 3).square().sum()


BATCHES = [torch.tensor([1.0, 2.0]), torch.tensor([-1.0, 0.5]), torch.tensor([-2.0, 1.0]), torch.tensor([-0.5, 3.0])]


def test_a_step_of_two_is_one_on_the_mean_of_their_losses():
    """Clipped as such; a gradient that is nowhere is none, so that nothing decays."""
    how = Train(epochs=3, lr=0.1, weight_decay=0.5, clip=1.0, optimizer="adamw")

    def train(peers: Peers) -> tuple[Parts, Log]:
        net = Parts()
        return net, loop(net.loss, net, how, batches=BATCHES, peers=peers)

    net = Parts()
    optimizer, losses = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.5), []
    for _ in range(3):
        for pair in (BATCHES[:2], BATCHES[2:]):
            optimizer.zero_grad()
            each = torch.stack([net.loss(batch) for batch in pair])
            each.mean().backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            losses += each.tolist()
    for found, log in meet(2, train):
        assert log.history["loss"] == pytest.approx(np.reshape(losses, (3, 4)).mean(axis=1).tolist())
        for name, value in net.state_dict().items():
            torch.testing.assert_close(found.state_dict()[name], value)
        assert found.none.tolist() == [1.0, -2.0]


def test_two_that_see_the_same_are_one_that_sees_it():
    how = Train(epochs=4, lr=0.1, optimizer="adam")

    def train(peers: Peers | None, batches: list[torch.Tensor]) -> list[float]:
        net = Parts()
        loop(net.loss, net, how, batches=batches, peers=peers)
        return [value for each in net.parameters() for value in each.tolist()]

    twice = [batch for batch in BATCHES for _ in range(2)]
    assert meet(2, lambda peers: train(peers, twice)) == [train(None, BATCHES)] * 2


def test_each_takes_every_other_batch_and_all_take_as_many():
    assert meet(2, lambda peers: [*peers.share("abcde")]) == [["a", "c", "e"], ["b", "d", "a"]]
    assert meet(3, lambda peers: peers.n_steps(7)) == [3, 3, 3]
    assert [*Peers().share("abc")] == ["a", "b", "c"]
    with pytest.raises(InputError, match=r"devices=3, but there are 2 groups of cells .* pass fewer devices"):
        meet(3, lambda peers: peers.share("ab"))


def test_the_rate_falls_over_the_steps_that_each_takes():
    seen: set[tuple[int, int]] = set()
    pace = lambda step, n_steps: seen.add((step, n_steps)) or 1.0  # noqa: E731

    def train(peers: Peers) -> None:
        mine = nn.Linear(2, 1)
        loop(lambda batch: mine(batch).sum(), mine, Train(epochs=2), batches=BATCHES[:3], peers=peers, pace=pace)

    meet(2, train)
    assert seen == {(step, 4) for step in range(4)}


def test_the_first_says_when_it_ends():
    def train(peers: Peers, **knobs: Any) -> tuple[int, str]:
        net = Parts()
        log = loop(net.loss, net, Train(epochs=9, patience=2), batches=BATCHES, peers=peers, **knobs)
        return log.epochs, log.stopped

    over = [2, 4]
    by_clock = meet(2, lambda peers: train(peers, each_epoch=lambda i: f"after {i}" if i >= over[peers.rank] else None))
    assert by_clock == [(2, "after 2")] * 2
    losses = [iter([3.0, 2.0, 2.0, 2.0]), iter(range(9, 0, -1))]
    by_loss = meet(2, lambda peers: train(peers, valid=lambda: next(losses[peers.rank])))
    assert by_loss == [(4, "no better validation loss in 2 epochs")] * 2


class Killed(Exception):
    pass


def noisy(peers: Peers, folder: Path | None, until: int = 99) -> tuple[list[float], list[float], str]:
    """Weights, what was drawn for this process, and the state of what is drawn for all, of 12 epochs."""
    net, rng, drawn = Parts(), np.random.default_rng(5), []
    own = peers.own(rng)

    def step(batch: torch.Tensor) -> torch.Tensor:
        drawn.append(float(own.normal()))
        return net.loss(batch + drawn[-1])

    def end(epoch: int) -> None:
        if epoch == until:
            raise Killed

    # in another order in each pass, which is the same for all
    batches = type("Shuffled", (), {"__iter__": lambda _: iter([BATCHES[i] for i in rng.permutation(4)])})()
    runtime = Runtime(checkpoint=folder, fingerprint="noisy")
    loop(step, net, Train(epochs=12, lr=0.1), batches=batches, rng=rng, peers=peers, runtime=runtime, each_epoch=end)
    return [value for each in net.parameters() for value in each.tolist()], drawn, repr(rng.bit_generator.state)


def test_each_draws_numbers_of_its_own_and_all_end_with_one_net():
    (net, drawn, state), (other_net, other_drawn, other_state) = meet(2, lambda peers: noisy(peers, None))
    assert net == other_net
    assert state == other_state
    assert len({*drawn, *other_drawn}) == 2 * 2 * 12


def test_torch_draws_other_numbers_in_each():
    seeds = meet(2, lambda peers: [peers.seed(np.random.default_rng(3)) for _ in range(2)])
    assert seeds[0][0] == seeds[0][1]  # a pass begins anew from the numbers of all
    assert seeds[0][0] != seeds[1][0]
    assert Peers().seed(np.random.default_rng(3)) is None


def test_several_that_were_killed_go_on_from_what_the_first_wrote(tmp_path):
    whole = meet(2, lambda peers: noisy(peers, None))
    with pytest.raises(Killed):
        meet(2, lambda peers: noisy(peers, tmp_path, until=8))
    assert [file.name for file in tmp_path.iterdir()] == ["training.safetensors"]
    rest = meet(2, lambda peers: noisy(peers, tmp_path))
    for (net, drawn, state), (found, found_drawn, found_state) in zip(whole, rest, strict=True):
        assert (net, state) == (found, found_state)
        assert found_drawn == drawn[-len(found_drawn) :]  # those since the checkpoint of the fifth epoch
        assert len(found_drawn) == 2 * 7
    with pytest.raises(InputError, match=r"another call .*devices"):
        noisy(Peers(), tmp_path)


def test_all_hear_that_a_loss_is_no_longer_finite():
    def train(peers: Peers) -> str:
        net = Parts()
        step = lambda batch: net.loss(batch) * (float("nan") if peers.rank else 1.0)  # noqa: E731
        try:
            loop(step, net, Train(epochs=2), batches=BATCHES, peers=peers)
        except ScdanceError as error:
            return str(error)
        return ""

    assert all("no longer finite in epoch 1" in said for said in meet(2, train))
