"""How the learning rate changes during a training."""

from __future__ import annotations

import math


def half_cosine(step: int, n_steps: int, *, warm_up: float = 0.0) -> float:
    """Factor that falls from 1 to 0 along half a cosine, after a straight rise if there is one.

    Parameters
    ----------
    step
        Number of the step, from 0.
    n_steps
        Number of all steps.
    warm_up
        Share of the steps, in [0, 1), over which the factor first rises to 1.

    Returns
    -------
    The factor, in [0, 1].

    Examples
    --------
    >>> from scdance import train
    >>> [round(train.half_cosine(step, 4), 2) for step in range(4)]
    [1.0, 0.85, 0.5, 0.15]
    >>> [round(train.half_cosine(step, 4, warm_up=0.5), 2) for step in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    rise = warm_up * n_steps
    if step < rise:
        return min(1.0, (step + 1) / rise)
    return 0.5 + 0.5 * math.cos(math.pi * (step - rise) / (n_steps - rise))
