"""What each task reads, gives and is scored by: the table of contents of scdance."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    """Where one part of a result goes.

    Attributes
    ----------
    where
        Attribute of the object: obs, obsm, var, layers, obsp.
    name
        Name in there, with ``{key}`` for ``key_added`` or the name of the method.
    text
        What it holds: shape, type, unit, range.
    kind
        How it is stored: "category" (codes and their names), "frame" (one column per name),
        "matrix" or "vector" (float32).
    on
        The role that receives it.
    """

    where: str
    name: str
    text: str
    kind: str
    on: str = "cells"


@dataclass(frozen=True)
class Task:
    """A task: its roles, the parts of its result, its scores and its default method."""

    name: str
    text: str
    roles: tuple[str, ...]
    gives: dict[str, Slot]
    optional: tuple[str, ...]
    metrics: tuple[str, ...]
    default: str


CLUSTER = Task(
    "cluster",
    text="Group cells by expression, without labels.",
    roles=("cells",),
    gives={
        "labels": Slot(
            "obs",
            "{key}",
            'cluster of each cell, "0" is the largest; cells without counts have none',
            "category",
        ),
        "embedding": Slot("obsm", "X_{key}", "latent space, (n_obs, n_latent) float32", "matrix"),
        "proba": Slot(
            "obsm",
            "{key}_proba",
            "probability of each cluster, (n_obs, n_clusters) float32, rows sum to 1",
            "frame",
        ),
        "score": Slot("obs", "{key}_score", "how sure the assignment is, (n_obs,) float32 in [0, 1]", "vector"),
    },
    optional=("embedding", "proba", "score"),
    metrics=("ari", "nmi"),
    default="graphsc",
)

TASKS: dict[str, Task] = {task.name: task for task in (CLUSTER,)}
