"""What the floors share: the mean change of the cells of each perturbation against the control cells."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from scdance._core.cells import Cells
from scdance._core.method import Method
from scdance.pp import Recipe, group_moments


class Perturber(Method):
    """Base of methods that answer with a change: a subclass writes :meth:`learn` and :meth:`change`."""

    needs = ("lognorm", "perturbation")
    order_free = True
    recipe = Recipe(normalize_total={"target": 1e4}, log1p={})

    def learn(self, genes: list[tuple[str, ...]], changes: np.ndarray) -> None:
        """Learn from the genes of each perturbation and its mean change, (n_perturbations, n_vars) float64."""

    def change(self, genes: tuple[str, ...]) -> np.ndarray:
        """Mean change under a perturbation of these genes, (n_vars,)."""
        raise NotImplementedError

    def fit(self, *, cells: Cells) -> Self:
        screen: Any = cells.screen
        means = group_moments(cells.x, screen.codes, len(screen.names)).mean  # type: ignore[arg-type]
        self.n_vars_ = cells.n_vars
        self.learn([screen.genes(name) for name in screen.names[1:]], means[1:] - means[0])
        return self

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        screen: Any = cells.screen
        control = group_moments(cells.x, np.where(screen.codes == 0, 0, -1), 1).mean[0]  # type: ignore[arg-type]
        change = np.column_stack([self.change(screen.genes(name)) for name in screen.targets])
        return {"profile": control[:, None] + change, "change": change}
