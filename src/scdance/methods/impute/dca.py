"""An autoencoder that predicts the counts of each gene from the other genes of the cell."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from scdance._core.cells import Cells
from scdance.nn import CountHead, Dense

from ._count_net import CountImputer

PAPER = {
    "encoder": (64,),
    "n_parts": 1,
    "shown": (1.0, 1.0),
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

    Expression goes through a narrow layer, from which a network predicts the mean of a negative binomial for each
    gene: what fits through are the programmes that genes share, while the noise of single counts stays behind. In
    training a quarter of the genes is hidden in each step and predicted from the others, so that the network cannot
    learn to copy, and in the same way every gene is predicted in the end.

    When to use
    -----------
    Counts of a few thousand cells whose genes vary together, and where new cells are to be imputed later without
    training again. With ``policy="posterior"`` the count of the cell itself, which the network has not seen, moves
    the estimate as far as the dispersion says; that predicts held-out molecules best.

    When not
    --------
    To test differences: the estimate for one cell borrows from all others. Shallow data whose cells differ in genes
    of their own, such as the worm neurons: unless the policy is "posterior", ``"knn"`` and ``"magic"`` predict
    held-out molecules better. Where entries were set to zero, "posterior" takes those zeros at their word and is
    much worse than "replace".

    Differs from the paper
    ----------------------
    The paper's network predicts the counts that it sees; here it predicts genes that it does not see, from a random
    share of the molecules of the others, with a negative binomial of one dispersion per gene and without batch norm.
    The mean starts at that of each gene and the learning rate falls. ``preset="paper"`` has the paper's network, but
    Adam instead of RMSprop, a learning rate that stays, a bound on the norm of the gradient instead of on each part
    of it, and validation on random cells.

    Parameters
    ----------
    encoder
        Widths of the hidden layers of the encoder; the decoder mirrors them.
    n_latent
        Dimensions of the narrow layer.
    batch_norm
        Normalise each hidden layer over the cells of a step.
    """

    encoder: tuple[int, ...] = (128,)
    n_latent: int = 32
    batch_norm: bool = False

    cite = "Eraslan2019"
    tries = {"n_latent": (8, 16, 32)}
    presets = {"paper": PAPER}

    def net(self) -> nn.Module:
        sizes = (self.n_vars_, *self.encoder, self.n_latent)
        return _Autoencoder(sizes, self.likelihood, self.theta, self.n_batches_, batch_norm=self.batch_norm)

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
