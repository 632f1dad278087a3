"""A graph attention autoencoder over neighbours in space."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn.functional import elu, mse_loss

from scdance._checks import InputError, package, warn
from scdance._core.cells import Cells
from scdance.graph import csr_tensor, fuzzy, knn, leiden, pitch, self_loops, spatial, symmetric
from scdance.pp import Recipe
from scdance.train import Expression, TorchMethod, Train

from ._domains import N_NEAREST, Domains, principal_components

SHELL = 1.3  # pitches: holds the first shell of a hexagonal lattice (the second is at 1.73) and of a square one (1.41)
LATTICE = 3  # mean number of neighbours in a shell from which on spots lie on a lattice; 1.2 at random places
AROUND = 6  # nearest neighbours where there is no lattice
CROWDED = 20  # mean number of neighbours above which domains are blurred
TYPE_COMPONENTS = 50  # principal components in which the types of `prune` are sought
WINDOW, FIRST = 50, 200  # epochs over which the fall of the loss is measured, and before which training does not end
GAIN = 2**0.5  # of the first weights

_PAPER = {"n_components": None, "flavor": "seurat_v3", "epochs": 1000, "tol": 0.0}


class STAGATE(Domains, TorchMethod):
    """Find domains by a graph attention autoencoder [Dong2022]_.

    Each spot is encoded from its own expression and that of its neighbours, weighted by an attention that is learnt
    for each edge, and its expression is restored from the codes of its neighbours by the same weights backwards. A
    mixture of Gaussians with one covariance divides the codes. On layers of spots it is within a few hundredths of the
    floor ``"smoothed_pca"``, which trains nothing and takes seconds; on tissues of single cells that floor is better.

    When to use
    -----------
    Layers on a lattice of spots, with a known number of them and with half a minute to spend for some thousand spots;
    beside ``"smoothed_pca"``, not in its place. With `prune`, where neighbours of another type should count less.

    When not
    --------
    On single cells of tens or hundreds of genes, where ``"smoothed_pca"`` finds more of the domains. For the
    attention itself: its logits lie between 0 and 1, so that no neighbour weighs more than e times another, and
    what is learnt stays near a plain mean. For new spots, which it cannot label.

    Differs from the paper
    ----------------------
    What is encoded and restored are principal components of the chosen genes, where a step takes less than a tenth of
    the time; with ``n_components=None`` it is the genes, and neither they nor what is restored are made dense. Encoder
    and decoder share one parameter each, where the authors' later code moves it twice per step. Genes are chosen by
    deviance, counts are normalised to the median depth, and there are fewer epochs; numbers of components and epochs
    were set once, for two slices of cortex together. The mixture starts from Ward's partition and from k-means, and
    the likeliest is kept. The type-aware graph has Leiden's types. ``preset="paper"`` has the paper's genes and
    epochs, "dance" its code of 32 dimensions.

    Parameters
    ----------
    n_neighbors
        Nearest spots to which each spot is joined, in either direction. None: on a lattice the spots around it, within
        1.3 times the usual distance between nearest spots; elsewhere the 6 nearest. On three-dimensional coordinates
        neighbours may lie on other sections; those of a named slice never do.
    prune
        Resolution of a Leiden partition of the expression into types, 0.2 in the paper: of the attention, the share
        `alpha` goes to neighbours of a spot's own type alone. None: types play no part.
    alpha
        That share, in [0, 1].
    n_top_genes
        Genes that are kept; None: all.
    flavor
        How they are chosen: by "deviance" of the counts, or by variance as "seurat_v3" does.
    n_components
        Principal components that are encoded and restored; None: the expression of the genes itself.
    hidden
        Width of the hidden layers.
    n_latent
        Dimensions of the code.
    training
        every step sees all spots, so that `batch_size` has no part in it
    tol
        Training ends after at least 200 epochs when the loss falls by a smaller share in 50; 0: after all epochs.
    """

    n_neighbors: int | None = None
    prune: float | None = None
    alpha: float = 0.8
    n_top_genes: int | None = 3000
    flavor: Literal["deviance", "seurat_v3"] = "deviance"
    n_components: int | None = 50
    hidden: int = 512
    n_latent: int = 30
    training: Train = Train(epochs=300, weight_decay=1e-4, clip=5.0)
    tol: float = 1e-4

    cite = "Dong2022"
    presets = {"paper": _PAPER, "dance": _PAPER | {"n_latent": 32}}

    @property
    def recipe(self) -> Recipe:
        return Recipe(normalize_total={}, log1p={}, select_genes={"n_top": self.n_top_genes, "flavor": self.flavor})

    def check(self) -> None:
        super().check()
        if self.prune is not None:
            package("igraph", extra="leiden", why="Finding the types of spots (or leave `prune=` out)")
        for wrong, msg in (
            (not 0 <= self.alpha <= 1, f"alpha={self.alpha!r}, but it must lie between 0 and 1."),
            (self.hidden < 1, f"hidden={self.hidden!r}, but it must be at least 1."),
            (self.n_latent < 1, f"n_latent={self.n_latent!r}, but it must be at least 1."),
        ):
            if wrong:
                raise InputError(msg)

    def net(self) -> nn.Module:
        return _Net(self.n_in_, self.hidden, self.n_latent, 0.0 if self.prune is None else self.alpha)

    def fit(self, *, cells: Cells) -> Self:
        graphs = self._graphs(cells)
        x = self._features(cells)
        self.n_in_ = x.shape[1] if isinstance(x, Tensor) else cells.n_vars
        self.net_ = self.net().to(self.target)
        squares = 0.0 if isinstance(x, Tensor) else _squares(x)
        memory = {"losses": torch.empty(0, dtype=torch.float64)}

        def step(_: None) -> Tensor:
            loss: Tensor = self.net_.loss(x, graphs, squares)
            memory["losses"] = torch.cat([memory["losses"], loss.detach().cpu().double().reshape(1)])
            return loss

        def settled(epoch: int) -> str | None:
            return _settled(memory["losses"], self.tol)

        def look() -> dict[str, Any]:
            with torch.no_grad():
                self.divide(self.net_.encode(x, graphs)[0].cpu().numpy(), cells)
            return self.predict(cells=cells)

        self.learn(step, self.net_, self.training, batches=[None], each_epoch=settled, look=look, memory=memory)
        look()
        return self

    def _graphs(self, cells: Cells) -> list[Graph]:
        """The graph of neighbours and, with types, that of neighbours of the same type; each spot is its own."""
        a = self_loops(neighbors(cells.coords, self.n_neighbors, cells.slice))
        graphs = [Graph(a, self.target)]
        if self.prune is not None:
            z = principal_components(cells, TYPE_COMPONENTS, random_state=self.random_state)
            near = fuzzy(knn(z, N_NEAREST - 1, random_state=self.random_state))
            types = leiden(near, resolution=self.prune, random_state=self.random_state)
            graphs.append(Graph(within(a, types), self.target))
        return graphs

    def _features(self, cells: Cells) -> Tensor | Expression:
        if self.n_components is None:
            return Expression(cells, self.target)
        z = principal_components(cells, self.n_components, random_state=self.random_state)
        return torch.from_numpy(np.ascontiguousarray(z)).to(self.target)


def neighbors(coords: np.ndarray, n_neighbors: int | None, slices: np.ndarray | None) -> csr_matrix:
    """Who is next to whom, (n, n), ones, symmetric, nothing on the diagonal."""
    if n_neighbors is None:
        a = spatial(coords, radius=SHELL * pitch(coords, slices), slices=slices)
        n_neighbors = AROUND if a.nnz < LATTICE * len(coords) else None
    if n_neighbors is not None:
        a = symmetric(spatial(coords, n_neighbors=n_neighbors, slices=slices))
    a.data[:] = 1
    if a.nnz > CROWDED * len(coords):
        warn(
            f"A spot has {a.nnz / len(coords):.0f} neighbours on average, which blurs domains. Pass `n_neighbors=6`, "
            "or check whether spots share their coordinates."
        )
    return a


def within(a: csr_matrix, types: np.ndarray) -> csr_matrix:
    """The edges of `a` between points of the same type."""
    edges = a.tocoo()
    kept = types[edges.row] == types[edges.col]
    return csr_matrix((edges.data[kept], (edges.row[kept], edges.col[kept])), shape=a.shape)


def _settled(losses: Tensor, tol: float) -> str | None:
    """Why training ends, if it does."""
    if not tol or len(losses) < FIRST or losses[-1 - WINDOW] - losses[-1] >= tol * losses[-1 - WINDOW]:
        return None
    return f"the loss fell by less than {tol:g} of itself in {WINDOW} epochs"


def _squares(x: Expression) -> float:
    """Sum of the squares of all values."""
    return float(x.sparse.forward.values().square().sum(dtype=torch.float64))


class Graph:
    """The edges of a graph, (n, n), whose weights are learnt; each point has an edge at least.

    Parameters
    ----------
    a
        Row v holds the points that v looks at; only the pattern counts.
    device
        Where the tensors lie.
    """

    def __init__(self, a: csr_matrix, device: str | torch.device = "cpu") -> None:
        a = a.tocsr().sorted_indices()
        place = csr_matrix((np.arange(a.nnz), a.indices, a.indptr), shape=a.shape).T.tocsr()
        self.n = a.shape[0]
        self.rows = torch.from_numpy(np.repeat(np.arange(self.n), np.diff(a.indptr))).to(device)
        self.columns, self.starts, self.t_columns, self.t_starts, self.order = (
            torch.from_numpy(index.astype(np.int64)).to(device)
            for index in (a.indices, a.indptr, place.indices, place.indptr, place.data)
        )

    def softmax(self, logits: Tensor) -> Tensor:
        """Weights of the edges, > 0, that sum to 1 over the edges of each point; logits in (0, 1)."""
        weights = logits.exp()
        total = weights.new_zeros(self.n).index_add(0, self.rows, weights)
        return weights / total[self.rows]

    def matrix(self, weights: Tensor) -> Tensor:
        """A torch CSR tensor of weights of the edges, (n, n)."""
        return csr_tensor(self.starts, self.columns, weights, (self.n, self.n))

    def transposed(self, weights: Tensor) -> Tensor:
        """The transpose of it."""
        return csr_tensor(self.t_starts, self.t_columns, weights[self.order], (self.n, self.n))


class _WeightedSum(torch.autograd.Function):
    """A y with gradients for the edges of A and for y, in memory linear in the edges."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, y: Tensor, graph: Graph) -> Tensor:
        ctx.save_for_backward(weights, y)
        ctx.graph = graph
        return graph.matrix(weights) @ y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        (weights, y), graph = ctx.saved_tensors, ctx.graph
        gradient = gradient.contiguous()
        to_y = graph.transposed(weights) @ gradient if ctx.needs_input_grad[1] else None
        nothing = graph.matrix(torch.zeros_like(weights))
        return torch.sparse.sampled_addmm(nothing, gradient, y.T).values(), to_y, None


class _Net(nn.Module):
    """The weights of the encoder, `first` and `second`, whose transposes decode, and one attention per graph."""

    def __init__(self, n_in: int, hidden: int, n_latent: int, alpha: float) -> None:
        super().__init__()
        self.shares = (1 - alpha, alpha) if alpha else (1.0,)
        self.first = nn.Parameter(torch.empty(n_in, hidden))
        self.second = nn.Parameter(torch.empty(hidden, n_latent))
        self.attention = nn.Parameter(torch.empty(len(self.shares), hidden, 2))
        for weight in (self.first, self.second, *self.attention):
            nn.init.xavier_normal_(weight.data, gain=GAIN)

    def attend(self, x: Tensor | Expression, graphs: list[Graph]) -> list[Tensor]:
        """Weights of the edges of each graph: softmax_j σ(v_sᵀ W₁ᵀ x_i + v_rᵀ W₁ᵀ x_j)."""
        found = []
        for graph, vectors in zip(graphs, self.attention, strict=False):
            own, others = (x @ (self.first @ vectors)).T
            found.append(graph.softmax((own[graph.rows] + others[graph.columns]).sigmoid()))
        return found

    def mean(self, y: Tensor, graphs: list[Graph], weights: list[Tensor]) -> Tensor:
        """Mean of the neighbours of each point, (n, d)."""
        parts = [_WeightedSum.apply(each, y, graph) for each, graph in zip(weights, graphs, strict=False)]
        mean: Tensor = parts[0]
        if len(parts) > 1:
            mean = self.shares[0] * parts[0] + self.shares[1] * parts[1]
        return mean

    def encode(self, x: Tensor | Expression, graphs: list[Graph]) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """Codes, (n, n_latent), the attention, and X W₁ for sparse X."""
        weights = self.attend(x, graphs)
        if isinstance(x, Tensor):  # narrower than what it is multiplied with, so it is averaged first
            product, h = None, self.mean(x, graphs, weights) @ self.first
        else:
            product = x @ self.first
            h = self.mean(product, graphs, weights)
        return elu(h, inplace=True) @ self.second, weights, product

    def loss(self, x: Tensor | Expression, graphs: list[Graph], squares: float) -> Tensor:
        """Mean squared error of the decoded expression; `squares` is the sum of the squares of a sparse one."""
        z, weights, product = self.encode(x, graphs)
        h = elu(self.mean(z, graphs, weights) @ self.second.T, inplace=True)
        if product is None:
            return mse_loss(h @ self.first.T, x)
        n_entries = len(product) * len(self.first)
        return squared_error(squares, product, h, self.first) / n_entries


def squared_error(squares: float, product: Tensor, h: Tensor, w: Tensor) -> Tensor:
    """‖X − h Wᵀ‖² = ‖X‖² − 2⟨X W, h⟩ + ⟨hᵀh, WᵀW⟩ of ‖X‖² and X W: neither X nor the restored one is made dense."""
    cross = (product * h).sum(dtype=torch.float64)
    restored = ((h.T @ h) * (w.T @ w)).sum(dtype=torch.float64)
    return squares - 2 * cross + restored  # differences of large sums, hence float64
