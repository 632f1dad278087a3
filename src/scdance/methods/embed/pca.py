"""Principal components of the genes that vary most: the floor of embedding."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from scdance._checks import whole_number
from scdance._core.cells import Cells
from scdance._core.method import Method
from scdance.pp import PCA as Components
from scdance.pp import Recipe, project


class PCA(Method):
    """Principal components of log-normalised expression, as cells are usually looked at [Luecken2019]_.

    New cells are placed by the components of those that it was fitted on.

    When to use
    -----------
    As the floor of every table, and first: it takes seconds and needs no other cells.

    When not
    --------
    For cells of several batches, which it keeps apart: ``scdance.tl.integrate`` is made for them.

    Differs from the paper
    ----------------------
    Genes are chosen by the deviance of their counts; they are centred and not scaled.

    Parameters
    ----------
    n_components
        Dimensions of the space.
    n_top_genes
        Genes that vary most, by their counts; None: all.
    """

    n_components: int = 50
    n_top_genes: int | None = 2000

    cite = "Luecken2019"
    needs = ("lognorm",)
    control = True

    @property
    def recipe(self) -> Recipe:  # type: ignore[override]
        """The genes that vary most, log-normalised."""
        return Recipe(normalize_total={"target": 1e4}, log1p={}, select_genes={"n_top": self.n_top_genes})

    def check(self) -> None:
        super().check()
        whole_number(self.n_components, "n_components", least=1)
        if self.n_top_genes is not None:
            whole_number(self.n_top_genes, "n_top_genes", least=1)

    def fit(self, *, cells: Cells) -> Self:
        pca = Components(self.n_components, random_state=self.random_state)
        pca.fit(cells.dense_blocks, (cells.n_obs, cells.n_vars))
        self.mean_, self.components_ = pca.mean_, pca.components_
        return self

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        return {"embedding": project(cells.dense_blocks(), self.mean_, self.components_).astype(np.float32)}
