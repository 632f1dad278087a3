"""How partitions agree, drawn."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import scdance as sd
from scdance._checks import InputError, MissingKeyError, WrongTypeError

mpl.use("Agg")


@pytest.fixture
def adata():
    adata = sd.datasets.toy_clusters(n_obs=120, n_vars=60, k=3, n_de=10)
    rng = np.random.default_rng(0)
    moved = adata.obs["cell_type"].astype(str).to_numpy().copy()
    moved[:20] = rng.permutation(moved[:20])
    adata.obs["moved"] = moved
    adata.obs["other"] = rng.integers(4, size=120).astype(str)
    return adata


@pytest.mark.parametrize(("metric", "function"), [("ari", adjusted_rand_score), ("nmi", normalized_mutual_info_score)])
def test_fields_hold_the_agreement_of_each_pair(adata, metric, function):
    keys = ["cell_type", "moved", "other"]
    ax = sd.pl.clusters_compare(adata, keys, metric=metric)
    shown = np.asarray(ax.images[0].get_array())
    expected = [[function(adata.obs[a], adata.obs[b]) for a in keys] for b in keys]
    np.testing.assert_allclose(shown, expected, atol=1e-9)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["cell_type (3)", "moved (3)", "other (4)"]


def test_cells_that_either_partition_lacks_are_left_out(adata):
    adata.obs["moved"] = adata.obs["moved"].where(np.arange(120) > 30)
    ax = sd.pl.clusters_compare(adata, ["cell_type", "moved"])
    left = adata.obs.iloc[31:]
    assert ax.images[0].get_array()[0, 1] == pytest.approx(adjusted_rand_score(left["cell_type"], left["moved"]))


def test_it_draws_on_the_given_axes(adata):
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    assert sd.pl.clusters_compare(adata, ["cell_type", "moved"], ax=ax) is ax


def test_wrong_keys_are_refused(adata):
    with pytest.raises(InputError, match="at least two columns"):
        sd.pl.clusters_compare(adata, ["moved"])
    with pytest.raises(MissingKeyError, match=r"No column 'mved'.*Did you mean 'moved'"):
        sd.pl.clusters_compare(adata, ["cell_type", "mved"])
    with pytest.raises(InputError, match=r"at least two columns of `adata.obs` to compare, found moved"):
        sd.pl.clusters_compare(adata, "moved")
    with pytest.raises(WrongTypeError, match=r"keys must be names of columns of `adata.obs`, but is None"):
        sd.pl.clusters_compare(adata, None)
    adata.obs["none"] = np.nan
    with pytest.raises(InputError, match="No cell has a group in both 'moved' and 'none'"):
        sd.pl.clusters_compare(adata, ["moved", "none"])
    with pytest.raises(InputError, match="metric is 'silhouette'"):
        sd.pl.clusters_compare(adata, ["cell_type", "moved"], metric="silhouette")
