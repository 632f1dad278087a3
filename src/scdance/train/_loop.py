"""The one training loop: epochs, optimiser, early stopping, best weights, progress, history, checkpoints."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from scdance._checks import InputError, ScdanceError
from scdance._core.method import OUT_OF_TIME, Runtime

from ._peers import Peers
from ._train import Train

CHECKPOINT_EVERY = 5  # epochs

Step = Callable[[Any], torch.Tensor]


@dataclass
class Log:
    """What a stage of training did.

    Attributes
    ----------
    history
        Mean training loss of each epoch and, with validation, its loss.
    epochs
        Epochs that ran.
    stopped
        Why it ended, in words.
    """

    history: dict[str, list[float]] = field(default_factory=dict)
    epochs: int = 0
    stopped: str = ""


def loop(
    step: Step | Sequence[tuple[Step, Iterable[nn.Parameter]]],
    net: nn.Module,
    how: Train,
    *,
    batches: Iterable[Any],
    stage: str = "training",
    valid: Callable[[], float] | None = None,
    each_epoch: Callable[[int], str | None] | None = None,
    look: Callable[[], dict[str, Any]] | None = None,
    rng: np.random.Generator | None = None,
    memory: dict[str, torch.Tensor] | None = None,
    pace: Callable[[int, int], float] | None = None,
    runtime: Runtime | None = None,
    peers: Peers | None = None,
) -> Log:
    """Train `net` in one of four shapes.

    Full batch: `batches` yields one item. Mini-batch: it yields several. Pretrain, then refine: two calls, the
    second with `each_epoch` refreshing a target. Adversarial: `step` is a list of (step, parameters) that
    take turns on each batch, each with its own optimiser.

    Parameters
    ----------
    step
        From a batch to a loss, a scalar; or a list of (step, the parameters it moves).
    net
        Holds every parameter; restored from a checkpoint and, with `valid`, to its best weights.
    how
        The numbers.
    batches
        Iterated anew in each epoch.
    stage
        Name of the stage in history, checkpoint and progress bar.
    valid
        Validation loss of the present net; called after each epoch without gradients.
    each_epoch
        Called with the number of the epoch before it starts; a text that it returns ends the training and says why.
    look
        Returns the present result for ``runtime.on_epoch``, which may look and never steer.
    rng
        Generator behind the batch order, so that a continued run draws the same.
    memory
        Tensors that `each_epoch` keeps from one epoch to the next; saved with the checkpoint.
    pace
        Factor on the learning rate at a step, from its number and that of all steps, as :func:`half_cosine`; None: 1.
    runtime
        Progress bar, checkpoint folder, `on_epoch`.
    peers
        Processes that train together: each step then takes a batch in each, and the mean of the gradients. None: one.

    Returns
    -------
    Losses of each epoch, number of epochs, and why it ended.

    Raises
    ------
    ScdanceError
        The loss is no longer finite.
    InputError
        The checkpoint folder belongs to another call.

    Examples
    --------
    >>> import torch
    >>> from scdance import train
    >>> net, x = torch.nn.Linear(2, 1, bias=False), torch.eye(2)
    >>> log = train.loop(lambda batch: (net(batch) - 1).square().mean(), net, train.Train(epochs=3), batches=[x])
    >>> log.epochs, log.stopped, len(log.history["loss"])
    (3, 'all 3 epochs', 3)
    """
    from tqdm.auto import tqdm

    runtime, peers = runtime or Runtime(), peers or Peers()
    memory = {} if memory is None else memory
    turns = [(step, net.parameters())] if callable(step) else list(step)
    steps = [each for each, _ in turns]
    optimizers = [_optimizer(parameters, how) for _, parameters in turns]
    names = ["loss"] if len(steps) == 1 else [f"loss_{i + 1}" for i in range(len(steps))]
    run = _Run(net, optimizers, rng, memory, Log({name: [] for name in names}))
    saved = _Checkpoint(runtime, stage, peers)
    saved.restore(run)

    # tqdm: False shows the bar, None hides it where nobody watches
    n_epochs = how.epochs if how.epochs is not None else how.n_epochs(len(batches))  # type: ignore[arg-type]
    if pace is not None:
        n_steps = n_epochs * peers.n_steps(len(batches))  # type: ignore[arg-type]
        run.rate = lambda: how.lr * pace(run.n_steps, n_steps)
    bar = tqdm(total=n_epochs, initial=run.log.epochs, desc=stage, leave=False, disable=_hidden(runtime.progress))
    try:
        while not run.log.stopped:
            if run.log.epochs >= n_epochs:
                run.log.stopped = f"all {n_epochs} epochs"
                break
            net.eval()
            stop = peers.first(each_epoch(run.log.epochs) if each_epoch is not None else None)
            if stop:
                run.log.stopped = stop
                break
            net.train()
            run.begin(peers)
            _epoch(steps, optimizers, batches, how, run, names, peers)
            net.eval()
            if valid is not None:
                with torch.no_grad():
                    run.judge(peers.first(float(valid())), how)
            run.log.epochs += 1
            bar.update()
            if runtime.on_epoch is not None and look is not None:
                with torch.random.fork_rng(devices=run.gpus), torch.no_grad():
                    runtime.on_epoch(stage, run.log.epochs, look)
            if run.log.epochs % CHECKPOINT_EVERY == 0:
                saved.keep(run)
    finally:
        bar.close()
    run.finish()
    net.eval()
    saved.keep(run)
    return run.log


def _hidden(progress: bool | None) -> bool | None:
    return None if progress is None else not progress


def _epoch(
    steps: list[Step],
    optimizers: list[torch.optim.Optimizer],
    batches: Iterable[Any],
    how: Train,
    run: _Run,
    names: list[str],
    peers: Peers,
) -> None:
    """One pass over the batches; appends the mean loss of each step to the history."""
    total, n = [0.0] * len(steps), 0
    for batch in peers.share(batches):
        if run.rate is not None:
            for group in (group for optimizer in optimizers for group in optimizer.param_groups):
                group["lr"] = run.rate()
        for i, (step, optimizer) in enumerate(zip(steps, optimizers, strict=True)):
            optimizer.zero_grad(set_to_none=True)
            loss = step(batch)
            loss.backward()
            moved = [p for g in optimizer.param_groups for p in g["params"]]
            peers.average(moved)
            if how.clip is not None:
                nn.utils.clip_grad_norm_(moved, how.clip)
            optimizer.step()
            total[i] += float(loss.detach())
        n += 1
        run.n_steps += 1
    *total, n_all = peers.total([*total, n])
    for name, value in zip(names, total, strict=True):
        run.log.history[name].append(value / max(n_all, 1))
    if not all(math.isfinite(value) for value in total):
        msg = (
            f"The training loss is no longer finite in epoch {run.log.epochs + 1}. "
            f"Pass a smaller `lr` (now {how.lr:g}) "
            "or a bound on the gradient (`clip=1.0`); if it persists, look for cells with extreme counts."
        )
        raise ScdanceError(msg)


def _optimizer(parameters: Iterable[nn.Parameter], how: Train) -> torch.optim.Optimizer:
    parameters = list(parameters)
    numbers: dict[str, Any] = {"lr": how.lr, "weight_decay": how.weight_decay}
    if how.optimizer == "amsgrad":
        return torch.optim.Adam(parameters, amsgrad=True, **numbers)
    if how.optimizer == "adadelta":
        numbers["rho"] = 0.95  # as published
    makers = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "adadelta": torch.optim.Adadelta,
        "sgd": torch.optim.SGD,
    }
    return makers[how.optimizer](parameters, **numbers)


@dataclass
class _Run:
    """All that changes during a stage: what a checkpoint must hold."""

    net: nn.Module
    optimizers: list[torch.optim.Optimizer]
    rng: np.random.Generator | None
    memory: dict[str, torch.Tensor]
    log: Log
    best: dict[str, torch.Tensor] | None = None
    best_loss: float = math.inf
    waited: int = 0
    n_steps: int = 0
    rate: Callable[[], float] | None = None

    @property
    def gpus(self) -> list[int]:
        """Indices of the CUDA devices that hold the net."""
        return sorted({parameter.device.index for parameter in self.net.parameters() if parameter.is_cuda})

    def begin(self, peers: Peers) -> None:
        """Let torch draw other numbers in each of several processes."""
        seed = peers.seed(self.rng)
        if seed is None:
            return
        torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
        for gpu in self.gpus:
            torch.cuda.set_rng_state(torch.Generator(torch.device("cuda", gpu)).manual_seed(seed).get_state(), gpu)

    def judge(self, loss: float, how: Train) -> None:
        """Note a validation loss; keep the weights if it is the best, and see whether patience is at its end."""
        self.log.history.setdefault("valid_loss", []).append(loss)
        if loss < self.best_loss - how.min_delta:
            self.best_loss, self.waited = loss, 0
            self.best = copy.deepcopy(self.net.state_dict())
            return
        self.waited += 1
        if how.patience is not None and self.waited >= how.patience:
            self.log.stopped = f"no better validation loss in {how.patience} epochs"

    def finish(self) -> None:
        if self.best is not None:
            self.net.load_state_dict(self.best)
            self.best = None


class _Checkpoint:
    """The state of a stage in one safetensors file, replaced atomically; the first of several processes writes it."""

    def __init__(self, runtime: Runtime, stage: str, peers: Peers):
        self.fingerprint = runtime.fingerprint + (f" in {peers.n} processes" if peers.n > 1 else "")
        self.writes = peers.rank == 0
        self.file: Path | None = None if runtime.checkpoint is None else runtime.checkpoint / f"{stage}.safetensors"

    def keep(self, run: _Run) -> None:
        if self.file is None or not self.writes:
            return
        from safetensors.torch import save_file

        tensors = {f"net/{k}": v for k, v in run.net.state_dict().items()}
        tensors |= {f"memory/{k}": v for k, v in run.memory.items()}
        tensors |= {f"best/{k}": v for k, v in (run.best or {}).items()}
        tensors["random/cpu"] = torch.get_rng_state()
        tensors |= {f"random/{gpu}": torch.cuda.get_rng_state(gpu) for gpu in run.gpus}
        for i, optimizer in enumerate(run.optimizers):
            for j, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer/{i}/{j}/{k}": torch.as_tensor(v) for k, v in state.items()}
        told = {
            "fingerprint": self.fingerprint,
            "history": run.log.history,
            "epochs": run.log.epochs,
            "stopped": run.log.stopped,
            "best_loss": run.best_loss,
            "waited": run.waited,
            "n_steps": run.n_steps,
            "rng": None if run.rng is None else run.rng.bit_generator.state,
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        new = self.file.with_suffix(".part")
        save_file(
            {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()},
            new,
            {"state": json.dumps(told)},
        )
        new.replace(self.file)

    def restore(self, run: _Run) -> None:
        if self.file is None or not self.file.exists():
            return
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.file, framework="pt") as opened:
                told = json.loads(opened.metadata()["state"])
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118, not a dict
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            msg = f"The checkpoint {self.file} is damaged ({error}); remove it to start anew."
            raise InputError(msg) from error
        if told["fingerprint"] != self.fingerprint:
            msg = (
                f"{self.file} is the checkpoint of another call (method, parameters, seed, devices or data differ). "
                "Pass another folder as `checkpoint=`, or remove this one to start anew."
            )
            raise InputError(msg)
        run.net.load_state_dict(_under("net/", tensors))
        run.memory.update(_under("memory/", tensors))
        run.best = _under("best/", tensors) or None
        run.log.history, run.log.epochs, run.log.stopped = told["history"], told["epochs"], told["stopped"]
        if run.log.stopped.startswith(OUT_OF_TIME):  # this call has time of its own
            run.log.stopped = ""
        run.best_loss, run.waited, run.n_steps = told["best_loss"], told["waited"], told["n_steps"]
        torch.set_rng_state(tensors["random/cpu"])
        for gpu in run.gpus:
            if f"random/{gpu}" in tensors:
                torch.cuda.set_rng_state(tensors[f"random/{gpu}"], gpu)
        if run.rng is not None:
            run.rng.bit_generator.state = told["rng"]
        for i, optimizer in enumerate(run.optimizers):
            state: dict[int, dict[str, torch.Tensor]] = {}
            for name, value in _under(f"optimizer/{i}/", tensors).items():
                j, key = name.split("/", 1)
                state.setdefault(int(j), {})[key] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
