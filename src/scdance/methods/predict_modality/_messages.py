"""The graph convolution of scMoGNN: cells and features tell each other what they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from scdance.graph import Sparse

from ._facts import FACTS

GROUPS = 4  # of the units of a node, each normalised by itself
FACTS_DROPOUT = 0.2


class Seen(NamedTuple):
    """Some cells and all features.

    Attributes
    ----------
    edges
        Values, (n_cells, n_vars).
    of_cells, of_features
        Number of edges of each cell and of each feature among these cells, (n, 1).
    facts
        What is known of the batch of each cell, (n_cells, 9).
    z
        Scores of each cell, (n_cells, n_components); None where cells do not start from them.
    """

    edges: Sparse
    of_cells: Tensor
    of_features: Tensor
    facts: Tensor
    z: Tensor | None


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

    def features(self, h: Tensor, heard: Tensor, links: Sparse | None) -> Tensor:
        """New states of features, (n_vars, hidden)."""
        new = self.to_features(h, heard)
        if self.among_features is not None and links is not None:
            among = self.among_features(h, links @ self.among_features.others(h))
            new = (1 - self.alpha) * new + self.alpha * among
        return self.end(new)  # type: ignore[no-any-return]


class Net(nn.Module):
    """The graph convolution.

    `said` holds what features say in each layer, (n_layers, n_vars, hidden).
    """

    def __init__(
        self, *, n_vars: int, n_scores: int, n_out: int, hidden: int, n_layers: int, embedding_layers: int,
        residual: str, readout: str, dropout: float, alpha: float | None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.layers: Any
        self.said: Tensor
        self.residual = residual
        self.feature = nn.Parameter(torch.randn(n_vars, hidden))
        self.cell = nn.Linear(n_scores, hidden) if n_scores else nn.Parameter(torch.randn(hidden))
        self.batch = nn.Sequential(nn.Linear(FACTS, hidden), nn.Dropout(FACTS_DROPOUT), nn.LeakyReLU())
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

    def forward(self, seen: Seen, links: Sparse | None = None) -> Tensor:
        """Answers to some cells in a graph of their own, (n_cells, n_out)."""
        cells, features = [self._first_of_cells(seen)], [self._first_of_features()]
        for i, layer in enumerate(self.layers):
            c, f = self._entering(cells), self._entering(features)
            cells.append(layer.cells(c, seen.edges @ layer.to_cells.others(f) / seen.of_cells.clamp(min=1)))
            if i < len(self.layers) - 1:
                heard = seen.edges.T @ layer.to_features.others(c) / seen.of_features.clamp(min=1)
                features.append(layer.features(f, heard, links))
        return self._answer(cells)

    def recall(self, seen: Seen) -> Tensor:
        """Answers to some cells, each by itself, from what features were last found to say, (n_cells, n_out)."""
        cells = [self._first_of_cells(seen)]
        for layer, said in zip(self.layers, self.said, strict=True):
            cells.append(layer.cells(self._entering(cells), seen.edges @ said / seen.of_cells.clamp(min=1)))
        return self._answer(cells)

    @torch.no_grad()
    def listen(self, parts: Callable[[], Iterable[Seen]], links: Sparse | None = None) -> None:
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

    def _first_of_cells(self, seen: Seen) -> Tensor:
        own = self.cell(seen.z) if isinstance(self.cell, nn.Linear) else self.cell.expand(len(seen.facts), -1)
        return self.cells_in(functional.leaky_relu(own) + self.batch(seen.facts))  # type: ignore[no-any-return]

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
