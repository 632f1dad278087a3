import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import EllipseCollection, LineCollection
from matplotlib.colors import to_hex
from scipy.sparse import csr_matrix

import scdance as sd
from scdance._checks import InputError, MissingKeyError, WrongTypeError


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture
def adata():
    """Four cells on each of two slices, of which every cell hears the next one; p-values are tenths."""
    adata = sd.datasets.toy_domains(n_obs=8, n_vars=20, k=2)
    adata.obsm["spatial"] = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]] * 2)
    adata.obs["slice"] = ["a"] * 4 + ["b"] * 4
    adata.obs["kind"] = pd.Categorical(["x", "y"] * 3 + [None, "x"])
    i = np.arange(8)
    at = i, i // 4 * 4 + (i + 1) % 4
    adata.obsp["run_attention"] = csr_matrix((np.arange(1.0, 9.0, dtype=np.float32), at), (8, 8))
    p = np.array([0.1, 0.2, 0.3, 1, 0.1, 0.1, 0.2, 0.8], dtype=np.float32)
    adata.obsp["run_attention_p"] = csr_matrix((p, at), (8, 8))
    record = {"params": {"n_permutations": 9, "library_key": "slice"}}
    adata.uns["scdance"] = {"attention": {"run": record}}
    return adata


def lines(ax) -> list[list[list[float]]]:
    (found,) = (each for each in ax.collections if isinstance(each, LineCollection))
    return [each.tolist() for each in found.get_segments()]


def test_pairs_below_p_are_lines_and_the_strongest_come_last(adata):
    panels = sd.pl.attention_edges(adata, "run", p=0.2)
    assert panels.shape == (2, 1)
    assert lines(panels[0, 0]) == [[[0, 0], [1, 0]], [[1, 0], [1, 1]]]
    assert lines(panels[1, 0]) == [[[0, 0], [1, 0]], [[1, 0], [1, 1]], [[1, 1], [0, 1]]]
    (drawn,) = (each for each in panels[1, 0].collections if isinstance(each, LineCollection))
    assert (np.diff(drawn.get_linewidths()) > 0).all()
    assert (np.diff(drawn.get_alpha()) > 0).all()
    assert [ax.get_title() for ax in panels.flat] == ["run, a", "run, b"]


@pytest.mark.parametrize(
    ("p", "told"), [(0.1, "1 of 4 pairs have p ≤ 0.1; 0 by"), (0.55, "3 of 4 pairs have p ≤ 0.55; 2")]
)
def test_below_stands_how_many_there_are_and_how_many_by_chance(adata, p, told):
    assert sd.pl.attention_edges(adata, "run", p=p)[0, 0].get_xlabel().startswith(told)


def test_the_strongest_alone_may_be_drawn(adata):
    panels = sd.pl.attention_edges(adata, "run", p=1, top=3)
    assert [len(lines(ax)) for ax in panels.flat] == [0, 3]
    assert panels[1, 0].get_xlabel() == "4 of 4 pairs have p ≤ 1; 4 by chance\n3 are drawn"


def test_cells_have_the_colours_of_their_groups(adata):
    adata.uns["kind_colors"] = ["#ff0000", "#0000ff"]
    ax = sd.pl.attention_edges(adata[4:].copy(), "run", p=0.2, color="kind")
    found = {
        to_hex(each.get_facecolor()[0]): len(each.get_offsets())
        for each in ax.collections
        if isinstance(each, EllipseCollection)
    }
    assert found == {"#ff0000": 2, "#0000ff": 1, to_hex("0.8"): 1}
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["x", "y", "missing"]


def test_it_draws_on_given_axes_and_writes_nothing(adata):
    before = list(adata.uns), list(adata.obsp), list(adata.obs)
    _, given = plt.subplots(2)
    panels = sd.pl.attention_edges(adata, "run", p=0.2, size=0.1, ax=given)
    assert list(panels.flat) == list(given)
    assert (list(adata.uns), list(adata.obsp), list(adata.obs)) == before


@pytest.mark.parametrize(
    ("how", "error", "text"),
    [
        ({"key": "ran"}, MissingKeyError, "Did you mean 'run'.*sd.tl.attention"),
        ({"p": 0.05}, InputError, "n_permutations=19"),
        ({"p": 0}, InputError, "above 0"),
        ({"top": 0}, InputError, "top"),
        ({"color": "typo"}, MissingKeyError, "typo"),
        ({"library_key": "typo"}, MissingKeyError, "library_key"),
        ({"spatial_key": "typo"}, MissingKeyError, "spatial_key"),
    ],
)
def test_what_cannot_be_drawn_is_refused(adata, how, error, text):
    with pytest.raises(error, match=text):
        sd.pl.attention_edges(adata, **{"key": "run", "p": 0.2, **how})


def test_a_map_without_its_record_is_no_run(adata):
    del adata.uns["scdance"]
    with pytest.raises(MissingKeyError, match="there are nothing"):
        sd.pl.attention_edges(adata, "run")


def test_spatial_data_is_refused(adata):
    from spatialdata import SpatialData

    with pytest.raises(WrongTypeError, match="pass a table"):
        sd.pl.attention_edges(SpatialData(tables={"table": adata}), "run")
