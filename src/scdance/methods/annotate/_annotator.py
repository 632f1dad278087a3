"""What all annotators share: choice of genes, calibration, conformal sets, novelty, rejection, markers."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
from scipy.special import softmax

from scdance._checks import InputError, warn, whole_number
from scdance._core.cells import Cells
from scdance._core.method import Method
from scdance.pp import PCA, Recipe, blocks, group_moments, mean_and_sd, project, telling_genes
from scdance.train import conformal_sets, hold_out, temperature

HELD_OUT = 0.2  # of the cells of each type, on which probabilities are calibrated
NEAR_GENES, COMPONENTS, NEIGHBORS = 2000, 30, 10  # in which, and to how many cells, a distance is measured
CLIP = 10.0  # standard deviations
LANDMARKS = 20_000  # cells of the reference to which distances are measured
USUAL = 0.99  # share of the held-out cells that are less unlike the reference than a cell of novelty ½
NEW = 0.5  # novelty above which reject="auto" takes a cell for unknown
EXPLAINED, TOP = 5000, 25  # cells on which markers are looked for; genes of each type that are kept


class Annotator(Method):
    """Base of annotators: a subclass learns scores of the types, the rest is here.

    It writes :meth:`teach` and :meth:`logits`, which get cells with the chosen genes only. A fifth of the cells of each
    type is held out first: on these the temperature, the conformal sets and the scale of novelty are found; then
    the method is taught all cells.

    Parameters
    ----------
    n_top_genes
        Genes that best tell the types of the reference apart (analysis of variance); None: all.
    calibration
        "temperature": scores are divided by a number that makes the held-out types likeliest; "none".
    reject
        "auto": cells whose novelty is above ½ become "unknown"; a number: those whose best probability is below;
        None: every cell gets a type.
    detector
        What makes a cell new: the "entropy" of its probabilities, where types compete for it; its "distance" to the
        nearest cells of the reference, which a change of protocol raises for all cells; or the mean of "both".
    about
        What the reference is, in your words; it stands on the card of a saved annotator.
    level
        Share of the cells whose set of types may miss the true one, in (0, 1); None: no sets.
    """

    n_top_genes: int | None = 2000
    calibration: Literal["temperature", "none"] = "temperature"
    reject: Literal["auto"] | float | None = None
    detector: Literal["entropy", "distance", "both"] = "entropy"
    level: float | None = 0.1
    about: str = ""

    needs = ("lognorm", "ref.labels")
    fit_on = ("ref",)
    keeps = ("landmarks_",)
    skips_missing = True
    recipe = Recipe(filter_genes={"min_counts": 1}, normalize_total={"target": 1e4}, log1p={})

    def check(self) -> None:
        super().check()
        if self.n_top_genes is not None:
            whole_number(self.n_top_genes, "n_top_genes", least=1)
        for value, name in ((self.level, "level"), (None if self.reject == "auto" else self.reject, "reject")):
            if value is not None and not 0 < value < 1:
                msg = f"{name}={value!r}, but it must lie between 0 and 1, as in {name}=0.1; None switches it off."
                raise InputError(msg)

    def teach(self, cells: Cells, *, stage: str) -> None:
        """Learn the types of `cells`, from nothing; `stage` is "calibration" or "training"."""
        raise NotImplementedError

    def logits(self, cells: Cells) -> np.ndarray:
        """Score of each type, (n_obs, n_types): its softmax are probabilities."""
        raise NotImplementedError

    def doubt(self, cells: Cells) -> np.ndarray | None:
        """How likely each cell is none of the types, (n_obs,) ≥ 0, where the method has an opinion; else None."""
        return None

    def weights(self) -> np.ndarray | None:
        """How much each gene speaks for each type, (n_types, n_vars), where the method knows; else None."""
        return None

    def fit(self, *, ref: Cells) -> Self:
        n_types = len(ref.categories)
        moments = group_moments(ref.x, ref.labels, n_types)
        self.genes_ = telling_genes(moments, self.n_top_genes)
        if len(self.genes_) == 0:
            msg = "No gene of the reference varies between its cells; are these counts?"
            raise InputError(msg)
        self.near_genes_ = np.flatnonzero(np.isin(self.genes_, telling_genes(moments, NEAR_GENES)))
        cells = ref.part(columns=self.genes_)
        held = hold_out(cells.labels, HELD_OUT, np.random.default_rng([self.random_state, 2]))
        self._calibrate(cells.part(~held), cells.part(held))
        self.teach(cells, stage="training")
        self._place(cells)
        self.notes_ = self._told(cells.labels, n_types) | {"markers": self._markers(cells)}
        return self

    @property
    def card(self) -> dict[str, Any]:
        """What a colleague must know of a fitted annotator: types, data, version, calibration; it is saved with it."""
        told = {name: value for name, value in self.notes_.items() if name != "markers"}
        sizes = dict(zip(self.categories_, told.pop("n_cells").tolist(), strict=True))
        return {"method": self.name, "about": self.about, "types": sizes, **told}

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        cells = cells.part(columns=self.genes_)
        proba = self._proba(cells)
        result = {"labels": proba.argmax(axis=1), "proba": proba, "score": proba.max(axis=1)}
        if len(self.known_):  # else nothing was held out to compare with
            result["novelty"] = self._novelty(cells, proba)
            if self.level is not None:
                result["sets"] = conformal_sets(proba, self.known_, self.known_labels_, self.level)
        unknown = np.zeros(len(proba), dtype=bool)
        if self.reject == "auto":
            unknown = result.get("novelty", np.zeros(len(proba))) > NEW
        elif self.reject is not None:
            unknown = result["score"] < self.reject
        result["labels"] = np.where(unknown, proba.shape[1], result["labels"])
        return result

    def _calibrate(self, taught: Cells, held: Cells) -> None:
        """Find the temperature, and keep what is known of the cells that are held out."""
        self.temperature_, self.known_labels_ = 1.0, held.labels
        self.known_ = np.empty((0, len(taught.categories)), dtype=np.float32)
        if held.n_obs == 0:
            warn(
                "No type of the reference has enough cells to hold some out, so probabilities are not calibrated, and "
                "there are no conformal sets and no novelty."
            )
            return
        self.teach(taught, stage="calibration")
        logits = self.logits(held)
        if self.calibration == "temperature":
            self.temperature_ = temperature(logits, held.labels)
        self.known_ = softmax(logits / self.temperature_, axis=1).astype(np.float32)
        self._place(taught)
        found = {"distance": self._distance(held), "entropy": _entropy(self.known_), "doubt": self.doubt(held)}
        self.usual_ = {name: float(np.quantile(v, USUAL)) for name, v in found.items() if v is not None}

    def _told(self, labels: np.ndarray, n_types: int) -> dict[str, Any]:
        """What the run record and the card say of the reference and of the cells that were held out."""
        from scdance import __version__

        right = self.known_.argmax(axis=1) == self.known_labels_
        held_out = {"n_held_out": len(right)}
        if len(right):
            held_out |= {"accuracy_held_out": right.mean(), "score_held_out": self.known_.max(axis=1).mean()}
        return {
            "n_cells": np.bincount(labels, minlength=n_types),
            "n_genes": len(self.genes_),
            "temperature": self.temperature_,
            "version": __version__,
            **{name: float(value) if name != "n_held_out" else value for name, value in held_out.items()},
        }

    def _proba(self, cells: Cells) -> np.ndarray:
        return softmax(self.logits(cells) / self.temperature_, axis=1).astype(np.float32)

    def _novelty(self, cells: Cells, proba: np.ndarray) -> np.ndarray:
        """How unlike the reference each cell is, in [0, 1); ½ is what 1 % of the held-out cells surpass."""
        parts = []
        if self.detector != "entropy":
            parts.append((self._distance(cells), self.usual_["distance"]))
        if self.detector != "distance":
            parts.append((_entropy(proba), self.usual_["entropy"]))
            if "doubt" in self.usual_:
                parts.append((self.doubt(cells), self.usual_["doubt"]))
        return np.mean([values / (values + max(usual, 1e-6)) for values, usual in parts], axis=0)

    # ------------------------------------------------------------------ how far a cell is from the reference

    def _place(self, cells: Cells) -> None:
        """Keep where the cells lie."""
        cells = cells.part(columns=self.near_genes_)
        mean, sd = mean_and_sd(cells.x)
        self.gene_mean_, self.gene_sd_ = mean.astype(np.float32), np.where(sd > 0, sd, 1).astype(np.float32)
        pca = PCA(COMPONENTS, random_state=self.random_state)
        pca.fit(lambda: self._standard(cells), (cells.n_obs, cells.n_vars))
        self.pca_mean_, self.components_ = pca.mean_, pca.components_
        rows = np.arange(cells.n_obs)
        if cells.n_obs > LANDMARKS:
            rows = np.sort(np.random.default_rng([self.random_state, 3]).choice(rows, LANDMARKS, replace=False))
        self.landmarks_ = self._direction(cells.part(rows))

    def _standard(self, cells: Cells) -> Any:
        """Blocks of z-scored expression; a gene that the query lacks counts as the mean."""
        for block in cells.dense_blocks():
            dense = np.minimum((block - self.gene_mean_) / self.gene_sd_, CLIP)
            if cells.present is not None:
                dense[:, ~cells.present] = 0
            yield dense

    def _direction(self, cells: Cells) -> np.ndarray:
        """Principal components of the cells, of length 1."""
        z = project(self._standard(cells), self.pca_mean_, self.components_)
        return z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)

    def _distance(self, cells: Cells) -> np.ndarray:
        """Mean distance to the nearest cells of the reference, between directions."""
        from sklearn.neighbors import NearestNeighbors

        near = NearestNeighbors(n_neighbors=min(NEIGHBORS, len(self.landmarks_))).fit(self.landmarks_)
        return near.kneighbors(self._direction(cells.part(columns=self.near_genes_)))[0].mean(axis=1).astype(np.float32)

    # ------------------------------------------------------------------ why

    def _markers(self, cells: Cells) -> dict[str, np.ndarray]:
        """Genes that speak for each type: those with the largest weight, or correlated with its probability."""
        weights = self.weights()
        if weights is None:
            rows = np.arange(cells.n_obs)
            if cells.n_obs > EXPLAINED:
                rows = np.sort(np.random.default_rng([self.random_state, 4]).choice(rows, EXPLAINED, replace=False))
            some = cells.part(rows)
            weights = _correlation(self._proba(some), some)
        best = np.argsort(-weights, axis=1, kind="stable")[:, :TOP]
        n_types, n_top = best.shape
        return {
            "type": np.repeat(np.array(cells.categories), n_top),
            "gene": cells.var_names[best].ravel().astype(str),
            "weight": np.take_along_axis(weights, best, axis=1).ravel(),
            "rank": np.tile(np.arange(1, n_top + 1), n_types),
        }


def _entropy(proba: np.ndarray) -> np.ndarray:
    """Entropy of each row, as a share of the largest possible."""
    terms = proba * np.log(np.maximum(proba, 1e-12))
    return -terms.sum(axis=1) / np.log(proba.shape[1])


def _correlation(proba: np.ndarray, cells: Cells) -> np.ndarray:
    """Correlation of each gene with the probability of each type, (n_types, n_vars); 0 where either is constant."""
    off = proba - proba.mean(axis=0)
    together = sum(off[here].T @ block for here, block in blocks(cells.x)) / cells.n_obs
    scale = np.outer(off.std(axis=0), mean_and_sd(cells.x)[1])
    return np.divide(together, scale, out=np.zeros_like(scale), where=scale > 1e-12)
