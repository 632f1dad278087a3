"""The numbers of a training stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scdance._checks import InputError


@dataclass(frozen=True)
class Train:
    """The numbers of a training stage.

    Parameters
    ----------
    epochs
        Most passes over the cells; 0 leaves the net as it was made.
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
        Optimiser, with PyTorch's default numbers but for `lr` and `weight_decay`.
    """

    epochs: int = 100
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
