"""Gradient reversal, by which a net unlearns what an adversary reads from it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

STEEPNESS = 10.0  # of the ramp, as published


def reverse_gradient(x: Tensor, scale: float = 1.0) -> Tensor:
    """Pass values on as they are, and gradients back with the other sign [Ganin2016]_.

    What follows is trained to do its task; what came before is trained, with the weight `scale`, to make it fail.

    Parameters
    ----------
    x
        Values of any shape.
    scale
        Factor on the reversed gradient, ≥ 0; 0 lets none through.

    Returns
    -------
    The same values.

    Examples
    --------
    >>> import torch
    >>> from scdance import nn
    >>> x = torch.ones(2, requires_grad=True)
    >>> nn.reverse_gradient(x, 0.5).sum().backward()
    >>> x.grad.tolist()
    [-0.5, -0.5]
    """
    return _Reversed.apply(x, scale)  # type: ignore[no-any-return]


def adversarial_ramp(done: float) -> float:
    """Weight of an adversary that comes in as training goes on: 2 / (1 + exp(−10 t)) − 1 [Ganin2016]_.

    Parameters
    ----------
    done
        Part t of the training that is over, 0 to 1.

    Returns
    -------
    Weight from 0 to almost 1.

    Examples
    --------
    >>> from scdance import nn
    >>> [round(nn.adversarial_ramp(done), 2) for done in (0, 0.1, 0.5, 1)]
    [0.0, 0.46, 0.99, 1.0]
    """
    return math.tanh(STEEPNESS * done / 2)  # the same, without overflow


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return -ctx.scale * grad, None
