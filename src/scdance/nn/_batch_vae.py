"""A variational autoencoder of expression whose decoder knows the batch, so that the space need not.

Cells x with p genes, of batch b; the decoder f; the posterior of the encoder q(z) = N(m, s²):

    x = f(z, b) + e,  z ~ N(0, 1),  e ~ N(0, σ²)
    L = Σ_j ½ (m_j² + s_j² − log s_j² − 1) + p/2 log(2π σ²) + |x − f(z, b)|² / (2σ²) + λ p · CE(b | z)

The last term is that of an adversary, which reads the batch from the space: it is trained to find it, and the encoder,
through a reversed gradient, to hide it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ._adversarial import adversarial_ramp, reverse_gradient
from ._dense import Dense

Condition = Literal["offset", "decoder", "offset_decoder", "both", "none"]

LOG_VARIANCE = 12.0  # bound of the logarithm of a variance of the latent space
LEAST_NOISE = 1e-8  # smallest σ²
LEAST_MEAN = 0.02  # of a gene in a batch, at which its offset starts
MOMENTUM = 0.1  # of the running σ², as of the running moments of batch norm


class Posterior(NamedTuple):
    """Independent normal distributions.

    Attributes
    ----------
    mean, log_variance
        Their means and the logarithms of their variances, (n_obs, n_latent) each.
    """

    mean: Tensor
    log_variance: Tensor

    def draw(self) -> Tensor:
        """A value of each, through which gradients pass."""
        return self.mean + torch.randn_like(self.mean) * (self.log_variance / 2).exp()

    def divergence(self) -> Tensor:
        """Kullback–Leibler divergence from the standard normal of each cell, (n_obs,)."""
        return (self.mean.square() + self.log_variance.exp() - self.log_variance - 1).sum(dim=1) / 2


class BatchVAE(nn.Module):
    """Variational autoencoder with batches, normal noise and, where it is weighed, an adversary.

    Parameters
    ----------
    n_vars, n_batches
        Number of genes and of batches; with one batch there is nothing to tell, and no adversary.
    hidden
        Widths of the hidden layers of the encoder; the decoder mirrors them.
    n_latent
        Dimensions of the space.
    condition
        How the nets are told the batch: by an "offset" of each gene behind the decoder, which :meth:`start_at` sets;
        as input of the "decoder"; in both ways, "offset_decoder"; as input of "both" nets; or "none" is.
    positive
        Whether expression is at least 0, and so a softplus the last step; otherwise the last step is linear.
    hide
        Part of the expression that the encoder is not shown in training, in [0, 1); the rest is scaled up.
    dropout
        Part of the units of each hidden layer that is dropped in training, in [0, 1).
    adversary
        Weight λ of the adversary beside the loss of a gene, ≥ 0; 0: there is none.
    n_adversary
        Units of its hidden layer.

    Examples
    --------
    >>> import torch
    >>> from scdance import nn
    >>> net = nn.BatchVAE(50, 2, hidden=[16], n_latent=4)
    >>> net.encode(torch.zeros(3, 50)).mean.shape
    torch.Size([3, 4])
    """

    variance: Tensor
    code: Tensor
    n_steps: Tensor

    def __init__(
        self,
        n_vars: int,
        n_batches: int,
        *,
        hidden: Sequence[int],
        n_latent: int,
        condition: Condition = "offset",
        positive: bool = True,
        hide: float = 0.0,
        dropout: float = 0.1,
        adversary: float = 0.0,
        n_adversary: int = 16,
    ) -> None:
        super().__init__()
        n_told = n_batches if n_batches > 1 else 0
        inside: dict[str, Any] = {"batch_norm": True, "dropout": dropout}
        self.shown = nn.Dropout(hide)
        self.encoder = Dense([n_vars, *hidden], n_covariates=n_told if condition == "both" else 0, **inside)
        self.posterior = nn.Linear(hidden[-1], 2 * n_latent)
        by_input = condition in ("decoder", "offset_decoder", "both")
        self.decoder = Dense([n_latent, *reversed(hidden)], n_covariates=n_told if by_input else 0, **inside)
        n_offsets = n_batches if condition in ("offset", "offset_decoder") else 1
        self.out = nn.Linear(hidden[0], n_vars, bias=False)
        self.offset = nn.Parameter(torch.zeros(n_offsets, n_vars))
        self.positive, self.weight = positive, adversary if n_told else 0.0
        self.adversary = Dense([n_latent, n_adversary, n_batches], last="none") if self.weight else None
        self.register_buffer("variance", torch.zeros(()))  # σ², 0 before the first step
        # what the decoder is told of each batch: its code, or, of batches that share nothing, that within its group
        self.register_buffer("code", torch.arange(n_batches))
        self.register_buffer("n_steps", torch.zeros((), dtype=torch.int64))  # so that a continued run goes on as one

    def start_at(self, mean: Tensor, groups: Tensor | None = None) -> None:
        """Let the offsets alone give each gene its mean in each batch, before any training.

        What sets the batches apart throughout is then explained before the space is asked to.

        Parameters
        ----------
        mean
            Of each gene in each batch, (n_batches, n_vars).
        groups
            Code of the group of each batch, (n_batches,) int: what sets groups apart is left to the space, so that they
            start with the same offsets in the mean, and the decoder is told of the batch within its group only. None:
            all batches are of one group.
        """
        mean = mean.mean(dim=0, keepdim=True) if len(self.offset) == 1 else mean
        start = mean.clamp(min=LEAST_MEAN).expm1().log() if self.positive else mean.clone()
        if groups is not None:
            self.code.copy_((groups[:, None] == groups).tril(-1).sum(dim=1))
        if groups is not None and len(start) > 1:
            of_all = start.mean(dim=0)
            for group in groups.unique():
                start[groups == group] += of_all - start[groups == group].mean(dim=0)
        with torch.no_grad():
            self.offset.copy_(start)

    def encode(self, x: Tensor, batch: Tensor | None = None) -> Posterior:
        """Where cells lie, as distributions; `batch` are codes, (n_obs,) int, −1 or None for one unseen in training."""
        mean, log_variance = self.posterior(self.encoder(self.shown(x), batch)).chunk(2, dim=1)
        return Posterior(mean, log_variance.clamp(-LOG_VARIANCE, LOG_VARIANCE))

    def decode(self, z: Tensor, batch: Tensor | None = None) -> Tensor:
        """Expected expression at places of the space, in these batches, (n_obs, n_vars)."""
        code = None if batch is None else torch.where(batch < 0, -1, self.code[batch.clamp(min=0).to(torch.int64)])
        out = self.out(self.decoder(z, code)) + self._offsets(batch)
        return functional.softplus(out) if self.positive else out

    def loss(self, x: Tensor, batch: Tensor, *, only: int | None = None, total: int | None = None) -> Tensor:
        """Loss per gene, the mean of some cells: L / p of the formula above.

        Parameters
        ----------
        x, batch
            Expression, (n_obs, n_vars), and code of the batch of each cell, (n_obs,) int.
        only
            Code of the one batch that is explained; the cells of others have no part but in the adversary, for a
            divergence that nothing stands against would draw them to one place. None: all are explained.
        total
            Steps of the whole training, over which the adversary comes in; None: it is there from the first.
        """
        q = self.encode(x, batch)
        z = q.draw()
        error = (x - self.decode(z, batch)).square().mean(dim=1)
        counts = torch.ones_like(error) if only is None else (batch == only).to(error)
        counts = counts / counts.sum().clamp(min=1)
        if self.training:
            self.n_steps += 1
            self._follow((error.detach() * counts).sum())
        noise = self.variance.clamp(min=LEAST_NOISE)
        misfit = (math.log(2 * math.pi) + noise.log() + error / noise) / 2
        loss = ((misfit + q.divergence() / x.shape[1]) * counts).sum()
        if self.adversary is None:
            return loss
        # the adversary itself learns with full weight, however little of it reaches the encoder
        scale = self.weight * (1.0 if total is None else adversarial_ramp(int(self.n_steps) / total))
        found = self.adversary(reverse_gradient(z, scale))
        return loss + functional.cross_entropy(found, batch.to(torch.int64))

    def _follow(self, error: Tensor) -> None:
        """Bring σ² nearer to the mean squared error of a step, at which the likelihood of that step is largest."""
        if error > 0:  # 0: no cell of this step is to be explained
            self.variance.copy_(torch.lerp(self.variance, error, MOMENTUM) if self.variance > 0 else error)

    def _offsets(self, batch: Tensor | None) -> Tensor:
        """Offset of each gene in each cell; in a batch unseen in training, their mean."""
        n = len(self.offset)
        if n == 1 or batch is None:
            return self.offset.mean(dim=0)
        known = functional.one_hot(batch.clamp(min=0).to(torch.int64), n).to(self.offset)
        return torch.where(batch[:, None] < 0, 1 / n, known) @ self.offset
