import numpy as np
import pytest

from scdance._checks import InputError
from scdance.datasets import _toy_mixtures, toy_mixtures


def profiles(ref):
    """Mean counts of each type, in the order of the names."""
    labels = ref.obs["cell_type"].to_numpy()
    return np.stack([ref.X[labels == name].mean(axis=0).A1 for name in sorted(set(labels))])


def test_toy_spots_and_reference_share_genes_and_types():
    spots, ref = toy_mixtures(n_obs=50, n_vars=40, k=5, n_ref=60)
    assert spots.shape == (50, 40) and ref.n_vars == 40 and abs(ref.n_obs - 60) <= 5
    assert spots.var_names.equals(ref.var_names)
    assert sorted(ref.obs["cell_type"].unique()) == spots.obsm["true_prop"].columns.tolist()
    assert spots.obsm["spatial"].shape == (50, 2)


def test_toy_spots_are_mixed_from_other_cells_than_the_reference(monkeypatch):
    mixed = []
    simulate = _toy_mixtures.simulate_visium
    monkeypatch.setattr(
        _toy_mixtures, "simulate_visium", lambda ref, *a, **k: mixed.append(ref) or simulate(ref, *a, **k)
    )
    _, ref = toy_mixtures()
    assert set(mixed[0].obs_names).isdisjoint(ref.obs_names)


def test_toy_spots_can_be_told_apart_by_least_squares():
    from scipy.optimize import nnls

    spots, ref = toy_mixtures()
    weight = np.stack([nnls(profiles(ref).T, y)[0] for y in spots.X.toarray().astype(float)])
    error = weight / weight.sum(axis=1, keepdims=True) - spots.obsm["true_prop"].to_numpy()
    assert np.sqrt(np.mean(error**2)) < 0.15


@pytest.mark.parametrize("wrong", [{"n_obs": 1}, {"k": 1}, {"n_ref": 5}, {"n_vars": 0}], ids=str)
def test_toys_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        toy_mixtures(**wrong)
