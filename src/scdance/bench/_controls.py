"""Rows that frame every table: the floor that knows nothing, the ceiling that is the truth."""

from __future__ import annotations

from typing import Any

import numpy as np


def shuffled_truth(truth: Any, seed: int) -> np.ndarray:
    """The truth in random order: what a partition of these sizes scores by chance."""
    return np.random.default_rng(seed).permutation(np.asarray(truth))


def the_truth(truth: Any, seed: int) -> np.ndarray:
    """The truth itself: if it does not score the best value, the metric is broken."""
    return np.asarray(truth)


CONTROLS = {"shuffled truth": shuffled_truth, "the truth": the_truth}
