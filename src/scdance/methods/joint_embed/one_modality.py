"""One modality alone: the floor that says what the other one brings."""

from __future__ import annotations

from typing import Any, Literal

from scdance._checks import whole_number
from scdance._core.cells import Pair

from ._svd import Decomposed


class OneModality(Decomposed):
    """Embed the cells by one modality alone, as if nothing else had been measured [Lance2022]_.

    The modality is reduced by a truncated singular value decomposition, and the scores of a cell are brought to mean 0
    and variance 1 over its components: one half of ``svd_concat``.

    When to use
    -----------
    As a row of every table, once for each modality: what a joint space has beyond the better one is all that joining
    them has brought.

    When not
    --------
    For a space to work in, unless the other modality turns out to add nothing but noise.

    Differs from the paper
    ----------------------
    The competition has no such row. A cell that lacks the modality gets its scores from a linear regression on those
    of the other, as in ``svd_concat``.

    Parameters
    ----------
    which
        "source" or "target": the modality that is taken, the first being RNA unless the call says otherwise.
    n_components
        Dimensions; fewer where the modality has fewer features or cells.
    """

    which: Literal["source", "target"] = "source"
    n_components: int = 50

    control = True

    def check(self) -> None:
        """Refuse a space without dimensions."""
        whole_number(self.n_components, "n_components", least=1)

    def predict(self, *, pair: Pair) -> dict[str, Any]:
        return {"embedding": self.scores(pair)[self.which]}

    def dims(self, pair: Pair) -> tuple[int, int]:
        return self.n_components, self.n_components
