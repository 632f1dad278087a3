"""BANKSY: expression beside that of the neighbourhood, and how it changes around the spot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Self

import numpy as np
import scipy.sparse as sp

from scdance._checks import InputError, package, whole_number
from scdance._core.cells import Cells
from scdance.graph import spatial
from scdance.pp import Recipe

from ._domains import Domains
from ._mixed import mixed_rows, scaled_components


class Banksy(Domains):
    """Divide a tissue by expression, its mean among neighbours, and its change around each spot [Singhal2024]_.

    Each gene is seen three times: in the spot itself, as the mean of the neighbours, and as the magnitude of the
    azimuthal Gabor moment Σ_j w_ij (x_j − x̄_i) exp(iφ_ij), with φ the direction of neighbour j: large where the gene is
    higher on one side of the spot than on the other. Each of the three is z-scored and weighs √(1−λ),
    √(2λ/3) and √(λ/3). What follows is principal components and a partition of them. Nothing is trained.

    When to use
    -----------
    For regions of any tissue, spots or single cells, with a hundred genes or thousands: it takes seconds, and time and
    memory grow with the number of spots. With `spatial_weight=0.2` it finds types of single cells that their
    surroundings help to tell.

    When not
    --------
    Where domains are thinner than three spots, which the mean of 15 neighbours blurs. With a few dozen genes:
    ``"smoothed_pca"`` found the regions of a cortex with 33 genes better.

    Differs from the paper
    ----------------------
    With `n_clusters` the components are divided by a mixture of Gaussians with one covariance; communities of their
    graph (``preset="paper"``) cut across layers. Ten components are kept, not 20, which the mixture divides more alike
    from run to run. Weights fall with the distance as exp(−r²/2σ²), σ being the median distance of all neighbours, and
    sum to 1; the moment uses the same neighbours as the mean. The genes are those of the largest deviance.

    Parameters
    ----------
    n_neighbors
        Nearest spots whose expression counts.
    spatial_weight
        λ, the part of the variance that comes from the neighbours, in [0, 1]: 0.8 for domains, 0.2 for cell types;
        0 leaves principal components of z-scored expression.
    harmonics
        Number of moments: the m-th is that of exp(imφ) and weighs half of the one before it; 0 leaves the mean alone.
    decay
        "gaussian": near neighbours weigh more; "uniform": all the same.
    n_top_genes
        Genes with the largest deviance that are kept; None: all.
    n_components
        Number of principal components.
    partition
        "mixture": Gaussians with one covariance, or without `n_clusters` Leiden; "leiden": with `n_clusters`, too, by
        search of the resolution.
    """

    n_neighbors: int = 15
    spatial_weight: float = 0.8
    harmonics: int = 1
    decay: Literal["gaussian", "uniform"] = "gaussian"
    n_top_genes: int | None = 2000
    n_components: int = 10
    partition: Literal["mixture", "leiden"] = "mixture"

    cite = "Singhal2024"
    presets = {"paper": {"partition": "leiden", "n_components": 20, "refine": 0}}

    @property
    def recipe(self) -> Recipe:
        return Recipe(normalize_total={}, log1p={}, select_genes={"n_top": self.n_top_genes})

    def check(self) -> None:
        super().check()
        if self.partition == "leiden":
            package("igraph", extra="leiden", why="Leiden clustering")
        whole_number(self.n_neighbors, "n_neighbors", least=1)
        whole_number(self.harmonics, "harmonics")
        if not 0 <= self.spatial_weight <= 1:
            msg = (
                f"spatial_weight={self.spatial_weight!r}, but it must lie between 0 (expression of the spot alone) and "
                "1 (of its neighbours alone); 0.8 is usual for domains."
            )
            raise InputError(msg)

    def fit(self, *, cells: Cells) -> Self:
        weights = block_weights(self.spatial_weight, self.harmonics)
        operators = moments(
            cells.coords, self.n_neighbors, slices=cells.slice, harmonics=self.harmonics, decay=self.decay
        )
        used = [m for m, weight in enumerate(weights) if weight > 0]
        parts = [part for m in used for part in operators[m]]

        def dense_blocks() -> Iterator[np.ndarray]:
            for block in mixed_rows(cells.x, parts):
                left = iter(block)
                yield np.hstack([_magnitude([next(left) for _ in operators[m]]) for m in used])

        z = scaled_components(
            dense_blocks,
            (cells.n_obs, cells.n_vars * len(used)),
            self.n_components,
            weights=np.repeat(np.sqrt(weights[used]), cells.n_vars),
            random_state=self.random_state,
        )
        self.divide(z, cells, self.partition)
        return self


def block_weights(spatial_weight: float, harmonics: int) -> np.ndarray:
    """Part of the variance of the spot itself, of the mean and of each moment, (2 + harmonics,), sums to 1."""
    halves = 0.5 ** np.arange(harmonics + 1)
    return np.concatenate([[1 - spatial_weight], spatial_weight * halves / halves.sum()])


def moments(
    coords: np.ndarray,
    n_neighbors: int,
    *,
    slices: np.ndarray | None = None,
    harmonics: int = 1,
    decay: str = "gaussian",
) -> list[tuple[sp.csr_matrix, ...]]:
    """Operators, (n, n), of the spot itself, the mean of its neighbours, and each moment's real and imaginary part.

    A moment is taken of the difference to the mean of the neighbours, so that it is 0 where a gene is the same
    everywhere, also at the border of the tissue. Directions are those of the first two coordinates; a neighbour on
    the same place has none.
    """
    near = spatial(coords, n_neighbors=n_neighbors, slices=slices)
    n, place, distance = len(coords), near.indices, near.data.astype(np.float64)
    row = np.repeat(np.arange(n), np.diff(near.indptr))
    width = np.median(distance) if len(distance) and np.median(distance) > 0 else 1.0
    # relative to the nearest neighbour, so that a spot far from all does not lose them to rounding
    nearest = np.full(n, np.inf)
    np.minimum.at(nearest, row, distance)
    away = (distance**2 - nearest[row] ** 2) / (2 * width**2) if decay == "gaussian" else np.zeros(len(distance))
    w = np.exp(-away)
    w /= np.bincount(row, w, minlength=n)[row]

    def operator(values: np.ndarray) -> sp.csr_matrix:
        return sp.csr_matrix((values.astype(np.float32), place, near.indptr), shape=(n, n))

    out: list[tuple[sp.csr_matrix, ...]] = [(sp.identity(n, dtype=np.float32, format="csr"),), (operator(w),)]
    off = np.asarray(coords, dtype=np.float64)[place, :2] - np.asarray(coords, dtype=np.float64)[row, :2]
    length = np.hypot(off[:, 0], off[:, 1])
    direction = np.divide(off[:, 0] + 1j * off[:, 1], length, out=np.zeros(len(off), dtype=complex), where=length > 0)
    for m in range(1, harmonics + 1):
        turned = w * direction**m
        offset = np.bincount(row, turned.real, minlength=n) + 1j * np.bincount(row, turned.imag, minlength=n)
        turned -= w * offset[row]
        out.append((operator(turned.real), operator(turned.imag)))
    return out


def _magnitude(parts: list[np.ndarray]) -> np.ndarray:
    """Magnitude of a moment from its real and imaginary part; what has one part passes unchanged."""
    return parts[0] if len(parts) == 1 else np.hypot(*parts)
