"""Attention that is linear in the number of tokens, by random features of the softmax kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

FLOOR = 1e-4  # added to each feature, relative to the largest: no token is without any weight


@dataclass(frozen=True)
class Heard:
    """What tokens say to whoever asks them, of any number of tokens in the same few numbers; parts add up.

    Attributes
    ----------
    top
        Logarithm of the largest feature of the keys of each head, (heads, 1, 1): the sums below are relative to it.
    keys
        Sum of the features of the keys, (heads, 1, n_random).
    values
        Sum of their products with the values, (heads, n_random, width).
    plain
        Sum of the values, (heads, 1, width).
    n
        Number of tokens, (1,).
    """

    top: Tensor
    keys: Tensor
    values: Tensor
    plain: Tensor
    n: Tensor

    def __add__(self, other: Heard) -> Heard:
        top = torch.maximum(self.top, other.top)
        a, b = (self.top - top).exp(), (other.top - top).exp()
        return Heard(
            top,
            a * self.keys + b * other.keys,
            a * self.values + b * other.values,
            self.plain + other.plain,
            self.n + other.n,
        )


class LinearAttention(nn.Module):
    """Attention among all tokens in linear time: FAVOR+ of Performers [Choromanski2021]_.

    exp(q·k) is the mean over random ω of exp(ω·q − |q|²/2) exp(ω·k − |k|²/2). The sums over tokens are then taken once
    for all that ask; :meth:`heard` gives them and :meth:`ask` uses them, so that they may be kept and other tokens ask
    later. The random vectors are drawn once, orthogonal in blocks, and are part of the state.

    Parameters
    ----------
    width
        Numbers per token.
    heads
        Heads.
    head_width
        Numbers per head; heads × head_width need not be `width`.
    n_random
        Random vectors per head; None: head_width · ln(head_width), rounded down, at least head_width.

    Examples
    --------
    >>> import torch
    >>> from scdance import nn
    >>> attention = nn.LinearAttention(32, heads=2, head_width=8)
    >>> x = torch.zeros(100, 32)
    >>> attention(x).shape
    torch.Size([100, 32])
    >>> parts = attention.heard(x[:60]) + attention.heard(x[60:])
    >>> torch.allclose(attention.ask(x[:1], parts), attention(x)[:1])
    True
    """

    def __init__(self, width: int, heads: int = 8, head_width: int = 64, n_random: int | None = None) -> None:
        super().__init__()
        self.heads, self.head_width = heads, head_width
        n_random = n_random or max(head_width, int(head_width * math.log(head_width)))
        self.query, self.key, self.value = (nn.Linear(width, heads * head_width, bias=False) for _ in range(3))
        self.out = nn.Linear(heads * head_width, width)
        self.omega: Tensor
        self.register_buffer("omega", orthogonal(n_random, head_width))

    def forward(self, x: Tensor) -> Tensor:
        """What each token makes of all, (n, width)."""
        return self.ask(x, self.heard(x))

    def heard(self, x: Tensor) -> Heard:
        """What the tokens `x`, (n, width), say."""
        k, v = self._split(self.key(x)), self._split(self.value(x))
        logs = self._logs(k)
        top = logs.detach().amax(dim=(1, 2), keepdim=True)
        features = (logs - top).exp()
        return Heard(
            top, features.sum(1, keepdim=True), features.mT @ v, v.sum(1, keepdim=True), v.new_full((1,), float(len(x)))
        )

    def ask(self, x: Tensor, heard: Heard) -> Tensor:
        """What the tokens `x`, (n, width), make of what others say, (n, width)."""
        logs = self._logs(self._split(self.query(x)))
        features = (logs - logs.detach().amax(dim=2, keepdim=True)).exp() + FLOOR
        mixed = features @ (heard.values + FLOOR * heard.plain)
        weight = features @ (heard.keys + FLOOR * heard.n).mT
        return self.out((mixed / weight).transpose(0, 1).flatten(1))  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.heads, self.head_width)).transpose(0, 1)

    def _logs(self, x: Tensor) -> Tensor:
        """Logarithms of the features, (heads, n, n_random)."""
        x = x * self.head_width**-0.25
        return x @ self.omega.T - (x**2).sum(dim=2, keepdim=True) / 2


def orthogonal(n: int, width: int) -> Tensor:
    """Random vectors as long as those of a normal distribution, orthogonal in blocks of `width`: (n, width)."""
    blocks = [torch.linalg.qr(torch.randn(width, width))[0].T for _ in range(math.ceil(n / width))]
    return torch.cat(blocks)[:n] * torch.randn(n, width).norm(dim=1, keepdim=True)
