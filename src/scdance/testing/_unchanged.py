"""Checks of what stays as it was: global states, interrupted objects, results of equal seeds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from scdance._core.write import record_of

from ._check import check
from ._objects import flat, unlike

if TYPE_CHECKING:
    from ._trial import Trial


@check
def leaves_global_states(trial: Trial) -> Iterator[str]:
    """Random states, threads, filters, loggers, environment, folder and files are as before."""
    if trial.shared and trial.repeat.changed:  # the second fit: imports of the first may set things up
        yield f"the call changed: {', '.join(trial.repeat.changed)}"


@check
def leaves_global_states_after_an_error(trial: Trial) -> Iterator[str]:
    """The same, when the fit is interrupted."""
    if trial.interrupted.changed:
        yield f"an interrupted fit changed: {', '.join(trial.interrupted.changed)}; put it back in a `finally`"


@check
def leaves_the_object_when_interrupted(trial: Trial) -> Iterator[str]:
    """Ctrl-C in the middle of the fit reaches the user, and the object is as it was."""
    run = trial.interrupted
    if not isinstance(run.error, KeyboardInterrupt):
        yield "Ctrl-C in the middle of the fit was swallowed; catch no BaseException"
    if run.touched:
        yield f"an interrupted fit left {', '.join(run.touched)} changed"


@check
def repeats_without_labels(trial: Trial) -> Iterator[str]:
    """An equal seed gives the same bits, though labels, other slots and global random states changed."""
    one, other = trial.shared, trial.repeat
    if other.error is not None:
        yield f"the second fit raised {type(other.error).__name__}: {other.error}"
        return
    wrong = unlike(trial.results(one.after), trial.results(other.after), trial.exactly)
    records = [
        flat("record", record_of(trial.toys.holder(run.after), trial.task, trial.run_key)) for run in (one, other)
    ]
    wrong += [name for name in unlike(*records, trial.exactly) if name != "record/seconds"]
    if wrong:
        yield (
            f"{', '.join(wrong)} differ in a second run with the same seed, where what the method may not see was "
            "permuted or deleted: it draws from a generator that is not its own, or it has seen the labels"
        )
