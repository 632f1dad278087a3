"""Attention that is linear in the number of tokens, by random features of the softmax kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

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

    exp(q·k) is the mean over random ω of exp(ω·q − ‖q‖²/2) exp(ω·k − ‖k‖²/2). The sums over tokens are then taken once
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


class Message(nn.Module):
    """What a node makes of itself and of what it hears: a mean over others of :attr:`others` of their states.

    Parameters
    ----------
    width
        Numbers per node.

    Examples
    --------
    >>> import torch
    >>> from scdance import nn
    >>> message, h = nn.Message(8), torch.zeros(3, 8)
    >>> message(h, torch.ones(3, 3) / 3 @ message.others(h)).shape
    torch.Size([3, 8])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.own, self.others = nn.Linear(width, width), nn.Linear(width, width, bias=False)

    def forward(self, h: Tensor, heard: Tensor) -> Tensor:
        """New states, (n, width), from the states and what was heard, both (n, width)."""
        return self.own(h) + heard  # type: ignore[no-any-return]


class GPSBlock(nn.Module):
    """Attention among all nodes, beside messages along their links if they have any, and a dense net [Rampasek2022]_.

    Each is added to what enters it and normalised; attention and messages, side by side, are summed.

    Parameters
    ----------
    width
        Numbers per node.
    heads, head_width, n_random
        As in :class:`LinearAttention`.
    dropout, attention_dropout
        Part of the units, and of what attention says, that is dropped in training, in [0, 1).
    has_links
        Whether nodes also hear their neighbours.

    Examples
    --------
    >>> import torch
    >>> from scdance import nn
    >>> nn.GPSBlock(32, heads=2, head_width=8)(torch.zeros(100, 32)).shape
    torch.Size([100, 32])
    """

    def __init__(
        self,
        width: int,
        heads: int = 8,
        head_width: int = 64,
        n_random: int | None = None,
        *,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        has_links: bool = False,
    ) -> None:
        super().__init__()
        self.attention = LinearAttention(width, heads, head_width, n_random)
        self.attention_drop, self.attention_norm = nn.Dropout(attention_dropout), nn.LayerNorm(width)
        self.local = Message(width) if has_links else None
        self.local_drop, self.local_norm = nn.Dropout(dropout), nn.LayerNorm(width) if has_links else None
        self.dense = nn.Sequential(
            *(nn.Linear(width, 2 * width), nn.SELU(), nn.Dropout(dropout)),
            *(nn.Linear(2 * width, width), nn.Dropout(dropout)),
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, h: Tensor, heard: Heard | None = None, links: Any = None) -> Tensor:
        """New states, (n, width).

        Parameters
        ----------
        h
            States, (n, width).
        heard
            What nodes say to these; None: these themselves.
        links
            What multiplies states to give the mean over the neighbours of each node, (n, n); a block that has links
            needs it.
        """
        new = self.attention_norm(h + self.attention_drop(self.attention.ask(h, heard or self.attention.heard(h))))
        if self.local is not None and self.local_norm is not None:
            new = new + self.local_norm(h + self.local_drop(self.local(h, links @ self.local.others(h))))
        return self.norm(new + self.dense(new))  # type: ignore[no-any-return]


def orthogonal(n: int, width: int) -> Tensor:
    """Random vectors as long as those of a normal distribution, orthogonal in blocks of `width`: (n, width)."""
    blocks = [torch.linalg.qr(torch.randn(width, width))[0].T for _ in range(math.ceil(n / width))]
    return torch.cat(blocks)[:n] * torch.randn(n, width).norm(dim=1, keepdim=True)
