"""BABEL: two encoders and two decoders around one latent space, all four ways through which are trained."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from scdance._checks import InputError
from scdance._core.cells import Cells, Pair
from scdance.nn import CountHead, Dense
from scdance.pp import Recipe
from scdance.train import PairedBatches, Train, mean_counts, target_of

from ._torch_predictor import TorchPredictor
from ._whole import ROLES, means, recipes

PER_CHROMOSOME = (32, 16)  # widths of the layers that see the peaks of one chromosome only
CHROMOSOME = re.compile(r"(chr\w+?)[:_-]\d+[_-]\d+")  # of chr1:100-200, chr1-100-200 or chr1_100_200
PER_CELL = 1e4  # counts of a cell in the unit of RNA
TINY = 1e-12  # under the root of an error

LONG = {"shrink": False, "hidden": 64, "dropout": 0.0, "start_at_mean": False, "epochs": 500, "lr": 1e-2}
PAPER = {**LONG, "n_latent": 16, "likelihood": "counts", "weight": 1.33, "batch_size": 512, "patience": 25}
DANCE = {**LONG, "n_latent": 64, "weight": 1.0, "by_chromosome": False, "batch_size": 64, "patience": 20}


class Babel(TorchPredictor):
    """Translate between modalities through one latent space [Wu2021]_.

    Each modality has an encoder into the latent space and a decoder out of it. All four ways through are trained
    together, from each modality to itself and to the other, so that a cell lies at one place whichever modality it
    was seen in; the answer is the way from source to target.

    When to use
    -----------
    A thousand paired cells or more. What the target says of a cell steers the latent space little by default, so that
    few features of it can be followed without following their noise.

    When not
    --------
    A few hundred cells: `kernel_ridge` has less to learn.

    Differs from the paper
    ----------------------
    Values in the unit of the answer are predicted under squared error, as in DANCE; ``likelihood="counts"`` is the
    paper's negative binomial for RNA and its cross-entropy for peaks, whose means are answered in the same units.
    Proteins are always predicted under squared error. Half of the hidden units are dropped in training, fewer genes
    enter, and the features of the target weigh a twentieth of those of the source: with the paper's numbers the net
    soon fits the noise of its cells. Outputs are linear, start at the mean of each feature and are limited afterwards,
    where DANCE's end in a ReLU. ``preset="paper"`` clips genes at 10 standard deviations instead of percentiles, keeps
    those of the sex chromosomes and all peaks, and its learning rate stays, where the paper's falls when the loss
    stalls.

    Parameters
    ----------
    n_top_genes, n_top_peaks
        Features of the source with the largest deviance that are kept; None: all.
    scale
        Bring each gene or protein of the source to mean 0 and variance 1, clipped at ±10.
    hidden
        Width of the layer between features and latent space.
    n_latent
        Dimensions of the latent space.
    dropout
        Part of the units of each hidden layer that is dropped in training, in [0, 1).
    by_chromosome
        Peaks enter and leave the net by chromosome, where their names say it, through narrow layers of their own.
    likelihood
        "gaussian": root of the mean squared error of normalised values; "counts": negative binomial of the counts of
        RNA, and cross-entropy of peaks that are open or not.
    start_at_mean
        Start each output at the mean of its feature.
    weight
        Weight of the losses in the features of the target, against those of the source.
    cross
        Weight of the two ways from one modality to the other, against those to itself.
    """

    n_top_genes: int | None = 1000
    n_top_peaks: int | None = 10_000
    scale: bool = False
    hidden: int = 128
    n_latent: int = 64
    dropout: float = 0.5
    by_chromosome: bool = True
    likelihood: Literal["gaussian", "counts"] = "gaussian"
    start_at_mean: bool = True
    weight: float = 0.05
    cross: float = 1.0
    training: Train = Train(epochs=200, lr=4e-3, batch_size=256, patience=15, clip=5.0)

    cite = "Wu2021"
    uses = ("batch", "counts")  # type: ignore[assignment]
    presets = {
        "paper": {**PAPER, "n_top_genes": None, "n_top_peaks": None, "scale": True},
        "dance": {**DANCE, "n_top_genes": 10_000, "n_top_peaks": 10_000},
    }

    @property
    def recipe(self) -> dict[str, Recipe]:  # type: ignore[override]
        return recipes(self.n_top_genes, self.n_top_peaks, scale=self.scale)

    def check(self) -> None:
        super().check()
        for name in ("weight", "cross"):
            if getattr(self, name) < 0:
                msg = f"{name}={getattr(self, name)!r}, but a weight must be at least 0."
                raise InputError(msg)

    def check_cells(self, cells: Pair) -> None:  # type: ignore[override]
        super().check_cells(cells)
        logged = [each for each in (cells.source, cells.target) if each is not None and each.prep.log_input]
        if self.likelihood == "counts" and any(each.modality == "rna" for each in logged):
            msg = (
                "likelihood='counts' needs the counts of RNA, but the values are log-normalised: pass the layer that "
                "holds the counts as `layer=`, or likelihood='gaussian'."
            )
            raise InputError(msg)

    def prepare(self, pair: Pair, rows: np.ndarray) -> None:
        self.sides_ = {}
        for role, cells in zip(ROLES, (pair.source, target_of(pair)), strict=True):
            groups = chromosomes(cells.var_names) if self.by_chromosome and cells.modality == "atac" else None
            self.sides_[role] = {
                "n_vars": cells.n_vars,
                "loss": self._loss_of(cells.modality),
                "groups": np.zeros(0, dtype=np.int32) if groups is None else groups,
            }

    def one_net(self) -> nn.Module:
        return Translator(self.sides_, self.hidden, self.n_latent, self.dropout)

    def train_one(self, net: Any, pair: Pair, rows: np.ndarray, valid: np.ndarray, stage: str) -> None:
        if self.start_at_mean:
            for role, cells, at in zip(ROLES, (pair.source, target_of(pair)), rows.T, strict=True):
                net.decoders[role].start_at(self._mean(cells, at))

        self.run_one(lambda batch: self.loss(net, *batch), net, pair, rows, valid, stage)

    def loss(self, net: Translator, source: Seen, target: Seen) -> Tensor:
        """Weighted sum of the losses of the four ways through the net."""
        seen = {"source": source, "target": target}
        losses = []
        for of in ROLES:
            z = net.encoders[of](seen[of].x)
            for to in ROLES:
                weight = (self.weight if to == "target" else 1) * (1 if of == to else self.cross)
                losses.append(weight * net.decoders[to].loss(z, seen[to]))  # type: ignore[operator, union-attr]
        return torch.stack(losses).sum()

    def batches(self, pair: Pair, rows: np.ndarray, size: int, stage: str) -> PairedBatches:
        source, target = self._shown(pair.source), self._shown(target_of(pair))
        return PairedBatches(source, target, rows, size, self.rng(f"{stage} batches"))

    def say(self, net: Any, x: Tensor) -> Tensor:
        return net.decoders["target"](net.encoders["source"](x))  # type: ignore[no-any-return]

    def _loss_of(self, modality: str | None) -> str:
        if self.likelihood == "gaussian" or modality == "prot":
            return "rmse"
        return "nb" if modality == "rna" else "bernoulli"

    def _mean(self, cells: Cells, rows: np.ndarray) -> Tensor:
        """Mean of each feature over the cells at `rows`, of what is to come out."""
        if self._loss_of(cells.modality) == "nb":
            return mean_counts(cells.part(rows))
        return means(cells, rows)

    def _shown(self, cells: Cells) -> Callable[[np.ndarray], Seen]:
        """From positions to what training sees of these cells."""
        with_counts = self._loss_of(cells.modality) == "nb"
        depth: Any = cells.depth

        def of(at: np.ndarray) -> Seen:
            x = self.tensor(cells.dense(at))
            if not with_counts:
                return Seen(x, x, None)
            counts: Any = cells.counts
            return Seen(x, self.tensor(counts[at].toarray()), self.tensor(depth[at] / middle))

        middle = np.median(depth)
        return of


class Seen(NamedTuple):
    """What training sees of a modality of some cells: what enters, what is to come out, and the size factors."""

    x: Tensor
    values: Tensor
    size: Tensor | None


def chromosomes(names: Sequence[str] | np.ndarray) -> np.ndarray | None:
    """Chromosome of each peak as a code, (n_peaks,) int32, those whose name says none together; None: no name does."""
    found = [CHROMOSOME.match(str(name)) for name in names]
    if not any(found):
        return None
    _, codes = np.unique([each.group(1) if each else "" for each in found], return_inverse=True)
    return codes.astype(np.int32)


class Translator(nn.Module):
    """An encoder and a decoder of each modality around one latent space.

    Parameters
    ----------
    sides
        By role: the number of features ``n_vars``, the loss ``"rmse"``, ``"nb"`` or ``"bernoulli"``, and the group of
        each feature in ``groups``, empty where there are none.
    hidden, n_latent, dropout
        Widths, and the part of the hidden units that is dropped.
    """

    def __init__(self, sides: dict[str, dict[str, Any]], hidden: int, n_latent: int, dropout: float) -> None:
        super().__init__()
        self.encoders, self.decoders = nn.ModuleDict(), nn.ModuleDict()
        for role, side in sides.items():
            n_vars, groups = side["n_vars"], side["groups"]
            into = InGroups(groups, dropout) if len(groups) else _dense([n_vars, hidden], dropout)
            width = PER_CHROMOSOME[-1] * (int(groups.max()) + 1) if len(groups) else hidden
            self.encoders[role] = nn.Sequential(into, _dense([width, n_latent]))
            back = _dense([n_latent, width], dropout)
            if side["loss"] == "nb":
                self.decoders[role] = Counts(back, width, n_vars)
                continue
            out = OutOfGroups(groups, dropout) if len(groups) else nn.Linear(width, n_vars)
            self.decoders[role] = Values(nn.Sequential(back, out), n_vars, is_binary=side["loss"] == "bernoulli")
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)


def _dense(sizes: Sequence[int], dropout: float = 0.0, last: str | None = None) -> Dense:
    return Dense(sizes, activation="prelu", last=last, batch_norm=True, dropout=dropout)


class InGroups(nn.Module):
    """Features of each group through narrow layers of their own: (n, n_vars) to (n, 16 · n_groups)."""

    order: Tensor

    def __init__(self, groups: np.ndarray, dropout: float) -> None:
        super().__init__()
        self.sizes = np.bincount(groups).tolist()
        self.parts = nn.ModuleList(_dense([n, *PER_CHROMOSOME], dropout) for n in self.sizes)
        self.register_buffer("order", torch.from_numpy(np.argsort(groups, kind="stable")), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        each = x[:, self.order].split(self.sizes, dim=1)
        return torch.cat([part(some) for part, some in zip(self.parts, each, strict=True)], dim=1)


class OutOfGroups(nn.Module):
    """The way back: from (n, 16 · n_groups) to the features of each group, (n, n_vars)."""

    place: Tensor

    def __init__(self, groups: np.ndarray, dropout: float) -> None:
        super().__init__()
        sizes, back = np.bincount(groups).tolist(), PER_CHROMOSOME[::-1]
        self.parts = nn.ModuleList(_dense([*back, n], dropout, last="none") for n in sizes)
        order = np.argsort(groups, kind="stable")
        self.register_buffer("place", torch.from_numpy(np.argsort(order)), persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        each = h.chunk(len(self.parts), dim=1)
        return torch.cat([part(some) for part, some in zip(self.parts, each, strict=True)], dim=1).index_select(
            1, self.place
        )


class Values(nn.Module):
    """From the latent space to normalised values, or to the probability that a peak is open."""

    def __init__(self, body: nn.Module, n_vars: int, *, is_binary: bool) -> None:
        super().__init__()
        self.body, self.is_binary = body, is_binary
        self.start = nn.Parameter(torch.zeros(n_vars))

    def start_at(self, mean: Tensor) -> None:
        """Predict about `mean`, (n_vars,), before any training."""
        with torch.no_grad():
            self.start.copy_(torch.logit(mean, eps=1e-4) if self.is_binary else mean)

    def forward(self, z: Tensor) -> Tensor:
        out = self.body(z) + self.start
        return out.sigmoid() if self.is_binary else out

    def loss(self, z: Tensor, seen: Seen) -> Tensor:
        """Cross-entropy, or root of the mean squared error."""
        out = self.body(z) + self.start
        if self.is_binary:
            return functional.binary_cross_entropy_with_logits(out, seen.values)
        return (functional.mse_loss(out, seen.values) + TINY).sqrt()


class Counts(nn.Module):
    """From the latent space to the negative binomial of the counts of RNA."""

    def __init__(self, body: nn.Module, width: int, n_vars: int) -> None:
        super().__init__()
        self.body, self.head = body, CountHead(width, n_vars, likelihood="nb")

    def start_at(self, mean: Tensor) -> None:
        """Predict about `mean`, (n_vars,), before any training."""
        self.head.start_at(mean)

    def forward(self, z: Tensor) -> Tensor:
        mean = self.head(self.body(z)).mean
        return torch.log1p(PER_CELL * mean / mean.sum(dim=1, keepdim=True))

    def loss(self, z: Tensor, seen: Seen) -> Tensor:
        """Mean negative log-likelihood of the counts."""
        return self.head.loss(self.body(z), seen.values, seen.size)  # type: ignore[no-any-return]
