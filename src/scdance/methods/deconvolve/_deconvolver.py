"""What methods of deconvolution share: profiles of the types, the genes that tell them apart, and shares."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np

from scdance._checks import InputError
from scdance._core.cells import Cells
from scdance._core.method import Method
from scdance.pp import Recipe, group_moments

RATIO = 1.25  # natural logarithm by which a gene of one type exceeds the mean of the others to be informative
TINY = 1e-6  # added to both before they are compared
NOISIEST = 0.99  # quantile of the dispersion within types above which a gene is left out
RAREST = 0.01  # of the mean gene: below, all genes weigh the same


class Deconvolver(Method):
    """Base of methods that explain the counts of a spot by profiles of types.

    Parameters
    ----------
    genes
        "all": every gene that both have, without mitochondrial ones; "informative": of these, those that one type
        has e^1.25 times as much of as the others on average, without the 1 % that vary most within types.
    size
        "keep": a type with twice the counts per cell needs half the cells, so shares are of cells; "unit":
        profiles are made to sum to 1, so shares are of RNA.
    """

    genes: Literal["all", "informative"] = "all"
    size: Literal["keep", "unit"] = "keep"

    needs = ("counts",)
    uses = ("ref.labels",)
    skips_missing = True
    fit_on = ("ref",)
    recipe = Recipe(filter_genes={"min_counts": 1e-12})  # any: profiles in a table may be of any unit

    def fit(self, *, ref: Cells) -> Self:
        """Learn `profiles_`, mean counts of each type over the kept genes, and their columns `genes_`."""
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

    def at_hand(self, cells: Cells) -> tuple[np.ndarray, np.ndarray]:
        """Profiles over the genes that these cells have, (n_types, n_genes) float64, and their columns."""
        there = slice(None) if cells.present is None else cells.present[self.genes_]
        profiles, columns = self.profiles_[:, there].astype(np.float64), self.genes_[there]
        if (profiles.sum(axis=1) == 0).any():
            msg = f"Only {len(columns)} of the {len(self.genes_)} genes are there, and some types have none of them."
            raise InputError(msg)
        return profiles, columns


def poisson_weights(profiles: np.ndarray) -> np.ndarray:
    """One over the mean of each gene, so that the noise of counts weighs the same everywhere, (n_genes,)."""
    mean = profiles.mean(axis=0)
    return 1 / (mean + RAREST * mean.mean())


def noise_tensor(profiles: np.ndarray, weighted: np.ndarray) -> np.ndarray:
    """What one cell of each type adds to the covariance of Poisson counts times weightedᵀ, (n_types, n_types²)."""
    return np.einsum("mg,kg,lg->mkl", profiles, weighted, weighted, optimize=True).reshape(len(profiles), -1)


def noise_roots(amounts: np.ndarray, tensor: np.ndarray) -> np.ndarray:
    """Roots of the covariances of spots with so many cells of each type, (n, n_types, n_types)."""
    n_types = len(tensor)
    values, vectors = np.linalg.eigh((amounts @ tensor).reshape(-1, n_types, n_types))
    return vectors * np.sqrt(np.maximum(values, 0))[:, None, :]  # not Cholesky: a spot of one type has little rank


def result_of(abundance: np.ndarray, seen: np.ndarray, **more: np.ndarray) -> dict[str, Any]:
    """The parts of a result; a spot without a count of any gene that tells (not `seen`) has no shares."""
    proportions = shares(abundance)
    for part in (proportions, *more.values()):
        part[~seen] = np.nan
    top = np.where(seen, np.where(seen[:, None], proportions, 0).argmax(axis=1), -1)
    return {"abundance": abundance, "proportions": proportions, "top": top, **more}


def shares(b: np.ndarray) -> np.ndarray:
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
