"""What all predictors of a modality share: which cells teach, several runs, limits, and how far off they may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, Self

import numpy as np

from scdance._checks import InputError, enough_pairs
from scdance._core.cells import Cells, Pair
from scdance._core.method import Method
from scdance.train import hold_out_cells, slices, target_of

CALIBRATING = 2000  # cells at most that intervals are calibrated on

Answers = Callable[[slice], np.ndarray]


class Predictor(Method):
    """Base of all predictors: a subclass writes :meth:`fit_one` and :meth:`answers`.

    A cell that both modalities have teaches, one that only the source has is asked. Everything that is learnt, the
    recipe included, is learnt from the cells that teach, so that a cell gets the same answer whichever others are
    asked with it.

    Parameters
    ----------
    n_ensemble
        Predictors whose mean is the answer, each with other cells held out; from two on, the standard deviation of
        their answers is given too.
    valid_share
        Part of the cells that is held out to end the training, in (0, 0.5].
    valid_by
        "batch": whole batches are held out, where there are at least three, so that the training ends by what carries
        over to other batches; "cells": cells at random.
    clip
        Limits of the answers, after the mean over the ensemble. "auto": not below 0 where no value of the training
        is, and not above 1 where they all are 0 or 1; "range": between the smallest and largest value of each feature
        in the training; "none".
    interval
        Coverage of intervals, such as 0.9; None: none. A share `valid_share` of the cells (whole batches, as for the
        validation) takes no part in the training, and the half-width of each feature's interval is the quantile of
        its errors there (split conformal).
    """

    n_ensemble: int = 1
    valid_share: float = 0.15
    valid_by: Literal["batch", "cells"] = "batch"
    clip: Literal["auto", "range", "none"] = "auto"
    interval: float | None = None

    needs = ("lognorm",)
    uses = ("batch",)
    ends_by_validation = False  # True: some cells are held out to end the training

    # ------------------------------------------------------------------ what a subclass writes

    def prepare(self, pair: Pair, rows: np.ndarray) -> None:
        """Learn what all members of the ensemble share, from the cells that teach: `rows`, as in :meth:`fit_one`."""

    def fit_one(self, member: int, pair: Pair, rows: np.ndarray, valid: np.ndarray) -> None:
        """Fit one member of the ensemble.

        `rows` and `valid` are positions in source and target of the cells that teach and of those that end the
        training, (n, 2) int; `valid` is empty where nothing is to be ended.
        """
        raise NotImplementedError

    def divide(self, member: int, teach: np.ndarray, batch: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Cells that teach a member and those that end its training, both sorted.

        `teach` are positions among the cells that both modalities have, `batch` the batch of each of the latter.
        """
        if self.ends_by_validation or self.n_ensemble > 1:
            return self.held_out(teach, batch, f"member {member}")
        return teach, teach[:0]

    def answers(self, member: int, source: Cells) -> Answers:
        """Give a function from a slice of the cells to what a member says of them, (n, n_features) float."""
        raise NotImplementedError

    # ------------------------------------------------------------------ what all share

    @property
    def n_features(self) -> int:
        """Number of features of the target."""
        return len(self.features_["mean"])

    def check(self) -> None:
        """Refuse numbers out of range."""
        inside = {
            "n_ensemble": (self.n_ensemble >= 1, "at least 1"),
            "valid_share": (0 < self.valid_share <= 0.5, "above 0 and at most 0.5"),
            "interval": (self.interval is None or 0 < self.interval < 1, "between 0 and 1, or None"),
        }
        for name, (fits, text) in inside.items():
            if not fits:
                msg = f"{name}={getattr(self, name)!r}, but it must be {text}."
                raise InputError(msg)

    def check_cells(self, cells: Pair) -> None:  # type: ignore[override]
        """Refuse too few cells to learn from."""
        if not self.is_fitted:
            enough_pairs(len(cells.both), type(self).__name__)

    def fit(self, *, pair: Pair) -> Self:
        both = pair.both
        batch = None if pair.source.batch is None else pair.source.batch[both[:, 0]]
        teach, judge = np.arange(len(both)), np.zeros(0, dtype=int)
        if self.interval is not None:
            teach, judge = self.held_out(teach, batch, "interval")
        self.features_ = _per_feature(target_of(pair), both[teach][:, 1])
        self.notes_: dict[str, Any] = {"n_teach": len(teach), "n_asked": pair.source.n_obs - len(both)}
        self.prepare(pair, both[teach])
        for member in range(self.n_ensemble):
            rows, valid = self.divide(member, teach, batch)
            self.fit_one(member, pair, both[rows], both[valid])
        if self.interval is not None:
            some = self.rng("judges").permutation(judge)[:CALIBRATING]
            self.features_["half_width"] = self._half_width(pair, both[np.sort(some)])
        return self

    def predict(self, *, pair: Pair) -> dict[str, Any]:
        n = pair.source.n_obs
        members = [self.answers(member, pair.source) for member in range(self.n_ensemble)]
        out = np.empty((n, self.n_features), dtype=np.float32)
        sd = np.empty_like(out) if self.n_ensemble > 1 else None
        for rows in slices(n):
            said = np.stack([each(rows) for each in members])
            out[rows] = self._limited(said.mean(axis=0))
            if sd is not None:
                sd[rows] = said.std(axis=0, ddof=1)
        return {"prediction": out} if sd is None else {"prediction": out, "sd": sd}

    def _limited(self, values: np.ndarray) -> np.ndarray:
        """Answers within their limits; a feature that never changed keeps its value."""
        low, high = self.features_["low"], self.features_["high"]
        if self.clip == "range":
            values = np.clip(values, low, high)
        elif self.clip == "auto":
            values = np.maximum(values, 0) if low.min() >= 0 else values
            values = np.minimum(values, 1) if self.features_["is_binary"].all() else values
        return np.where(low == high, low, values)

    def held_out(self, cells: np.ndarray, batch: np.ndarray | None, purpose: str) -> tuple[np.ndarray, np.ndarray]:
        """The cells that stay and those that are held out, both sorted: whole batches where there are enough."""
        by_batch = batch if self.valid_by == "batch" else None
        return hold_out_cells(cells, by_batch, self.valid_share, self.rng(purpose))

    def _half_width(self, pair: Pair, rows: np.ndarray) -> np.ndarray:
        """Quantile of the absolute errors of each feature on cells that took no part, (n_features,) float32."""
        rank = math.ceil((len(rows) + 1) * self.interval)  # type: ignore[operator]
        if rank > len(rows):
            msg = (
                f"interval={self.interval} cannot be calibrated on {len(rows)} cells: pass a smaller one, or a larger "
                "`valid_share=`."
            )
            raise InputError(msg)
        target = target_of(pair)
        source = pair.source.part(rows[:, 0])
        members = [self.answers(member, source) for member in range(self.n_ensemble)]
        errors = [
            np.abs(self._limited(np.mean([each(here) for each in members], axis=0)) - target.dense(rows[here][:, 1]))
            for here in slices(len(rows))
        ]
        return np.partition(np.concatenate(errors), rank - 1, axis=0)[rank - 1].astype(np.float32)


def sparse_blocks(cells: Cells, rows: np.ndarray | None = None) -> Iterator[Any]:
    """Expression of the cells at `rows` (None: all) as blocks of CSR, before what fills the matrix."""
    n = cells.n_obs if rows is None else len(rows)
    return (cells.x[here if rows is None else rows[here]] for here in slices(n))  # type: ignore[index]


def _per_feature(target: Cells, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Mean, smallest and largest value of each feature, and whether it is 0 or 1 everywhere, each (n_features,)."""
    n = target.n_vars
    total, low, high, is_binary = np.zeros(n), np.full(n, np.inf), np.full(n, -np.inf), np.ones(n, dtype=bool)
    for here in slices(len(rows)):
        block = target.dense(rows[here])
        total += block.sum(axis=0, dtype=np.float64)
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
        is_binary &= ((block == 0) | (block == 1)).all(axis=0)
    mean = (total / len(rows)).astype(np.float32)
    return {"mean": mean, "low": low.astype(np.float32), "high": high.astype(np.float32), "is_binary": is_binary}
