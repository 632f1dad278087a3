"""What the tests hold each method to, as a plan for :func:`scdance.bench.run`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scdance._checks import InputError
from scdance._core import registry
from scdance.datasets import info, names

GENERAL = ("paper", "dance")  # presets for any data


def plan(path: str | Path, *, datasets: Sequence[str] | None = None, presets: bool = False) -> list[dict[str, Any]]:
    """Read ``golden.toml`` as grids to run.

    Parameters
    ----------
    path
        The file.
    datasets
        Names of data sets to run on, each by the tasks that it can score; None: those of the file. A variant that the
        file has ``on`` some data sets only runs on no others.
    presets
        Run the published presets of the methods in place of their variants: that of the paper, DANCE's, and the one
        for the data set.

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
        others = set(names()) - set(names(task))  # of other tasks; a name that nobody knows is refused by the run
        for method, row in methods.items():
            if not row.get("real"):
                continue
            for variant, settings in row.get("variants", {method: {}}).items():
                knobs = {name: value for name, value in settings.items() if name != "on"}
                own = settings.get("on", row["real"])
                asked = [name for name in datasets or () if name not in others]
                wanted = own if datasets is None else [name for name in asked if name in own or "on" not in settings]
                variants = grids.setdefault((task, tuple(wanted)), {})
                if variant in variants:
                    both = f"{variants[variant]['method']} and {method}"
                    msg = f"{path} gives the variant {variant!r} to {both}; rename one."
                    raise InputError(msg)
                variants[variant] = {"method": method, **knobs}
    plans = [{"task": task, "methods": grid, "datasets": list(on)} for (task, on), grid in grids.items() if on]
    return [each for grid in plans for each in _published(grid)] if presets else plans


def _published(grid: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A grid for each data set, with the presets that are meant for all data or for this one."""
    methods = dict.fromkeys(variant["method"] for variant in grid["methods"].values())
    for dataset in grid["datasets"]:
        wanted = [*GENERAL, info(dataset)["preset"]]
        found = {name: [p for p in wanted if p in registry.get(grid["task"], name).presets] for name in methods}
        variants = {
            f"{name} {preset}": {"method": name, "preset": preset} for name, own in found.items() for preset in own
        }
        if variants:
            yield {**grid, "methods": variants, "datasets": [dataset]}


def _parsed(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    if not path.is_file():
        msg = f"There is no file {path}; pass a golden.toml."
        raise InputError(msg)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{path} is not TOML ({error}); pass a golden.toml."
        raise InputError(msg) from error
