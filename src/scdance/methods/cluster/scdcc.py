"""A clustering count autoencoder that is told which cells belong together or apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self

import numpy as np
import torch
from torch import Tensor

from scdance._checks import InputError, warn
from scdance._core.cells import Cells
from scdance.pp import pairs_from_labels

from ._autoencoder import CountClustering

MOST = 1 - 1e-6  # of the probability that two cells share a cluster, where its complement is taken

_PUBLISHED = {
    "n_top_genes": None,
    "likelihood": "zinb",
    "start_at_mean": False,
    "shrink": 0.0,
    "pretrain_batch_size": 256,
}
_DANCE = _PUBLISHED | {"pretrain_epochs": 300, "epochs": 100, "lr": 0.01, "tol": 0.0}


class ScDCC(CountClustering):
    """Cluster by a count autoencoder under must-link and cannot-link pairs [Tian2021]_.

    Semi-supervised: beside the loss of scDeepCluster, the clusters are trained so that two cells of a must-link pair
    have the same one and those of a cannot-link pair have not. Pairs are given, or drawn from the labels of some
    of the cells; without either it is scDeepCluster.

    When to use
    -----------
    Where something is known about some cells: labels of a part, markers or proteins that tell some types for sure
    (:func:`scdance.pp.pairs_from_markers`, :func:`scdance.pp.pairs_from_embedding`).

    When not
    --------
    Where all types are known and annotated cells are at hand: annotate. Where nothing is known: the pairs are its
    only advantage. A score counts for cells in no pair only.

    Differs from the paper
    ----------------------
    Model and defaults are those of ``"scdeepcluster"`` here. The pairs are spread over the steps of an epoch instead
    of following the cells in passes of their own, and their cells are not reconstructed once more; the cannot-link
    term is that of the authors' code, since the formula in print repeats the must-link one. Pairs may be said to be
    wrong now and then, see `pair_error`. The 2,100 genes of ``preset="paper"`` are those of the largest deviance, where
    the authors go by the share of zeros.

    Parameters
    ----------
    ml_weight, cl_weight
        Weights of the must-link and the cannot-link loss.
    n_pairs
        Pairs that are drawn from labels, where these are given instead of pairs.
    pair_error
        Probability, in [0, 0.5), that a pair says the opposite of what is true. Above 0 it bounds what a single pair
        can cost, so that wrong ones do not outweigh the others; the paper's losses have 0.
    """

    ml_weight: float = 1.0
    cl_weight: float = 1.0
    n_pairs: int = 10_000
    pair_error: float = 0.0

    cite = "Tian2021"
    uses = ("batch", "labels", "pairs")
    presets = {
        "paper": _PUBLISHED | {"n_top_genes": 2100, "sigma": 2.5, "pretrain_epochs": 300, "epochs": 2000},
        "dance": _PUBLISHED | {"sigma": 2.5, "pretrain_epochs": 50, "epochs": 500, "lr": 0.01, "tol": 0.0},
        "10x_pbmc": _DANCE | {"sigma": 2.0},
        "mouse_es": _DANCE | {"sigma": 1.75, "encoder": (512, 256)},
        "worm_neuron": _DANCE | {"sigma": 2.5, "n_pairs": 20_000},
        "mouse_bladder": _DANCE | {"sigma": 3.25},
    }

    def check(self) -> None:
        super().check()
        if not 0 <= self.pair_error < 0.5:
            msg = f"pair_error={self.pair_error!r}, but it must be at least 0 and below 0.5, where pairs say nothing."
            raise InputError(msg)

    def fit(self, *, cells: Cells) -> Self:
        must, cannot = cells.extra.get("pairs", (np.empty((0, 2), dtype=int),) * 2)
        if cells.labels is not None:
            names = np.array([*cells.categories, ""], dtype=object)  # code −1 is the last
            drawn = pairs_from_labels(names[cells.labels], self.n_pairs, random_state=self.rng("pairs"))
            known = cells.labels[cells.labels >= 0]
            if len(np.unique(known)) == len(known):
                warn(
                    f"Each of the {len(known)} cells with a label has one of its own, so that none give must-link "
                    "pairs. Is `labels_key=` the column with the types?"
                )
            must, cannot = np.vstack([must, drawn[0]]), np.vstack([cannot, drawn[1]])
        self._pairs = must, cannot
        try:
            super().fit(cells=cells)
        finally:
            del self._pairs
        labels = self.predict(cells=cells)["labels"]
        self._note(
            n_must_link=len(must),
            n_cannot_link=len(cannot),
            n_must_link_violated=int((labels[must[:, 0]] != labels[must[:, 1]]).sum()),
            n_cannot_link_violated=int((labels[cannot[:, 0]] == labels[cannot[:, 1]]).sum()),
        )
        return self

    def _further_loss(self, cells: Cells, *, n_steps: int, rng: np.random.Generator) -> Callable[[], Tensor] | None:
        must, cannot = self._pairs
        if len(must) + len(cannot) == 0:
            return None
        turns = [_Turns(pairs, n_steps, rng) for pairs in (must, cannot)]
        batches = self._batches(cells, None, self.training.batch_size)

        def loss() -> Tensor:
            some = [turn.next() for turn in turns]
            rows, places = np.unique(np.vstack(some), return_inverse=True)  # each cell of the pairs is encoded once
            batch = batches.take(rows)
            log_q = self.net_.dec(self.net_.encoder(batch.x, batch.batch))
            places = torch.from_numpy(places.reshape(-1, 2)).to(log_q.device)
            together = torch.logsumexp(log_q[places[:, 0]] + log_q[places[:, 1]], dim=1)
            must_together, cannot_together = together.split([len(each) for each in some])
            pull, push = _must(must_together, self.pair_error), _cannot(cannot_together, self.pair_error)
            return self.ml_weight * pull + self.cl_weight * push

        return loss


def _must(log_together: Tensor, error: float = 0.0) -> Tensor:
    """−mean log(ε + (1 − 2ε) s) over must-link pairs, from the logarithm of s = Σ_j q_aj q_bj; 0 without pairs.

    That is how likely the pair is told if cells share a cluster with probability s and ε of the pairs are wrong.
    """
    if error:
        log_together = torch.logaddexp(log_together + math.log1p(-2 * error), log_together.new_tensor(math.log(error)))
    return -log_together.sum() / max(1, len(log_together))


def _cannot(log_together: Tensor, error: float = 0.0) -> Tensor:
    """−mean log(1 − ε − (1 − 2ε) s) over cannot-link pairs; 0 without pairs."""
    said = error + (1 - 2 * error) * log_together.exp().clamp_max(MOST)
    return -torch.log1p(-said).sum() / max(1, len(log_together))


class _Turns:
    """Pairs in random order, so many at a time that an epoch sees each once."""

    def __init__(self, pairs: np.ndarray, n_steps: int, rng: np.random.Generator):
        self.pairs, self.n_steps, self.rng = pairs, n_steps, rng
        self.left: list[np.ndarray] = []

    def next(self) -> np.ndarray:
        if not self.left:  # an epoch begins, so that a continued run draws the same
            order = self.rng.permutation(self.pairs) if len(self.pairs) else self.pairs
            self.left = np.array_split(order, self.n_steps)
        return self.left.pop()
