"""What a user may set once for all calls, and the logger of the package."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ._checks import whole_number

logger = logging.getLogger("scdance")
logger.addHandler(logging.NullHandler())


def _data_dir() -> Path | None:
    path = os.environ.get("SCDANCE_DATA_DIR")
    return Path(path).expanduser() if path else None


@dataclass
class Settings:
    """Settings of scdance; change them as attributes: ``scdance.settings.progress = False``.

    Attributes
    ----------
    device
        What ``device="auto"`` means: ``"auto"`` (CUDA if present, else CPU) or a torch device name.
    progress
        Show progress bars: True, False, or None for "only on a terminal or in a notebook".
    data_dir
        Folder with data sets that :func:`scdance.datasets.load` looks in first; starts as the
        environment variable ``SCDANCE_DATA_DIR``.
    max_result_gb
        Largest result in gigabytes that a tool computes; above it the tool stops before the fit and says how to ask
        for less.
    n_threads
        Threads of PyTorch during a call, at least 1; None for those it has. One is slower on a machine of your own, and
        several times faster on cores that others use as well. Numba, which some functions of scanpy call, hands
        PyTorch all threads again, whatever ``OMP_NUM_THREADS`` says.
    offline
        Never download; starts as True if the environment variable ``SCDANCE_OFFLINE`` is set.
    """

    device: str = "auto"
    progress: bool | None = None
    data_dir: Path | None = field(default_factory=_data_dir)
    max_result_gb: float = 4.0
    n_threads: int | None = None
    offline: bool = field(default_factory=lambda: bool(os.environ.get("SCDANCE_OFFLINE")))


settings = Settings()


@contextmanager
def torch_threads() -> Iterator[None]:
    """Use `settings.n_threads` threads of torch, where it is imported, and put back those it had."""
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 0
    if torch and settings.n_threads is not None:
        torch.set_num_threads(whole_number(settings.n_threads, "scdance.settings.n_threads", least=1))
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(threads)


@contextmanager
def unpulled() -> Iterator[None]:
    """Copy or slice a MuData so that columns of the modalities stay theirs, as from mudata 0.4 on.

    Names that two modalities share, such as a gene and its protein, are no reason to warn. The context manager of
    mudata itself logs to the root logger, which gives that a handler.
    """
    import mudata

    before = mudata.set_options(pull_on_update=False).opts
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            yield
    finally:
        mudata.set_options(**before)
