"""The mean of the nearest cells, found and averaged among the scores of truncated SVDs."""

from __future__ import annotations

import numpy as np
from sklearn.neighbors import NearestNeighbors

from scdance._checks import InputError
from scdance._core.cells import Cells, Pair
from scdance.train import slices

from ._predictor import Answers
from ._reduced import Reduced, folds

NUMBERS = (5, 10, 15, 25, 50, 100)  # of neighbours, among which held-out cells choose


class PCAKNN(Reduced):
    """Answer what the nearest cells of the source have in the target [Lance2022]_.

    Both modalities are reduced by truncated singular value decompositions of the cells that teach. The scores of the
    target are averaged over the cells that are nearest by their scores in the source, and turned back into features
    by the loadings. A mean of neighbours strays from the mean of all cells by chance too: cells that were held out say
    which part of its deviation holds, score by score, and that part is answered.

    Parameters
    ----------
    n_neighbors
        Neighbours whose mean is taken; None: chosen among 5, 10, 15, 25, 50 and 100 by the error on a share
        `valid_share` of the cells, whole batches where there are three.
    shrink
        Whether only the part of each score is answered that holds on these cells.
    unit_rows
        Whether each cell is brought to mean 0 and variance 1 over its scores in the source before its neighbours are
        looked for, so that depth does not count.

    When to use
    -----------
    To see which cells an answer comes from, and as a second opinion beside a regression: it assumes nothing but
    that cells alike in the source are alike in the target.

    When not
    --------
    Batches that differ, or few cells: the nearest cells are then not near. No answer lies beyond what was seen in
    training.

    Differs from the paper
    ----------------------
    The competition averaged 5 folds (10 in its code), each with its own decomposition of the target, for 25 neighbours;
    that is the preset "paper", but the decomposition is shared. By default all cells answer together, by fewer
    components, at variance 1, for a number of neighbours that suits the data, and shrunk: where the source says
    nothing, the mean is left. New cells are projected on the components of the training cells. Chromatin as a source is
    weighted by term frequency and inverse document frequency. With several members each learns from all folds
    but one, and a fold has a like share of each batch.
    """

    n_source: int | None = 30
    n_neighbors: int | None = None
    shrink: bool = True
    unit_rows: bool = True

    keeps = ("given_", "wanted_")
    presets = {
        "paper": {"n_source": 50, "n_neighbors": 25, "shrink": False, "unit_rows": False, "n_ensemble": 5},
    }

    def check(self) -> None:
        super().check()
        if self.n_neighbors is not None and self.n_neighbors < 1:
            msg = f"n_neighbors={self.n_neighbors!r}, but it must be at least 1, or None."
            raise InputError(msg)

    def divide(self, member: int, teach: np.ndarray, batch: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """All folds but one, where there are several members; a fold has a like share of each batch."""
        if self.n_ensemble == 1:
            return teach, teach[:0]
        return folds(teach, batch, self.n_ensemble, member, self.rng("folds"))[0], teach[:0]

    def prepare(self, pair: Pair, rows: np.ndarray) -> None:
        self.given_: list[np.ndarray] = []
        self.wanted_: list[np.ndarray] = []
        if self.n_neighbors is None or self.shrink:
            self.n_neighbors_, self.part_ = self._chosen(pair, *self.hold_out(pair, rows, "neighbors"))
        self.reduce(pair, rows)
        if self.n_neighbors is not None:
            self.n_neighbors_ = self.n_neighbors
        if not self.shrink:
            self.part_ = np.ones(len(self.loadings_["target"]))
        self.notes_["n_neighbors"] = self.n_neighbors_

    def fit_one(self, member: int, pair: Pair, rows: np.ndarray, valid: np.ndarray) -> None:
        _check_number(self.n_neighbors_, len(rows))
        self.given_.append(self.given(pair.source, rows[:, 0]))
        self.wanted_.append(self.wanted(pair, rows).astype(np.float32))

    def answers(self, member: int, source: Cells) -> Answers:
        index, y = _index(self.given_[member]), self.wanted_[member]

        def of(rows: slice) -> np.ndarray:
            near = index.kneighbors(self.given(source, rows), self.n_neighbors_, return_distance=False)
            return self.features(y[near].mean(axis=1) * self.part_)

        return of

    def _chosen(self, pair: Pair, inside: np.ndarray, outside: np.ndarray) -> tuple[int, np.ndarray]:
        """Number of neighbours `inside` that tells the cells `outside` best, and the part of each score that holds.

        The part b that holds of a mean p for a score y is that of smallest error, b = Σ p y / Σ p², in [0, 1].
        """
        numbers = [n for n in NUMBERS if n <= len(inside)] or [1]
        if self.n_neighbors is not None:
            _check_number(self.n_neighbors, len(inside))
            numbers = [self.n_neighbors]
        index, y = _index(self.given(pair.source, inside[:, 0])), self.wanted(pair, inside)
        square, product = (np.zeros((len(numbers), y.shape[1])) for _ in range(2))
        for here in slices(len(outside)):
            truth = self.wanted(pair, outside[here])
            near = index.kneighbors(self.given(pair.source, outside[here, 0]), max(numbers), return_distance=False)
            for i, n in enumerate(numbers):
                said = sum(y[near[:, j]] for j in range(n)) / n
                square[i] += (said**2).sum(axis=0)
                product[i] += (said * truth).sum(axis=0)
        part = np.ones_like(square)
        if self.shrink:
            part = np.clip(product / np.where(square > 0, square, 1), 0, 1)
        best = int((part**2 * square - 2 * part * product).sum(axis=1).argmin())
        return numbers[best], part[best]


def _index(x: np.ndarray) -> NearestNeighbors:
    """Neighbours by comparing with all cells: in dozens of dimensions a tree would be slower."""
    return NearestNeighbors(algorithm="brute").fit(x)


def _check_number(n_neighbors: int, n_cells: int) -> None:
    if n_neighbors > n_cells:
        msg = f"n_neighbors={n_neighbors}, but only {n_cells} cells teach; pass a smaller number."
        raise InputError(msg)
