"""CellPLM for genes that a panel lacks: it learns their counts on the reference, from the genes that both have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self, cast

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from scdance._core.cells import Cells
from scdance.methods.embed.cellplm import CountModel
from scdance.pp import Recipe, canonical, expected_log1p
from scdance.train import Tokens

ROWS = 64  # of which expected logarithms are found at once
SCALED: dict[str, Any] = {"normalize_total": {"target": 1e4}, "log1p": {}}


class CellPLM(CountModel):
    """Predict genes that a panel lacks by a transformer over the cells of reference and tissue [Wen2024]_.

    One network reads the genes that both sides have and restores counts: of the tissue those genes, of the reference
    also the ones that are asked for. The decoder is told the side; the answer is what it expects of a cell of the
    tissue as if the reference had measured it.

    When to use
    -----------
    With a reference of the same tissue and a hundred common genes or more; with `init`, a model of cells like these.

    When not
    --------
    Before ``"knn"`` has been tried, which takes a second. For what only the place of a cell tells, which no reference
    of dissociated cells has seen.

    Differs from the paper
    ----------------------
    The asked genes are hidden in every step, as they are in the tissue, and counts of neither side are held out to stop
    the training. The answer is the expected logarithm of a count, for the reference's median depth.
    """

    cite = "Wen2024"
    skips_missing = False
    recipe = {"ref": Recipe(**SCALED), "cells": Recipe(**SCALED)}

    def fit(self, *, ref: Cells, cells: Cells) -> Self:
        ref, asked, cells = (each.part() for each in (ref, cast("Cells", ref.target), cells))
        self.n_shared_ = ref.n_vars
        names = np.concatenate([ref.var_names, asked.var_names])
        both = {name: _beside(getattr(ref, name), getattr(asked, name)) for name in ("x", "counts")}
        panel = {name: _wider(getattr(cells, name), len(names)) for name in ("x", "counts")}
        there = np.arange(len(names)) < self.n_shared_
        sources = [
            replace(ref, var_names=names, target=None, **both),
            replace(cells, var_names=names, present=there, **panel),
        ]
        self.pretrain(sources)
        depth = np.asarray(asked.depth, dtype=float)
        self.depth_ = float(np.median(depth))
        # share of the counts of a cell of the reference that these genes have
        self.part_ = float(both["counts"].sum() / depth.sum())
        return self

    def loss(self, read: Tokens, rng: np.random.Generator, share: float = 1.0) -> Tensor:
        """Of the reference all counts from the shared genes alone; of the tissue as in the training on any cells."""
        if read.genes is not None:
            return super().loss(read, rng, share)
        shared = torch.arange(self.n_shared_, device=read.x.device)
        seen = read._replace(x=read.x[:, : self.n_shared_], genes=shared)
        place = self.net_.latent(self.net_.encoder(seen.x.masked_fill(self._hidden(seen, rng), 0), read.places, shared))
        whole = self.net_.count_loss(self.net_.decode(place.z, read.codes), read.counts)
        return whole + share * self.latent_weight * self.net_.latent_loss(place, self.free_bits)

    @torch.no_grad()
    def predict(self, *, cells: Cells) -> dict[str, Any]:
        cells = cells.part()
        there = np.arange(self.sizes.n_vars) < self.n_shared_
        names = np.concatenate([cells.var_names, np.full(int((~there).sum()), "")])
        panel = {name: _wider(getattr(cells, name), len(names)) for name in ("x", "counts")}
        z = self.places(replace(cells, var_names=names, present=there, **panel))
        theta = torch.nn.functional.softplus(self.net_.head.gene_dispersion)[self.n_shared_ :].cpu().numpy()
        out = np.empty((cells.n_obs, int((~there).sum())), dtype=np.float32)
        for start in range(0, cells.n_obs, ROWS):
            rows = slice(start, start + ROWS)
            first = torch.zeros(len(z[rows]), dtype=torch.int64, device=self.target)  # the reference
            inner = self.net_.decode(self.tensor(z[rows]), tuple(first for _ in self.sizes.covariates))
            shares = self.net_.shares(inner).exp()[:, self.n_shared_ :].cpu().numpy()
            out[rows] = expected_log1p(self.depth_ * self.part_ * shares, theta, 1e4 / self.depth_)
        return {"prediction": out}


def _beside(left: Any, right: Any) -> sp.csr_matrix:
    """Columns of two matrices, the right one's after those of the left."""
    return canonical(sp.hstack([left, right], format="csr"))


def _wider(matrix: Any, n_vars: int) -> sp.csr_matrix:
    """The same with columns of zeros behind, around the same arrays."""
    return sp.csr_matrix((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], n_vars))
