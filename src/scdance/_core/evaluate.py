"""Judge a method that estimates expression on molecules that it has not seen, and choose its knobs by that."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from scdance._checks import InputError, listed
from scdance._settings import logger
from scdance.pp import HeldOut, canonical, thin

from .counts import raw_counts
from .knobs import build, knobs, values_of
from .method import Method
from .read import read_roles
from .run import solve, watched
from .task import Task

SHARE = 0.9  # of the molecules, from which the others are predicted
ROWS = 4096
GROWTH = 1.5  # from one epoch that is judged to the next
LENGTH = {"epochs", "steps"}  # knobs that say how long a training is


def evaluated(
    task: Task,
    model: Method,
    data: Any,
    adata: Any,
    fixed: set[str],
    *,
    progress: bool | None,
    layer: str | None,
    **reading: Any,
) -> tuple[Method, dict[str, float], dict[str, Any]]:
    """Hold a tenth of the molecules out and predict them.

    Parameters
    ----------
    task, model
        The task, and the method, not fitted.
    data, adata
        The user's object and the table in it, which stay as they are.
    fixed
        Knobs that the user has set, which are left as they are.
    progress, layer, reading
        As in a call of the tool.

    Returns
    -------
    The method with the knobs that predicted best; imputability by the name of the gene; and what the record says.
    """
    import anndata as ad

    if model.is_fitted:
        msg = (
            f"The {type(model).__name__} is fitted already, perhaps on these very counts, so they cannot judge it. "
            "Leave `evaluate=` out, or pass the name of the method."
        )
        raise InputError(msg)
    counts, _, _ = raw_counts(adata, layer, "impute(evaluate=True)", whole=True)
    counts = canonical(counts)
    kept = thin(counts, SHARE, np.random.default_rng([model.random_state, 2]))
    held_out = canonical(counts - kept)
    given = ad.AnnData(kept, obs=adata.obs, var=adata.var[[]], obsm=dict(adata.obsm), uns=dict(adata.uns))
    best: tuple[float, dict[str, Any], np.ndarray, HeldOut] | None = None
    rows: list[dict[str, Any]] = []
    for choice in _choices(model, fixed):
        trial = _asked(model, choice)
        cells = read_roles(task, trial, given if data is adata else data, given, **reading)["cells"]
        watch = _Watch(trial, cells, kept, held_out)
        with watched(watch):
            result, _ = solve(trial, progress=progress, cells=cells)
        watch.last(result)
        for epochs, scores in watch.seen.items():
            told = {**choice, **({"epochs": epochs} if epochs else {})}
            rows.append({**told, "poisson_loss": scores.loss, "poisson_gain": scores.gain})
            chosen = choice if fixed & LENGTH else told
            if best is None or scores.loss < best[0]:
                best = (scores.loss, chosen, cells.var_names[watch.modelled], scores)
    assert best is not None
    loss, chosen, names, scores = best
    if chosen:
        logger.info("%s: held-out counts chose %s", model.name, listed(f"{k}={v!r}" for k, v in chosen.items()))
    notes = {
        "share_held_out": 1 - SHARE,
        "poisson_loss": loss,
        "poisson_gain": scores.gain,
        "chosen": chosen,
        "candidates": {name: np.array([row[name] for row in rows]) for name in rows[0]},
    }
    return _asked(model, chosen, keep=True), dict(zip(names, scores.per_gene(), strict=True)), notes


def _choices(model: Method, fixed: set[str]) -> Iterator[dict[str, Any]]:
    free = {name: values for name, values in model.tries.items() if name not in fixed}
    for values in itertools.product(*free.values()):
        yield dict(zip(free, values, strict=True))


def _asked(model: Method, choice: dict[str, Any], *, keep: bool = False) -> Method:
    """The method with other knobs; unless `keep`, one that gives counts of all genes."""
    plain = {} if keep else {"output": "counts", "policy": "replace", "genes": None}
    there = knobs(type(model))  # type: ignore[arg-type]
    if "epochs" in choice and "steps" in there:
        choice = {**choice, "steps": None}  # the epochs count
    own = {**values_of(model), **{name: value for name, value in {**plain, **choice}.items() if name in there}}
    return build(type(model), {**own, "random_state": model.random_state, "device": model.device})  # type: ignore[no-any-return]


class _Watch:
    """Scores what a method predicts, at the end or after some of its epochs."""

    def __init__(self, model: Method, cells: Any, kept: Any, held_out: Any):
        self.model, self.cells = model, cells
        columns = cells.prep.find(np.asarray(cells.var_names)) if cells.prep.columns is None else cells.prep.columns
        self.parts = tuple(each[cells.rows][:, columns] for each in (kept, held_out))
        self.modelled = np.arange(cells.n_vars)
        self.seen: dict[int, HeldOut] = {}
        self.next = 1

    def __call__(self, stage: str, epoch: int, look: Any, rows: Any) -> None:
        if stage != "training" or epoch < self.next:
            return
        self.next = max(epoch + 1, int(epoch * GROWTH))
        self.seen[epoch] = self.score(look())

    def last(self, result: dict[str, Any]) -> None:
        """Score the final result, of as many epochs as there were."""
        epochs = len(getattr(self.model, "history_", {}).get("training_loss", ())) if self.seen else 0
        self.seen[epochs] = self.score(result)

    def score(self, result: dict[str, Any]) -> HeldOut:
        self.modelled = np.flatnonzero(result.get("modelled", np.ones(self.cells.n_vars)))
        scores = HeldOut(*(canonical(part[:, self.modelled]) for part in self.parts))
        for start in range(0, self.cells.n_obs, ROWS):
            rows = slice(start, min(start + ROWS, self.cells.n_obs))
            scores.add(rows, result["expression"][rows])
        return scores
