"""DAVAE across omics: both layers in one space by an autoencoder with an adversary, types by a classifier in it."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from scdance._checks import InputError, whole_number
from scdance._core.cells import Cells
from scdance.nn import BatchVAE, Dense
from scdance.pp import Recipe
from scdance.train import Batch, PairedBatches, TorchMethod, Train

from ._transfer import Transfer

ROLES = ("ref", "cells")  # by their codes as batches
DEPTH = 1e4  # counts that a cell is brought to before the logarithm
PAPER: dict[str, Any] = {
    "unit": "log",
    "hidden": (128, 64, 32, 16),
    "n_latent": 8,
    "condition": "decoder",
    "adversary": 6.0,
    "ramp": False,
    "hide": 0.0,
    "epochs": 60,
    "lr": 0.01,
    "batch_size": 256,
    "teach_epochs": 25,
    "teach_batch_size": 128,
}


class DAVAE(Transfer, TorchMethod):
    """Put both layers into one space by an autoencoder and an adversary, and let a small net name types [Hu2022]_.

    A variational autoencoder restores the features of the cells of both layers from one space; what sets the layers
    apart throughout is left to an offset of each feature, and an adversary looks for the rest of it in the space. Then
    a net of two hidden layers learns the types from the labelled cells in that space, and is asked for the others.

    When to use
    -----------
    Layers that share their features and differ in more than their scale, with thousands of cells; where a mixture of
    types, as in a spot, is wanted as probabilities.

    When not
    --------
    With hundreds of cells, or for a quick answer: ``"knn"``.

    Differs from the paper
    ----------------------
    Each layer is brought to the same scale by itself, weighed by term frequency and inverse document frequency, and the
    last step of the decoder is linear; the paper takes logarithms of normalised counts and a softplus
    (``unit="log"``). The layer is told by offsets, and the adversary has a small part of the published weight.

    Parameters
    ----------
    unit
        What enters: features "scaled" in each layer by itself, or "log"-normalised counts.
    hidden
        Widths of the hidden layers of the encoder; the decoder mirrors them.
    n_latent
        Dimensions of the space.
    condition
        How the nets are told the layer: by an "offset" of each feature behind the decoder; as input of the
        "decoder"; in both ways, "offset_decoder"; as input of "both" nets; "none" is told.
    adversary
        Weight λ of the adversary, ≥ 0; as in the authors' code it counts once for each feature. 0: there is none.
    n_adversary
        Units of the hidden layer of the adversary.
    ramp
        Let the weight of the adversary grow over the training, as 2 / (1 + exp(−10 t)) − 1 of the part t that is over.
    hide
        Part of the expression that the encoder is not shown in training, in [0, 1), so that few cells are not learnt
        by heart.
    dropout
        Part of the units of each hidden layer that is dropped in training, in [0, 1).
    classifier
        Widths of the hidden layers of the net that names the types.
    training
        autoencoder and adversary; the patience has no part in it
    teaching
        the net that names the types; the patience has no part in it
    """

    unit: Literal["scaled", "log"] = "scaled"
    hidden: tuple[int, ...] = (128,)
    n_latent: int = 10
    condition: Literal["offset", "decoder", "offset_decoder", "both", "none"] = "offset_decoder"
    adversary: float = 0.001
    n_adversary: int = 16
    ramp: bool = True
    hide: float = 0.5
    dropout: float = 0.1
    classifier: tuple[int, ...] = (64, 32)
    training: Train = Train(epochs=None, steps=400, lr=5e-3, batch_size=128)
    teaching: Train = Train(epochs=None, steps=300, lr=0.01, batch_size=128)

    cite = "Hu2022"
    presets = {"paper": PAPER}

    @property
    def recipe(self) -> dict[str, Recipe]:  # type: ignore[override]
        if self.unit == "scaled":
            return super().recipe
        logged: dict[str, Any] = {"normalize_total": {"target": DEPTH}, "log1p": {}}
        chosen = {"select_genes": {"n_top": self.n_top_genes}}
        return {"ref": Recipe(filter_genes={"min_counts": 1}, **logged, **chosen), "cells": Recipe(**logged)}

    def check(self) -> None:
        super().check()
        whole_number(self.n_latent, "n_latent", least=1)
        whole_number(self.n_adversary, "n_adversary", least=1)
        for name in ("hidden", "classifier"):
            widths = getattr(self, name)
            if not widths or min(widths) < 1:
                msg = f"{name}={widths!r}, but it must be at least one layer of at least one unit."
                raise InputError(msg)
        if self.adversary < 0 or not 0 <= self.dropout < 1 or not 0 <= self.hide < 1:
            msg = (
                f"adversary={self.adversary!r}, hide={self.hide!r} and dropout={self.dropout!r}, but a weight must be "
                "at least 0, and a part at least 0 and below 1."
            )
            raise InputError(msg)

    def net(self) -> nn.Module:
        vae = BatchVAE(
            self.n_vars_,
            len(ROLES),
            hidden=self.hidden,
            n_latent=self.n_latent,
            condition=self.condition,
            positive=self.unit == "log",
            hide=self.hide,
            dropout=self.dropout,
            adversary=self.adversary,
            n_adversary=self.n_adversary,
        )
        types = Dense([self.n_latent, *self.classifier, self.n_types_], last="none", dropout=0.05)
        return nn.ModuleDict({"vae": vae, "types": types})

    def teach(self, ref: Cells, cells: Cells) -> None:
        self.n_vars_ = ref.n_vars
        self.net_ = self.net()
        self.net_["vae"].start_at(torch.from_numpy(np.stack([_mean(ref), _mean(cells)])))
        self.net_.to(self.target)
        self._learn_space(ref, cells)
        self._learn_types(ref)

    def logits(self, cells: Cells) -> np.ndarray:
        return self.map(lambda some: self.net_["types"](self._place(some, "cells")), cells)

    def place(self, cells: Cells, role: str = "cells") -> np.ndarray:
        return self.map(lambda some: self._place(some, role), cells)

    def _place(self, some: Batch, role: str) -> Tensor:
        codes = torch.full((len(some.x),), ROLES.index(role), device=some.x.device)
        return self.net_["vae"].encode(some.x, codes).mean  # type: ignore[no-any-return]

    def _learn_space(self, ref: Cells, cells: Cells) -> None:
        """Train the autoencoder on the cells of both layers, drawn together."""

        def x(rows: np.ndarray) -> Tensor:
            sides = (ref.dense(rows[rows < ref.n_obs]), cells.dense(rows[rows >= ref.n_obs] - ref.n_obs))
            return self.tensor(np.concatenate(sides))

        def layer(rows: np.ndarray) -> Tensor:
            return torch.from_numpy(np.sort(rows >= ref.n_obs).astype(np.int64)).to(self.target)  # as in x

        how, rng = self.training, self.rng("training")
        every = np.arange(ref.n_obs + cells.n_obs)
        batches = PairedBatches(x, layer, np.column_stack([every, every]), how.batch_size, rng)
        total = how.n_epochs(len(batches)) * len(batches) if self.ramp else None

        def step(batch: tuple[Tensor, Tensor]) -> Tensor:
            return self.net_["vae"].loss(*batch, total=total)  # type: ignore[no-any-return]

        self.learn(step, self.net_["vae"], how, batches=batches, rng=rng)

    def _learn_types(self, ref: Cells) -> None:
        """Train the net that names the types on the labelled cells of the reference, where they lie in the space."""
        labels: Any = ref.labels
        known = np.flatnonzero(labels >= 0)
        z, codes = self.tensor(self.place(ref, "ref")), torch.from_numpy(labels.astype(np.int64)).to(self.target)
        how, rng, rows = self.teaching, self.rng("teaching"), np.column_stack([known, known])
        batches = PairedBatches(lambda at: z[at], lambda at: codes[at], rows, how.batch_size, rng)

        def step(batch: tuple[Tensor, Tensor]) -> Tensor:
            return cross_entropy(self.net_["types"](batch[0]), batch[1])

        self.learn(step, self.net_["types"], how, stage="teaching", batches=batches, rng=rng)


def _mean(cells: Cells) -> np.ndarray:
    """Mean of each feature after the recipe, (n_vars,) float64."""
    return (
        sum((block.sum(axis=0, dtype=np.float64) for block in cells.dense_blocks()), np.zeros(cells.n_vars))
        / cells.n_obs
    )
