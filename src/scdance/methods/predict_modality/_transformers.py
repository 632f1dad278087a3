"""The net of scMoFormer: cells, genes and proteins attend to their kind and hear the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from scdance.graph import Sparse
from scdance.nn import GPSBlock, Heard, Message


class Seen(NamedTuple):
    """Some cells and all genes.

    Attributes
    ----------
    edges
        Values, (n_cells, n_vars).
    of_cells, of_genes
        Number of edges of each cell and of each gene among these cells, (n, 1).
    z
        Scores of each cell, (n_cells, n_components).
    """

    edges: Sparse
    of_cells: Tensor
    of_genes: Tensor
    z: Tensor


class Links(NamedTuple):
    """What is known of genes and proteins: a product with a matrix is what each hears on average.

    `of_genes`, `of_proteins` are where they lie, (n, n_positions) or None; `flips`: signs mean nothing.
    """

    genes: Sparse
    proteins: Sparse
    to_genes: Sparse
    to_proteins: Sparse
    of_genes: Any
    of_proteins: Any
    flips: bool


class Known(NamedTuple):
    """What does not change from batch to batch: the first numbers of each gene, and the links."""

    genes: Tensor
    links: Links | None


class Kind(nn.Module):
    """A round for nodes of one kind: the block, and messages of other kinds; cells also pass on what they are."""

    def __init__(self, block: GPSBlock, width: int, n_messages: int, passes_on: bool = False) -> None:
        super().__init__()
        self.block = block
        self.messages: Any = nn.ModuleList(Message(width) for _ in range(n_messages))
        self.own = nn.Linear(width, width) if passes_on else None
        self.each, self.all = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, h: Tensor, *messages: Tensor, heard: Heard | None = None, links: Sparse | None = None) -> Tensor:
        terms = [self.block(h, heard, links)]
        terms += [make(h, message) for make, message in zip(self.messages, messages, strict=True)]
        terms += [] if self.own is None else [self.own(h)]
        total = torch.stack([self.each(functional.selu(term)) for term in terms]).sum(dim=0)
        return self.all(functional.selu(total))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """A round for all kinds of nodes, and what was last said to cells: by genes, and by other cells."""

    def __init__(self, cells: Kind, genes: Kind | None, proteins: Kind | None, n_vars: int, width: int) -> None:
        super().__init__()
        self.said: Tensor
        self.cells, self.genes, self.proteins = cells, genes, proteins
        self.register_buffer("said", torch.zeros(n_vars, width))
        with torch.no_grad():
            nothing = cells.block.attention.heard(torch.zeros(1, width))
        for name, value in vars(nothing).items():
            self.register_buffer(name, torch.zeros_like(value))

    @property
    def heard(self) -> Heard:
        """What cells were last found to say to each other."""
        return Heard(*(getattr(self, each.name) for each in fields(Heard)))

    def keep(self, said: Tensor, heard: Heard) -> None:
        """Keep what genes say, (n_vars, width), and what cells say."""
        self.said.copy_(said)
        for name, value in vars(heard).items():
            getattr(self, name).copy_(value)


class Net(nn.Module):
    """The transformers; each layer keeps what was last said to cells."""

    def __init__(
        self, *, n_vars: int, n_scores: int, n_out: int, hidden: int, n_layers: int, heads: int, head_width: int,
        n_random: int | None, dropout: float, attention_dropout: float, n_positions: int, is_linked: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.layers: Any
        drops = {"dropout": dropout, "attention_dropout": attention_dropout}

        def block(linked: bool) -> GPSBlock:
            return GPSBlock(hidden, heads, head_width, n_random, has_links=linked, **drops)

        self.cell, self.gene = nn.Linear(n_scores, hidden), nn.Linear(n_scores, hidden)
        self.protein = nn.Parameter(torch.randn(n_out, hidden)) if is_linked else None
        has_places = is_linked and n_positions > 0
        self.gene_place = nn.Linear(n_positions, hidden) if has_places else None
        self.protein_place = nn.Linear(n_positions, hidden) if has_places else None
        self.first = nn.Sequential(nn.SELU(), nn.Dropout(dropout))
        layers = []
        for i in range(n_layers):
            # cells alone are answered: what genes are after the last layer nobody hears, nor proteins one before
            genes = Kind(block(is_linked), hidden, 1 + is_linked) if i < n_layers - 1 else None
            proteins = Kind(block(True), hidden, 1) if is_linked and i < n_layers - 2 else None
            layers.append(Layer(Kind(block(False), hidden, 1, passes_on=True), genes, proteins, n_vars, hidden))
        self.layers = nn.ModuleList(layers)
        head = nn.Linear((n_layers + 1) * hidden, n_out)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        self.head = nn.Sequential(nn.Dropout(dropout), head)

    def forward(self, seen: Seen, known: Known) -> Tensor:
        """Answers to some cells that hear each other, (n_cells, n_out)."""
        cells, (genes, proteins) = [self.first(self.cell(seen.z))], self._others(known)
        for layer in self.layers:
            h = cells[-1]
            (to_cells,) = layer.cells.messages
            cells.append(layer.cells(h, seen.edges @ to_cells.others(genes) / seen.of_cells.clamp(min=1)))
            if layer.genes is not None:
                said = seen.edges.T @ layer.genes.messages[0].others(h) / seen.of_genes.clamp(min=1)
                genes, proteins = self._next(layer, genes, proteins, said, known.links)
        return self.head(torch.cat(cells, dim=1))  # type: ignore[no-any-return]

    def recall(self, seen: Seen) -> Tensor:
        """Answers to some cells, each by itself, from what was last said to cells, (n_cells, n_out)."""
        cells = [self.first(self.cell(seen.z))]
        for layer in self.layers:
            cells.append(self._recalled(layer, cells[-1], seen))
        return self.head(torch.cat(cells, dim=1))  # type: ignore[no-any-return]

    @torch.no_grad()
    def listen(self, parts: Callable[[], Iterable[Seen]], known: Known) -> None:
        """Find what is said to cells where those that `parts()` yields, anew in each layer, hear each other."""
        self.eval()
        cells, (genes, proteins) = [self.first(self.cell(seen.z)) for seen in parts()], self._others(known)
        for layer in self.layers:
            attention = layer.cells.block.attention
            heard = attention.heard(cells[0])
            for h in cells[1:]:
                heard = heard + attention.heard(h)
            layer.keep(layer.cells.messages[0].others(genes), heard)
            if layer.genes is None:
                break
            total, degrees = torch.zeros_like(genes), torch.zeros_like(genes[:, :1])
            for i, seen in enumerate(parts()):
                total += seen.edges.T @ layer.genes.messages[0].others(cells[i])
                degrees += seen.of_genes
                cells[i] = self._recalled(layer, cells[i], seen)
            genes, proteins = self._next(layer, genes, proteins, total / degrees.clamp(min=1), known.links)

    def _recalled(self, layer: Layer, h: Tensor, seen: Seen) -> Tensor:
        return layer.cells(h, seen.edges @ layer.said / seen.of_cells.clamp(min=1), heard=layer.heard)  # type: ignore[no-any-return]

    def _others(self, known: Known) -> tuple[Tensor, Tensor | None]:
        """First states of genes and of proteins."""
        genes, proteins, links = self.gene(known.genes), self.protein, known.links
        flips = self.training and links is not None and links.flips
        if links is not None and self.gene_place is not None and self.protein_place is not None:
            of_genes, of_proteins = (
                each * (2.0 * torch.randint(2, each.shape[1:], device=each.device) - 1) if flips else each
                for each in (links.of_genes, links.of_proteins)
            )
            genes, proteins = genes + self.gene_place(of_genes), proteins + self.protein_place(of_proteins)
        return self.first(genes), None if proteins is None else self.first(proteins)

    def _next(
        self, layer: Layer, genes: Tensor, proteins: Tensor | None, of_cells: Tensor, links: Links | None
    ) -> tuple[Tensor, Tensor | None]:
        """States of genes and proteins after a layer, in which cells said `of_cells` to genes."""
        if links is None or proteins is None:
            return layer.genes(genes, of_cells), None  # type: ignore[misc]
        from_proteins = links.to_genes @ layer.genes.messages[1].others(proteins)  # type: ignore[union-attr]
        new = layer.genes(genes, of_cells, from_proteins, links=links.genes)  # type: ignore[misc]
        if layer.proteins is not None:
            from_genes = links.to_proteins @ layer.proteins.messages[0].others(genes)
            proteins = layer.proteins(proteins, from_genes, links=links.proteins)
        return new, proteins
