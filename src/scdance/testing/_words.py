"""Checks of words: errors, docstrings, knobs and facts."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Iterator
from importlib.metadata import metadata
from typing import TYPE_CHECKING
from unittest import mock

from scdance import tl
from scdance._core import registry
from scdance._core.knobs import RUN_KNOBS, build, knobs, values_of
from scdance._core.method import Method

from ._check import CHECKS, check, refusal
from ._toys import Refusal

if TYPE_CHECKING:
    from scdance._core.task import Task

    from ._trial import Trial

# What `needs` and `uses` may name → the argument of a tool by which it is found, where the tool has one.
INPUTS = {
    "counts": "layer",
    "lognorm": "layer",
    "batch": "batch_key",
    "rep": "use_rep",
    "graph": "neighbors_key",
    "coords": "spatial_key",
    "slice": "library_key",
    "image": "image_key",
    "labels": "labels_key",
    "pairs": "must_link",
    "prior": "prior",
    "perturbation": "perturbation_key",
    "ref.labels": "labels_key",
    "ref.unlabelled": "labels_key",
}
ONLY_WHEN_NAMED = (
    "batch",
    "rep",
    "graph",
    "labels",
    "pairs",
    "prior",
    "perturbation",
    "slice",
)  # read if, and only if, the argument is given
SECTIONS = ("When to use", "When not", "Differs from the paper")


class _Reached(Exception):
    """The fit began, though the call should have been refused."""


@contextlib.contextmanager
def _no_fit(cls: type[Method]) -> Iterator[None]:
    with mock.patch.object(cls, "fit", side_effect=_Reached("the fit began")):
        yield


@check
def names_unknown_parameters(trial: Trial) -> Iterator[str]:
    """A misspelt parameter is a TypeError that names it and the nearest there is."""
    names = [name for name in knobs(trial.cls) if name not in RUN_KNOBS]
    with _no_fit(trial.cls):
        for name in names:
            typo = name + name[-1]
            found = refusal(lambda typo=typo: trial.call(trial.toys.old, trial.cls, **{typo: 1}))  # type: ignore[misc]
            if not isinstance(found, TypeError) or typo not in str(found) or f"mean {name!r}" not in str(found):
                yield f"{typo}=1 must raise a TypeError that names {typo!r} and asks for {name!r}; got {found!r}"
        found = refusal(lambda: trial.call(trial.toys.old, trial.cls, no_such_parameter=1))
        if not isinstance(found, TypeError) or "no_such_parameter" not in str(found):
            yield f"an unknown parameter must raise a TypeError that names it; got {found!r}"


@check
def names_missing_inputs(trial: Trial) -> Iterator[str]:
    """What is in `needs` and not given, or given and not in `uses`, is refused by name before the fit."""
    refusals = [*trial.toys.refusals(), *_misnamed(trial)]
    with _no_fit(trial.cls):
        for how, data, arguments, kind, said in refusals:
            found = refusal(lambda d=data, a=arguments: trial.call(d, trial.cls, **a, **trial.knobs))  # type: ignore[misc]
            if not isinstance(found, kind) or any(word not in str(found) for word in said):
                yield f"{how} it must raise a {kind.__name__} that says {' and '.join(map(repr, said))}; got {found!r}"
        if "lognorm" in trial.cls.needs:
            data, learning = trial.toys.logged
            found = refusal(lambda: trial.call(data, trial.cls, **learning, **trial.knobs))
            if not isinstance(found, _Reached):
                yield f"with log-normalised values, which it needs, it must run; got {found!r}"


def _misnamed(trial: Trial) -> Iterator[Refusal]:
    """Calls without an argument that the method needs, or with one that it would ignore."""
    for word in ONLY_WHEN_NAMED:
        argument = INPUTS[word]
        if word not in _known(trial.task):
            continue
        if word in trial.cls.needs:
            yield Refusal(f"without {argument}=", trial.toys.old, {argument: None}, ValueError, (f"{argument}=",))
        elif word not in trial.cls.uses:
            yield Refusal(f"with {argument}=", trial.toys.old, {argument: "batch"}, ValueError, (f"{argument}=",))


def _known(task: Task) -> list[str]:
    """What methods of a task may need and use: that which its tool has an argument for."""
    there = inspect.signature(getattr(tl, task.name)).parameters
    # all of them come by the same argument
    elsewhere = ("labels",) if "ref" in task.roles else ("ref.labels", "ref.unlabelled")
    return [word for word, argument in INPUTS.items() if argument in there and word not in elsewhere]


@check
def documents_its_knobs(trial: Trial) -> Iterator[str]:
    """Each knob has its text under Parameters."""
    if silent := [name for name, knob in knobs(trial.cls).items() if not knob.text]:
        yield f"the docstring says nothing of {', '.join(silent)}"


@check
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
    found = re.search(rf"^{title}\n-+\n(.*?)(?=^\S[^\n]*\n-+$|\Z)", inspect.cleandoc(doc or ""), flags=re.M | re.S)
    return found.group(1).strip() if found else ""


@check
def constructs(trial: Trial) -> Iterator[str]:
    """The defaults and every preset make a method, and each default fits its annotation."""
    cls = trial.cls
    made = refusal(lambda: build(cls, values_of(cls())))
    if made is not None:
        yield f"its own defaults are refused: {made}"
    for preset, values in cls.presets.items():
        if (made := refusal(lambda values=values: build(cls, values))) is not None:  # type: ignore[misc]
            yield f"preset {preset!r} is refused: {made}"


@check
def states_known_facts(trial: Trial) -> Iterator[str]:
    """`needs`, `uses`, `keeps`, `extras` and `exempt` name what exists, no fact became a knob and no knob a fact."""
    cls = trial.cls
    known = _known(trial.task)
    if strange := [word for word in (*cls.needs, *cls.uses) if word not in known]:
        yield f"`needs` and `uses` name {', '.join(strange)}; {trial.task.name!r} knows {', '.join(known)}"
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
    for base in cls.__mro__:
        said = {*vars(base).get("__annotations__", {}), *vars(Method)}
        above = {knob for other in base.__mro__[1:] if issubclass(other, Method) for knob in knobs(other)}
        if strange := sorted(above & {*vars(base)} - said):
            yield f"{', '.join(strange)} of {base.__name__} is a knob of its base; annotate it, or it is not heard"
