"""Non-negative least squares on mean profiles: the floor of deconvolution."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from scdance._core.cells import Cells
from scdance.pp import blocks, gram_nnls

from ._deconvolver import Deconvolver, noise_roots, noise_tensor, poisson_weights, result_of, shares

BLOCK = 2048  # spots whose covariances are held at once: 20 types take 6.6 MB


class NNLS(Deconvolver):
    """Fit each spot by a non-negative sum of the types' mean profiles [Lawson1974]_.

    The counts of a spot are explained as so many average cells of each type, by weighted least squares: a gene
    weighs less the more counts, and so the more noise, it has. The shares are the fitted amounts divided by their
    sum. Their standard deviation comes from a parametric bootstrap, in which the spot's fitted counts are drawn
    again as Poisson counts.

    When to use
    -----------
    For a first look, on any tissue: seconds for 100,000 spots, nothing to tune, and no coordinates needed. A
    method that does not beat it is not worth its time.

    When not
    --------
    Where neighbouring spots should inform each other (few counts per spot), or where the protocols of spots and
    reference differ strongly between genes.

    Differs from the paper
    ----------------------
    The algorithm is coordinate descent on the normal equations, the same for all spots; it ends at the solution of
    Lawson and Hanson's active sets. All genes are used: on spots mixed of real cells that was nearer to the truth
    than the genes that tell types apart. The bootstrap draws the products of counts and profiles, which decide the
    solution, from the normal distribution with the mean and covariance that Poisson counts give them.

    Parameters
    ----------
    genes
        "all": every gene that both have, without mitochondrial ones; "informative": of these, those that one type
        has e^1.25 times as much of as the others on average, without the 1 % that vary most within types.
    weights
        "poisson": one over the mean of the gene, so that noise weighs the same everywhere; "none": equal.
    size
        "keep": a type with twice the counts per cell needs half the cells, so shares are of cells; "unit":
        profiles are made to sum to 1, so shares are of RNA.
    n_boot
        Draws of the bootstrap; 0 leaves the standard deviation out.
    """

    weights: Literal["poisson", "none"] = "poisson"
    n_boot: int = 50

    cite = "Lawson1974"
    control = True

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        profiles, columns = self.at_hand(cells)
        weighted = profiles * poisson_weights(profiles) if self.weights == "poisson" else profiles
        h = weighted @ profiles.T
        side = np.zeros((cells.n_vars, len(h)), dtype=np.float32)
        side[columns] = weighted.T
        c = np.concatenate([block @ side for _, block in blocks(cells.x)]).astype(np.float64)
        scale = np.sqrt(np.diag(h))  # types of equal length, so that rare and common ones settle alike
        h, c = h / np.outer(scale, scale), c / scale
        b = gram_nnls(h, c)
        seen = (c > 0).any(axis=1)
        more = {}
        if self.n_boot:
            more["sd"] = self._sd(b, h, c, weighted / scale[:, None], profiles / scale[:, None], scale)
        return result_of(b / scale, seen, **more)

    def _sd(
        self, b: np.ndarray, h: np.ndarray, c: np.ndarray, weighted: np.ndarray, profiles: np.ndarray, scale: np.ndarray
    ) -> np.ndarray:
        """Standard deviation of the shares over draws of Poisson counts with the fitted means.

        c is a sum over genes of counts times (weighted profile); with counts of mean and variance b·profile its
        covariance is Σ_m b_m T_m. All spots share the random numbers, so each is what it would be alone.
        """
        n_types = len(h)
        t = noise_tensor(profiles, weighted)
        draws = np.random.default_rng([self.random_state, 1]).standard_normal((self.n_boot, n_types))
        mean = b @ h
        out = np.empty_like(b)
        for start in range(0, len(b), BLOCK):
            rows = slice(start, start + BLOCK)
            root = noise_roots(b[rows], t)
            total, square = np.zeros_like(b[rows]), np.zeros_like(b[rows])
            for z in draws:
                drawn = gram_nnls(h, mean[rows] + root @ z, start=b[rows])
                found = shares(drawn / scale)
                total += found
                square += found**2
            out[rows] = np.sqrt(np.maximum(square / self.n_boot - (total / self.n_boot) ** 2, 0))
        return out
