"""The manners of adapters to other packages: what these seed, print, end and set is put back."""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any

from scdance._checks import ScdanceError
from scdance._settings import torch_threads

from .method import Method


class Adapter(Method):
    """Base of adapters to other packages, which see the cells of this run only: new ones cannot be asked later."""

    inductive = False
    keeps = ("embedding_",)
    route = True

    @contextmanager
    def session(self) -> Iterator[None]:
        """Put back what other packages seed and set: the random states and the threads of torch."""
        import torch

        with super().session(), torch_threads(), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield


@contextmanager
def contained(name: str, *, loud: bool = False) -> Iterator[None]:
    """Keep what a package prints and warns of to itself; where it ends the whole process, raise what made it do so.

    With `loud`, what it prints goes to the stream of errors, where progress bars are.
    """
    pressed = signal.getsignal(signal.SIGINT)
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stdout(sys.stderr if loud else StringIO()):
            yield
    except SystemExit as error:
        if type(error) is not SystemExit:  # a signal told the process to end
            raise
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        msg = f"The package behind {name!r} gave up without a reason; look for features or cells that are all alike."
        raise ScdanceError(msg) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, pressed)  # some packages leave Ctrl-C without effect


@contextmanager
def set_for_now(holder: Any, **values: Any) -> Iterator[None]:
    """Set attributes of a package, and put back what they were."""
    before = {name: getattr(holder, name) for name in values}
    try:
        for name, value in values.items():
            setattr(holder, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(holder, name, value)
