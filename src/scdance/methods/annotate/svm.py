"""A linear support vector machine on sparse, scaled expression."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import sparse as sp

from scdance._core.cells import Cells
from scdance.pp import blocks, mean_and_sd

from ._annotator import Annotator
from ._genes import gene_features, shares

MOST = 10_000  # cells of the reference that the radial kernel is taught, whose cost grows with their square
ROWS = 1024  # cells whose kernel with all supports is held at once


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
    The loss of the linear machine is the squared hinge, one type against the rest, and margins become probabilities by
    one temperature. ``preset="dance"`` has DANCE's radial kernel on principal components of genes, averaged by
    expression, one type against the rest, too; it fails where the query is shifted against the reference.

    Parameters
    ----------
    kernel
        "linear", on scaled expression; "rbf", on principal components of the genes, averaged by expression.
    C
        Inverse strength of the penalty, > 0; smaller is stronger.
    balanced
        Weigh cells so that each type counts the same.
    max_iter
        Most passes of the optimiser of the linear machine.
    n_components
        Principal components that describe a gene for the radial kernel.
    """

    kernel: Literal["linear", "rbf"] = "linear"
    C: float = 0.01
    balanced: bool = False
    max_iter: int = 1000
    n_components: int = 400

    cite = "Cortes1995"
    keeps = ("landmarks_", "support_")
    presets = {"paper": {"C": 1.0, "n_top_genes": None}, "dance": {"kernel": "rbf", "C": 1.0, "n_top_genes": None}}

    def teach(self, cells: Cells, *, stage: str) -> None:
        if self.kernel == "linear":
            self._teach_linear(cells)
        else:
            self._teach_rbf(cells)

    def logits(self, cells: Cells) -> np.ndarray:
        if self.kernel == "linear":
            return np.asarray(self._scaled(cells) @ self.coef_.T + self.intercept_)
        return np.concatenate([self._radial(self._average(block)) for _, block in blocks(cells.x, ROWS)])

    def weights(self) -> np.ndarray | None:
        return self.coef_ if self.kernel == "linear" else None

    @property
    def _class_weight(self) -> str | None:
        return "balanced" if self.balanced else None

    def _teach_linear(self, cells: Cells) -> None:
        from sklearn.svm import LinearSVC

        self.support_ = np.empty((0, 0), dtype=np.float32)  # of the radial kernel
        _, sd = mean_and_sd(cells.x)
        self.scale_ = np.divide(1, sd, out=np.zeros_like(sd), where=sd > 0)
        machine = LinearSVC(
            C=self.C, class_weight=self._class_weight, random_state=self.random_state, max_iter=self.max_iter
        )
        machine.fit(self._scaled(cells), cells.labels)
        coef, intercept = machine.coef_, machine.intercept_
        if len(coef) == 1:  # two types have one hyperplane
            coef, intercept = np.vstack([-coef, coef]), np.concatenate([-intercept, intercept])
        n_types = len(cells.categories)
        # a type without cells that could be taught is never preferred
        self.coef_ = np.zeros((n_types, cells.n_vars))
        self.intercept_ = np.full(n_types, intercept.min() - np.abs(intercept).max() - 1)
        self.coef_[machine.classes_], self.intercept_[machine.classes_] = coef, intercept

    def _scaled(self, cells: Cells) -> sp.csr_matrix:
        return cells.x.multiply(self.scale_).tocsr()

    def _teach_rbf(self, cells: Cells) -> None:
        from sklearn.svm import SVC

        self.gene_features_ = gene_features(cells, self.n_components, self.random_state)
        rows = np.arange(cells.n_obs)
        if cells.n_obs > MOST:
            rows = np.random.default_rng([self.random_state, 6]).choice(rows, MOST, replace=False)
        z, labels = self._average(cells.x[rows]), cells.labels[rows]
        self.gamma_ = float(1 / max(z.shape[1] * z.var(), 1e-12))
        dual, offset = np.zeros((len(rows), len(cells.categories))), np.full(len(cells.categories), -1.0)
        for j in np.unique(labels):
            machine = SVC(C=self.C, gamma=self.gamma_, class_weight=self._class_weight).fit(z, labels == j)
            dual[machine.support_, j], offset[j] = machine.dual_coef_[0], machine.intercept_[0]
        used = (dual != 0).any(axis=1)
        self.support_, self.dual_, self.intercept_ = z[used], dual[used], offset

    def _average(self, block: sp.csr_matrix) -> np.ndarray:
        """Features of the cells: the mean of their genes', by expression, (n_obs, n_components)."""
        return np.asarray(shares(block)[0] @ self.gene_features_)

    def _radial(self, z: np.ndarray) -> np.ndarray:
        from scipy.spatial.distance import cdist

        return np.exp(-self.gamma_ * cdist(z, self.support_, "sqeuclidean")) @ self.dual_ + self.intercept_
