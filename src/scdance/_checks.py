"""Every check on user input: one function and one message each.

A message says what was expected, what was found, what is there, and what to type.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable
from typing import Any


class ScdanceError(Exception):
    """Base of all errors that scdance raises on purpose."""


class UnknownParameterError(ScdanceError, TypeError):
    """A keyword that the function or method does not have."""


class InputError(ScdanceError, ValueError):
    """An unknown or unusable value."""


class WrongTypeError(ScdanceError, TypeError):
    """An object of a kind that the function does not take."""


class MissingKeyError(ScdanceError, KeyError):
    """A column or slot that is not in the object."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError shows the repr, which turns a sentence into noise


class MissingPackageError(ScdanceError, ImportError):
    """An optional package that is not installed."""


class NotFittedError(ScdanceError, ValueError):
    """A method that was asked to predict before it was fitted."""


def listed(names: Iterable[object], most: int = 12) -> str:
    """Names for a message, shortened when there are many; "nothing" when there are none."""
    names = [str(name) for name in names]
    if not names:
        return "nothing"
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def nearest(name: object, names: Iterable[object]) -> str:
    """A sentence that names the closest of `names`, whatever its case, or nothing."""
    known = {each.lower(): each for each in names if isinstance(each, str)}
    found = difflib.get_close_matches(str(name).lower(), list(known), n=1, cutoff=0.6)
    return f" Did you mean {known[found[0]]!r}?" if found else ""


def one_of(value: Any, names: Iterable[Any], what: str) -> Any:
    """Refuse a `value` that is not among `names`."""
    names = list(names)
    if value not in names:
        msg = f"{what} is {value!r}, but must be one of: {listed(names, 60)}.{nearest(value, names)}"
        raise InputError(msg)
    return value


def warn(message: str) -> None:
    """Warn the user once per place, pointing at their own line."""
    warnings.warn(message, UserWarning, stacklevel=_depth_of_user())


def _depth_of_user() -> int:
    """How many frames lie between :func:`warn` and the first line outside scdance."""
    import sys

    frame, depth = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("scdance."):
        frame, depth = frame.f_back, depth + 1
    return depth


def package(name: str, *, extra: str, why: str) -> Any:
    """Import the optional package `name`, without what it then warns of, or say how to install it."""
    import importlib
    import logging

    root = logging.getLogger()
    level = root.level
    try:
        with warnings.catch_warnings(action="ignore"):
            return importlib.import_module(name)
    except ImportError as error:
        msg = f"{why} needs the package {name!r}: pip install 'scdance[{extra}]'  ({error})"
        raise MissingPackageError(msg, name=name) from error
    finally:
        root.setLevel(level)  # which some packages change


def column(table: Any, key: str, *, where: str, what: str, argument: str) -> Any:
    """A column of `obs` or the like, or an error that lists the columns."""
    if not isinstance(key, str):
        msg = f"{argument} must be the name of a column of `{where}`, but is {key!r}."
        raise WrongTypeError(msg)
    if key not in table:
        names = [str(name) for name in table]
        msg = (
            f"No {key!r} in `{where}`; it has {listed(names)}. "
            f"Pass the name of {what} as `{argument}=`.{nearest(key, names)}"
        )
        raise MissingKeyError(msg)
    return table[key]


def teaching(values: Any, key: str) -> Any:
    """Which cells teach, by a column that says so, (n_obs,) bool; refused where that are all or none."""
    said = values.astype(str).str.lower()
    teach = said.isin(("train", "true")).to_numpy()
    if not teach.any() or teach.all():
        msg = (
            f"{key!r} should say True or 'train' for cells that teach and anything else for those that are "
            f"asked, but holds {listed(sorted(said.unique()))}."
        )
        raise InputError(msg)
    return teach


def column_names(keys: Any) -> list[str]:
    """Names of columns as a list; one name is a list of one."""
    if not isinstance(keys, Iterable):
        msg = f"keys must be names of columns of `adata.obs`, but is {keys!r}. Pass at least two, as in ['a', 'b']."
        raise WrongTypeError(msg)
    return [keys] if isinstance(keys, str) else list(keys)


def unique_names(names: Any, where: str) -> None:
    """Refuse repeated names."""
    if not names.is_unique:
        first = list(dict.fromkeys(names[names.duplicated()]))
        msg = (
            f"`{where}_names` must be unique, but {listed(first, 3)} occur more than once. "
            f"Make them so: `{'' if '.' in where else 'adata.'}{where}_names_make_unique()`."
        )
        raise InputError(msg)


def whole_number(value: Any, what: str, *, least: int = 0) -> int:
    """Refuse what is not an integer of at least `least`."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
        msg = f"{what} must be a whole number of at least {least}, but is {value!r}."
        raise InputError(msg)
    return int(value)


def above_zero(value: float, what: str) -> None:
    """Refuse a number that is not above 0."""
    if not value > 0:
        msg = f"{what}={value!r}, but it must be above 0."
        raise InputError(msg)


def enough_pairs(n: int, who: str, *, least: int = 10) -> None:
    """Refuse fewer cells in both modalities than a method can learn from."""
    if n < least:
        msg = (
            f"Only {n} cells are in both modalities, but {who} learns from those: at least {least} are needed. A cell "
            "needs the same name in both."
        )
        raise InputError(msg)


def share_held_out(value: float) -> None:
    """Refuse a part of the cells to hold out that is not above 0, or more than a half."""
    if not 0 < value <= 0.5:
        msg = f"valid_share={value!r}, but it must be above 0 and at most 0.5."
        raise InputError(msg)


def n_clusters(value: int | None, n_obs: int) -> None:
    """Refuse a number of clusters below 2 or above half of the cells."""
    if value is not None and not 2 <= value <= max(n_obs // 2, 2):
        msg = (
            f"n_clusters={value}, but it must lie between 2 and half of the cells that have counts "
            f"({n_obs} // 2 = {n_obs // 2}). Pass another number, or None to have it estimated."
        )
        raise InputError(msg)
