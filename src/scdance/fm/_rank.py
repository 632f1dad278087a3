"""Pre-training in several processes, one a device: what each of these does, started by Lightning Fabric."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from scdance._checks import ScdanceError, package
from scdance._core.run import make, running
from scdance.pp import FittedRecipe

from ._devices import ASKED, FAILED, MODEL
from ._pretrain import METHOD, clock, opened_cells


def main(folder: Path) -> None:
    """Train on what the folder asks for; the first process writes the model there, one that fails why."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _train(folder, json.loads((folder / ASKED).read_text()))
    except Exception as error:
        told = (type(error).__name__, str(error), traceback.format_exc())
        (folder / FAILED.format(os.environ.get("LOCAL_RANK", "0"))).write_text(json.dumps(told))
        raise


def _train(folder: Path, asked: dict[str, Any]) -> None:
    """Train, and write the model in the first process."""
    from scdance.train import Together

    fabric = _launched(asked["device"], asked["devices"])
    peers = Together(fabric)
    model = make("embed", METHOD, asked["knobs"], random_state=asked["random_state"], device=str(fabric.device))
    prep = FittedRecipe.from_json(asked["prep"], {})
    sources = {name: opened_cells(name, model, prep, **how) for name, how in asked["files"].items()}
    progress = asked["progress"] if peers.rank == 0 else False
    with running(model, sources, progress=progress, checkpoint=asked["checkpoint"]):
        each_epoch = clock(asked["max_minutes"])
        model.pretrain(list(sources.values()), peers=peers, each_epoch=each_epoch)  # type: ignore[attr-defined]
    found = hashlib.sha256(b"".join(value.cpu().numpy().tobytes() for value in model.net_.state_dict().values()))
    if peers.total([float(peers.first(found.digest()) != found.digest())]) != [0.0]:
        msg = f"The {peers.n} devices ended with different networks; report this, with their kinds, as a bug."
        raise ScdanceError(msg)
    if peers.rank == 0:
        model.preps_, model.categories_ = {"cells": prep}, []
        model.save(folder / MODEL)
    fabric.barrier()  # a process that leaves early takes the connection with it


def _launched(device: str, devices: int) -> Any:
    """Lightning Fabric, after it has started the other processes, each of which runs this file anew."""
    lightning_fabric = package("lightning_fabric", extra="distributed", why=f"devices={devices}")
    from lightning_fabric.plugins.environments import LightningEnvironment

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it tells of every process that it starts
    fabric = lightning_fabric.Fabric(
        accelerator=device,
        devices=devices,
        strategy="ddp",  # of which only the communication is used: the net is called in parts, not as a whole
        plugins=LightningEnvironment(),  # whatever scheduler the machine is under
    )
    fabric.launch()
    return fabric


def _end_with_parent() -> None:
    """Wait for the end of stdin, which the calling process holds open, and leave: nobody is there for the model."""
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
