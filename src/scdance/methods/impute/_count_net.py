"""What the imputers with a count network share: genes are predicted from other genes of the same cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from scdance._checks import InputError, one_of
from scdance._core.cells import Cells
from scdance.nn import CountHead, nb_loss, zinb_loss
from scdance.pp import Recipe, blocks
from scdance.train import Batch, Batches, TorchMethod, Train, half_cosine, mean_counts, split

from ._imputer import Imputer, Rates, depth_of

LOG_MEAN = (float(np.log(1e-5)), float(np.log(1e6)))  # bounds of the mean, which the losses have too
PACE = 10.0  # the optimiser moves all parameters alike, and θ of most genes has a long way to go
CLIP = 5.0  # standard deviations: a gene that few cells have is not to drive them all
VALID_SHARE = 0.1  # of the cells, held out when training may stop early
ALL = slice(None)


class CountImputer(Imputer, TorchMethod):
    """Predict the counts of genes that a network is not shown from the genes that it is shown.

    A subclass gives a net with `hidden`, from standardised expression to the last hidden layer, and `head`.

    Parameters
    ----------
    n_top_genes
        Genes with the largest deviance that are modelled; None: all that have counts.
    n_parts
        Parts into which the genes are split, each predicted from all the others; 1: genes are predicted from
        themselves, too.
    shown
        Least and largest share of the molecules that the network is shown of a cell in training, above 0 and at most
        1; each time another share and other molecules are drawn.
    likelihood
        "nb": negative binomial; "zinb": zero-inflated, of which the mean without the added zeros is the estimate.
    theta
        Dispersion: one for each "gene", or one for each "entry", predicted as the mean is.
    start_at_mean
        Start the predicted mean at the mean of each gene instead of at 1.
    slow_down
        Let the learning rate fall to 0 along half a cosine.
    training
        the network; with a patience, a tenth of the cells is held out to judge
    """

    n_top_genes: int | None = None
    n_parts: int = 4
    shown: tuple[float, float] = (0.5, 1.0)
    likelihood: Literal["nb", "zinb"] = "nb"
    theta: Literal["gene", "entry"] = "gene"
    start_at_mean: bool = True
    slow_down: bool = True
    training: Train = Train(epochs=None, steps=1200, lr=3e-3, batch_size=128, clip=5.0)

    uses = ("batch",)

    @property
    def recipe(self) -> Recipe:
        # expression is normalised in `fit`, anew for the molecules that are shown in each step
        return Recipe(filter_genes={"min_counts": 1}, select_genes={"n_top": self.n_top_genes})

    def check(self) -> None:
        super().check()
        one_of(self.theta, ("gene", "entry"), "theta")
        if self.n_parts < 1:
            msg = f"n_parts={self.n_parts}, but it must be at least 1, which hides no gene."
            raise InputError(msg)
        check_shown(self.shown)

    def fit(self, *, cells: Cells) -> Self:
        self.n_vars_ = cells.n_vars
        self.n_batches_ = len(cells.batch_names or ())
        self.median_depth_ = float(np.median(depth_of(cells)))
        self.mean_, self.sd_ = _log_moments(cells, self.median_depth_)
        self.part_ = self.rng("parts").permutation(self.n_vars_) % self.n_parts
        self.net_ = self.first_net(cells)
        if self.start_at_mean:
            self.net_.head.start_at(mean_counts(cells))
        self.net_.to(self.target)
        how, rng, rows, valid = self.training, self.rng("training"), None, None
        if how.patience is not None:
            rows, held_out = split(cells.n_obs, VALID_SHARE, rng)
            valid = self._judge(cells, held_out)
        batches = Batches(cells, how.batch_size, rng=rng, rows=rows, device=self.target)

        def step(batch: Batch) -> Tensor:
            return self.loss(cells, batch, rng) + self.further_loss()

        self.learn(
            step,
            self.net_,
            how,
            batches=batches,
            valid=valid,
            look=lambda: self.predict(cells=cells),
            rng=rng,
            pace=half_cosine if self.slow_down else None,
        )
        self.theta_ = self.dispersion(cells, self.rates(cells))
        return self

    def first_net(self, cells: Cells) -> nn.Module:
        """Build the net that is trained, after what it needs of all cells."""
        return self.net()

    def further_loss(self) -> Tensor | float:
        """What a method adds to the loss of each step."""
        return 0.0

    def rates(self, cells: Cells) -> Rates:
        batches, sizes = Batches(cells, 1, device=self.target), self._size(cells)
        parts = [np.flatnonzero(self.part_ == i) for i in range(self.n_parts)]

        @torch.no_grad()
        def rate(rows: slice) -> np.ndarray:
            batch, size = batches.take(np.arange(rows.start, rows.stop)), sizes[rows]
            x, out = self.expression(batch.x, size), np.empty(tuple(batch.x.shape), dtype=np.float32)
            for genes in parts:
                hidden = self.net_.hidden(self._hide(x, genes), batch.batch)
                mean = _columns(self.net_.head.mean, hidden, self._predicted(genes))
                out[:, genes] = (mean.clamp(*LOG_MEAN).exp() * size[:, None]).cpu()
            return out

        return rate

    def loss(self, cells: Cells, batch: Batch, rng: np.random.Generator) -> Tensor:
        """Negative log-likelihood of the counts of genes that the net is not shown."""
        shown, size = batch.x, self._size(cells, batch.rows)
        share = np.ones(len(batch.rows))
        if self.shown[0] < 1:
            share = rng.uniform(*self.shown, size=len(batch.rows))
            shown = torch.from_numpy(drawn(cast("Any", cells.counts)[batch.rows], share, rng)).to(batch.x)
        genes = rng.permutation(self.n_vars_)[: max(1, self.n_vars_ // self.n_parts)]
        x = self._hide(self.expression(shown, size * torch.from_numpy(share).to(size)), genes)
        predicted = self._predicted(genes)
        return _loss(self.net_.head, self.net_.hidden(x, batch.batch), batch.x[:, predicted], size, predicted)

    def expression(self, counts: Tensor, size: Tensor) -> Tensor:
        """Standardised log-normalised expression, (n_obs, n_vars), of cells with these size factors, at most 5."""
        mean, sd = (torch.from_numpy(each).to(counts) for each in (self.mean_, self.sd_))
        return (torch.log1p(counts / size[:, None]) - mean).div_(sd).clamp_(max=CLIP)

    def _size(self, cells: Cells, rows: Any = ALL) -> Tensor:
        """Depth of some cells relative to that of the median cell in training, (n,)."""
        return torch.as_tensor(depth_of(cells)[rows] / self.median_depth_, dtype=torch.float32, device=self.target)

    def _predicted(self, genes: np.ndarray) -> Any:
        """The genes to predict: those that are hidden, or all."""
        return ALL if self.n_parts == 1 else torch.from_numpy(genes).to(self.target)

    def _hide(self, x: Tensor, genes: np.ndarray) -> Tensor:
        """Expression with some of the genes at their mean, which says nothing of the cell."""
        return x if self.n_parts == 1 else x.index_fill(1, self._predicted(genes), 0)

    def _judge(self, cells: Cells, rows: np.ndarray) -> Callable[[], float]:
        """Loss of cells that do not train, of which the same genes and molecules are hidden each time."""
        batches = Batches(cells, self.training.batch_size, rows=rows, device=self.target)

        def loss() -> float:
            rng = self.rng("validation")
            return float(np.mean([float(self.loss(cells, batch, rng)) for batch in batches]))

        return loss


def _loss(head: CountHead, h: Tensor, counts: Tensor, size: Tensor, genes: Any) -> Tensor:
    """Negative log-likelihood of the counts of some genes, (n_obs, n_genes)."""
    mean = _columns(head.mean, h, genes)
    free = head.gene_dispersion
    theta = _columns(cast("nn.Linear", head.dispersion), h, genes) if free is None else PACE * _some(free, genes)
    if head.logit is None:
        return nb_loss(counts, mean, theta, size)
    return zinb_loss(counts, mean, theta, _columns(head.logit, h, genes), size)


def _columns(layer: nn.Linear, h: Tensor, genes: Any) -> Tensor:
    """Some of the outputs of a layer."""
    return linear(h, _some(layer.weight, genes), _some(layer.bias, genes))


def _some(values: Tensor, genes: Any) -> Tensor:
    """Values of some genes; the gradient of an index would be slower."""
    return values if genes is ALL else values.index_select(0, genes)


def check_shown(shown: tuple[float, ...]) -> None:
    """Refuse what are not two shares of the molecules, in order."""
    if not (len(shown) == 2 and 0 < shown[0] <= shown[1] <= 1):
        msg = f"shown={shown}, but it must be two shares above 0 and at most 1, the smaller one first."
        raise InputError(msg)


def drawn(counts: Any, share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw each molecule of a cell with the probability `share`, (n_obs,); the fraction of one is divided."""
    out, share = counts.copy(), np.repeat(share, np.diff(counts.indptr))
    whole = np.floor(counts.data)
    out.data = (rng.binomial(whole.astype(np.int64), share) + (counts.data - whole) * share).astype(np.float32)
    return cast("np.ndarray", out.toarray())


def _log_moments(cells: Cells, median_depth: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of log(1 + count at the median depth) of each gene, (n_vars,) float32 each."""
    total, square = np.zeros(cells.n_vars), np.zeros(cells.n_vars)
    for rows, block in blocks(cast("Any", cells.counts)):
        factor = median_depth / depth_of(cells)[rows]
        values = np.log1p(block.data * np.repeat(factor, np.diff(block.indptr)))
        total += np.bincount(block.indices, values, minlength=cells.n_vars)
        square += np.bincount(block.indices, values**2, minlength=cells.n_vars)
    mean = total / cells.n_obs
    sd = np.sqrt(np.maximum(square / cells.n_obs - mean**2, 0))
    return mean.astype(np.float32), np.where(sd > 1e-6 * mean, sd, 1).astype(np.float32)
