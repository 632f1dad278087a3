"""The mean of each feature: the floor that knows nothing of a cell."""

from __future__ import annotations

import numpy as np

from scdance._core.cells import Cells, Pair

from ._predictor import Answers, Predictor


class Mean(Predictor):
    """Answer the mean of each feature for every cell [Lance2022]_.

    The mean is taken over the cells that teach, in the unit of the answers. Nothing of a cell is looked at, so the
    skill of every other method is counted from here.

    When to use
    -----------
    As the floor of every table: where a method is no better, the source says nothing of the target that it found.

    When not
    --------
    Whenever a cell is to be told from another.

    Differs from the paper
    ----------------------
    It does not: the mean of each feature is what the competition's organisers set as the lowest mark.
    """

    cite = "Lance2022"
    control = True
    order_free = True

    def fit_one(self, member: int, pair: Pair, rows: np.ndarray, valid: np.ndarray) -> None:
        """Nothing is left to learn: the means are known."""

    def answers(self, member: int, source: Cells) -> Answers:
        return lambda rows: np.broadcast_to(self.features_["mean"], (rows.stop - rows.start, self.n_features))
