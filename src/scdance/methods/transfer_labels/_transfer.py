"""What all methods of label transfer across omics share: how both sides are read, and what goes into the result."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from scipy.special import softmax

from scdance._checks import InputError, whole_number
from scdance._core.cells import Cells
from scdance._core.method import Method
from scdance.pp import Recipe

CLIP = 10.0  # standard deviations


class Transfer(Method):
    """Base of methods of label transfer: a subclass writes :meth:`teach`, :meth:`logits` and :meth:`place`.

    Reference and cells are weighed by term frequency and inverse document frequency and brought to the same scale, each
    by its own numbers, on the genes of the reference that vary most. Labels of the reference are codes, −1 where a cell
    has none.

    Parameters
    ----------
    n_top_genes
        Genes of the reference with the largest deviance that are kept; None: all that both sides have.
    reject
        Cells whose best probability is below it become "unknown", in (0, 1); None: every cell gets a type.
    """

    n_top_genes: int | None = 3000
    reject: float | None = None

    needs = ("counts", "ref.labels")
    uses = ("ref.unlabelled",)

    @property
    def recipe(self) -> dict[str, Recipe]:  # type: ignore[override]
        scaled: dict[str, Any] = {"tfidf": {}, "center_scale": {"clip": CLIP}}
        chosen = {"select_genes": {"n_top": self.n_top_genes}}
        return {"ref": Recipe(filter_genes={"min_counts": 1}, **chosen, **scaled), "cells": Recipe(**scaled)}

    def check(self) -> None:
        super().check()
        if self.n_top_genes is not None:
            whole_number(self.n_top_genes, "n_top_genes", least=1)
        if self.reject is not None and not 0 < self.reject < 1:
            msg = f"reject={self.reject!r}, but it must lie between 0 and 1, as in reject=0.5; None switches it off."
            raise InputError(msg)

    def teach(self, ref: Cells, cells: Cells) -> None:
        """Learn the types from the reference, and from the cells how their layer differs."""
        raise NotImplementedError

    def logits(self, cells: Cells) -> np.ndarray:
        """Score of each type, (n_obs, n_types): its softmax are probabilities."""
        raise NotImplementedError

    def place(self, cells: Cells, role: str = "cells") -> np.ndarray:
        """Where the cells of a role, "cells" or "ref", lie in the common space, (n_obs, n_latent)."""
        raise NotImplementedError

    def fit(self, *, ref: Cells, cells: Cells) -> Self:
        self.n_types_ = len(ref.categories or ())
        self.teach(ref, cells)
        sizes = np.bincount(ref.labels[ref.labels >= 0], minlength=self.n_types_)  # type: ignore[index]
        own = {"n_labelled": int(sizes.sum()), "n_unlabelled": int(ref.n_obs - sizes.sum()), "n_cells": sizes}
        self.notes_ = {**getattr(self, "notes_", {}), **own}
        return self

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        proba = softmax(self.logits(cells), axis=1).astype(np.float32)
        score = proba.max(axis=1)
        unknown = np.zeros(len(proba), dtype=bool) if self.reject is None else score < self.reject
        labels = np.where(unknown, self.n_types_, proba.argmax(axis=1))
        return {"labels": labels, "proba": proba, "score": score, "embedding": self.place(cells)}
