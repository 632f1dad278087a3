"""The machine with the radial kernel; the linear one is tested with the other annotators."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.svm import SVC

import scdance as sd
from scdance._core.read import read


@pytest.fixture(scope="module")
def both():
    cells = sd.datasets.toy_clusters(n_obs=240, n_vars=120, k=3, n_de=25)
    return cells[:160].copy(), cells[160:].copy()


@pytest.fixture(scope="module")
def model(both):
    return sd.fit("annotate", both[0], method="svm", preset="dance", n_components=20, labels_key="cell_type")


def test_its_margins_are_those_of_one_machine_per_type(both, model):
    ref, query = (read(each, model).part(columns=model.genes_) for each in both)
    z, new = model._average(ref.x), model._average(query.x)
    codes = both[0].obs["cell_type"].cat.codes.to_numpy()
    gamma = 1 / (z.shape[1] * z.var())
    expected = [SVC(C=1.0, gamma=gamma).fit(z, codes == j).decision_function(new) for j in range(3)]
    np.testing.assert_allclose(model.logits(query), np.column_stack(expected), atol=1e-4)


def test_it_finds_planted_types_and_says_the_same_when_it_was_saved(both, model, tmp_path):
    query = both[1].copy()
    sd.tl.annotate(query, method=model, key_added="now")
    assert sd.metrics.accuracy(query.obs["cell_type"], query.obs["now"]) > 0.95
    model.save(tmp_path / "svm")
    sd.tl.annotate(query, method=tmp_path / "svm", key_added="then")
    np.testing.assert_array_equal(query.obsm["now_proba"], query.obsm["then_proba"])
    assert model.weights() is None


def test_two_types_and_a_cap_on_the_cells(both, monkeypatch):
    import importlib

    monkeypatch.setattr(importlib.import_module("scdance.methods.annotate.svm"), "MOST", 60)
    ref, query = (each[each.obs["cell_type"] != "type3"].copy() for each in both)
    sd.tl.annotate(query, ref, method="svm", kernel="rbf", C=1.0, n_components=10, labels_key="cell_type")
    assert sd.metrics.accuracy(query.obs["cell_type"], query.obs["svm"]) > 0.9
