"""What holds for every test: one thread a worker, no windows, no real data without its folder."""

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

# Set before numpy and torch are loaded; sub-processes of the tests inherit it.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["MPLBACKEND"] = "Agg"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine has no data or no device for, and say so."""
    skips = {}
    if not os.environ.get("SCDANCE_DATA_DIR"):
        skips["real"] = "needs real data sets: set SCDANCE_DATA_DIR to their folder"
    if any(item.get_closest_marker("gpu") for item in items) and not _has_gpu():
        skips["gpu"] = "needs a CUDA device"
    for item in items:
        for mark, reason in skips.items():
            if item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def golden() -> dict[str, dict[str, dict[str, Any]]]:
    """``golden.toml``: task → method → its row."""
    return tomllib.loads(Path(__file__).with_name("golden.toml").read_text())
