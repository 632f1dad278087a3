"""The processes that train one net together, each on cells of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from scdance._checks import InputError

T = TypeVar("T")


class Peers:
    """One process, which trains alone: what :func:`loop` asks of others, it has at once.

    Attributes
    ----------
    rank
        Number of this process, from 0; the first one reports and writes.
    n
        Number of processes.

    Examples
    --------
    >>> from scdance import train
    >>> train.Peers().first("stop"), train.Peers().n_steps(7)
    ('stop', 7)
    """

    rank, n = 0, 1

    def n_steps(self, n_batches: int) -> int:
        """Steps of a pass over so many batches."""
        return -(-n_batches // self.n)

    def share(self, batches: Iterable[T]) -> Iterable[T]:
        """The batches of a pass that are for this process, as many as for any other."""
        return batches

    def own(self, rng: np.random.Generator) -> np.random.Generator:
        """The generator of what each process draws for itself, such as what is hidden; `rng` is that of all."""
        return rng

    def seed(self, rng: np.random.Generator | None) -> int | None:
        """Begin a pass: a seed for this process alone, or None where the numbers go on as they are."""
        return None

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace gradients by their means over the processes."""

    def total(self, values: list[float]) -> list[float]:
        """Sum of each number over the processes."""
        return values

    def first(self, value: T) -> T:
        """What the first process says."""
        return value


class Together(Peers):
    """Processes that Lightning Fabric has launched; every method but `own` and `n_steps` must be called in all.

    They begin with the same net, batches and shared generator. What a process draws for itself begins anew in each
    pass, from a number that all draw, so that a checkpoint of the first is one of all.

    Parameters
    ----------
    fabric
        The launched ``lightning_fabric.Fabric``.
    """

    def __init__(self, fabric: Any) -> None:
        self.fabric, self.rank, self.n = fabric, int(fabric.global_rank), int(fabric.world_size)
        self.rng = np.random.default_rng(self.rank)

    def share(self, batches: Iterable[T]) -> Iterable[T]:
        """Every n-th; where the last step wants for batches, it has the first of the pass once more."""
        items = list(batches)  # which say where cells are, and do not hold them
        if len(items) < self.n:
            msg = (
                f"devices={self.n}, but there are {len(items)} groups of cells to train on, of which each device takes "
                "another: pass fewer devices, or a smaller `batch_size`."
            )
            raise InputError(msg)
        return islice(items + items[: -len(items) % self.n], self.rank, None, self.n)

    def own(self, rng: np.random.Generator) -> np.random.Generator:
        return self.rng

    def seed(self, rng: np.random.Generator | None) -> int | None:
        if rng is None:
            return None
        self.rng.bit_generator.state = np.random.default_rng([int(rng.integers(2**63)), self.rank]).bit_generator.state
        return int(self.rng.integers(2**63))

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """As of the mean of the losses: a gradient that is missing in some counts as 0, in all it stays missing."""
        grads = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
        there = grads[0].new_tensor([each.grad is not None for each in parameters])
        flat = self.fabric.all_reduce(torch.cat([*(grad.flatten() for grad in grads), there]), reduce_op="mean")
        *means, there = flat.split([*(each.numel() for each in parameters), len(parameters)])
        for each, mean, share in zip(parameters, means, there.tolist(), strict=True):
            each.grad = mean.view_as(each) if share else None

    def total(self, values: list[float]) -> list[float]:
        found = self.fabric.all_reduce(torch.tensor(values, dtype=torch.float64), reduce_op="sum")
        return [float(value) for value in found]

    def first(self, value: T) -> T:
        return self.fabric.broadcast(value)  # type: ignore[no-any-return]
