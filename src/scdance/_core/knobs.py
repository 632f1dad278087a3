"""The knobs of a method: names, types, defaults and texts, read from its dataclass fields and docstring."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

from scdance._checks import InputError, UnknownParameterError, listed, nearest

RUN_KNOBS = ("random_state", "device")  # set by every tool's own keywords


@dataclass(frozen=True)
class Knob:
    """One number or word that a user may set.

    Attributes
    ----------
    name
        The flat keyword.
    hint
        Its type annotation.
    default, text
        Default value; sentence from the docstring.
    path
        Field that holds it: ("sigma",) or, for a number of a training stage, ("training", "lr").
    """

    name: str
    hint: Any
    default: Any
    text: str
    path: tuple[str, ...]


def documented(doc: str | None) -> dict[str, str]:
    """Names and texts of the Parameters (or Attributes) section of a numpydoc docstring."""
    found: dict[str, str] = {}
    lines = inspect.cleandoc(doc or "").splitlines()
    names: list[str] = []
    inside = False
    for i, line in enumerate(lines):
        underlined = i + 1 < len(lines) and re.fullmatch(r"-{3,}", lines[i + 1].strip())
        if underlined:
            inside = line.strip() in ("Parameters", "Attributes")
        elif inside and line and not line.startswith((" ", "---")):
            names = [name.strip() for name in line.split(":")[0].split(",")]
            found.update(dict.fromkeys(names, ""))
        elif inside and line.strip() and not line.startswith("---"):
            found.update({name: f"{found[name]} {line.strip()}".strip() for name in names})
    return found


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _prefix(field: str) -> str:
    """Begin the flat names of a stage with this: nothing for training, pretrain_ for pretraining."""
    return "" if field == "training" else field.removesuffix("ing") + "_"


@cache
def knobs(cls: Any) -> dict[str, Knob]:
    """Knobs of a method class by flat name; those of its training stages come prefixed."""
    hints = typing.get_type_hints(cls)
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        texts |= documented(base.__doc__)
    found = {}
    for field in dataclasses.fields(cls):
        default = _default(field)
        if not dataclasses.is_dataclass(default):
            found[field.name] = Knob(field.name, hints[field.name], default, texts.get(field.name, ""), (field.name,))
            continue
        inner, inner_texts = typing.get_type_hints(type(default)), documented(type(default).__doc__)
        stage = f" ({texts[field.name]})" if texts.get(field.name) else ""
        for part in dataclasses.fields(default):
            name = _prefix(field.name) + part.name
            text = inner_texts.get(part.name, "") + stage
            found[name] = Knob(name, inner[part.name], getattr(default, part.name), text, (field.name, part.name))
    return found


def build(cls: type, values: dict[str, Any]) -> Any:
    """Make a method from flat knobs; an unknown or unusable one raises and names what there is."""
    known = knobs(cls)
    nested: dict[str, dict[str, Any]] = {}
    plain: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            names = [n for n in known if n not in RUN_KNOBS]
            msg = f"{cls.__name__} has no parameter {name!r}; it has {listed(names, 60)}.{nearest(name, names)}"
            raise UnknownParameterError(msg)
        knob = known[name]
        value = _fitting(value, knob, cls.__name__)
        if len(knob.path) == 1:
            plain[name] = value
        else:
            nested.setdefault(knob.path[0], {})[knob.path[1]] = value
    stages = {field.name: _default(field) for field in dataclasses.fields(cls)}
    for stage, numbers in nested.items():
        plain[stage] = dataclasses.replace(stages[stage], **numbers)
    return cls(**plain)


def values_of(method: Any) -> dict[str, Any]:
    """The flat knobs of an instance, without seed and device."""
    found = {}
    for name, knob in knobs(type(method)).items():  # type: ignore[arg-type]
        value = method
        for part in knob.path:
            value = getattr(value, part)
        if name not in RUN_KNOBS:
            found[name] = value
    return found


def changed(method: Any) -> set[str]:
    """Names of the knobs of an instance that are not at their default."""
    known = knobs(type(method))  # type: ignore[arg-type]
    return {name for name, value in values_of(method).items() if value != known[name].default}


def _fitting(value: Any, knob: Knob, owner: str) -> Any:
    """`value` in the type of the knob (int → float, list → tuple), or an error that says what fits."""
    import numpy as np

    if isinstance(value, np.generic):
        value = value.item()
    for hint in _options(knob.hint):
        if _fits(value, hint):
            if hint is float:
                return float(value)
            return tuple(value) if get_origin(hint) is tuple else value
    msg = (
        f"{owner}: {knob.name}={value!r}, but it must be {readable(knob.hint)} (default {knob.default!r}). {knob.text}"
    )
    raise InputError(msg)


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    if hint in (None, type(None)):
        return value is None
    origin = get_origin(hint)
    if origin is Literal:
        return value in get_args(hint)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and value == value
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is tuple:
        return isinstance(value, list | tuple) and all(_fits(v, get_args(hint)[0]) for v in value)
    return isinstance(value, origin or hint)


def readable(hint: Any) -> str:
    """A type annotation as words: "int or None", "one of 'nb', 'zinb'"."""
    words = []
    for option in _options(hint):
        if get_origin(option) is Literal:
            words.append("one of " + ", ".join(repr(v) for v in get_args(option)))
        else:
            words.append("None" if option in (None, type(None)) else getattr(option, "__name__", str(option)))
    return " or ".join(words)
