"""Latent semantic indexing of the source and a net of a few wide layers to the target."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from scdance._checks import InputError
from scdance._core.cells import Cells, Pair
from scdance.nn import Dense
from scdance.pp import Recipe
from scdance.train import PairedBatches, Train, components, recipes_to_reduce, scores, target_of

from ._torch_predictor import TorchPredictor

TINY = 1e-12  # under the root of an error

PAPER = {  # for proteins from RNA
    "shrink": False,
    "n_target": None,
    "weighting": "tfidf",
    "hidden": (512, 512, 2048),
    "dropout": (0.2, 0.15, 0.17),
    "output": "gelu",
    "start_at_mean": False,
    "valid_share": 0.25,
    "valid_by": "cells",
    "lr": 3e-5,
    "batch_size": 32,
    "weight_decay": 1e-2,
    "patience": None,
}


class Novel(TorchPredictor):
    """Predict the target by a net on latent semantic indices of the source [Lance2022]_.

    The source is weighted by term frequency and inverse document frequency, as words are in documents, and reduced by
    a truncated singular value decomposition; each cell is brought to mean 0 and variance 1 over its scores, so that
    its depth drops out. A net of a few wide layers turns the scores into features of the target, or into scores of a
    decomposition of the target, which come to features by its loadings. It starts at the mean of each feature and is
    trained on the root of the mean squared error of a batch.

    Parameters
    ----------
    n_source
        Components of the source, fewer where there are fewer cells. Proteins stay as they are; so does a modality that
        has no more features, or all with None.
    n_target
        Components of the target that the net says; where it has no more features, or with None, the features
        themselves.
    weighting
        Of RNA: "log", the logarithm of counts relative to depth, or "tfidf", which weights it by term frequency and
        inverse document frequency besides, as peaks always are.
    hidden
        Width of each hidden layer.
    dropout
        Part of the units of each hidden layer that is dropped in training, in [0, 1).
    output
        "linear", or "gelu", which says nothing below −0.17 and keeps a slope near 0, for targets that are 0 or more.
    start_at_mean
        Start each output at the mean of its feature.
    n_top_genes, n_top_peaks
        Genes or peaks of the source with the largest deviance that are kept; None: all.

    When to use
    -----------
    A thousand paired cells or more of any two modalities: it needs neither labels nor batches.

    When not
    --------
    A few hundred cells, for which `kernel_ridge` is steadier and takes a second.

    Differs from the paper
    ----------------------
    The training ends by cells, or whole batches, that were held out of it; the competition's code chose the best epoch
    for genes by the cells that it was scored on. The output is linear and limited afterwards, batches are larger and
    steps longer, and wide targets are reduced. Weights are those of counts, where the competition weighted values that
    were normalised before.
    """

    n_source: int | None = 256
    n_target: int | None = 200
    weighting: Literal["tfidf", "log"] = "log"
    hidden: tuple[int, ...] = (512, 512)
    dropout: tuple[float, ...] = (0.2, 0.2)
    output: Literal["linear", "gelu"] = "linear"
    start_at_mean: bool = True
    n_top_genes: int | None = None
    n_top_peaks: int | None = 30_000
    training: Train = Train(epochs=100, lr=3e-4, batch_size=256, weight_decay=1e-2, patience=10, optimizer="adamw")

    cite = "Lance2022"
    presets = {
        "paper": PAPER,
        "gex2adt": PAPER,
        "adt2gex": PAPER
        | {
            "hidden": (512, 512, 512),
            "dropout": (0.0, 0.0, 0.0),
            "lr": 4e-4,
            "batch_size": 64,
            "weight_decay": 1e-5,
            "optimizer": "adam",
        },
        "gex2atac": PAPER
        | {
            "hidden": (1024, 256, 2048),
            "dropout": (0.3, 0.11, 0.14),
            "lr": 1e-5,
            "batch_size": 64,
            "weight_decay": 4e-4,
        },
        "atac2gex": PAPER
        | {
            "hidden": (2048, 2048, 512),
            "dropout": (0.26, 0.18, 0.25),
            "lr": 8e-5,
            "batch_size": 256,
            "weight_decay": 7e-4,
        },
    }

    @property
    def recipe(self) -> dict[str, Recipe]:  # type: ignore[override]
        found = recipes_to_reduce(self.n_top_genes, self.n_top_peaks)
        if self.weighting == "tfidf":
            found["rna"] = Recipe(normalize_total={}, log1p={}, select_genes={"n_top": self.n_top_genes}, tfidf={})
        return found

    def check(self) -> None:
        super().check()
        if len(self.hidden) != len(self.dropout):
            msg = f"hidden has {len(self.hidden)} layers, but dropout {len(self.dropout)} parts; give one for each."
            raise InputError(msg)
        if not all(0 <= part < 1 for part in self.dropout):
            msg = f"dropout={self.dropout!r}, but each part must be at least 0 and below 1."
            raise InputError(msg)
        if self.output == "gelu" and self.n_target is not None:
            msg = "output='gelu' cannot say scores of components, which are below 0 too: pass n_target=None with it."
            raise InputError(msg)

    def prepare(self, pair: Pair, rows: np.ndarray) -> None:
        source, target, seed = pair.source, target_of(pair), self.random_state
        n_source = None if source.modality == "prot" else self.n_source
        self.loadings_ = {
            "source": components(source, rows[:, 0], n_source, random_state=seed),
            "target": components(target, rows[:, 1], self.n_target, random_state=seed),
        }
        self.start_ = self.features_["mean"] if self.start_at_mean else np.zeros_like(self.features_["mean"])

    def one_net(self) -> nn.Module:
        widths = [len(self.loadings_["source"]), *self.hidden]
        layers: list[nn.Module] = [
            Dense([n_in, n_out], activation="gelu", dropout=part)
            for n_in, n_out, part in zip(widths[:-1], widths[1:], self.dropout, strict=True)
        ]
        head = Dense([widths[-1], len(self.loadings_["target"])], last="gelu" if self.output == "gelu" else "none")
        if self.start_at_mean:
            for parameter in head.parameters():
                nn.init.zeros_(parameter)
        return nn.Sequential(*layers, head)

    def inputs(self, source: Cells, rows: Any) -> np.ndarray:
        return scores(source, rows, self.loadings_["source"], unit_rows=True)

    def say(self, net: Any, x: Tensor) -> Tensor:
        return net(x) @ self.tensor(self.loadings_["target"]) + self.tensor(self.start_)  # type: ignore[no-any-return]

    def train_one(self, net: Any, pair: Pair, rows: np.ndarray, valid: np.ndarray, stage: str) -> None:
        def step(batch: tuple[Tensor, Tensor]) -> Tensor:
            x, y = batch
            return (functional.mse_loss(net(x), y) + TINY).sqrt()

        self.run_one(step, net, pair, rows, valid, stage)

    def batches(self, pair: Pair, rows: np.ndarray, size: int, stage: str) -> PairedBatches:
        """Batches of scores, which are few and so are computed once."""
        loadings = self.loadings_["target"]
        x = self.tensor(self.inputs(pair.source, rows[:, 0]))
        y = self.tensor(scores(target_of(pair), rows[:, 1], loadings) - loadings @ self.start_)
        at = np.repeat(np.arange(len(rows))[:, None], 2, axis=1)
        return PairedBatches(x.__getitem__, y.__getitem__, at, size, self.rng(f"{stage} batches"))
