from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

import scdance as sd
from scdance._checks import InputError, MissingKeyError
from scdance.pl import _perturbation


@pytest.fixture
def adata():
    adata = sd.datasets.toy_perturbed(400, 60, 4, 3, n_de=15)
    targets = ["gene_0+gene_1", "gene_3"]
    sd.tl.predict_perturbation(adata, "additive", perturbation_key="perturbation", targets=targets)
    yield adata
    plt.close("all")


def test_each_gene_is_a_point_at_its_predicted_and_measured_change(adata):
    ax = sd.pl.perturbation(adata, "additive", "gene_3", n_names=4)
    points = np.vstack([each.get_offsets() for each in ax.collections])
    assert [len(each.get_offsets()) for each in ax.collections] == [40, 20]  # the second ones tell the cells apart
    np.testing.assert_allclose(np.sort(points[:, 0]), np.sort(adata.varm["additive_change"]["gene_3"]), atol=1e-6)
    assert ax.get_xlabel() == "predicted change" and ax.get_xlim() == ax.get_ylim()
    assert ax.get_title() == f"gene_3: r = {np.corrcoef(points.T)[0, 1]:.2f}"
    changes = dict(zip(adata.var_names, adata.varm["additive_change"]["gene_3"], strict=True))
    named = {text.get_text(): text.xy for text in ax.texts}
    assert len(named) == 4
    for name, at in named.items():
        assert at[0] == pytest.approx(changes[name], abs=1e-6)
        assert np.sum(np.abs(points).max(axis=1) > np.abs(at).max() + 1e-9) < 4


def test_no_change_is_drawn_without_a_correlation_and_the_first_target_by_itself(adata):
    targets = ["gene_3", "gene_0+gene_1"]
    sd.tl.predict_perturbation(adata, "no_change", perturbation_key="perturbation", targets=targets)
    _, ax = plt.subplots()
    assert sd.pl.perturbation(adata, "no_change", ax=ax) is ax
    assert ax.get_title() == "gene_3: r = 0.00"


def test_measured_cells_may_stand_elsewhere(adata):
    asked = adata.obs["perturbation"].isin(["gene_0+gene_1", "gene_3"]).to_numpy()
    rest, truth = adata[~asked].copy(), adata[asked].copy()
    own, other = sd.pl.perturbation(adata, "additive"), sd.pl.perturbation(rest, "additive", truth=truth)
    for one, same in zip(own.collections, other.collections, strict=True):
        np.testing.assert_allclose(one.get_offsets(), same.get_offsets(), atol=1e-9)
    with pytest.raises(InputError, match="no measured cell"):
        sd.pl.perturbation(rest, "additive")


def test_what_is_not_there_is_refused(adata):
    with pytest.raises(MissingKeyError, match="other_change"):
        sd.pl.perturbation(adata, "other")
    with pytest.raises(InputError, match="Did you mean 'gene_3'"):
        sd.pl.perturbation(adata, "additive", "gene3")


def test_names_have_room_and_stay_inside():
    found = _perturbation._apart(np.array([0.0, 0.01, 0.02, 0.97, 0.99]), 0.0, 1.0, 0.1)
    assert (np.diff(found) > 0.1 - 1e-9).all()
    assert found.min() >= 0 and found.max() <= 1
