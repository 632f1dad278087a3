"""Principal components of genes that vary within batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from scdance._core.cells import Cells
from scdance.pp import PCA as Components
from scdance.pp import blocks, mean_and_sd, project

from ._integrator import Integrator

CLIP = 10.0  # standard deviations
ROWS = 1024  # made dense at once


class Decomposed(Integrator):
    """Base of methods on principal components.

    Parameters
    ----------
    n_components
        Dimensions of the space.
    scale
        "none": log-normalised expression; "z": standard deviations of each gene from its mean, at most 10;
        "batch": from its mean within the batch. A cell of an unseen batch counts as of all.
    """

    n_components: int = 50
    scale: Literal["none", "z", "batch"] = "none"

    def learn_space(self, cells: Cells) -> None:
        groups = [np.arange(cells.n_obs)]
        if self.scale == "batch":
            groups = [np.flatnonzero(cells.batch == code) for code in range(len(cells.batch_names or ()))] + groups
        moments = [mean_and_sd(cells.part(rows).x) for rows in groups]
        self.centers_ = np.array([mean for mean, _ in moments], dtype=np.float32)
        sd = np.array([sd for _, sd in moments], dtype=np.float32)
        self.scales_ = np.where(sd > 0, sd, 1) if self.scale != "none" else np.ones_like(sd)
        pca = Components(self.n_components, random_state=self.random_state)
        pca.fit(lambda: self._blocks(cells), (cells.n_obs, cells.n_vars))
        self.mean_, self.components_ = pca.mean_, pca.components_

    def place(self, cells: Cells) -> np.ndarray:
        return project(self._blocks(cells), self.mean_, self.components_)

    def _blocks(self, cells: Cells) -> Iterator[np.ndarray]:
        """Rows of scaled expression; the last centre is that of all cells."""
        codes = np.full(cells.n_obs, -1) if self.scale != "batch" or cells.batch is None else cells.batch
        for here, block in blocks(cells.x, ROWS):
            yield np.minimum((block.toarray() - self.centers_[codes[here]]) / self.scales_[codes[here]], CLIP)
