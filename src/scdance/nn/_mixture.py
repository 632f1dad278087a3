"""Latent spaces of autoencoders: one normal prior, or a mixture of normal ones of which each cell takes part in some.

Mixture of K components: of the state h of a cell come the probabilities of the components, and with one of them, y, a
normal distribution of its place z; the prior of z hangs on y:

    q(y|h) = softmax(W h),  q(z|h, y) = N(μ(h, y), v(h, y)),  p(z|y) = N(μ_y, v_y)
    L_z = E[log q(z|h, y) − log p(z|y)],  L_y = log K − H(q(y|h))

In training y is a soft draw (Gumbel), so that gradients pass; afterwards it is the likeliest, and z its mean.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ._batch_vae import LOG_VARIANCE, Posterior

N_HIDDEN = 512  # between the state and the distribution of the place
LEAST_VARIANCE = 1e-10


class Place(NamedTuple):
    """Where cells lie in a latent space, and what it costs to say so.

    Attributes
    ----------
    z
        Drawn in training, the mean otherwise, (n_obs, n_latent).
    costs
        Divergences from the prior, the mean of the cells: that of the place and, of a mixture, that of the component.
    """

    z: Tensor
    costs: tuple[Tensor, ...]


class NormalLatent(nn.Module):
    """Latent space with one standard normal prior.

    Parameters
    ----------
    width
        Numbers of a state.
    n_latent
        Dimensions of the space.

    Examples
    --------
    >>> import torch
    >>> from scdance import nn
    >>> nn.NormalLatent(8, 3)(torch.zeros(5, 8)).z.shape
    torch.Size([5, 3])
    """

    def __init__(self, width: int, n_latent: int) -> None:
        super().__init__()
        self.mean, self.log_variance = nn.Linear(width, n_latent), nn.Linear(width, n_latent)

    def forward(self, h: Tensor) -> Place:
        """Place of each cell from its state, (n_obs, width)."""
        q = Posterior(self.mean(h), self.log_variance(h).clamp(-LOG_VARIANCE, LOG_VARIANCE))
        return Place(q.draw() if self.training else q.mean, (q.divergence().mean(),))


class MixtureLatent(nn.Module):
    """Latent space whose prior is a mixture of normal distributions.

    Parameters
    ----------
    width
        Numbers of a state.
    n_latent
        Dimensions of the space.
    n_components
        Components of the mixture.

    Examples
    --------
    >>> import torch
    >>> from scdance import nn
    >>> latent = nn.MixtureLatent(8, 3, 4)
    >>> latent(torch.zeros(5, 8)).z.shape, len(latent(torch.zeros(5, 8)).costs)
    (torch.Size([5, 3]), 2)
    """

    def __init__(self, width: int, n_latent: int, n_components: int) -> None:
        super().__init__()
        self.n_components = n_components
        self.component = nn.Linear(width, n_components)
        self.hidden = nn.Linear(width + n_components, N_HIDDEN)
        self.mean, self.variance = nn.Linear(N_HIDDEN, n_latent), nn.Linear(N_HIDDEN, n_latent)
        self.prior_mean, self.prior_variance = nn.Linear(n_components, n_latent), nn.Linear(n_components, n_latent)

    def forward(self, h: Tensor) -> Place:
        """Place of each cell from its state, (n_obs, width)."""
        logits = self.component(h)
        if not self.training:
            y = functional.one_hot(logits.argmax(dim=1), self.n_components).to(h)
        else:
            y = functional.gumbel_softmax(logits, tau=1.0)
        mean, variance = self.place(h, y)
        z = mean + variance.sqrt() * torch.randn_like(mean) if self.training else mean
        prior = self.prior_mean(y), functional.softplus(self.prior_variance(y)) + LEAST_VARIANCE
        costs = (log_normal(z, mean, variance) - log_normal(z, *prior)).mean(), choice_cost(logits).mean()
        return Place(z, costs)

    def place(self, h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the place of each cell as of its components, (n_obs, n_latent) each."""
        inner = self.hidden(torch.cat([h, y], dim=1)).relu()
        return self.mean(inner), functional.softplus(self.variance(inner)) + LEAST_VARIANCE


def log_normal(z: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Log-density of each row under independent normal distributions, (n_obs,)."""
    return -((z - mean).square() / variance + variance.log() + math.log(2 * math.pi)).sum(dim=1) / 2


def choice_cost(logits: Tensor) -> Tensor:
    """Divergence of the probabilities of the components from even ones, (n_obs,) in [0, log K]."""
    log_q = logits.log_softmax(dim=1)
    return math.log(logits.shape[1]) + (log_q.exp() * log_q).sum(dim=1)
