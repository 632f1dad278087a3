"""Rounds of training, after each of which asked cells whose type is reliable join the reference."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from scdance._checks import InputError, whole_number
from scdance._core.cells import Cells
from scdance.graph import mixture
from scdance.train import Batches, Train

from ._adapted import Adapted, Together

FEW = 0.01  # of the asked cells: with fewer left there is no further round


class SCBridge(Adapted):
    """Let asked cells join the labelled ones once their type is reliable, and start anew with these [Li2023]_.

    An encoder and a classifier learn from the labelled cells, where rare types weigh as much as common ones, while
    the mean of each type in one layer is drawn to its mean in the other. A cell is reliable where it lies near the
    mean of its type and its loss is low, each being the lower part of a mixture of two Gaussians. Reliable cells join
    the labelled ones with their type, and a new net is trained, for some rounds.

    When to use
    -----------
    As the method to beat where two layers differ: it is simple, and shows what joining reliable cells brings.

    When not
    --------
    With few labels among many cells of the reference: those without a label are not learnt from.

    Differs from the paper
    ----------------------
    A thin version of it: fewer rounds, and training by steps; ``preset="paper"`` has the paper's rounds and epochs.
    Unlabelled cells of the reference are left out, as the paper's reference has none. What aligns the means is the
    square of their distance.

    Parameters
    ----------
    rounds
        Most nets that are trained one after the other, at least 1.
    reliable
        Probability of the lower part of both mixtures above which a cell joins, in (0, 1).
    momentum
        Share of a mean that stays when a batch adds to it, in [0, 1).
    align
        Weight of the squared distance of the means of a type, at least 0; 0 leaves it out.
    training
        each net; the patience has no part in it
    """

    rounds: int = 4
    reliable: float = 0.95
    momentum: float = 0.9
    align: float = 1.0
    training: Train = Train(epochs=None, steps=300, lr=1e-3, batch_size=128, weight_decay=1e-2, optimizer="adamw")

    cite = "Li2023"
    presets = {"paper": {"n_top_genes": None, "rounds": 20, "epochs": 20, "lr": 5e-4, "batch_size": 512}}

    def check(self) -> None:
        super().check()
        whole_number(self.rounds, "rounds", least=1)
        ranges = {
            "reliable": (0 < self.reliable < 1, "between 0 and 1"),
            "momentum": (0 <= self.momentum < 1, "at least 0 and below 1"),
            "align": (self.align >= 0, "at least 0"),
        }
        for name, (fits, wanted) in ranges.items():
            if not fits:
                msg = f"{name}={getattr(self, name)!r}, but it must be {wanted}."
                raise InputError(msg)

    def teach(self, ref: Cells, cells: Cells) -> None:
        known, _ = self.begin(ref)
        types = np.full(cells.n_obs, -1)  # of the asked cells that have joined
        n_joined = [0]
        for i in range(self.rounds):
            self.net_ = self.net().to(self.target)
            self._train(ref, cells, known, types, f"round_{i + 1}")
            rest = np.flatnonzero(types < 0)
            if i + 1 == self.rounds or len(rest) <= max(FEW * cells.n_obs, 2):
                break
            found, is_reliable = self._judge(ref, cells, known, rest)
            if not is_reliable.any():
                break
            types[rest[is_reliable]] = found[is_reliable]
            n_joined.append(int((types >= 0).sum()))
        self.notes_ = {"n_rounds": i + 1, "n_joined": np.array(n_joined)}

    def _train(self, ref: Cells, cells: Cells, known: np.ndarray, types: np.ndarray, stage: str) -> None:
        """Train a new net on the labelled cells and those that joined, and align it to the rest."""
        how, rng = self.training, self.rng(stage)
        joined, rest = np.flatnonzero(types >= 0), np.flatnonzero(types < 0)
        taught, with_them, others = (
            Batches(each, how.batch_size, rng=rng, rows=rows, device=self.target) if len(rows) else None
            for each, rows in ((ref, known), (cells, joined), (cells, rest))
        )
        labels: Any = ref.labels
        sizes = np.bincount(np.concatenate([labels[known], types[joined]]), minlength=self.n_types_)
        weights = self.tensor(sizes.sum() / (self.n_types_ * sizes))
        means = Means(self.n_types_, self.n_latent, self.momentum, self.target)
        epoch = 0

        def count(number: int) -> None:
            nonlocal epoch
            epoch = number

        def step(batch: Any) -> Tensor:
            one, two, three = batch
            there = [each for each in (one, two, three) if each is not None]
            z, logits = self.net_(torch.cat([each.x for each in there]))
            known_types = [labels[one.rows], *([types[two.rows]] if two is not None else [])]
            codes = torch.from_numpy(np.concatenate(known_types).astype(np.int64)).to(self.target)
            n = len(codes)
            loss = cross_entropy(logits[:n], codes, weight=weights)
            if self.align and epoch and three is not None:  # in the first pass types mean nothing yet
                loss = loss + self.align * means.apart(z[:n], codes, z[n:], logits[n:].argmax(dim=1))
            return cast("Tensor", loss)

        batches = Together(taught, with_them, others)
        self.learn(
            step, self.net_, how, stage=stage, batches=batches, each_epoch=count, rng=rng, memory=means.memory
        )  # fmt: skip

    def _judge(self, ref: Cells, cells: Cells, known: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Type of each of the other cells, and whether it is reliable: near the mean of the type, and of low loss."""
        labels: Any = ref.labels
        z, _ = self.seen(ref, known)
        means = np.stack([z[labels[known] == code].mean(axis=0) for code in range(self.n_types_)])
        z, log_proba = self.seen(cells, rest)
        types = log_proba.argmax(axis=1)
        distance = np.linalg.norm(z - means[types], axis=1)
        both = [lower_part(each, self.random_state) for each in (distance, -log_proba.max(axis=1))]
        return types, np.minimum(*both) > self.reliable


class Means:
    """Mean place of each type on both sides, which moves on with each batch.

    Parameters
    ----------
    n_types, n_latent
        Their shape.
    momentum
        Share of a mean that stays.
    device
        Where they lie.

    Attributes
    ----------
    memory
        The means of either side, (n_types, n_latent), 0 of a type that has not been seen; for checkpoints.
    """

    def __init__(self, n_types: int, n_latent: int, momentum: float, device: torch.device) -> None:
        self.momentum = momentum
        self.memory = {side: torch.zeros(n_types, n_latent, device=device) for side in ("ref", "cells")}

    def apart(self, z_ref: Tensor, ref: Tensor, z_cells: Tensor, cells: Tensor) -> Tensor:
        """Mean squared difference of the means of the types that both sides have shown, after these batches."""
        one, other = self._moved("ref", z_ref, ref), self._moved("cells", z_cells, cells)
        both = one.detach().any(dim=1) & other.detach().any(dim=1)
        return (one - other)[both].square().sum() / max(1, int(both.sum()) * one.shape[1])

    def _moved(self, side: str, z: Tensor, codes: Tensor) -> Tensor:
        old = self.memory[side].to(z)
        is_of = torch.nn.functional.one_hot(codes, len(old)).to(z)
        n = is_of.sum(dim=0)[:, None]
        share = torch.where(old.any(dim=1, keepdim=True), self.momentum, 0.0).masked_fill(n == 0, 1.0)
        new = share * old + (1 - share) * (is_of.T @ z) / n.clamp(min=1)
        self.memory[side] = new.detach()
        return new


def lower_part(values: np.ndarray, random_state: int) -> np.ndarray:
    """Probability that each value is of the lower of two Gaussians, (n,); 1 where all values are the same."""
    sd = values.std()
    if sd <= 1e-6 * max(abs(float(values.mean())), 1e-6):
        return np.ones(len(values), dtype=np.float32)
    _, means, proba = mixture(((values - values.mean()) / sd)[:, None], 2, n_init=1, random_state=random_state)
    return proba[:, means[:, 0].argmin()]
