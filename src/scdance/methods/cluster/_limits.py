"""Which numbers the knobs of the clustering methods may have: one table for all, as a name means the same in each."""

from __future__ import annotations

from typing import Any

from scdance._checks import InputError
from scdance._core.method import Method

AT_LEAST: dict[str, float] = {
    "n_top_genes": 1,
    "n_components": 1,
    "n_init": 1,
    "n_neighbors": 1,
    "n_iterations": -1,
    "n_links": 1,
    "n_latent": 1,
    "n_pairs": 1,
    "hidden": 1,
    "encoder": 1,
    "latent": 1,
    "decoder": 1,
    "refresh": 1,
    "hops": 0,
    "resolution": 0,
    "sigma": 0,
    "gamma": 0,
    "tol": 0,
    "shrink": 0,
    "dropout": 0,
    "ml_weight": 0,
    "cl_weight": 0,
    "graph_weight": 0,
    "counts_weight": 0,
    "cluster_weight": 0,
    "assignment_weight": 0,
    "expression_weight": 0,
    "pretrain_counts_weight": 0,
}
ABOVE: dict[str, float] = {"radius": 0, "theta": 0, "alpha": 0}
AT_MOST: dict[str, float] = {"shrink": 1}
BELOW: dict[str, float] = {"dropout": 1}


def check_limits(model: Method) -> None:
    """Refuse a knob that is out of its range, widths included, before anything is computed."""
    for limits, fits, words in (
        (AT_LEAST, float.__ge__, "at least"),
        (ABOVE, float.__gt__, "above"),
        (AT_MOST, float.__le__, "at most"),
        (BELOW, float.__lt__, "below"),
    ):
        for name, limit in limits.items():
            for number in _numbers(getattr(model, name, None)):
                if not fits(float(number), float(limit)):
                    msg = (
                        f"{type(model).__name__}: {name}={getattr(model, name)!r}, but it must be {words} {limit} "
                        f"(default {getattr(type(model), name)!r})."
                    )
                    raise InputError(msg)


def _numbers(value: Any) -> tuple[Any, ...]:
    """The numbers of a knob: none, one, or the widths of several layers."""
    if value is None:
        return ()
    return value if isinstance(value, tuple) else (value,)
