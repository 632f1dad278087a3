"""The list of checks; decorating the function is what puts it there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._trial import Trial

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


class NoRun(Exception):
    """The fit that a check wants to look at failed."""

    text = "there is no result to look at, because the fit failed; see the check 'runs'"


def check(function: Check) -> Check:
    """Register a check under its own name."""
    CHECKS[function.__name__] = function
    return function


def refusal(call: Callable[[], Any]) -> Exception | None:
    """What a call raises."""
    try:
        call()
    except Exception as error:  # noqa: BLE001, the caller looks at it
        return error
    return None
