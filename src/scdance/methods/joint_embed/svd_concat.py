"""Truncated singular value decompositions of two modalities, side by side."""

from __future__ import annotations

from typing import Any

import numpy as np

from scdance._core.cells import Pair

from ._svd import Decomposed

# Dimensions of the competition's solution for RNA beside another modality, and for that modality.
DIMS = {"prot": (73, 27), "atac": (38, 62)}
OTHERWISE = (50, 50)


class SVDConcat(Decomposed):
    """Decompose each modality by itself and put the scores side by side [Lance2022]_.

    Each normalised modality is reduced by a truncated singular value decomposition without centring; the scores of
    a cell are then brought to mean 0 and variance 1 over its components, so that neither modality outweighs the
    other by its scale. It won the competition's joint embedding of RNA and proteins without training.

    When to use
    -----------
    First, on any pair of modalities: seconds, deterministic, and new cells are placed without training again.

    When not
    --------
    Batches that differ: nothing corrects them. One modality much noisier than the other: each has its share of
    the dimensions, whatever it knows.

    Differs from the paper
    ----------------------
    Proteins are normalised by centred log ratio and open chromatin by term frequency and inverse document frequency,
    where the competition gave normalised values. A cell that lacks a modality gets its scores from a linear
    regression on those of the other, learnt from the cells that have both.

    Parameters
    ----------
    n_source, n_target
        Dimensions of each modality; None: 73 and 27 for RNA and proteins, 38 and 62 for RNA and open chromatin,
        else 50 and 50. Fewer where a modality has fewer features or cells.
    """

    n_source: int | None = None
    n_target: int | None = None

    presets = {"paper": {"n_top_peaks": None}}

    def predict(self, *, pair: Pair) -> dict[str, Any]:
        parts = self.scores(pair)
        return {"embedding": np.hstack([parts["source"], parts["target"]])}

    def dims(self, pair: Pair) -> tuple[int, int]:
        first, second = pair.source.modality, pair.target.modality
        usual = DIMS.get(second or "", OTHERWISE) if first == "rna" else DIMS.get(first or "", OTHERWISE)[::-1]
        return self.n_source or usual[0], self.n_target or usual[1]
