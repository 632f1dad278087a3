"""CMAE: an autoencoder of each modality, whose latent spaces an adversary cannot tell apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from scdance._checks import InputError
from scdance._core.cells import Pair
from scdance.nn import Dense, known_cross_entropy
from scdance.pp import Recipe
from scdance.train import PairedBatches, TorchMethod, Train, target_of

from ._torch_predictor import TorchPredictor
from ._whole import ROLES, means, recipes

WIDEST = 1000  # layer of one modality, as published
NEAR = 0.1  # part of the first weights that is left where outputs start near the means
DISCRIMINATOR = (50, 100)  # widths of its hidden layers
DISCRIMINATOR_SD = 0.02  # of its first weights

DANCE = {
    "shrink": False,
    "hidden": None,
    "n_layers": 3,
    "n_top_genes": 10_000,
    "dropout": 0.0,
    "error": "absolute",
    "anchor": 0.1,
    "start_at_mean": False,
    "lr": 1e-4,
    "weight_decay": 1e-4,
    "batch_size": 64,
    "epochs": 100,
    "patience": None,
}

Turn = tuple[Callable[[Any], Tensor], Iterator[nn.Parameter]]


class TwoAutoencoders(TorchMethod):
    """Base of methods that train two autoencoders towards one latent space: the knobs, the nets and the losses.

    Parameters
    ----------
    hidden
        Width of the layers of each modality; None: its number of features, at most 1,000.
    n_layers
        Number of these layers, in encoder and decoder.
    n_common
        Width of the layers of each modality beside the latent space; between them and it lie layers that both share.
    n_latent
        Dimensions of the latent space.
    dropout
        Part of the units of each layer of one modality that is dropped in training, in [0, 1).
    error
        Reconstruction by "squared" or by "absolute" error. The second aims at medians, which are 0 for most genes.
    reconstruct
        Weight of the reconstruction of both modalities.
    adversary
        Weight of the adversary that tells latent modalities apart, and of misleading it; 0: there is none.
    anchor
        Weight of the absolute difference between the two places of a cell in the latent space.
    classify
        Weight of a classifier of the types in the latent space, where labels are given.
    start_at_mean
        Start each output near the mean of its feature.
    n_top_genes, n_top_peaks
        Genes and peaks with the largest deviance that are kept, of the source only where the target is predicted; None:
        all.
    scale
        Bring each gene or protein, of the source only where the target is predicted, to mean 0 and variance 1, clipped
        at ±10.
    """

    hidden: int | None = 128
    n_layers: int = 1
    n_common: int = 100
    n_latent: int = 50
    dropout: float = 0.3
    error: Literal["squared", "absolute"] = "squared"
    reconstruct: float = 10.0
    adversary: float = 10.0
    anchor: float = 10.0
    classify: float = 10.0
    start_at_mean: bool = True
    n_top_genes: int | None = 1000
    n_top_peaks: int | None = 10_000
    scale: bool = False

    @property
    def recipe(self) -> dict[str, Recipe]:  # type: ignore[override]
        return recipes(self.n_top_genes, self.n_top_peaks, scale=self.scale)

    def check(self) -> None:
        super().check()
        for name in ("reconstruct", "adversary", "anchor", "classify"):
            if getattr(self, name) < 0:
                msg = f"{name}={getattr(self, name)!r}, but a weight must be at least 0."
                raise InputError(msg)

    def look_at(self, pair: Pair) -> None:
        """Note what the nets are made for: numbers of features and of types."""
        self.n_vars_ = {"source": pair.source.n_vars, "target": target_of(pair).n_vars}
        labels = pair.source.labels
        self.n_types_ = 0 if labels is None or self.classify == 0 else int(labels.max()) + 1

    def start(self, net: Autoencoders, pair: Pair, rows: np.ndarray) -> None:
        """Start outputs near the means of the cells that teach, where that is wanted."""
        if self.start_at_mean:
            for role, cells, at in zip(ROLES, (pair.source, target_of(pair)), rows.T, strict=True):
                net.start_at(means(cells, at), role)

    def paired(self, pair: Pair, rows: np.ndarray, size: int, stage: str) -> PairedBatches:
        """Shuffled batches ``((x, labels), y)`` of the pairs at `rows`."""
        source, target = pair.source, target_of(pair)

        def seen(at: np.ndarray) -> tuple[Tensor, Tensor | None]:
            labels: Any = source.labels
            known = None if not self.n_types_ else torch.from_numpy(labels[at].astype(np.int64)).to(self.target)
            return self.tensor(source.dense(at)), known

        rng = self.rng(f"{stage} batches")
        return PairedBatches(seen, lambda at: self.tensor(target.dense(at)), rows, size, rng)

    def autoencoders(self, n_vars: dict[str, int], n_types: int) -> Autoencoders:
        """Both untrained autoencoders, for this number of features by role, and their adversary."""
        width = {role: min(n, WIDEST) if self.hidden is None else self.hidden for role, n in n_vars.items()}
        layers = {role: [n, *[width[role]] * self.n_layers, self.n_common] for role, n in n_vars.items()}
        return Autoencoders(layers, self.n_latent, n_types, self.dropout)

    def turns(self, net: Autoencoders) -> list[Turn]:
        """The steps that take turns on a batch ``((x, labels), y)``, each with the parameters that it moves.

        First the adversary learns to say 0 of the source and 1 of the target, then both autoencoders learn to be taken
        for each other, by least squares. `labels` are codes of the types, −1 where unknown, or None.
        """
        off = functional.mse_loss if self.error == "squared" else functional.l1_loss

        def tell(batch: Any) -> Tensor:
            (x, _), y = batch
            with torch.no_grad():
                z = net.encode(x, "source"), net.encode(y, "target")
            return self.adversary * _said(net, *z, 0.0, 1.0)

        def mislead(batch: Any) -> Tensor:
            (x, labels), y = batch
            z = net.encode(x, "source"), net.encode(y, "target")
            loss = self.anchor * functional.l1_loss(*z)
            loss = loss + self.reconstruct * (off(net.decode(z[0], "source"), x) + off(net.decode(z[1], "target"), y))
            if self.adversary:
                loss = loss + self.adversary * _said(net, *z, 1.0, 0.0)
            if net.classifier is not None and labels is not None:
                loss = loss + self.classify * sum(known_cross_entropy(net.classifier(each), labels) for each in z)
            return loss

        others = [part.parameters() for name, part in net.named_children() if name != "discriminator"]
        both: list[Turn] = [(tell, net.discriminator.parameters()), (mislead, chain.from_iterable(others))]
        return both if self.adversary else both[1:]


def _said(net: Autoencoders, source: Tensor, target: Tensor, of_source: float, of_target: float) -> Tensor:
    """How far the adversary is from saying these numbers of the two modalities, squared."""
    said = net.discriminator(source), net.discriminator(target)
    return (said[0] - of_source).square().mean() + (said[1] - of_target).square().mean()


class Autoencoders(nn.Module):
    """An encoder and a decoder of each modality, the layers that both share, an adversary and a classifier.

    Parameters
    ----------
    layers
        Widths of the encoder of each modality by role, from its features to the layer beside the shared one, whose
        width is the same in both; the decoder mirrors them.
    n_latent
        Dimensions of the latent space.
    n_types
        Number of types that the classifier tells apart; 0: there is none.
    dropout
        Part of the units of the layers of one modality that is dropped.
    """

    def __init__(self, layers: dict[str, list[int]], n_latent: int, n_types: int, dropout: float) -> None:
        super().__init__()
        n_common = next(iter(layers.values()))[-1]
        leaky: dict[str, Any] = {"activation": "leaky_relu"}
        self.encoders = nn.ModuleDict({role: Dense(n, dropout=dropout, **leaky) for role, n in layers.items()})
        self.into = Dense([n_common, n_latent], **leaky)
        self.out_of = Dense([n_latent, n_common], **leaky)
        self.decoders = nn.ModuleDict(
            {role: Dense(n[::-1], dropout=dropout, last="none", **leaky) for role, n in layers.items()}
        )
        self.classifier = nn.Linear(n_latent, n_types) if n_types else None
        self.discriminator = Dense([n_latent, *DISCRIMINATOR, 1], last="none", **leaky)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, a=0.2)
                nn.init.zeros_(layer.bias)
        for layer in self.discriminator.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=DISCRIMINATOR_SD)

    def start_at(self, mean: Tensor, role: str) -> None:
        """Predict about `mean` of a modality, (n_vars,), before any training."""
        last: Any = self.decoders[role].layers[-1]  # type: ignore[index, union-attr]
        with torch.no_grad():
            last.weight.mul_(NEAR)
            last.bias.copy_(mean)

    def encode(self, x: Tensor, role: str) -> Tensor:
        """Place in the latent space of cells of a modality, (n, n_latent)."""
        return self.into(self.encoders[role](x))  # type: ignore[no-any-return]

    def decode(self, z: Tensor, role: str) -> Tensor:
        """Values of a modality at these places, (n, n_vars)."""
        return self.decoders[role](self.out_of(z))  # type: ignore[no-any-return]


class CMAE(TwoAutoencoders, TorchPredictor):
    """Encode cells by the autoencoder of one modality and decode them by that of the other [Yang2021]_.

    Each modality has an autoencoder; the layers next to the latent space are common to both. An adversary learns to
    tell of which modality a point of the latent space is, and both encoders learn to mislead it, so that they fill
    the same space; cells that were seen in both modalities are held to one place in it. The answer is what the decoder
    of the target makes of the place that the encoder of the source gives a cell.

    When to use
    -----------
    To look at both modalities in one latent space, which types that are known may shape (`labels_key=`).

    When not
    --------
    For the closest predictions: nothing in the training compares a prediction with its target, which `babel` does.

    Differs from the paper
    ----------------------
    Each modality has one layer of its own, in which units are dropped, where the paper has three; fewer genes enter;
    reconstructions have squared errors, outputs are linear, start near the mean of each feature and are limited
    afterwards; the anchor weighs a hundred times as much, since all cells that teach have both modalities; validation
    ends the training. The classifier of the latent space is given types or nothing: DANCE gives it batches, which
    then stay in the latent space. No noise is added there. Adam has PyTorch's momentum of 0.9, not 0.5. The presets
    have the layers, weights and schedules as published, but keep the best of their epochs by validation.
    """

    training: Train = Train(epochs=None, steps=3000, lr=2e-3, batch_size=128, patience=20)

    cite = "Yang2021"
    uses = ("batch", "labels")  # type: ignore[assignment]
    presets = {"dance": DANCE, "paper": {**DANCE, "n_top_genes": None, "batch_size": 32, "epochs": None, "steps": 4000}}

    def prepare(self, pair: Pair, rows: np.ndarray) -> None:
        self.look_at(pair)

    def one_net(self) -> nn.Module:
        return self.autoencoders(self.n_vars_, self.n_types_)

    def train_one(self, net: Any, pair: Pair, rows: np.ndarray, valid: np.ndarray, stage: str) -> None:
        self.start(net, pair, rows)
        self.run_one(self.turns(net), net, pair, rows, valid, stage)

    def batches(self, pair: Pair, rows: np.ndarray, size: int, stage: str) -> PairedBatches:
        return self.paired(pair, rows, size, stage)

    def say(self, net: Any, x: Tensor) -> Tensor:
        return net.decode(net.encode(x, "source"), "target")  # type: ignore[no-any-return]
