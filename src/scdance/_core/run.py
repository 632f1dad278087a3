"""Make a method from a name and parameters, and solve a task with it."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np

from scdance import _checks
from scdance._checks import InputError, ScdanceError, WrongTypeError, listed, nearest
from scdance._settings import logger, settings
from scdance.pp import canonical, mean_and_sd

from . import registry
from .cells import Cells, Pair
from .knobs import build, values_of
from .method import Method, Runtime, read_saved
from .task import BY_GENE, FRAMES, TASKS, Slot, Task

_LOOKER: ContextVar[Any] = ContextVar("looker", default=None)
# knobs that a tool spells out in its signature, None by default
TOOL_KEYWORDS = ("n_clusters", "output", "policy", "genes")


def make(
    task: str,
    method: Any,
    params: dict[str, Any],
    *,
    preset: str | None = None,
    random_state: Any = 0,
    device: str = "auto",
) -> Method:
    """Return the method that a call names: by name, class, instance, or folder of a saved one.

    Precedence: `params` as typed > `preset` > default. None for a keyword of the tool means that it was not typed.
    """
    registry.task_of(task)
    params = {name: value for name, value in params.items() if value is not None or name not in TOOL_KEYWORDS}
    if isinstance(method, str | Path) and Path(method).is_dir() and str(method) not in registry.names(task):
        method = load(method)
    if isinstance(method, Method):
        return _given(task, method, params, preset, random_state, device)
    if isinstance(method, type) and issubclass(method, Method):
        cls = method
        cls.task, cls.name = cls.task or task, cls.name or cls.__name__.lower()
    elif isinstance(method, str):
        cls = registry.get(task, method)
    else:
        msg = (
            f"method must be a name ({listed(registry.names(task))}), a Method or the folder of a saved one, "
            f"not {method!r}."
        )
        raise WrongTypeError(msg)
    if cls.task != task:
        msg = f"{cls.__name__} is a method of {cls.task!r}, not of {task!r}."
        raise InputError(msg)
    for name, extra in cls.extras:
        _checks.package(name, extra=extra, why=f"{cls.name}")
    if preset is not None and preset not in cls.presets:
        msg = f"{cls.name} has no preset {preset!r}; it has {listed(cls.presets)}.{nearest(preset, cls.presets)}"
        raise InputError(msg)
    chosen = {**cls.presets.get(preset or "", {}), **params}
    model: Method = build(cls, {**chosen, "random_state": seed_of(random_state), "device": device})
    model.check()
    return model


def _given(
    task: str, method: Method, params: dict[str, Any], preset: str | None, random_state: Any, device: str
) -> Method:
    """A copy of the user's instance; it carries its own parameters, but runs where this call says."""
    seeded = not isinstance(random_state, int) or random_state != 0
    asked = {name: value for name, value in params.items() if name in method.asks}
    others = [name for name in params if name not in asked]
    typed = [*others, *(["preset"] if preset is not None else []), *(["random_state"] if seeded else [])]
    if typed:
        kind = "fitted" if method.is_fitted else "made"
        msg = (
            f"The {type(method).__name__} is {kind} already, so {listed(typed)} cannot be set in this call; "
            "leave it out or pass a name as `method=`."
        )
        raise _checks.UnknownParameterError(msg)
    if not method.task:
        type(method).task, type(method).name = task, method.name or type(method).__name__.lower()
    if method.task != task:
        msg = f"{type(method).__name__} is a method of {method.task!r}, not of {task!r}."
        raise InputError(msg)
    # the constructor only stores, so what it was given is looked at here
    own = {"random_state": method.random_state, "device": method.device}
    made = build(type(method), {**values_of(method), **own, **asked})
    made.check()
    new = copy.copy(method)
    for name in asked:
        setattr(new, name, getattr(made, name))
    if device != "auto":
        new.device = device
    return new


def seed_of(random_state: Any) -> int:
    """An integer seed from an int, a numpy Generator (a child is spawned) or None (fresh entropy)."""
    if isinstance(random_state, np.random.Generator):
        random_state = random_state.spawn(1)[0].integers(2**31)
    elif random_state is None:
        random_state = np.random.default_rng().integers(2**31)
    whole = isinstance(random_state, int | np.integer) and not isinstance(random_state, bool)
    if not whole or not 0 <= random_state < 2**32:
        msg = (
            "random_state must be a whole number from 0 to 2**32 − 1, a numpy Generator or None, "
            f"but is {random_state!r}."
        )
        raise InputError(msg)
    return int(random_state)


def load(path: str | Path) -> Method:
    """Read a saved method of any task; see :func:`scdance.load`."""
    card, _ = read_saved(path)
    task, name = card["task"], card["name"]
    if task not in TASKS or name not in registry.names(task):
        msg = (
            f"{path} holds {name!r} of task {task!r}, which is not in scdance; "
            f"load it with its own class: `YourMethod.load({str(path)!r})`."
        )
        raise InputError(msg)
    return registry.get(task, name).load(path)


@contextmanager
def watched(looker: Callable[[str, int, Callable[[], dict[str, Any]], np.ndarray], None]) -> Iterator[None]:
    """Let `looker(stage, epoch, look, rows)` see what the calls inside would predict after each epoch.

    ``look()`` returns the present result for the cells at the positions `rows` of the object; it cannot steer.
    """
    token = _LOOKER.set(looker)
    try:
        yield
    finally:
        _LOOKER.reset(token)


@contextmanager
def running(model: Method, roles: dict[str, Any], *, progress: bool | None, checkpoint: Any) -> Iterator[None]:
    """Let a method fit and predict inside: with how to report and where to keep checkpoints, and seeded."""
    if checkpoint is not None and Path(checkpoint).exists() and not Path(checkpoint).is_dir():
        msg = f"checkpoint={str(checkpoint)!r} is a file; pass a folder, which is made if need be."
        raise InputError(msg)
    model.runtime = Runtime(
        progress=settings.progress if progress is None else progress,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        fingerprint=_fingerprint(model, roles),
    )
    try:
        with model.session():
            yield
    finally:
        del model.runtime


def solve(
    model: Method,
    *,
    progress: bool | None = None,
    checkpoint: Any = None,
    **roles: Any,
) -> tuple[dict[str, Any], float]:
    """Fit where that is due, predict, and check the result: (result, seconds).

    Where only the reference is given, or a screen of which nothing is asked, the result is empty.
    """
    task = TASKS[model.task]
    cells: Any = roles.get(task.roles[-1])
    if cells is not None:
        model.check_cells(cells)
    if model.is_fitted and not model.inductive and getattr(model, "fitted_on_", "") != _who(cells):
        others = [name for name in registry.names(task.name) if registry.get(task.name, name).inductive]
        instead = f"Methods that can label new cells: {listed(others)}."
        if not others:
            instead = f"No method of {task.name!r} labels new cells: run it on all of them, `method={model.name!r}`."
        msg = f"{type(model).__name__} can answer only for the cells it was fitted on. {instead}"
        raise InputError(msg)
    start = time.perf_counter()
    with running(model, roles, progress=progress, checkpoint=checkpoint):
        looker = _LOOKER.get()
        if looker is not None:
            model.runtime.on_epoch = lambda stage, epoch, look: looker(stage, epoch, look, cells.rows)
        if not model.is_fitted:
            logger.info("%s: fitting", model.name)
            learn(model, roles)
        result = model.predict(**{task.roles[-1]: cells}) if is_asked(cells) else {}
        if cells is not None and "measured" in task.gives:
            result["measured"] = cells.measured
    result = check_result(task, result, receiving(task, cells)) if is_asked(cells) else {}
    if not hasattr(model, "categories_"):
        model.categories_ = _numbers(result)
        if getattr(model, "n_clusters", 0) is None:
            logger.info("%s: %d clusters, estimated", model.name, len(model.categories_))
    seconds = time.perf_counter() - start
    logger.info("%s: finished in %.1f s", model.name, seconds)
    return result, seconds


def is_asked(cells: Any) -> bool:
    """Whether there is anything to predict."""
    screen = getattr(cells, "screen", None)
    return cells is not None and (screen is None or bool(screen.targets))


def receiving(task: Task, cells: Cells | Pair) -> Cells | Pair:
    """The cells that a result is about: those of the source where it goes there."""
    return cells.source if isinstance(cells, Pair) and task.on == "mdata[source]" else cells


def learn(model: Method, roles: dict[str, Any]) -> None:
    """Fit to the roles that the method wants, and keep what its predictions need of them."""
    wanted = model.fit_on or TASKS[model.task].roles
    model.fit(**{role: roles[role] for role in wanted})
    cells = roles[wanted[-1]]
    if isinstance(cells, Pair):
        model.preps_ = {name: each.prep for name, each in _sets({"pair": cells}).items()}
        model.modalities_ = [each.extra["input"]["modality"] for each in _sets({"pair": cells}).values()]
    else:
        model.preps_ = {"cells": cells.prep}
        if cells.rep is not None:
            model.n_dims_ = cells.rep.shape[1]
        if cells.batch_names is not None:
            model.batches_ = cells.batch_names
        if cells.screen is not None:
            model.taught_ = cells.screen.names[1:]
    if "ref" in roles:
        model.categories_ = roles["ref"].categories or []
        if roles["ref"].target is not None:
            _learn_target(model, roles["ref"])
    if not model.inductive:
        model.fitted_on_ = _who(cells)


def _learn_target(model: Method, ref: Cells) -> None:
    """Keep which genes are answered, and by which ones the cells are compared."""
    target: Any = ref.target
    model.preps_["target"] = target.prep
    model.features_ = {"mean": mean_and_sd(target.x)[0].astype(np.float32), **ref.extra["panel"]}


def _who(cells: Cells | Pair) -> str:
    return hashlib.sha256("\n".join(cells.obs_names.tolist()).encode()).hexdigest()


def _sets(roles: dict[str, Any]) -> dict[str, Cells]:
    """Every set of cells of a call by its name, those of a pair by that of the modality's role."""
    sets: dict[str, Cells] = {}
    for role, cells in roles.items():
        if isinstance(cells, Pair):
            sets |= {"source": cells.source} | ({} if cells.target is None else {"target": cells.target})
        else:
            sets[role] = cells
    return sets


def _fingerprint(model: Method, roles: dict[str, Any]) -> str:
    """Tells two calls apart: method, knobs, seed, and the data as the method sees them."""
    from scdance import __version__

    told = hashlib.sha256(repr((model.task, model.name, __version__, model.random_state, values_of(model))).encode())
    for name, cells in _sets(roles).items():
        prep, learnt = cells.prep.to_json()
        told.update(repr((name, prep)).encode())
        graph = () if cells.graph is None else (cells.graph.data, cells.graph.indices, cells.graph.indptr)
        pairs = cells.extra.get("pairs", ())
        screen = () if cells.screen is None else (cells.screen.codes, np.array(cells.screen.names))
        own = (cells.depth, cells.rep, cells.batch, cells.labels, cells.coords, cells.slice)
        target = () if cells.target is None else (cells.target.var_names,)
        parts = (*own, *pairs, *screen, *target, *graph, *learnt.values())
        for part in parts:
            told.update(b"" if part is None else part.tobytes())
    return told.hexdigest()


def _numbers(result: dict[str, Any]) -> list[str]:
    """Names of the groups that a method has found, if it looks for any: "0", "1", …"""
    groups = next((result[part] for part in ("labels", "clusters") if part in result), None)
    if groups is None:
        return []
    n = result["proba"].shape[1] if "proba" in result else int(groups.max()) + 1
    return [str(i) for i in range(n)]


def check_result(task: Task, result: dict[str, Any], cells: Cells | Pair) -> dict[str, Any]:
    """Hold a method to what its task gives: parts, shapes, types, ranges. A breach is a bug of the method."""
    problems = [f"{part!r} is missing" for part in task.gives if part not in result and part not in task.optional]
    problems += [f"{part!r} is not a part of {task.name!r}" for part in result if part not in task.gives]
    out: dict[str, Any] = {}
    for part, slot in task.gives.items():
        if part not in result:
            continue
        if slot.kind == "links":
            out[part] = canonical(result[part])
            problems += _wrong_links(part, out[part], cells.n_obs)
            continue
        value = np.asarray(result[part])
        if slot.kind == "text":
            out[part] = value
            if value.shape != (cells.n_obs,) or value.dtype.kind != "U":
                problems.append(f"{part!r} must be one text per cell, but is {value.dtype} of shape {value.shape}")
            continue
        counted = slot.kind in ("category", "sets")
        if counted and value.dtype.kind not in "biu":
            problems.append(f"{part!r} are {value.dtype}, expected whole numbers")
            continue
        value = value.astype(np.int32 if counted else bool if slot.kind == "flags" else np.float32, copy=False)
        out[part] = value
        shape = _shape(slot, result, cells)
        if value.ndim != len(shape) or any(n not in (None, found) for n, found in zip(shape, value.shape, strict=True)):
            problems.append(f"{part!r} has shape {value.shape}, expected {shape}")
            continue
        if slot.kind == "flags":
            continue
        if isinstance(slot.empty, float) and np.isnan(slot.empty):  # cells may be left out: look at the others
            value = value[value >= 0] if slot.kind == "category" else _with_evidence(slot, value)
        if not np.isfinite(value).all():
            problems.append(f"{part!r} has values that are not finite")
        elif value.size and slot.kind == "category" and value.min() < 0:
            problems.append(f"{part!r} has negative codes")
        elif value.size and slot.kind in FRAMES and value.min() < 0:
            problems.append(f"{part!r} has negative values")
        elif value.size and slot.kind == "sets" and not (value.min() >= 0 and value.max() <= 1):
            problems.append(f"{part!r} has other numbers than 0 and 1")
        elif slot.kind == "shares" and not np.allclose(value.sum(axis=1), 1, atol=1e-4):
            problems.append(f"rows of {part!r} do not sum to 1")
        elif value.size and slot.kind == "vector" and not (value.min() >= 0 and value.max() <= 1 + 1e-6):
            problems.append(f"{part!r} leaves [0, 1]")
    if problems:
        msg = f"The method returned a result that its task does not allow: {'; '.join(problems)}."
        raise ScdanceError(msg)
    return out


def _wrong_links(part: str, links: Any, n: int) -> list[str]:
    """What is wrong with a matrix of links, as sentences."""
    if links.shape != (n, n):
        return [f"{part!r} has shape {links.shape}, expected {(n, n)}"]
    sums = np.asarray(links.sum(axis=1)).ravel()
    if not np.isfinite(links.data).all() or links.data.min(initial=0) < 0:
        return [f"{part!r} has values that are negative or not finite"]
    return [] if np.allclose(sums[sums != 0], 1, atol=1e-4) else [f"rows of {part!r} do not sum to 1"]


def _shape(slot: Slot, result: dict[str, Any], cells: Cells | Pair) -> tuple[int | None, ...]:
    """The shape that a part must have; None: any."""
    if slot.kind == "profiles":
        return (cells.n_vars, len(cells.screen.targets))  # type: ignore[union-attr]
    if slot.kind in BY_GENE:
        return (cells.n_vars,)  # type: ignore[union-attr]
    if slot.kind == "expression":
        return (cells.n_obs, int(np.sum(result.get("modelled", np.ones(cells.n_vars)))))  # type: ignore[union-attr]
    return (cells.n_obs, None) if slot.kind in ("matrix", "sets", *FRAMES) else (cells.n_obs,)


def _with_evidence(slot: Slot, value: np.ndarray) -> np.ndarray:
    """The numbers without the cells or genes that were left out, which have NaN only."""
    if slot.kind == "expression":
        return value
    return value[~(np.isnan(value) if value.ndim == 1 else np.isnan(value).all(axis=-1))]


def record(model: Method, *, preset: str | None, seconds: float, **roles: Any) -> dict[str, Any]:
    """The run record of a call, as `uns` keeps it."""
    from scdance import __version__

    told = {name: _told(cells) for name, cells in _sets(roles).items()}
    return {
        "method": model.name,
        "params": values_of(model),
        "preset": preset or "",
        "random_state": model.random_state,
        "version": __version__,
        # that of the cells itself, and beside it that of the reference; those of two modalities side by side
        "input": {**told.pop("cells", {}), **told},
        "history": {name: np.asarray(values, dtype=float) for name, values in getattr(model, "history_", {}).items()},
        "epochs": int(getattr(model, "epochs_", 0)),
        "stopped": str(getattr(model, "stopped_", "")),
        "seconds": seconds,
        "notes": dict(getattr(model, "notes_", {})),
        **({"features": _features(model)} if hasattr(model, "features_") else {}),
        **({"taught": np.array(model.taught_)} if hasattr(model, "taught_") else {}),
    }


def _features(model: Method) -> dict[str, Any]:
    """Names of the features of the target, and what is known of each."""
    prep = model.preps_["target"]
    return {"names": np.asarray(prep.var_names, dtype=str), "unit": prep.text, **model.features_}


def _told(cells: Cells) -> dict[str, Any]:
    return {
        **cells.extra.get("input", {}),
        "recipe": cells.prep.text,
        "n_obs": cells.n_obs,
        "n_vars": cells.n_vars,
    }
