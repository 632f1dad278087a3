import numpy as np
import pytest

import scdance as sd
from scdance._checks import InputError
from scdance.graph import pitch


def test_layers_lie_one_below_the_other_on_a_lattice():
    adata = sd.datasets.toy_domains(n_obs=400, k=4)
    coords, codes = adata.obsm["spatial"], adata.obs["domain"].cat.codes.to_numpy()
    assert pitch(coords) == pytest.approx(100)
    assert len(np.unique(coords, axis=0)) == 400
    heights = [coords[codes == each, 1].mean() for each in range(4)]
    assert (np.diff(heights) > 100).all()
    assert sd.metrics.spatial_coherence(codes, coords) > 0.75


def test_the_counts_are_those_of_clusters_and_seeds_reproduce():
    one, two = (sd.datasets.toy_domains(n_obs=120, random_state=5) for _ in range(2))
    assert (one.X != two.X).nnz == 0
    np.testing.assert_array_equal(one.obsm["spatial"], two.obsm["spatial"])
    assert one.X.dtype == np.int32


def test_each_slice_has_all_layers():
    adata = sd.datasets.toy_domains(n_obs=301, slices=3)
    assert (adata.obs.groupby("slice", observed=True)["domain"].nunique() == 4).all()
    assert adata.obs["slice"].nunique() == 3
    with pytest.raises(InputError, match="slices"):
        sd.datasets.toy_domains(slices=0)
