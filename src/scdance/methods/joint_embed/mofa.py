"""MOFA+ by mofapy2: factors that both modalities share, or that are one modality's own."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from scdance._checks import package, whole_number
from scdance._core.cells import Cells, Pair
from scdance.train import slices, target_of

from ._route import Route, batch_of


class MOFA(Route):
    """Explain both modalities by a few factors, each with the features it moves, by mofapy2 [Argelaguet2020]_.

    Every feature is a weighted sum of the factors of a cell, with noise of its own; priors switch off the weights of a
    factor in a modality, or in a feature, that it does not explain. Factors of a cell are inferred from what it has, so
    one that lacks a modality is placed by the other. Given batches are the groups of the model: the features are
    centred in each of them.

    When to use
    -----------
    To ask what a direction of the space is: a factor has weights on genes and proteins or peaks. A baseline of linear
    models that knows noise.

    When not
    --------
    More than some ten thousand cells: all chosen features are made dense at once, 8 bytes each, and it takes minutes to
    hours. New cells.

    Differs from the paper
    ----------------------
    Nothing of the model: its settings are those of muon. All values count as Gaussian, proteins as centred log ratios
    and chromatin weighted by term frequency and inverse document frequency.

    Parameters
    ----------
    n_factors
        Factors, the dimensions of the space; fewer where there are fewer features or cells.
    n_iterations
        Most rounds of the inference.
    convergence
        How little the bound may still grow when it ends: "fast", "medium" or "slow".
    n_top_peaks
        Peaks with the largest deviance that are kept; None: all.
    """

    n_factors: int = 15
    n_iterations: int = 1000
    convergence: Literal["fast", "medium", "slow"] = "fast"
    n_top_genes: int | None = 1000
    n_top_peaks: int | None = 5000

    cite = "Argelaguet2020"
    uses = ("batch",)
    extras = (("mofapy2", "muon"),)

    def check(self) -> None:
        whole_number(self.n_factors, "n_factors", least=1)
        whole_number(self.n_iterations, "n_iterations", least=2)

    def embed(self, pair: Pair) -> np.ndarray:
        entry_point = package("mofapy2.run.entry_point", extra="muon", why=self.name).entry_point
        batch = batch_of(pair)
        groups = [np.flatnonzero(batch == code) for code in np.unique(batch)]
        sides = zip(("source", "target"), (pair.source, target_of(pair)), pair.at.T, strict=True)
        views = {role: [values(cells, at[rows]) for rows in groups] for role, cells, at in sides}
        for role, parts in views.items():
            varies = np.nanstd(np.concatenate(parts), axis=0) > 0
            views[role] = [part[:, varies] for part in parts]
        n_factors = min(self.n_factors, pair.n_obs - 1, *(parts[0].shape[1] for parts in views.values()))
        model = entry_point()
        model.set_data_options()
        model.set_data_matrix(
            list(views.values()),
            likelihoods=["gaussian"] * len(views),
            views_names=list(views),
            groups_names=[str(i) for i in range(len(groups))],
            samples_names=[[str(row) for row in rows] for rows in groups],
            features_names=[[f"{role}{i}" for i in range(parts[0].shape[1])] for role, parts in views.items()],
        )
        model.set_model_options(factors=n_factors, ard_factors=True, ard_weights=True, spikeslab_weights=True)
        model.set_train_options(
            iter=self.n_iterations,
            convergence_mode=self.convergence,
            seed=self.random_state,
            quiet=not self.runtime.progress,
        )
        model.build()
        model.run()
        if not model.model.trained:  # it keeps Ctrl-C to itself
            raise KeyboardInterrupt
        z = np.empty((pair.n_obs, n_factors))
        z[np.concatenate(groups)] = model.model.nodes["Z"].getExpectation()
        return z


def values(cells: Cells, at: np.ndarray) -> np.ndarray:
    """Features of the cells at these rows, dense, NaN where a row is −1, (n, n_vars) float64."""
    out: Any = np.full((len(at), cells.n_vars), np.nan)
    there = np.flatnonzero(at >= 0)
    for here in slices(len(there)):
        out[there[here]] = cells.dense(at[there[here]])
    return out
