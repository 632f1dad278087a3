"""The commonest type for every cell: what any annotator must beat."""

from __future__ import annotations

import numpy as np

from scdance._core.cells import Cells

from ._annotator import Annotator


class Majority(Annotator):
    """Give every cell the commonest type of the reference, as a dummy classifier does [Pedregosa2011]_.

    The probabilities are the shares of the types, whatever a cell expresses.

    When to use
    -----------
    As the lower end of a comparison: a data set of one large type makes any accuracy look good.

    When not
    --------
    To annotate anything: it looks at no gene of any cell.

    Differs from the paper
    ----------------------
    Nothing is learnt but how common each type is in the reference.
    """

    level: float | None = None

    cite = "Pedregosa2011"
    control = True

    def teach(self, cells: Cells, *, stage: str) -> None:
        self.shares_ = np.bincount(cells.labels, minlength=len(cells.categories)) / cells.n_obs

    def logits(self, cells: Cells) -> np.ndarray:
        return np.tile(np.log(np.maximum(self.shares_, 1e-12)), (cells.n_obs, 1))
