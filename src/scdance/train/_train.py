"""The numbers of a training stage."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from scdance._checks import InputError


@dataclass(frozen=True)
class Train:
    """The numbers of a training stage.

    Parameters
    ----------
    epochs
        Most passes over the cells; 0 leaves the net as it was made, None: as many as make `steps` steps.
    steps
        Steps of the optimiser where `epochs` is None, rounded up to whole passes: few cells are then trained
        on as long as many.
    lr
        Learning rate of the optimiser.
    batch_size
        Cells per step.
    weight_decay
        L2 penalty on the weights.
    patience
        Stop after so many epochs without a better validation loss; None: run all epochs.
    min_delta
        Smallest gain that counts as better.
    clip
        Largest norm of the gradient; None: not clipped.
    optimizer
        Optimiser, with PyTorch's default numbers but for `lr`, `weight_decay` and Adadelta's ρ = 0.95.

    Raises
    ------
    InputError
        If a number is out of range, or neither `epochs` nor `steps` ends the training.

    Examples
    --------
    >>> from scdance import train
    >>> train.Train(epochs=None, steps=100).n_epochs(n_batches=8)
    13
    """

    epochs: int | None = 100
    steps: int | None = None
    lr: float = 1e-3
    batch_size: int = 256
    weight_decay: float = 0.0
    patience: int | None = None
    min_delta: float = 0.0
    clip: float | None = None
    optimizer: Literal["adam", "amsgrad", "adamw", "adadelta", "sgd"] = "adam"

    def __post_init__(self) -> None:
        least = {
            "epochs": 0,
            "steps": 1,
            "lr": 0,
            "batch_size": 1,
            "weight_decay": 0,
            "patience": 1,
            "min_delta": 0,
            "clip": 0,
        }
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and (value < low or (name == "lr" and value == 0)):
                msg = f"{name}={value!r}, but it must be {'above 0' if name == 'lr' else f'at least {low}'}."
                raise InputError(msg)
        if self.epochs is None and self.steps is None:
            msg = "epochs and steps are both None; pass one of them, so that training ends."
            raise InputError(msg)

    def n_epochs(self, n_batches: int) -> int:
        """Most passes over data of so many batches."""
        if self.epochs is not None:
            return self.epochs
        return max(1, math.ceil((self.steps or 0) / n_batches))
