"""How near predicted genes are to what was measured of them, gene by gene over the cells.

A gene that a method has no opinion of, the same value in all cells, counts with a correlation of 0: leaving it out
would reward saying nothing.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from scdance._core.measured import measured
from scdance._core.task import PREDICT_GENES
from scdance.pp import SPARSITY_BINS, sparsity_bin

from ._metric import metric, tables

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import ArrayLike, NDArray


@metric(higher_is_better=True, range=(-1.0, 1.0))
def gene_pearson(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Pearson correlation of each gene over the cells, mean over the genes; 1 has all genes in proportion.

    Parameters
    ----------
    truth
        Measured values, (n_obs, n_genes).
    prediction
        Predicted ones, of the same shape.

    Returns
    -------
    Correlation, −1 to 1; a gene whose values are all the same in either counts 0.

    Raises
    ------
    InputError
        If the shapes differ.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.gene_pearson([[0.0, 1.0], [1.0, 3.0]], [[2.0, 5.0], [4.0, 5.0]])
    0.5
    """
    return float(_cosine(*map(_centred, tables(truth, prediction))).mean())


@metric(higher_is_better=True, range=(-1.0, 1.0))
def gene_cosine(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Cosine of each gene over the cells, mean over the genes; 1 has all genes in proportion.

    Parameters
    ----------
    truth
        Measured values, (n_obs, n_genes).
    prediction
        Predicted ones, of the same shape.

    Returns
    -------
    Cosine, −1 to 1, of values of at least 0 not below 0; a gene that is 0 throughout in either counts 0. A constant
    has the cosine of how often the gene is seen, so look at the correlation first.

    Raises
    ------
    InputError
        If the shapes differ.

    Examples
    --------
    >>> import scdance as sd
    >>> round(sd.metrics.gene_cosine([[3.0], [4.0]], [[4.0], [3.0]]), 6)
    0.96
    """
    return float(_cosine(*tables(truth, prediction)).mean())


@metric(higher_is_better=False, range=(0.0, np.inf))
def gene_rmse(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Root mean squared error of each gene over the cells, mean over the genes; 0 is the truth.

    Parameters
    ----------
    truth
        Measured values, (n_obs, n_genes), in the unit of the prediction.
    prediction
        Predicted ones, of the same shape.

    Returns
    -------
    Error, at least 0, in the unit of the values.

    Raises
    ------
    InputError
        If the shapes differ.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.gene_rmse([[0.0, 0.0], [0.0, 2.0]], [[1.0, 2.0], [1.0, 0.0]])
    1.5
    """
    return float(_rmse(*tables(truth, prediction)).mean())


def score_genes(adata: AnnData, *, key: str, truth: AnnData | None = None) -> pd.DataFrame:
    """Score each predicted gene that was measured, too.

    ``score_genes(…).groupby("bin", observed=True).mean(numeric_only=True)`` gives the means by how rare genes are.

    Parameters
    ----------
    adata
        Object into which :func:`scdance.tl.predict_genes` wrote.
    key
        The ``key_added`` of the run, or the name of its method.
    truth
        AnnData with what was measured of the genes, cells under the same names; None: `adata` itself, of which the run
        did not read them.

    Returns
    -------
    One row per gene, indexed by its name: ``sparsity``, the share of the cells in which nothing was counted, and its
    ``bin``, a category; ``pearson``, ``cosine`` and ``rmse`` over the cells. Their means are what
    :func:`scdance.metrics.score` gives.

    Raises
    ------
    InputError
        If nothing that was predicted was measured.

    Examples
    --------
    >>> import scdance as sd
    >>> adata, ref = sd.datasets.toy_panel()
    >>> sd.tl.predict_genes(adata, ref, genes=adata.var_names[:20])
    >>> sd.metrics.score_genes(adata, key="knn").shape
    (20, 5)
    """
    import pandas as pd

    found = measured(adata, PREDICT_GENES, key, truth)
    true, said = tables(found["truth"], found["prediction"])
    ends = [f"{end:.0%}" for end in (0, *SPARSITY_BINS, 1)]
    names = [f"{low[:-1]}–{high} zeros" for low, high in pairwise(ends)]
    return pd.DataFrame(
        {
            "sparsity": found["sparsity"],
            "bin": pd.Categorical.from_codes(sparsity_bin(found["sparsity"]), categories=pd.Index(names), ordered=True),
            "pearson": _cosine(_centred(true), _centred(said)),
            "cosine": _cosine(true, said),
            "rmse": _rmse(true, said),
        },
        index=pd.Index(found["genes"], name="gene"),
    )


def _centred(x: np.ndarray) -> NDArray[np.float64]:
    """Columns without their mean; 0 where all values are the same."""
    mean, off = x.mean(axis=0), x - x.mean(axis=0)
    # the sums of equal values do not cancel to the last digit
    return np.where(np.sqrt((off**2).mean(axis=0)) > 1e-6 * np.abs(mean), off, 0)  # type: ignore[no-any-return]


def _cosine(true: np.ndarray, said: np.ndarray) -> NDArray[np.float64]:
    """Cosine of the columns, 0 where one of both is 0."""
    norm = np.sqrt((true**2).sum(axis=0) * (said**2).sum(axis=0))
    return np.divide((true * said).sum(axis=0), norm, out=np.zeros_like(norm), where=norm > 0)


def _rmse(true: np.ndarray, said: np.ndarray) -> NDArray[np.float64]:
    """Root mean squared error of the columns."""
    return np.sqrt(((true - said) ** 2).mean(axis=0))  # type: ignore[no-any-return]
