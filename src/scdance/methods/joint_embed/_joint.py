"""What all nets of joint embedding share: which cells teach, how they are read, and where cells of one modality go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from scdance._checks import enough_pairs, share_held_out, whole_number
from scdance._core.cells import Cells, Pair
from scdance.pp import Recipe, ridge, with_one
from scdance.train import (
    Log,
    PairedBatches,
    TorchMethod,
    Train,
    components,
    recipes_to_reduce,
    scores,
    slices,
    split,
    target_of,
)

RIDGE = 1e-2  # of the variance of a place, by which a lone modality foretells it
ROLES = ("source", "target")

Reader = Callable[[np.ndarray], Any]


class Told(NamedTuple):
    """What is known of some cells beside their counts.

    Attributes
    ----------
    labels
        Type, (n,) int, −1 where unknown; None: of no cell.
    batch
        Batch, (n,) int, −1 for one unseen in training; None: there are none.
    cycle
        Scores of the phases of the cell cycle, (n, 2); None: genes that tell are not there.
    """

    labels: Tensor | None
    batch: Tensor | None
    cycle: Tensor | None


class Joint(TorchMethod):
    """Base of joint embeddings with a net: a subclass writes :meth:`teach` and :meth:`place`.

    Cells that both modalities have teach. One that has a single modality is placed by a linear regression of the
    places on its scores in that modality, learnt from the cells that have both; the run record counts them.

    Parameters
    ----------
    n_source, n_target
        Components of each modality; proteins stay as they are where there are no more.
    n_top_genes, n_top_peaks
        Genes and peaks with the largest deviance that are kept; None: all.
    valid_share
        Part of the cells, in (0, 0.5], that is held out to end the training.
    """

    n_source: int = 100
    n_target: int = 100
    n_top_genes: int | None = None
    n_top_peaks: int | None = 30_000
    valid_share: float = 0.1

    needs = ("lognorm",)

    # ------------------------------------------------------------------ what a subclass writes

    def teach(self, pair: Pair, rows: np.ndarray, valid: np.ndarray) -> None:
        """Learn from cells: `rows`, and `valid` to end the training, are rows in source and target, (n, 2) int."""
        raise NotImplementedError

    def place(self, x: Any, y: Any) -> Tensor:
        """Where cells lie that the net sees as `x` in the source and `y` in the target, (n, n_latent)."""
        raise NotImplementedError

    def reader(self, cells: Cells, role: str) -> Reader:
        """From positions to what the net sees of these cells of a modality: their scores, standardised."""
        seen = torch.from_numpy(self.scores(cells, role)).to(self.target)
        return lambda rows: seen[rows]

    def prepare(self, pair: Pair, rows: np.ndarray) -> None:
        """Learn from the cells that teach what the net is made with."""

    # ------------------------------------------------------------------ what all share

    @property
    def recipe(self) -> dict[str, Recipe]:  # type: ignore[override]
        return recipes_to_reduce(self.n_top_genes, self.n_top_peaks)

    def check(self) -> None:
        """Refuse numbers out of range."""
        for name in ("n_source", "n_target"):
            whole_number(getattr(self, name), name, least=1)
        share_held_out(self.valid_share)

    def check_cells(self, cells: Pair) -> None:  # type: ignore[override]
        """Refuse too few cells to learn from."""
        if not self.is_fitted:
            enough_pairs(len(cells.both), type(self).__name__)

    def fit(self, *, pair: Pair) -> Self:
        both = pair.both
        inside, outside = split(len(both), self.valid_share, self.rng("validation"))
        rows, valid = both[inside], both[outside]
        self.loadings_, self.scaling_ = {}, {}
        for side, (role, cells) in enumerate(zip(ROLES, (pair.source, target_of(pair)), strict=True)):
            n, here = getattr(self, f"n_{role}"), rows[:, side]
            self.loadings_[role] = components(cells, here, n, random_state=self.random_state)
            z = scores(cells, here, self.loadings_[role], unit_rows=True)
            # one scale for all, so that components keep their weight
            self.scaling_[role] = {"mean": z.mean(axis=0), "sd": max(float((z - z.mean(axis=0)).std()), 1e-6)}
        labels, batches = pair.source.labels, pair.source.batch_names
        self.n_types_ = 0 if labels is None else int(labels.max()) + 1
        self.n_batches_ = len(batches or ())
        self.prepare(pair, rows)
        self.net_ = self.net().to(self.target)
        self.teach(pair, rows, valid)
        self.net_.eval()
        self.learn_lone(pair)
        self.notes_ = {**getattr(self, "notes_", {}), "n_both": len(both), "n_one": pair.n_obs - len(both)}
        return self

    def learn_lone(self, pair: Pair) -> None:
        """Learn from the cells that have both modalities to place those that have one."""
        z = self._places(pair, pair.both)
        self.lone_ = {
            role: ridge(self.scores(cells, role)[at], z, RIDGE)
            for role, cells, at in zip(ROLES, (pair.source, target_of(pair)), pair.both.T, strict=True)
        }

    def predict(self, *, pair: Pair) -> dict[str, Any]:
        there = (pair.at >= 0).all(axis=1)
        z = np.zeros((pair.n_obs, self.lone_["source"].shape[1]), dtype=np.float32)
        z[there] = self._places(pair, pair.at[there])
        for side, (role, cells) in enumerate(zip(ROLES, (pair.source, target_of(pair)), strict=True)):
            alone = ~there & (pair.at[:, side] >= 0)
            if alone.any():
                z[alone] = with_one(self.scores(cells, role)[pair.at[alone, side]]) @ self.lone_[role]
        return {"embedding": z}

    def scores(self, cells: Cells, role: str) -> np.ndarray:
        """Scores of all cells in the components of their modality, (n_obs, n_components) float32."""
        z, scale = scores(cells, slice(None), self.loadings_[role], unit_rows=True), self.scaling_[role]
        return ((z - scale["mean"]) / np.float32(scale["sd"])).astype(np.float32)

    def told(self, cells: Cells, rows: np.ndarray, cycle: np.ndarray | None = None) -> Told:
        """What is known of the cells at `rows`, where the net takes it."""

        def codes(values: np.ndarray | None) -> Tensor | None:
            return None if values is None else torch.from_numpy(values[rows].astype(np.int64)).to(self.target)

        of_cycle = None if cycle is None else torch.from_numpy(cycle[rows]).to(self.target)
        return Told(codes(cells.labels), codes(cells.batch), of_cycle)

    def batches(self, pair: Pair, rows: np.ndarray, size: int, cycle: np.ndarray | None = None) -> PairedBatches:
        """Shuffled batches ``((x, told), y)`` of the cells at `rows`."""
        x, y = (self.reader(cells, role) for role, cells in zip(ROLES, (pair.source, target_of(pair)), strict=True))
        return PairedBatches(lambda at: (x(at), self.told(pair.source, at, cycle)), y, rows, size, self.rng("batches"))

    def run(
        self,
        step: Callable[[Any], Tensor],
        batches: PairedBatches,
        valid: np.ndarray,
        *,
        net: nn.Module | None = None,
        how: Train | None = None,
        **knobs: Any,
    ) -> Log:
        """Train the net, or a part of it, by `step`, from a batch to a loss, until that of held-out cells ends it."""

        def judge() -> float:
            parts = [(len(at), batches.source(at[:, 0]), batches.target(at[:, 1])) for at in
                     (valid[here] for here in slices(len(valid)))]  # fmt: skip
            return sum(n * float(step((x, y))) for n, x, y in parts) / len(valid)

        net, how = self.net_ if net is None else net, how or self.training
        return self.learn(step, net, how, batches=batches, valid=judge, rng=batches.rng, **knobs)

    def _places(self, pair: Pair, at: np.ndarray) -> np.ndarray:
        """Where cells lie that have both modalities, from their rows in source and target, (n, n_latent) float32."""
        x, y = (self.reader(cells, role) for role, cells in zip(ROLES, (pair.source, target_of(pair)), strict=True))
        with torch.no_grad():
            parts = [self.place(x(at[here, 0]), y(at[here, 1])).cpu().numpy() for here in slices(len(at))]
        return np.concatenate(parts) if parts else np.zeros((0, self.lone_["source"].shape[1]), dtype=np.float32)
