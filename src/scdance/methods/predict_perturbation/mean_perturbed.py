"""The mean over other perturbations: the floor that knows a screen, but not which gene is perturbed."""

from __future__ import annotations

import numpy as np

from ._perturber import Perturber


class MeanPerturbed(Perturber):
    """Expect of every perturbation the mean change of those that were measured [Ahlmann2025]_.

    Cells respond alike to many perturbations, be it to the stress or because they act on one pathway. Each
    perturbation weighs the same, however many cells it has.

    When to use
    -----------
    As the floor that matters: a method that does not beat it has learnt nothing of single genes. It is the default,
    as in published comparisons no deep model was ahead of it reliably.

    When not
    --------
    To tell perturbations from each other, as the answer is the same for all; or to rank genes to perturb. Where most
    perturbations do nothing, their strong neighbours lend them a change that they do not have, and over all genes
    ``no_change`` is nearer to the truth.

    Differs from the paper
    ----------------------
    The benchmark predicts the mean expression; here the mean change is added to the control cells at hand, which may
    be those of another object than the one that taught.
    """

    cite = "Ahlmann2025"
    control = True

    def learn(self, genes: list[tuple[str, ...]], changes: np.ndarray) -> None:
        self.change_ = changes.mean(axis=0)

    def change(self, genes: tuple[str, ...]) -> np.ndarray:
        return self.change_
