"""The base of all methods with a net: device, seeding, training, loading."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from scdance._checks import InputError
from scdance._core.cells import Cells
from scdance._core.method import Method
from scdance._settings import logger, settings, torch_threads

from ._batches import Batch, Batches
from ._loop import Log, loop
from ._train import Train


class TorchMethod(Method):
    """Base of methods with a net.

    A subclass writes :meth:`net`, which builds the untrained net from knobs and fitted facts and which both
    `fit` and `load` call, and keeps the trained one as ``net_``.

    Parameters
    ----------
    training
        main stage of training
    """

    training: Train = Train()

    def net(self) -> nn.Module:
        """Build the untrained net."""
        raise NotImplementedError

    @property
    def target(self) -> torch.device:
        """The device that `device` means."""
        return torch_device(self.device)

    @contextmanager
    def session(self) -> Iterator[None]:
        """Seed torch inside a fork of its random state, and put state and thread count back afterwards."""
        device = self.target
        logger.info("%s: running on %s", self.name, device)
        gpus = []
        if device.type == "cuda":
            gpus = [torch.cuda.current_device() if device.index is None else device.index]
        with super().session(), torch_threads(), torch.random.fork_rng(devices=gpus):
            # torch.manual_seed would also seed devices that are not in use, and so not put back
            torch.default_generator.manual_seed(self.random_state)
            for gpu in gpus:
                with torch.cuda.device(gpu):
                    torch.cuda.manual_seed(self.random_state)
            if hasattr(self, "net_"):
                self.net_.to(device)
            yield

    def learn(self, step: Any, net: nn.Module, how: Train, *, stage: str = "training", **knobs: Any) -> Log:
        """Run :func:`loop` and keep its history under the name of the stage."""
        log = loop(step, net, how, stage=stage, runtime=self.runtime, **knobs)
        if not hasattr(self, "history_"):
            self.history_: dict[str, np.ndarray] = {}
        self.history_ |= {f"{stage}_{name}": np.asarray(values) for name, values in log.history.items()}
        self.epochs_ = getattr(self, "epochs_", 0) + log.epochs
        self.stopped_ = "; ".join(filter(None, [getattr(self, "stopped_", ""), f"{stage}: {log.stopped}"]))
        return log

    def tensor(self, x: np.ndarray) -> torch.Tensor:
        """An array on the device of the net, float32."""
        return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).to(self.target)

    def map(self, f: Callable[[Batch], torch.Tensor], cells: Cells, *, size: int = 1024) -> np.ndarray:
        """Apply `f` to all cells in order, without gradients: its values row by row, as one array."""
        with torch.no_grad():
            parts = [f(batch).cpu().numpy() for batch in Batches(cells, size, device=self.target)]
        return np.concatenate(parts)

    def _load_net(self, arrays: dict[str, np.ndarray]) -> None:
        self.net_ = self.net().to(self.target)
        self.net_.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
        self.net_.eval()


def torch_device(name: str) -> torch.device:
    """The device of a name.

    Parameters
    ----------
    name
        "cpu", "cuda", "mps" or another device of PyTorch; "auto": that of the settings, or a GPU where there is one.

    Returns
    -------
    The device, which is there.

    Raises
    ------
    InputError
        PyTorch knows no such device, or does not find it here.

    Examples
    --------
    >>> from scdance import train
    >>> train.torch_device("cpu")
    device(type='cpu')
    """
    name = name if name != "auto" else settings.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(name)
    except RuntimeError as error:
        msg = f"device={name!r} is not a device of PyTorch; pass 'auto', 'cpu', 'cuda' or 'mps'."
        raise InputError(msg) from error
    n_there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (found.index or 0) >= n_there.get(found.type, 1):
        msg = f"device={name!r}, but PyTorch {torch.__version__} finds no such device here; pass device='cpu'."
        raise InputError(msg)
    return found
