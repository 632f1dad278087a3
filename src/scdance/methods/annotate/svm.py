"""A linear support vector machine on sparse, scaled expression."""

from __future__ import annotations

import numpy as np
from scipy import sparse as sp

from scdance._core.cells import Cells
from scdance.pp import mean_and_sd

from ._annotator import Annotator


class SVM(Annotator):
    """Annotate by a support vector machine [Cortes1995]_.

    Expression is divided by the standard deviation of each gene in the reference, and types are split from the rest by
    the hyperplanes of largest margin.

    When to use
    -----------
    As a strong and simple default: linear machines were among the best of 22 annotators in an independent comparison
    [Abdelaal2019]_.

    When not
    --------
    Where the probabilities matter more than the labels: margins say less about them than ``"celltypist"`` does.

    Differs from the paper
    ----------------------
    The loss is the squared hinge, one type against the rest, and margins become probabilities by one temperature.

    Parameters
    ----------
    C
        Inverse strength of the penalty, > 0; smaller is stronger.
    balanced
        Weigh cells so that each type counts the same.
    max_iter
        Most passes of the optimiser.
    """

    C: float = 0.01
    balanced: bool = False
    max_iter: int = 1000

    cite = "Cortes1995"
    presets = {"paper": {"C": 1.0, "n_top_genes": None}}

    def teach(self, cells: Cells, *, stage: str) -> None:
        from sklearn.svm import LinearSVC

        _, sd = mean_and_sd(cells.x)
        self.scale_ = np.divide(1, sd, out=np.zeros_like(sd), where=sd > 0)
        weight = "balanced" if self.balanced else None
        machine = LinearSVC(C=self.C, class_weight=weight, random_state=self.random_state, max_iter=self.max_iter)
        machine.fit(self._scaled(cells), cells.labels)
        coef, intercept = machine.coef_, machine.intercept_
        if len(coef) == 1:  # two types have one hyperplane
            coef, intercept = np.vstack([-coef, coef]), np.concatenate([-intercept, intercept])
        n_types = len(cells.categories)
        # a type without cells that could be taught is never preferred
        self.coef_ = np.zeros((n_types, cells.n_vars))
        self.intercept_ = np.full(n_types, intercept.min() - np.abs(intercept).max() - 1)
        self.coef_[machine.classes_], self.intercept_[machine.classes_] = coef, intercept

    def logits(self, cells: Cells) -> np.ndarray:
        return np.asarray(self._scaled(cells) @ self.coef_.T + self.intercept_)

    def weights(self) -> np.ndarray:
        return self.coef_

    def _scaled(self, cells: Cells) -> sp.csr_matrix:
        return cells.x.multiply(self.scale_).tocsr()
