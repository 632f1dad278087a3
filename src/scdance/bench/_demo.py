"""The first five minutes: every method on the embedded data."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scdance._checks import MissingPackageError
from scdance._core.task import CLUSTER
from scdance._settings import logger

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from matplotlib.figure import Figure

DATA = "pbmc_demo"
COLUMNS = 4  # panels beside each other


def demo(out: str | Path = "demo") -> pd.DataFrame:
    """Cluster the embedded blood cells with every method; write a table and a figure.

    Parameters
    ----------
    out
        Folder for ``cluster.csv`` and ``cluster.png``; made if need be.

    Returns
    -------
    One row per method, the best first: ``ari`` and ``nmi`` against the published labels, ``n_clusters``, and
    wall ``seconds`` of the call.

    Examples
    --------
    >>> import scdance as sd
    >>> table = sd.bench.demo("demo")  # doctest: +SKIP
    """
    import pandas as pd

    from scdance import datasets
    from scdance._core import registry

    adata, entry = datasets.load(DATA), datasets.info(DATA)
    rows = {}
    for name in registry.names(CLUSTER.name):
        try:
            rows[name] = _row(adata, name, entry)
        except MissingPackageError as error:
            logger.warning("demo: without %s: %s", name, error)
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
    table = table.sort_values(CLUSTER.metrics[0], ascending=False).round(3)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / f"{CLUSTER.name}.csv", lineterminator="\n")
    _figure(adata, entry["labels_key"], table).savefig(out / f"{CLUSTER.name}.png", dpi=110)
    return table


def _row(adata: AnnData, name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Cluster with one method and score it."""
    from scdance import metrics, tl
    from scdance._core import registry
    from scdance._core.knobs import knobs

    known = {"n_clusters": entry["n_classes"]} if "n_clusters" in knobs(registry.get(CLUSTER.name, name)) else {}
    start = time.perf_counter()
    tl.cluster(adata, method=name, **known)
    seconds = time.perf_counter() - start
    scores = metrics.score(adata, CLUSTER.name, key=name, truth=entry["labels_key"])
    return {
        **{score: scores[score].item() for score in CLUSTER.metrics},
        "n_clusters": adata.obs[name].nunique(),
        "seconds": seconds,
    }


def _figure(adata: AnnData, truth: str, table: pd.DataFrame) -> Figure:
    """The cells by type and by each method's clusters, all in one map, and the scores as bars."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex
    from matplotlib.figure import Figure

    from scdance import pl
    from scdance._core import registry

    adata.obsm["X_tsne"] = _map(adata, table.index)
    tab20 = colormaps["tab20"]
    palette = [to_hex(tab20(i)) for i in (*range(0, 20, 2), *range(1, 20, 2))]  # the bright half first
    adata.uns[f"{truth}_colors"] = palette[: adata.obs[truth].nunique()]
    n_panels = 1 + len(table) + len(CLUSTER.metrics)
    n_rows = -(-n_panels // COLUMNS)
    figure = Figure(figsize=(3.6 * COLUMNS, 3.3 * n_rows), layout="constrained")
    panels = figure.subplots(n_rows, COLUMNS, squeeze=False).ravel()
    for ax in panels[n_panels:]:
        ax.set_axis_off()
    for ax, key in zip(panels, [truth, *table.index], strict=False):
        if key != truth:
            adata.uns[f"{key}_colors"] = _like(adata, key, truth, palette)
        pl.embedding(adata, key, basis="X_tsne", ax=ax)
        ax.get_legend().remove()  # types and clusters are mere numbers here
        ax.set_title("published cell types" if key == truth else f"{key}  ({table.loc[key, 'seconds']:.1f} s)")
    floors = [registry.get(CLUSTER.name, name).control for name in table.index]
    pl.benchmark(table.reset_index().assign(control=floors), CLUSTER.metrics, ax=panels[1 + len(table) : n_panels])
    return figure


def _map(adata: AnnData, names: Iterable[str]) -> np.ndarray:
    """Two dimensions to draw in: t-SNE of the principal components of the first floor that has them."""
    from sklearn.manifold import TSNE

    from scdance._core import registry

    name = next(n for n in names if registry.get(CLUSTER.name, n).control and f"X_{n}" in adata.obsm)
    # half of the usual iterations: a second of CPU, and the picture is the same
    return TSNE(init="pca", max_iter=500, random_state=0).fit_transform(adata.obsm[f"X_{name}"])


def _like(adata: AnnData, key: str, truth: str, palette: list[str]) -> list[str]:
    """A colour for each cluster: that of the type it shares most cells with, one to one; spare ones get others."""
    import pandas as pd
    from scipy.optimize import linear_sum_assignment

    shared = pd.crosstab(adata.obs[key], adata.obs[truth], dropna=False).to_numpy()
    clusters, types = linear_sum_assignment(shared, maximize=True)
    of = dict(zip(clusters.tolist(), types.tolist(), strict=True))
    spare = cycle(palette[shared.shape[1] :])
    return [palette[of[i]] if i in of else next(spare) for i in range(len(shared))]
