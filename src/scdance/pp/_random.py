"""Random numbers of one's own."""

from __future__ import annotations

import numpy as np


def generator(random_state: int | np.random.Generator | None) -> np.random.Generator:
    """Make a generator that nobody else draws from.

    Parameters
    ----------
    random_state
        Seed; a generator, of which a child is spawned, so that the user's is not advanced; None: fresh entropy.

    Returns
    -------
    The generator.

    Examples
    --------
    >>> from scdance import pp
    >>> int(pp.generator(0).integers(100)) == int(pp.generator(0).integers(100))
    True
    """
    if isinstance(random_state, np.random.Generator):
        return random_state.spawn(1)[0]
    return np.random.default_rng(random_state)
