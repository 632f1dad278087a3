"""What all methods of integration share: genes that vary within batches, and what goes into the result."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from scdance._checks import InputError, warn, whole_number
from scdance._core.cells import Cells
from scdance._core.method import Method
from scdance.pp import Recipe, genes_within


class Integrator(Method):
    """Base of methods of integration: a subclass writes :meth:`learn_space` and :meth:`place`.

    Both get cells with the chosen genes only.

    Parameters
    ----------
    n_top_genes
        Genes that are kept: those that vary most for their mean within most batches; None: all.
    """

    n_top_genes: int | None = 2000

    needs = ("lognorm", "batch")
    corrected = False  # whether the result has expression
    recipe = Recipe(filter_genes={"min_counts": 1}, normalize_total={"target": 1e4}, log1p={})

    def check(self) -> None:
        super().check()
        if self.n_top_genes is not None:
            whole_number(self.n_top_genes, "n_top_genes", least=1)

    def learn_space(self, cells: Cells) -> None:
        """Learn the space from cells and their batches."""
        raise NotImplementedError

    def place(self, cells: Cells) -> np.ndarray:
        """Where cells lie in it, (n_obs, n_latent)."""
        raise NotImplementedError

    def expression(self, cells: Cells) -> np.ndarray:
        """Their expression as of a common batch, (n_obs, n_chosen), log-normalised; only asked for by `corrected`."""
        raise NotImplementedError

    def fit(self, *, cells: Cells) -> Self:
        if len(cells.batch_names or ()) < 2:
            warn("All cells are of one batch, so there is nothing to integrate; the space is that of the cells.")
        self.genes_ = genes_within(cells.part().x, cells.batch, self.n_top_genes)
        if len(self.genes_) == 0:
            msg = "No gene varies between the cells of a batch; are these counts?"
            raise InputError(msg)
        self.learn_space(cells.part(columns=self.genes_))
        self.notes_ = {**getattr(self, "notes_", {}), "n_genes": len(self.genes_)}
        return self

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        chosen = cells.part(columns=self.genes_)
        result: dict[str, Any] = {"embedding": self.place(chosen)}
        if self.corrected:
            modelled = np.zeros(cells.n_vars, dtype=bool)
            modelled[self.genes_] = True
            result |= {"expression": self.expression(chosen), "modelled": modelled}
        return result
