"""What adapters to scvi-tools share: its seeds, its training, and what it says of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from scdance._checks import above_zero, one_of, package, whole_number
from scdance._core.adapter import Adapter, set_for_now
from scdance._settings import settings

ACCELERATORS = {"auto": "auto", "cpu": "cpu", "cuda": "gpu", "mps": "mps"}
LOGGERS = ("scvi", "lightning.pytorch", "lightning.fabric")


class ScviTools(Adapter):
    """Base of adapters to a model of scvi-tools, which is made by a subclass.

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

    def check(self) -> None:
        super().check()
        for name in ("n_latent", "epochs", "batch_size"):
            whole_number(getattr(self, name), name, least=1)
        above_zero(self.lr, "lr")
        one_of(self.device.partition(":")[0], ACCELERATORS, "device")

    @contextmanager
    def session(self) -> Iterator[None]:
        """Seed scvi-tools in its own way, which touches torch, the environment and cuDNN, and put those back."""
        import torch

        scvi, environment, cudnn = self.scvi, dict(os.environ), torch.backends.cudnn
        flags = {name: getattr(cudnn, name) for name in ("deterministic", "benchmark")}
        levels = {name: logging.getLogger(name).level for name in LOGGERS}
        with super().session(), set_for_now(cudnn, **flags):
            try:
                for name in LOGGERS:
                    logging.getLogger(name).setLevel(logging.WARNING)
                with set_for_now(scvi.settings, seed=self.random_state):
                    yield
            finally:
                for name, level in levels.items():
                    logging.getLogger(name).setLevel(level)
                for name in set(os.environ) - set(environment):
                    del os.environ[name]
                os.environ.update(environment)

    @property
    def scvi(self) -> Any:
        """The package."""
        return package("scvi", extra="scvi", why=self.name)

    def trained(self, model: Any, **how: Any) -> Any:
        """The model after its training, of which the history is kept; `how` goes before the knobs."""
        kind, _, index = (settings.device if self.device == "auto" else self.device).partition(":")
        model.train(
            **{
                "max_epochs": self.epochs,
                "batch_size": self.batch_size,
                "accelerator": ACCELERATORS[kind],
                "devices": [int(index)] if index else 1,
                "enable_progress_bar": bool(self.runtime.progress),
                **how,
            }
        )
        told = {name: np.asarray(table, dtype=float).ravel() for name, table in model.history.items()}
        self.history_ = {name: each for name, each in told.items() if name.startswith("elbo")}
        self.epochs_ = len(next(iter(self.history_.values()), ()))
        return model
