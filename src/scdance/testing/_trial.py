"""A method on trial, and the runs that its checks share."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch

from scdance import tl
from scdance._core import registry
from scdance._core.cells import Cells, Pair
from scdance._core.knobs import knobs
from scdance._core.method import Method
from scdance._core.task import TASKS
from scdance._core.write import slots_of

from ._check import CHECKS, CheckFailed, NoRun
from ._objects import copied, parts, unlike
from ._states import global_states, put_back
from ._toys import N_GROUPS, TOYS

if TYPE_CHECKING:
    from scdance._core.task import Task

EPOCHS = 3  # of every training stage, unless the caller's knobs say otherwise


@dataclass
class Run:
    """One call of the tool that fitted the method.

    Attributes
    ----------
    after
        The object after the call.
    touched
        Names of the parts of the object, and of the reference under "ref/", that are not as they were before.
    returned, error
        What the call returned or raised.
    changed
        Global states that it left changed.
    model
        The fitted method.
    events
        How often the fit reached for its cells or went backward.
    """

    after: Any
    touched: list[str]
    returned: Any
    error: BaseException | None
    changed: list[str]
    model: Any
    events: int


class Trial:
    """A method on trial, and the runs that its checks share.

    Parameters
    ----------
    method, task, knobs, device
        As in :func:`check_method`.
    """

    def __init__(
        self,
        method: str | type[Method],
        task: str | None = None,
        *,
        knobs: dict[str, Any] | None = None,
        device: str = "cpu",
    ):
        if isinstance(method, str):
            task = task or next((each for each in TASKS if method in registry.names(each)), next(iter(TASKS)))
            method = registry.get(task, method)
        self.cls = method
        self.task: Task = registry.task_of(method.task or task or "")
        self.toys = TOYS[self.task.name](method.needs, method.uses)
        self.key = method.name or method.__name__.lower()
        self.device = device
        self.given = dict(knobs or {})
        self.errors: list[Exception] = []  # what the method raised where it should not, for the traceback

    # -------------------------------------------------------------- checks

    def problems(self, check: str) -> list[str]:
        """Sentences of one check, none if it passes; declared exemptions are taken into account."""
        function = CHECKS[check]
        try:
            with put_back():
                found = list(function(self))
        except NoRun:
            return [NoRun.text]
        except Exception as error:  # noqa: BLE001, whatever the method raises is what the check has found
            found = [f"{type(error).__name__}: {error}"]
            self.errors.append(error)
        if check not in self.cls.exempt:
            return found
        return [] if found else ["it is declared exempt and passes; take it out of `exempt`"]

    def run(self, check: str) -> None:
        """Run one check; raise :class:`CheckFailed` if it fails."""
        self.errors.clear()
        if found := self.problems(check):
            raise CheckFailed(self.cls.__name__, {check: found}) from next(iter(self.errors), None)

    # -------------------------------------------------------------- calls

    @property
    def knobs(self) -> dict[str, Any]:
        """Small knobs, and over them those of the caller."""
        return self._small(EPOCHS)

    @property
    def brief(self) -> dict[str, Any]:
        """The same with a single epoch, for the larger data on which memory is measured."""
        return self._small(1)

    def _small(self, epochs: int) -> dict[str, Any]:
        there = knobs(self.cls)
        small = {name: epochs for name in there if name == "epochs" or name.endswith("_epochs")}
        return small | ({"n_clusters": N_GROUPS} if "n_clusters" in there else {}) | self.given

    def call(self, data: Any, method: Any, **arguments: Any) -> Any:
        """Call the tool of the task; with a class, what it learns from is given too."""
        given = {"device": self.device, "progress": False, **self.toys.arguments}
        given |= self.toys.learning if isinstance(method, type) else {}
        return getattr(tl, self.task.name)(data, method=method, **given | arguments)

    def fit(self, data: Any, learning: dict[str, Any] | None = None, *, stop_at: int | None = None) -> Run:
        """Call the tool with the class; with `stop_at`, press Ctrl-C at this event."""
        learning = self.toys.learning if learning is None else learning
        held = {"": data} | ({"ref/": learning["ref"]} if "ref" in learning else {})
        before, watch = _contents({name: copied(each) for name, each in held.items()}), _Watch(stop_at)
        returned = error = None
        with put_back(), _watching(self.cls, watch):
            states = global_states()
            try:
                returned = self.call(data, self.cls, **learning, **self.knobs)
            except Exception as found:  # noqa: BLE001, the checks tell it
                error = found
            except KeyboardInterrupt as found:
                if not watch.pressed:
                    raise  # the user's own
                error = found
            now = global_states()
            changed = [name for name, value in states.items() if now.get(name) != value]
        touched = unlike(before, _contents(held))
        return Run(data, touched, returned, error, changed, watch.model, watch.events)

    # -------------------------------------------------------------- runs

    @cached_property
    def first(self) -> Run:
        """The fit that most checks look at."""
        return self.fit(self.toys.old)

    @property
    def shared(self) -> Run:
        """The same, or an error where it failed."""
        if self.first.error is not None:
            raise NoRun
        return self.first

    @cached_property
    def repeat(self) -> Run:
        """A second fit with equal seed, other global random states and other labels."""
        with put_back():
            random.random(), np.random.random(), torch.rand(1)  # noqa: NPY002, moves the states on
            return self.fit(*self.toys.relabelled)

    @cached_property
    def interrupted(self) -> Run:
        """A fit in whose middle Ctrl-C is pressed."""
        return self.fit(self.toys.old, stop_at=max(1, self.shared.events // 2))

    @cached_property
    def model(self) -> Method:
        """The method that the shared run fitted."""
        if self.shared.model is None:
            raise NoRun
        return self.shared.model

    def predict(self, data: Any, model: Any = None) -> dict[str, Any]:
        """Results of a fitted method (default: that of the shared run) for other cells."""
        data = copied(data)
        self.call(data, model or self.model)
        return self.results(data)

    @cached_property
    def on_new(self) -> dict[str, Any]:
        """Results for the new cells."""
        return self.predict(self.toys.new)

    def results(self, data: Any) -> dict[str, Any]:
        """The parts of the result that stand in the object."""
        holder, slots = self.toys.holder(data), slots_of(self.task, self.run_key).items()
        return {part: getattr(holder, where)[name] for part, (where, name) in slots if name in getattr(holder, where)}

    @property
    def run_key(self) -> str:
        """The key under which results and record stand."""
        return f"{self.key}{self.toys.suffix}"

    @property
    def exactly(self) -> float:
        """How far equal runs may differ: not at all on the CPU."""
        return 0.0 if self.device == "cpu" else 1e-4


def _contents(held: dict[str, Any]) -> dict[str, Any]:
    """Everything in several objects, each under its name."""
    return {name: value for under, each in held.items() for name, value in parts(each, under).items()}


class _Watch:
    """Counts the events of a fit, and interrupts it at one of them."""

    def __init__(self, stop_at: int | None):
        self.stop_at, self.events, self.pressed = stop_at, 0, False
        self.model: Any = None

    def event(self) -> None:
        self.events += 1
        if self.events == self.stop_at:
            self.pressed = True
            raise KeyboardInterrupt


@contextlib.contextmanager
def _watching(cls: type[Method], watch: _Watch) -> Iterator[None]:
    """Tell `watch` whenever a fit of this class reaches for its cells or goes backward."""
    true_fit, backward = cls.fit, torch.Tensor.backward
    data = {field.name for field in fields(Cells)} - {"prep", "rows", "extra"}

    class Watched(Cells):
        def __getattribute__(self, name: str) -> Any:
            if name in data:
                watch.event()
            return super().__getattribute__(name)

    def watched(value: Any) -> Any:
        if isinstance(value, Pair):
            target = value.target if value.target is None else watched(value.target)
            return replace(value, source=watched(value.source), target=target)
        same = {field.name: getattr(value, field.name) for field in fields(Cells)} if isinstance(value, Cells) else None
        return value if same is None else Watched(**same)

    def fit(self: Any, **roles: Any) -> Any:
        watch.model = self
        return true_fit(self, **{role: watched(cells) for role, cells in roles.items()})

    def watched_backward(*args: Any, **kwargs: Any) -> Any:
        watch.event()
        return backward(*args, **kwargs)

    with mock.patch.object(cls, "fit", fit), mock.patch.object(torch.Tensor, "backward", watched_backward):
        yield
