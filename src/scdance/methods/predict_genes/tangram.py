"""Tangram by tangram-sc: the cells of the reference are put to the places where the common genes fit best."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np

from scdance._checks import above_zero, package, whole_number
from scdance._core.cells import Cells
from scdance.pp import Recipe
from scdance.train import slices, torch_device

from ._route import Route, as_object


class Tangram(Route):
    """Map the cells of the reference onto the tissue and answer what lands at each place [Biancalani2021]_.

    A matrix of probabilities says where each cell of the reference may lie. It is fitted so that the expression that it
    puts at the places has the common genes of the tissue, in the cosine of each gene over the places and of each place
    over the genes. The answer is the mean of the cells of the reference by their probability to lie there.

    When to use
    -----------
    To compare with a method that many use, or because the package is at hand.

    When not
    --------
    Many cells: the matrix has an entry for each pair of a cell of the reference and a place, 400 MB for 10,000 of both,
    several times over. New cells, which would need another fit.

    Differs from the paper
    ----------------------
    The package puts the sum of the cells to a place, here their mean is taken in logarithms, in the unit of the
    reference; all places are taken for one cell each, unless ``preset="paper"``.

    Parameters
    ----------
    epochs
        Steps of the fit, each over all cells and places.
    lr
        Learning rate.
    density
        What is expected of the number of cells at a place: ``"uniform"``, or as its counts have it,
        ``"rna_count_based"``.
    """

    epochs: int = 1000
    lr: float = 0.1
    density: Literal["uniform", "rna_count_based"] = "uniform"

    cite = "Biancalani2021"
    extras = (("tangram", "tangram"),)
    recipe = {"ref": Recipe(normalize_total={}), "cells": Recipe()}
    presets = {"paper": {"density": "rna_count_based"}}
    exempt = {"memory_grows_with_the_cells": "the matrix of the package has an entry for each cell and place"}

    def check(self) -> None:
        whole_number(self.epochs, "epochs", least=1)
        above_zero(self.lr, "lr")

    def answer(self, ref: Cells, cells: Cells) -> np.ndarray:
        tangram = package("tangram", extra="tangram", why=self.name)
        there, here = as_object(ref.part().x), as_object(cells.part().x)
        seed = 1 + self.random_state % (2**32 - 1)  # 0 is no seed for the package
        with _unheard():
            tangram.pp_adatas(there, here)
            found = tangram.map_cells_to_space(
                there, here, mode="cells", device=str(torch_device(self.device)), num_epochs=self.epochs,
                learning_rate=self.lr, density_prior=self.density, random_state=seed, verbose=False,
            )  # fmt: skip
        weights, values = np.asarray(found.X).T, ref.target.part().x  # type: ignore[union-attr]
        out = np.empty((cells.n_obs, values.shape[1]), dtype=np.float32)  # type: ignore[union-attr]
        for rows in slices(cells.n_obs):
            some = weights[rows]
            out[rows] = (some / np.maximum(some.sum(axis=1, keepdims=True), 1e-12)) @ values
        return out


@contextmanager
def _unheard() -> Iterator[None]:
    """Keep from the user what the package tells the root logger, which gets a handler by that where it has none."""
    root, nobody = logging.getLogger(), logging.NullHandler()
    level = root.level
    root.addHandler(nobody)
    root.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(nobody)
