import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from scdance.graph import Sparse, knn, self_loops, symmetric
from scdance.nn import adjacency_loss

N, D = 300, 6


def planted(n=N):
    """Vectors of two groups of nodes, and the graph of their neighbours."""
    rng = np.random.default_rng(0)
    x = rng.normal(np.repeat([-1.0, 1.0], n // 2)[:, None], size=(n, D)).astype(np.float32)
    a = knn(x, 10)
    a.data[:] = 1
    left = torch.from_numpy(x + rng.normal(size=x.shape).astype(np.float32) / 10).requires_grad_()
    return left, torch.from_numpy(x).requires_grad_(), self_loops(symmetric(a))


def dense(left, right, a):
    return ((left @ right.T).sigmoid() - torch.from_numpy(a.toarray())).square().mean()


def slopes(loss, *tensors):
    return torch.cat([part.ravel() for part in torch.autograd.grad(loss, tensors)])


@pytest.mark.parametrize("block", [1, 7 * N, N * N])
def test_blocks_of_rows_give_the_dense_loss_and_its_gradient(monkeypatch, block):
    import sys

    monkeypatch.setattr(sys.modules["scdance.nn._adjacency"], "_BLOCK", block)
    left, right, a = planted()
    found, expected = adjacency_loss(left, right, Sparse(a).forward), dense(left, right, a)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(slopes(found, left, right), slopes(expected, left, right), rtol=1e-4, atol=1e-7)


def test_weights_other_than_one_count_as_targets():
    left, right, a = planted()
    a = csr_matrix(a.multiply(np.random.default_rng(1).random(a.shape)), dtype=np.float32)
    torch.testing.assert_close(adjacency_loss(left, right, Sparse(a).forward), dense(left, right, a))


def test_the_sampled_loss_is_right_on_average():
    left, right, a = planted()
    torch.manual_seed(0)
    some = np.array([adjacency_loss(left, right, Sparse(a).forward, exact_up_to=0).item() for _ in range(200)])
    error = some.std() / np.sqrt(len(some))
    assert 0 < error < 0.01
    assert abs(some.mean() - dense(left, right, a).item()) < 3 * error


def test_the_sampled_gradient_of_shared_weights_points_the_same_way():
    left, right, a = planted()
    torch.manual_seed(0)
    weights = (torch.eye(D) / 10).requires_grad_()
    one = slopes(adjacency_loss(left @ weights, right, Sparse(a).forward, exact_up_to=0), weights)
    other = slopes(dense(left @ weights, right, a), weights)
    assert torch.cosine_similarity(one, other, dim=0) > 0.99


def test_the_sampled_loss_scores_no_matrix_of_all_pairs():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        entries = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor):
                self.entries = max(self.entries, made.numel())
            return made

    n = 2000
    left, right, a = planted(n)
    a = Sparse(a).forward
    with Largest() as largest:
        adjacency_loss(left, right, a, exact_up_to=0).backward()
    assert largest.entries < n * n / 8
