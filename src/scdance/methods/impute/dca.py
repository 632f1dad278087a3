"""DCA: an autoencoder that predicts counts which it is not shown."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from scdance._checks import InputError
from scdance._core.cells import Cells
from scdance.nn import CountHead, Dense, log_nb, log_zinb
from scdance.train import Batch, Train

from ._count_net import LOG_MEAN, CountImputer

PAPER = {
    "encoder": (64,),
    "n_latent": 32,
    "hide": 0.0,
    "likelihood": "zinb",
    "theta": "entry",
    "batch_norm": True,
    "start_at_mean": False,
    "slow_down": False,
    "batch_size": 32,
    "epochs": 300,
    "lr": 1e-3,
    "patience": 15,
}


class DCA(CountImputer):
    """Denoise counts by an autoencoder with a count likelihood [Eraslan2019]_.

    Expression goes through a narrow layer, from which a network predicts the expected count of each gene: what fits
    through are the programmes that genes share, while the noise of single counts stays behind. In training a random
    half of the entries, zeros included, is hidden in each step and only these are predicted, so that the network
    cannot learn to copy.

    When to use
    -----------
    Counts of a few thousand cells whose genes vary together, and where new cells are to be imputed later without
    training again. With ``policy="posterior"`` the count of the cell itself moves the estimate as far as the
    dispersion of the gene says.

    When not
    --------
    To test differences: the estimate for one cell borrows from all others. ``"magic"`` takes a second and is
    not far behind. Where entries were set to zero, "posterior" takes those zeros at their word and is much
    worse than "replace".

    Differs from the paper
    ----------------------
    The paper's network predicts the counts that it sees; here it predicts those that it does not see, under the
    likelihood of Poisson counts. On held-out counts that is better than the likelihoods of the paper, whose
    dispersions explain differences between cells as noise; the dispersion of a gene is estimated afterwards, by
    moments. The mean starts at that of each gene and the learning rate falls. ``preset="paper"`` has the paper's
    network, but Adam instead of RMSprop, a learning rate that stays, a bound on the norm of the gradient instead of on
    each part of it, and validation on random cells.

    Parameters
    ----------
    encoder
        Widths of the hidden layers of the encoder; the decoder mirrors them.
    n_latent
        Dimensions of the narrow layer.
    hide
        Share of the entries that is hidden in a step, and predicted, below 1; 0: as `n_parts` and `shown` say.
    likelihood
        "poisson"; "nb": negative binomial; "zinb": zero-inflated, of which the mean without the added zeros is the
        estimate.
    batch_norm
        Normalise each hidden layer over the cells of a step.
    """

    encoder: tuple[int, ...] = (256,)
    n_latent: int = 64
    hide: float = 0.5
    n_parts: int = 1
    shown: tuple[float, float] = (1.0, 1.0)
    likelihood: Literal["poisson", "nb", "zinb"] = "poisson"  # type: ignore[assignment]
    training: Train = Train(epochs=None, steps=800, lr=3e-3, batch_size=128, clip=5.0)
    batch_norm: bool = False

    cite = "Eraslan2019"
    tries = {"n_latent": (16, 64)}
    presets = {"paper": PAPER}

    def check(self) -> None:
        super().check()
        if not 0 <= self.hide < 1:
            msg = f"hide={self.hide}, but it must be a share of the entries, at least 0 and below 1."
            raise InputError(msg)
        if self.likelihood == "poisson" and not self.hide:
            msg = "likelihood='poisson' needs hidden entries to predict, but hide is 0; pass 'nb' or 'zinb'."
            raise InputError(msg)

    def net(self) -> nn.Module:
        sizes = (self.n_vars_, *self.encoder, self.n_latent)
        likelihood: Any = "zinb" if self.likelihood == "zinb" else "nb"  # the head of Poisson counts is that of "nb"
        return _Autoencoder(sizes, likelihood, self.theta, self.n_batches_, batch_norm=self.batch_norm)

    def expression(self, counts: Tensor, size: Tensor) -> Tensor:
        if not self.hide:
            return super().expression(counts, size)
        return torch.log1p(counts / size[:, None])  # not centred: 0 is what is hidden

    def loss(self, cells: Cells, batch: Batch, rng: np.random.Generator) -> Tensor:
        if not self.hide:
            return super().loss(cells, batch, rng)
        size = self._size(cells, batch.rows)
        x = self.expression(batch.x, size)
        hidden = torch.from_numpy(rng.random(tuple(x.shape), dtype=np.float32)).to(x) < self.hide
        h = self.net_.hidden(torch.where(hidden, 0, x / (1 - self.hide)), batch.batch)
        loss = self._of_entries(h, batch.x, size) * hidden
        return loss.sum() / hidden.sum().clamp(min=1)

    def _of_entries(self, h: Tensor, counts: Tensor, size: Tensor) -> Tensor:
        """Negative log-likelihood of each entry, but for what does not depend on the net."""
        if self.likelihood == "poisson":
            log_mean = self.net_.head.mean(h).clamp(*LOG_MEAN)
            return size[:, None] * log_mean.exp() - counts * log_mean
        mean, theta, logit = self.net_.head(h, size)
        return -(log_nb(counts, mean, theta) if logit is None else log_zinb(counts, mean, theta, logit))

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        size = self._size(cells)
        z = self.map(lambda batch: self.net_.encoder(self.expression(batch.x, size[batch.rows]), batch.batch), cells)
        return {**super().predict(cells=cells), "embedding": z}


class _Autoencoder(nn.Module):
    """From standardised expression through a narrow layer to the distribution of counts."""

    def __init__(
        self,
        sizes: tuple[int, ...],
        likelihood: Literal["nb", "zinb"],
        theta: Literal["gene", "entry"],
        n_batches: int,
        *,
        batch_norm: bool,
    ) -> None:
        super().__init__()
        n_vars, *hidden, n_latent = sizes
        back = [n_latent, *reversed(hidden)]
        self.encoder = Dense(sizes, last="none", batch_norm=batch_norm, n_covariates=n_batches)
        self.decoder = Dense(back, batch_norm=batch_norm, n_covariates=n_batches)
        self.head = CountHead(back[-1], n_vars, likelihood=likelihood, dispersion=theta)

    def hidden(self, x: Tensor, batch: Tensor | None) -> Tensor:
        """The last hidden layer, (n_obs, width)."""
        return self.decoder(self.encoder(x, batch), batch)  # type: ignore[no-any-return]
