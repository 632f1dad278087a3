"""Global states: what a call has to leave as it was, and how to put back what a broken method left."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from scdance._core.method import Method


@contextlib.contextmanager
def put_back() -> Iterator[None]:
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


def global_states() -> dict[str, Any]:
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
