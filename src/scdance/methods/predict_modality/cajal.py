"""A net on marker features of cell types and on how deep a cell and its batch were sequenced."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch.nn import functional

from scdance import graph
from scdance._checks import InputError
from scdance._core.cells import Cells, Pair
from scdance._settings import logger
from scdance.nn import Dense
from scdance.pp import Moments, Recipe, canonical, group_moments, marker_test, mean_and_sd, rank_sums
from scdance.train import Train, components, scores, target_of

from ._torch_predictor import TorchPredictor

N_COMPONENTS = 30  # of the source, on which cells without labels are grouped
FEWEST_OF_TYPE = 5  # cells that markers of a type are sought from
N_STARTS = 5  # of that grouping
N_BESIDE = 3  # numbers that enter beside the features: depth of the cell, and two of its batch
CONSTANT = 1e-9  # an input that varies less is constant
PAPER = {
    "shrink": False,
    "dropout": 0.2,
    "unseen": "asked",
    "start_at_mean": False,
    "batch_size": 1000,
    "patience": None,
}


class Cajal(TorchPredictor):
    """Predict the target by a net on markers of cell types and on sequencing depth [Lance2022]_.

    Of the source only those features enter that tell a type of cells from the others: the best of each type by
    Wilcoxon's rank-sum test for genes and by Welch's t test for peaks that are open or not. Beside them enter the
    counts of the cell and, as a summary of its batch, their median and standard deviation over the batch. A net of a
    few layers, of whose inputs many are dropped in training, turns them into the features of the target; its answers
    stay within what was seen in training.

    Parameters
    ----------
    n_markers
        Features of the source that are kept for each type; None: all. Proteins are all kept.
    n_types
        Groups of cells that stand for types where no labels are given, by k-means on 30 components.
    n_top_genes, n_top_peaks
        Genes or peaks of the source with the largest deviance, among which markers are sought; None: all.
    repeat
        How many times the counts of cell and batch enter, so that dropping inputs seldom drops them all; 0: never.
    unseen
        What is taken for a batch that was not in the training: "mean", its summary is that of all training cells;
        "asked", the summary of the cells that are asked together, on which an answer then depends.
    hidden
        Width of each hidden layer.
    dropout
        Part of the inputs that is dropped in training, in [0, 1).
    start_at_mean
        Start each output at the mean of its feature.

    When to use
    -----------
    Sources of very many features of which few matter, such as open chromatin, and where types are known for the cells
    that teach (`labels_key=`).

    When not
    --------
    A target that hangs on states that run across types: features that tell types apart are all that is seen.

    Differs from the paper
    ----------------------
    The answers are limited after training, not in it, where the limits would take the slope away. Types may be
    missing: groups of cells then stand for them. A batch that was not seen counts as the average one, so that a cell
    gets the same answer whichever others are asked; ``unseen="asked"`` is the competition's way. Depths enter as
    logarithms, genes relative to the median depth instead of a million counts. Training ends by cells that were held
    out, where the competition ran a number of epochs that was found before.
    """

    n_markers: int | None = 100
    n_types: int = 12
    n_top_genes: int | None = None
    n_top_peaks: int | None = 30_000
    repeat: int = 50
    unseen: Literal["mean", "asked"] = "mean"
    hidden: tuple[int, ...] = (300, 300)
    dropout: float = 0.2
    start_at_mean: bool = True
    clip: Literal["auto", "range", "none"] = "range"
    training: Train = Train(epochs=100, lr=1e-3, batch_size=256, patience=10)

    cite = "Lance2022"
    uses = ("batch", "labels", "prior")  # type: ignore[assignment]
    presets = {
        "paper": PAPER | {"hidden": (170, 300, 480, 330, 770), "epochs": 35},
        "gex2adt": PAPER | {"hidden": (170, 300, 480, 330, 770), "epochs": 35},
        "adt2gex": PAPER | {"hidden": (180, 140, 520), "epochs": 78},
        "gex2atac": PAPER | {"dropout": 0.8, "hidden": (500, 20, 110, 430, 310), "epochs": 39},
        "atac2gex": PAPER | {"dropout": 0.8, "hidden": (320, 360, 620, 440), "epochs": 38},
    }

    @property
    def recipe(self) -> dict[str, Recipe]:  # type: ignore[override]
        return {
            "rna": Recipe(normalize_total={}, log1p={}, select_genes={"n_top": self.n_top_genes}),
            "prot": Recipe(clr={}),
            "atac": Recipe(select_genes={"n_top": self.n_top_peaks}, binarize={}),
        }

    def check(self) -> None:
        super().check()
        inside = {
            "n_markers": (self.n_markers is None or self.n_markers >= 1, "at least 1, or None"),
            "n_types": (self.n_types >= 2, "at least 2"),
            "repeat": (self.repeat >= 0, "at least 0"),
            "dropout": (0 <= self.dropout < 1, "at least 0 and below 1"),
        }
        for name, (fits, text) in inside.items():
            if not fits:
                msg = f"{name}={getattr(self, name)!r}, but it must be {text}."
                raise InputError(msg)

    def prepare(self, pair: Pair, rows: np.ndarray) -> None:
        source, at = pair.source, rows[:, 0]
        self.columns_ = self._columns(pair, at)
        mean, sd = mean_and_sd(canonical(source.x[at][:, self.columns_]))  # type: ignore[index]
        depth = _log_depth(source, at)
        self.batch_depths_ = {}
        for code in [] if source.batch is None else np.unique(source.batch[at]):
            self.batch_depths_[_name(source, code)] = _summary(depth[source.batch[at] == code])  # type: ignore[index]
        beside = np.column_stack([depth, self._of_batch(source, at)])
        self.mean_ = np.nan_to_num(np.r_[mean, beside.mean(axis=0)]).astype(np.float32)  # 0 where there are no batches
        sd = np.nan_to_num(np.r_[sd, beside.std(axis=0)])
        self.sd_ = np.where(sd > CONSTANT, sd, 1).astype(np.float32)

    def one_net(self) -> nn.Module:
        widths = [len(self.columns_) + N_BESIDE * self.repeat, *self.hidden, self.n_features]
        body = Dense(widths, last="none")
        if self.start_at_mean:
            head: Any = body.layers[-1]
            nn.init.zeros_(head.weight)
            with torch.no_grad():
                head.bias.copy_(torch.from_numpy(self.features_["mean"]))
        return nn.Sequential(nn.Dropout(self.dropout), body)

    def inputs(self, source: Cells, rows: Any) -> np.ndarray:
        at = np.arange(source.n_obs)[rows]
        block: Any = source.x[at]  # type: ignore[index]
        beside = np.column_stack([_log_depth(source, at), self._of_batch(source, at)])
        x = np.column_stack([block[:, self.columns_].toarray(), beside])
        x = np.nan_to_num((x - self.mean_) / self.sd_).astype(np.float32)  # of a batch without summary: the mean
        return np.column_stack([x[:, :-N_BESIDE], *[x[:, -N_BESIDE:]] * self.repeat])

    def train_one(self, net: Any, pair: Pair, rows: np.ndarray, valid: np.ndarray, stage: str) -> None:
        def step(batch: tuple[Tensor, Tensor]) -> Tensor:
            x, y = batch
            return functional.mse_loss(net(x), y)

        self.run_one(step, net, pair, rows, valid, stage)

    # ------------------------------------------------------------------ what enters

    def _of_batch(self, source: Cells, rows: np.ndarray) -> np.ndarray:
        """Median and standard deviation of log depth in the batch of each cell, (n, 2); NaN where it is not known."""
        out = np.full((len(rows), 2), np.nan)
        if source.batch is None:
            return out
        batch = source.batch[rows]
        for code in np.unique(batch):
            found = self.batch_depths_.get(_name(source, code))
            if found is None and self.unseen == "asked":
                found = _summary(_log_depth(source, np.flatnonzero(source.batch == code)))
            if found is not None:
                out[batch == code] = found
        return out

    def _columns(self, pair: Pair, rows: np.ndarray) -> np.ndarray:
        """Features of the source that enter, sorted: markers of each type, and those of measured proteins."""
        source, target = pair.source, target_of(pair)
        if source.modality == "prot" or self.n_markers is None:
            return np.arange(source.n_vars)
        codes = self._types(source, rows)
        x = canonical(source.x[rows[codes >= 0]])  # type: ignore[index]
        found = (by_ranks if source.modality == "rna" else by_means)(x, codes[codes >= 0])
        best = np.argsort(-found, axis=1, kind="stable")[:, : self.n_markers]
        kept = np.zeros(source.n_vars, dtype=bool)
        for of_type, genes in zip(found, best, strict=True):
            kept[genes[of_type[genes] > 0]] = True
        if target.modality == "prot":
            kept |= np.isin(np.char.lower(source.var_names), np.char.lower(target.var_names))
            if pair.prior is not None:
                kept |= np.diff(pair.prior[: source.n_vars, source.n_vars :].indptr) > 0
        self.notes_ |= {"n_markers": int(kept.sum())}
        return np.flatnonzero(kept)

    def _types(self, source: Cells, rows: np.ndarray) -> np.ndarray:
        """Type of each cell that teaches as a code, −1 where unknown; groups of like cells where none are known."""
        if source.labels is not None:
            labels = source.labels[rows]
            sizes = np.bincount(labels[labels >= 0], minlength=1)
            known = (labels >= 0) & (sizes[labels] >= FEWEST_OF_TYPE)
            if len(np.unique(labels[known])) > 1:
                return np.where(known, labels, -1)
        k = max(2, min(self.n_types, len(rows) // FEWEST_OF_TYPE))
        loadings = components(source, rows, N_COMPONENTS, random_state=self.random_state)
        z = scores(source, rows, loadings, unit_rows=True)
        logger.info("cajal: no types are known; markers are those of %d groups of like cells", k)
        self.notes_["types"] = f"{k} groups of like cells"
        return graph.kmeans(z, k, n_init=N_STARTS, random_state=self.random_state)[0]


def by_ranks(x: sp.csr_matrix, codes: np.ndarray) -> np.ndarray:
    """How far each feature ranks higher in each type than in the other cells, (n_types, n_vars) float64.

    The rank sum of Wilcoxon's test above what is expected of it; ties take nothing from its variance.
    """
    n_types = int(codes.max()) + 1
    sums, _ = rank_sums(x, codes, n_types)
    n_in = np.bincount(codes, minlength=n_types)[:, None]
    n = len(codes)
    return (sums - n_in * (n + 1) / 2) / np.sqrt(np.maximum(n_in * (n - n_in) * (n + 1) / 12, 1))


def by_means(x: sp.csr_matrix, codes: np.ndarray) -> np.ndarray:
    """Statistic of Welch's t test of each type against the other cells, (n_types, n_vars) float64."""
    sums = group_moments(x, codes, int(codes.max()) + 1)
    each = [Moments(*(np.stack([part[i], part.sum(axis=0) - part[i]]) for part in sums)) for i in range(len(sums.n))]
    return np.stack([marker_test(two, 0, 1).t for two in each])


def _log_depth(source: Cells, rows: np.ndarray) -> np.ndarray:
    depth: Any = source.depth
    return np.log1p(depth[rows])  # type: ignore[no-any-return]


def _summary(depth: np.ndarray) -> np.ndarray:
    return np.array([np.median(depth), depth.std()])


def _name(source: Cells, code: int) -> str:
    """Name of a batch, by which it is known to a fitted method whatever the codes of other objects."""
    return str(code) if source.batch_names is None or code < 0 else str(source.batch_names[code])
