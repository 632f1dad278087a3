"""Many small networks, each of which predicts some genes from the genes that correlate with them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from scdance._checks import InputError
from scdance._core.cells import Cells
from scdance._core.expression import in_unit
from scdance.graph import correlations
from scdance.nn import nb_loss
from scdance.pp import Recipe, blocks, mean_and_sd
from scdance.train import Batch, Batches, TorchMethod, Train, mean_counts, split

from ._count_net import LOG_MEAN, PACE, check_shown, drawn
from ._imputer import Imputer, Rates, depth_of
from ._subnets import Runs, Subnets

VALID_SHARE = 0.05  # of the cells, held out when training may stop early
FEWEST = 20  # genes
CORRELATED = 10_000  # cells that tell which genes correlate


class DeepImpute(Imputer, TorchMethod):
    """Predict each gene by a small network from the genes that correlate with it [Arisdakessian2019]_.

    The genes are split at random into subsets. Each subset has a network with one hidden layer, whose input are the
    genes outside the subset that correlate most with one of its genes; so no gene is predicted from itself, and its
    own noise does not reach its estimate. All networks are trained together and stop one by one.

    When to use
    -----------
    Counts of a thousand cells or more, also of many genes: cost and memory grow with the subsets. New cells can be
    imputed later without training again.

    When not
    --------
    For cells of many small types, of which ``"magic"`` knows as much in a tenth of the time. To test differences: the
    estimate for one cell borrows from all others.

    Differs from the paper
    ----------------------
    The paper weights the squared error by the value, so that zeros do not count at all, and what its networks predict
    is the value of an entry that is known not to be zero; it fills each zero with that. Here all counts are explained
    by a negative binomial, whose mean is right for every entry. Networks see log-normalised counts of twice as many
    genes, of a random share of the molecules, and a tenth more of the hidden layer is dropped, so that they do not
    learn the cells by heart. They start at the mean of each gene and take larger steps, so that they need fewer. All
    genes are predicted, not only those that vary most, and there are always two subsets, so that there are genes
    outside. ``preset="paper"`` has the paper's numbers, with subsets of equal size rather than filled up with copies,
    and the weights of the best epoch rather than the last; ``preset="dance"`` those of DANCE.

    Parameters
    ----------
    n_top_genes
        Genes with the largest deviance that take part; None: all that have counts.
    min_vmr
        Genes are predicted whose variance is at least this many times 1 + the mean of their counts, and the others
        only predict; None: all are predicted.
    n_targets
        Most genes in a subset.
    n_predictors
        Genes from outside the subset that each of its genes adds to the input, those of the largest absolute
        correlation.
    hidden
        Width of the hidden layer.
    dropout
        Share of the hidden layer that is dropped in training, at least 0 and below 1.
    loss
        "nb": negative binomial with a dispersion for each gene; "weighted": squared error of log(1 + count) weighted
        by it, as published. That predicts what an entry is if it is not zero, so it goes with ``policy="restore"`` or
        "max", or with ``output="log1p_nonzero"``.
    shown
        Least and largest share of the molecules that the networks are shown of a cell in training, above 0 and at most
        1; each time another share and other molecules are drawn.
    normalize
        Whether networks see counts normalised to the median depth; if not, genes are correlated by raw counts, too,
        as published. Both as log(1 + count).
    training
        all networks; with a patience, a twentieth of the cells is held out to judge each of them
    """

    n_top_genes: int | None = None
    min_vmr: float | None = None
    n_targets: int = 512
    n_predictors: int = 10
    hidden: int = 256
    dropout: float = 0.3
    loss: Literal["nb", "weighted"] = "nb"
    shown: tuple[float, float] = (0.5, 1.0)
    normalize: bool = True
    training: Train = Train(epochs=None, steps=400, lr=2e-3, batch_size=256, patience=5)

    cite = "Arisdakessian2019"
    presets = {
        "paper": {
            "min_vmr": 0.5,
            "n_predictors": 5,
            "hidden": 256,
            "dropout": 0.2,
            "loss": "weighted",
            "shown": (1.0, 1.0),
            "normalize": False,
            "policy": "restore",
            "epochs": 500,
            "lr": 1e-4,
            "batch_size": 64,
            "patience": 5,
        },
        "dance": {
            "n_predictors": 5,
            "hidden": 256,
            "dropout": 0.1,
            "loss": "weighted",
            "shown": (1.0, 1.0),
            "normalize": False,
            "policy": "restore",
            "epochs": 500,
            "lr": 1e-5,
            "batch_size": 64,
            "patience": 20,
        },
    }

    @property
    def recipe(self) -> Recipe:
        scale: dict[str, Any] = {"normalize_total": {}} if self.normalize else {}
        return Recipe(filter_genes={"min_counts": 1}, **scale, log1p={}, select_genes={"n_top": self.n_top_genes})

    def check(self) -> None:
        super().check()
        least = {"n_targets": 1, "n_predictors": 1, "hidden": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                msg = f"{name}={getattr(self, name)!r}, but it must be at least {low}."
                raise InputError(msg)
        if not 0 <= self.dropout < 1:
            msg = f"dropout={self.dropout!r}, but it must be at least 0 and below 1."
            raise InputError(msg)
        check_shown(self.shown)
        if self.loss == "weighted":
            self._check_weighted()

    def net(self) -> nn.Module:
        return Subnets(self.n_vars_, self.predictors_, self.subset_, self.hidden, self.dropout)

    def fit(self, *, cells: Cells) -> Self:
        if cells.n_vars < FEWEST:
            msg = f"There are {cells.n_vars} genes with counts, but deepimpute needs {FEWEST}; pass more genes."
            raise InputError(msg)
        self.n_vars_ = cells.n_vars
        self.median_depth_ = float(np.median(depth_of(cells)))
        self._split_genes(cells)
        self.largest_ = self._largest_counts(cells)
        self.net_ = self.net()
        if self.loss == "nb":
            self.net_.start_at(mean_counts(cells)[self.targets_].log())
        self.net_.to(self.target)
        self._train(cells)
        if self.loss == "nb":
            self.theta_ = self.dispersion(cells, self.rates(cells))
        return self

    def modelled(self, cells: Cells) -> np.ndarray:
        return self.targets_

    def rates(self, cells: Cells) -> Rates:
        batches, scale = Batches(cells, 1, device=self.target), self._scale(cells)
        largest = torch.from_numpy(self.largest_).to(self.target)

        @torch.no_grad()
        def rate(rows: slice) -> np.ndarray:
            out = self.net_(batches.take(np.arange(rows.start, rows.stop)).x)
            mean = out.clamp(*LOG_MEAN).exp() if self.loss == "nb" else functional.softplus(out).expm1()
            # a cell unlike all others must not be expected to have more than was ever seen
            return cast("np.ndarray", (mean.minimum(largest) * scale[rows, None]).cpu().numpy())

        return rate

    def _split_genes(self, cells: Cells) -> None:
        """Choose the genes that are predicted, their subsets, and what predicts each subset."""
        self.targets_ = np.arange(cells.n_vars)
        if self.min_vmr is not None:
            mean, sd = mean_and_sd(cast("Any", cells.counts))
            self.targets_ = np.flatnonzero(sd**2 / (1 + mean) > self.min_vmr)
        n, rng = len(self.targets_), self.rng("subsets")
        if n == 0:
            msg = f"No gene varies more than min_vmr={self.min_vmr:g} asks for; pass a smaller one, or None for all."
            raise InputError(msg)
        n_subsets = min(n, max(2, -(-n // self.n_targets)))
        self.subset_ = rng.permutation(n) % n_subsets
        source: Any = cells.x if self.normalize else cells.counts
        if cells.n_obs > CORRELATED:
            source = source[np.sort(rng.choice(cells.n_obs, CORRELATED, replace=False))]
        self.predictors_ = [
            _most_correlated(source, self.targets_[self.subset_ == i], self.n_predictors) for i in range(n_subsets)
        ]

    def _train(self, cells: Cells) -> None:
        """Train all networks together; with a patience, each until cells that do not train see no gain."""
        how, rng, rows = self.training, self.rng("training"), None
        runs: Runs | None = None
        scale = self._scale(cells)
        if how.patience is not None:
            rows, held_out = split(cells.n_obs, VALID_SHARE, rng)
            judges = self._batches(cells, held_out)
            runs = Runs(self.net_, how, lambda going: self._losses(judges, scale, going))
        log = self.learn(
            lambda batch: self._loss(self._redrawn(cells, batch, rng), scale, None if runs is None else runs.going),
            self.net_,
            how,
            batches=self._batches(cells, rows, rng),
            each_epoch=None if runs is None else runs.judge,
            look=lambda: self.predict(cells=cells),
            rng=rng,
            memory=None if runs is None else runs.memory,
        )
        if runs is not None:
            runs.finish(log.epochs)
            self.history_["training_valid_loss"] = runs.memory["history"].numpy()

    def _redrawn(self, cells: Cells, batch: Batch, rng: np.random.Generator) -> Batch:
        """The same cells as if fewer of their molecules had been counted; what is to be predicted stays."""
        if self.shown[0] == 1:
            return batch
        share = rng.uniform(*self.shown, size=len(batch.rows)).astype(np.float32)
        few = drawn(cast("Any", cells.counts)[batch.rows], share, rng)
        if self.normalize:
            share = share * (depth_of(cells)[batch.rows] / self.median_depth_).astype(np.float32)
        return replace(batch, x=torch.from_numpy(np.log1p(few / share[:, None])).to(batch.x))

    def _loss(self, batch: Batch, scale: Tensor, going: Tensor | None) -> Tensor:
        """Mean loss of the genes whose networks are still going."""
        genes = self.net_.genes(going)
        return self._compare(self.net_(batch.x, going), batch, genes, scale)

    def _losses(self, judges: Iterable[Batch], scale: Tensor, going: Tensor) -> Tensor:
        """Mean loss of each network that is still going, (n_going,), on cells that do not train."""
        total, n = torch.zeros(len(going)), 0
        for batch in judges:
            out, genes = self.net_(batch.x, going), self.net_.genes(going)
            for i, each in enumerate(going):
                own = torch.nonzero(self.net_.subset[genes] == each).squeeze(1)
                total[i] += len(batch.rows) * float(self._compare(out[:, own], batch, genes[own], scale))
            n += len(batch.rows)
        return total / n

    def _compare(self, out: Tensor, batch: Batch, genes: Tensor, scale: Tensor) -> Tensor:
        """Mean loss of the outputs for some of the predicted genes."""
        columns = torch.from_numpy(self.targets_).to(genes)[genes]
        counts, size = cast("Tensor", batch.counts)[:, columns], scale[batch.rows]
        if self.loss == "nb":
            return nb_loss(counts, out, PACE * self.net_.per_gene(self.net_.dispersion)[genes], size)
        y = torch.log1p(counts / size[:, None])
        return (y * (y - functional.softplus(out)).square()).mean()

    def _batches(self, cells: Cells, rows: np.ndarray | None, rng: np.random.Generator | None = None) -> Batches:
        return Batches(cells, self.training.batch_size, rng=rng, rows=rows, counts=True, device=self.target)

    def _scale(self, cells: Cells) -> Tensor:
        """What turns predicted into expected counts of each cell, (n_obs,): its depth, unless the network sees it."""
        scale = depth_of(cells) / self.median_depth_
        if self.loss == "weighted" and not self.normalize:
            scale = np.ones_like(scale)
        return torch.as_tensor(scale, dtype=torch.float32, device=self.target)

    def _largest_counts(self, cells: Cells) -> np.ndarray:
        """Largest count of each predicted gene, as the networks see counts, (n_targets,) float32."""
        scale, largest = self._scale(cells).cpu().numpy(), np.zeros(cells.n_vars, dtype=np.float32)
        for rows, block in blocks(cast("Any", cells.counts)):
            values = block.data / np.repeat(scale[rows], np.diff(block.indptr))
            np.maximum.at(largest, block.indices, values)
        return largest[self.targets_]

    def _value(self, mean: np.ndarray, theta: np.ndarray, counts: np.ndarray, depth: np.ndarray) -> np.ndarray:
        if self.loss == "nb":
            return super()._value(mean, theta, counts, depth)
        values = in_unit(mean, depth, self.output)  # of entries that are not zero, so a logarithm is not an average
        return self._beside_observed(values, counts, depth)

    @property
    def _needs_dispersion(self) -> bool:
        return self.loss == "nb" and super()._needs_dispersion

    def _check_weighted(self) -> None:
        """Refuse what a prediction for entries that are not zero cannot give."""
        if self.policy == "posterior" or self.uncertainty:
            wrong = "uncertainty=True" if self.uncertainty else "policy='posterior'"
            msg = f"{wrong} needs a dispersion, which loss='weighted' does not have; pass loss='nb'."
            raise InputError(msg)
        if self.policy == "replace" and self.output != "log1p_nonzero":
            msg = (
                "loss='weighted' predicts what an entry is if it is not zero, so its values cannot stand for all "
                "entries; pass policy='restore', which fills zeros, output='log1p_nonzero', or loss='nb'."
            )
            raise InputError(msg)


def _most_correlated(x: Any, subset: np.ndarray, n_top: int) -> np.ndarray:
    """Genes outside a subset that are among the `n_top` of largest absolute correlation with one of it, ascending."""
    strength = np.abs(correlations(x, subset))
    strength[subset] = -1  # never a gene of the subset itself
    n_top = min(n_top, len(strength) - len(subset))
    return np.unique(np.argpartition(-strength, n_top - 1, axis=0)[:n_top])
