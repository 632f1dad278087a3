"""One net for both layers, taught by few labels, by transport and by what it is sure of in the other layer."""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from scdance._checks import InputError, whole_number
from scdance._core.cells import Cells
from scdance.graph import sinkhorn
from scdance.train import Batches, Train

from ._adapted import Adapted, Together

PASS = 20  # fewest steps between two transports
PAPER = {
    "n_top_genes": None,
    "hide": 0.0,
    "class_prior": "uniform",
    "source_like": 1.0,
    "align": 1.0,
    "pretrain_optimizer": "sgd",
    "pretrain_lr": 9e-3,
    "pretrain_weight_decay": 1e-3,
    "pretrain_batch_size": 32,
    "pretrain_steps": 30_000,
    "optimizer": "sgd",
    "lr": 3.4e-3,
    "weight_decay": 1e-3,
    "batch_size": 32,
    "steps": 30_000,
}


class OTTransfer(Adapted):
    """Spread few labels over the reference by optimal transport, and over the other layer by confidence [Zhang2024]_.

    An encoder and a classifier for both layers learn from the labelled cells first. Then, before each pass, the
    unlabelled cells of the reference get labels: of all ways to spread them over the types so that types have their
    expected sizes, the likeliest (by transport, all cells at once). Asked cells of which the net is sure keep their
    label under noise; for the others, the types that are nearly as likely as the best share the blame. Last, each asked
    cell is drawn to a mixture of the reference cells whose types look the same.

    When to use
    -----------
    With few labels in a reference of many cells, and layers that differ by more than noise, as chromatin and RNA.

    When not
    --------
    Where the cells that are asked have types that the reference lacks: each of them gets one of its types, as sure as
    the others.

    Differs from the paper
    ----------------------
    Transport is solved for all unlabelled cells at once, and the expected sizes of types are those among the labelled
    cells; the paper takes batches of 32 and equal sizes, by which common types lose their cells. Every step shows
    labelled cells beside those that got a label. Which asked cells are sure is found once a pass, without dropout.
    Genes are hidden in training, which the paper does not do. Distances are means over dimensions. Weights differ, and
    training is shorter, by Adam; ``preset="paper"`` has the paper's sizes, weights, batches and number of steps, plain
    ones of the mean length that its momentum and its falling rate give. The authors' code is not their paper: it reads
    labels that are hidden and takes the epoch at which the asked labels are met best. There is no preset for that, as
    no method here is given these labels.

    Parameters
    ----------
    ot
        Give labels to unlabelled cells of the reference by transport; False leaves these cells out.
    sigma
        Inverse of the weight of the entropy in the transport, above 0.
    class_prior
        Shares of types among the unlabelled cells: those of the "labelled" ones, "uniform", numbers in the order of the
        types, or "unbalanced": those of the labelled ones, held to no more firmly than so few cells tell them.
    budget
        Share of the unlabelled cells, the surest first, that get a label in the first pass, in (0, 1]; it rises to 1.
    tau
        Probability of its best type above which an asked cell is like the reference, in [0, 1].
    noise
        Standard deviation of what is added to the expression of such a cell, at least 0.
    mu
        Probability by which a type may lie behind the best one to be a candidate, in [0, 1]; it falls to 0.
    n_candidates
        Most candidates of a cell.
    similar
        Cosine of the types of two cells from which one is mixed into the target of the other, in [−1, 1].
    source_like
        Weight of the loss of cells that are like the reference; 0 leaves it out.
    target_specific
        Weight of the loss of the other asked cells; 0 leaves it out.
    align
        Weight of the distance of asked cells from mixtures of the reference; 0 leaves it out.
    pretraining
        labelled cells alone
    training
        all cells; the patience has no part in it
    """

    hide: float = 0.7
    ot: bool = True
    sigma: float = 10.0
    class_prior: Literal["labelled", "uniform", "unbalanced"] | tuple[float, ...] = "labelled"
    budget: float = 1.0
    tau: float = 0.9
    noise: float = 0.001
    mu: float = 1e-3
    n_candidates: int = 4
    similar: float = 0.9
    source_like: float = 0.3
    target_specific: float = 0.1
    align: float = 0.1
    pretraining: Train = Train(epochs=None, steps=200, lr=3e-3, batch_size=128, weight_decay=1e-2, optimizer="adamw")
    training: Train = Train(epochs=None, steps=600, lr=3e-3, batch_size=128, weight_decay=1e-2, optimizer="adamw")

    cite = "Zhang2024"
    presets = {"paper": PAPER}

    def check(self) -> None:
        super().check()
        whole_number(self.n_candidates, "n_candidates", least=1)
        ranges = {
            "sigma": (self.sigma > 0, "above 0"),
            "budget": (0 < self.budget <= 1, "above 0 and at most 1"),
            "tau": (0 <= self.tau <= 1, "between 0 and 1"),
            "noise": (self.noise >= 0, "at least 0"),
            "mu": (0 <= self.mu <= 1, "between 0 and 1"),
            "similar": (-1 <= self.similar <= 1, "between −1 and 1"),
            "source_like": (self.source_like >= 0, "at least 0"),
            "target_specific": (self.target_specific >= 0, "at least 0"),
            "align": (self.align >= 0, "at least 0"),
        }
        for name, (fits, wanted) in ranges.items():
            if not fits:
                msg = f"{name}={getattr(self, name)!r}, but it must be {wanted}."
                raise InputError(msg)
        prior = self.class_prior
        if not isinstance(prior, str) and not (prior and min(prior) > 0):
            msg = f"class_prior={prior!r}, but shares of types must be above 0."
            raise InputError(msg)

    def teach(self, ref: Cells, cells: Cells) -> None:
        known, hidden = self.begin(ref)
        prior = self._prior(ref, known)
        self.net_ = self.net().to(self.target)
        self._warm_up(ref, known)
        self._adapt(ref, cells, known, hidden, prior)

    def _prior(self, ref: Cells, known: np.ndarray) -> np.ndarray:
        """Expected share of each type among the unlabelled cells."""
        if not isinstance(self.class_prior, str):
            if len(self.class_prior) != self.n_types_:
                msg = f"class_prior has {len(self.class_prior)} shares, but the reference has {self.n_types_} types."
                raise InputError(msg)
            return np.array(self.class_prior) / sum(self.class_prior)
        if self.class_prior == "uniform":
            return np.full(self.n_types_, 1 / self.n_types_)
        labels: Any = ref.labels
        sizes = np.bincount(labels[known], minlength=self.n_types_) + 1 / self.n_types_
        return sizes / sizes.sum()

    def _warm_up(self, ref: Cells, known: np.ndarray) -> None:
        """Train on the labelled cells alone."""
        how, rng, labels = self.pretraining, self.rng("pretraining"), self._codes(ref.labels)
        batches = Batches(ref, how.batch_size, rng=rng, rows=known, device=self.target)
        self.learn(
            lambda batch: cross_entropy(self.net_(batch.x)[1], labels[batch.rows]),
            self.net_, how, stage="pretraining", batches=batches, rng=rng,
        )  # fmt: skip

    def _adapt(self, ref: Cells, cells: Cells, known: np.ndarray, hidden: np.ndarray, prior: np.ndarray) -> None:
        """Train on all cells; labels, sureness and candidates are found anew before each pass."""
        how, rng, guess = self.training, self.rng("training"), Guess(ref, cells)
        asked = np.arange(cells.n_obs)
        if not self.ot:
            hidden = hidden[:0]
        taught, guessed, others = (
            Batches(each, how.batch_size, rng=rng, rows=rows, device=self.target) if len(rows) else None
            for each, rows in ((ref, known), (ref, hidden), (cells, asked))
        )
        batches = Together(taught, guessed, others, least=PASS)
        n_epochs = how.n_epochs(len(batches))
        # the log-likelihood of N labels is −N KL(their shares ‖ sizes) + const.; the transport costs a mean over cells
        hold = len(known) / max(len(hidden), 1) if self.class_prior == "unbalanced" else None

        def refresh(epoch: int) -> None:
            done = epoch / max(n_epochs, 1)
            if guessed is not None:
                labels, sure = spread(self.seen(ref, hidden)[1], prior, self.sigma, hold)
                share = self.budget + (1 - self.budget) * min(1.0, epoch / max(n_epochs - 1, 1))
                n = max(2, round(share * len(hidden)))
                guess.labels[hidden] = labels
                guessed.rows = np.sort(hidden[np.argsort(-sure, kind="stable")[:n]])
            proba = np.exp(self.seen(cells, asked)[1])
            guess.best, guess.is_like = proba.argmax(axis=1), proba.max(axis=1) > self.tau
            guess.candidates = candidates(proba, self.mu * (1 - done), self.n_candidates)

        self.learn(lambda batch: self._loss(batch, guess), self.net_, how, batches=batches, each_epoch=refresh, rng=rng)
        n_like = int((np.exp(self.seen(cells, asked)[1]).max(axis=1) > self.tau).sum())
        self.notes_ = {"prior": prior, "n_source_like": n_like, "n_target_specific": cells.n_obs - n_like}

    def _loss(self, batch: Any, guess: Guess) -> Tensor:
        """L_S + L_SL + 0.1 L_TS + L_A, where the weights are knobs."""
        *teachers, asked = batch
        teachers = [each for each in teachers if each is not None]
        is_like = torch.from_numpy(guess.is_like[asked.rows]).to(self.target)
        noisy = asked.x + self.noise * is_like[:, None] * torch.randn_like(asked.x)
        z, logits = self.net_(torch.cat([*(each.x for each in teachers), noisy]))
        n = len(z) - len(noisy)
        labels = self._codes(np.concatenate([guess.labels[each.rows] for each in teachers]))
        loss = cross_entropy(logits[:n], labels)
        if self.source_like and is_like.any():
            best = self._codes(guess.best[asked.rows])
            loss = loss + self.source_like * cross_entropy(logits[n:][is_like], best[is_like])
        if self.target_specific and not is_like.all():
            allowed = torch.from_numpy(guess.candidates[asked.rows]).to(self.target)
            loss = loss + self.target_specific * ambiguous_loss(logits[n:][~is_like], allowed[~is_like])
        if self.align:
            types = normalize(logits.detach().softmax(dim=1) @ self.net_.types.weight.detach())
            weights, found = mixup(types[n:] @ types[:n].T, self.similar)
            if found.any():
                off = (weights @ z[:n].detach() - z[n:])[found]
                loss = loss + self.align * off.square().mean()
        return cast("Tensor", loss)

    def _codes(self, labels: Any) -> Tensor:
        return torch.from_numpy(np.asarray(labels, dtype=np.int64)).to(self.target)


class Guess:
    """What is held true of each cell during a pass.

    Attributes
    ----------
    labels
        Code of each cell of the reference: its own, or the one it got.
    best, is_like, candidates
        Of each asked cell its likeliest type, whether it is like the reference, and which types it may have.
    """

    def __init__(self, ref: Cells, cells: Cells) -> None:
        self.labels = np.array(ref.labels)
        self.best = np.zeros(cells.n_obs, dtype=int)
        self.is_like = np.zeros(cells.n_obs, dtype=bool)
        self.candidates = np.zeros((cells.n_obs, 0), dtype=bool)


def spread(log_proba: np.ndarray, prior: np.ndarray, sigma: float, hold: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Type of each cell where types have these shares, and how sure it is, by transport at cost −log P."""
    n = len(log_proba)
    plan = sinkhorn(-log_proba, np.full(n, 1 / n), prior, reg=1 / sigma, hold=hold)
    return plan.argmax(axis=1), n * plan.max(axis=1)


def candidates(proba: np.ndarray, mu: float, k: int) -> np.ndarray:
    """Which types are among the k best of a cell and at most `mu` behind its best, (n, n_types) bool."""
    allowed = np.zeros(proba.shape, dtype=bool)
    np.put_along_axis(allowed, np.argsort(-proba, axis=1, kind="stable")[:, :k], True, axis=1)
    return allowed & (proba.max(axis=1, keepdims=True) - proba <= mu)


def ambiguous_loss(logits: Tensor, allowed: Tensor) -> Tensor:
    """Mean of −Σ_j a_j log p_j over the types that are allowed, with a_j = p_j / Σ p over these, held fixed."""
    log_p = logits.log_softmax(dim=1)
    a = log_p.detach().masked_fill(~allowed, -torch.inf).softmax(dim=1)
    return -(a * log_p).sum(dim=1).mean()


def mixup(similarity: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Weights of the columns for each row, a soft-max over those at least so similar; and which rows have any."""
    allowed = similarity >= least
    found = allowed.any(dim=1)
    weights = similarity.masked_fill(~allowed & found[:, None], -torch.inf).softmax(dim=1)
    return weights * found[:, None], found
