"""CellPLM as an imputer: what a transformer over cells expects of each count."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from scdance._core.cells import Cells
from scdance.methods.embed import cellplm as embed
from scdance.pp import blocks

from ._imputer import Imputer, Rates


class CellPLM(Imputer, embed.CellPLM):
    """Impute by a transformer over the cells of a sample, which may have been trained on other cells [Wen2024]_.

    Cells of a sample hear each other; what each has become gives its place in a latent space, and that its expected
    counts. In training a part of the genes of most cells is hidden, so that a count is told from the others. With
    `init` the network begins as it was trained on many cells.

    When to use
    -----------
    With a model of cells like these, or where samples have many cells that tell of each other.

    When not
    --------
    From nothing on some hundred cells, where ``"dca"`` and ``"knn"`` are as good and faster.

    Differs from the paper
    ----------------------
    What is predicted are the counts, by their negative binomial likelihood, with the decoder of the pre-training; the
    paper puts a new net in its place and predicts log-normalised values by squared error. Counts are not held out to
    stop the training.
    """

    n_top_genes: int | None = None

    cite = "Wen2024"
    presets = {name: {**sizes, "n_top_genes": None} for name, sizes in embed.SIZES.items()}

    def rates(self, cells: Cells) -> Rates:
        z = self.places(cells)
        size = np.concatenate([np.asarray(block.sum(axis=1)).ravel() for _, block in blocks(cells.counts)])
        there = None if cells.present is None else torch.from_numpy(cells.present).to(self.target)
        codes = np.full(cells.n_obs, -1) if cells.batch is None else cells.batch

        @torch.no_grad()
        def rate(rows: slice) -> np.ndarray:
            told = tuple(torch.from_numpy(codes[rows].astype(np.int64)).to(self.target) for _ in self.sizes.covariates)
            shares = self.net_.shares(self.net_.decode(self.tensor(z[rows]), told)).exp()
            if there is not None:  # what the model knows but the object lacks has no part in its depth
                shares = shares / shares[:, there].sum(dim=1, keepdim=True)
            return size[rows, None] * shares.cpu().numpy()  # type: ignore[no-any-return]

        return rate

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        return {**Imputer.predict(self, cells=cells), "embedding": self.places(cells)}
