"""What methods with one net for both layers share: the net, how both sides are read together, what it says of cells."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice, repeat
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from scdance._checks import InputError, listed, whole_number
from scdance._core.cells import Cells
from scdance.nn import Dense
from scdance.train import Batch, Batches, TorchMethod

from ._transfer import Transfer

ROWS = 1024  # cells that the net sees at once where it does not train


class Adapted(Transfer, TorchMethod):
    """Base of methods with an encoder and a classifier that both layers share: a subclass writes :meth:`teach`.

    Parameters
    ----------
    hidden
        Width of the layer before the latent space.
    n_latent
        Dimensions of the latent space.
    dropout
        Share of the units of that layer that are dropped in training, in [0, 1).
    hide
        Share of the genes that the net is not shown in training, others in each step, in [0, 1): cells of the other
        layer may have counts of a few genes only.
    """

    hidden: int = 256
    n_latent: int = 64
    dropout: float = 0.5
    hide: float = 0.0

    def check(self) -> None:
        super().check()
        whole_number(self.hidden, "hidden", least=1)
        whole_number(self.n_latent, "n_latent", least=2)  # each cell is standardised over them
        for name in ("dropout", "hide"):
            if not 0 <= getattr(self, name) < 1:
                msg = f"{name}={getattr(self, name)!r}, but it must be at least 0 and below 1."
                raise InputError(msg)

    def net(self) -> nn.Module:
        return SharedNet(self.n_vars_, self.hidden, self.n_latent, self.n_types_, self.dropout, self.hide)

    def begin(self, ref: Cells) -> tuple[np.ndarray, np.ndarray]:
        """Cells of the reference with a label and without, as positions, after a look at whether each type has one."""
        labels = cast("np.ndarray", ref.labels)
        sizes = np.bincount(labels[labels >= 0], minlength=self.n_types_)
        empty = [name for name, size in zip(cast("list[str]", ref.categories), sizes, strict=True) if not size]
        if empty:
            msg = (
                f"{len(empty)} types of the reference have no labelled cell with counts: {listed(empty)}. Label at "
                "least one cell of each type, or leave the type out."
            )
            raise InputError(msg)
        self.n_vars_ = ref.n_vars
        return np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)

    def logits(self, cells: Cells) -> np.ndarray:
        return self.map(lambda batch: self.net_(batch.x)[1], cells, size=ROWS)

    def place(self, cells: Cells, role: str = "cells") -> np.ndarray:
        return self.map(lambda batch: self.net_(batch.x)[0], cells, size=ROWS)

    @torch.no_grad()
    def seen(self, cells: Cells, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places and logarithms of the probabilities of some cells, (n, n_latent) and (n, n_types), without dropout."""
        out = [self.net_(batch.x) for batch in Batches(cells, ROWS, rows=rows, device=self.target)]
        z, logits = (torch.cat(each) for each in zip(*out, strict=True))
        return z.cpu().numpy(), logits.log_softmax(dim=1).cpu().numpy()


class SharedNet(nn.Module):
    """Encoder of one hidden layer, whose output is standardised for each cell, and a linear classifier.

    The classifier starts at zero, so that no type is preferred and their order means nothing.

    Parameters
    ----------
    n_vars, hidden, n_latent, n_types
        Widths.
    dropout, hide
        Shares of the hidden units and of the genes that are left out in training; of the genes for a whole batch.
    """

    def __init__(self, n_vars: int, hidden: int, n_latent: int, n_types: int, dropout: float, hide: float) -> None:
        super().__init__()
        self.hide = hide
        self.encoder = Dense([n_vars, hidden, n_latent], last="none", batch_norm=True, dropout=dropout)
        self.standardise = nn.LayerNorm(n_latent, elementwise_affine=False)
        self.types = nn.Linear(n_latent, n_types)
        nn.init.zeros_(self.types.weight)
        nn.init.zeros_(self.types.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Places and logits, (n, n_latent) and (n, n_types)."""
        z = self.standardise(self.encoder(x) if not (self.training and self.hide) else self._encoded_in_part(x))
        return z, self.types(z.relu())

    def _encoded_in_part(self, x: Tensor) -> Tensor:
        """Places from some of the genes, drawn anew; what they give is scaled up in place of the others."""
        first, *others = self.encoder.layers
        shown = torch.rand(x.shape[1], device=x.device) >= self.hide
        h = linear(x[:, shown], first.weight[:, shown] / (1 - self.hide), first.bias)  # type: ignore[index, operator]
        for layer in others:
            h = layer(h)
        return h


class Together:
    """Batches of several sets of cells at once; a pass goes once through the largest, and anew through the others.

    Parameters
    ----------
    sets
        Batches of each set, which shuffle anew each time they are gone through; None for a set without cells. What
        they draw from may change between passes.
    least
        Fewest steps of a pass; with few cells it goes through all of them several times.
    """

    def __init__(self, *sets: Batches | None, least: int = 1) -> None:
        self.sets = sets
        self.n = max(least, *(len(each) for each in sets if each is not None))

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[tuple[Batch | None, ...]]:
        yield from zip(*(self._endless(each) for each in self.sets), strict=True)

    def _endless(self, batches: Batches | None) -> Iterator[Any]:
        empty = batches is None or not len(batches.rows)
        return islice(repeat(None) if empty else chain.from_iterable(repeat(batches)), self.n)  # type: ignore[arg-type]
