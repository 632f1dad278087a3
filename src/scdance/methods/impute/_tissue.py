"""What the imputers share that look at cells among those around them: fields of cells, masks, decoders, training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from scdance._checks import InputError, one_of, whole_number
from scdance._core.cells import Cells
from scdance.graph import Sparse, normalize, self_loops, spatial, symmetric, tiles
from scdance.nn import CountHead, Dense, Posterior, bilevel_mask, log_zinb
from scdance.pp import Recipe, blocks
from scdance.train import TorchMethod, Train, half_cosine, mean_counts

from ._count_net import LOG_MEAN
from ._imputer import Imputer, Rates, depth_of

KL_WEIGHTS, KL_STEPS = (1e-6, 1e-2), 10_000  # of the divergence: from, to, and in how many steps
VALID_SHARE, VALID_MASKS = 0.05, 4  # of the fields, held out when training may stop early; masks that judge them


class Field:
    """Some cells, and who is next to whom.

    Parameters
    ----------
    x
        What the net is shown of them, (n, n_vars).
    a
        Neighbours among them, (n, n), nothing on the diagonal.
    places
        What is known of the place of each, (n, k); None: nothing.
    """

    def __init__(self, x: Tensor, a: csr_matrix, places: Tensor | None) -> None:
        self.x, self.a, self.places = x, a, places

    @cached_property
    def edges(self) -> Tensor:
        """From whom and to whom, (2, n_edges)."""
        joined = self.a.tocoo()
        return torch.from_numpy(np.stack([joined.col, joined.row]).astype(np.int64)).to(self.x.device)

    @cached_property
    def links(self) -> Sparse:
        """What multiplies states to give the mean over the neighbours of each cell and the cell itself."""
        return Sparse(normalize(self_loops(self.a), "row"), self.x.device)


class TissueImputer(Imputer, TorchMethod):
    """Predict the counts of a cell from what else is seen of it and from the cells around it.

    A subclass gives an encoder. Cells of one slice form a field; large ones are divided into tiles. Each step of
    training sees one field, of which entries are hidden and predicted.

    Parameters
    ----------
    objective
        "mask": hide some entries and predict them; "ae": restore what is seen; "vae", "maskvae": the same with a
        latent space of which each cell has a distribution.
    decoder
        "poisson": expected counts, by the likelihood of Poisson counts; "mlp": log-normalised values, by squared
        error; "zinb": zero-inflated negative binomial counts, of which the mean with the added zeros is the estimate.
    masked_cells
        Share of the cells, above 0 to 1, of which entries are hidden in a step.
    masked_genes
        Probability, above 0 to 1, of each entry of these cells to be hidden.
    loss_on
        Whether only hidden "entries" are predicted, or all of the "cells" of which some are hidden.
    drop_cells
        Share of the cells of a field, from 0 to below 1, that a step leaves out.
    n_latent
        Dimensions of the latent space.
    hidden
        Width of the states.
    dropout
        Part of the units that is dropped in training, in [0, 1).
    n_neighbors
        Nearest cells to which each cell is joined, in either direction.
    radius
        Join the cells up to this distance instead, in the unit of the coordinates, such as 15 to 25 µm. None: the
        nearest ones.
    max_tokens
        Most cells of a field; larger ones are divided.
    target_sum
        Depth to which cells are brought before the logarithm; None: that of the median cell.
    slow_down
        Let the learning rate fall to 0 along half a cosine.
    training
        each step sees one field, so that `batch_size` has no part in it; with a patience, a twentieth of the fields
        (of a single one, a tile) is held out to judge
    """

    objective: Literal["mask", "ae", "vae", "maskvae"] = "mask"
    decoder: Literal["poisson", "mlp", "zinb"] = "poisson"
    masked_cells: float = 1.0
    masked_genes: float = 0.5
    loss_on: Literal["entries", "cells"] = "entries"
    drop_cells: float = 0.3
    n_latent: int = 64
    hidden: int = 128
    dropout: float = 0.1
    n_neighbors: int = 6
    radius: float | None = None
    max_tokens: int = 500
    target_sum: float | None = None
    slow_down: bool = True
    training: Train = Train(epochs=None, steps=1000, lr=2e-3, weight_decay=5e-4, clip=2.0, optimizer="adamw")

    needs = ("counts", "coords")
    uses = ("slice",)
    recipe = Recipe(filter_genes={"min_counts": 1})
    exempt = {"predicts_a_cell_on_its_own": "what is said of a cell hangs on the cells around it"}
    reach = 0  # how many steps along the graph a cell hears, where a tile alone would cut them

    def check(self) -> None:
        super().check()
        one_of(self.objective, ("mask", "ae", "vae", "maskvae"), "objective")
        one_of(self.decoder, ("poisson", "mlp", "zinb"), "decoder")
        one_of(self.loss_on, ("entries", "cells"), "loss_on")
        for name in ("n_latent", "hidden", "n_neighbors", "max_tokens"):
            whole_number(getattr(self, name), name, least=1)
        for name in ("masked_cells", "masked_genes"):
            if not 0 < getattr(self, name) <= 1:
                msg = f"{name}={getattr(self, name)!r}, but it must be a share above 0 and at most 1."
                raise InputError(msg)
        for name in ("drop_cells", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                msg = f"{name}={getattr(self, name)!r}, but it must be at least 0 and below 1."
                raise InputError(msg)
        if self.decoder == "poisson" and (self.objective in ("ae", "vae") or self.loss_on == "cells"):
            msg = (
                "decoder='poisson' learns by heart what it sees: use objective='mask' and loss_on='entries', or 'zinb'."
            )
            raise InputError(msg)
        if self.target_sum is not None and not self.target_sum > 0:
            msg = f"target_sum={self.target_sum!r}, but it must be above 0, or None."
            raise InputError(msg)

    # ------------------------------------------------------------------ what a subclass gives

    def encoder(self, n_out: int) -> nn.Module:
        """Build what maps a :class:`Field` to `n_out` numbers of each cell."""
        raise NotImplementedError

    def places(self, cells: Cells, a: csr_matrix) -> np.ndarray | None:
        """What is known of the place of each cell, (n_obs, k), in the graph `a` of neighbours."""
        return None

    # ------------------------------------------------------------------ training

    def net(self) -> nn.Module:
        is_variational = self.objective in ("vae", "maskvae")
        encoder = self.encoder((1 + is_variational) * self.n_latent)
        sizes = (self.n_latent, self.hidden, self.n_vars_)
        return _Net(encoder, sizes, self.decoder, self.dropout, is_variational=is_variational)

    def fit(self, *, cells: Cells) -> Self:
        self.n_vars_ = cells.n_vars
        self.depth_ = float(np.median(depth_of(cells))) if self.target_sum is None else float(self.target_sum)
        self.net_ = self.net()
        self.net_.start_at(mean_counts(cells) * self.depth_ / float(np.median(depth_of(cells))))
        self.net_.to(self.target)
        how, rng, tissue, valid = self.training, self.rng("training"), _Tissue(self, cells), None
        fields = tissue.tiles
        if how.patience is not None:
            fields, held_out = _apart(cells, fields, self.rng("fields"))
            valid = self._judge(tissue, held_out)
        batches = _Shuffled(fields, rng)

        def step(rows: np.ndarray) -> Tensor:
            n_kept = max(1, round((1 - self.drop_cells) * len(rows)))
            return self.loss(tissue, np.sort(rng.permutation(rows)[:n_kept]), rng)

        def look() -> dict[str, Any]:
            self._finish(tissue)
            return self.predict(cells=cells)

        pace = half_cosine if self.slow_down else None
        self.learn(step, self.net_, how, batches=batches, valid=valid, look=look, rng=rng, pace=pace)
        self._finish(tissue)
        return self

    def loss(self, tissue: _Tissue, rows: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Loss of some cells of one field."""
        counts, size = tissue.counts(rows), tissue.size[rows]
        hidden = torch.zeros_like(counts, dtype=torch.bool)
        if self.objective in ("mask", "maskvae"):
            drawn = bilevel_mask(tuple(counts.shape), self.masked_cells, self.masked_genes, rng)
            hidden = torch.from_numpy(drawn).to(counts.device)
        x = shown(counts / size[:, None], hidden, self.masked_genes)
        z, divergence = self.net_.latent(tissue.field(rows, x))
        counted = torch.ones_like(hidden)
        if self.objective in ("mask", "maskvae"):
            counted = hidden if self.loss_on == "entries" else hidden.any(dim=1, keepdim=True).expand_as(hidden)
        errors = self.net_.errors(z, counts, size)
        return (errors * counted).sum() / counted.sum().clamp(min=1) + divergence

    def _judge(self, tissue: _Tissue, held_out: list[np.ndarray]) -> Callable[[], float]:
        """Loss of fields that do not train, under the same masks each time."""

        def loss() -> float:
            rng = self.rng("validation")
            losses = [float(self.loss(tissue, rows, rng)) for rows in held_out for _ in range(VALID_MASKS)]
            return float(np.mean(losses))

        return loss

    def _finish(self, tissue: _Tissue) -> None:
        """Find what is left to learn of the counts, once the net is trained: their scale and their dispersion."""
        for name in ("gain_", "theta_"):
            vars(self).pop(name, None)
        cells = tissue.cells
        rates = self.rates(cells)
        if self.decoder == "mlp":  # the mean of logarithms is less than the logarithm of the mean
            total, expected = np.zeros(self.n_vars_), np.zeros(self.n_vars_)
            for rows, block in blocks(cast("Any", cells.counts)):
                total += np.asarray(block.sum(axis=0)).ravel()
                expected += rates(rows).sum(axis=0)
            self.gain_ = (total / np.maximum(expected, 1e-8)).astype(np.float32)
            rates = self.rates(cells)
        self.theta_ = self.dispersion(cells, rates)

    # ------------------------------------------------------------------ answers

    @torch.no_grad()
    def latent(self, cells: Cells) -> np.ndarray:
        """Where the cells lie in the latent space, (n_obs, n_latent)."""
        self.net_.eval()
        tissue, z = _Tissue(self, cells), np.empty((cells.n_obs, self.n_latent), dtype=np.float32)
        for own in tissue.tiles:
            rows = around(tissue.a, own, self.reach)
            x = torch.log1p(tissue.counts(rows) / tissue.size[rows][:, None])
            z[own] = self.net_.latent(tissue.field(rows, x))[0][: len(own)].cpu().numpy()
        return z

    def rates(self, cells: Cells) -> Rates:
        z, sizes = self.latent(cells), _sizes(self, cells)
        gain = getattr(self, "gain_", np.float32(1))

        @torch.no_grad()
        def rate(rows: slice) -> np.ndarray:
            return gain * self.net_.rate(self.tensor(z[rows]), sizes[rows]).cpu().numpy()  # type: ignore[no-any-return]

        return rate

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        return {**super().predict(cells=cells), "embedding": self.latent(cells)}


def shown(counts: Tensor, hidden: Tensor, rate: float) -> Tensor:
    """Log-normalised counts without those hidden; cells of which some are hidden keep their mean."""
    x = torch.log1p(counts)
    if rate == 1:
        return x.masked_fill(hidden, 0)
    scale = 1 + hidden.any(dim=1, keepdim=True) * (rate / (1 - rate))
    return x.masked_fill(hidden, 0) * scale


def around(a: csr_matrix, rows: np.ndarray, steps: int) -> np.ndarray:
    """The rows, and after them all that so many steps along the graph lead to."""
    found = np.zeros(a.shape[0], dtype=bool)
    found[rows] = True
    for _ in range(steps):
        found[a[np.flatnonzero(found)].indices] = True
    found[rows] = False
    return np.concatenate([rows, np.flatnonzero(found)])


def _sizes(model: TissueImputer, cells: Cells) -> Tensor:
    """Depth of each cell relative to that to which cells are brought, (n_obs,)."""
    return model.tensor(np.maximum(depth_of(cells), 1e-12) / model.depth_)


def _apart(
    cells: Cells, fields: list[np.ndarray], rng: np.random.Generator
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Fields that train and fields that judge; of a single one, a tile judges."""
    if len(fields) == 1:
        parts = tiles(cast("np.ndarray", cells.coords), max(2, int(2 * VALID_SHARE * cells.n_obs)))
        one = parts[rng.integers(len(parts))]
        rest = np.setdiff1d(fields[0], one)
        return [rest if len(rest) else one], [one]
    order = rng.permutation(len(fields))
    n = int(np.ceil(VALID_SHARE * len(fields)))
    return [fields[i] for i in np.sort(order[n:])], [fields[i] for i in np.sort(order[:n])]


class _Shuffled:
    """Fields in another order each time."""

    def __init__(self, fields: list[np.ndarray], rng: np.random.Generator) -> None:
        self.fields, self.rng = fields, rng

    def __len__(self) -> int:
        return len(self.fields)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.fields[i] for i in self.rng.permutation(len(self.fields)))


class _Tissue:
    """All cells of a call, with the graph of their neighbours and the fields that they are divided into."""

    def __init__(self, model: TissueImputer, cells: Cells) -> None:
        coords = cast("np.ndarray", cells.coords)
        near = {"radius": model.radius} if model.radius is not None else {"n_neighbors": model.n_neighbors}
        self.cells, self.device = cells, model.target
        self.a = symmetric(spatial(coords, slices=cells.slice, **near))  # type: ignore[arg-type]
        self.tiles = tiles(coords, model.max_tokens, cells.slice)
        self.size = _sizes(model, cells)
        places = model.places(cells, self.a)
        self.places = None if places is None else model.tensor(places)

    def counts(self, rows: np.ndarray) -> Tensor:
        """Counts of some cells, (n, n_vars)."""
        return torch.from_numpy(cast("Any", self.cells.counts)[rows].toarray()).to(self.device)

    def field(self, rows: np.ndarray, x: Tensor) -> Field:
        """Some cells, with what is shown of them."""
        return Field(x, self.a[rows][:, rows], None if self.places is None else self.places[rows])


class _Net(nn.Module):
    """From a field through the latent space of each of its cells to its counts."""

    def __init__(
        self, encoder: nn.Module, sizes: tuple[int, int, int], decoder: str, dropout: float, *, is_variational: bool
    ) -> None:
        super().__init__()
        n_latent, hidden, n_vars = sizes
        self.encoder, self.kind, self.is_variational = encoder, decoder, is_variational
        self.decoder = Dense([n_latent, hidden], activation="prelu", dropout=dropout)
        self.head: Any = nn.Linear(hidden, n_vars)
        if decoder != "mlp":
            likelihood: Any = "zinb" if decoder == "zinb" else "nb"  # the head of Poisson counts is that of "nb"
            self.head = CountHead(
                hidden, n_vars, likelihood=likelihood, dispersion="entry" if decoder == "zinb" else "gene"
            )
        self.n_steps: Tensor
        self.register_buffer("n_steps", torch.zeros((), dtype=torch.int64))  # so that a continued run goes on as one

    def start_at(self, mean: Tensor) -> None:
        """Predict `mean`, (n_vars,) > 0, where the hidden layer is 0, before any training."""
        with torch.no_grad():
            layer = self.head if self.kind == "mlp" else self.head.mean
            layer.bias.copy_(mean.log1p() if self.kind == "mlp" else mean.log())
            # what the hidden layer first says is noise, which training would silence for good
            nn.init.zeros_(layer.weight)

    def latent(self, field: Field) -> tuple[Tensor, Tensor | float]:
        """Latent space of the cells, (n, n_latent), and what its divergence adds to the loss."""
        z = self.encoder(field)
        if not self.is_variational:
            return z, 0.0
        q = Posterior(*z.chunk(2, dim=1))
        if not self.training:
            return q.mean, 0.0
        self.n_steps += 1
        share = min(1.0, int(self.n_steps) / KL_STEPS)
        return q.draw(), (KL_WEIGHTS[0] + share * (KL_WEIGHTS[1] - KL_WEIGHTS[0])) * q.divergence().mean()

    def errors(self, z: Tensor, counts: Tensor, size: Tensor) -> Tensor:
        """Loss of each entry, but for what does not depend on the net."""
        h = self.decoder(z)
        if self.kind == "mlp":
            return (self.head(h).relu() - torch.log1p(counts / size[:, None])).square()
        if self.kind == "poisson":
            log_mean = self.head.mean(h).clamp(*LOG_MEAN)
            return size[:, None] * log_mean.exp() - counts * log_mean
        return -log_zinb(counts, *self.head(h, size))

    def rate(self, z: Tensor, size: Tensor) -> Tensor:
        """Expected counts, (n, n_vars)."""
        h = self.decoder(z)
        if self.kind == "mlp":
            return size[:, None] * self.head(h).relu().expm1()
        mean, _, logit = self.head(h, size)
        return mean if logit is None else mean * torch.sigmoid(-logit)  # (1 − π) μ
