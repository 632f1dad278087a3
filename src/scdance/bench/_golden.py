"""What the tests hold each method to, as a plan for :func:`scdance.bench.run`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any


def plan(path: str | Path) -> dict[str, dict[str, Any]]:
    """Read ``golden.toml`` as grids to run.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    For each task the arguments of :func:`run`: ``methods`` as ``{variant: {"method": name, knob: value}}`` and
    ``datasets``.
    """
    grids: dict[str, dict[str, Any]] = {}
    for task, methods in tomllib.loads(Path(path).read_text()).items():
        variants: dict[str, dict[str, Any]] = {}
        names: list[str] = []
        for method, row in methods.items():
            for variant, knobs in row.get("variants", {method: {}}).items():
                variants[variant] = {"method": method, **knobs}
            names += row.get("real", {})
        grids[task] = {"methods": variants, "datasets": list(dict.fromkeys(names))}
    return grids
