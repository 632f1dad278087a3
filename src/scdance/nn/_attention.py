"""Attention that is linear in the number of tokens, by random features of the softmax kernel or by flows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

FLOW_FLOOR = 1e-6  # added to either side of a flow, which is divided by
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

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """What each token makes of all, (n, width); of those alone that `mask`, (n,) bool, has, if there is one."""
        return self.ask(x, self.heard(x if mask is None else x[mask]))

    def heard(self, x: Tensor) -> Heard:
        """What the tokens `x`, (n, width), say."""
        k, v = _heads(self.key(x), self.heads), _heads(self.value(x), self.heads)
        logs = self._logs(k)
        top = logs.detach().amax(dim=(1, 2), keepdim=True)
        features = (logs - top).exp()
        return Heard(
            top, features.sum(1, keepdim=True), features.mT @ v, v.sum(1, keepdim=True), v.new_full((1,), float(len(x)))
        )

    def ask(self, x: Tensor, heard: Heard) -> Tensor:
        """What the tokens `x`, (n, width), make of what others say, (n, width)."""
        logs = self._logs(_heads(self.query(x), self.heads))
        features = (logs - logs.detach().amax(dim=2, keepdim=True)).exp() + FLOOR
        mixed = features @ (heard.values + FLOOR * heard.plain)
        weight = features @ (heard.keys + FLOOR * heard.n).mT
        return self.out((mixed / weight).transpose(0, 1).flatten(1))  # type: ignore[no-any-return]

    def _logs(self, x: Tensor) -> Tensor:
        """Logarithms of the features, (heads, n, n_random)."""
        x = x * self.head_width**-0.25
        return x @ self.omega.T - (x**2).sum(dim=2, keepdim=True) / 2


@dataclass(frozen=True)
class Flow:
    """What tokens hear of each other by :class:`FlowAttention`, in parts from which the weight of any pair follows.

    Attributes
    ----------
    taken
        Queries over what flows into each sink, q_i/I_i, (heads, n, head_width).
    keys
        Keys, k_j, (heads, n, head_width).
    gate
        Part of what it hears that a sink lets in, σ(Î_i), (heads, n, 1).
    share
        Share of each source in the competition, softmax_j(Ô), (heads, n, 1); the shares of a head sum to 1.
    n
        Number of tokens that count.
    """

    taken: Tensor
    keys: Tensor
    gate: Tensor
    share: Tensor
    n: int | Tensor

    def mix(self, values: Tensor) -> Tensor:
        """What each token makes of the values of all, (heads, n, head_width), in linear time."""
        competing = values * self.share * self.n
        return self.gate * (self.taken @ (self.keys.mT @ competing))

    def weights(self, sinks: Tensor, sources: Tensor) -> Tensor:
        """Factor on the value of a source in what a sink makes of all: σ(Î_i) (q_i·k_j/I_i) n softmax_j(Ô).

        Parameters
        ----------
        sinks, sources
            Positions of the tokens of each pair, (n_pairs,) int.

        Returns
        -------
        Weights, (heads, n_pairs), ≥ 0; about 1/n each where all are alike.
        """
        flows = (self.taken[:, sinks] * self.keys[:, sources]).sum(dim=2)
        return self.gate[:, sinks, 0] * flows * self.share[:, sources, 0] * self.n

    def totals(self) -> tuple[Tensor, Tensor]:
        """Sums of the weights of each sink over all sources, and of each source over all sinks, (heads, n) each."""
        hears, is_heard = self.taken * self.gate, self.keys * self.share * self.n
        sums = (a @ b.sum(dim=1, keepdim=True).mT for a, b in ((hears, is_heard), (is_heard, hears)))
        of_sinks, of_sources = (each[..., 0] for each in sums)
        return of_sinks, of_sources


class FlowAttention(nn.Module):
    """Attention among all tokens in linear time, as a flow that neither source nor sink can multiply [Wu2022]_.

    Queries q and keys k pass a sigmoid. Of token j a sink i takes q_i·k_j; what flows into a sink, I_i, and out of a
    source, O_j, is brought to 1, and the flow that is then left decides the rest:

        I_i = q_i·Σ_j k_j,  O_j = k_j·Σ_i q_i,  Î_i = q_i·Σ_j k_j/O_j,  Ô_j = k_j·Σ_i q_i/I_i
        out_i = σ(Î_i) (q_i/I_i)·Σ_j k_jᵀ n softmax_j(Ô) v_j

    Ô is bounded by ±1: sources compete only below their equal share.

    Parameters
    ----------
    width
        Numbers per token, a multiple of `heads`.
    heads
        Heads.

    Examples
    --------
    >>> import torch
    >>> from scdance import nn
    >>> nn.FlowAttention(32, heads=4)(torch.zeros(100, 32)).shape
    torch.Size([100, 32])
    """

    def __init__(self, width: int, heads: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """What each token makes of all, (n, width).

        Parameters
        ----------
        x
            Tokens, (n, width).
        mask
            Which tokens count, (n,) bool; what the others get has no meaning. None: all.
        """
        out = self.flow(x, mask).mix(_heads(self.value(x), self.heads))
        return self.out(out.transpose(0, 1).flatten(1))  # type: ignore[no-any-return]

    def flow(self, x: Tensor, mask: Tensor | None = None) -> Flow:
        """Who hears whom, without a matrix of all pairs; `x` and `mask` as above."""
        q, k = (_heads(layer(x), self.heads).sigmoid() for layer in (self.query, self.key))
        if mask is not None:
            q, k = q * mask[:, None], k * mask[:, None]
        into = _share(q, k.sum(dim=1, keepdim=True))  # I, (heads, n, 1)
        out_of = _share(k, q.sum(dim=1, keepdim=True))  # O
        kept_in = _share(q, (k / out_of).sum(dim=1, keepdim=True))  # Î
        kept_out = _share(k, (q / into).sum(dim=1, keepdim=True)).clamp(-1, 1)  # Ô
        n: int | Tensor = len(x)
        if mask is not None:
            n, kept_out = mask.sum(), kept_out.masked_fill(~mask[:, None], -torch.inf)
        return Flow(q / into, k, kept_in.sigmoid(), kept_out.softmax(dim=1), n)


def _share(x: Tensor, total: Tensor) -> Tensor:
    """Product of each row with a sum over rows, (heads, n, 1), kept from 0."""
    return (x + FLOW_FLOOR) @ (total + FLOW_FLOOR).mT


def _heads(x: Tensor, heads: int) -> Tensor:
    """The numbers of each head apart, (heads, n, head_width)."""
    return x.unflatten(1, (heads, -1)).transpose(0, 1)


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


class TransformerBlock(nn.Module):
    """Attention among all tokens and a dense net, each added to what enters it.

    Parameters
    ----------
    attention
        From tokens and a mask, or None, to what each makes of all, as :class:`LinearAttention` and
        :class:`FlowAttention`.
    width
        Numbers per token.
    hidden
        Width of the hidden layer of the dense net.
    dropout
        Part of the units that is dropped in training, in [0, 1).
    norm
        Normalise what enters attention and dense net ("before"), or what comes out of the sums ("after"); with "after"
        the dense net ends in an activation.

    Examples
    --------
    >>> import torch
    >>> from scdance import nn
    >>> nn.TransformerBlock(nn.FlowAttention(32), 32, hidden=64)(torch.zeros(100, 32)).shape
    torch.Size([100, 32])
    """

    def __init__(
        self,
        attention: nn.Module,
        width: int,
        *,
        hidden: int,
        dropout: float = 0.0,
        norm: Literal["before", "after"] = "after",
    ) -> None:
        super().__init__()
        self.attention, self.drop, self.norm_first = attention, nn.Dropout(dropout), norm == "before"
        self.attention_norm, self.dense_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dense = nn.Sequential(
            *(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout)),
            *(nn.Linear(hidden, width), nn.Identity() if self.norm_first else nn.GELU(), nn.Dropout(dropout)),
        )

    def forward(self, h: Tensor, mask: Tensor | None = None) -> Tensor:
        """New states of the tokens, (n, width); `mask`, (n,) bool, says which are heard."""
        if self.norm_first:
            h = h + self.drop(self.attention(self.attention_norm(h), mask))
            return h + self.dense(self.dense_norm(h))  # type: ignore[no-any-return]
        h = self.attention_norm(h + self.drop(self.attention(h, mask)))
        return self.dense_norm(h + self.dense(h))  # type: ignore[no-any-return]


def orthogonal(n: int, width: int) -> Tensor:
    """Random vectors as long as those of a normal distribution, orthogonal in blocks of `width`: (n, width)."""
    blocks = [torch.linalg.qr(torch.randn(width, width))[0].T for _ in range(math.ceil(n / width))]
    return torch.cat(blocks)[:n] * torch.randn(n, width).norm(dim=1, keepdim=True)
