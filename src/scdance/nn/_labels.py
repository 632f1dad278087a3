"""Losses on labels of which only some are known."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def known_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the cells that have a label, 0 if none has.

    Parameters
    ----------
    logits
        Logits of the types, (n, n_types).
    labels
        Code of the type of each cell, (n,) int64, −1 where it is not known.

    Returns
    -------
    A scalar.

    Examples
    --------
    >>> import torch
    >>> from scdance import nn
    >>> round(nn.known_cross_entropy(torch.zeros(2, 4), torch.tensor([1, -1])).item(), 3)  # log 4
    1.386
    """
    total = functional.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
    return total / (labels >= 0).sum().clamp(min=1)
