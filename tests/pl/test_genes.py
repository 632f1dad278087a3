from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

import scdance as sd
from scdance._checks import InputError, MissingKeyError


@pytest.fixture
def adata():
    adata, ref = sd.datasets.toy_panel(120, 100, 80)
    sd.tl.predict_genes(adata, ref, genes=list(adata.var_names[:20]))
    yield adata
    plt.close("all")


def test_each_gene_is_a_point_and_each_bin_a_line_at_its_mean(adata):
    ax = sd.pl.held_out_genes(adata, "knn", genes=[])
    table = sd.metrics.score_genes(adata, key="knn")
    points = ax.collections[0].get_offsets()
    np.testing.assert_allclose(points, table[["sparsity", "pearson"]])
    means = table.groupby("bin", observed=True)["pearson"].mean()
    drawn = [line.get_ydata()[0] for line in ax.lines if line.get_color() == "#cb181d"]
    np.testing.assert_allclose(drawn, means)
    assert [text.get_text() for text in ax.texts] == table["bin"].value_counts(sort=False).loc[means.index].astype(
        str
    ).tolist()
    assert ax.get_title() == f"20 genes: mean r = {table['pearson'].mean():.2f}"


def test_the_best_genes_are_drawn_measured_above_predicted(adata):
    panels = sd.pl.held_out_genes(adata, "knn")
    table = sd.metrics.score_genes(adata, key="knn")
    assert panels.shape == (2, 5)
    best = list(table["pearson"].nlargest(4).index)
    assert [ax.get_title() for ax in panels[0, 1:]] == [f"{gene}, measured" for gene in best]
    names = adata.uns["scdance"]["predict_genes"]["knn"]["features"]["names"].tolist()
    discs = panels[1, 1].collections[0]
    values = adata.obsm["knn"][:, names.index(best[0])]
    np.testing.assert_allclose(np.sort(discs.get_array()), np.sort(values))
    np.testing.assert_allclose(discs.get_offsets()[-1], adata.obsm["spatial"][values.argmax()])
    np.testing.assert_allclose(discs.get_clim(), np.percentile(values, [1, 99]), rtol=1e-5)


def test_one_gene_and_axes_of_the_user(adata):
    _, axes = plt.subplots(2, 2)
    panels = sd.pl.held_out_genes(adata, "knn", genes=adata.var_names[0], ax=axes)
    assert panels[0, 0] is axes[0, 0]
    without = adata.copy()
    del without.obsm["spatial"]
    assert sd.pl.held_out_genes(without, "knn", ax=axes[0, 0]) is axes[0, 0]


def test_what_is_not_there_is_refused(adata):
    with pytest.raises(MissingKeyError, match=r"No 'kn' in `adata\.obsm`.*Did you mean 'knn'"):
        sd.pl.held_out_genes(adata, "kn")
    with pytest.raises(InputError, match="Gene is 'Gad1'"):
        sd.pl.held_out_genes(adata, "knn", genes=["Gad1"])
    with pytest.raises(InputError, match="5 genes were named, but at most 4"):
        sd.pl.held_out_genes(adata, "knn", genes=list(adata.var_names[:5]))
    del adata.obsm["spatial"]
    with pytest.raises(MissingKeyError, match="spatial_key="):
        sd.pl.held_out_genes(adata, "knn", genes=[adata.var_names[0]])
