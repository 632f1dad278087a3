"""Pre-training in several processes, one a device: what the calling process does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scdance import _checks
from scdance._checks import InputError, ScdanceError, listed, package
from scdance._core.knobs import values_of
from scdance._core.run import load
from scdance._settings import logger

if TYPE_CHECKING:
    from scdance._core.method import Method

ASKED, MODEL, FAILED = "asked.json", "model", "failed_{}.json"  # files by which the processes hear of each other
# of a launcher that the calling process may itself be under
LAUNCHED = ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE")


def check_devices(model: Any, devices: int, files: Mapping[str, Any]) -> None:
    """Refuse more than one device where they are not there, or each process could not read the files by itself."""
    if find_spec("lightning_fabric") is None:  # it is not imported here, where it would change environment and loggers
        package("lightning_fabric", extra="distributed", why=f"devices={devices}")
    held = [name for name, file in files.items() if not isinstance(file, str | Path)]
    if held:
        msg = (
            f"devices={devices}, but {listed(held)} are objects in memory, and each device reads the files by itself: "
            "write them, `adata.write_h5ad('part.h5ad')`, and pass the paths."
        )
        raise InputError(msg)
    target = model.target
    if target.index is not None:
        msg = f"device={model.device!r} is one device, but devices={devices}: pass device={target.type!r}."
        raise InputError(msg)
    n_there = n_devices(target.type)
    if n_there is not None and devices > n_there:
        msg = (
            f"devices={devices}, but PyTorch finds {n_there} of kind {target.type!r} here: pass devices={n_there}, or "
            "device='cpu' for processes on the processor."
        )
        raise InputError(msg)


def n_devices(kind: str) -> int | None:
    """How many devices of a kind there are; None: a processor runs as many processes as one likes."""
    if kind == "cpu":
        return None
    import torch

    return torch.cuda.device_count() if kind == "cuda" else 1


def train_together(model: Any, devices: int, asked: dict[str, Any]) -> Method:
    """Give `model` what it learns from the files `asked` names, in as many processes as there are devices.

    They are new ones, which need neither a guarded script nor a terminal, and in which CUDA has not been used.
    """
    logger.info("pretrain: %d processes on %s", devices, model.target.type)
    asked = {
        **asked,
        "devices": devices,
        "device": model.target.type,
        "knobs": values_of(model),
        "random_state": model.random_state,
    }
    with tempfile.TemporaryDirectory(prefix="scdance_") as name:
        folder = Path(name)
        (folder / ASKED).write_text(json.dumps(asked))
        code = _run(folder)
        if code:
            raise _what_failed(folder, code)
        with model.session():  # a net is made, at random, before it gets its numbers
            learnt = load(folder / MODEL).state
    for attribute, value in learnt.items():
        setattr(model, attribute, value)
    model.net_.to(model.target)
    return model  # type: ignore[no-any-return]


def _run(folder: Path) -> int:
    """Run the first process, which starts the others, and end them all, whatever happens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "scdance.fm._rank", str(folder)],
        stdin=subprocess.PIPE,  # stays open: the others end when it closes, so also when this process is killed
        env={name: value for name, value in os.environ.items() if name not in LAUNCHED},
        start_new_session=True,
    )
    try:
        return process.wait()
    finally:
        with suppress(ProcessLookupError):  # none is left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdin.close()  # type: ignore[union-attr]


def _what_failed(folder: Path, code: int) -> ScdanceError:
    """The error of the first process that says one of ours, else of any."""
    told = [json.loads(file.read_text()) for file in sorted(folder.glob(FAILED.format("*")))]
    for kind, said, _ in told:
        found = getattr(_checks, kind, None)
        if isinstance(found, type) and issubclass(found, ScdanceError):
            return found(said)
    why = told[0][2] if told else f"it ended with {signal.Signals(-code).name if code < 0 else f'code {code}'}"
    return ScdanceError(f"A process of the training failed: {why}")
