"""What all matchers share: which pairs teach, how sure the cosines are, who is matched with whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import logsumexp

from scdance._checks import InputError, enough_pairs, share_held_out, warn, whole_number
from scdance._core.cells import Cells, Pair
from scdance._core.method import Method
from scdance.graph import match
from scdance.train import hold_out_cells, target_of

CALIBRATING = 2000  # pairs at most by which the scale of the cosines is chosen
SCALES = np.geomspace(1, 200, 40)
NO_BATCH = -1


class Matcher(Method):
    """Base of all matchers: a subclass writes :meth:`teach` and :meth:`places`.

    Cells that both modalities have teach; each that only the source has is matched with those that only the target
    has, by the cosine of their places in a common space. What the cosines are multiplied by before the soft-max is
    chosen on pairs that were held out, so that the probabilities are meant as such.

    Parameters
    ----------
    output
        What the matrix holds: "soft", probabilities of the likeliest partners; "hard", 1 for the one partner.
    within_batch
        Match cells within their batch, where batches are given.
    n_kept
        Partners that are kept of each cell.
    valid_share
        Part of the pairs, in (0, 0.5], that is held out to end the training and to choose the scale: whole batches
        where there are at least three.
    """

    output: Literal["soft", "hard"] = "soft"
    within_batch: bool = True
    n_kept: int = 50
    valid_share: float = 0.15

    needs = ("lognorm",)
    uses = ("batch",)
    asks = ("output", "within_batch", "n_kept")
    refits = False  # True: learnt again from all pairs once the scale is known

    # ------------------------------------------------------------------ what a subclass writes

    def teach(self, pair: Pair, rows: np.ndarray, valid: np.ndarray) -> None:
        """Learn from pairs: `rows`, and `valid` to end the training, are rows in source and target, (n, 2) int."""
        raise NotImplementedError

    def places(self, cells: Cells, role: str) -> np.ndarray:
        """Where the cells of the "source" or "target" lie in the common space, (n_obs, n_latent) float32."""
        raise NotImplementedError

    # ------------------------------------------------------------------ what all share

    def check(self) -> None:
        """Refuse numbers out of range."""
        whole_number(self.n_kept, "n_kept", least=1)
        share_held_out(self.valid_share)

    def check_cells(self, cells: Pair) -> None:  # type: ignore[override]
        """Refuse too few pairs to learn from, and nothing to match."""
        if not self.is_fitted:
            enough_pairs(len(cells.both), type(self).__name__)
        n_asked, n_offered = ((cells.at[:, column] < 0).sum() for column in (1, 0))
        if not self.is_fitted and not (n_asked and n_offered):
            msg = (
                f"{n_asked} cells are in the source only and {n_offered} in the target only, so there is nobody to "
                "match: cells that are in both under the same name are known pairs."
            )
            raise InputError(msg)

    def fit(self, *, pair: Pair) -> Self:
        both = pair.both
        batch = None if pair.source.batch is None else pair.source.batch[both[:, 0]]
        share, rng = self.valid_share, self.rng("validation")
        inside, outside = hold_out_cells(np.arange(len(both)), batch, share, rng)
        self.teach(pair, both[inside], both[outside])
        self.scale_ = self._scale(pair, both[outside])
        if self.refits:
            self.teach(pair, both, both[:0])
        self.notes_ = {**getattr(self, "notes_", {}), "n_pairs": len(both), "scale": self.scale_}
        return self

    def predict(self, *, pair: Pair) -> dict[str, Any]:
        target = target_of(pair)
        asked, offered = (np.flatnonzero(pair.at[:, column] < 0) for column in (1, 0))
        of_target = self.places(target, "target")
        z = np.zeros((pair.n_obs, of_target.shape[1]), dtype=np.float32)
        there = np.flatnonzero(pair.at[:, 0] >= 0)
        z[there] = self.places(pair.source, "source")[pair.at[there, 0]]
        z[offered] = of_target[pair.at[offered, 1]]
        z /= np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)

        links, partner = csr_matrix((pair.n_obs, pair.n_obs), dtype=np.float32), np.full(pair.n_obs, -1)
        score, entropy = (np.full(pair.n_obs, np.nan, dtype=np.float32) for _ in range(2))
        mutual = np.full(pair.n_obs, "", dtype="U3")
        for rows, columns in self._groups(pair, asked, offered):
            found = match(z[rows], z[columns], scale=self.scale_, n_kept=self.n_kept)
            has = found.partner >= 0
            partner[rows[has]] = columns[found.partner[has]]
            score[rows] = np.where(has, _at(found.proba, found.partner), np.nan)
            entropy[rows], mutual[rows] = _entropy(found.proba), np.where(found.mutual, "yes", "no")
            kept = found.proba if self.output == "soft" else _hard(found.proba, found.partner)
            links = links + _between(kept, rows, columns, pair.n_obs)
        known = np.flatnonzero((pair.at >= 0).all(axis=1))
        links = links + csr_matrix((np.ones(len(known), np.float32), (known, known)), links.shape)
        names = pair.obs_names.astype(str)
        return {
            "matching": links,
            "match": np.where(partner >= 0, names[partner], ""),
            "score": score,
            "entropy": entropy,
            "mutual": mutual,
            "embedding": z,
        }

    def _groups(self, pair: Pair, asked: np.ndarray, offered: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Cells that are matched with each other: those of a batch; those of a batch of one side with all others."""
        target = target_of(pair)
        if not self.within_batch or pair.source.batch is None or target.batch is None:
            return [(asked, offered)]
        of_rows, of_columns = pair.source.batch[pair.at[asked, 0]], target.batch[pair.at[offered, 1]]
        shared = np.intersect1d(of_rows, of_columns)
        groups = [(asked[of_rows == code], offered[of_columns == code]) for code in shared]
        rows, columns = asked[~np.isin(of_rows, shared)], offered[~np.isin(of_columns, shared)]
        if len(rows):
            warn(
                f"{len(rows)} cells of the source are of batches that the target does not have; they are matched with "
                f"{'those of other batches of the target' if len(columns) else 'all of the target'}."
            )
            groups.append((rows, columns if len(columns) else offered))
        return groups

    def some(self, rows: np.ndarray, n: int) -> np.ndarray:
        """At most `n` of the pairs at `rows`, drawn, in order: more would be compared each with each."""
        return rows[np.sort(self.rng("scale").permutation(len(rows))[:n])]

    def _scale(self, pair: Pair, rows: np.ndarray) -> float:
        """What cosines are to be multiplied by, so that held-out pairs are as likely as can be, from either side."""
        rows = self.some(rows, CALIBRATING)
        sides = [
            self.places(cells.part(at), role)
            for cells, at, role in zip((pair.source, target_of(pair)), rows.T, ("source", "target"), strict=True)
        ]
        return float(SCALES[int(np.argmax(likelihood_of_pairs(*sides, SCALES)))])


def likelihood_of_pairs(x: np.ndarray, y: np.ndarray, scales: Sequence[float] | np.ndarray) -> list[float]:
    """Mean log-probability of the true partner among all, from either side, for each factor of the cosines.

    `x` and `y` are the places of the same cells, (n, n_latent).
    """
    a, b = (side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-12) for side in (x, y))
    cosine = (a @ b.T).astype(np.float32)
    true = np.diagonal(cosine)
    return [
        float((2 * scale * true - logsumexp(scale * cosine, axis=0) - logsumexp(scale * cosine, axis=1)).mean())
        for scale in scales
    ]


def _between(links: csr_matrix, rows: np.ndarray, columns: np.ndarray, n: int) -> csr_matrix:
    """Links between some cells as links between all."""
    found = links.tocoo()
    return csr_matrix((found.data, (rows[found.row], columns[found.col])), shape=(n, n))


def _at(links: csr_matrix, columns: np.ndarray) -> np.ndarray:
    """Entry of each row in a column of its own, (n,); that of the last column where it has −1."""
    return np.asarray(links[np.arange(links.shape[0]), columns]).ravel()


def _entropy(proba: csr_matrix) -> np.ndarray:
    """Entropy of each row over that of equal probabilities of all columns, (n,) in [0, 1]."""
    width = proba.shape[1]
    terms = proba.copy()
    terms.data = -proba.data * np.log(np.maximum(proba.data, 1e-30))
    return np.clip(np.asarray(terms.sum(axis=1)).ravel() / np.log(max(width, 2)), 0, 1)  # type: ignore[no-any-return]


def _hard(proba: csr_matrix, partner: np.ndarray) -> csr_matrix:
    """1 for the partner of each row; a row without one keeps its probabilities."""
    has = partner >= 0
    rows = np.flatnonzero(has)
    one = csr_matrix((np.ones(len(rows), np.float32), (rows, partner[rows])), shape=proba.shape)
    others = csr_matrix((np.where(has, 0, 1).astype(np.float32), (np.arange(len(has)),) * 2), (len(has),) * 2) @ proba
    return one + others
