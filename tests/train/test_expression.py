"""The folded expression against the dense one that it stands for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import scdance as sd
from scdance._core.read import read
from scdance._core.run import make
from scdance.train import Expression, mean_counts, relative_depth


@pytest.fixture(scope="module")
def adata():
    return sd.datasets.toy_clusters(n_obs=90, n_vars=50, k=3, n_de=10)


def cells_of(adata, method="sctag", recipe="default", **knobs):
    return read(adata, make("cluster", method, knobs), recipe=recipe)


@pytest.mark.parametrize("knobs", [{"clip": None}, {"clip": 1.5}])
def test_it_multiplies_like_the_dense_matrix(adata, knobs):
    cells = cells_of(adata, **knobs)
    dense = cells.dense(np.arange(cells.n_obs))
    if knobs["clip"]:
        zeros = cells.x.toarray() == 0
        assert (dense[~zeros] == 1.5).any()
        state = dict(cells.prep.filling)["center_scale"]
        dense = np.where(zeros, -state["mean"] / state["sd"], dense).clip(max=1.5)
        low = (cells.x.toarray() - state["mean"]) / state["sd"]
        dense = np.where(low < -1.5, low, dense)
    w = torch.randn(cells.n_vars, 6)
    torch.testing.assert_close(Expression(cells) @ w, torch.from_numpy(dense) @ w, atol=1e-4, rtol=1e-4)


def test_without_a_recipe_it_is_the_matrix_itself(adata):
    cells = cells_of(adata, recipe=None)
    w = torch.randn(cells.n_vars, 3)
    torch.testing.assert_close(Expression(cells) @ w, torch.from_numpy(cells.x.toarray()) @ w, atol=1e-4, rtol=1e-4)


def test_its_gradient_is_that_of_the_dense_matrix(adata):
    cells = cells_of(adata, clip=None)
    one, other = (torch.ones(cells.n_vars, 2, requires_grad=True) for _ in range(2))
    (Expression(cells) @ one).square().sum().backward()
    (torch.from_numpy(cells.dense(np.arange(cells.n_obs))) @ other).square().sum().backward()
    torch.testing.assert_close(one.grad, other.grad, atol=1e-2, rtol=1e-3)


def test_dropout_leaves_the_expectation_and_reaches_the_gradient(adata):
    cells = cells_of(adata)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # else chance, and what ran before, would now and then fail it
        x, w = Expression(cells), torch.randn(cells.n_vars, 4)
        drawn = [x.dropout(0.3) for _ in range(300)]
    torch.testing.assert_close(sum(d @ w for d in drawn) / 300, x @ w, atol=3.0, rtol=0.2)
    some = drawn[0].sparse
    values = some.forward.values()
    assert 0.25 < (values == 0).float().mean() < 0.35
    torch.testing.assert_close(some.backward.to_dense(), some.forward.to_dense().T)


def test_another_filling_step_is_refused(adata):
    with pytest.raises(TypeError, match="pearson_residuals cannot be folded"):
        Expression(cells_of(adata, method="gmm"))


def test_depths_are_relative_to_the_median_and_means_to_equal_depth(adata):
    cells = cells_of(adata)
    size = relative_depth(cells)
    assert size.median() == pytest.approx(1, abs=0.02)
    expected = cells.counts.toarray().sum(axis=0) * np.median(cells.depth) / cells.depth.sum()
    np.testing.assert_allclose(mean_counts(cells), np.maximum(expected, 1e-5), rtol=1e-5)
