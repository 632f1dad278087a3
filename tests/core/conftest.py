"""Toy data, and a picture of an AnnData that shows whether anything in it has changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scdance.datasets import toy_clusters


@pytest.fixture(scope="session")
def _toy() -> ad.AnnData:
    return toy_clusters(n_obs=90, n_vars=60, k=3, n_de=15)


@pytest.fixture
def adata(_toy: ad.AnnData) -> ad.AnnData:
    """90 cells × 60 genes, int32 counts in CSR, three clusters."""
    return _toy.copy()


@pytest.fixture(scope="session")
def picture() -> Callable[[ad.AnnData], Any]:
    """Everything in an AnnData as plain values, dtypes included, to be compared with ``==``."""
    return _of_object


def _of_object(adata: ad.AnnData) -> dict[str, Any]:
    parts = {"X": adata.X, "obs": adata.obs, "var": adata.var, "uns": dict(adata.uns)}
    parts |= {name: dict(getattr(adata, name)) for name in ("layers", "obsm", "varm", "obsp", "varp")}
    if adata.raw is not None:
        parts |= {"raw": adata.raw.X, "raw_var": adata.raw.var}
    return {"is_view": adata.is_view, **{name: _of(part) for name, part in parts.items()}}


def _of(value: Any) -> Any:
    if isinstance(value, pd.DataFrame):
        columns = {
            name: (str(column.dtype), column.astype(object).where(column.notna(), None).tolist())
            for name, column in value.items()
        }
        return list(columns), columns, value.index.tolist()
    if sp.issparse(value):
        return type(value).__name__, [_of(part) for part in (value.data, value.indices, value.indptr)]
    if isinstance(value, Mapping):
        return {key: _of(each) for key, each in value.items()}
    if isinstance(value, np.ndarray) and value.dtype.kind in "OUST":
        return value.astype(object).tolist()
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.flags.f_contiguous, value.tobytes()
    return value
