"""The base of predictors with a net: an ensemble as one module, batches of paired cells, validation by RMSE."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scdance._core.cells import Cells, Pair
from scdance.train import PairedBatches, TorchMethod, Train, slices, target_of

from ._predictor import Answers, Predictor

TINY = 1e-12  # sum of squares of answers that all are the mean


class TorchPredictor(Predictor, TorchMethod):
    """Base of predictors with a net.

    A subclass writes :meth:`one_net` and :meth:`train_one`; where its net does not take the expression as it is,
    :meth:`inputs` says what it takes, and where the answer is not what the net gives, :meth:`say` makes it of that.

    Parameters
    ----------
    shrink
        Bring the answers nearer to the mean of each feature as far as the held-out cells leave it open that they
        deviate too much: where the source says little, answers shall not be worse than the mean.
    """

    shrink: bool = True

    ends_by_validation = True

    def one_net(self) -> nn.Module:
        """Build one untrained member of the ensemble from knobs and fitted facts."""
        raise NotImplementedError

    def train_one(self, net: Any, pair: Pair, rows: np.ndarray, valid: np.ndarray, stage: str) -> None:
        """Train one member; `rows` and `valid` as in :meth:`Predictor.fit_one`."""
        raise NotImplementedError

    def inputs(self, source: Cells, rows: Any) -> np.ndarray:
        """What the net takes of the cells at `rows`, (n, n_inputs) float32."""
        return source.dense(rows)

    def seen(self, source: Cells, rows: Any) -> Any:
        """The same where the net takes it: a tensor, or several of them."""
        return self.tensor(self.inputs(source, rows))

    def say(self, net: Any, x: Any) -> Tensor:
        """Answer of a member to its inputs, (n, n_features)."""
        return net(x)  # type: ignore[no-any-return]

    # ------------------------------------------------------------------ what all share

    def net(self) -> nn.Module:
        return nn.ModuleList(self.one_net() for _ in range(self.n_ensemble))

    def fit_one(self, member: int, pair: Pair, rows: np.ndarray, valid: np.ndarray) -> None:
        if member == 0:
            self.net_ = self.net().to(self.target)
            self.trust_ = np.ones(self.n_ensemble)
        net = self.net_[member]
        self.train_one(net, pair, rows, valid, "training" if member == 0 else f"training_{member}")
        net.eval()
        if self.shrink and len(valid):
            self.trust_[member] = self._trust(net, pair, valid)

    def answers(self, member: int, source: Cells) -> Answers:
        net, trust, mean = self.net_[member], np.float32(self.trust_[member]), self.features_["mean"]

        def of(rows: slice) -> np.ndarray:
            with torch.no_grad():
                said = self.say(net, self.seen(source, np.arange(rows.start, rows.stop))).cpu().numpy()
            return said if trust == 1 else mean + trust * (said - mean)

        return of

    def _trust(self, net: Any, pair: Pair, valid: np.ndarray) -> float:
        """What the deviations from the mean are to be multiplied by, at least: a slope less its standard error.

        The slope of the truth on the answers, both as deviations from the mean of each feature, over the cells at
        `valid`; the error is that of independent cells.
        """
        mean, products, squares = self.features_["mean"], [], []
        with torch.no_grad():
            for at in (valid[here] for here in slices(len(valid))):
                said = self.say(net, self.seen(pair.source, at[:, 0])).cpu().numpy().astype(np.float64) - mean
                products.append((said * (target_of(pair).dense(at[:, 1]) - mean)).sum(axis=1))
                squares.append((said**2).sum(axis=1))
        product, square = np.concatenate(products), np.concatenate(squares)
        slope = product.sum() / max(square.sum(), TINY)
        error = np.sqrt(((product - slope * square) ** 2).sum()) / max(square.sum(), TINY)
        return float(np.clip(slope - error, 0, 1))

    def batches(self, pair: Pair, rows: np.ndarray, size: int, stage: str) -> PairedBatches:
        """Shuffled batches of inputs and target of the paired cells at `rows`."""
        target = target_of(pair)
        return PairedBatches(
            lambda at: self.seen(pair.source, at),
            lambda at: self.tensor(target.dense(at)),
            rows,
            size,
            self.rng(f"{stage} batches"),
        )

    def rmse(self, net: Any, pair: Pair, rows: np.ndarray) -> float:
        """Root of the mean squared error of a member on the paired cells at `rows`, over all entries."""
        target, total = target_of(pair), 0.0
        net.eval()
        with torch.no_grad():
            for here in slices(len(rows)):
                at = rows[here]
                off = self.say(net, self.seen(pair.source, at[:, 0])) - self.tensor(target.dense(at[:, 1]))
                total += float((off.double() ** 2).sum())
        net.train()
        return float(np.sqrt(total / max(len(rows) * target.n_vars, 1)))

    def run_one(
        self,
        step: Any,
        net: nn.Module,
        pair: Pair,
        rows: np.ndarray,
        valid: np.ndarray,
        stage: str,
        how: Train | None = None,
        **knobs: Any,
    ) -> None:
        """Train a member by `step`, from a batch of inputs and target to a loss, until its validation error ends it."""
        how = how or self.training
        batches = self.batches(pair, rows, how.batch_size, stage)
        net.train()
        judge = (lambda: self.rmse(net, pair, valid)) if len(valid) else None
        self.learn(step, net, how, stage=stage, batches=batches, valid=judge, rng=batches.rng, **knobs)
