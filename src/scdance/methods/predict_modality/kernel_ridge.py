"""Kernel ridge regression from the scores of one modality to those of the other."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.linalg import cholesky, eigh, solve, solve_triangular

from scdance._checks import InputError
from scdance._core.cells import Cells, Pair
from scdance.train import by_appearance, slices

from ._predictor import Answers
from ._reduced import Reduced

ALPHAS = tuple(float(f"{a:.2g}") for a in 10 ** np.arange(-1.5, 3.1, 0.5))  # among which held-out cells choose
CHOOSING = 1000  # landmarks of the models among which they choose, and cells whose median distance is the length
JITTER = 1e-8  # on the diagonal of the kernel, which is 1: cells that are alike leave it singular


class KernelRidge(Reduced):
    """Predict the scores of the target by ridge regression with a Gaussian kernel on the source [Lance2022]_.

    Both modalities are reduced by truncated singular value decompositions of the cells that teach. In the source
    each cell is brought to mean 0 and variance 1 over its scores, so that cells are compared by their profile and not
    by their depth. The answer is a sum over landmark cells of Gaussian kernels k(x, y) = exp(−‖x − y‖² / 2 l²): the
    sum of smallest squared error and smallest norm, weighed by α. With all cells as landmarks that is kernel ridge
    regression; with a sample of them it is its Nyström approximation, in memory and time linear in the cells.

    Parameters
    ----------
    length
        Length l of the kernel, in units of the scores; None: so that the kernel of two cells at their median distance
        is 1/e.
    alpha
        Weight α of the norm, above 0; None: chosen among 0.032, 0.1, 0.32, …, 1000 by the error on a share
        `valid_share` of the cells, whole batches where there are three.
    solver
        "nystrom": the landmarks are `n_landmarks` cells, a like share of each batch; "exact": all cells, which takes
        memory quadratic and time cubic in them; "auto": "exact" up to `n_landmarks` cells.
    n_landmarks
        Landmarks at most.
    halves
        Whether each two members of the ensemble learn from complementary halves of the batches, as in the
        competition; without batches from halves of the cells.

    When to use
    -----------
    First, when an answer is wanted in seconds: there is nothing to tune and nothing to watch, and where the source
    says nothing, α grows until the mean of each feature is left.

    When not
    --------
    Batches that lie far from all training cells: the kernel is 0 there, and the mean is answered. Targets that hang
    on single genes of the source, which the scores do not hold.

    Differs from the paper
    ----------------------
    Scores are regressed around their mean, to which cells far from all others then fall back. New cells are projected
    on the components of the training cells; the competition decomposed both together. The ensemble is averaged
    before it is limited: the competition's code limited the sum, so that no answer on chromatin exceeded a tenth.
    Length and weight are found for the data at hand; the presets have the numbers of each task. Chromatin as
    a source is weighted by term frequency and inverse document frequency.
    """

    n_source: int | None = 100
    length: float | None = None
    alpha: float | None = None
    solver: Literal["auto", "exact", "nystrom"] = "auto"
    n_landmarks: int = 2000
    halves: bool = False

    keeps = ("landmarks_", "weights_")
    unit_rows = True
    presets = {
        "paper": {"n_source": 300, "n_target": 70, "length": 10.0, "alpha": 0.2, "halves": True, "n_ensemble": 10},
        "gex2adt": {"n_source": 300, "n_target": 70, "length": 10.0, "alpha": 0.2},
        "adt2gex": {"n_source": None, "n_target": 50, "length": 10.0, "alpha": 0.2},
        "gex2atac": {"n_source": 1000, "n_target": 50, "length": 10.0, "alpha": 0.1},
        "atac2gex": {"n_source": 100, "n_target": 50, "length": 10.0, "alpha": 0.1},
    }

    def check(self) -> None:
        super().check()
        for name in ("length", "alpha"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                msg = f"{name}={value!r}, but it must be above 0, or None."
                raise InputError(msg)
        if self.n_landmarks < 1:
            msg = f"n_landmarks={self.n_landmarks!r}, but it must be at least 1."
            raise InputError(msg)
        if self.halves and self.n_ensemble % 2:
            msg = f"halves=True, but n_ensemble={self.n_ensemble} is odd: each two members share the cells; pass 10."
            raise InputError(msg)

    def divide(self, member: int, teach: np.ndarray, batch: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Halves of the batches, new ones for each two members, where they are asked for."""
        if not self.halves:
            return super().divide(member, teach, batch)
        groups = teach if batch is None or len(np.unique(batch[teach])) == 1 else batch[teach]
        names = by_appearance(groups)
        first = self.rng(f"halves {member // 2}").permutation(names)[: len(names) // 2]
        return teach[np.isin(groups, first) == (member % 2 == 0)], teach[:0]

    def prepare(self, pair: Pair, rows: np.ndarray) -> None:
        self.landmarks_: list[np.ndarray] = []
        self.weights_: list[np.ndarray] = []
        self.alpha_ = self.alpha or 0.0
        if self.alpha is None:
            inside, outside = self.hold_out(pair, rows, "alpha")
            self.length_ = self.length or self._usual_length(pair.source, inside[:, 0])
            self.alpha_ = self._chosen_alpha(pair, inside, outside)
        self.reduce(pair, rows)
        self.length_ = self.length or self._usual_length(pair.source, rows[:, 0])
        self.notes_ |= {"length": self.length_, "alpha": self.alpha_}

    def fit_one(self, member: int, pair: Pair, rows: np.ndarray, valid: np.ndarray) -> None:
        n, limit = len(rows), self.n_landmarks
        if self.solver == "exact" or (self.solver == "auto" and n <= limit):
            centers, weights = self.given(pair.source, rows[:, 0]), self.wanted(pair, rows)
            gram = self._kernel(centers, centers)
            gram[np.diag_indices_from(gram)] += self.alpha_
            weights = solve(gram, weights, assume_a="pos", overwrite_a=True, check_finite=False)
        else:
            centers = self.given(pair.source, self._landmarks(pair.source, rows[:, 0], limit, f"landmarks {member}"))
            inner = self._kernel(centers, centers)
            inner[np.diag_indices_from(inner)] += JITTER
            square, product = self._sums(pair, rows, centers)
            square += self.alpha_ * inner
            weights = solve(square, product, assume_a="pos", overwrite_a=True, check_finite=False)
        self.landmarks_.append(centers)
        self.weights_.append(weights)

    def answers(self, member: int, source: Cells) -> Answers:
        centers, weights = self.landmarks_[member], self.weights_[member]

        return lambda rows: self.features(self._kernel(self.given(source, rows), centers) @ weights)

    # ------------------------------------------------------------------ the regression

    def _usual_length(self, source: Cells, rows: np.ndarray) -> float:
        """Length at which the kernel of two cells at the median distance is 1/e."""
        some = self.given(source, self.rng("length").permutation(rows)[:CHOOSING])
        half = len(some) // 2
        squares = ((some[:half] - some[half : 2 * half]) ** 2).sum(axis=1, dtype=np.float64)
        return float(np.sqrt(np.median(squares) / 2)) or 1.0

    def _landmarks(self, source: Cells, rows: np.ndarray, n: int, purpose: str = "landmarks") -> np.ndarray:
        """At most `n` of the cells at `rows`, a like share of each batch, sorted."""
        order = self.rng(purpose).permutation(rows)
        if source.batch is not None:
            names = by_appearance(source.batch[rows])
            order = np.concatenate([order[source.batch[order] == name] for name in names])
        return np.sort(order[np.linspace(0, len(order) - 1, min(n, len(order))).round().astype(int)])

    def _kernel(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Gaussian kernel of two sets of scores, (n, m) float64."""
        out = _square_distances(x, y)
        out *= -1 / (2 * self.length_**2)
        return np.exp(out, out=out)

    def _sums(self, pair: Pair, rows: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """KᵀK and KᵀY over the cells at `rows`, K being their kernel with the landmarks, a block at a time."""
        square, product = np.zeros((len(centers),) * 2), np.zeros((len(centers), len(self.loadings_["target"])))
        for here in slices(len(rows)):
            k = self._kernel(self.given(pair.source, rows[here, 0]), centers)
            square += k.T @ k
            product += k.T @ self.wanted(pair, rows[here])
        return square, product

    def _chosen_alpha(self, pair: Pair, inside: np.ndarray, outside: np.ndarray) -> float:
        """The weight of the norm with which the cells `inside` tell those `outside` best.

        One decomposition serves them all: with L Lᵀ the kernel of the landmarks and U S Uᵀ = L⁻¹ KᵀK L⁻ᵀ, the answer is
        K L⁻ᵀ U (S + α)⁻¹ Uᵀ L⁻¹ KᵀY. Loadings are orthonormal, so that errors of scores rank as those of features do.
        """
        centers = self.given(pair.source, self._landmarks(pair.source, inside[:, 0], CHOOSING))
        square, product = self._sums(pair, inside, centers)
        root = cholesky(self._kernel(centers, centers) + JITTER * np.eye(len(centers)), lower=True)
        values, vectors = eigh(solve_triangular(root, solve_triangular(root, square, lower=True).T, lower=True))
        product = vectors.T @ solve_triangular(root, product, lower=True)
        error = np.zeros(len(ALPHAS))
        for here in slices(len(outside)):
            k = self._kernel(self.given(pair.source, outside[here, 0]), centers)
            basis = solve_triangular(root, k.T, lower=True).T @ vectors
            y = self.wanted(pair, outside[here])
            error += [((basis / (values + alpha) @ product - y) ** 2).sum() for alpha in ALPHAS]
        return ALPHAS[int(error.argmin())]


def _square_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances, (n, m) float64."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    out = x @ y.T
    out *= -2
    out += (x**2).sum(axis=1)[:, None]
    out += (y**2).sum(axis=1)
    return np.maximum(out, 0, out=out)
