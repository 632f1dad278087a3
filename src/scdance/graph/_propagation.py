"""Messages between cells and their features without weights to learn: as many layers, computed once."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np

from scdance._checks import whole_number


class Propagation(NamedTuple):
    """States of the features in each layer, from which those of any cell follow.

    Attributes
    ----------
    features
        State of each feature before each layer, (n_layers, n_features, n_features) float32.
    scaling
        Mean and standard deviation of what cells hear, and of their states, in each layer, (n_layers, 4) float64.
    """

    features: np.ndarray
    scaling: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, n_layers: int = 4) -> Self:
        """Propagate over the dense graph of cells and features whose weights are `x`, (n_obs, n_features).

        Features start as one-hot, cells at 0. In each layer a cell hears the sum over its features, and a feature that
        over its cells, of state times weight; both are brought to mean 0 and variance 1 as a whole, averaged with the
        former states, and brought there again.

        Examples
        --------
        >>> import numpy as np
        >>> from scdance import graph
        >>> x = np.random.default_rng(0).normal(size=(50, 6))
        >>> graph.Propagation.of(x, n_layers=3).cells(x).shape
        (2, 50, 6)
        """
        whole_number(n_layers, "n_layers", least=1)
        x = np.asarray(x, dtype=np.float32)
        feature, cell = np.eye(x.shape[1], dtype=np.float32), np.zeros_like(x)
        features, scaling = [], []
        for _ in range(n_layers):
            features.append(feature)
            heard = x.T @ cell
            cell, told = _step(x, cell, feature, None)
            scaling.append(told)
            mixed = 0.5 * feature + 0.5 * (_standard(heard) if heard.any() else heard)
            feature = _standard(mixed)
        return cls(np.stack(features), np.array(scaling))

    def cells(self, x: np.ndarray) -> np.ndarray:
        """States of cells after each layer but the first, (n_layers − 1, n_obs, n_features) float32.

        The first is left out where there are more: it is the weights themselves, standardised. `x` are the weights of
        any cells.
        """
        x = np.asarray(x, dtype=np.float32)
        cell, out = np.zeros_like(x), []
        for feature, told in zip(self.features, self.scaling, strict=True):
            cell, _ = _step(x, cell, feature, told)
            out.append(cell)
        return np.stack(out[1:] or out)


def _step(
    x: np.ndarray, cell: np.ndarray, feature: np.ndarray, told: np.ndarray | None
) -> tuple[np.ndarray, tuple[float, ...]]:
    """States of cells after a layer, by means and standard deviations that are given, or else their own."""
    heard = x @ feature
    m1, s1 = _moments(heard) if told is None else told[:2]
    mixed = 0.5 * cell + 0.5 * ((heard - m1) / s1).astype(np.float32)
    m2, s2 = _moments(mixed) if told is None else told[2:]
    return ((mixed - m2) / s2).astype(np.float32), (m1, s1, m2, s2)


def _standard(x: np.ndarray) -> np.ndarray:
    mean, sd = _moments(x)
    return ((x - mean) / sd).astype(np.float32)


def _moments(x: np.ndarray) -> tuple[float, float]:
    return float(x.mean(dtype=np.float64)), max(float(x.std(dtype=np.float64)), 1e-12)
