"""A small network from expression to types."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from scdance._checks import InputError
from scdance._core.cells import Cells
from scdance.nn import Dense
from scdance.pp import mean_and_sd
from scdance.train import Batch, Batches, TorchMethod, Train

from ._annotator import Annotator

CLIP = 10.0  # standard deviations
EVERY = 1000  # steps after which the learning rate falls
PAPER = {"n_top_genes": None, "scale": "log2", "trim": 1.0, "decay": 0.95, "lr": 1e-4, "epochs": 50}


class ACTINN(Annotator, TorchMethod):
    """Annotate by a network with three hidden layers [Ma2020]_.

    Expression goes through three narrowing layers to one score for each type, trained by cross-entropy under a
    penalty on the weights.

    When to use
    -----------
    With references of many cells and types, also on a graphics card; where types are told by combinations of genes.

    When not
    --------
    When it matters which genes spoke for a type: ``"celltypist"`` has a weight for each. For types with a few cells.

    Differs from the paper
    ----------------------
    The genes that best tell the types apart are used, chosen on the reference, and brought to the same scale; a larger
    step needs fewer passes. The paper chooses genes on reference and query together, by total and by variation;
    ``preset="paper"`` does so on the reference alone.

    Parameters
    ----------
    hidden
        Widths of the hidden layers.
    scale
        Input of the network: "z" scores of each gene in the reference, at most 10; "log2" or "ln" of the normalised
        counts plus 1.
    trim
        Percentage of the genes that is left out at either end of their total, then of their coefficient of
        variation, in [0, 50); None: none.
    l2
        Weight of ½ Σ‖W‖² over the layers in the loss, ≥ 0; biases are free.
    decay
        Factor on the learning rate after each 1,000 steps, in (0, 1]; 1 leaves it.
    training
        the network; the patience has no part in it
    """

    hidden: tuple[int, ...] = (100, 50, 25)
    scale: Literal["z", "log2", "ln"] = "z"
    trim: float | None = None
    l2: float = 0.005
    decay: float = 1.0
    training: Train = Train(epochs=None, steps=400, lr=1e-3, batch_size=128)

    cite = "Ma2020"
    presets = {"paper": PAPER, "dance": {**PAPER, "hidden": (2000,), "trim": None, "scale": "ln"}}

    def check(self) -> None:
        super().check()
        ranges = {
            "l2": (self.l2 >= 0, "at least 0"),
            "decay": (0 < self.decay <= 1, "above 0 and at most 1"),
            "trim": (self.trim is None or 0 <= self.trim < 50, "None, or at least 0 and below 50"),
        }
        for name, (fits, wanted) in ranges.items():
            if not fits:
                msg = f"{name}={getattr(self, name)!r}, but it must be {wanted}."
                raise InputError(msg)

    def net(self) -> nn.Module:
        net = Dense([len(self.used_), *self.hidden, self.n_types_], last="none")
        for layer in _linear(net):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        return net

    def teach(self, cells: Cells, *, stage: str) -> None:
        self.n_types_ = len(cells.categories)
        self._describe(cells)
        self.net_ = self.net().to(self.target)
        labels = torch.from_numpy(cells.labels.astype(np.int64)).to(self.target)
        rng = self.rng(stage)

        def step(batch: Batch) -> Tensor:
            scores = self.net_(self._input(batch.x))
            return cross_entropy(scores, labels[batch.rows]) + self._penalty()

        batches = Batches(cells, self.training.batch_size, rng=rng, device=self.target)

        def pace(n: int, _: int) -> float:
            return float(self.decay ** (n // EVERY))

        self.learn(step, self.net_, self.training, stage=stage, batches=batches, rng=rng, pace=pace)

    def logits(self, cells: Cells) -> np.ndarray:
        missing = None if cells.present is None else torch.from_numpy(~cells.present[self.used_]).to(self.target)
        return self.map(lambda batch: self.net_(self._input(batch.x, missing)), cells)

    def _describe(self, cells: Cells) -> None:
        """Choose the genes that enter the network, and note their mean and standard deviation."""
        mean, sd = mean_and_sd(cells.x)
        self.used_ = np.arange(cells.n_vars) if self.trim is None else _trimmed(mean, sd, self.trim)
        self.mean_ = mean[self.used_].astype(np.float32)
        self.sd_ = np.where(sd > 0, sd, np.inf)[self.used_].astype(np.float32)

    def _input(self, x: Tensor, missing: Tensor | None = None) -> Tensor:
        """What the network sees of log-normalised expression; a gene that is missing has its mean."""
        if len(self.used_) < x.shape[1]:
            x = x[:, torch.from_numpy(self.used_).to(x.device)]
        if self.scale != "z":
            return x / np.log(2) if self.scale == "log2" else x
        x = ((x - torch.from_numpy(self.mean_).to(x)) / torch.from_numpy(self.sd_).to(x)).clamp(max=CLIP)
        return x if missing is None else x.masked_fill(missing, 0)

    def _penalty(self) -> Tensor:
        """½ λ Σ‖W‖² over the layers, without biases."""
        return self.l2 / 2 * torch.stack([layer.weight.square().sum() for layer in _linear(self.net_)]).sum()


def _linear(net: nn.Module) -> list[nn.Linear]:
    return [layer for layer in net.modules() if isinstance(layer, nn.Linear)]


def _trimmed(mean: np.ndarray, sd: np.ndarray, percent: float) -> np.ndarray:
    """Genes between the percentiles `percent` and 100 − `percent` of the mean, and then of sd/mean among these."""
    kept = np.flatnonzero(_inner(mean, percent))
    return kept[_inner(sd[kept] / np.maximum(mean[kept], 1e-12), percent)]


def _inner(values: np.ndarray, percent: float) -> np.ndarray:
    low, high = np.percentile(values, [percent, 100 - percent])
    return (values >= low) & (values <= high)
