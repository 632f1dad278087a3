"""Principal components of two modalities: the floor of joint embedding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self

import numpy as np

from scdance._core.cells import Cells, Pair
from scdance._core.method import Method
from scdance.pp import PCA as Components
from scdance.pp import Recipe, project

ROWS = 1024  # densified at once


class PCA(Method):
    """Principal components of both modalities [Lance2022]_.

    The most variable features of each modality, normalised, are put side by side, and the first principal
    components of the whole are the embedding; or each modality gets its own components, put side by side.

    When to use
    -----------
    As the floor of every table: a method that does not beat it is not needed.

    When not
    --------
    Modalities on different scales: with ``"concat_then_pca"`` the one with more variance speaks for both.

    Differs from the paper
    ----------------------
    Proteins are normalised by centred log ratio and open chromatin by term frequency and inverse document frequency,
    where the competition gave normalised values. A cell that lacks a modality is put where its components are most
    probable, given the other and the probabilistic model of principal components [Tipping1999]_; with
    ``"pca_then_concat"``, where the modalities know nothing of each other, at the mean of the one it lacks.

    Parameters
    ----------
    mode
        "concat_then_pca" or "pca_then_concat".
    n_components
        Dimensions: of the whole, or of each modality.
    n_top_features
        Features of each modality with the largest variance that are kept; None: all.
    """

    mode: Literal["concat_then_pca", "pca_then_concat"] = "concat_then_pca"
    n_components: int = 10
    n_top_features: int | None = 1000

    cite = "Lance2022"
    needs = ("lognorm",)
    control = True
    presets = {"dissertation": {"mode": "pca_then_concat", "n_components": 50}}

    @property
    def recipe(self) -> dict[str, Recipe]:  # type: ignore[override]
        chosen = {"n_top": self.n_top_features, "flavor": "variance"}
        return {
            "rna": Recipe(normalize_total={}, log1p={}, select_genes=chosen),
            "prot": Recipe(clr={}),
            "atac": Recipe(select_genes={"n_top": self.n_top_features}, tfidf={}),
        }

    def fit(self, *, pair: Pair) -> Self:
        self.means_ = {"source": _mean(pair.source), "target": _mean(pair.target)}
        self.components_ = {}
        self.priors_ = {}
        for part in self._parts():
            mean = np.concatenate([self.means_[role] for role in part])
            fitted = Components(self.n_components, random_state=self.random_state)
            fitted.fit(lambda part=part: self._blocks(pair, pair.both, part), (len(pair.both), len(mean)))
            name = "+".join(part)
            self.components_[name] = fitted.components_
            self.priors_[name] = _noise_over_signal(self._blocks(pair, pair.both, part), mean, fitted.components_)
        self.notes_ = {"n_both": len(pair.both), "n_one": pair.n_obs - len(pair.both)}
        return self

    def predict(self, *, pair: Pair) -> dict[str, Any]:
        scores = []
        for part in self._parts():
            mean, components = np.concatenate([self.means_[role] for role in part]), self.components_["+".join(part)]
            z = project(self._blocks(pair, pair.at, part), mean, components)
            start = 0
            for role, column in zip(part, (0, 1), strict=False):
                end = start + len(self.means_[role])
                lacks = pair.at[:, column] < 0 if len(part) == 2 else np.zeros(pair.n_obs, dtype=bool)
                there = np.r_[0:start, end : len(mean)]
                z[lacks] = _most_probable(z[lacks], components[:, there], self.priors_["+".join(part)])
                start = end
            scores.append(z)
        return {"embedding": np.hstack(scores)}

    def _parts(self) -> list[tuple[str, ...]]:
        """Modalities whose features are decomposed together."""
        return [("source", "target")] if self.mode == "concat_then_pca" else [("source",), ("target",)]

    def _blocks(self, pair: Pair, at: np.ndarray, part: tuple[str, ...]) -> Iterator[np.ndarray]:
        """Features of the cells at these rows of source and target, those of a lacking modality at their mean."""
        sides = {"source": (pair.source, at[:, 0]), "target": (pair.target, at[:, 1])}
        for start in range(0, len(at), ROWS):
            out = []
            for role in part:
                cells, rows = sides[role]
                rows = rows[start : start + ROWS]
                block = np.tile(self.means_[role], (len(rows), 1))
                if (rows >= 0).any():
                    block[rows >= 0] = cells.dense(rows[rows >= 0])
                out.append(block)
            yield np.hstack(out)


def _mean(cells: Cells) -> np.ndarray:
    """Mean of each feature over all cells that have the modality, (n_vars,) float32."""
    return (sum(block.sum(axis=0, dtype=np.float64) for block in cells.dense_blocks()) / cells.n_obs).astype(np.float32)


def _noise_over_signal(blocks: Iterator[np.ndarray], mean: np.ndarray, components: np.ndarray) -> np.ndarray:
    """Variance that a feature has beside the components, on average, over that of each component, (n_components,)."""
    n, of_scores, of_all = 0, np.zeros(len(components)), 0.0
    for block in blocks:
        n += len(block)
        of_all += float(((block - mean) ** 2).sum(dtype=np.float64))
        of_scores += (((block - mean) @ components.T) ** 2).sum(axis=0, dtype=np.float64)
    noise = max(of_all - of_scores.sum(), 0) / max(len(mean) - len(components), 1)
    return noise / np.maximum(of_scores, 1e-12 * max(of_all, 1e-12))


def _most_probable(products: np.ndarray, components: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Components of cells from the `products` of the features they have with their loadings (n_components, n_there).

    The posterior mean of Tipping1999 for a part of the features: z = (W Wᵀ + noise / signal)⁻¹ W x.
    """
    return np.linalg.solve(components @ components.T + np.diag(prior), products.T).T
