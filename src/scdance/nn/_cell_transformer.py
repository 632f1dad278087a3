"""The network of CellPLM: cells of a sample are tokens, which hear each other and from which counts are restored."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ._attention import Flow, FlowAttention, TransformerBlock
from ._counts import CountHead, nb_loss
from ._mixture import MixtureLatent, NormalLatent, Place
from ._places import sinusoid

EMBEDDING_SD = 0.005  # of what a gene adds to a token, before any training
GROUPS = 4  # of the group norms
PATCHES = 99  # along each axis of a tissue, of a unit of the sinusoid each
PLACE_SCALE = 0.1  # of the sinusoid beside what the genes say, before any training
LOG_NOISE = -3.0  # logarithm of the variance of the place of a cell, before any training
MOST_THETA = 20.0  # above which softplus is the identity


@dataclass(frozen=True)
class Shape:
    """Sizes of a :class:`CellTransformer`.

    Attributes
    ----------
    n_vars
        Genes of the vocabulary.
    hidden, n_layers, heads
        Numbers of a token, layers of attention, heads of each.
    n_latent, n_components
        Dimensions of the latent space; components of its prior, 0 for one standard normal.
    decoder_hidden, head_hidden
        Widths of the decoder.
    covariates
        Numbers of categories that the decoder is told, such as of samples and of data sets.
    dropout
        Part of the units that is dropped in training, in [0, 1).
    has_places
        Whether tokens are told where a cell lies.
    """

    n_vars: int
    hidden: int = 256
    n_layers: int = 2
    heads: int = 8
    n_latent: int = 64
    n_components: int = 16
    decoder_hidden: int = 256
    head_hidden: int = 128
    covariates: tuple[int, ...] = ()
    dropout: float = 0.1
    has_places: bool = True


class Covariate(nn.Module):
    """What a category, such as the sample of a cell, adds to its state; an unknown one adds that of all together.

    Parameters
    ----------
    n
        Number of categories.
    width
        Numbers of a state.
    """

    def __init__(self, n: int, width: int) -> None:
        super().__init__()
        self.table, self.activation, self.norm = nn.Embedding(n, width), nn.PReLU(), nn.GroupNorm(GROUPS, width)

    def forward(self, codes: Tensor) -> Tensor:
        """(n_obs, width) of codes, (n_obs,) int, −1 where unknown."""
        unknown = self.table.weight.sum(dim=0)
        found = torch.where(codes[:, None] < 0, unknown, self.table(codes.clamp(min=0)))
        return self.norm(self.activation(found))  # type: ignore[no-any-return]


class CellEncoder(nn.Module):
    """From the expression of the cells of a sample, and where they lie, to their states; they hear each other.

    Parameters
    ----------
    shape
        The sizes.

    Examples
    --------
    >>> import torch
    >>> from scdance import nn
    >>> nn.CellEncoder(nn.Shape(n_vars=50, hidden=16, heads=4))(torch.zeros(3, 50)).shape
    torch.Size([3, 16])
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.hidden
        self.genes = nn.Parameter(EMBEDDING_SD * torch.randn(shape.n_vars, width))
        self.origin: Tensor  # expression from which cells are told apart
        self.register_buffer("origin", torch.zeros(shape.n_vars))
        self.has_places = shape.has_places
        if shape.has_places:
            self.no_place = nn.Parameter(torch.zeros(width))
            self.place_scale = nn.Parameter(torch.full((), PLACE_SCALE))
        self.mix = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Dropout(shape.dropout), nn.GroupNorm(GROUPS, width)
        )
        self.blocks = nn.ModuleList(
            TransformerBlock(
                FlowAttention(width, shape.heads), width, hidden=2 * width, dropout=shape.dropout, norm="before"
            )
            for _ in range(shape.n_layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, places: Tensor | None = None, genes: Tensor | None = None) -> Tensor:
        """States, (n_obs, hidden).

        Parameters
        ----------
        x
            Log-normalised expression, (n_obs, n_genes).
        places
            Coordinates, (n_obs, 2), from 0 to 1 along the longer side of the tissue; None: they are not known.
        genes
            Positions of these genes in the vocabulary, (n_genes,) int; None: all of it.
        """
        h = self._tokens(x, places, genes)
        for block in self.blocks:
            h = block(h)
        return self.norm(h)  # type: ignore[no-any-return]

    def flows(self, x: Tensor, places: Tensor | None = None, genes: Tensor | None = None) -> list[Flow]:
        """Who hears whom in each layer of attention, for the same input."""
        h, found = self._tokens(x, places, genes), []
        for block in cast("list[TransformerBlock]", self.blocks):
            found.append(cast("FlowAttention", block.attention).flow(block.attention_norm(h)))
            h = block(h)
        return found

    def _tokens(self, x: Tensor, places: Tensor | None, genes: Tensor | None) -> Tensor:
        """What enters the first layer, (n_obs, hidden)."""
        told, origin = (self.genes, self.origin) if genes is None else (self.genes[genes], self.origin[genes])
        h = x @ told - origin @ told
        if self.has_places:
            h = h + (self.no_place if places is None else self.place_scale * sinusoid(PATCHES * places, h.shape[1]))
        return self.mix(h)  # type: ignore[no-any-return]


class CellTransformer(nn.Module):
    """Cells in, places of a latent space and expected counts out [Wen2024]_.

    Parameters
    ----------
    shape
        The sizes.

    Examples
    --------
    >>> import torch
    >>> from scdance import nn
    >>> net = nn.CellTransformer(nn.Shape(n_vars=50, hidden=16, heads=4, n_latent=8, decoder_hidden=16)).eval()
    >>> net.latent(net.encoder(torch.zeros(3, 50))).z.shape
    torch.Size([3, 8])
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.hidden
        self.shape, self.encoder = shape, CellEncoder(shape)
        self.latent: nn.Module = NormalLatent(width, shape.n_latent)
        if shape.n_components:
            self.latent = MixtureLatent(width, shape.n_latent, shape.n_components)
        self.decoder = nn.Sequential(
            nn.Linear(shape.n_latent, shape.decoder_hidden),
            nn.PReLU(),
            nn.Dropout(shape.dropout),
            nn.GroupNorm(GROUPS, shape.decoder_hidden),
        )
        self.covariates = nn.ModuleList(Covariate(n, shape.decoder_hidden) for n in shape.covariates)
        self.n_steps: Tensor
        self.register_buffer("n_steps", torch.zeros((), dtype=torch.int64))  # so that a continued run goes on as one
        self.inner = nn.Linear(shape.decoder_hidden, shape.head_hidden)
        self.head = CountHead(shape.head_hidden, shape.n_vars, likelihood="nb", dispersion="gene")

    @torch.no_grad()
    def start_at(self, x: Tensor, shares: Tensor, theta: Tensor) -> None:
        """Prepare for cells whose expression `x`, shares of the counts and dispersion are these in the mean, (n_vars,).

        What sets a cell apart from the mean is then what the network sees of it, and the mean is what it predicts.
        """
        self.encoder.origin.copy_(x)
        cast("nn.Linear", self.encoder.mix[0]).bias.zero_()
        if isinstance(self.latent, MixtureLatent):
            self.latent.variance.bias.fill_(LOG_NOISE)
        else:
            cast("NormalLatent", self.latent).log_variance.bias.fill_(LOG_NOISE)
        self.head.start_at(shares * len(shares))
        cast("nn.Parameter", self.head.gene_dispersion).copy_(theta.clamp(max=MOST_THETA).expm1().log())

    def decode(self, z: Tensor, codes: tuple[Tensor, ...] = ()) -> Tensor:
        """Last hidden layer from places of the latent space, (n_obs, head_hidden).

        Parameters
        ----------
        z
            Places, (n_obs, n_latent).
        codes
            Category of each cell in each covariate, (n_obs,) int each, −1 where unknown; left out: all are.
        """
        h = self.decoder(z)
        nobody = torch.full((len(z),), -1, device=z.device)
        for i, covariate in enumerate(self.covariates):
            h = h + covariate(codes[i] if codes else nobody)
        return self.inner(h).relu()  # type: ignore[no-any-return]

    def shares(self, inner: Tensor, genes: Tensor | None = None) -> Tensor:
        """Logarithm of the expected share of each gene among these, (n_obs, n_genes)."""
        return self._scores(inner, genes).log_softmax(dim=1)

    def count_loss(
        self, inner: Tensor, counts: Tensor, hidden: Tensor | None = None, genes: Tensor | None = None
    ) -> Tensor:
        """Negative log-likelihood of counts, summed over the genes, the mean of the cells.

        The expected counts of a cell add up to its own.

        Parameters
        ----------
        inner
            Last hidden layer, (n_obs, head_hidden).
        counts
            Counts, (n_obs, n_genes).
        hidden
            Which of them are meant, (n_obs, n_genes) bool; None: all. Cells without a count among them have no part.
        genes
            As in :class:`CellEncoder`.
        """
        scores, theta = self._scores(inner, genes), cast("Tensor", self.head.gene_dispersion)
        theta = theta if genes is None else theta[genes]
        if hidden is None:
            total = counts.sum(dim=1)
            n = counts.shape[1]
            there = total > 0
            if not there.any():
                return scores.sum() * 0
            # relative to an even share, so that no bound of the mean is met
            mean = scores[there].log_softmax(dim=1) + math.log(n)
            return n * nb_loss(counts[there], mean, theta, total[there] / n)
        hidden = hidden & ((counts * hidden).sum(dim=1, keepdim=True) > 0)
        n_hidden = hidden.sum(dim=1)
        log_shares = scores.masked_fill(~hidden, -torch.inf).logsumexp(dim=1)
        rows, columns = hidden.nonzero(as_tuple=True)
        if len(rows) == 0:
            return scores.sum() * 0
        mean = scores[rows, columns] - log_shares[rows] + n_hidden[rows].log()
        size = (counts * hidden).sum(dim=1) / n_hidden.clamp(min=1)
        loss = nb_loss(counts[rows, columns][:, None], mean[:, None], theta[columns][:, None], size[rows])
        return loss * len(rows) / int((n_hidden > 0).sum())

    def _scores(self, inner: Tensor, genes: Tensor | None) -> Tensor:
        layer = self.head.mean
        if genes is None:
            return layer(inner)  # type: ignore[no-any-return]
        return nn.functional.linear(inner, layer.weight[genes], layer.bias[genes])

    def latent_loss(self, place: Place, least: float) -> Tensor:
        """Sum of the divergences, none of which counts below `least`."""
        return torch.stack([cost.clamp(min=least) for cost in place.costs]).sum()
