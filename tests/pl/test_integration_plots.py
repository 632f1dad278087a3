from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

import scdance as sd
from scdance._checks import InputError, MissingKeyError


@pytest.fixture
def adata():
    adata = sd.datasets.toy_clusters(n_obs=60, n_vars=40, k=3, n_de=8, batches=2)
    adata.obsm["X_one"] = adata.obsm["X_other"] = np.random.default_rng(0).normal(size=(60, 3))
    yield adata
    plt.close("all")


def test_each_space_has_a_row_and_each_column_its_colours(adata):
    panels = sd.pl.integration(adata, ["one", "other"], batch_key="batch", labels_key="cell_type")
    assert panels.shape == (2, 2)
    assert [panel.get_title() for panel in panels[0]] == ["batch", "cell_type"]
    assert [panel.get_ylabel() for panel in panels[:, 0]] == ["one", "other"]
    drawn = [len(np.unique(panel.collections[0].get_facecolors(), axis=0)) for panel in panels.ravel()]
    assert drawn == [2, 3, 2, 3]


def test_a_basis_is_found_for_each_run(adata):
    adata.obsm["X_umap_one"] = adata.obsm["X_one"][:, :2] + 100
    panels = sd.pl.integration(adata, "one", batch_key="batch", basis="X_umap_{key}")
    assert panels.shape == (1, 1)
    assert panels[0, 0].collections[0].get_offsets().min() > 90
    with pytest.raises(MissingKeyError, match="X_umap_other"):
        sd.pl.integration(adata, ["one", "other"], batch_key="batch", basis="X_umap_{key}")


def test_no_space_and_no_column_are_refused(adata):
    with pytest.raises(InputError, match="keys="):
        sd.pl.integration(adata, [], batch_key="batch")
    with pytest.raises(MissingKeyError, match="donor"):
        sd.pl.integration(adata, "one", batch_key="donor")


@pytest.fixture
def given(adata):
    """Types that were given, right for all but the first ten cells, and how sure."""
    adata.obs["run"] = adata.obs["cell_type"].astype(str)
    adata.obs.loc[adata.obs_names[:10], "run"] = "unknown"
    adata.obs["run_score"] = 1.0
    return adata


def bands(ax):
    """Height at the left, and colour, of each band."""
    out = []
    for each in ax.collections:
        ends = each.get_paths()[0].vertices
        at = ends[np.isclose(ends[:, 0], 0), 1]
        out.append((np.ptp(at), tuple(each.get_facecolor()[0][:3])))
    return out


def test_bands_are_as_wide_as_they_have_cells_and_have_the_colour_of_their_type(given):
    ax = sd.pl.transfer_flow(given, "run", "cell_type")
    counts = given.obs.groupby(["cell_type", "run"], observed=True).size()
    found = bands(ax)
    np.testing.assert_allclose(sorted(height for height, _ in found), sorted(counts / 60), atol=1e-6)
    assert len({color for _, color in found}) == given.obs["run"].nunique()
    assert {text.get_text() for text in ax.texts} >= {"run", "cell_type", "unknown"}


def test_bands_are_paler_where_cells_are_less_sure(given):
    sure = sd.pl.transfer_flow(given, "run", "cell_type").collections[0].get_facecolor()[0, 3]
    given.obs["run_score"] = 0.2
    unsure = sd.pl.transfer_flow(given, "run", "cell_type").collections[0].get_facecolor()[0, 3]
    silent = sd.pl.transfer_flow(given, "run", "cell_type", score=False).collections[0].get_facecolor()[0, 3]
    assert unsure < sure == silent


def test_cells_without_a_group_are_left_out_and_none_is_refused(given):
    given.obs["part"] = given.obs["cell_type"].astype(object)
    given.obs.loc[given.obs_names[:30], "part"] = None
    assert sum(height for height, _ in bands(sd.pl.transfer_flow(given, "run", "part"))) == pytest.approx(1)
    given.obs["part"] = None
    with pytest.raises(InputError, match="No cell has both"):
        sd.pl.transfer_flow(given, "run", "part")
