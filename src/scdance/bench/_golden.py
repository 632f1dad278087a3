"""What the tests hold each method to, as a plan for :func:`scdance.bench.run`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from scdance._checks import InputError


def plan(path: str | Path) -> list[dict[str, Any]]:
    """Read ``golden.toml`` as grids to run.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    Arguments of :func:`run`, one set for all methods of a task that run on the same data sets: ``task``,
    ``methods`` as ``{variant: {"method": name, knob: value}}``, and ``datasets``. A method without data sets
    is in none.

    Raises
    ------
    ValueError
        The file is not there or not TOML, or two methods have variants of one name.

    Examples
    --------
    >>> import scdance as sd
    >>> for grid in sd.bench.plan("tests/golden.toml"):  # doctest: +SKIP
    ...     sd.bench.run(**grid, out="bench/cluster.csv")
    """
    grids: dict[tuple[str, tuple[str, ...]], dict[str, dict[str, Any]]] = {}
    for task, methods in _parsed(Path(path)).items():
        for method, row in methods.items():
            if not row.get("real"):
                continue
            variants = grids.setdefault((task, tuple(row["real"])), {})
            for variant, knobs in row.get("variants", {method: {}}).items():
                if variant in variants:
                    both = f"{variants[variant]['method']} and {method}"
                    msg = f"{path} gives the variant {variant!r} to {both}; rename one."
                    raise InputError(msg)
                variants[variant] = {"method": method, **knobs}
    return [{"task": task, "methods": grid, "datasets": list(names)} for (task, names), grid in grids.items()]


def _parsed(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    if not path.is_file():
        msg = f"There is no file {path}; pass a golden.toml."
        raise InputError(msg)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{path} is not TOML ({error}); pass a golden.toml."
        raise InputError(msg) from error
