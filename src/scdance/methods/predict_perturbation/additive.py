"""The sum of what single perturbations do: the floor of combinations."""

from __future__ import annotations

import numpy as np

from ._perturber import Perturber


class Additive(Perturber):
    """Expect of genes that are perturbed together the sum of the changes that each makes alone [Ahlmann2025]_.

    For "A+B" this is the mean of the control cells + (A − control) + (B − control). A gene that was never perturbed
    alone counts with the mean change of those that were, as ``mean_perturbed`` would have it.

    When to use
    -----------
    For combinations of genes of which each was perturbed alone: what it does not explain is interaction.

    When not
    --------
    For genes that were not perturbed alone: then it says the same as ``mean_perturbed``, once for each.

    Differs from the paper
    ----------------------
    The benchmark asks it for pairs of two seen genes only; it has no answer for others. Sums are not cut off at 0, so
    that the change is what was added up.
    """

    cite = "Ahlmann2025"
    control = True

    def learn(self, genes: list[tuple[str, ...]], changes: np.ndarray) -> None:
        alone = [i for i, each in enumerate(genes) if len(each) == 1]
        self.singles_ = {genes[i][0]: changes[i] for i in alone}
        self.mean_ = changes[alone or slice(None)].mean(axis=0)

    def change(self, genes: tuple[str, ...]) -> np.ndarray:
        return np.sum([self.singles_.get(gene, self.mean_) for gene in genes], axis=0)
