import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import EllipseCollection
from matplotlib.colors import to_hex

import scdance as sd
from scdance._checks import InputError, MissingKeyError

RED, GREEN, BLUE = "#ff0000", "#00ff00", "#0000ff"


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture
def adata():
    """Layers, and domains that are the layers with other names; the last spot has none."""
    adata = sd.datasets.toy_domains(n_obs=120, k=3)
    codes = (adata.obs["domain"].cat.codes.to_numpy() + 1) % 3
    adata.obs["mine"] = pd.Categorical(codes.astype(str)).set_categories(["0", "1", "2"])
    adata.obs.loc[adata.obs_names[-1], "mine"] = np.nan
    adata.uns["domain_colors"] = [RED, GREEN, BLUE]
    return adata


def shades(ax):
    """Colour → centres of the spots that have it."""
    discs = [each for each in ax.collections if isinstance(each, EllipseCollection) and len(each.get_offsets())]
    return {to_hex(each.get_facecolor()[0]): each.get_offsets() for each in discs}


def test_a_domain_has_the_colour_of_the_region_it_lies_in(adata):
    mine, known = sd.pl.domains(adata, "mine", truth="domain")[0]
    found, expected = shades(mine), shades(known)
    assert {RED, GREEN, BLUE} <= set(found)
    for shade in (RED, GREEN, BLUE):
        assert len(np.setdiff1d(found[shade].view("c16"), expected[shade].view("c16"))) == 0
    assert sum(map(len, found.values())) == 120


def test_a_domain_without_a_region_of_its_own_has_a_colour_that_no_region_has(adata):
    halves = adata.obs["domain"].cat.codes.to_numpy() * 2 + (adata.obsm["spatial"][:, 0] > 500)
    adata.obs["halves"] = pd.Categorical(halves.astype(str))
    panels = sd.pl.domains(adata, "halves", truth="domain")
    found = set(shades(panels[0, 0]))
    assert {RED, GREEN, BLUE} <= found
    assert len(found) == 6


def test_spots_without_a_domain_are_grey_and_y_points_down(adata):
    ax = sd.pl.domains(adata, "mine")
    assert len(shades(ax)[to_hex("0.8")]) == 1
    low, high = ax.get_ylim()
    assert low > high
    assert isinstance(ax, matplotlib.axes.Axes)


def test_each_slice_has_a_row(adata):
    adata.obs["slice"] = np.where(np.arange(120) % 2, "one", "two")
    panels = sd.pl.domains(adata, "mine", truth="domain", library_key="slice")
    assert panels.shape == (2, 2)
    assert {panel.get_title() for panel in panels.ravel()} == {
        f"{key}, {name}" for key in ("mine", "domain") for name in ("one", "two")
    }
    assert sum(len(each) for each in shades(panels[0, 0]).values()) == 60


def test_refined_domains_are_drawn_when_asked_for(adata):
    sd.tl.spatial_domain(adata, method="smoothed_pca", n_clusters=3)
    assert sd.pl.domains(adata, "smoothed_pca", refined=True).get_title() == "smoothed_pca_refined"
    with pytest.raises(MissingKeyError, match="refine=6"):
        sd.pl.domains(adata, "mine", refined=True)


def test_what_is_not_there_is_said(adata):
    with pytest.raises(MissingKeyError, match="mine"):
        sd.pl.domains(adata, "mime")
    with pytest.raises(MissingKeyError, match="library_key="):
        sd.pl.domains(adata, "mine", library_key="nowhere")
    with pytest.raises(MissingKeyError, match="spatial_key="):
        sd.pl.domains(adata, "mine", spatial_key="nowhere")


def test_doubt_is_drawn_from_what_the_run_says():
    spots, ref = sd.datasets.toy_mixtures()
    sd.tl.deconvolve(spots, ref, method="nnls", labels_key="cell_type")
    panels = sd.pl.uncertainty(spots, "nnls")
    titles = [panel.get_title() for panel in panels]
    assert titles[:2] == ["sd of the largest share", "mixture of types"]
    largest = spots.obsm["nnls"].to_numpy().argmax(axis=1)
    expected = spots.obsm["nnls_sd"].to_numpy()[np.arange(spots.n_obs), largest]
    np.testing.assert_allclose(panels[0].collections[0].get_array(), expected)
    p = spots.obsm["nnls"].to_numpy(np.float64)
    entropy = [-sum(x * np.log(x) for x in row if x > 0) / np.log(3) for row in p]
    np.testing.assert_allclose(panels[1].collections[0].get_array(), entropy, atol=1e-6)


def test_doubt_of_domains_is_one_minus_their_score():
    adata = sd.datasets.toy_domains(n_obs=150)
    sd.tl.spatial_domain(adata, method="smoothed_pca", n_clusters=4)
    panels = sd.pl.uncertainty(adata, "smoothed_pca")
    assert len(panels) == 1
    np.testing.assert_allclose(panels[0].collections[0].get_array(), 1 - adata.obs["smoothed_pca_score"], rtol=1e-6)
    with pytest.raises(MissingKeyError, match="smoothed_pca"):
        sd.pl.uncertainty(adata, "nnls")
    with pytest.raises(InputError, match="panels"):
        sd.pl.uncertainty(adata, "smoothed_pca", ax=[plt.gca(), plt.gca()])
