"""Nets that are told the cell cycle; autoencoders whose latent space has slots for what is known of a cell."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from scdance._checks import InputError, whole_number
from scdance._core.cells import Pair
from scdance.nn import known_cross_entropy
from scdance.pp import cell_cycle_scores
from scdance.train import Train, target_of

from ._joint import Joint, Told

FREE, FREE_WITHOUT_TYPES = 5, 25  # dimensions for what nothing is known of
PHASES = 2


class CellCycle(Joint):
    """Base of the nets that are to tell the cell cycle, where genes that tell it are there.

    Parameters
    ----------
    cycle
        Weight of the squared error of the scores of two phases of the cell cycle; 0: they are not asked for.
    """

    cycle: float = 0.05

    def check(self) -> None:
        super().check()
        if self.cycle < 0:
            msg = f"cycle={self.cycle!r}, but a weight must be at least 0."
            raise InputError(msg)

    def fit(self, *, pair: Pair) -> Self:
        try:
            return super().fit(pair=pair)
        finally:
            vars(self).pop("_phases", None)

    def prepare(self, pair: Pair, rows: np.ndarray) -> None:
        self._phases = self._scored(pair)  # by the rows of the source, standardised, (n_obs, 2) float32
        self.has_cycle_ = self._phases is not None
        if self._phases is not None:
            some = self._phases[rows[:, 0]]
            off = (self._phases - some.mean(axis=0)) / np.maximum(some.std(axis=0), 1e-6)
            self._phases = off.astype(np.float32)

    def _scored(self, pair: Pair) -> np.ndarray | None:
        sides = (pair.source, target_of(pair))
        side = next((i for i, cells in enumerate(sides) if cells.modality == "rna"), None)
        if side is None or not self.cycle:
            return None
        scored = cell_cycle_scores(sides[side].x, sides[side].var_names)
        if scored is None or side == 0:
            return scored
        of_source = np.zeros((pair.source.n_obs, PHASES), dtype=np.float32)
        of_source[pair.both[:, 0]] = scored[pair.both[:, 1]]
        return of_source


class Slots(CellCycle):
    """Base of the autoencoders with slots: a subclass writes :meth:`body` and :meth:`off_batch`.

    The latent space of a cell is cut into slots: logits of its type, where labels are given; one dimension for each
    batch, which carry nothing in the end; the scores of two phases of the cell cycle, where genes that tell them are
    there; and free ones. All of it, decoded, restores both modalities.

    Parameters
    ----------
    hidden
        Widths of the layers of the encoder.
    dropout
        Part of their units that is dropped in training, in [0, 1).
    n_free
        Free dimensions; None: 5 where labels are given, else 25.
    reconstruct, classify, unbatch
        Weights of the losses: squared error of both modalities, cross-entropy of the types of cells that have one, and
        what the slots of the batches still carry.
    """

    hidden: tuple[int, ...] = (150, 120, 100)
    dropout: float = 0.3
    n_free: int | None = None
    reconstruct: float = 0.7
    classify: float = 0.2
    unbatch: float = 0.05
    training: Train = Train(
        epochs=None, steps=3000, lr=1e-3, batch_size=128, patience=30, weight_decay=1e-2, optimizer="adamw"
    )

    uses = ("batch", "labels")

    # ------------------------------------------------------------------ what a subclass writes

    def body(self, n_in: int, n_out: int) -> tuple[nn.Module, nn.Module]:
        """Encoder and decoder of `n_in` values, and of a latent space of `n_out`."""
        raise NotImplementedError

    def off_batch(self, z: Tensor) -> Tensor:
        """What the slots of the batches carry, (n, n_batches), as a loss."""
        raise NotImplementedError

    def inputs(self) -> dict[str, nn.Module]:
        """What stands before the encoder, by role."""
        return {role: nn.Identity() for role in self.loadings_}

    # ------------------------------------------------------------------ what all share

    def check(self) -> None:
        super().check()
        for name in ("reconstruct", "classify", "unbatch"):
            if getattr(self, name) < 0:
                msg = f"{name}={getattr(self, name)!r}, but a weight must be at least 0."
                raise InputError(msg)
        if not self.hidden or not 0 <= self.dropout < 1:
            msg = (
                f"hidden={self.hidden!r} and dropout={self.dropout!r}, but at least one layer and a part in [0, 1) "
                "are needed."
            )
            raise InputError(msg)
        if self.n_free is not None:
            whole_number(self.n_free, "n_free", least=1)

    def slots(self) -> dict[str, slice]:
        """Which dimensions of the latent space are for what."""
        free = (FREE if self.n_types_ else FREE_WITHOUT_TYPES) if self.n_free is None else self.n_free
        sizes = {"types": self.n_types_, "batches": self.n_batches_, "cycle": PHASES * self.has_cycle_, "free": free}
        ends = np.cumsum([0, *sizes.values()])
        return {name: slice(int(ends[i]), int(ends[i + 1])) for i, name in enumerate(sizes)}

    def net(self) -> nn.Module:
        n_in = sum(len(loadings) for loadings in self.loadings_.values())
        n_latent = self.slots()["free"].stop
        return _Net(self.inputs(), *self.body(n_in, n_latent))

    def place(self, x: Tensor, y: Tensor) -> Tensor:
        return self.net_.encoder(self.net_.seen(x, y))  # type: ignore[no-any-return]

    def teach(self, pair: Pair, rows: np.ndarray, valid: np.ndarray) -> None:
        slots, net = self.slots(), self.net_

        def step(batch: tuple[tuple[Tensor, Told], Tensor]) -> Tensor:
            (x, told), y = batch
            seen = net.seen(x, y)
            z = net.encoder(seen)
            loss = self.reconstruct * functional.mse_loss(net.decoder(z), seen)
            if told.labels is not None and net.training:  # few held-out cells have one, and they would end it too soon
                loss = loss + self.classify * known_cross_entropy(z[:, slots["types"]], told.labels)
            if told.batch is not None:
                loss = loss + self.unbatch * self.off_batch(z[:, slots["batches"]])
            if told.cycle is not None:
                loss = loss + self.cycle * functional.mse_loss(z[:, slots["cycle"]], told.cycle)
            return loss  # type: ignore[no-any-return]

        self.run(step, self.batches(pair, rows, self.training.batch_size, self._phases), valid)


class _Net(nn.Module):
    """What both modalities are before the encoder, side by side; the encoder and the decoder."""

    def __init__(self, inputs: dict[str, nn.Module], encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.inputs, self.encoder, self.decoder = nn.ModuleDict(inputs), encoder, decoder

    def seen(self, x: Tensor, y: Tensor) -> Tensor:
        """Values of both modalities, (n, n_in)."""
        return torch.cat([self.inputs["source"](x), self.inputs["target"](y)], dim=1)
