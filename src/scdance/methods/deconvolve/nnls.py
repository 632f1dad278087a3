"""Non-negative least squares on mean profiles: the floor of deconvolution."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np

from scdance._checks import InputError
from scdance._core.cells import Cells
from scdance._core.method import Method
from scdance.pp import Recipe, blocks, gram_nnls, group_moments

RATIO = 1.25  # natural logarithm by which a gene of one type exceeds the mean of the others to be informative
TINY = 1e-6  # added to both before they are compared
NOISIEST = 0.99  # quantile of the dispersion within types above which a gene is left out
BLOCK = 2048  # spots whose covariances are held at once: 20 types take 6.6 MB
RAREST = 0.01  # of the mean gene: below, all genes weigh the same


class NNLS(Method):
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

    genes: Literal["all", "informative"] = "all"
    weights: Literal["poisson", "none"] = "poisson"
    size: Literal["keep", "unit"] = "keep"
    n_boot: int = 50

    cite = "Lawson1974"
    needs = ("counts",)
    uses = ("ref.labels",)
    control = True
    skips_missing = True
    fit_on = ("ref",)
    recipe = Recipe(filter_genes={"min_counts": 1})

    def fit(self, *, ref: Cells) -> Self:
        mean, dispersion = _profiles(ref)
        kept = ~np.char.startswith(np.char.lower(ref.var_names.astype(str)), "mt-")
        if self.genes == "informative":
            kept &= _informative(mean, dispersion)
        if kept.sum() < 2 * len(mean) or (mean[:, kept].sum(axis=1) == 0).any():  # too few to tell the types apart
            kept = np.ones(ref.n_vars, dtype=bool)
        self.profiles_ = (mean / mean.sum(axis=1, keepdims=True) if self.size == "unit" else mean)[:, kept]
        self.genes_ = np.flatnonzero(kept)
        self.notes_ = {"n_genes": int(kept.sum())}
        return self

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        there = slice(None) if cells.present is None else cells.present[self.genes_]
        profiles, columns = self.profiles_[:, there].astype(np.float64), self.genes_[there]
        if (profiles.sum(axis=1) == 0).any():
            msg = f"Only {len(columns)} of the {len(self.genes_)} genes are there, and some types have none of them."
            raise InputError(msg)
        weighted = profiles * self._weights(profiles)
        h = weighted @ profiles.T
        side = np.zeros((cells.n_vars, len(h)), dtype=np.float32)
        side[columns] = weighted.T
        c = np.concatenate([block @ side for _, block in blocks(cells.x)]).astype(np.float64)
        scale = np.sqrt(np.diag(h))  # types of equal length, so that rare and common ones settle alike
        h, c = h / np.outer(scale, scale), c / scale
        b = gram_nnls(h, c)
        seen = (c > 0).any(axis=1)
        shares = _shares(b / scale)
        result = {"abundance": b / scale}
        if self.n_boot:
            result["sd"] = self._sd(b, h, c, weighted / scale[:, None], profiles / scale[:, None], scale)
        for part in (shares, *(result[name] for name in ("sd",) if name in result)):
            part[~seen] = np.nan  # no count of any gene that tells: no evidence
        top = np.where(seen, np.where(seen[:, None], shares, 0).argmax(axis=1), -1)
        return {**result, "proportions": shares, "top": top}

    def _weights(self, profiles: np.ndarray) -> np.ndarray:
        """Square of the weight of each gene."""
        if self.weights == "none":
            return np.ones(profiles.shape[1])
        mean = profiles.mean(axis=0)
        return 1 / (mean + RAREST * mean.mean())

    def _sd(
        self, b: np.ndarray, h: np.ndarray, c: np.ndarray, weighted: np.ndarray, profiles: np.ndarray, scale: np.ndarray
    ) -> np.ndarray:
        """Standard deviation of the shares over draws of Poisson counts with the fitted means.

        c is a sum over genes of counts times (weighted profile); with counts of mean and variance b·profile its
        covariance is Σ_m b_m T_m. All spots share the random numbers, so each is what it would be alone.
        """
        n_types = len(h)
        t = np.einsum("mg,kg,lg->mkl", profiles, weighted, weighted, optimize=True).reshape(n_types, -1)
        draws = np.random.default_rng([self.random_state, 1]).standard_normal((self.n_boot, n_types))
        mean = b @ h
        out = np.empty_like(b)
        for start in range(0, len(b), BLOCK):
            rows = slice(start, start + BLOCK)
            covariance = (b[rows] @ t).reshape(-1, n_types, n_types)
            values, vectors = np.linalg.eigh(covariance)  # not Cholesky: a spot of one type has little rank
            root = vectors * np.sqrt(np.maximum(values, 0))[:, None, :]
            total, square = np.zeros_like(b[rows]), np.zeros_like(b[rows])
            for z in draws:
                drawn = gram_nnls(h, mean[rows] + root @ z, start=b[rows])
                shares = _shares(drawn / scale)
                total += shares
                square += shares**2
            out[rows] = np.sqrt(np.maximum(square / self.n_boot - (total / self.n_boot) ** 2, 0))
        return out


def _shares(b: np.ndarray) -> np.ndarray:
    """Rows divided by their sum, equal shares where it is 0."""
    total = b.sum(axis=1, keepdims=True)
    return np.where(total > 0, b / np.where(total > 0, total, 1), 1 / b.shape[1])


def _profiles(ref: Cells) -> tuple[np.ndarray, np.ndarray]:
    """Mean counts of each type, (n_types, n_vars), and variance over mean within the types, averaged, (n_vars,)."""
    found = group_moments(ref.x, ref.labels, len(ref.categories))
    n, mean = found.n[:, None], found.mean
    several = (n > 1).ravel()
    variance = np.maximum(found.square - n * mean**2, 0)[several] / (n[several] - 1)
    ratio = np.divide(variance, mean[several], out=np.zeros_like(variance), where=mean[several] > 0)
    return mean, ratio.mean(axis=0) if several.any() else np.zeros(ref.n_vars)


def _informative(mean: np.ndarray, dispersion: np.ndarray) -> np.ndarray:
    """Genes that tell the types apart and do not vary much within them, (n_vars,) bool."""
    others = (mean.sum(axis=0) - mean) / max(len(mean) - 1, 1)
    kept = (np.log((mean + TINY) / (others + TINY)) > RATIO).any(axis=0)
    if kept.any() and dispersion.any():
        kept &= dispersion <= np.quantile(dispersion[kept], NOISIEST)
    return kept
