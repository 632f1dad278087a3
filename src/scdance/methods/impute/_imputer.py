"""What all imputers share: units, what becomes of observed counts, how sure an estimate is, which genes are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import numpy as np

from scdance._checks import InputError, listed
from scdance._core.cells import Cells
from scdance._core.expression import TARGETS, in_unit
from scdance._core.method import Method
from scdance.pp import Dispersion, chance_of_zero, expected_log1p

ROWS = 1024  # cells whose values are computed at once

Output = Literal["lognorm", "counts", "log1p", "log1p_nonzero", "log1p_250"]
Rates = Callable[[slice], np.ndarray]


class Imputer(Method):
    """Base of all imputers: a subclass writes `fit` and :meth:`rates`, the expected counts.

    All else follows from the expected count μ of an entry and the dispersion θ of its gene, with which counts are
    negative binomial, of variance μ + μ²/θ: logarithms, what an entry is when it is not zero, and how far the
    expression of a cell may be from its estimate.

    Parameters
    ----------
    output
        Unit of the layer. "lognorm": log(1 + 10,000 · expected share of the cell's counts), as after
        ``sc.pp.normalize_total(target_sum=1e4)`` and ``sc.pp.log1p``; "counts": expected counts at the depth of the
        cell; "log1p": expected log(1 + count), which is less than the logarithm of the expected count;
        "log1p_nonzero": the same for an entry that is known not to be zero; "log1p_250": expected log(1 + count at a
        depth of 250), so of counts times 250 over the depth of the cell.
    policy
        "replace": the estimate everywhere; "posterior": the estimate moved towards the count of the cell itself, as
        far as the dispersion of the gene says; "restore": observed counts stay, zeros are filled; "max": the larger
        of both.
    genes
        Genes to write; None: all that were modelled. The others keep their observed values.
    uncertainty
        Also give the standard deviation of what the expression may be, given the estimate, the dispersion and the
        count of the cell itself.
    """

    output: Output = "lognorm"
    policy: Literal["replace", "posterior", "restore", "max"] = "replace"
    genes: tuple[str, ...] | None = None
    uncertainty: bool = False

    asks = ("output", "policy", "genes", "uncertainty")

    def rates(self, cells: Cells) -> Rates:
        """Give a function from a slice of the cells to the expected counts of their modelled genes, (n, n_modelled).

        Of log-normalised input, which has no counts, it gives log-normalised values.
        """
        raise NotImplementedError

    def modelled(self, cells: Cells) -> np.ndarray:
        """Positions of the modelled genes among those of `cells`, (n_modelled,) int, ascending."""
        return np.arange(cells.n_vars)

    def dispersion(self, cells: Cells, rates: Rates) -> np.ndarray:
        """θ of each modelled gene, (n_modelled,): that of the fit if it was kept, else by moments of these cells."""
        if hasattr(self, "theta_"):
            return self.theta_
        modelled = self.modelled(cells)
        sums = Dispersion(len(modelled))
        for rows in _slices(cells.n_obs):
            sums.add(_counts(cells, rows, modelled), rates(rows))
        return sums.theta

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        modelled = self.modelled(cells)
        wanted = self._wanted(cells, modelled)
        rates = self.rates(cells)
        theta = self.dispersion(cells, rates)[wanted] if self._needs_dispersion else np.zeros(0)
        out = np.empty((cells.n_obs, len(wanted)), dtype=np.float32)
        sd = np.empty_like(out) if self.uncertainty else None
        for rows in _slices(cells.n_obs):
            mean = rates(rows)[:, wanted]
            if cells.prep.log_input:
                out[rows] = mean
                continue
            counts = _counts(cells, rows, modelled[wanted]) if self._needs_counts else np.zeros(0)
            out[rows] = self._value(mean, theta, counts, depth_of(cells)[rows])
            if sd is not None:
                sd[rows] = self._sd(mean, theta, counts, depth_of(cells)[rows])
        imputed = np.zeros(cells.n_vars, dtype=bool)
        imputed[modelled[wanted]] = True
        result: dict[str, Any] = {"expression": out, "modelled": imputed}
        if sd is not None:
            result["sd"] = sd
        if len(theta):
            result["dispersion"] = np.full(cells.n_vars, np.nan)
            result["dispersion"][imputed] = theta
        return result

    @property
    def _needs_dispersion(self) -> bool:
        return self.output.startswith("log1p") or self.policy == "posterior" or self.uncertainty

    @property
    def _needs_counts(self) -> bool:
        return self.policy != "replace" or self.uncertainty

    def _value(self, mean: np.ndarray, theta: np.ndarray, counts: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Estimates of some cells in the unit that was asked for, after what the policy says of observed counts."""
        shape: np.ndarray = theta
        if self.policy == "posterior":
            mean, shape = mean * (theta + counts) / (theta + mean), theta + counts
        if self.output.startswith("log1p"):
            values = expected_log1p(mean, shape, self._per_count(depth))
            if self.output == "log1p_nonzero":
                values /= (1 - chance_of_zero(mean, shape)).astype(np.float32)
                values = np.maximum(values, np.float32(np.log(2)))  # of a count of 1, which rounding may miss
        else:
            values = in_unit(mean, depth, self.output)
        return self._beside_observed(values, counts, depth)

    def _beside_observed(self, values: np.ndarray, counts: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Estimates, with observed counts in their place where the policy says so."""
        if self.policy in ("replace", "posterior"):
            return values
        seen = in_unit(counts, depth, self.output)
        return np.where(counts > 0, seen, values) if self.policy == "restore" else np.maximum(seen, values)

    def _sd(self, mean: np.ndarray, theta: np.ndarray, counts: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Standard deviation of the Gamma posterior of the expected count, by the slope of the unit."""
        sd = np.sqrt(theta + counts) * mean / (theta + mean)
        if self.output == "counts":
            return sd
        scale = self._per_count(depth)
        return sd * scale / (1 + scale * mean)

    def _per_count(self, depth: np.ndarray) -> Any:
        """What a count is multiplied by before the logarithm, (n_obs, 1)."""
        return (TARGETS[self.output] / depth)[:, None] if self.output in TARGETS else 1.0

    def check_cells(self, cells: Cells) -> None:
        """Refuse genes that are not there, and what log-normalised input cannot give."""
        self._wanted(cells, np.arange(cells.n_vars))
        asked = {"output": "lognorm", "policy": "replace", "uncertainty": False}
        wrong = [name for name, allowed in asked.items() if getattr(self, name) != allowed]
        if cells.prep.log_input and wrong:
            msg = (
                f"{wrong[0]}={getattr(self, wrong[0])!r} needs counts, but `{cells.extra['input']['layer']}` holds "
                f"log-normalised values. Pass the layer with raw counts as `layer=`, or leave `{wrong[0]}=` out."
            )
            raise InputError(msg)

    def _wanted(self, cells: Cells, modelled: np.ndarray) -> np.ndarray:
        """Which of the modelled genes were asked for."""
        if self.genes is None:
            return np.arange(len(modelled))
        if not self.genes:
            msg = "genes is empty, so there is nothing to impute. Pass the names of genes, or leave it out for all."
            raise InputError(msg)
        place = {name: i for i, name in enumerate(cells.var_names[modelled])}
        missing = [name for name in self.genes if name not in place]
        if missing:
            msg = (
                f"{len(missing)} of the {len(self.genes)} genes asked for were not modelled: {listed(missing)}. "
                "Leave them out; where the method has `n_top_genes=`, a larger one models more genes, None all."
            )
            raise InputError(msg)
        return np.unique([place[name] for name in self.genes])


def _slices(n: int) -> list[slice]:
    return [slice(start, min(start + ROWS, n)) for start in range(0, n, ROWS)]


def depth_of(cells: Cells) -> np.ndarray:
    """Counts of each cell, (n_obs,)."""
    return cast("np.ndarray", cells.depth)


def _counts(cells: Cells, rows: slice, genes: np.ndarray) -> np.ndarray:
    """Counts of some cells and genes, dense."""
    block: Any = cast("Any", cells.counts)[np.arange(rows.start, rows.stop)]
    return block[:, genes].toarray()  # type: ignore[no-any-return]
