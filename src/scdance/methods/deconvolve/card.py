"""Deconvolution by non-negative least squares with shares that vary smoothly over the tissue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from scdance._checks import InputError, warn, whole_number
from scdance._core.cells import Cells
from scdance.pp import GaussKernel, blocks

from ._deconvolver import Deconvolver, noise_roots, noise_tensor, poisson_weights, result_of, shares

SIZE = 0.1  # mean that counts and profiles are scaled to: shares then sum to about 1, which the priors rely on
SHAPE = 1.0  # α of the inverse gamma prior of λ; its β is n / 2
FIRST_SIGMA2 = 0.1
FEWEST = 5  # iterations
SHALLOW = 100  # counts below which the authors leave a spot out
BLOCK = 2048  # spots whose types are updated at once, so that their values stay in the processor's cache
DRAWS = 8  # of the bootstrap at once
DRAWN = 1e-4  # tolerance of the bootstrap: small beside a standard deviation
TINY = 1e-300
PAPER = {"genes": "informative", "weights": "none", "strength": None, "update": "multiplicative", "tol": 1e-4}

Product = Callable[[np.ndarray], np.ndarray]


class CARD(Deconvolver):
    """Fit all spots together, with amounts that vary smoothly over the tissue [Ma2022]_.

    The counts of a spot are a non-negative sum of the types' mean profiles, as in ``"nnls"``, and the amounts of
    each type follow a conditional autoregression: a spot expects the mean of the others, weighted by a wide
    Gaussian kernel of their distance. How much that counts is chosen from a few values of φ by the objective; the
    noise and the spread of each type are estimated beside the amounts.

    When to use
    -----------
    Spots of at most a few hundred counts in a tissue whose composition changes slowly. On such simulated slices the
    error was 0.86 times that of ``"nnls"`` at 50 counts per spot, 0.92 at 100 and 0.97 at 300. A third to a half of
    the gain at 50 and 100 is spatial; the rest stays when places are exchanged, and comes from drawing shares to those
    of the tissue. `docs/dev/card_spatial_gain.py` measures it.

    When not
    --------
    From about 1,000 counts per spot on: it equals ``"nnls"`` there, which is quicker. Where neighbours have little in
    common: it is up to 1 % worse than ``"nnls"`` from 300 counts on. For types that are in few places: their shares
    are drawn to those around.

    Differs from the paper
    ----------------------
    Genes and spots are weighted, so that the noise of counts weighs the same everywhere: genes by one over their
    mean, spots by their counts. All genes are used, and no spot is left out for few counts. The kernel of many spots
    is scaled down, so that the smoothing does not grow with their number, see `strength`. Amounts are updated by
    coordinate descent, which settles in a fraction of the authors' multiplicative steps, and start from equal shares
    instead of random ones. Profiles are plain means of a type's cells. ``preset="paper"`` has the authors' genes,
    weights, kernel, steps and stop; ``"dance"`` also the number of steps and the tolerance of DANCE's example, but
    neither λ nor the noise stay where they start. φ = 0.99 won in all data that we saw, as the objective leaves out a
    term that depends on φ; ``phi_criterion="marginal"`` adds it. The standard deviation, which the paper does not
    have, says how far redrawn counts scatter the shares; what smoothing draws them aside is not in it.

    Parameters
    ----------
    genes
        "all": every gene that both have, without mitochondrial ones; "informative": of these, those that one type
        has e^1.25 times as much of as the others on average, without the 1 % that vary most within types.
    weights
        "poisson": a gene counts one over its mean, a spot as much as it has counts; "none": all count the same.
    size
        "keep": a type with twice the counts per cell needs half the cells, so shares are of cells; "unit":
        profiles are made to sum to 1, so shares are of RNA.
    location_free
        Leave out the coordinates; without any in the object that is done by itself, with a warning.
    sigma
        Width of the kernel, as part of the longest side of the slice.
    strength
        Most that the surroundings weigh: a kernel of larger mean degree is scaled down to this. None: as it is, as in
        the paper; the more spots a slice has, the smoother they then get.
    phi
        Values from 0 to below 1 to choose from: how strongly spots follow their surroundings.
    phi_criterion
        "objective": the largest objective wins, as in the paper; "marginal": with the logarithm of the
        determinant of the prior, which makes the values of φ comparable.
    update
        "coordinate": each type is set to its best value in turn; "multiplicative": the authors' steps, which stay
        above 0.
    max_iter
        Most iterations.
    tol
        Stop where the objective rises by less than this part, or amounts, which sum to about 1, change by less.
    n_boot
        Draws of the bootstrap; 0 leaves the standard deviation out.
    """

    weights: Literal["poisson", "none"] = "poisson"
    location_free: bool = False
    sigma: float = 0.1
    strength: float | None = 50.0
    phi: tuple[float, ...] = (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
    phi_criterion: Literal["objective", "marginal"] = "objective"
    update: Literal["coordinate", "multiplicative"] = "coordinate"
    max_iter: int = 1000
    tol: float = 1e-6
    n_boot: int = 24

    cite = "Ma2022"
    uses = ("ref.labels", "coords", "slice")
    order_free = True
    exempt = {"predicts_a_cell_on_its_own": "the spots of a slice inform each other"}
    presets = {"paper": PAPER, "dance": {**PAPER, "max_iter": 10, "tol": 1e-10}}

    def __post_init__(self) -> None:
        if self.location_free:  # coordinates that are not wanted cannot be wrong
            self.uses = ("ref.labels", "slice")  # type: ignore[misc]

    def check(self) -> None:
        if not (self.phi and all(0 <= phi < 1 for phi in self.phi)):
            msg = f"phi={self.phi!r}, but it must be one or more values from 0 to below 1."
            raise InputError(msg)
        whole_number(self.max_iter, "max_iter", least=1)
        whole_number(self.n_boot, "n_boot")
        for name, value in (("sigma", self.sigma), ("strength", self.strength), ("tol", self.tol)):
            if value is not None and not value > 0:
                msg = f"{name}={value!r}, but it must be above 0."
                raise InputError(msg)

    def check_cells(self, cells: Cells) -> None:
        if cells.coords is None and not self.location_free:
            warn(
                "There are no coordinates, or all of them are 0, so that CARD fits each spot by itself. Pass the key "
                "of `obsm` that holds them as `spatial_key=`, or `location_free=True` to do without."
            )

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        profiles, columns = self.at_hand(cells)
        gene_weights = poisson_weights(profiles) if self.weights == "poisson" else np.ones(len(columns))
        spots, total, seen = _spots(cells, profiles, columns, gene_weights, trusting=self.weights == "poisson")
        if not seen.any():
            return result_of(np.zeros((len(seen), len(profiles))), seen)
        here = None if self.location_free else _places(cells, seen)
        kernel = None if here is None else GaussKernel(here[0], self.sigma, groups=here[1])
        near = _Near.of(kernel, len(total), self.strength)
        phi = np.array(self.phi if kernel is not None else [0.0])
        start = np.full((len(total), len(phi), len(profiles)), 1 / len(profiles))
        found = _fit(spots, near, phi, start, self.update, self.tol, self.max_iter)
        score = found.objective.copy()
        if kernel is not None and self.phi_criterion == "marginal":
            score += [len(profiles) / 2 * kernel.logdet(each) for each in phi]
        best = len(score) - 1 - int(np.argmax(score[::-1]))  # the last of equal ones
        self._tell(found, phi, score, best, near, int((total < SHALLOW).sum()))
        v = found.v[:, best]
        result = {"abundance": v * (total * spots.unit)[:, None]}
        if self.n_boot:
            known = {"lam": found.lam[best], "sigma2": found.sigma2[best]}
            order = np.arange(len(v)) if here is None else np.lexsort((*here[0].T, here[1]))
            roots = _noise(profiles, gene_weights, spots, v, total)
            result["sd"] = self._sd(spots, near, phi[best], v, known, roots, order)
        whole = {name: np.zeros((len(seen), len(profiles))) for name in result}
        for name, value in result.items():
            whole[name][seen] = value
        return result_of(seen=seen, **whole)

    def _tell(self, found: _Found, phi: np.ndarray, score: np.ndarray, best: int, near: _Near, shallow: int) -> None:
        """Keep what the run record says of this call."""
        self.notes_ = {
            **self.notes_, "location_free": near.free, "phi": float(phi[best]), "phis": phi, "score_of_phi": score,
            "n_iter": found.n_iter, "sigma2": float(found.sigma2[best]), "lambda": found.lam[best],
            "b": found.b[best], "n_spots_below_100_counts": shallow,
        }  # fmt: skip

    def _sd(
        self, spots: _Spots, near: _Near, phi: float, v: np.ndarray, known: dict[str, Any], roots: Any, order: Any
    ) -> np.ndarray:
        """Standard deviation of the shares over draws of Poisson counts with the fitted means.

        As in ``nnls``, the products of counts and profiles are drawn, with the mean and covariance that Poisson
        counts give them; here every spot has its own numbers, as neighbours average theirs. They go by place and not
        by row, so that the order of the spots changes nothing. λ and the noise stay as they were estimated.
        """
        n, n_types = v.shape
        rng = np.random.default_rng([self.random_state, 1])
        sums, squares, left = np.zeros_like(v), np.zeros_like(v), self.n_boot
        while left:
            size = min(DRAWS, left)
            left -= size
            z = np.empty((n, size, n_types))
            z[order] = rng.standard_normal((1 if near.free else n, size, n_types))
            drawn = replace(spots, c=(v @ spots.h)[:, None] + np.einsum("nkl,nfl->nfk", roots, z))
            there = {name: np.repeat(value[None], size, axis=0) for name, value in known.items()}
            first = np.repeat(v[:, None], size, axis=1)
            again = _fit(
                drawn, near, np.full(size, phi), first, self.update, max(self.tol, DRAWN), self.max_iter, there
            )
            found = shares(again.v.reshape(-1, n_types)).reshape(n, size, n_types)
            sums += found.sum(axis=1)
            squares += (found**2).sum(axis=1)
        return np.sqrt(np.maximum(squares / self.n_boot - (sums / self.n_boot) ** 2, 0))


@dataclass(frozen=True)
class _Spots:
    """The data of the regression X ≈ V B, after weights and scale.

    Attributes
    ----------
    c, h
        X Bᵀ, (n, n_draws or 1, n_types), and B Bᵀ, (n_types, n_types).
    square
        Sum of squares of X, each spot by its trust.
    trust
        How much each spot counts, (n,), 1 on average.
    n_genes
        Columns of X.
    unit, scale
        Cells that 1 in V stands for, by count of the spot; factor of X Bᵀ from the scales of both.
    """

    c: np.ndarray
    h: np.ndarray
    square: float
    trust: np.ndarray
    n_genes: int
    unit: float
    scale: float


def _spots(
    cells: Cells, profiles: np.ndarray, columns: np.ndarray, weights: np.ndarray, *, trusting: bool
) -> tuple[_Spots, np.ndarray, np.ndarray]:
    """The data, the counts of each spot over these genes, and which spots have any; the others are left out."""
    root, n_genes = np.sqrt(weights), len(columns)
    side = np.zeros((cells.n_vars, len(profiles) + 2))
    side[columns] = np.column_stack([(profiles * weights).T, root, np.ones(n_genes)])
    every = np.zeros(cells.n_vars)
    every[columns] = weights
    sums = [np.column_stack([block @ side, block.multiply(block) @ every]) for _, block in blocks(cells.x)]
    found = np.concatenate(sums).astype(np.float64)
    seen = found[:, -2] > 0
    found = found[seen]
    total, c = found[:, -2], found[:, :-3] / found[:, -2:-1]
    trust = total / total.mean() if trusting and seen.any() else np.ones(len(total))
    scale_x = SIZE * n_genes / np.mean(found[:, -3] / total) if seen.any() else 1.0
    scale_b = SIZE / np.mean(profiles * root)
    scale = scale_x * scale_b
    square = float((trust * found[:, -1] / total**2).sum()) * scale_x**2
    h = scale_b**2 * (profiles * weights) @ profiles.T
    return _Spots(scale * c[:, None], h, square, trust, n_genes, scale_b / scale_x, scale), total, seen


def _places(cells: Cells, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Places of the seen spots, the longest side of each slice being 1, and their slices; None without any."""
    if cells.coords is None:
        return None
    coords = cells.coords[seen].copy()
    groups = np.zeros(len(coords), dtype=int) if cells.slice is None else cells.slice[seen]
    for group in np.unique(groups):
        rows = groups == group
        coords[rows] -= coords[rows].min(axis=0)
        coords[rows] /= coords[rows].max() or 1
    return coords, groups


def _noise(profiles: np.ndarray, weights: np.ndarray, spots: _Spots, v: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Roots of the covariances of c that Poisson counts with the fitted means give, (n, n_types, n_types)."""
    tensor, roots = noise_tensor(profiles, profiles * weights), np.empty((len(v), len(profiles), len(profiles)))
    for start in range(0, len(v), BLOCK):
        rows = slice(start, start + BLOCK)
        amount = spots.unit * spots.scale**2 * v[rows] / total[rows, None]
        roots[rows] = noise_roots(amount, tensor)
    return roots


@dataclass(frozen=True)
class _Near:
    """The prior D − φ W of the amounts: the degrees D, (n, 1, 1), and the product with W."""

    degree: np.ndarray
    product: Product
    free: bool

    @classmethod
    def of(cls, kernel: GaussKernel | None, n: int, strength: float | None) -> _Near:
        if kernel is None:
            return cls(np.zeros((n, 1, 1)), np.zeros_like, free=True)
        mean, flat = float(kernel.degree.mean()), kernel.matmul
        scale = 1.0 if strength is None or mean <= strength else strength / mean
        degree = scale * kernel.degree[:, None, None]
        return cls(degree, lambda v: scale * flat(v.reshape(n, -1)).reshape(v.shape), free=False)

    def mean(self, v: np.ndarray) -> np.ndarray:
        """The mean b = Vᵀ L 1 / 1ᵀ L 1 of each type; L 1 = (1 − φ) D, so φ drops out."""
        total = self.degree.sum()
        return (self.degree * v).sum(axis=0) / total if total else np.zeros(v.shape[1:])

    def roughness(self, v: np.ndarray, wv: np.ndarray, b: np.ndarray, phi: np.ndarray) -> np.ndarray:
        """T = (V − b)ᵀ L (V − b) of each type, (n_phi, n_types)."""
        apart = v - b
        return (apart * (self.degree * apart - phi[:, None] * (wv - self.degree * b))).sum(axis=0)


@dataclass
class _Found:
    """Solutions by φ: amounts (n, n_phi, n_types), objective, λ, b, σ², number of iterations."""

    v: np.ndarray
    objective: np.ndarray
    lam: np.ndarray
    b: np.ndarray
    sigma2: np.ndarray
    n_iter: np.ndarray


def _fit(
    spots: _Spots,
    near: _Near,
    phi: np.ndarray,
    v: np.ndarray,
    update: str,
    tol: float,
    max_iter: int,
    known: dict[str, np.ndarray] | None = None,
) -> _Found:
    """Maximise the posterior for several φ at once; with `known` λ and σ², of as many data, where they stay.

    A φ that has settled is taken out, so that the others cost less.
    """
    (n, n_phi, n_types), left = v.shape, np.arange(len(phi))
    empty = [np.full((n_phi, *more), np.nan) for more in ((), (n_types,), (n_types,), ())]
    out = _Found(np.empty_like(v), *empty, n_iter=np.zeros(n_phi, dtype=int))
    v, c = v.copy(), spots.c
    wv, b = near.product(v), np.zeros((n_phi, n_types))
    sigma2 = np.full(n_phi, FIRST_SIGMA2) if known is None else known["sigma2"]
    lam = np.ones((n_phi, n_types)) if known is None else known["lam"]
    rough, objective = near.roughness(v, wv, b, phi), np.full(n_phi, -np.inf if known is None else 0.0)
    for step in range(1, max_iter + 1):
        b = near.mean(v)
        if known is None:
            lam = (rough / 2 + n / 2) / (n / 2 + SHAPE + 1)
        before, last = v.copy(), objective
        _sweep(v, c, spots, near, (lam, sigma2, phi[left], b, wv), update)
        wv = near.product(v)
        if known is None:
            rough = near.roughness(v, wv, b, phi[left])
            sigma2 = _residual(spots, v) / (n * spots.n_genes)
            objective = _objective(spots, n, sigma2, lam, rough)
        rises = (objective > last) & (2 * np.abs(objective - last) < tol * np.abs(objective + last))
        settled = rises | (np.sqrt(((v - before) ** 2).mean(axis=(0, 2))) < tol)
        settled = (settled & (step > FEWEST)) | (step == max_iter)
        if not settled.any():
            continue
        done, stay = left[settled], ~settled
        out.v[:, done], out.b[done], out.lam[done] = v[:, settled], b[settled], lam[settled]
        out.sigma2[done], out.objective[done], out.n_iter[done] = sigma2[settled], objective[settled], step
        left, v, wv, lam, sigma2 = left[stay], v[:, stay], wv[:, stay], lam[stay], sigma2[stay]
        rough, objective = rough[stay], objective[stay]
        c = c if c.shape[1] == 1 else c[:, stay]
        if not len(left):
            break
    return out


def _sweep(
    v: np.ndarray, c: np.ndarray, spots: _Spots, near: _Near, state: tuple[np.ndarray, ...], update: str
) -> None:
    """Update one type after the other in place, the surroundings of each spot being those before the sweep."""
    lam, sigma2, phi, b, wv = state
    lam, sigma2, phi = lam.T[:, :, None], sigma2[:, None], phi[:, None]
    for start in range(0, len(v), BLOCK):
        rows = slice(start, start + BLOCK)
        here = np.ascontiguousarray(v[rows].transpose(2, 1, 0))  # (n_types, n_phi, n_rows)
        side = np.ascontiguousarray(c[rows].transpose(2, 1, 0))
        degree = near.degree[rows, 0, 0] / spots.trust[rows]
        pull = sigma2 * (phi * wv[rows].transpose(2, 1, 0) / spots.trust[rows] + degree * b.T[:, :, None])
        push = sigma2 * (degree * here + phi * degree * b.T[:, :, None])
        for k in range(len(here)):
            fitted = np.tensordot(spots.h[k], here, 1)
            if update == "multiplicative":
                here[k] *= (lam[k] * side[k] + pull[k]) / (lam[k] * fitted + push[k] + TINY)
            else:
                slope = lam[k] * (fitted - side[k]) + push[k] - pull[k]
                here[k] = np.maximum(here[k] - slope / (lam[k] * spots.h[k, k] + sigma2 * degree), 0)
        v[rows] = here.transpose(2, 1, 0)


def _residual(spots: _Spots, v: np.ndarray) -> np.ndarray:
    """‖X − V B‖² with the spots by their trust, (n_phi,)."""
    trusted = spots.trust[:, None, None] * v
    crossed = np.einsum("nfk,nfl->fkl", trusted, v, optimize=True)
    square = spots.square - 2 * (spots.c * trusted).sum(axis=(0, 2)) + (crossed * spots.h).sum(axis=(1, 2))
    return np.maximum(square, np.finfo(float).eps * spots.square)


def _objective(spots: _Spots, n: int, sigma2: np.ndarray, lam: np.ndarray, rough: np.ndarray) -> np.ndarray:
    """Logarithm of the posterior up to what is constant, as the paper has it: σ² is that of the residual."""
    fit = -n * spots.n_genes / 2 * (np.log(sigma2) + 1)
    spread = (n / 2 + SHAPE + 1) * np.log(lam) + (rough + n) / (2 * lam)
    return fit - spread.sum(axis=1)
