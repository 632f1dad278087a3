"""The check of memory: it grows with the cells, and no matrix of all of them is made dense."""

from __future__ import annotations

import contextlib
import gc
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from unittest import mock

import scipy.sparse as sp
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ._check import check
from ._toys import LARGE_VARS

if TYPE_CHECKING:
    from ._trial import Trial

LARGE_CELLS = 1200  # more than the 1,024 of the largest block that methods densify
GROWTH = 2.3  # of the memory when the cells double


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


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Collect before and not during: AnnData objects are cycles, and what ran before would decide when they go."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


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


def _peaks(trial: Trial, n_obs: int) -> dict[str, int]:
    """Bytes of the numpy peak and of the largest torch tensor of one call with an unfitted method."""
    data, learning = trial.toys.large(n_obs)
    fewest = min(each.n_obs for each in (trial.toys.table(data), learning.get("ref", data)))
    was_tracing = tracemalloc.is_tracing()
    with _no_collection():
        tracemalloc.start()
        tracemalloc.reset_peak()
        start, _ = tracemalloc.get_traced_memory()
        try:
            with _LargestTensor() as largest, _sparse_only(fewest, LARGE_VARS):
                trial.call(data, trial.cls, **learning, **trial.brief)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            if not was_tracing:
                tracemalloc.stop()
    return {"the peak of numpy": peak - start, "the largest tensor of torch": largest.bytes}


@check
def memory_grows_with_the_cells(trial: Trial) -> Iterator[str]:
    """Twice the cells (of both, with a reference) take at most 2.3 times the memory, and are never dense at once."""
    if trial.shared:
        with _LargestTensor():  # a first call makes the imports, so that they are not counted
            trial.call(trial.toys.old, trial.cls, **trial.brief)
    try:
        half, whole = _peaks(trial, LARGE_CELLS), _peaks(trial, 2 * LARGE_CELLS)
    except _WholeMatrix as error:
        yield str(error)
        return
    for what, size in half.items():
        if size and whole[what] > GROWTH * size:
            yield (
                f"{what} grows from {size / 1e6:.2f} to {whole[what] / 1e6:.2f} MB when the cells double: that is "
                f"{whole[what] / size:.1f} times, at most {GROWTH} is allowed"
            )
