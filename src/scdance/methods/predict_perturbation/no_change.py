"""The mean of the control cells: the floor that expects nothing of a perturbation."""

from __future__ import annotations

import numpy as np

from ._perturber import Perturber


class NoChange(Perturber):
    """Expect of perturbed cells the mean expression of the control cells [Ahlmann2025]_.

    Most genes do not respond to most perturbations, so that by its error alone this answer looks good. The skill of
    all others is counted from here.

    When to use
    -----------
    As the floor of every table: a method whose skill is below 0 had better said that nothing happens.

    When not
    --------
    To learn anything of a perturbation.

    Differs from the paper
    ----------------------
    It does not: the benchmark has it under the same name. Means are those of log-normalised expression.
    """

    cite = "Ahlmann2025"
    control = True

    def change(self, genes: tuple[str, ...]) -> np.ndarray:
        return np.zeros(self.n_vars_)
