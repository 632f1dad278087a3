"""Recipes: preprocessing as data, fitted once, applied to any cells.

A recipe has two halves. What keeps a matrix sparse (filters, size factors, log, gene choice) is applied
**once**; what would fill it (centring, Pearson residuals) is applied **per batch** of rows.
Each step is a function of the same name below. It sees the data as a stream of blocks, so a recipe is
fitted in a few passes over data that may lie on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp

from scdance._checks import InputError, listed, nearest

from ._genes import align_genes
from ._rows import Rows, Transformed, blocks, canonical

State = dict[str, Any]

TFIDF_SUM = 1e4  # what the weights of a cell add up to before the logarithm


@dataclass
class _Block:
    """Some rows on their way through the recipe: the values so far, the counts of the same genes, depths."""

    x: sp.csr_matrix
    counts: sp.csr_matrix
    depth: np.ndarray

    def keep(self, columns: np.ndarray) -> _Block:
        same = self.x is self.counts
        counts = self.counts[:, columns]
        return _Block(counts if same else self.x[:, columns], counts, self.depth)

    def with_data(self, data: np.ndarray) -> _Block:
        x = sp.csr_matrix((data.astype(np.float32, copy=False), self.x.indices, self.x.indptr), shape=self.x.shape)
        return _Block(x, self.counts, self.depth)


Stream = Callable[[], Iterator[_Block]]


@dataclass(frozen=True)
class _Step:
    """A step of a recipe: how it is fitted to a stream and applied to a block of rows."""

    fit: Callable[..., State]
    apply: Callable[[Any, State], Any]
    per_batch: bool = False
    skip_on_log: bool = False  # input that is log-normalised already passes unchanged
    chooses: bool = False  # keeps some genes
    whole_row: bool = False  # the value of one gene depends on which others are there


STEPS: dict[str, _Step] = {}


def _step(**facts: bool) -> Callable[[type], type]:
    def register(cls: type) -> type:
        STEPS[cls.__name__] = _Step(cls.fit, cls.apply, **facts)  # type: ignore[attr-defined]
        return cls

    return register


def _row_sums(stream: Stream) -> np.ndarray:
    return np.concatenate([block.depth for block in stream()])


@_step(chooses=True)
class filter_genes:
    """Keep genes with at least `min_counts` counts in all cells."""

    @staticmethod
    def fit(stream: Stream, *, min_counts: float = 1) -> State:
        total = sum(np.asarray(block.counts.sum(axis=0, dtype=np.float64)).ravel() for block in stream())
        return {"columns": np.flatnonzero(total >= min_counts)}

    @staticmethod
    def apply(block: _Block, state: State) -> _Block:
        return block.keep(state["columns"])


@_step(skip_on_log=True)
class normalize_total:
    """Divide each cell by its depth and multiply by `target` (None: the median depth)."""

    @staticmethod
    def fit(stream: Stream, *, target: float | None = None) -> State:
        return {"target": float(target if target is not None else np.median(_row_sums(stream)))}

    @staticmethod
    def apply(block: _Block, state: State) -> _Block:
        factor = state["target"] / np.maximum(block.depth, 1e-12)
        return block.with_data(block.x.data * np.repeat(factor, np.diff(block.x.indptr)))


@_step(skip_on_log=True)
class log1p:
    """Natural logarithm of 1 + x."""

    @staticmethod
    def fit(stream: Stream) -> State:
        return {}

    @staticmethod
    def apply(block: _Block, state: State) -> _Block:
        return block.with_data(np.log1p(block.x.data))


@_step()
class binarize:
    """1 where there is any count, 0 elsewhere."""

    @staticmethod
    def fit(stream: Stream) -> State:
        return {}

    @staticmethod
    def apply(block: _Block, state: State) -> _Block:
        return block.with_data((block.x.data > 0).astype(np.float32))


@_step(whole_row=True)
class row_share:
    """Divide each cell by its sum, so that it adds up to 1."""

    @staticmethod
    def fit(stream: Stream) -> State:
        return {}

    @staticmethod
    def apply(block: _Block, state: State) -> _Block:
        total = np.asarray(block.x.sum(axis=1, dtype=np.float64)).ravel()
        factor = 1 / np.where(total > 0, total, 1)
        return block.with_data(block.x.data * np.repeat(factor, np.diff(block.x.indptr)))


@_step(skip_on_log=True, whole_row=True)
class tfidf:
    """Term frequency times inverse document frequency, as log1p(1e4 · x_ij idf_j / Σ_j x_ij idf_j).

    idf_j = n / Σ_i x_ij over the n training cells, 0 for a feature without a count in them. A cell is divided by
    the sum of its weights, so its depth cancels.
    """

    @staticmethod
    def fit(stream: Stream) -> State:
        n, total = 0, 0.0
        for block in stream():
            n += block.x.shape[0]
            total = total + np.asarray(block.x.sum(axis=0, dtype=np.float64)).ravel()
        return {"idf": np.divide(n, total, out=np.zeros_like(total), where=total > 0)}

    @staticmethod
    def apply(block: _Block, state: State) -> _Block:
        weights = block.x.data * state["idf"][block.x.indices]
        cell = _cell_of_entry(block.x)
        total = np.bincount(cell, weights, minlength=block.x.shape[0])
        factor = TFIDF_SUM / np.where(total > 0, total, 1)
        return block.with_data(np.log1p(weights * factor[cell]))


@_step(skip_on_log=True, whole_row=True)
class clr:
    """Centred log ratio of proteins within a cell, in the form that keeps zeros.

    log1p(x_ij / exp(Σ_j log1p(x_ij) / n_features)): each count over the geometric mean of count + 1 in its cell.
    """

    @staticmethod
    def fit(stream: Stream) -> State:
        return {}

    @staticmethod
    def apply(block: _Block, state: State) -> _Block:
        n_obs, n_features = block.x.shape
        x, cell = block.x.data.astype(np.float64), _cell_of_entry(block.x)
        mean_log = np.bincount(cell, np.log1p(x), minlength=n_obs) / n_features
        return block.with_data(np.log1p(x / np.exp(mean_log)[cell]))


def _cell_of_entry(x: sp.csr_matrix) -> np.ndarray:
    """Row of each stored value, (nnz,) int."""
    return np.repeat(np.arange(x.shape[0]), np.diff(x.indptr))


@_step(chooses=True)
class select_genes:
    """Keep the `n_top` genes that vary most (None: all).

    `flavor` is ``"deviance"`` (of the counts against a constant share in all cells [Townes2019]_), ``"variance"``
    (of the values so far), ``"cell_ranger"`` (dispersion of log values against genes of similar mean), each also
    for data on disk, or another flavour of :func:`scanpy.pp.highly_variable_genes` (``"seurat_v3"`` on counts,
    ``"seurat"`` on log values), which loads the data. Log-normalised input without counts is ranked by
    ``"variance"`` instead of ``"deviance"``.
    """

    @staticmethod
    def fit(stream: Stream, *, n_top: int | None = 2000, flavor: str = "deviance", log_input: bool = False) -> State:
        n_vars = next(stream()).x.shape[1]
        if n_top is None or n_top >= n_vars:
            return {"columns": np.arange(n_vars)}
        if flavor == "deviance" and not log_input:
            score = _deviance(stream)
        elif flavor in ("variance", "deviance"):
            score = _moments(stream)[1]
        elif flavor == "cell_ranger":
            score = _dispersion_in_bins(*_moments(stream))
        else:
            score = _scanpy_rank(stream, n_top, flavor)
        best = np.argsort(-score, kind="stable")[:n_top]
        return {"columns": np.sort(best)}

    @staticmethod
    def apply(block: _Block, state: State) -> _Block:
        return block.keep(state["columns"])


def gene_deviance(counts: Rows, depth: np.ndarray) -> np.ndarray:
    """Poisson deviance of each gene against a constant share of the counts of all cells [Townes2019]_.

    Parameters
    ----------
    counts
        Counts, (n_obs, n_vars), in memory or on disk.
    depth
        Total counts of each cell, (n_obs,).

    Returns
    -------
    The deviances, (n_vars,) float64: what varies most has the largest.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> counts = pp.canonical(np.array([[4, 9, 0], [4, 0, 9]]))
    >>> pp.gene_deviance(counts, np.array([13.0, 13.0])).round(1).tolist()
    [0.0, 12.5, 12.5]
    """

    def stream() -> Iterator[_Block]:
        return (_Block(block, block, depth[here]) for here, block in blocks(counts))

    return _deviance(stream)


def _deviance(stream: Stream) -> np.ndarray:
    """Poisson deviance of each gene against a constant share of all counts, (n_vars,) float64."""
    total, depth = 0.0, 0.0
    for block in stream():
        total = total + np.asarray(block.counts.sum(axis=0, dtype=np.float64)).ravel()
        depth += float(block.depth.sum())
    share = total / depth
    out = np.zeros(len(share))
    for block in stream():
        x = block.counts
        cell = _cell_of_entry(x)
        expected = block.depth[cell] * share[x.indices]
        # zeros add x − expected only, which cancels over the cells
        out += np.bincount(x.indices, weights=x.data * np.log(x.data / expected), minlength=len(out))
    return 2 * out


def _dispersion_in_bins(mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Variance over mean of each gene, against median and median deviation in 20 bins of equally many genes.

    The genes of scanpy's and Cell Ranger's flavour "cell_ranger".
    """
    mean = np.where(mean > 0, mean, 1e-12)
    dispersion = sd**2 / mean
    bins = np.searchsorted(np.percentile(mean, np.arange(10, 105, 5)), mean, side="left")
    score = np.full(len(mean), -np.inf)
    for each in np.unique(bins):
        inside = bins == each
        off = dispersion[inside] - np.median(dispersion[inside])
        spread = np.median(np.abs(off))
        score[inside] = off / spread if spread > 0 else -np.inf
    return score


def _moments(stream: Stream) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (ddof 1) of each gene over all cells, from CSR blocks, float64."""
    n, total, square = 0, 0.0, 0.0
    for block in stream():
        x = block.x.astype(np.float64)
        n += x.shape[0]
        total = total + np.asarray(x.sum(axis=0)).ravel()
        square = square + np.asarray(x.multiply(x).sum(axis=0)).ravel()
    mean = total / n
    return mean, np.sqrt(np.maximum(square - n * mean**2, 0) / max(n - 1, 1))


def _scanpy_rank(stream: Stream, n_top: int, flavor: str) -> np.ndarray:
    """1 for each gene that scanpy chooses, 0 for the others."""
    import anndata as ad
    import scanpy as sc

    of_counts = flavor.startswith("seurat_v3")
    x = sp.vstack([block.counts if of_counts else block.x for block in stream()], format="csr")
    found = sc.pp.highly_variable_genes(ad.AnnData(x), n_top_genes=n_top, flavor=flavor, inplace=False)
    return found["highly_variable"].to_numpy(dtype=float)


@_step(per_batch=True, whole_row=True)
class center_scale:
    """Subtract each gene's mean and divide by its standard deviation (`scale`), then clip to ±`clip`."""

    @staticmethod
    def fit(stream: Stream, *, scale: bool = True, clip: float | None = None) -> State:
        mean, sd = _moments(stream)
        # the sums of a constant gene do not cancel to the last digit
        sd = np.where(sd > 1e-6 * np.abs(mean), sd, 1) if scale else np.ones_like(sd)
        return {"mean": mean.astype(np.float32), "sd": sd.astype(np.float32), "clip": clip}

    @staticmethod
    def apply(dense: np.ndarray, state: State) -> np.ndarray:
        dense -= state["mean"]
        dense /= state["sd"]
        if state["clip"] is not None:
            np.clip(dense, -state["clip"], state["clip"], out=dense)
        return dense


@_step(per_batch=True, whole_row=True)
class pearson_residuals:
    """Analytic Pearson residuals of counts with dispersion `theta`, clipped to ±√n_obs [Lause2021]_.

    The expected count of a cell and gene is (counts of the cell in the kept genes) × (share of the gene).
    """

    @staticmethod
    def fit(stream: Stream, *, theta: float = 100.0) -> State:
        n, total = 0, 0.0
        for block in stream():
            n += block.x.shape[0]
            total = total + np.asarray(block.x.sum(axis=0, dtype=np.float64)).ravel()
        share = total / max(np.sum(total), 1)
        return {"share": share.astype(np.float32), "theta": theta, "clip": float(np.sqrt(n))}

    @staticmethod
    def apply(dense: np.ndarray, state: State) -> np.ndarray:
        expected = dense.sum(axis=1, keepdims=True) * state["share"]
        dense -= expected
        dense /= np.sqrt(expected + expected**2 / state["theta"]).clip(min=1e-12)
        return np.clip(dense, -state["clip"], state["clip"], out=dense)


class Recipe:
    """Preprocessing as data: the steps by name with their numbers, in the order in which they run.

    Parameters
    ----------
    steps
        ``Recipe(normalize_total={}, log1p={}, select_genes={"n_top": 2000}, center_scale={"clip": 10})``;
        the names are those of the steps in this module.

    Raises
    ------
    InputError
        If there is no such step, or the order cannot be.

    Examples
    --------
    >>> from scdance import pp
    >>> pp.Recipe(normalize_total={}, log1p={}, select_genes={"n_top": 2000})
    normalize_total → log1p → select_genes(n_top=2000)
    """

    def __init__(self, **steps: dict[str, Any]):
        for name in steps:
            if name not in STEPS:
                msg = f"A recipe has no step {name!r}; there are {listed(STEPS)}.{nearest(name, STEPS)}"
                raise InputError(msg)
        closed = last = ""
        for name in steps:
            if STEPS[name].chooses and closed:
                msg = f"In a recipe the choice of genes comes before {closed!r}; move {name!r} up."
                raise InputError(msg)
            if last:
                msg = f"In a recipe {last!r}, which fills the matrix, comes last; move {name!r} up or leave it out."
                raise InputError(msg)
            closed = name if STEPS[name].whole_row else closed
            last = name if STEPS[name].per_batch else last
        self.steps = steps

    def __repr__(self) -> str:
        knobs = ({k: v for k, v in numbers.items() if v is not None} for numbers in self.steps.values())
        texts = [
            name + (f"({', '.join(f'{k}={v!r}' for k, v in numbers.items())})" if numbers else "")
            for name, numbers in zip(self.steps, knobs, strict=True)
        ]
        return " → ".join(texts) or "none"

    def fit(self, counts: Rows, depth: np.ndarray, var_names: np.ndarray, *, log_input: bool = False) -> FittedRecipe:
        """Fit all steps to the rows of `counts`, (n_obs, n_vars); `depth` is the sum of each row.

        `log_input` says that the values are log-normalised already: the steps that would do it are left out.
        """
        steps = {name: knobs for name, knobs in self.steps.items() if not (log_input and STEPS[name].skip_on_log)}
        fitted = FittedRecipe(
            var_names=np.asarray(var_names, dtype=object).astype(str), log_input=log_input, text=repr(Recipe(**steps))
        )
        columns = np.arange(counts.shape[1])

        def stream() -> Iterator[_Block]:
            for here, block in blocks(counts):
                yield fitted._once(_Block(block, block, depth[here]))

        for name, knobs in steps.items():
            told = {**knobs, "log_input": True} if log_input and name == "select_genes" else knobs
            state = STEPS[name].fit(stream, **told)
            if "columns" in state:
                columns = columns[state["columns"]]
            fitted.states.append((name, state))
        fitted.var_names = fitted.var_names[columns]
        fitted.columns = columns
        # From here on the genes come chosen: their selection has been folded into `var_names`.
        fitted.states = [(name, state) for name, state in fitted.states if "columns" not in state]
        return fitted


@dataclass
class FittedRecipe:
    """A recipe with the numbers it learnt; applies to any cells that have the genes.

    Attributes
    ----------
    var_names
        The genes that are kept, (n_vars,) str.
    states
        Name and learnt numbers of each step that is left, in order.
    columns
        Where they lay among the genes that it was fitted on, (n_vars,) int.
    log_input
        Whether it was fitted on log-normalised values, and so expects them.
    text
        The steps that ran, in words.
    """

    var_names: np.ndarray
    states: list[tuple[str, State]] = field(default_factory=list)
    columns: np.ndarray | None = None
    log_input: bool = False
    text: str = "none"

    @property
    def filling(self) -> list[tuple[str, State]]:
        """The steps that fill the matrix, which run a batch of cells at a time: names and learnt numbers."""
        return [(name, state) for name, state in self.states if STEPS[name].per_batch]

    def _once(self, block: _Block) -> _Block:
        for name, state in self.states:
            if not STEPS[name].per_batch:
                block = STEPS[name].apply(block, state)
        return block

    def find(self, var_names: np.ndarray, *, what: str = "the object") -> np.ndarray:
        """Columns of the kept genes among `var_names`, −1 where missing, (n_vars,) int."""
        if self.columns is not None and len(self.columns) and self.columns[-1] < len(var_names):
            here = np.asarray(var_names, dtype=object)[self.columns].astype(str)
            if np.array_equal(here, self.var_names):
                return self.columns
        return align_genes(self.var_names, var_names, what=what).columns

    def apply(self, counts: Rows, rows: np.ndarray, depth: np.ndarray, columns: np.ndarray) -> tuple[Rows, Rows]:
        """Values after the once-half, and counts of the same genes: two (len(rows), n_vars) matrices.

        Data in memory become two CSR matrices that share their index arrays; data on disk stay there.
        """

        def run(block: sp.csr_matrix, there: np.ndarray) -> _Block:
            kept = _take_columns(block, columns)
            return self._once(_Block(kept, kept, depth[there]))

        if not sp.issparse(counts):
            return (
                Transformed(counts, rows, lambda b, there: run(b, there).x, len(columns)),
                Transformed(counts, rows, lambda b, there: run(b, there).counts, len(columns)),
            )
        out = run(counts if len(rows) == counts.shape[0] else counts[rows], rows)
        return out.x, out.counts

    def dense(self, block: sp.csr_matrix) -> np.ndarray:
        """Densify rows and apply the per-batch half, (n, n_vars) float32."""
        out = block.toarray()
        for name, state in self.filling:
            out = STEPS[name].apply(out, state)
        return out

    def to_json(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Split into what goes into json and the arrays that go beside it."""
        arrays = {
            f"{i}.{k}": v for i, (_, s) in enumerate(self.states) for k, v in s.items() if isinstance(v, np.ndarray)
        }
        plain = [[n, {k: v for k, v in s.items() if not isinstance(v, np.ndarray)}] for n, s in self.states]
        told = {"var_names": self.var_names.tolist(), "states": plain, "log_input": self.log_input, "text": self.text}
        return told, arrays

    @classmethod
    def from_json(cls, plain: dict[str, Any], arrays: dict[str, np.ndarray]) -> FittedRecipe:
        """Undo :meth:`to_json`."""
        states = [(name, dict(state)) for name, state in plain["states"]]
        for key, value in arrays.items():
            i, name = key.split(".", 1)
            states[int(i)][1][name] = value
        return cls(np.array(plain["var_names"], dtype=str), states, log_input=plain["log_input"], text=plain["text"])


def _take_columns(block: sp.csr_matrix, columns: np.ndarray) -> sp.csr_matrix:
    """Columns of a block in the wanted order; a missing one (−1) is a column of zeros."""
    if len(columns) == block.shape[1] and np.array_equal(columns, np.arange(len(columns))):
        return block
    there = columns >= 0
    if there.all():
        return canonical(block[:, columns])
    place = sp.csr_matrix(
        (np.ones(int(there.sum()), dtype=np.float32), (columns[there], np.flatnonzero(there))),
        shape=(block.shape[1], len(columns)),
    )
    return canonical(block @ place)
