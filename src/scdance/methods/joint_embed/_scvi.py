"""What adapters to scvi-tools share: counts as its objects, its seeds, its training, and what it says."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from scdance._checks import InputError, one_of, package, whole_number
from scdance._core.cells import Cells, Pair
from scdance._settings import settings
from scdance.train import target_of

from ._route import Route

ACCELERATORS = {"auto": "auto", "cpu": "cpu", "cuda": "gpu", "mps": "mps"}
LOGGERS = ("scvi", "lightning.pytorch", "lightning.fabric")


class OfScvi(Route):
    """Base of adapters to a model of scvi-tools: a subclass makes the model.

    Parameters
    ----------
    n_latent
        Dimensions of the space.
    epochs
        Most passes over the cells.
    lr
        Learning rate.
    batch_size
        Cells per step.
    """

    n_latent: int = 20
    epochs: int = 400
    lr: float = 4e-3
    batch_size: int = 256

    needs = ("counts",)
    uses = ("batch",)
    extras = (("scvi", "scvi"),)

    def model(self, scvi: Any, pair: Pair) -> tuple[Any, np.ndarray]:
        """The untrained model, and the positions among the cells of the pair of those that it is given."""
        raise NotImplementedError

    def check(self) -> None:
        for name in ("n_latent", "epochs", "batch_size"):
            whole_number(getattr(self, name), name, least=1)
        if self.lr <= 0:
            msg = f"lr={self.lr!r}, but it must be above 0."
            raise InputError(msg)
        one_of(self.device.partition(":")[0], ACCELERATORS, "device")

    @contextmanager
    def session(self) -> Iterator[None]:
        """Seed scvi-tools in its own way, which touches torch, the environment and cuDNN, and put those back."""
        import torch

        scvi = package("scvi", extra="scvi", why=self.name)
        environment, cudnn, seed = dict(os.environ), torch.backends.cudnn, scvi.settings.seed
        flags = (cudnn.deterministic, cudnn.benchmark)
        levels = {name: logging.getLogger(name).level for name in LOGGERS}
        with super().session():
            try:
                for name in LOGGERS:
                    logging.getLogger(name).setLevel(logging.WARNING)
                scvi.settings.seed = self.random_state
                yield
            finally:
                scvi.settings.seed = seed
                cudnn.deterministic, cudnn.benchmark = flags
                for name, level in levels.items():
                    logging.getLogger(name).setLevel(level)
                for name in set(os.environ) - set(environment):
                    del os.environ[name]
                os.environ.update(environment)

    def embed(self, pair: Pair) -> np.ndarray:
        model, at = self.model(package("scvi", extra="scvi", why=self.name), pair)
        kind, _, index = (settings.device if self.device == "auto" else self.device).partition(":")
        model.train(
            max_epochs=self.epochs,
            lr=self.lr,
            batch_size=self.batch_size,
            accelerator=ACCELERATORS[kind],
            devices=[int(index)] if index else 1,
            enable_progress_bar=bool(self.runtime.progress),
        )
        told = {name: np.asarray(table, dtype=float).ravel() for name, table in model.history.items()}
        self.history_ = {name: each for name, each in told.items() if name.startswith("elbo")}
        self.epochs_ = len(next(iter(self.history_.values()), ()))
        z = np.full((pair.n_obs, self.n_latent), np.nan, dtype=np.float32)
        z[at] = model.get_latent_representation()
        return z


def by_kind(pair: Pair) -> dict[str, tuple[Cells, np.ndarray]]:
    """Each modality by its kind, with the row in it of every cell of the pair."""
    both = zip((pair.source, target_of(pair)), pair.at.T, strict=True)
    return {cells.modality or "": (cells, at) for cells, at in both}


def counts_of(cells: Cells, at: np.ndarray) -> csr_matrix:
    """Counts at these rows, 0 where a row is −1, (n, n_vars) CSR."""
    counts: Any = cells.part().counts
    there = np.flatnonzero(at >= 0)
    place = csr_matrix((np.ones(len(there), np.float32), (there, at[there])), (len(at), cells.n_obs))
    return csr_matrix(place @ counts)
