"""Few numbers in place of many features: truncated SVD of a modality, learnt on some cells, for any cells.

:func:`components` learns the loadings, an array that a method keeps in an attribute ending in ``_`` and so is saved;
:func:`scores` reads cells with them, block by block; ``scores @ components`` goes back to features. :func:`recipes`
is the preprocessing of methods that reduce the source, and :class:`Reduced` the base of those that reduce both sides.
"""

from __future__ import annotations

import numpy as np

from scdance._core.cells import Cells, Pair
from scdance.pp import Recipe
from scdance.train import by_appearance, components, recipes_to_reduce, scores, target_of

from ._predictor import Predictor


class Reduced(Predictor):
    """Base of predictors from scores of the source to scores of the target.

    Parameters
    ----------
    n_source, n_target
        Components of each modality, fewer where there are fewer cells; where a modality has no more features, or
        with None, the features themselves.
    n_top_genes, n_top_peaks
        Genes or peaks of the source with the largest deviance that are kept; None: all.
    """

    n_source: int | None = 50
    n_target: int | None = 50
    n_top_genes: int | None = None
    n_top_peaks: int | None = 30_000

    cite = "Lance2022"
    presets = {"paper": {"n_top_peaks": None}}
    unit_rows = False  # True: scores of a cell of the source have mean 0 and variance 1

    @property
    def recipe(self) -> dict[str, Recipe]:  # type: ignore[override]
        return recipes_to_reduce(self.n_top_genes, self.n_top_peaks)

    def reduce(self, pair: Pair, rows: np.ndarray) -> None:
        """Learn the loadings of both sides from the cells at `rows`, positions in source and target."""
        source, target, seed = pair.source, target_of(pair), self.random_state
        self.loadings_ = {
            "source": components(source, rows[:, 0], self.n_source, random_state=seed),
            "target": components(target, rows[:, 1], self.n_target, random_state=seed),
        }

    def given(self, source: Cells, rows: np.ndarray | slice) -> np.ndarray:
        """Scores of cells of the source, (n, n_source) float32."""
        return scores(source, rows, self.loadings_["source"], unit_rows=self.unit_rows)

    def wanted(self, pair: Pair, rows: np.ndarray) -> np.ndarray:
        """Scores of cells of the target around their mean, (n, n_target) float64."""
        loadings = self.loadings_["target"]
        return scores(target_of(pair), rows[:, 1], loadings).astype(np.float64) - loadings @ self.features_["mean"]

    def features(self, said: np.ndarray) -> np.ndarray:
        """What scores of the target around their mean say of its features, (n, n_features) float32."""
        return self.features_["mean"] + said.astype(np.float32) @ self.loadings_["target"]

    def hold_out(self, pair: Pair, rows: np.ndarray, purpose: str) -> tuple[np.ndarray, np.ndarray]:
        """The cells at `rows` that stay and those by which to choose; the loadings are learnt from the former.

        Cells that took part in a decomposition have larger scores in it than others: what is chosen by such would not
        suit others.
        """
        batch = None if pair.source.batch is None else pair.source.batch[rows[:, 0]]
        inside, outside = self.held_out(np.arange(len(rows)), batch, purpose)
        self.reduce(pair, rows[inside])
        return rows[inside], rows[outside]


def folds(
    cells: np.ndarray, batch: np.ndarray | None, n: int, which: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The cells without one of `n` folds, and that fold, both sorted; a fold has a like share of each batch.

    `batch` is that of each cell, by position, or None.
    """
    order = rng.permutation(cells)
    if batch is not None:
        order = np.concatenate([order[batch[order] == name] for name in by_appearance(batch[cells])])
    inside = np.arange(len(order)) % n != which
    return np.sort(order[inside]), np.sort(order[~inside])
