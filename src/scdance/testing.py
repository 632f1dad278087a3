"""Common checks of a method, also for methods of other packages: :func:`check_method`.

Each check is a function that is given a :class:`Trial` and yields one sentence per problem. The fits that the
checks look at are made once, on first use, and shared.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import re
import sys
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from importlib.metadata import metadata
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import scipy.sparse as sp
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from . import tl
from ._core import registry
from ._core.cells import Cells
from ._core.knobs import RUN_KNOBS, build, knobs, values_of
from ._core.method import Method, read_saved
from ._core.task import TASKS
from ._core.write import record_of, slots_of
from .datasets import toy_clusters

if TYPE_CHECKING:
    from anndata import AnnData

    from ._core.task import Task

N_OBS, N_NEW, N_VARS, N_CLUSTERS = 97, 23, 60, 3  # 97 is prime: no net and no gene table has it as a dimension
EPOCHS = 3  # of every training stage, unless the caller's knobs say otherwise
MEMORY_CELLS, MEMORY_GENES = 1200, 200  # more cells than the 1,024 of the largest block that methods densify
GROWTH = 2.3  # of the memory when the cells double
ORDER, ONE = 1e-5, 1e-4  # how far numbers may move with the order of the cells; with one cell against a batch

# What `needs` and `uses` may name → the argument of the tools that gives it, if there is one.
INPUTS = {"counts": None, "lognorm": None, "batch": "batch_key", "rep": "use_rep", "graph": "neighbors_key"}
SECTIONS = ("When to use", "When not", "Differs from the paper")
RECORD = ["method", "params", "preset", "random_state", "version", "input", "history", "seconds", "notes"]

Check = Callable[["Trial"], Iterator[str]]
CHECKS: dict[str, Check] = {}
"""The checks by name, in the order in which they run."""


class CheckFailed(AssertionError):
    """A method breaks the contract.

    Attributes
    ----------
    problems
        Sentences by the name of the check.
    """

    def __init__(self, owner: str, problems: dict[str, list[str]]):
        self.problems = problems
        lines = [f"{owner} fails {len(problems)} of the common checks"]
        lines += [f"  {check}: {problem}" for check, found in problems.items() for problem in found]
        super().__init__("\n".join(lines))


def check_method(
    method: str | type[Method],
    task: str | None = None,
    *,
    knobs: dict[str, Any] | None = None,
    checks: Iterable[str] | None = None,
    device: str = "cpu",
) -> None:
    """Hold a method to the contract of scdance: results, randomness, saving, memory, words.

    Fits at most three times on 97 toy cells (a fourth time if the method calls itself `order_free`) and twice
    on 1,200 and 2,400 cells for the memory. A check that a method cannot pass is declared on its class as
    ``exempt = {"name of the check": "reason"}``; an exempt check that passes is a failure too.

    Parameters
    ----------
    method
        A method of scdance by name, or a class of your own.
    task
        Name of the task; None: the one that the class names, or that has a method of this name.
    knobs
        Parameters that make the method quick on toy data. Training stages run three epochs (one for the memory)
        unless set here.
    checks
        Names of the checks to run, out of ``CHECKS``; None: all.
    device
        Where nets run. Elsewhere than on the CPU equal runs may differ by 1e-4.

    Raises
    ------
    CheckFailed
        At least one check fails; the message has a line for each problem.
    ValueError
        There is no such method, task or check.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance._core.method import Method
    >>> from scdance.testing import check_method
    >>> class Deep(Method):
    ...     '''Cut the cells in two by their depth.
    ...
    ...     When to use
    ...     -----------
    ...     To see whether clusters are depth.
    ...
    ...     When not
    ...     --------
    ...     To find cell types.
    ...
    ...     Differs from the paper
    ...     ----------------------
    ...     There is none.
    ...
    ...     Parameters
    ...     ----------
    ...     share
    ...         Part of the cells that goes into the larger half.
    ...     '''
    ...
    ...     share: float = 0.6
    ...
    ...     def fit(self, *, cells):
    ...         self.cut_ = float(np.quantile(cells.depth, self.share))
    ...         return self
    ...
    ...     def predict(self, *, cells):
    ...         return {"labels": cells.depth > self.cut_}
    >>> check_method(Deep, "cluster")
    """
    chosen = list(CHECKS if checks is None else checks)
    if unknown := [name for name in chosen if name not in CHECKS]:
        msg = f"There is no check {unknown[0]!r}; there are {', '.join(CHECKS)}."
        raise ValueError(msg)
    trial = Trial(method, task, knobs=knobs, device=device)
    found = {name: trial.problems(name) for name in chosen}
    # a run that fails has been told by the check "runs"; what could not be looked at for it is no news
    found = {name: said for name, said in found.items() if said and said != [_NoRun.text]}
    if found:
        raise CheckFailed(trial.cls.__name__, found) from next(iter(trial.errors), None)


class _NoRun(Exception):
    """The fit that a check wants to look at failed."""

    text = "there is no result to look at, because the fit failed; see the check 'runs'"


# ---------------------------------------------------------------------- the runs that checks share


@dataclass
class _Run:
    """One call of the tool that fitted the method.

    Attributes
    ----------
    before, after
        The object before and after the call.
    returned, error
        What the call returned or raised.
    changed
        Global states that it left changed.
    model
        The fitted method.
    events
        How often the fit reached for its cells or went backward.
    """

    before: AnnData
    after: AnnData
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
        self.key = method.name or method.__name__.lower()
        self.device = device
        self.given = dict(knobs or {})
        self.errors: list[Exception] = []  # what the method raised where it should not, for the traceback

    # -------------------------------------------------------------- checks

    def problems(self, check: str) -> list[str]:
        """Sentences of one check, none if it passes; declared exemptions are taken into account."""
        function = CHECKS[check]
        try:
            with _put_back():
                found = list(function(self))
        except _NoRun:
            return [_NoRun.text]
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

    # -------------------------------------------------------------- data

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
        return small | ({"n_clusters": N_CLUSTERS} if "n_clusters" in there else {}) | self.given

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """Arguments of the tool that name what the method reads beside the expression."""
        return {"batch_key": "batch"} if "batch" in (*self.cls.needs, *self.cls.uses) else {}

    @cached_property
    def _both(self) -> AnnData:
        return _toy(N_OBS + N_NEW, N_VARS)

    @property
    def old(self) -> AnnData:
        """The cells to fit on, as a new object."""
        return self._both[:N_OBS].copy()

    @property
    def new(self) -> AnnData:
        """More cells of the same kinds, as a new object."""
        return self._both[N_OBS:].copy()

    @property
    def relabelled(self) -> AnnData:
        """The cells to fit on, with all that the method has no right to see permuted or deleted."""
        adata = self.old
        order = np.random.default_rng(1).permutation(adata.n_obs)
        adata.obs["cell_type"] = adata.obs["cell_type"].to_numpy()[order]
        del adata.obs["truth"], adata.obsm["X_other"], adata.layers["other"], adata.uns["other"], adata.varm["lfc"]
        adata.raw = None
        if not self.inputs:
            del adata.obs["batch"]
        return adata

    # -------------------------------------------------------------- runs

    def call(self, adata: AnnData, method: Any, **arguments: Any) -> Any:
        """Call the tool of the task."""
        tool = getattr(tl, self.task.name)
        return tool(adata, method=method, **{"device": self.device, "progress": False, **self.inputs, **arguments})

    def fit(self, adata: AnnData, *, stop_at: int | None = None) -> _Run:
        """Call the tool with the class; with `stop_at`, press Ctrl-C at this event."""
        before, watch = adata.copy(), _Watch(stop_at)
        returned = error = None
        with _put_back(), _watching(self.cls, watch):
            states = _global_states()
            try:
                returned = self.call(adata, self.cls, **self.knobs)
            except Exception as found:  # noqa: BLE001, the checks tell it
                error = found
            except KeyboardInterrupt as found:
                if not watch.pressed:
                    raise  # the user's own
                error = found
            now = _global_states()
            changed = [name for name, value in states.items() if now.get(name) != value]
        return _Run(before, adata, returned, error, changed, watch.model, watch.events)

    @cached_property
    def first(self) -> _Run:
        """The fit that most checks look at."""
        return self.fit(self.old)

    @property
    def shared(self) -> _Run:
        """The same, or an error where it failed."""
        if self.first.error is not None:
            raise _NoRun
        return self.first

    @cached_property
    def repeat(self) -> _Run:
        """A second fit with equal seed, other global random states and other labels."""
        with _put_back():
            random.random(), np.random.random(), torch.rand(1)  # noqa: NPY002, moves the states on
            return self.fit(self.relabelled)

    @cached_property
    def interrupted(self) -> _Run:
        """A fit in whose middle Ctrl-C is pressed."""
        return self.fit(self.old, stop_at=max(1, self.shared.events // 2))

    @cached_property
    def model(self) -> Method:
        """The method that the shared run fitted."""
        if self.shared.model is None:
            raise _NoRun
        return self.shared.model

    def predict(self, adata: AnnData, model: Any = None) -> dict[str, Any]:
        """Results of a fitted method (default: that of the shared run) for other cells."""
        adata = adata.copy()
        self.call(adata, model or self.model)
        return self.results(adata)

    @cached_property
    def on_new(self) -> dict[str, Any]:
        """Results for the new cells."""
        return self.predict(self.new)

    def results(self, adata: AnnData) -> dict[str, Any]:
        """The parts of the result that stand in the object."""
        slots = slots_of(self.task, self.key).items()
        return {part: getattr(adata, where)[name] for part, (where, name) in slots if name in getattr(adata, where)}

    @property
    def exactly(self) -> float:
        """How far equal runs may differ: not at all on the CPU."""
        return 0.0 if self.device == "cpu" else 1e-4


def _toy(n_obs: int, n_vars: int, **numbers: Any) -> AnnData:
    """Counts with planted clusters in two batches, among slots of other people."""
    adata = toy_clusters(n_obs, n_vars, k=N_CLUSTERS, n_de=n_vars // 4, batches=2, **numbers)
    # float32 is what methods compute in, so nothing is copied on the way and a careless write reaches the user
    adata.X = adata.X.astype(np.float32)
    adata.raw = adata
    adata.obs["truth"] = adata.obs["cell_type"]
    adata.obsm["X_other"] = np.asarray(adata.X[:, :2].todense())
    adata.layers["other"] = adata.X * 2
    adata.uns["other"] = {"numbers": np.arange(3)}
    adata.uns["scdance"] = {name: {"earlier": {"method": "theirs"}} for name in TASKS}
    return adata


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


@contextlib.contextmanager
def _put_back() -> Iterator[None]:
    """Work in an empty folder, and undo what a broken method leaves behind, so that the next run shows it again."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        for each in (
            contextlib.chdir(folder),
            Method().session(),
            torch.random.fork_rng(devices=[]),
            torch.set_grad_enabled(torch.is_grad_enabled()),
            np.errstate(),
            warnings.catch_warnings(),
            mock.patch.dict(os.environ),
        ):
            stack.enter_context(each)
        yield


def _global_states() -> dict[str, Any]:
    """What a call has to leave as it was, by name, in values that can be compared by ``==``."""
    from threadpoolctl import threadpool_info

    legacy = np.random.get_state(legacy=False)  # noqa: NPY002, only read
    found: dict[str, Any] = {
        "state of random": random.getstate(),
        "state of numpy.random": legacy["state"]["key"].tobytes() + bytes(str(legacy["state"]["pos"]), "ascii"),
        "state of torch.random": torch.get_rng_state().numpy().tobytes(),
        "threads of torch": torch.get_num_threads(),
        "gradients of torch": torch.is_grad_enabled(),
        "default type of torch": torch.get_default_dtype(),
        "deterministic algorithms of torch": torch.are_deterministic_algorithms_enabled(),
        "errors of numpy": np.geterr(),
        "warning filters": list(warnings.filters),
        "working directory": str(Path.cwd()),
        "files in the working directory": [(str(p), p.stat().st_mtime_ns) for p in sorted(Path().rglob("*"))],
        "environment variables": dict(os.environ),
        "loggers": [(x.level, x.disabled, list(x.handlers)) for x in map(logging.getLogger, (None, "scdance"))],
    }
    found |= {f"threads of {library['filepath']}": library["num_threads"] for library in threadpool_info()}
    if "matplotlib" in sys.modules:
        found["rcParams"] = dict(dict.items(sys.modules["matplotlib"].rcParams))  # reading one by one may warn
    return found


# ---------------------------------------------------------------------- comparing


def _parts(adata: AnnData) -> dict[str, Any]:
    """Everything in an object, flat: "X", "obs/cell_type", "uns/scdance/cluster/…"."""
    found = {"obs_names": adata.obs_names, "var_names": adata.var_names, "X": adata.X}
    if adata.raw is not None:
        found["raw/X"] = adata.raw.X
    for where in ("obs", "var", "layers", "obsm", "varm", "obsp", "varp", "uns"):
        found |= _flat(where, dict(getattr(adata, where)))
    return found


def _flat(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    return {k: v for key, inner in value.items() for k, v in _flat(f"{name}/{key}", inner).items()}


def _same(a: Any, b: Any, tolerance: float = 0.0) -> bool:
    """Whether two values of an object are equal in kind, type, shape and numbers."""
    import pandas as pd

    if sp.issparse(a) or sp.issparse(b):
        if not (sp.issparse(a) and sp.issparse(b)) or (a.format, a.shape) != (b.format, b.shape):
            return False
        return all(_same(getattr(a, name), getattr(b, name), tolerance) for name in ("data", "indices", "indptr"))
    if isinstance(a, pd.DataFrame) or isinstance(b, pd.DataFrame):
        if not (isinstance(a, pd.DataFrame) and isinstance(b, pd.DataFrame)):
            return False
        both = ((a.index, b.index), (a.columns, b.columns), (a.to_numpy(), b.to_numpy()))
        return all(_same(one, other, tolerance) for one, other in both)
    if isinstance(a, pd.Series) and isinstance(b, pd.Series) and isinstance(a.dtype, pd.CategoricalDtype):
        return a.dtype == b.dtype and a.cat.codes.equals(b.cat.codes)
    a, b = (value.astype(str) if value.dtype.kind in "OUT" else value for value in map(np.asarray, (a, b)))
    if a.shape != b.shape or (a.dtype != b.dtype and a.dtype.kind != "U"):
        return False
    if a.dtype.kind == "f":
        return bool(np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True))
    return bool(np.array_equal(a, b))


def _unlike(a: dict[str, Any], b: dict[str, Any], tolerance: float = 0.0) -> list[str]:
    """Names whose values differ or that one of the two lacks."""
    return [name for name in {**a, **b} if name not in a or name not in b or not _same(a[name], b[name], tolerance)]


def _taken(result: dict[str, Any], rows: Any) -> dict[str, Any]:
    """The same result for some of the cells."""
    return {part: value.iloc[rows] if hasattr(value, "iloc") else value[rows] for part, value in result.items()}


def _bare(result: dict[str, Any]) -> dict[str, Any]:
    """Results without the names of the cells."""
    return {part: v.reset_index(drop=True) if hasattr(v, "reset_index") else v for part, v in result.items()}


# ---------------------------------------------------------------------- checks: results


def _check(function: Check) -> Check:
    """Register a check under its own name."""
    CHECKS[function.__name__] = function
    return function


@_check
def runs(trial: Trial) -> Iterator[str]:
    """The tool fits and predicts without an error, and the result fits the task."""
    if trial.first.error is not None:
        raise trial.first.error
    yield from ()


@_check
def writes_what_the_task_gives(trial: Trial) -> Iterator[str]:
    """All required slots and the record are there, and nothing else has come, gone or changed."""
    run = trial.shared
    missing = [part for part in trial.task.gives if part not in {*trial.results(run.after), *trial.task.optional}]
    if missing:
        yield f"the object lacks {', '.join(missing)}"
    record = record_of(run.after, trial.task, trial.key)
    if lacking := [name for name in RECORD if name not in record]:
        yield f"the run record lacks {', '.join(lacking)}"
    own = {f"{where}/{name}" for where, name in slots_of(trial.task, trial.key).values()}
    ours = f"uns/scdance/{trial.task.name}/{trial.key}/"
    touched = [name for name in _unlike(_parts(run.before), _parts(run.after)) if not _is_matrix(name)]
    if touched := [name for name in touched if name not in own and not name.startswith(ours)]:
        yield f"the call touched {', '.join(touched)}"


def _is_matrix(name: str) -> bool:
    return name.split("/")[0] in ("X", "raw", "layers")


@_check
def leaves_the_matrices(trial: Trial) -> Iterator[str]:
    """X, raw and the layers hold the same numbers as before."""
    run = trial.shared
    if touched := [name for name in _unlike(_parts(run.before), _parts(run.after)) if _is_matrix(name)]:
        yield f"{', '.join(touched)} changed; copy before you write into what `cells` holds"


@_check
def types_and_shapes(trial: Trial) -> Iterator[str]:
    """Each part has the type, the shape and the index that its kind of slot promises."""
    import pandas as pd

    adata = trial.shared.after
    result = trial.results(adata)
    categories: list[str] = []
    for part, value in result.items():
        kind = trial.task.gives[part].kind
        if len(value) != adata.n_obs:
            yield f"{part!r} has {len(value)} rows for {adata.n_obs} cells"
        if kind == "category":
            if not isinstance(value.dtype, pd.CategoricalDtype):
                yield f"{part!r} is {value.dtype}, expected a category"
                continue
            categories = list(value.cat.categories)
            if _unsupervised(trial.task) and categories != [str(i) for i in range(len(categories))]:
                yield f"the categories of {part!r} are {categories}, expected '0', '1', …"
        elif kind == "frame":
            if not value.index.equals(adata.obs_names) or list(value.columns) != categories:
                yield f"{part!r} is not indexed by the cells with one column per category"
        elif kind == "matrix" and value.ndim != 2:
            yield f"{part!r} has {value.ndim} dimensions, expected 2"
        if kind != "category" and not (np.asarray(value).dtype == np.float32 and np.isfinite(np.asarray(value)).all()):
            yield f"{part!r} is not finite float32"


def _unsupervised(task: Task) -> bool:
    """Whether the labels are groups that the method finds, rather than classes that it is taught."""
    return task.roles == ("cells",) and "labels" in task.gives


@_check
def largest_group_first(trial: Trial) -> Iterator[str]:
    """Groups that a method finds are numbered by their size among the cells it was fitted on."""
    if not _unsupervised(trial.task):
        return
    sizes = trial.results(trial.shared.after)["labels"].value_counts(sort=False).to_numpy()
    if (np.diff(sizes) > 0).any():
        yield f"the groups have {sizes.tolist()} cells in the order of their names; number them by `graph.by_size`"


@_check
def returns_none_or_a_copy(trial: Trial) -> Iterator[str]:
    """The tool returns None; with ``copy=True`` an object with the results, and leaves the user's alone."""
    if trial.shared.returned is not None:
        yield f"the tool returned {type(trial.shared.returned).__name__}"
    adata = trial.old
    before = adata.copy()
    copied = trial.call(adata, trial.model, copy=True)
    if touched := _unlike(_parts(before), _parts(adata)):
        yield f"with copy=True the call touched {', '.join(touched)} of the original"
    if wrong := _unlike(trial.results(trial.shared.after), trial.results(copied), trial.exactly):
        yield f"with copy=True {', '.join(wrong)} came out otherwise"


@_check
def survives_a_file(trial: Trial) -> Iterator[str]:
    """Results and record are equal after they were written to h5ad and read back."""
    import anndata

    adata = trial.shared.after
    with tempfile.TemporaryDirectory() as folder:
        adata.write_h5ad(Path(folder) / "x.h5ad")
        back = anndata.read_h5ad(Path(folder) / "x.h5ad")
    if wrong := _unlike(_parts(adata), _parts(back)):
        yield f"{', '.join(wrong)} are not read back as they were written"


# ---------------------------------------------------------------------- checks: what stays as it was


@_check
def leaves_global_states(trial: Trial) -> Iterator[str]:
    """Random states, threads, filters, loggers, environment, folder and files are as before."""
    if trial.shared and trial.repeat.changed:  # the second fit: imports of the first may set things up
        yield f"the call changed: {', '.join(trial.repeat.changed)}"


@_check
def leaves_global_states_after_an_error(trial: Trial) -> Iterator[str]:
    """The same, when the fit is interrupted."""
    if trial.interrupted.changed:
        yield f"an interrupted fit changed: {', '.join(trial.interrupted.changed)}; put it back in a `finally`"


@_check
def leaves_the_object_when_interrupted(trial: Trial) -> Iterator[str]:
    """Ctrl-C in the middle of the fit reaches the user, and the object is as it was."""
    run = trial.interrupted
    if not isinstance(run.error, KeyboardInterrupt):
        yield "Ctrl-C in the middle of the fit was swallowed; catch no BaseException"
    if touched := _unlike(_parts(run.before), _parts(run.after)):
        yield f"an interrupted fit left {', '.join(touched)} changed"


@_check
def repeats_without_labels(trial: Trial) -> Iterator[str]:
    """An equal seed gives the same bits, though labels, other slots and global random states changed."""
    one, other = trial.shared, trial.repeat
    if other.error is not None:
        yield f"the second fit raised {type(other.error).__name__}: {other.error}"
        return
    wrong = _unlike(trial.results(one.after), trial.results(other.after), trial.exactly)
    records = [_flat("record", record_of(run.after, trial.task, trial.key)) for run in (one, other)]
    wrong += [name for name in _unlike(*records, trial.exactly) if name != "record/seconds"]
    if wrong:
        yield (
            f"{', '.join(wrong)} differ in a second run with the same seed, where what the method may not see was "
            "permuted or deleted: it draws from a generator that is not its own, or it has seen the labels"
        )


# ---------------------------------------------------------------------- checks: fitted methods


@_check
def saves_and_loads(trial: Trial) -> Iterator[str]:
    """A saved and loaded method predicts the same, and takes new cells or says who does."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        trial.model.save(path)
        is_registered = trial.key in registry.names(trial.task.name)
        is_registered = is_registered and registry.get(trial.task.name, trial.key) is trial.cls
        loaded = str(path) if is_registered else trial.cls.load(path)
        again = trial.predict(trial.old, loaded)
        if wrong := _unlike(trial.results(trial.shared.after), again, trial.exactly):
            yield f"{', '.join(wrong)} differ after saving and loading"
        if trial.cls.inductive:
            if wrong := _unlike(trial.on_new, trial.predict(trial.new, loaded), trial.exactly):
                yield f"{', '.join(wrong)} of new cells differ after saving and loading"
            return
        others = [name for name in registry.names(trial.task.name) if registry.get(trial.task.name, name).inductive]
        refusal = _refusal(lambda: trial.predict(trial.new, loaded))
        if not isinstance(refusal, ValueError) or not any(name in str(refusal) for name in others):
            yield f"for new cells it must raise a ValueError that names one of {', '.join(others)}; got {refusal!r}"


@_check
def saves_no_training_data(trial: Trial) -> Iterator[str]:
    """A saved folder is json and safetensors, without numbers per training cell but those in `keeps`."""
    state = trial.model.state
    if absent := [name for name in trial.cls.keeps if name not in state]:
        yield f"`keeps` names {', '.join(absent)}, which the fitted method does not have"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        trial.model.save(path)
        if strange := [file.name for file in path.rglob("*") if file.suffix not in (".json", ".safetensors")]:
            yield f"it saves {', '.join(strange)}; only json and safetensors are allowed"
        card, arrays = read_saved(path)
    kept = [f"state/{name}" for name in trial.cls.keeps]
    for name, array in arrays.items():
        is_kept = any(name == each or name.startswith(f"{each}/") for each in kept)
        if not is_kept and any(size and size % N_OBS == 0 for size in array.shape):
            yield f"it saves {name}, shape {array.shape}, for {N_OBS} training cells; name it in `keeps` if it must"
    for name, value in card["state"].items():
        if name not in trial.cls.keeps and _is_per_cell(value):
            yield f"it saves a list per training cell in {name}"


def _is_per_cell(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_is_per_cell(inner) for inner in value.values())
    return isinstance(value, list) and (len(value) == N_OBS or any(_is_per_cell(inner) for inner in value))


@_check
def follows_the_order_of_cells(trial: Trial) -> Iterator[str]:
    """Permuting the cells permutes the prediction of a fitted inductive method."""
    if not trial.cls.inductive:
        return
    order = np.random.default_rng(2).permutation(N_NEW)
    permuted = trial.predict(trial.new[order])
    if wrong := _unlike(_bare(_taken(trial.on_new, order)), _bare(permuted), ORDER):
        yield f"{', '.join(wrong)} depend on where a cell stands among the others"


@_check
def predicts_a_cell_on_its_own(trial: Trial) -> Iterator[str]:
    """A fitted inductive method says the same of one cell alone as of that cell among others."""
    if not trial.cls.inductive:
        return
    alone = trial.predict(trial.new[:1])
    if wrong := _unlike(_bare(_taken(trial.on_new, slice(1))), _bare(alone), ONE):
        yield f"{', '.join(wrong)} of a cell depend on the cells beside it; learn such numbers in `fit`"


@_check
def ignores_the_order_of_genes(trial: Trial) -> Iterator[str]:
    """Permuting the genes of the query changes nothing for a fitted inductive method."""
    if not trial.cls.inductive:
        return
    order = np.random.default_rng(3).permutation(N_VARS)
    if wrong := _unlike(trial.on_new, trial.predict(trial.new[:, order]), ORDER):
        yield f"{', '.join(wrong)} depend on the order of the genes"


@_check
def is_order_free_if_it_says_so(trial: Trial) -> Iterator[str]:
    """With ``order_free = True``, permuting the cells permutes the result of a whole run."""
    if not trial.cls.order_free:
        return
    order = np.random.default_rng(4).permutation(N_OBS)
    run = trial.fit(trial.old[order].copy())
    if run.error is not None:
        yield f"the fit of permuted cells raised {type(run.error).__name__}: {run.error}"
        return
    one, other = _bare(_taken(trial.results(trial.shared.after), order)), _bare(trial.results(run.after))
    if wrong := _unlike(one, other, ORDER):
        yield f"{', '.join(wrong)} of a whole run depend on the order of the cells"


# ---------------------------------------------------------------------- checks: words


def _refusal(call: Callable[[], Any]) -> Exception | None:
    """What a call raises."""
    try:
        call()
    except Exception as error:  # noqa: BLE001, the caller looks at it
        return error
    return None


class _Reached(Exception):
    """The fit began, though the call should have been refused."""


@contextlib.contextmanager
def _no_fit(cls: type[Method]) -> Iterator[None]:
    with mock.patch.object(cls, "fit", side_effect=_Reached("the fit began")):
        yield


@_check
def names_unknown_parameters(trial: Trial) -> Iterator[str]:
    """A misspelt parameter is a TypeError that names it and the nearest there is."""
    names = [name for name in knobs(trial.cls) if name not in RUN_KNOBS]
    with _no_fit(trial.cls):
        for name in names:
            typo = name + name[-1]
            found = _refusal(lambda typo=typo: trial.call(trial.old, trial.cls, **{typo: 1}))  # type: ignore[misc]
            if not isinstance(found, TypeError) or typo not in str(found) or f"mean {name!r}" not in str(found):
                yield f"{typo}=1 must raise a TypeError that names {typo!r} and asks for {name!r}; got {found!r}"
        found = _refusal(lambda: trial.call(trial.old, trial.cls, no_such_parameter=1))
        if not isinstance(found, TypeError) or "no_such_parameter" not in str(found):
            yield f"an unknown parameter must raise a TypeError that names it; got {found!r}"


@_check
def names_missing_inputs(trial: Trial) -> Iterator[str]:
    """What is in `needs` and not given, or given and not in `uses`, is refused by name before the fit."""
    no_matrix, logged = trial.old, trial.old
    no_matrix.raw, no_matrix.X = None, None
    no_matrix.layers.clear()
    depth = np.asarray(logged.X.sum(axis=1))
    logged.X = sp.csr_matrix(logged.X.multiply(1e4 / depth)).log1p().astype(np.float32)
    cases: list[tuple[str, AnnData, dict[str, Any], type[Exception], str]] = [
        ("without any matrix", no_matrix, {}, KeyError, "layer=")
    ]
    if "counts" in trial.cls.needs:
        cases.append(("with log-normalised values", logged, {}, ValueError, "counts"))
    for word, argument in INPUTS.items():
        if argument is not None and word in trial.cls.needs:
            cases.append((f"without {argument}=", trial.old, {argument: None}, ValueError, f"{argument}="))
        elif argument is not None and word not in trial.cls.uses:
            cases.append((f"with {argument}=", trial.old, {argument: "batch"}, ValueError, f"{argument}="))
    with _no_fit(trial.cls):
        for how, adata, arguments, kind, word in cases:
            found = _refusal(lambda a=adata, k=arguments: trial.call(a, trial.cls, **k, **trial.knobs))  # type: ignore[misc]
            if not isinstance(found, kind) or word not in str(found):
                yield f"{how} it must raise a {kind.__name__} that says {word!r}; got {found!r}"


@_check
def documents_its_knobs(trial: Trial) -> Iterator[str]:
    """Each knob has its text under Parameters."""
    if silent := [name for name, knob in knobs(trial.cls).items() if not knob.text]:
        yield f"the docstring says nothing of {', '.join(silent)}"


@_check
def says_when_to_use_it(trial: Trial) -> Iterator[str]:
    """The docstring has When to use, When not and Differs from the paper, none empty or another's."""
    others = [registry.get(trial.task.name, name) for name in registry.names(trial.task.name)]
    others = [other for other in {*others, *trial.cls.__mro__} if other is not trial.cls]
    for title in SECTIONS:
        text = _section(trial.cls.__doc__, title)
        if not text:
            yield f"the docstring has no section {title!r}"
        elif text in [_section(other.__doc__, title) for other in others]:
            yield f"the section {title!r} is that of another method"


def _section(doc: str | None, title: str) -> str:
    """Text of one section of a numpydoc docstring, "" if it is not there."""
    found = re.search(rf"^{title}\n-+\n(.*?)(?=^\S[^\n]*\n-+$|\Z)", cleandoc(doc or ""), flags=re.M | re.S)
    return found.group(1).strip() if found else ""


@_check
def constructs(trial: Trial) -> Iterator[str]:
    """The defaults and every preset make a method, and each default fits its annotation."""
    cls = trial.cls
    made = _refusal(lambda: build(cls, values_of(cls())))
    if made is not None:
        yield f"its own defaults are refused: {made}"
    for preset, values in cls.presets.items():
        if (made := _refusal(lambda values=values: build(cls, values))) is not None:  # type: ignore[misc]
            yield f"preset {preset!r} is refused: {made}"


@_check
def states_known_facts(trial: Trial) -> Iterator[str]:
    """`needs`, `uses`, `keeps`, `extras` and `exempt` name things that exist, and no fact became a knob."""
    cls = trial.cls
    if strange := [word for word in (*cls.needs, *cls.uses) if word not in INPUTS]:
        yield f"`needs` and `uses` name {', '.join(strange)}; known are {', '.join(INPUTS)}"
    if strange := [name for name in cls.keeps if not name.endswith("_")]:
        yield f"`keeps` names {', '.join(strange)}; learnt attributes end in '_'"
    there = metadata("scdance").get_all("Provides-Extra") or []
    if strange := [extra for _, extra in cls.extras if extra not in there]:
        yield f"`extras` names {', '.join(strange)}; scdance has {', '.join(there)}"
    if strange := [name for name, reason in cls.exempt.items() if name not in CHECKS or not reason]:
        yield f"`exempt` names {', '.join(strange)}, which is no check or has no reason"
    facts = {name for name in vars(Method) if name[0] != "_"} - {*RUN_KNOBS}
    if strange := [name for name in knobs(cls) if name in facts]:
        yield f"{', '.join(strange)} became a knob because it is annotated; write it bare"


# ---------------------------------------------------------------------- checks: memory


class _WholeMatrix(Exception):
    """All cells were made dense at once."""


@contextlib.contextmanager
def _sparse_only(n_obs: int, n_vars: int) -> Iterator[None]:
    """Refuse to densify a matrix that has all cells on one side and half of the genes on the other."""

    def guarded(toarray: Callable[..., Any]) -> Callable[..., Any]:
        def guard(self: Any, *args: Any, **kwargs: Any) -> Any:
            if max(self.shape) >= n_obs and min(self.shape) >= n_vars // 2:
                raise _WholeMatrix(f"a sparse matrix of shape {self.shape} was made dense; densify per batch")
            return toarray(self, *args, **kwargs)

        return guard

    def no_scale(*args: Any, **kwargs: Any) -> None:
        raise _WholeMatrix("sc.pp.scale makes the matrix dense; use `center_scale` in the recipe")

    kinds = (sp.csr_matrix, sp.csc_matrix, sp.coo_matrix, sp.csr_array, sp.csc_array, sp.coo_array)
    with contextlib.ExitStack() as patches:
        for kind in kinds:
            patches.enter_context(mock.patch.object(kind, "toarray", guarded(kind.toarray)))
        if "scanpy" in sys.modules:
            patches.enter_context(mock.patch.object(sys.modules["scanpy"].pp, "scale", no_scale))
        yield


class _LargestTensor(TorchDispatchMode):
    """Notes the bytes of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else (made,):
            if isinstance(each, torch.Tensor) and each.layout == torch.strided:
                self.bytes = max(self.bytes, each.untyped_storage().nbytes())
        return made


def _peaks(trial: Trial, adata: AnnData) -> dict[str, int]:
    """Bytes of the numpy peak and of the largest torch tensor of one call with an unfitted method."""
    was_tracing = tracemalloc.is_tracing()
    tracemalloc.start()
    tracemalloc.reset_peak()
    start, _ = tracemalloc.get_traced_memory()
    try:
        with _LargestTensor() as largest, _sparse_only(*adata.shape):
            trial.call(adata, trial.cls, **trial.brief)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        if not was_tracing:
            tracemalloc.stop()
    return {"the peak of numpy": peak - start, "the largest tensor of torch": largest.bytes}


@_check
def memory_grows_with_the_cells(trial: Trial) -> Iterator[str]:
    """Twice the cells take at most 2.3 times the memory, and never all cells × genes, dense."""
    if trial.shared:
        with _LargestTensor():  # a first call makes the imports, so that they are not counted
            trial.call(trial.old, trial.cls, **trial.brief)
    adata = _toy(2 * MEMORY_CELLS, MEMORY_GENES, depth=300.0)
    try:
        half, whole = _peaks(trial, adata[:MEMORY_CELLS].copy()), _peaks(trial, adata)
    except _WholeMatrix as error:
        yield str(error)
        return
    for what, size in half.items():
        if size and whole[what] > GROWTH * size:
            yield (
                f"{what} grows from {size / 1e6:.2f} to {whole[what] / 1e6:.2f} MB when the cells double: that is "
                f"{whole[what] / size:.1f} times, at most {GROWTH} is allowed"
            )


__all__ = ["CHECKS", "CheckFailed", "Trial", "check_method", *CHECKS]


def __dir__() -> list[str]:
    return __all__
