"""CellPLM on screens: what a transformer over control cells says once a gene of theirs is marked as perturbed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from scdance._checks import InputError
from scdance._core.cells import Cells
from scdance.methods.embed.cellplm import CellModel, warm_cosine
from scdance.nn import CellEncoder, Dense, Shape
from scdance.pp import Recipe, group_moments
from scdance.train import Train


class CellPLM(CellModel):
    """Predict the change that a perturbation makes by a transformer over control cells [Wen2024]_.

    Control cells are read with the expression of the perturbed genes set to a value that no cell has; from what each
    has become a small net tells by how much every gene changes. It learns from the mean changes of the measured
    perturbations. Of a gene that was never perturbed only its part in the expression of cells is known, so that what is
    said of it rests on `init`, a model that has seen many cells.

    When to use
    -----------
    To compare with the floors on a screen of your own, with a model of cells like these.

    When not
    --------
    In place of ``"mean_perturbed"`` and ``"additive"`` unless it beats them there; they take a second. For genes that
    are not among those of the object, which cannot be marked: of these it says what is common to all perturbations.

    Differs from the paper
    ----------------------
    The paper marks genes by −100 and pairs each perturbed cell with a control cell at random; here the mark is small
    and the mean change of control cells is compared with that of the perturbation, which is the same in the mean and
    has less noise.

    Parameters
    ----------
    mark
        What the log-normalised expression of a perturbed gene is set to, below 0.
    training
        each step sees `batch_size` control cells and one perturbation
    """

    mark: float = -1.0
    training: Train = Train(
        epochs=None, steps=300, lr=1e-3, batch_size=256, weight_decay=1e-2, clip=2.0, optimizer="adamw"
    )

    cite = "Wen2024"
    needs = ("lognorm", "perturbation")
    recipe = Recipe(normalize_total={"target": 1e4}, log1p={})

    def check(self) -> None:
        super().check()
        if not self.mark < 0:
            msg = f"mark={self.mark!r}, but it must be below 0: a value that no cell has."
            raise InputError(msg)

    def net(self) -> nn.Module:
        return _Responder(self.sizes)

    def fit(self, *, cells: Cells) -> Self:
        screen: Any = cells.screen
        means = group_moments(cells.x, screen.codes, len(screen.names)).mean  # type: ignore[arg-type]
        changes, control = self.tensor(means[1:] - means[0]), np.flatnonzero(screen.codes == 0)
        begun, rng = self.begin(cells.var_names, normalized=True), self.rng("training")
        self.genes_ = cells.var_names
        self.net_ = self.net()
        self.net_.encoder.origin.copy_(torch.from_numpy(means[0].astype(np.float32)))
        if begun is not None:
            begun.into(self.net_.encoder, "encoder.")
        self.net_.to(self.target)
        scale = changes.square().mean()

        def step(i: int) -> Tensor:
            rows = np.sort(rng.permutation(control)[: self.training.batch_size])
            change = self._change(cells, rows, screen.genes(screen.names[1 + i])).mean(dim=0)
            return (change - changes[i]).square().mean() / scale

        turns = _Turns(len(changes), rng)
        self.learn(step, self.net_, self.training, batches=turns, rng=rng, pace=warm_cosine)
        return self

    @torch.no_grad()
    def predict(self, *, cells: Cells) -> dict[str, Any]:
        self.net_.eval()
        screen: Any = cells.screen
        control = np.flatnonzero(screen.codes == 0)
        mean = group_moments(cells.x, np.where(screen.codes == 0, 0, -1), 1).mean[0]  # type: ignore[arg-type]
        parts = np.array_split(control, -(-len(control) // self.training.batch_size))
        change = np.zeros((cells.n_vars, len(screen.targets)))
        for j, target in enumerate(screen.targets):
            for rows in parts:
                change[:, j] += self._change(cells, rows, screen.genes(target)).sum(dim=0).cpu().numpy() / len(control)
        return {"profile": mean[:, None] + change, "change": change}

    def _change(self, cells: Cells, rows: np.ndarray, genes: tuple[str, ...]) -> Tensor:
        """Change of each gene in each of the cells at `rows` under a perturbation of `genes`, (n, n_vars)."""
        x = cells.dense(rows)
        x[:, np.isin(self.genes_, genes)] = self.mark
        return self.net_(self.tensor(x))  # type: ignore[no-any-return]


class _Turns:
    """The measured perturbations, in another order each time."""

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self.n, self.rng = n, rng

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        return iter(self.rng.permutation(self.n).tolist())


class _Responder(nn.Module):
    """From cells to the change of each of their genes."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.encoder = CellEncoder(shape)
        self.head = Dense([shape.hidden, shape.head_hidden, shape.n_vars], activation="gelu", last="none")

    def forward(self, x: Tensor) -> Tensor:
        """Changes, (n_obs, n_vars)."""
        return self.head(self.encoder(x))  # type: ignore[no-any-return]
