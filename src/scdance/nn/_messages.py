"""The graph convolution of scMoGNN: cells and features tell each other what they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

GROUPS = 4  # of the units of a node, each normalised by itself
FACTS_DROPOUT = 0.2


class CellGraph(NamedTuple):
    """Some cells and all features.

    Attributes
    ----------
    edges
        Values, (n_cells, n_vars): a tensor, or what has its product as :class:`scdance.graph.Sparse`.
    of_cells, of_features
        Number of edges of each cell and of each feature among these cells, (n, 1).
    facts
        What is known of the batch of each cell, (n_cells, n_facts); None: nothing.
    z
        Scores of each cell, (n_cells, n_components); None where cells do not start from them.
    """

    edges: Any
    of_cells: Tensor
    of_features: Tensor
    facts: Tensor | None = None
    z: Tensor | None = None


class Relation(nn.Module):
    """What a node makes of itself and of the mean of what others say, normalised in groups of units."""

    def __init__(self, n_in: int, hidden: int) -> None:
        super().__init__()
        self.own, self.others = nn.Linear(n_in, hidden), nn.Linear(n_in, hidden, bias=False)
        self.norm = nn.GroupNorm(GROUPS, hidden)

    def forward(self, h: Tensor, heard: Tensor) -> Tensor:
        return self.norm(self.own(h) + heard)  # type: ignore[no-any-return]


class Layer(nn.Module):
    """A round of messages; `alpha` None: features are not linked among themselves."""

    def __init__(self, n_in: int, hidden: int, dropout: float, alpha: float | None) -> None:
        super().__init__()
        self.to_cells, self.to_features = Relation(n_in, hidden), Relation(n_in, hidden)
        self.alpha = alpha or 0.0
        self.among_features = None if alpha is None else Relation(n_in, hidden)
        self.end = nn.Sequential(nn.GELU(), nn.Dropout(dropout))

    def cells(self, h: Tensor, heard: Tensor) -> Tensor:
        """New states of cells, (n_cells, hidden), from those that enter and from what they heard."""
        return self.end(self.to_cells(h, heard))  # type: ignore[no-any-return]

    def features(self, h: Tensor, heard: Tensor, links: Any) -> Tensor:
        """New states of features, (n_vars, hidden)."""
        new = self.to_features(h, heard)
        if self.among_features is not None and links is not None:
            among = self.among_features(h, links @ self.among_features.others(h))
            new = (1 - self.alpha) * new + self.alpha * among
        return self.end(new)  # type: ignore[no-any-return]


class CellFeatureNet(nn.Module):
    """The graph convolution of cells and features [Wen2022]_.

    In each layer a node makes a new state of its own and of the mean of what its neighbours say, weighted by the edges.
    What features say in each layer is kept in the buffer `said`, (n_layers, n_vars, hidden), once :meth:`listen` has
    found it in the cells that teach; :meth:`recall` answers to any cell from it, by itself.

    Parameters
    ----------
    n_vars
        Number of features.
    n_scores
        Number of scores that a cell starts from; 0: all start from one state that is learnt.
    n_facts
        Number of facts about its batch by which the start of a cell is shifted; 0: none.
    n_out
        Number of values of an answer.
    hidden
        Width of the states, a multiple of 4.
    n_layers
        Rounds of messages.
    embedding_layers
        Layers that make the first states; those beyond the first are dense.
    residual
        What a layer after the first takes beside the states of the layer before: those before the first layer
        ("initial") or of one layer earlier ("previous"), side by side; the former, added ("add"); or nothing ("none").
    readout
        Whether the states of a cell enter the answer as a weighted sum ("sum") or side by side ("concat").
    dropout
        Part of the units of each state that is dropped in training.
    alpha
        Weight of what other features say against what cells say; None: features are not linked among themselves.

    Examples
    --------
    >>> import torch
    >>> from scdance import nn
    >>> net = nn.CellFeatureNet(n_vars=5, n_out=2, hidden=16)
    >>> x = torch.ones(3, 5)
    >>> seen = nn.CellGraph(x, torch.full((3, 1), 5.0), torch.full((5, 1), 3.0))
    >>> net(seen).shape
    torch.Size([3, 2])
    """

    groups = GROUPS

    def __init__(
        self,
        *,
        n_vars: int,
        n_out: int,
        hidden: int,
        n_scores: int = 0,
        n_facts: int = 0,
        n_layers: int = 2,
        embedding_layers: int = 1,
        residual: str = "initial",
        readout: str = "sum",
        dropout: float = 0.0,
        alpha: float | None = None,
    ) -> None:
        super().__init__()
        self.layers: Any
        self.said: Tensor
        self.residual = residual
        self.feature = nn.Parameter(torch.randn(n_vars, hidden))
        self.cell = nn.Linear(n_scores, hidden) if n_scores else nn.Parameter(torch.randn(hidden))
        heard = (
            nn.Sequential(nn.Linear(n_facts, hidden), nn.Dropout(FACTS_DROPOUT), nn.LeakyReLU()) if n_facts else None
        )
        self.batch = heard
        deeper = [(nn.Linear(hidden, hidden), nn.GELU(), nn.GroupNorm(GROUPS, hidden), nn.Dropout(dropout))
                  for _ in range(2 * (embedding_layers - 1))]  # fmt: skip
        self.cells_in = nn.Sequential(*(part for layer in deeper[::2] for part in layer))
        self.features_in = nn.Sequential(*(part for layer in deeper[1::2] for part in layer))
        wide = 2 * hidden if residual in ("initial", "previous") else hidden
        self.layers = nn.ModuleList(Layer(wide if i else hidden, hidden, dropout, alpha) for i in range(n_layers))
        self.weights = nn.Parameter(torch.zeros(n_layers)) if readout == "sum" else None
        self.head = nn.Linear(hidden if readout == "sum" else n_layers * hidden, n_out)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("said", torch.zeros(n_layers, n_vars, hidden))

    def forward(self, seen: CellGraph, links: Any = None) -> Tensor:
        """Answers to some cells in a graph of their own, (n_cells, n_out)."""
        cells, features = [self._first_of_cells(seen)], [self._first_of_features()]
        for i, layer in enumerate(self.layers):
            c, f = self._entering(cells), self._entering(features)
            cells.append(layer.cells(c, seen.edges @ layer.to_cells.others(f) / seen.of_cells.clamp(min=1)))
            if i < len(self.layers) - 1:
                heard = seen.edges.T @ layer.to_features.others(c) / seen.of_features.clamp(min=1)
                features.append(layer.features(f, heard, links))
        return self._answer(cells)

    def recall(self, seen: CellGraph) -> Tensor:
        """Answers to some cells, each by itself, from what features were last found to say, (n_cells, n_out)."""
        cells = [self._first_of_cells(seen)]
        for layer, said in zip(self.layers, self.said, strict=True):
            cells.append(layer.cells(self._entering(cells), seen.edges @ said / seen.of_cells.clamp(min=1)))
        return self._answer(cells)

    @torch.no_grad()
    def listen(self, parts: Callable[[], Iterable[CellGraph]], links: Any = None) -> None:
        """Find what features say in the graph of the cells that `parts()` yields anew in each layer."""
        self.eval()
        cells, features = [[self._first_of_cells(seen)] for seen in parts()], [self._first_of_features()]
        for i, layer in enumerate(self.layers):
            f = self._entering(features)
            self.said[i] = layer.to_cells.others(f)
            if i == len(self.layers) - 1:
                break
            total, degrees = torch.zeros_like(self.said[i]), torch.zeros_like(self.said[i][:, :1])
            for states, seen in zip(cells, parts(), strict=True):
                c = self._entering(states)
                total += seen.edges.T @ layer.to_features.others(c)
                degrees += seen.of_features
                states.append(layer.cells(c, seen.edges @ self.said[i] / seen.of_cells.clamp(min=1)))
                del states[1:-2]
            features.append(layer.features(f, total / degrees.clamp(min=1), links))

    def _first_of_cells(self, seen: CellGraph) -> Tensor:
        own = self.cell(seen.z) if isinstance(self.cell, nn.Linear) else self.cell.expand(len(seen.of_cells), -1)
        shift = 0.0 if self.batch is None else self.batch(seen.facts)
        return self.cells_in(functional.leaky_relu(own) + shift)  # type: ignore[no-any-return]

    def _first_of_features(self) -> Tensor:
        return self.features_in(functional.leaky_relu(self.feature))  # type: ignore[no-any-return]

    def _entering(self, states: Sequence[Tensor]) -> Tensor:
        """What enters a layer, from the states before the first one and after each."""
        if len(states) == 1 or self.residual == "none":
            return states[-1]
        if self.residual == "add":
            return states[-1] + states[0]
        return torch.cat([states[-1], states[0] if self.residual == "initial" else states[-2]], dim=1)

    def _answer(self, states: Sequence[Tensor]) -> Tensor:
        if self.weights is None:
            return self.head(torch.cat(list(states[1:]), dim=1))  # type: ignore[no-any-return]
        return self.head(sum(w * h for w, h in zip(self.weights.softmax(dim=0), states[1:], strict=True)))  # type: ignore[no-any-return]
