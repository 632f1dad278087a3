"""What adapters of joint embedding to other packages share: their manners, and cells that the package cannot place."""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any, Self

import numpy as np

from scdance._checks import ScdanceError, enough_pairs
from scdance._core.cells import Cells, Pair
from scdance._core.method import Method
from scdance.pp import Recipe, ridge, with_one
from scdance.train import components, recipes_to_reduce, scores, target_of

DIMS = 50  # of a modality, by which it foretells the place of a cell that has no other
RIDGE = 1e-2  # of the variance of a place


class Route(Method):
    """Base of adapters: a subclass writes :meth:`embed`, where its package does the work.

    The package sees the cells of this run only, so that new ones cannot be placed later. A cell that it gives no place,
    for it lacks a modality, gets that which a linear regression on its components in the other one foretells.

    Parameters
    ----------
    n_top_genes
        Genes with the largest deviance that are kept; None: all.
    """

    n_top_genes: int | None = 2000

    needs = ("lognorm",)
    inductive = False
    keeps = ("embedding_",)
    route = True

    def embed(self, pair: Pair) -> np.ndarray:
        """Places by the package, (n_obs, n_dims); NaN in the rows of cells that it gives none."""
        raise NotImplementedError

    @property
    def recipe(self) -> dict[str, Recipe]:  # type: ignore[override]
        return recipes_to_reduce(self.n_top_genes, getattr(self, "n_top_peaks", None))

    def check_cells(self, cells: Pair) -> None:
        """Refuse too few cells to learn from."""
        if not self.is_fitted:
            enough_pairs(len(cells.both), type(self).__name__)

    @contextmanager
    def session(self) -> Iterator[None]:
        """Put back what other packages seed and set: the random states and the threads of torch."""
        import torch

        threads = torch.get_num_threads()
        with super().session(), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            try:
                yield
            finally:
                torch.set_num_threads(threads)

    def fit(self, *, pair: Pair) -> Self:
        with contained(self.name, loud=bool(self.runtime.progress)):
            z = np.asarray(self.embed(pair), dtype=np.float32)
        self.notes_ = {**getattr(self, "notes_", {}), "n_both": len(pair.both), "n_one": pair.n_obs - len(pair.both)}
        self.notes_["n_foretold"] = int(np.isnan(z[:, 0]).sum())
        self.embedding_ = self._foretold(z, pair)
        return self

    def predict(self, *, pair: Pair) -> dict[str, Any]:
        return {"embedding": self.embedding_}

    def _foretold(self, z: np.ndarray, pair: Pair) -> np.ndarray:
        """The places, those that are missing by a regression on the components of the one modality of the cell."""
        there = ~np.isnan(z[:, 0])
        for cells, at in zip((pair.source, target_of(pair)), pair.at.T, strict=True):
            lone, known = ~there & (at >= 0), there & (at >= 0)
            if lone.any():
                x = self.components(cells, at[known])
                z[lone] = with_one(x[at[lone]]) @ ridge(x[at[known]], z[known], RIDGE)
        return z

    def components(self, cells: Cells, rows: np.ndarray, n: int = DIMS) -> np.ndarray:
        """Scores of all cells in components that those at `rows` teach, each cell at mean 0 and variance 1."""
        return scores(cells, slice(None), components(cells, rows, n, random_state=self.random_state), unit_rows=True)


def batch_of(pair: Pair) -> np.ndarray:
    """Batch of each cell of the pair as a code, (n_obs,) int; all 0 where there are none."""
    code = np.zeros(pair.n_obs, dtype=int)
    for cells, at in zip((pair.source, target_of(pair)), pair.at.T, strict=True):
        if cells.batch is not None:
            code[at >= 0] = cells.batch[at[at >= 0]]
    return code


@contextmanager
def contained(name: str, *, loud: bool = False) -> Iterator[None]:
    """Keep what a package prints and warns of to itself; where it ends the whole process, raise what made it do so.

    With `loud`, what it prints goes to the stream of errors, where progress bars are.
    """
    pressed = signal.getsignal(signal.SIGINT)
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stdout(sys.stderr if loud else StringIO()):
            yield
    except SystemExit as error:
        if type(error) is not SystemExit:  # a signal told the process to end
            raise
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        msg = f"The package behind {name!r} gave up without a reason; look for features or cells that are all alike."
        raise ScdanceError(msg) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, pressed)  # some packages leave Ctrl-C without effect
