"""The first five minutes: every method on the embedded data."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def demo(out: str | Path = "demo") -> pd.DataFrame:
    """Cluster the embedded blood cells with every method; write a table and a figure.

    Parameters
    ----------
    out
        Folder for ``cluster.csv`` and ``cluster.png``; made if need be.

    Returns
    -------
    One row per method: ``ari`` and ``nmi`` against the published labels, ``seconds`` of the call.
    """
    import matplotlib as mpl
    import pandas as pd
    from sklearn.manifold import TSNE

    from scdance import datasets, metrics, pl, tl
    from scdance._core import registry

    adata = datasets.load("pbmc_demo")
    rows = []
    for name in registry.names("cluster"):
        known = {} if name == "leiden" else {"n_clusters": 8}
        start = time.perf_counter()
        tl.cluster(adata, method=name, **known)
        seconds = time.perf_counter() - start
        rows.append(metrics.score(adata, "cluster", key=name, truth="cell_type").assign(seconds=seconds))
    table = pd.concat(rows).sort_values("ari", ascending=False).rename_axis("method").round(3)

    adata.obsm["X_tsne"] = TSNE(random_state=0, init="pca").fit_transform(adata.obsm["X_kmeans"])
    figure = mpl.figure.Figure(figsize=(4 * 3, 4 * 2), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    pl.embedding(adata, "cell_type", basis="X_tsne", ax=axes[0])
    axes[0].set_title("published cell types")
    for ax, name in zip(axes[1:], table.index, strict=False):
        pl.embedding(adata, name, basis="X_tsne", ax=ax)
        ax.set_title(f"{name}   ARI {table.loc[name, 'ari']:.2f}   {table.loc[name, 'seconds']:.1f} s")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "cluster.csv")
    figure.savefig(out / "cluster.png", dpi=110)
    return table
