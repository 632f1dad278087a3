import numpy as np
import pytest

import scdance as sd
from scdance._checks import InputError, MissingKeyError


@pytest.fixture
def adata():
    adata = sd.datasets.toy_domains(n_obs=200)
    adata.obs["mine"] = adata.obs["domain"]
    return adata


def test_one_domain_is_coherent_and_chance_has_the_sum_of_the_squared_shares(adata):
    coords = adata.obsm["spatial"]
    assert sd.metrics.spatial_coherence(np.zeros(200), coords) == 1
    rng = np.random.default_rng(0)
    found = [sd.metrics.spatial_coherence(rng.integers(0, 4, 200), coords) for _ in range(30)]
    assert np.mean(found) == pytest.approx(0.25, abs=0.02)
    assert sd.metrics.spatial_coherence(adata.obs["domain"], coords) > 0.7


def test_spots_without_a_label_are_no_neighbours():
    coords = np.column_stack([np.arange(20.0), np.zeros(20)])
    labels = np.where(np.arange(20) % 2, "a", "")
    assert sd.metrics.spatial_coherence(labels, coords) == 1
    with pytest.raises(InputError, match="1 spots have a label"):
        sd.metrics.spatial_coherence(["a", *[""] * 19], coords)


def test_the_score_of_a_tool_finds_the_places(adata):
    score = sd.metrics.score(adata, "spatial_domain", key="mine", truth="domain")
    assert score.loc["mine", "ari"] == 1
    assert score.loc["mine", "spatial_coherence"] == sd.metrics.spatial_coherence(
        adata.obs["mine"], adata.obsm["spatial"]
    )
    del adata.obsm["spatial"]
    with pytest.raises(MissingKeyError, match="spatial_key="):
        sd.metrics.score(adata, "spatial_domain", key="mine", truth="domain")


def test_a_spot_has_no_neighbours_on_another_slice():
    adata = sd.datasets.toy_domains(n_obs=300, slices=3)
    adata.obs["mine"] = adata.obs["slice"]
    mixed = sd.metrics.score(adata, "spatial_domain", key="mine", truth="domain", metrics=["spatial_coherence"])
    apart = sd.metrics.score(
        adata, "spatial_domain", key="mine", truth="domain", metrics=["spatial_coherence"], library_key="slice"
    )
    assert apart.iloc[0, 0] == 1
    assert mixed.iloc[0, 0] < 0.6
