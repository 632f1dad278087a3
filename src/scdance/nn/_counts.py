"""Negative binomial likelihoods of counts, with and without zero inflation.

Mean μ > 0, dispersion θ > 0 (variance μ + μ²/θ) and the logit ρ of the zero inflation π = σ(ρ):

    log NB(0)   = −θ log1p(μ/θ)
    log NB(x)   = lgΓ(x+θ) − lgΓ(θ) − lgΓ(x+1) + x log(μ/(θ+μ)) − θ log1p(μ/θ)
    log ZINB(0) = logaddexp(ρ, log NB(0)) − softplus(ρ)
    log ZINB(x) = log NB(x) − softplus(ρ)                                          x > 0

:func:`log_nb` and :func:`log_zinb` are these lines, for any shape, with torch's own gradient.
:func:`nb_loss` and :func:`zinb_loss` are what networks train on: they start at the unbounded
outputs of a layer and compute value and gradient in one sweep. The zero terms are evaluated
everywhere, the gamma functions only at the few non-zeros.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

LOG_MEAN = (math.log(1e-5), math.log(1e6))  # bounds of the mean, before the size factor
DISPERSION = (1e-4, 1e4)
_SHIFT = 8  # lgΓ is evaluated at θ + 8, where Stirling's series to z⁻⁵ is exact to 3e-10
_BLOCK = 1 << 20  # entries per sweep of the loss, which bounds the memory of its temporaries


class CountParameters(NamedTuple):
    """What a :class:`CountHead` predicts.

    Attributes
    ----------
    mean
        μ > 0, (n_obs, n_vars), in counts.
    dispersion
        θ > 0, (n_obs, n_vars) or (n_vars,): the variance is μ + μ²/θ.
    logit
        ρ, (n_obs, n_vars): a zero is added with probability σ(ρ); None without zero inflation.
    """

    mean: Tensor
    dispersion: Tensor
    logit: Tensor | None


# --- elementwise ------------------------------------------------------------------------------------


def log_nb(x: Tensor, mean: Tensor, dispersion: Tensor) -> Tensor:
    """Log-probability of counts under a negative binomial.

    Parameters
    ----------
    x
        Counts ≥ 0, any shape; need not be whole numbers.
    mean
        μ > 0, times the size factor where there is one; broadcasts with `x`.
    dispersion
        θ > 0: the variance is μ + μ²/θ; broadcasts with `x`.

    Returns
    -------
    Log-probabilities, in the broadcast shape.

    Examples
    --------
    >>> import torch
    >>> from scdance import nn
    >>> one = torch.tensor(1.0)
    >>> round(nn.log_nb(torch.tensor(0.0), one, one).exp().item(), 3)  # (θ / (θ + μ))^θ
    0.5
    """
    z = dispersion + _SHIFT
    # lgΓ(x+θ) − lgΓ(θ) contains x log θ, which cancels against x log(μ/(θ+μ)) for large θ: merged
    power = x * (mean * z / (dispersion + mean)).log()
    gamma = _stirling(x, z) - _log_rising(x, dispersion) - torch.lgamma(x + 1)
    return power + gamma - dispersion * torch.log1p(mean / dispersion)


def log_zinb(x: Tensor, mean: Tensor, dispersion: Tensor, logit: Tensor) -> Tensor:
    """Log-probability of counts under a zero-inflated negative binomial.

    Parameters
    ----------
    x, mean, dispersion
        As in :func:`log_nb`.
    logit
        ρ, any real number: a zero is added with probability σ(ρ); broadcasts with `x`.

    Returns
    -------
    Log-probabilities, in the broadcast shape.

    Examples
    --------
    >>> import torch
    >>> from scdance import nn
    >>> zero, one = torch.tensor(0.0), torch.tensor(1.0)
    >>> round(nn.log_zinb(zero, one, one, zero).exp().item(), 3)  # half of the zeros are added ones
    0.75
    """
    nb = log_nb(x, mean, dispersion)
    return torch.where(x > 0, nb, torch.logaddexp(logit, nb)) - functional.softplus(logit)


def _stirling(x: Tensor, z: Tensor) -> Tensor:
    """Evaluate lgΓ(z+x) − lgΓ(z) − x log z for z ≥ 8, without subtracting large numbers."""
    return (z + x - 0.5) * torch.log1p(x / z) - x + _series(z + x) - _series(z)


def _series(z: Tensor) -> Tensor:
    square = z.square().reciprocal()
    return (1 / 12 - square * (1 / 360 - square / 1260)) / z


def _series_slope(z: Tensor) -> Tensor:
    square = z.square().reciprocal()
    return -square * (1 / 12 - square * (1 / 120 - square / 252))


def _log_rising(x: Tensor, theta: Tensor) -> Tensor:
    """Evaluate the log of Π (x+θ+k)/(θ+k), k = 0…7: the way from θ to θ + 8."""
    total = torch.zeros_like(x + theta)
    for start in range(0, _SHIFT, 4):  # four factors at a time stay within float32 for x up to 2²⁴
        product = 1 + x / (theta + start)
        for k in range(start + 1, start + 4):
            product = product * (1 + x / (theta + k))
        total = total + product.log()
    return total


def _nb_slopes(x: Tensor, mean: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes of log NB(x) in log μ and in θ."""
    z, total = theta + _SHIFT, theta + mean
    by_log_mean = theta * (x - mean) / total
    # ψ(x+θ) − ψ(θ) + log θ/(θ+μ) + (μ−x)/(θ+μ), the first difference again taken at θ + 8
    by_theta = ((z + x) / z * (theta / total)).log() + (mean - x) / total
    by_theta += _series_slope(z + x) - _series_slope(z) - 0.5 / (z + x) + 0.5 / z
    for k in range(_SHIFT):
        by_theta += x / ((theta + k) * (theta + k + x))
    return by_log_mean, by_theta


# --- losses on the outputs of a layer ------------------------------------------------------------------


def nb_loss(x: Tensor, mean: Tensor, dispersion: Tensor, size: Tensor | None = None) -> Tensor:
    """Mean negative log-likelihood of counts under a negative binomial, from unbounded outputs.

    Parameters
    ----------
    x
        Counts ≥ 0, (n_obs, n_vars).
    mean
        a, (n_obs, n_vars): μ = size · exp(a), with exp(a) bounded to [1e-5, 1e6].
    dispersion
        b, (n_obs, n_vars) or (n_vars,): θ = softplus(b), bounded to [1e-4, 1e4].
    size
        Size factor of each cell > 0, (n_obs,); None for 1.

    Returns
    -------
    The mean over all entries, a scalar. Differentiable once, in `mean` and `dispersion`.

    Examples
    --------
    >>> import torch
    >>> from scdance import nn
    >>> counts, outputs = torch.ones(4, 3), torch.zeros(4, 3, requires_grad=True)
    >>> nn.nb_loss(counts, outputs, torch.zeros(3)).backward()
    >>> outputs.grad.shape
    torch.Size([4, 3])
    """
    return _CountLoss.apply(x, mean, dispersion, None, size)  # type: ignore[no-any-return]


def zinb_loss(
    x: Tensor,
    mean: Tensor,
    dispersion: Tensor,
    logit: Tensor,
    size: Tensor | None = None,
    *,
    ridge: float = 0.0,
) -> Tensor:
    """Mean negative log-likelihood of counts under a zero-inflated negative binomial.

    Parameters
    ----------
    x, mean, dispersion, size
        As in :func:`nb_loss`.
    logit
        ρ, (n_obs, n_vars): a zero is added with probability π = σ(ρ).
    ridge
        Weight of the mean of π², which keeps the inflation from explaining every zero.

    Returns
    -------
    The mean over all entries, a scalar. Differentiable once, in `mean`, `dispersion` and `logit`.

    Examples
    --------
    >>> import torch
    >>> from scdance import nn
    >>> counts, outputs = torch.ones(4, 3), torch.zeros(4, 3, requires_grad=True)
    >>> nn.zinb_loss(counts, outputs, outputs, outputs, ridge=0.1).backward()
    >>> outputs.grad.shape
    torch.Size([4, 3])
    """
    loss = _CountLoss.apply(x, mean, dispersion, logit, size)
    return loss + ridge * logit.sigmoid().square().mean() if ridge else loss  # type: ignore[no-any-return]


class _CountLoss(torch.autograd.Function):
    """Value and slopes in one sweep over blocks of rows; backward only scales what was kept."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor, dispersion: Tensor, logit: Tensor | None, size: Tensor | None
    ) -> Tensor:
        per_gene = dispersion.dim() < mean.dim()
        log_size = torch.zeros(len(x), 1).to(mean) if size is None else size.to(mean).reshape(-1, 1).log()
        step = len(x) if mean.is_cuda else max(1, _BLOCK // max(1, x.shape[1]))
        values, parts = [], []
        for start in range(0, len(x), step):
            rows = slice(start, start + step)
            value, *slopes = _sweep(
                x[rows],
                mean[rows],
                dispersion if per_gene else dispersion[rows],
                None if logit is None else logit[rows],
                log_size[rows],
                slopes=any(ctx.needs_input_grad),
            )
            values.append(value)
            parts.append(slopes)
        if parts[0]:
            by_mean, by_dispersion, by_logit = zip(*parts, strict=True)
            ctx.save_for_backward(
                _joined(by_mean),
                sum(by_dispersion) if per_gene else _joined(by_dispersion),
                None if logit is None else _joined(by_logit),
            )
        return -torch.stack(values).sum() / x.numel()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        by_mean, by_dispersion, by_logit = ctx.saved_tensors
        scale = -grad / by_mean.numel()
        by_logit = None if by_logit is None else by_logit * scale
        return None, by_mean * scale, by_dispersion * scale, by_logit, None


def _joined(parts: tuple[Tensor, ...]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _sweep(x: Tensor, a: Tensor, b: Tensor, logit: Tensor | None, log_size: Tensor, *, slopes: bool) -> tuple[Any, ...]:
    """Sum of the log-likelihoods of a block of cells and, if asked, its slopes in a, b and ρ."""
    mean = a.clamp(*LOG_MEAN).add_(log_size).exp_()
    theta = functional.softplus(b).clamp_(*DISPERSION)
    at = _nonzero(x)  # where the gamma functions are needed
    counts, mean_at = x.reshape(-1)[at].to(mean), mean.view(-1)[at]
    theta_at = theta.view(-1)[at] if b.dim() == a.dim() else theta[at % a.shape[1]]

    log1p = torch.div(mean, theta).log1p_()
    nb = torch.mul(log1p, theta).neg_()  # log NB(0)
    log_p = nb if logit is None else torch.logaddexp(logit, nb)
    log_p.view(-1)[at] = log_nb(counts, mean_at, theta_at)
    value = log_p.sum() if logit is None else log_p.sum() - functional.softplus(logit).sum()
    if not slopes:
        return (value,)

    # slopes of log NB(0) in log μ and in θ ...
    share = mean.div_(mean + theta)
    by_theta = torch.sub(share, log1p, out=log1p)
    by_mean = share.mul_(theta).neg_()
    by_logit = None
    if logit is not None:  # ... count as much as the zero is likely to come from the NB
        real = nb.sub_(logit).sigmoid_()
        by_theta *= real
        by_mean *= real
        by_logit = torch.sigmoid(logit, out=log_p).neg_().add_(1).sub_(real)
        by_logit.view(-1)[at] -= 1 - real.view(-1)[at]
    by_mean.view(-1)[at], by_theta.view(-1)[at] = _nb_slopes(counts, mean_at, theta_at)
    by_mean = _inside(by_mean, a, *LOG_MEAN)
    by_theta = _inside(by_theta.sum_to_size(b.shape).mul_(torch.sigmoid(b)), theta, *DISPERSION)
    return value, by_mean, by_theta, by_logit


def _nonzero(x: Tensor) -> Tensor:
    """Positions of the counts above 0 in the flat matrix; NumPy finds them several times faster than torch."""
    there = x > 0
    return there.reshape(-1).nonzero().squeeze(1) if x.is_cuda else torch.from_numpy(np.flatnonzero(there.numpy()))


_inside = torch.ops.aten.hardtanh_backward  # 0 where the value stands at or beyond a bound, in one pass


class CountHead(nn.Module):
    """From the last hidden layer to the distribution of the counts of each gene.

    Parameters
    ----------
    n_in
        Width of the hidden layer.
    n_vars
        Number of genes.
    likelihood
        ``"zinb"`` has a zero inflation for each entry, ``"nb"`` has none.
    dispersion
        ``"entry"``: θ of each cell and gene comes from the hidden layer; ``"gene"``: one free θ per gene.

    Examples
    --------
    >>> import torch
    >>> from scdance import nn
    >>> head = nn.CountHead(8, 20, likelihood="nb")
    >>> head(torch.zeros(5, 8)).mean.shape, head.loss(torch.zeros(5, 8), torch.ones(5, 20)).shape
    (torch.Size([5, 20]), torch.Size([]))
    """

    def __init__(
        self,
        n_in: int,
        n_vars: int,
        *,
        likelihood: Literal["nb", "zinb"] = "zinb",
        dispersion: Literal["entry", "gene"] = "entry",
    ) -> None:
        super().__init__()
        self.mean = nn.Linear(n_in, n_vars)
        self.dispersion = nn.Linear(n_in, n_vars) if dispersion == "entry" else None
        self.gene_dispersion = None if dispersion == "entry" else nn.Parameter(torch.zeros(n_vars))
        self.logit = nn.Linear(n_in, n_vars) if likelihood == "zinb" else None

    def start_at(self, mean: Tensor) -> None:
        """Predict `mean`, (n_vars,) > 0, where the hidden layer is 0, before any training."""
        with torch.no_grad():
            self.mean.bias.copy_(mean.log())

    def forward(self, h: Tensor, size: Tensor | None = None) -> CountParameters:
        """Mean, dispersion and inflation logit of each entry.

        Parameters
        ----------
        h
            Hidden layer, (n_obs, n_in).
        size
            Size factor of each cell, (n_obs,), by which the mean is multiplied; None for 1.

        Returns
        -------
        μ > 0, (n_obs, n_vars); θ in [1e-4, 1e4], (n_obs, n_vars) or (n_vars,); ρ, (n_obs, n_vars) or None.
        """
        mean, dispersion, logit = self._outputs(h)
        mean = mean.clamp(*LOG_MEAN).exp()
        mean = mean if size is None else mean * size.reshape(-1, 1)
        return CountParameters(mean, functional.softplus(dispersion).clamp(*DISPERSION), logit)

    def loss(self, h: Tensor, x: Tensor, size: Tensor | None = None, *, ridge: float = 0.0) -> Tensor:
        """Mean negative log-likelihood of counts `x`, (n_obs, n_vars); `ridge` as in :func:`zinb_loss`."""
        mean, dispersion, logit = self._outputs(h)
        if logit is None:
            return nb_loss(x, mean, dispersion, size)
        return zinb_loss(x, mean, dispersion, logit, size, ridge=ridge)

    def _outputs(self, h: Tensor) -> CountParameters:
        dispersion: Any = self.gene_dispersion if self.dispersion is None else self.dispersion(h)
        return CountParameters(self.mean(h), dispersion, None if self.logit is None else self.logit(h))
