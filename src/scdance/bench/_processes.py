"""Jobs in processes of their own, a few at once; whatever happens, none outlives the caller."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, suppress
from typing import Any

POLL = 0.05  # seconds between two looks at the processes
LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def solved(
    jobs: Sequence[dict[str, Any]], *, at_once: int, threads: int, timeout: float | None
) -> Generator[tuple[dict[str, Any], dict[str, Any]], None, None]:
    """Yield each job with its row as it ends. Closing the iterator ends what still runs."""
    waiting, running = list(reversed(jobs)), list[_Process]()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append(_Process(waiting.pop(), threads))
            for process in list(running):
                row = process.row(timeout)
                if row is not None:
                    running.remove(process)
                    yield process.job, row
            if running:
                time.sleep(POLL)
    finally:
        for process in running:
            process.end()


class _Process:
    """A job that runs."""

    def __init__(self, job: dict[str, Any], threads: int):
        self.job, self.start = job, time.monotonic()
        self.open = ExitStack()
        self.out = self.open.enter_context(tempfile.TemporaryFile())  # noqa: SIM115, `end` closes it
        self.err = self.open.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scdance.bench._cell"],
            stdin=subprocess.PIPE,
            stdout=self.out,
            stderr=self.err,
            bufsize=0,
            env={**os.environ, **dict.fromkeys(LIMITS, str(threads))},
            start_new_session=True,  # Ctrl-C is for the parent, which ends its children and writes no row for them
        )
        # stays open: the child ends itself when it closes, so also when this process is killed
        stdin: Any = self.open.enter_context(self.process.stdin)  # type: ignore[arg-type]
        with suppress(BrokenPipeError):  # it died already; `row` will say how
            stdin.write(json.dumps(job).encode() + b"\n")

    def row(self, timeout: float | None) -> dict[str, Any] | None:
        """The row if the job has ended, in whatever way; None while it runs."""
        if self.process.poll() is None:
            if timeout is None or time.monotonic() - self.start < timeout:
                return None
            self.end()
            return {"error": f"ended after {timeout:g} s"}
        answer, told = _text(self.out), _text(self.err)
        self.end()
        try:
            return json.loads(answer)  # type: ignore[no-any-return]
        except ValueError:
            code = self.process.returncode
            how = signal.Signals(-code).name if code < 0 else f"code {code}"
            return {"error": f"the process died with {how}: {' '.join(told.split())[-300:]}"}

    def end(self) -> None:
        """Kill it if it runs, with what it has started itself, and close its files."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.open.close()


def _text(file: Any) -> str:
    file.seek(0)
    return str(file.read().decode(errors="replace"))
