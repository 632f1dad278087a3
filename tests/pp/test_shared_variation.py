"""Variation that batches share."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

import scdance as sd
from scdance.pp import batches_alike, shared_variation


def found(**knobs) -> np.ndarray:
    adata = sd.datasets.toy_clusters(**{"n_obs": 600, "n_vars": 400, "n_de": 40, "batches": 2} | knobs)
    return shared_variation(adata.X.log1p(), adata.obs["batch"].cat.codes.to_numpy(), knobs.get("batches", 2))


def test_batches_with_the_same_types_vary_alike_however_far_apart():
    variation = found(batch_sd=1.0, batches=3)
    assert (variation > 0.5 * np.diag(variation)[:, None]).all()
    assert batches_alike(variation).tolist() == [0, 0, 0]


def test_batches_with_types_of_their_own_do_not():
    variation = found(k=6, apart=True)
    assert np.diag(variation).min() > 10
    assert variation[[0, 1], [1, 0]].max() < 0.05 * np.diag(variation).min()
    assert batches_alike(variation).tolist() == [0, 1]


def test_batches_of_one_type_each_give_no_evidence():
    variation = found(k=2, apart=True)
    assert np.abs(variation).max() < 2
    assert batches_alike(variation).tolist() == [0, 1]


def test_variation_is_that_along_planted_axes():
    """Two standardised genes that go together have a variance of 2 along their axis, and 0 across it."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 40))
    x[:, 1], x[:, 3] = x[:, 0], -x[:, 2]
    x -= x.mean(axis=1, keepdims=True)  # so that nothing goes with the sum of a cell
    variation = shared_variation(sp.csr_matrix(x), np.arange(2000) % 2, 2)
    top = np.sort(np.linalg.eigvalsh(np.corrcoef(x.T)))[-2:]
    assert top == pytest.approx([2, 2], abs=0.15)
    # the other eight axes are of noise, along which the other batch has a variance near 1 × 36 / 38
    assert variation[0, 1] == pytest.approx((top - 1).sum(), abs=0.5)
    assert variation[0, 0] == pytest.approx((top - 1).sum(), abs=0.5)


def test_a_cell_by_itself_shares_nothing():
    x = sp.csr_matrix(np.random.default_rng(0).random((31, 20)))
    assert batches_alike(shared_variation(x, np.array([0] * 30 + [1]), 2)).tolist() == [0, 1]
