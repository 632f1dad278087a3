"""The demo on two floors."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from scdance import bench, tl
from scdance._checks import MissingPackageError
from scdance._core import registry
from scdance.bench import _demo


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved."""
    kept: list[Figure] = []
    monkeypatch.setattr(registry, "names", lambda task: ["leiden", "kmeans"])
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (kept.append(figure), save(figure, *a, **k))[1])
    return kept


def test_the_demo_writes_a_table_and_a_figure(tmp_path: Path, figures: list[Figure]):
    table = bench.demo(tmp_path / "new" / "demo")
    assert list(table.index) == ["kmeans", "leiden"]  # the best first
    assert list(table.columns) == ["ari", "nmi", "n_clusters", "seconds"]
    assert table["ari"].is_monotonic_decreasing
    assert table["ari"].between(0.6, 0.9).all()
    assert table.loc["kmeans", "n_clusters"] == 8
    written = pd.read_csv(tmp_path / "new" / "demo" / "cluster.csv", index_col="method")
    pd.testing.assert_frame_equal(written, table)
    (figure,) = figures
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[0] == "published cell types"
    assert [title.split()[0] for title in titles[1:3]] == ["kmeans", "leiden"]
    assert [ax.axison for ax in figure.axes] == [True] * 5 + [False] * 3  # types, two methods, two scores; the rest


def test_a_method_whose_package_is_missing_is_left_out(
    tmp_path: Path, figures: list[Figure], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    cluster = tl.cluster

    def without(adata: Any, method: str, **given: Any) -> None:
        if method == "leiden":
            raise MissingPackageError("leiden needs the package 'igraph'")
        cluster(adata, method=method, **given)

    monkeypatch.setattr(tl, "cluster", without)
    assert list(bench.demo(tmp_path).index) == ["kmeans"]
    assert "without leiden: leiden needs the package 'igraph'" in caplog.text


def test_a_cluster_has_the_colour_of_the_type_it_shares_most_cells_with():
    obs = pd.DataFrame({"type": [*"aaabbc"], "found": [*"110022"]}, dtype="category")
    obs["split"] = pd.Categorical([*"012344"])
    obs.index = [*"uvwxyz"]
    adata = ad.AnnData(np.ones((6, 1)), obs=obs)
    palette = ["red", "green", "blue", "grey", "black"]
    assert _demo._like(adata, "found", "type", palette) == ["green", "red", "blue"]
    colours = _demo._like(adata, "split", "type", palette)
    assert Counter(colours) == Counter(palette)  # one to one, and spare colours for the rest
